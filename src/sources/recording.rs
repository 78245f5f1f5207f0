//! A recorded node: a directory that is read in place of a container runtime and proc.
//!
//! ```text
//! DIR/containers.tsv        a header line, then tab-separated: id  init_pid  namespace  pod  container;
//!                           init_pid is - if unknown
//! DIR/proc/<pid>/cgroup     the file as the kernel printed it; comm, smaps and others are beside it
//! DIR/proc/meminfo          a file of the whole node, beside zoneinfo, vmstat and sys/vm/max_map_count
//! DIR/cgroup/               the files that were read from the cgroup file system
//! ```

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::demand::Wake;
use crate::errors::plain;
use crate::sources::{Container, Listing, Source};

const HEADER: &str = "id\tinit_pid\tnamespace\tpod\tcontainer";
/// Stands in the column `init_pid` if the source of the containers did not list the pid.
const UNKNOWN: &str = "-";

/// A source that lists the containers of a recorded node.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    /// The text that was parsed last. The file is parsed again only after its text has changed.
    parsed: Vec<u8>,
    text: Vec<u8>,
}

/// The maximum size of the file. A hundred thousand containers need less.
const MAX_BYTES: u64 = 16 << 20;

impl Recording {
    /// Creates a source for the recording in `directory`.
    pub fn new(directory: &Path) -> Self {
        Self { path: directory.join("containers.tsv"), parsed: Vec::new(), text: Vec::new() }
    }

    /// Returns the containers, sorted by id. Returns `None` if the file has not changed since the last call.
    ///
    /// The error is a one-line message that names the file. It quotes the malformed line, if there is one.
    fn containers(&mut self) -> Result<Option<Vec<Container>>, String> {
        let fail = |cause: String| format!("cannot read {:?}: {cause}", self.path);
        self.text.clear();
        // Only a regular file is read: a pipe could block the read, and a device might never end.
        let is_file = fs::metadata(&self.path).map_err(|error| fail(plain(&error)))?.is_file();
        if !is_file {
            return Err(fail("it is not a file".into()));
        }
        fs::File::open(&self.path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut self.text))
            .map_err(|error| fail(plain(&error)))?;
        if self.text.len() as u64 > MAX_BYTES {
            return Err(fail("it is longer than 16 MiB".into()));
        }
        if !self.parsed.is_empty() && self.text == self.parsed {
            return Ok(None);
        }
        let containers = parse(&self.text).map_err(fail)?;
        std::mem::swap(&mut self.parsed, &mut self.text);
        Ok(Some(containers))
    }
}

/// One small file lists the containers. `take_listing` reads it, so `begin_listing` has nothing to do.
impl Source for Recording {
    fn describe(&self) -> String {
        format!("containers are those of the recording in {:?}", self.path.parent().unwrap_or(&self.path))
    }

    fn lister(&self) -> Option<&'static str> {
        None
    }

    fn begin_listing(&mut self) {}

    fn is_listing(&self) -> bool {
        false
    }

    fn take_listing(&mut self) -> Option<Result<Listing, String>> {
        let containers = self.containers().transpose()?;
        Some(containers.map(|containers| Listing { containers, ..Listing::default() }))
    }

    fn has_runtime_ended(&mut self) -> bool {
        false
    }

    fn wait_for_listing(&mut self, _: Instant) {}

    fn wait_until(&mut self, deadline: Instant, wake: &Wake) {
        wake.wait_until(deadline);
    }
}

/// Returns the containers in the text of a `containers.tsv`, sorted by id. Bytes that are not UTF-8 become
/// U+FFFD.
///
/// The error is a one-line message that quotes the malformed line.
pub fn parse(text: &[u8]) -> Result<Vec<Container>, String> {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().enumerate();
    match lines.next() {
        Some((_, HEADER)) => {}
        other => return Err(format!("line 1 is {:?}: expected {HEADER:?}", other.unwrap_or_default().1)),
    }
    let mut containers = Vec::new();
    for (i, line) in lines {
        let mut columns = line.split('\t');
        let mut next = || columns.next();
        let (Some(id), Some(pid), Some(namespace), Some(pod), Some(name), None) =
            (next(), next(), next(), next(), next(), next())
        else {
            return Err(format!("line {} is {line:?}: expected 5 columns, separated by tabs", i + 1));
        };
        let init_pid = match pid {
            UNKNOWN => None,
            _ => Some(pid.parse().ok().filter(|&pid| pid != 0).ok_or_else(|| {
                format!("line {} has init_pid {pid:?}: expected a positive number, or {UNKNOWN:?}", i + 1)
            })?),
        };
        containers.push(Container {
            id: id.into(),
            init_pid,
            namespace: namespace.into(),
            pod: pod.into(),
            name: name.into(),
        });
    }
    containers.sort_by(|a: &Container, b| a.id.cmp(&b.id));
    Ok(containers)
}

/// Writes a new recording. The directory is created when the first file is written. So if there is nothing to
/// record, there is no directory.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    is_made: bool,
}

