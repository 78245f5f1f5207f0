//! Starts live processes with a fixed number of mappings.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, PipeWriter, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::generated::Recording;

/// The first argument of a process of the workload.
pub const ROLE: &str = "workload";

/// The name of processes that touch new pages all the time.
const BUSY: &str = "bench-busy";

/// The number of mappings of each process.
pub const N_MAPPINGS: usize = 200;
/// The number of pages of each mapping.
const N_PAGES: usize = 8;
/// The number of distinct files that a process maps, if it maps any.
const N_FILES: usize = 40;

/// Live processes, and a recording that links to the /proc of this machine. The processes end when the
/// workload is dropped.
pub struct Workload {
    children: Vec<Child>,
    /// The write end of the pipe from which all processes read. The processes share one pipe, so that the
    /// bench has as few open files as the exporter. A scrape counts the open files of the process in which it
    /// runs, which is the bench here. Before Linux 6.2, it must list these files to count them, so more open
    /// files would make the scrapes of the bench slower.
    input: Option<PipeWriter>,
    recording: Recording,
    name: &'static str,
    cgroups: Vec<PathBuf>,
}

impl Workload {
    /// Starts processes that all have the same command and only anonymous memory, so they have few series.
    pub fn few_series(n_processes: usize) -> io::Result<Self> {
        Self::start("bench-few", n_processes, N_PAGES, |_, _| ("bench-few".into(), false))
    }

    /// Starts processes like those of [`Workload::few_series`], but with only one touched page in each
    /// mapping. So their resident memory is small.
    pub fn small(n_processes: usize) -> io::Result<Self> {
        Self::start("bench-small", n_processes, 1, |_, _| ("bench-small".into(), false))
    }

    /// Starts processes like those of [`Workload::few_series`], but each touches new pages all the time.
    pub fn busy(n_processes: usize) -> io::Result<Self> {
        Self::start(BUSY, n_processes, N_PAGES, |_, _| (BUSY.into(), false))
    }

    /// Starts processes with different commands that map different files, so they have many series.
    pub fn many_series(n_processes: usize) -> io::Result<Self> {
        Self::start("bench-many", n_processes, N_PAGES, |i, files| {
            let directory = files.join(i.to_string());
            (format!("bench-many-{i}"), fs::create_dir_all(&directory).is_ok())
        })
    }

    fn start(
        name: &'static str,
        n_processes: usize,
        n_touched: usize,
        role: impl Fn(usize, &Path) -> (String, bool),
    ) -> io::Result<Self> {
        let (stdin, input) = io::pipe()?;
        let (mut ready, stdout) = io::pipe()?;
        let mut workload = Self::empty(name, input)?;
        let files = workload.recording.directory.join("files");
        let program = own_copy(&workload.recording.directory.join("image"))?;
        for i in 0..n_processes {
            let (comm, maps_files) = role(i, &files);
            let files = files.join(i.to_string());
            let child = Command::new(&program[0])
                .args(&program[1..])
                .arg(ROLE)
                .arg(comm)
                .arg(n_touched.to_string())
                .args(maps_files.then_some(files))
                .stdin(stdin.try_clone()?)
                .stdout(stdout.try_clone()?)
                .spawn()?;
            workload.children.push(child);
        }
        drop(stdout);
        ready.read_exact(&mut vec![0; n_processes])?;
        workload.list()?;
        Ok(workload)
    }

    /// Starts small processes, which run `cat` and wait for input. `n_selected` of them are in a new cgroup,
    /// which is the cgroup of the container. `n_others` of them are outside containers.
    ///
    /// Fails if the caller is not allowed to make cgroups, which needs root.
    pub fn in_a_cgroup(n_selected: usize, n_others: usize) -> io::Result<Self> {
        let (stdin, input) = io::pipe()?;
        let mut workload = Self::empty("cat", input)?;
        for _ in 0..n_selected + n_others {
            let mut cat = Command::new("cat");
            // cat reads the files of the locale. Without an environment, its locale is C, so it has a dozen
            // mappings fewer than with most locales.
            cat.env_clear().stdin(stdin.try_clone()?).stdout(Stdio::null());
            let child = cat.spawn()?;
            workload.children.push(child);
        }
        for root in cgroup_roots()? {
            let cgroup = root.join(format!("smaps-bench-{}", std::process::id()));
            fs::create_dir(&cgroup)?;
            workload.cgroups.push(cgroup.clone());
            for pid in workload.pids().take(n_selected) {
                fs::write(cgroup.join("cgroup.procs"), pid.to_string())?;
            }
        }
        workload.list()?;
        Ok(workload)
    }

    fn empty(name: &'static str, input: PipeWriter) -> io::Result<Self> {
        let recording = Recording::empty(name, "")?;
        Ok(Self { children: Vec::new(), input: Some(input), recording, name, cgroups: Vec::new() })
    }

