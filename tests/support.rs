//! Code that several tests need: the program, temporary directories, recordings and golden files.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A directory that is removed with its content when this value is dropped.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("smaps-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, and makes the directories above it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Turns the directory into a recording of one container. Its init process has pid 1.
    pub fn one_container(&self) {
        self.write("containers.tsv", "id\tinit_pid\tnamespace\tpod\tcontainer\nc1\t1\tshop\tweb-0\tapp\n");
    }

    /// Adds a process of the container to the recording.
    pub fn process(&self, pid: u32, comm: impl AsRef<[u8]>, smaps: impl AsRef<[u8]>) {
        self.write(&format!("proc/{pid}/cgroup"), "0::/kubepods/pod1/c1\n");
        self.write(&format!("proc/{pid}/comm"), [comm.as_ref(), b"\n"].concat());
        self.write(&format!("proc/{pid}/smaps"), smaps);
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns a command that runs the exporter with these arguments. By default, the tests run the binary that
/// was just built. The environment variable `EXPORTER` can name another binary, such as a static one.
pub fn exporter<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Command {
    let built = env!("CARGO_BIN_EXE_smaps-container-exporter");
    let mut command = Command::new(std::env::var_os("EXPORTER").unwrap_or_else(|| built.into()));
    command.args(args).env_remove("RUST_BACKTRACE");
    command
}

/// A running program, which is killed when this value is dropped.
pub struct Serving {
    pub child: Child,
    pub log: BufReader<ChildStderr>,
    addr: String,
}

impl Serving {
    /// Starts `command`, and waits until the program listens.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut serving = Self { child, log, addr: String::new() };
        serving.addr = loop {
            let line = serving.line();
            assert!(!line.is_empty(), "{command:?} ended");
            if let Some((_, addr)) = line.trim().split_once("listening on http://") {
                break addr.replace('/', "");
            }
        };
        serving
    }

    /// Returns the address on which the program listens.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Returns the next line of the log, or an empty text at the end of the log.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.log.read_line(&mut line).unwrap();
        line
    }

    /// Returns the value of a metric without labels. Waits for the first exposition.
    pub fn value(&self, name: &str) -> String {
        self.wait_for("a scrape ends", 30, |text| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            assert!(value.is_some() || text.starts_with("HTTP/1.1 503 "), "{name} is missing in\n{text}");
            value.map(str::to_owned)
        })
    }

    /// Waits until the values of this many processes are exported, and returns the exposition. On a busy
    /// machine, the first expositions lack processes that could not be read in time.
    pub fn complete(&self, n_processes: u64) -> String {
        let line = format!("\nsmaps_exporter_processes {n_processes}\n");
        self.wait_for("all processes are read", 60, |text| text.contains(&line).then(|| text.to_owned()))
    }

    /// Requests `/metrics` until `find` returns `Some` for a response, and returns the value in it. Panics
    /// after `seconds`; `what` completes the message "waiting until".
    fn wait_for<T>(&self, what: &str, seconds: u64, find: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            let text = self.get("/metrics");
            if let Some(found) = find(&text) {
                return found;
            }
            assert!(Instant::now() < deadline, "timed out after {seconds} s, waiting until {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns the whole response to a request.
    pub fn get(&self, path: &str) -> String {
        let mut client = TcpStream::connect(&self.addr).unwrap();
        client.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the program until it exits, and returns its output. Fails if the program fails.
#[track_caller]
pub fn stdout_of<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Vec<u8> {
    let mut command = exporter(args);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", describe(&command, &output));
    output.stdout
}

/// Describes a command, its exit status, and what it printed to both output streams, for the message of a
/// failed test.
pub fn describe(command: &Command, output: &Output) -> String {
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|stream| String::from_utf8_lossy(stream));
    format!("{command:?}\n{}\n--- stdout\n{stdout}\n--- stderr\n{stderr}", output.status)
}

/// Returns the exposition of one scrape of a recording. `args` are added to the usual arguments.
#[track_caller]
pub fn once(recording: &Path, args: &[&str]) -> String {
    let recording = recording.to_str().unwrap();
    let args = [&["--once", "--filter", "*/*/*/*", "--fixture", recording], args].concat();
    String::from_utf8(stdout_of(&args)).expect("an exposition is UTF-8")
}

/// Returns a path below `fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Returns every smaps file in `fixtures/smaps`, by name.
pub fn smaps_fixtures() -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(fixture("smaps"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "smaps"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()))
        .collect();
    found.sort();
    assert!(found.len() >= 15, "fixtures/smaps is whole");
    found
}

/// Compares `text` with a golden file. With `BLESS=1` in the environment, writes the golden file instead.
#[track_caller]
pub fn assert_golden(name: &str, text: &str) {
    let path = fixture(name);
    if std::env::var_os("BLESS").is_some() {
        return fs::write(&path, text).unwrap();
    }
    let golden =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}; BLESS=1 makes it"));
    let different = golden.lines().zip(text.lines()).position(|(golden, line)| golden != line);
    if let Some(i) = different {
        let line = |text: &str| text.lines().nth(i).unwrap().to_owned();
        panic!(
            "{path:?} line {}:\n golden {}\n    got {}\nBLESS=1 rewrites it",
            i + 1,
            line(&golden),
            line(text)
        );
    }
    assert_eq!(golden.len(), text.len(), "{path:?} and the text differ in length");
}

/// A generator of pseudorandom numbers (Marsaglia, "Xorshift RNGs", 2003). Each run has the same numbers.
pub struct Numbers(pub u64);

impl Numbers {
    /// Returns a number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// Returns a number below `end`, more often a small one than a large one.
    pub fn small(&mut self, end: u64) -> u64 {
        let end = 1 + self.below(end);
        self.below(end)
    }
}
