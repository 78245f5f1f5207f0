//! Which memory one series sums up: that of a path, of a kind of mapping, or of a whole process.

use super::anon_part::AnonPart;
use super::other::OTHER;

/// Which memory one series sums up. A command is all processes in a container that have the same name. If
/// each process has its own series, a command is a single process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupBy {
    /// One mapped path of one command.
    #[default]
    Path,
    /// One kind of mapping (file, anonymous, heap, ...) of one command.
    Kind,
    /// Everything that one command maps, without a split by path or kind.
    Process,
}

/// The number of kinds.
pub(super) const N_KINDS: usize = 15;

/// The label of each kind, in alphabetical order. The first kind is for mappings with unknown paths.
pub(super) const KIND_LABELS: [&str; N_KINDS] = [
    r#",kind="[other]"}"#,
    r#",kind="anon"}"#,
    r#",kind="anon_allocator"}"#,
    r#",kind="anon_go_heap"}"#,
    r#",kind="anon_java_classes"}"#,
    r#",kind="anon_java_heap"}"#,
    r#",kind="anon_jit_code"}"#,
    r#",kind="anon_malloc_arena"}"#,
    r#",kind="anon_thread_stack"}"#,
    r#",kind="anon_v8_heap"}"#,
    r#",kind="file"}"#,
    r#",kind="heap"}"#,
    r#",kind="shm"}"#,
    r#",kind="special"}"#,
    r#",kind="stack"}"#,
];

/// Returns the position of a path's kind in [`KIND_LABELS`].
pub(super) fn kind_position(path: &str) -> u8 {
    let kind = if path == OTHER { OTHER } else { kind(path.as_bytes()) };
    let is_label_of = |label: &&str| label.split('"').nth(1) == Some(kind);
    KIND_LABELS.iter().position(is_label_of).expect("every kind has a label") as u8
}

/// Returns the position in [`KIND_LABELS`] of the label that a view shows for a kind. `kind` is also a
/// position in [`KIND_LABELS`]. Unless `anon_parts` is true, all kinds of anonymous memory are shown as
/// `anon`.
pub(super) fn shown_kind(kind: u8, anon_parts: bool) -> usize {
    const ANON: usize = 1;
    match usize::from(kind) {
        kind if anon_parts || !KIND_LABELS[kind].starts_with(",kind=\"anon_") => kind,
        _ => ANON,
    }
}

/// Returns the value of the label `kind` for a path. A mapping without a file has a name instead of a path.
/// The tests below cite the source file that defines each of these names.
pub fn kind(path: &[u8]) -> &'static str {
    let begins = |beginnings: &[&str]| beginnings.iter().any(|b| path.starts_with(b.as_bytes()));
    match path {
        b"" | b"[anon]" | b"/anon_hugepage (deleted)" | b"/dev/zero" => "anon",
        b"[heap]" => "heap",
        b"/dev/zero (deleted)" | b"/secretmem (deleted)" | b"/[kvm-gmem] (deleted)" => "shm",
        b"/i915 (deleted)" | b"/drm mm object (deleted)" => "shm",
        b"/[aio] (deleted)" => "special",
        _ if begins(&["[anon ~"]) => AnonPart::of_path(path).map_or("anon", AnonPart::kind),
        _ if begins(&["[anon:"]) => named_part(path).map_or("anon", AnonPart::kind),
        _ if begins(&["[stack"]) => "stack",
        _ if begins(&["/dev/shm/", "/dev/hugepages/", "/memfd:", "/SYSV", "[anon_shmem:"]) => "shm",
        _ if begins(&["/dev/", "/sys/", "/dmabuf:"]) => "special",
        _ if begins(&["/"]) => "file",
        _ => "special",
    }
}

