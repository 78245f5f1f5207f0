//! The rules that look at a single mapping.

use crate::smaps::place::{ACCOUNTED, GUARDED, NO_HUGE_PAGES, NO_RESERVE, NOT_FORKED, Place};
use crate::totals::anon_part::AnonPart;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
/// The size and alignment of an arena of glibc or Go. A JVM reserves memory in units of this size, too.
pub const ARENA: u64 = 64 * MIB;

/// The usual sizes of thread stacks: 8 MiB is the usual limit (`ulimit -s`), and 1 MiB is the default of a
/// JVM. The third size is 1 MiB without the guard of the stack.
pub const USUAL_STACKS: [u64; 3] = [8192 * KIB, 1024 * KIB, 1008 * KIB];

/// A mapping, and the unnamed mappings directly below and above it.
pub struct Spot<'a> {
    pub place: &'a Place,
    pub below: Option<&'a Place>,
    pub above: Option<&'a Place>,
}

impl Spot<'_> {
    /// Whether the rules may have to see the mapping above this mapping before they can decide what this
    /// mapping is used for. Only the rules [`is_malloc_arena`] and [`is_jemalloc`] look at the mapping above.
    /// If neither of them can claim this mapping, its values are added to the sums as soon as it is read. So
    /// the values need not be copied and kept until the next mapping is read.
    pub fn depends_on_above(&self) -> bool {
        let place = self.place;
        let reaches_arena = || place.begin.wrapping_sub(1) / ARENA != place.end / ARENA;
        place.is_followed && place.is_writable() && (place.has(NO_RESERVE) || reaches_arena())
    }
}

