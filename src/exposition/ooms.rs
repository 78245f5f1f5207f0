//! OOM records: what a container held when the kernel killed a process in it, as JSON for `/ooms` and as a log
//! line.

use std::fmt::{self, Display, Formatter, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cgroupfs::account::{PARTS, parts};
use crate::cgroupfs::fields::{CURRENT, LIMIT, Values};
use crate::totals::largest::{Largest, Part};

/// The number of the largest paths in a log line.
const N_LOGGED: usize = 5;

/// The containers that a kill may have happened in, if only the pod's cgroup has counted it.
#[derive(Clone, Copy, Debug)]
pub struct PodKill<'a> {
    /// The names of the containers that were removed at about that time.
    pub candidates: &'a [String],
    /// Whether the pod has containers that no filter selects, which are not named.
    pub has_unselected: bool,
}

/// What is recorded of kills in a container or a pod.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When the kills were noticed.
    pub time: SystemTime,
    /// The namespace, the pod and the container, which is empty if only the pod is known.
    pub container: [&'a str; 3],
    /// The possible containers; `None` if the container is known.
    pub pod: Option<PodKill<'a>>,
    /// How many processes were killed.
    pub n_kills: u64,
    /// The name of the limit that was hit, if it is known.
    pub limit: Option<&'static str>,
    /// The bytes that were charged when they were last looked at before the kill, if they are known.
    pub current: Option<u64>,
    /// The values of the cgroup at that time.
    pub values: &'a Values,
    /// The age of the oldest of the readings that show what was mapped.
    pub age: Option<Duration>,
    /// What was mapped.
    pub largest: &'a Largest,
}

/// A log line in three parts, so that the kills of several records can be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    before: String,
    n_kills: u64,
    after: String,
}

impl LogLine {
    /// Returns how many processes were killed.
    pub fn n_kills(&self) -> u64 {
        self.n_kills
    }

    /// Adds the kills of an earlier line that was not logged.
    pub fn add_kills(&mut self, earlier: &Self) {
        self.n_kills += earlier.n_kills;
    }
}

impl Display for LogLine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} kills={}{}", self.before, self.n_kills, self.after)
    }
}

impl Record<'_> {
    /// Returns the record as one JSON object. A value that is not known is null; a part of the account that is
    /// not known is absent.
    pub fn json(&self) -> String {
        let [namespace, pod, container] = self.container;
        let time = self.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut text = format!("{{\"time\":{:.3}", time.as_secs_f64());
        // Writing to a String cannot fail, here and below.
        for (name, value) in [("namespace", namespace), ("pod", pod), ("container", container)] {
            let _ = write!(text, ",\"{name}\":");
            push_string(&mut text, value);
        }
        if let Some(PodKill { candidates, has_unselected }) = self.pod {
            text.push_str(",\"candidates\":[");
            for (i, name) in candidates.iter().enumerate() {
                text.push_str(if i == 0 { "" } else { "," });
                push_string(&mut text, name);
            }
            let _ = write!(text, "],\"has_unselected\":{has_unselected}");
        }
        text.push_str(",\"command\":");
        push_string(&mut text, &self.largest.command);
        let limit = self.limit.map_or("null".to_owned(), |limit| format!("\"{limit}\""));
        let _ = write!(text, ",\"kills\":{},\"limit\":{limit}", self.n_kills);
        for (name, bytes) in [("limit_bytes", self.values.get(LIMIT)), ("use_bytes", self.current)] {
            let bytes = bytes.map_or("null".to_owned(), |bytes| bytes.to_string());
            let _ = write!(text, ",\"{name}\":{bytes}");
        }
        let age = self.age.map_or("null".to_owned(), |age| format!("{:.3}", age.as_secs_f64()));
        let _ =
            write!(text, ",\"reading_age_seconds\":{age},\"mapped_bytes\":{},\"paths\":[", self.largest.pss);
        for (i, Part { command, path, pss }) in self.largest.paths.iter().enumerate() {
            text.push_str(if i == 0 { "{\"command\":" } else { ",{\"command\":" });
            push_string(&mut text, command);
            text.push_str(",\"path\":");
            push_string(&mut text, path);
            let _ = write!(text, ",\"pss_bytes\":{pss}}}");
        }
        text.push_str("],\"account\":{");
        // An account that was read at another time than the use would not add up to it.
        let is_of_then = self.values.get(CURRENT) == self.current;
        let account = if is_of_then { parts(self.values).unwrap_or_default() } else { [None; PARTS.len()] };
        let account = PARTS.into_iter().zip(account);
        for (i, (part, bytes)) in account.filter_map(|(part, bytes)| Some((part, bytes?))).enumerate() {
            let _ = write!(text, "{}\"{part}\":{bytes}", if i == 0 { "" } else { "," });
        }
        text.push_str("}}");
        text
    }

    /// Returns the record as one line of `key=value`.
    pub fn log_line(&self) -> LogLine {
        let [namespace, pod, container] = self.container;
        let mut before = format!("OOM kill: namespace={namespace:?} pod={pod:?} container={container:?}");
        match self.pod {
            None => _ = write!(before, " largest_command={:?}", self.largest.command),
            Some(PodKill { candidates, has_unselected }) => {
                let _ =
                    write!(before, " candidates={:?} has_unselected={has_unselected}", candidates.join(","));
            }
        }
        let mut after = String::new();
        if let Some(bytes) = self.current {
            let _ = write!(after, " use_bytes={bytes}");
        }
        if let Some(bytes) = self.values.get(LIMIT) {
            let _ = write!(after, " limit_bytes={bytes}");
        }
        if let Some(limit) = self.limit {
            let _ = write!(after, " limit={limit}");
        }
        if let Some(age) = self.age {
            let _ = write!(after, " reading_age_seconds={:.3}", age.as_secs_f64());
        }
        if self.pod.is_none() {
            let _ = write!(after, " mapped_bytes={}", self.largest.pss);
        }
        for Part { command, path, pss } in self.largest.paths.iter().take(N_LOGGED) {
            let _ = write!(after, " {:?}={pss}", if path.is_empty() { command } else { path });
        }
        LogLine { before, n_kills: self.n_kills, after }
    }
}