/// Returns what anonymous memory is used for, according to the name that the program has given to it
/// (PR_SET_VMA_ANON_NAME). Returns `None` if the name does not show the use.
fn named_part(path: &[u8]) -> Option<AnonPart> {
    let begins = |beginning: &str| path.starts_with(beginning.as_bytes());
    match path {
        // runtime/malloc.go
        b"[anon: Go: heap]" | b"[anon: Go: heap reservation]" => Some(AnonPart::GoHeap),
        // If the tunable glibc.mem.decorate_maps is set, glibc gives these names to mappings (malloc/arena.c,
        // nptl/nptl-stack.c).
        b"[anon: glibc: malloc arena]" => Some(AnonPart::MallocArenas),
        b"[anon: glibc: unused stack]" => Some(AnonPart::ThreadStacks),
        _ if begins("[anon: glibc: pthread ") => Some(AnonPart::ThreadStacks),
        // src/base/platform/platform-linux.cc
        b"[anon:v8]" => Some(AnonPart::V8Heap),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the kind of each name that the kernel gives to a mapping. The comments below cite the source
    /// files of Linux 6.18 that define the names.
    #[test]
    fn every_kernel_name_has_its_kind() {
        for (path, expected) in [
            // fs/proc/task_mmu.c, get_vma_name, prints these names. The empty text stands for anonymous
            // memory without a name. Programs set other names by PR_SET_VMA_ANON_NAME. The heap and the main
            // thread's stack have fixed names. Up to Linux 4.4, the stacks of other threads have names, too.
            ("", "anon"),
            ("[anon]", "anon"),
            ("[anon:glibc: malloc]", "anon"),
            ("[anon: glibc: malloc]", "anon"),
            ("[anon: glibc: malloc arena]", "anon_malloc_arena"),
            ("[anon: glibc: pthread stack: 42]", "anon_thread_stack"),
            ("[anon: glibc: pthread user stack: 42]", "anon_thread_stack"),
            ("[anon: glibc: unused stack]", "anon_thread_stack"),
            ("[anon: Go: heap]", "anon_go_heap"),
            ("[anon: Go: heap reservation]", "anon_go_heap"),
            ("[anon: Go: heap index]", "anon"),
            ("[anon:v8]", "anon_v8_heap"),
            // The exporter infers these names.
            ("[anon ~thread stacks]", "anon_thread_stack"),
            ("[anon ~malloc arenas]", "anon_malloc_arena"),
            ("[anon ~java heap]", "anon_java_heap"),
            ("[anon ~java classes]", "anon_java_classes"),
            ("[anon ~jit code]", "anon_jit_code"),
            ("[anon ~go heap]", "anon_go_heap"),
            ("[anon ~v8 heap]", "anon_v8_heap"),
            ("[anon ~allocator]", "anon_allocator"),
            // The kernel prints these names.
            ("[anon:~go heap]", "anon"),
            ("[anon_shmem:x]", "shm"),
            ("[heap]", "heap"),
            ("[stack]", "stack"),
            ("[stack:42]", "stack"),
            // fs/hugetlbfs/inode.c, hugetlb_file_setup, gives the first three names. The first is for memory
            // that is mapped with MAP_ANONYMOUS | MAP_HUGETLB, the second for a System V segment, and the
            // third for a memfd. The fourth path is a file on hugetlbfs.
            ("/anon_hugepage (deleted)", "anon"),
            ("/SYSV0000002a (deleted)", "shm"),
            ("/memfd:x (deleted)", "shm"),
            ("/dev/hugepages/x", "shm"),
            ("/anon_hugepage", "file"),
            // mm/shmem.c, shmem_zero_setup, gives this name to memory that is mapped with MAP_SHARED |
            // MAP_ANONYMOUS, and to a shared mapping of /dev/zero.
            ("/dev/zero (deleted)", "shm"),
            // A private mapping of /dev/zero is anonymous memory (drivers/char/mem.c, mmap_zero).
            ("/dev/zero", "anon"),
            // ipc/shm.c, newseg
            ("/SYSV00000000 (deleted)", "shm"),
            // mm/memfd.c
            ("/memfd:a\\012b (deleted)", "shm"),
            ("/memfd: (deleted)", "shm"),
            // mm/secretmem.c gives the first name to secret memory. virt/kvm/guest_memfd.c gives the second
            // name to the memory of a virtual machine.
            ("/secretmem (deleted)", "shm"),
            ("/[kvm-gmem] (deleted)", "shm"),
            // A tmpfs at the usual mount point can be recognized. The files of a tmpfs at any other mount
            // point look like ordinary files.
            ("/dev/shm/x", "shm"),
            ("/dev/shm/x (deleted)", "shm"),
            ("/dev/shm", "special"),
            ("/run/x", "file"),
            // These are buffers for graphics in shared memory. Their names come from
            // drivers/gpu/drm/i915/gem/i915_gem_shmem.c and drivers/gpu/drm/drm_gem.c.
            ("/i915 (deleted)", "shm"),
            ("/drm mm object (deleted)", "shm"),
            // drivers/dma-buf/dma-buf.c gives buffers these names. Up to Linux 5.2, a buffer had the name of
            // an anon_inode.
            ("/dmabuf:", "special"),
            ("/dmabuf:frame", "special"),
            ("anon_inode:dmabuf", "special"),
            // These mappings are memory of a device or of the kernel. Unlike the pages of files, their
            // resident pages cannot be dropped.
            ("/dev/nvidia0", "special"),
            ("/dev/nvidiactl", "special"),
            ("/dev/nvidia-uvm", "special"),
            ("/dev/dri/card0", "special"),
            ("/dev/dri/renderD128", "special"),
            ("/dev/kfd", "special"),
            ("/dev/infiniband/uverbs0", "special"),
            ("/dev/mem", "special"),
            ("/sys/devices/pci0000:00/0000:00:02.0/resource0", "special"),
            // libselinux reads this page (security/selinux/selinuxfs.c).
            ("/sys/fs/selinux/status", "special"),
            // fs/aio.c, aio_private_file
            ("/[aio] (deleted)", "special"),
            ("/[aio]", "file"),
            // fs/anon_inodes.c gives these names to the files of many kernel subsystems.
            ("anon_inode:[perf_event]", "special"),
            ("anon_inode:[io_uring]", "special"),
            ("anon_inode:i915.gem", "special"),
            ("anon_inode:kvm-vcpu:0", "special"),
            ("anon_inode:bpf-map", "special"),
            // net/socket.c, sockfs_dname
            ("socket:[1]", "special"),
            // arch/x86/entry/vdso/vma.c, arch/x86/entry/vsyscall/vsyscall_64.c, kernel/events/uprobes.c and
            // arch/arm/kernel/process.c name these.
            ("[vdso]", "special"),
            ("[vvar]", "special"),
            ("[vvar_vclock]", "special"),
            ("[vsyscall]", "special"),
            ("[uprobes]", "special"),
            ("[uprobes-trampoline]", "special"),
            ("[sigpage]", "special"),
            ("[vectors]", "special"),
            ("[anonymous]", "special"),
            // files
            ("/usr/bin/x", "file"),
            ("/usr/bin/x (deleted)", "file"),
            ("/device/x", "file"),
            ("/system/x", "file"),
            ("/i915", "file"),
            ("/", "file"),
        ] {
            assert_eq!(kind(path.as_bytes()), expected, "{path:?}");
        }
    }

    #[test]
    fn kinds_are_in_the_order_of_their_labels() {
        assert!(KIND_LABELS.is_sorted());
        let mut kinds: Vec<&str> = AnonPart::ALL.map(AnonPart::kind).to_vec();
        kinds.extend(["anon", "file", "heap", "shm", "special", "stack", OTHER]);
        kinds.sort();
        assert_eq!(kinds, KIND_LABELS.map(|label| &label[7..label.len() - 2]));
        for part in AnonPart::ALL {
            assert!(KIND_LABELS[kind_position(part.path()) as usize].contains(part.kind()));
        }
        let shown = |path, anon_parts| KIND_LABELS[shown_kind(kind_position(path), anon_parts)];
        assert_eq!(shown("[anon:v8]", true), r#",kind="anon_v8_heap"}"#);
        assert_eq!(shown("[anon:v8]", false), r#",kind="anon"}"#);
        assert_eq!(shown("/a", false), r#",kind="file"}"#);
        assert_eq!((kind_position(OTHER), kind_position("/a"), kind_position("[stack]")), (0, 10, 14));
    }
}