/// A function that returns whether the rule claims a mapping.
type Rule = fn(&Spot<'_>) -> bool;

/// The rules in the order in which they are tried. A mapping belongs to the part of the first rule that
/// returns true.
pub const RULES: [(Rule, AnonPart); 6] = [
    (is_jit_code, AnonPart::JitCode),
    (is_v8_heap, AnonPart::V8Heap),
    (is_flagged_stack, AnonPart::ThreadStacks),
    (is_malloc_arena, AnonPart::MallocArenas),
    (is_mimalloc, AnonPart::Allocator),
    (is_jemalloc, AnonPart::Allocator),
];

/// Whether the mapping is code that the process has made at run time, as JVMs, V8 and PyPy do. Apart from
/// mapped files, only such code is executable. In recorded processes, the rule finds 97% of the memory for
/// such code, and claims no other memory. It misses tables that a JVM has beside its code, because the tables
/// are not executable.
fn is_jit_code(spot: &Spot<'_>) -> bool {
    spot.place.permissions[2] == b'x'
}

/// Whether the mapping is a page of V8's heap, or memory of WebAssembly. V8 aligns the pages of its heap to
/// 256 KiB. From Node.js 18 on, V8 marks these pages so that fork does not copy them
/// (src/base/platform/platform-linux.cc). In recorded processes, the rule finds 81% of such memory (99% from
/// Node.js 18 on), and claims no other memory.
fn is_v8_heap(&Spot { place, .. }: &Spot<'_>) -> bool {
    matches!(&place.permissions, b"rw-p" | b"r--p")
        && place.has(NOT_FORKED)
        && place.begin.is_multiple_of(256 * KIB)
}

/// Whether the mapping is a stack that glibc has mapped with MAP_STACK. From Linux 6.7 on, such a mapping has
/// the flag `nh` (include/linux/mman.h). The stack must also have a guard, which is a separate mapping below
/// the stack, or consists of pages inside the stack (glibc 2.42, nptl/allocatestack.c). A separate guard may
/// be larger than glibc made it. For example, HotSpot, a JVM, makes it 16 KiB larger. In recorded processes,
/// 99.8% of the memory that this rule claims belongs to stacks. This rule and [`is_stack_above_guard`]
/// together find 99.6% of all stack memory.
fn is_flagged_stack(&Spot { place, below, .. }: &Spot<'_>) -> bool {
    let has_guard = |guard: &Place| guard.is_inaccessible() && guard.size() <= 64 * KIB;
    place.is_writable() && place.has(NO_HUGE_PAGES) && (place.has(GUARDED) || below.is_some_and(has_guard))
}

/// Whether the mapping looks like a stack above its guard, which is inaccessible memory. The rule does not
/// need the flag `nh`, so it also works with older kernels and with musl. In recorded processes, 99.8% of the
/// claimed memory belongs to stacks. The rule alone finds 99.4% of all stack memory.
///
/// The kernel may have merged a stack with other memory, such as 62 MB of direct buffers in one JVM.
/// Therefore [`Parts`](super::parts::Parts) accepts the mapping as a stack only if its size is one of
/// [`USUAL_STACKS`], or if another such mapping in the process has the same size.
pub fn is_stack_above_guard(&Spot { place, below, .. }: &Spot<'_>) -> bool {
    place.is_writable()
        && place.is_in_mmap_area()
        && place.lacks(NO_RESERVE | NOT_FORKED)
        && (64 * KIB..=GIB).contains(&place.size())
        && below.is_some_and(|guard| guard.is_inaccessible() && guard.size() <= 20 * KIB)
}

/// Whether the mapping is a heap of a malloc arena of glibc. Such a heap takes 64 MiB, is aligned to 64 MiB,
/// and is writable from its beginning on (malloc/arena.c). Until glibc 2.40, the heap has the flag `nr`,
/// because it is mapped with MAP_NORESERVE. A newer heap lacks the flag, so the kernel may merge it with
/// memory below. A merged mapping is accepted if at least nine tenths of it are the heap. In recorded
/// processes, the rule finds 99.9% of the memory of these heaps (97% with glibc 2.43), and claims no other
/// memory.
fn is_malloc_arena(&Spot { place, above, .. }: &Spot<'_>) -> bool {
    let has_nr = place.has(NO_RESERVE);
    let has_rest = above.is_some_and(|rest| {
        let is_in_heap = rest.end.is_multiple_of(ARENA) && rest.size() < ARENA;
        rest.is_inaccessible() && is_in_heap && rest.has(NO_RESERVE) == has_nr
    });
    let n_in_heap = place.end % ARENA;
    let is_heap = match place.begin.is_multiple_of(ARENA) {
        true => has_rest || has_nr && n_in_heap == 0,
        false => has_rest && !has_nr && (place.size() / 10 * 9..place.size()).contains(&n_in_heap),
    };
    is_heap && place.is_writable() && place.is_in_mmap_area() && place.lacks(NOT_FORKED)
}

/// Whether the mapping is memory of mimalloc, which reserves aligned areas at addresses between 2 and 32 TiB
/// (src/os.c, mi_os_get_aligned_hint). In recorded processes, this rule and [`is_jemalloc`] together find
/// 99.9% of the memory of the two allocators, and claim no other memory.
fn is_mimalloc(&Spot { place, .. }: &Spot<'_>) -> bool {
    let is_aligned = place.begin.is_multiple_of(32 * MIB) && (2 << 40..32 << 40).contains(&place.begin);
    is_aligned && place.is_writable() && place.has(NO_RESERVE) && place.size() >= MIB
}

/// Whether the mapping is memory of jemalloc. If jemalloc maps memory with MAP_NORESERVE, all of the memory
/// is usable immediately (src/pages.c). So if inaccessible memory with this flag lies directly above the
/// mapping, the mapping belongs to another allocator. In recorded processes, all of the claimed memory is
/// jemalloc's.
fn is_jemalloc(&Spot { place, above, .. }: &Spot<'_>) -> bool {
    let has_flags = place.has(NO_RESERVE) && place.lacks(ACCOUNTED | NOT_FORKED);
    let has_reserve = above.is_some_and(|above| above.is_inaccessible() && above.has(NO_RESERVE));
    place.is_writable() && has_flags && !has_reserve && place.is_in_mmap_area()
}
