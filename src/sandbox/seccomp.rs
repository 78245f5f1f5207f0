//! The filter of system calls: calls that the program never makes fail with `EPERM`.
//!
//! Without `--record`, `openat` may open files only for reading. So the program cannot write to
//! `/proc/<pid>/mem`, nor to a container's files below `/proc/<pid>/root`. With `--record`, `openat` may also
//! open files write-only. The program also cannot make memory executable, and `clone` can only create
//! threads.
//!
//! The order of the filter matters for speed, because the kernel compares the number of a call with one
//! listed number after another. From Linux 5.11 on, the kernel skips the filter for calls that are allowed
//! with any arguments. Among the other calls, `openat` is the most frequent one in a scrape. So the filter
//! compares a call with `openat` first.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::Needs;

/// The system calls that the C library and Rust's runtime make, for memory, threads and clocks.
const RUNTIME: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// The system calls that read files and directories, and wait for files and sockets.
const READING: &[i64] = &[
    libc::SYS_close,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The system calls on open connections.
const CONNECTED: &[i64] = &[
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

/// Old system calls that x86_64 still has, and that C libraries use there. Newer architectures lack them.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[
    libc::SYS_access,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

/// The flags of `openat` that write to a file, create it or empty it.
const OPEN_MASK: i32 = libc::O_WRONLY
    | libc::O_RDWR
    | libc::O_CREAT
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_TMPFILE & !libc::O_DIRECTORY;

/// The `prctl` option that returns what the kernel passed to the program at its start, such as the page size.
const PR_GET_AUXV: i32 = 0x41555856;

/// Installs the filter in every thread of this process, including threads that already run. From then on, a
/// system call fails unless the filter allows it.
pub(super) fn enter(needs: &Needs) -> Result<(), String> {
    seccompiler::apply_filter_all_threads(&program(needs)?).map_err(|error| error.to_string())
}

/// Builds the filter. It compares a call with `openat` first, then with `clone3`, then with all other calls.
fn program(needs: &Needs) -> Result<BpfProgram, String> {
    let not_permitted = || SeccompAction::Errno(libc::EPERM as u32);
    let mut others = list(needs);
    let openat = others.remove_entry(&libc::SYS_openat).into_iter().collect();
    let openat = compile(openat, not_permitted(), SeccompAction::Allow)?;
    // A filter cannot check the arguments of clone3, because the arguments are in memory. So clone3 fails
    // with ENOSYS. C libraries then use clone, which the filter can check.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let clone3 = compile(clone3, not_permitted(), SeccompAction::Errno(libc::ENOSYS as u32))?;
    let others = compile(others, not_permitted(), SeccompAction::Allow)?;
    let mut program = Vec::new();
    for part in [openat, clone3, others] {
        // Each part ends with an instruction that refuses all calls that the part does not list. Before the
        // next part is added, this instruction is removed, so that the next part checks these calls.
        program.pop();
        program.extend(part);
    }
    Ok(program)
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    others: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, String> {
    let arch = std::env::consts::ARCH.try_into();
    arch.and_then(|arch| SeccompFilter::new(rules, others, listed, arch)?.try_into())
        .map_err(|error| error.to_string())
}

/// Returns the allowed calls with their rules. A call with rules must meet at least one of its rules. A call
/// without rules may have any arguments.
fn list(needs: &Needs) -> BTreeMap<i64, Vec<SeccompRule>> {
    let mut list: BTreeMap<_, _> =
        [RUNTIME, READING, CONNECTED, OLD].into_iter().flatten().map(|&call| (call, Vec::new())).collect();
    let clone_flags = (libc::CLONE_VM | libc::CLONE_THREAD) as u64;
    list.insert(libc::SYS_clone, vec![masked(0, clone_flags, clone_flags)]);
    list.insert(
        libc::SYS_fcntl,
        [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC]
            .map(|command| equal(1, command as u64))
            .into(),
    );
    list.insert(libc::SYS_ioctl, vec![equal(1, FIONBIO)]);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        list.insert(call, vec![masked(2, libc::PROT_EXEC as u64, 0)]);
    }
    list.insert(
        libc::SYS_prctl,
        [libc::PR_SET_NAME, libc::PR_SET_VMA, PR_GET_AUXV].map(|option| equal(0, option as u64)).into(),
    );
    // The process may read its own limits, but not change them.
    list.insert(libc::SYS_prlimit64, vec![rule(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)]);

    // tokio's runtime wakes itself through a pair of sockets.
    list.insert(libc::SYS_socketpair, vec![equal(0, libc::AF_UNIX as u64)]);

    let mut open_mask = OPEN_MASK;
    if needs.writes.is_some() {
        list.insert(libc::SYS_mkdirat, Vec::new());
        #[cfg(target_arch = "x86_64")]
        list.insert(libc::SYS_mkdir, Vec::new());
        // The program must create files, so it may open a file in write-only mode (O_WRONLY). It may not open
        // a file for both reading and writing (O_RDWR), because debuggers open a process's memory that way.
        open_mask = libc::O_RDWR;
    }
    list.insert(libc::SYS_openat, vec![masked(2, open_mask as u64, 0)]);
    #[cfg(target_arch = "x86_64")]
    list.insert(libc::SYS_open, vec![masked(1, open_mask as u64, 0)]);

    if !needs.sockets.is_empty() {
        list.insert(libc::SYS_socket, vec![equal(0, libc::AF_UNIX as u64)]);
        list.insert(libc::SYS_connect, Vec::new());
    }
    if needs.serves {
        list.insert(libc::SYS_accept4, Vec::new());
    }
    list
}

const FIONBIO: u64 = 0x5421;

/// Returns a rule that is met if this argument, taken as an int, equals `value`.
fn equal(argument: u8, value: u64) -> SeccompRule {
    rule(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

/// Returns a rule that is met if this argument and `value` are equal in the bits of the mask.
fn masked(argument: u8, mask: u64, value: u64) -> SeccompRule {
    rule(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
}

fn rule(argument: u8, len: SeccompCmpArgLen, operation: SeccompCmpOp, value: u64) -> SeccompRule {
    let condition = SeccompCondition::new(argument, len, operation, value);
    condition
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .expect("a call has six arguments, a rule one condition")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, OpenOptions};
    use std::io::{self, ErrorKind};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::Command;
    use std::thread;

    /// Runs `test` in a new thread. The filter applies to that thread only.
    fn inside<T: Send + 'static>(needs: Needs, test: impl FnOnce() -> T + Send + 'static) -> T {
        let filtered = move || {
            seccompiler::apply_filter(&program(&needs).unwrap()).unwrap();
            test()
        };
        thread::spawn(filtered).join().unwrap()
    }

    fn needs(socket: bool, writes: bool) -> Needs {
        let path = |is_needed: bool| is_needed.then(|| "/tmp/x".into());
        Needs {
            proc_path: "/proc".into(),
            reads: Vec::new(),
            sockets: path(socket).into_iter().collect(),
            writes: path(writes),
            serves: true,
        }
    }

    fn is_refused<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
    }

    /// Creates a directory for one test.
    fn directory(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("seccomp-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn writing_executing_and_networking_are_refused() {
        let path = directory("refused");
        let file = path.join("file");
        fs::write(&file, "text").unwrap();
        let refused = inside(needs(true, false), move || {
            let open = |options: &mut OpenOptions| is_refused(options.open(&file));
            [
                ("execve", is_refused(Command::new("/bin/true").spawn())),
                ("write", open(OpenOptions::new().write(true))),
                ("read and write", open(OpenOptions::new().read(true).write(true))),
                ("append", open(OpenOptions::new().append(true))),
                ("create", is_refused(File::create(file.with_extension("new")))),
                ("memory of others", is_refused(OpenOptions::new().write(true).open("/proc/self/mem"))),
                ("unlink", is_refused(fs::remove_file(&file))),
                ("rename", is_refused(fs::rename(&file, "/tmp/moved"))),
                ("mkdir", is_refused(fs::create_dir(file.with_extension("directory")))),
                ("chmod", is_refused(fs::set_permissions(&file, fs::metadata("/").unwrap().permissions()))),
                ("connect to a network", is_refused(TcpStream::connect("127.0.0.1:1"))),
                ("listen", is_refused(TcpListener::bind("127.0.0.1:0"))),
                (
                    "kill",
                    is_refused(
                        rustix::process::test_kill_process(rustix::process::getpid()).map_err(Into::into),
                    ),
                ),
            ]
        });
        for (call, is_refused) in refused {
            assert!(is_refused, "{call}");
        }
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "text");
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn reading_connecting_and_threads_still_work() {
        let path = directory("working");
        let file = path.join("file");
        let socket = path.join("socket");
        fs::write(&file, "text").unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let (text, n_names, is_connected, answer) = inside(needs(true, false), move || {
            let text = fs::read_to_string(&file).unwrap();
            let n_names = fs::read_dir(file.parent().unwrap()).unwrap().count();
            let is_connected = UnixStream::connect(&socket).is_ok();
            // This thread does what the containerd client does: it has a large stack, allocates, and starts
            // an asynchronous runtime.
            let start = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { tokio::time::sleep(std::time::Duration::from_millis(1)).await });
                vec![7_u8; 8 << 20].iter().filter(|&&byte| byte == 7).count()
            };
            let thread =
                thread::Builder::new().name("again".into()).stack_size(16 << 20).spawn(start).unwrap();
            (text, n_names, is_connected, thread.join().unwrap())
        });
        assert_eq!((text.as_str(), n_names, is_connected, answer), ("text", 2, true, 8 << 20));
        drop(listener);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn connecting_is_refused_without_a_socket() {
        let path = directory("no-socket").join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let to = path.clone();
        assert!(is_refused(inside(needs(false, false), move || UnixStream::connect(to))));
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn recording_is_written_but_no_file_is_opened_for_both() {
        let path = directory("record");
        let file = path.join("1/smaps");
        let written = inside(needs(true, true), move || {
            fs::create_dir(file.parent().unwrap()).unwrap();
            fs::write(&file, "text").unwrap();
            let both = OpenOptions::new().read(true).write(true).open(&file);
            both.map_err(|error| error.kind()).map(|_| ())
        });
        assert_eq!(written, Err(ErrorKind::PermissionDenied));
        assert_eq!(fs::read_to_string(path.join("1/smaps")).unwrap(), "text");
        fs::remove_dir_all(path).unwrap();
    }
}
