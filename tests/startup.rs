//! Start and end of the built program: its limit of open files, its signals.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::support::{Directory, exporter, fixture, told};

/// Runs the program in a shell that changes a limit first.
fn limited(ulimit: &str, args: &[&str]) -> Command {
    let program = exporter(args);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit {ulimit} && exec \"$@\""), "sh"]);
    shell.arg(program.get_program()).args(program.get_args());
    shell
}

/// A running program, ended when it is dropped.
struct Serving {
    child: Child,
    log: BufReader<ChildStderr>,
    addr: String,
}

impl Serving {
    /// Starts `command` and waits until it listens.
    fn start(mut command: Command) -> Self {
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

    /// The next line of the log; empty at its end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.log.read_line(&mut line).unwrap();
        line
    }

    /// The value of a metric without labels.
    fn value(&self, name: &str) -> String {
        loop {
            let mut client = TcpStream::connect(&self.addr).unwrap();
            client.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            match line {
                Some(value) => return value.to_owned(),
                // Nothing is published yet.
                None => assert!(text.starts_with("HTTP/1.1 503 "), "{name} is missing in\n{text}"),
            }
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SERVE: [&str; 5] = ["--fixture", "fixtures/node", "--filter=*/*/*/*", "--addr", "127.0.0.1:0"];

#[test]
fn the_soft_limit_of_open_files_is_raised_to_the_hard_limit() {
    let command = limited("-Sn 64 && ulimit -Hn 500", &SERVE);
    assert_eq!(Serving::start(command).value("process_max_fds"), "500");
}

/// Too few open files are one line: not a panic, and not an exposition that lacks most of its lines.
#[test]
fn too_few_open_files_are_one_line() {
    let node = Directory::new();
    node.one_container();
    let socket = node.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let socket = ["--containerd-sock", socket.to_str().unwrap(), "--addr", "127.0.0.1:0"];
    let once = ["--fixture", "fixtures/node", "--once"];
    for (limit, args) in [(6, &once[..]), (6, &SERVE), (6, &socket), (12, &socket), (63, &once)] {
        let mut command = limited(&format!("-n {limit}"), args);
        let output = command.output().unwrap();
        let expected = format!(
            "smaps-container-exporter: cannot run with at most {limit} open files (ulimit -n): expected at least 64\n"
        );
        assert_eq!(String::from_utf8_lossy(&output.stderr), expected, "{}", told(&command, &output));
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
    }
    let node = fixture("node");
    let args = ["--once", "--filter=*/*/*/*", "--fixture", node.to_str().unwrap()];
    let output = limited("-n 64", &args).output().unwrap();
    assert_eq!(
        output.stdout,
        exporter(&args).output().unwrap().stdout,
        "the least that is accepted is enough"
    );
}