    /// Writes a recording of one container, which has these processes.
    fn list(&self) -> io::Result<()> {
        let init = self.pids().next().expect("there is a process");
        let containers =
            format!("id\tinit_pid\tnamespace\tpod\tcontainer\nbench\t{init}\tbench\tpod\tworkload\n");
        fs::write(self.recording.directory.join("containers.tsv"), containers)?;
        symlink("/proc", self.recording.directory.join("proc"))
    }

    /// Returns the argument for `--fixture`.
    pub fn fixture(&self) -> &Path {
        &self.recording.directory
    }

    /// Returns the argument for `--filter`.
    pub fn filter(&self) -> String {
        format!("bench/pod/workload/{}*", self.name)
    }

    /// Returns the pids of the processes.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.children.iter().map(Child::id)
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.input = None; // the processes end when their input ends
        for child in &mut self.children {
            let _ = child.wait();
        }
        for cgroup in &self.cgroups {
            let _ = fs::remove_dir(cgroup);
        }
    }
}

/// Copies this program and its libraries into a new `directory`. Returns the command that runs the copy.
///
/// Like processes in containers, the workload then shares no libraries with programs of the node. With shared
/// libraries, each program that starts or ends on the node would change the PSS of the workload.
fn own_copy(directory: &Path) -> io::Result<Vec<OsString>> {
    fs::create_dir_all(directory)?;
    let copy = |from: &Path| {
        let to = directory.join(from.file_name().expect("it is a file"));
        fs::copy(from, &to).map(|_| to)
    };
    let program = copy(&std::env::current_exe()?)?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut libraries: Vec<_> =
        maps.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..]))).collect();
    libraries.retain(|path| path.to_string_lossy().contains(".so"));
    libraries.dedup();
    let mut loader = None;
    for library in libraries {
        let is_loader = library.to_string_lossy().contains("/ld-");
        let library = copy(library)?;
        loader = if is_loader { Some(library) } else { loader };
    }
    Ok(match loader {
        Some(loader) => {
            vec![loader.into(), "--library-path".into(), directory.into(), program.into()]
        }
        None => vec![program.into()], // the program is static
    })
}

/// Returns the mount points of the hierarchies in which the workload gets a cgroup: version 2, and the memory
/// controller of version 1. Attribution finds the workload's processes by their paths in these hierarchies.
fn cgroup_roots() -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let root = |line: &str| {
        let [_, path, kind, options, ..] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
        let tells = kind == "cgroup2" || kind == "cgroup" && options.split(',').any(|o| o == "memory");
        tells.then(|| path.into())
    };
    Ok(mounts.lines().filter_map(root).collect())
}

/// Runs as a process of the workload. Sets its name, maps memory, prints a byte, and then waits until its
/// input ends.
pub fn play(comm: &OsStr, n_touched: usize, files: Option<&Path>) -> io::Result<()> {
    fs::write("/proc/self/comm", comm.as_encoded_bytes())?;
    let len = N_PAGES * rustix::param::page_size();
    let files = match files {
        None => Vec::new(),
        Some(directory) => (0..N_FILES)
            .map(|i| {
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(directory.join(format!("libsomething-{i}.so.6")))?;
                file.set_len(len as u64)?;
                Ok(file)
            })
            .collect::<io::Result<_>>()?,
    };
    let (private, access) = (MapFlags::PRIVATE, ProtFlags::READ | ProtFlags::WRITE);
    let place = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
    // The kernel would merge adjacent mappings, so each mapping is followed by an unmapped gap of equal size.
    let span = 2 * len * N_MAPPINGS;
    // SAFETY: nothing else refers to the mapped memory, because it is new. Only memory that was just mapped
    // is unmapped.
    unsafe {
        let begin = mmap_anonymous(std::ptr::null_mut(), span, access, private)?;
        munmap(begin, span)?;
        for i in 0..N_MAPPINGS {
            let at = begin.byte_add(2 * len * i);
            let memory = match files.get(i % N_FILES) {
                None => mmap_anonymous(at, len, access, place)?,
                Some(file) => mmap(at, len, access, place, file, 0)?,
            };
            for page in 0..n_touched {
                memory.cast::<u8>().add(page * rustix::param::page_size()).write_volatile(1);
            }
        }
    }
    io::stdout().write_all(b"+")?;
    io::stdout().flush()?;
    if comm == BUSY {
        thread::spawn(touch_new_pages);
    }
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Touches one new page every 50 ms, like a process that does little but is never idle.
fn touch_new_pages() {
    let (private, access) = (MapFlags::PRIVATE, ProtFlags::READ | ProtFlags::WRITE);
    let len = rustix::param::page_size();
    loop {
        // SAFETY: the memory is new, and nothing refers to it when it is unmapped.
        unsafe {
            if let Ok(page) = mmap_anonymous(std::ptr::null_mut(), len, access, private) {
                page.cast::<u8>().write_volatile(1);
                let _ = munmap(page, len);
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
}