/// Returns the whole document. The records come in the given order.
pub fn document<'a>(records: impl Iterator<Item = &'a str>) -> String {
    let mut text = "{\"records\":[".to_owned();
    for (i, record) in records.enumerate() {
        text.push_str(if i == 0 { "\n" } else { ",\n" });
        text.push_str(record);
    }
    text.push_str("]}\n");
    text
}

/// Appends a JSON string (RFC 8259, section 7).
fn push_string(text: &mut String, value: &str) {
    text.push('"');
    for char in value.chars() {
        match char {
            '"' | '\\' => text.extend(['\\', char]),
            char if char < ' ' => _ = write!(text, "\\u{:04x}", u32::from(char)),
            char => text.push(char),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroupfs::fields::values;

    fn largest() -> Largest {
        let part = |path: &str, pss| Part { command: "java".into(), path: path.into(), pss };
        Largest {
            pss: 99,
            command: "ja\"va\n".into(),
            paths: vec![part("[heap]", 90), part("/a\\b\u{1}é", 9)],
        }
    }

    #[test]
    fn a_record_is_one_object_and_one_line() {
        let largest = largest();
        let values =
            values(&[("memory.current", "100\n"), ("memory.stat", "anon 90\nfile 4\nshmem 1\nslab 3\n")]);
        let record = Record {
            time: UNIX_EPOCH + Duration::from_millis(1_764_072_000_125),
            container: ["shop", "web \"1\"", "app"],
            pod: None,
            n_kills: 2,
            limit: Some("kubepods"),
            current: Some(100),
            values: &values,
            age: Some(Duration::from_millis(812)),
            largest: &largest,
        };
        assert_eq!(
            record.json(),
            r#"{"time":1764072000.125,"namespace":"shop","pod":"web \"1\"","container":"app","command":"ja\"va\u000a","kills":2,"limit":"kubepods","limit_bytes":null,"use_bytes":100,"reading_age_seconds":0.812,"mapped_bytes":99,"paths":[{"command":"java","path":"[heap]","pss_bytes":90},{"command":"java","path":"/a\\b\u0001é","pss_bytes":9}],"account":{"anon":90,"page_cache":3,"shmem":1,"slab":3,"remainder":3}}"#
        );
        assert_eq!(
            record.log_line().to_string(),
            r#"OOM kill: namespace="shop" pod="web \"1\"" container="app" largest_command="ja\"va\n" kills=2 use_bytes=100 limit=kubepods reading_age_seconds=0.812 mapped_bytes=99 "[heap]"=90 "/a\\b\u{1}é"=9"#
        );
    }

    #[test]
    fn unknown_values_are_null_or_absent() {
        let (largest, nothing) = (Largest::default(), values(&[("memory.max", "7\n")]));
        let candidates = ["a\"b".to_owned(), "c".to_owned()];
        let mut limited = nothing;
        limited.derive(Some(7));
        let record = Record {
            time: UNIX_EPOCH,
            container: ["", "", ""],
            pod: Some(PodKill { candidates: &candidates, has_unselected: false }),
            n_kills: 1,
            limit: None,
            current: None,
            values: &limited,
            age: None,
            largest: &largest,
        };
        let json = record.json();
        assert!(json.ends_with(
            r#""container":"","candidates":["a\"b","c"],"has_unselected":false,"command":"","kills":1,"limit":null,"limit_bytes":7,"use_bytes":null,"reading_age_seconds":null,"mapped_bytes":0,"paths":[],"account":{}}"#
        ), "{json}");
        let line = record.log_line().to_string();
        let expected = r#" candidates="a\"b,c" has_unselected=false kills=1 limit_bytes=7"#;
        assert!(line.ends_with(expected), "{line}");
    }

    #[test]
    fn a_document_has_one_record_in_each_line() {
        assert_eq!(document([].into_iter()), "{\"records\":[]}\n");
        assert_eq!(document(["{\"a\":1}", "{}"].into_iter()), "{\"records\":[\n{\"a\":1},\n{}]}\n");
    }
}