impl Writer {
    /// Prepares a recording in `directory`. The directory must not exist, but its parent must.
    pub fn new(directory: &Path) -> Result<Self, String> {
        let fail = |cause: &str| format!("cannot record to {directory:?}: {cause}");
        match fs::symlink_metadata(directory) {
            Ok(_) => return Err(fail("it exists already")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(&plain(&error))),
            Err(_) => {}
        }
        if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::metadata(parent).map_err(|error| fail(&plain(&error)))?;
        }
        Ok(Self { directory: directory.to_owned(), is_made: false })
    }

    /// Creates the directory, unless an earlier call has created it.
    fn make(&mut self) -> Result<(), String> {
        if !self.is_made {
            fs::create_dir(&self.directory)
                .and_then(|()| fs::create_dir(self.directory.join("proc")))
                .map_err(|error| format!("cannot record to {:?}: {}", self.directory, plain(&error)))?;
            self.is_made = true;
        }
        Ok(())
    }

    /// Writes one file of a process.
    pub fn file(&mut self, pid: u32, name: &str, content: &[u8]) -> Result<(), String> {
        self.make()?;
        write(&self.directory.join("proc").join(pid.to_string()).join(name), content)
    }

    /// Writes one file of the whole node, such as `meminfo`.
    pub fn node_file(&mut self, name: &str, content: &[u8]) -> Result<(), String> {
        self.make()?;
        write(&self.directory.join("proc").join(name), content)
    }

    /// Writes one file of the cgroup file system.
    pub fn cgroup_file(&mut self, name: &Path, content: &[u8]) -> Result<(), String> {
        self.make()?;
        write(&self.directory.join("cgroup").join(name), content)
    }

    /// Writes the list of containers.
    pub fn containers<'a>(&mut self, containers: impl Iterator<Item = &'a Container>) -> Result<(), String> {
        self.make()?;
        // containerd and Kubernetes allow no tab and no newline in a name, so usually nothing is replaced.
        let cell = |text: &str| text.replace(['\t', '\n', '\r'], " ");
        let mut text = format!("{HEADER}\n");
        for Container { id, init_pid, namespace, pod, name } in containers {
            let [id, namespace, pod, name] = [id, namespace, pod, name].map(|text| cell(text));
            let init_pid = init_pid.map_or(UNKNOWN.to_owned(), |pid| pid.to_string());
            text.push_str(&format!("{id}\t{init_pid}\t{namespace}\t{pod}\t{name}\n"));
        }
        write(&self.directory.join("containers.tsv"), text.as_bytes())
    }
}

/// Writes a file, and creates those directories in its path that do not exist.
fn write(path: &Path, content: &[u8]) -> Result<(), String> {
    fs::create_dir_all(path.parent().unwrap_or(path))
        .and_then(|()| fs::write(path, content))
        .map_err(|error| format!("cannot write {path:?}: {}", plain(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_tsv_is_parsed() {
        let text = format!("{HEADER}\nb\t7\tns\t\tc\na\t42\tshop\tweb-1\tapp\n");
        let containers = parse(text.as_bytes()).unwrap();
        assert_eq!(
            containers.iter().map(|c| (c.id.as_str(), c.init_pid)).collect::<Vec<_>>(),
            [("a", Some(42)), ("b", Some(7))]
        );
        let Container { namespace, pod, name, .. } = &containers[1];
        assert_eq!([namespace, pod, name], ["ns", "", "c"]);
        assert_eq!(parse(HEADER.as_bytes()), Ok(vec![]));
        let unknown = parse(format!("{HEADER}\na\t-\tn\tp\tc\n").as_bytes()).unwrap();
        assert_eq!(unknown[0].init_pid, None);
    }

    #[test]
    fn malformed_lines_are_quoted() {
        let cases = [
            ("", r#"line 1 is "": expected "id\tinit_pid\tnamespace\tpod\tcontainer""#.to_owned()),
            ("id\n", r#"line 1 is "id": expected "id\tinit_pid\tnamespace\tpod\tcontainer""#.to_owned()),
            (
                &format!("{HEADER}\na\t1\tn\tp\n"),
                r#"line 2 is "a\t1\tn\tp": expected 5 columns, separated by tabs"#.to_owned(),
            ),
            (
                &format!("{HEADER}\na\t1\tn\tp\tc\tx\n"),
                r#"line 2 is "a\t1\tn\tp\tc\tx": expected 5 columns, separated by tabs"#.to_owned(),
            ),
            (
                &format!("{HEADER}\na\t0\tn\tp\tc\n"),
                r#"line 2 has init_pid "0": expected a positive number, or "-""#.to_owned(),
            ),
            (
                &format!("{HEADER}\na\t-1\tn\tp\tc\n"),
                r#"line 2 has init_pid "-1": expected a positive number, or "-""#.to_owned(),
            ),
        ];
        for (text, error) in cases {
            assert_eq!(parse(text.as_bytes()), Err(error), "{text:?}");
        }
    }
}
