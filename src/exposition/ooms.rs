//! What containers were full of whose processes the kernel has killed for want of memory: JSON for `/ooms`, and a line for the log.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cgroupfs::account::{PARTS, parts};
use crate::cgroupfs::fields::{CURRENT, LIMIT, Values};
use crate::totals::largest::{Largest, Part};

/// So many of the largest paths stand in a log line.
const N_LOGGED: usize = 5;

/// What is told of a kill.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When it was noticed.
    pub time: SystemTime,
    /// Namespace, pod and container.
    pub container: [&'a str; 3],
    /// How many processes were killed.
    pub n_kills: u64,
    /// What was charged, in bytes, when it was looked at last before.
    pub current: u64,
    /// What the cgroup said then.
    pub values: &'a Values,
    /// How old the oldest of the readings was that tell what was mapped.
    pub age: Option<Duration>,
    /// What was mapped.
    pub largest: &'a Largest,
}

impl Record<'_> {
    /// As one JSON object. What is not known is null, or absent among the parts of the account.
    pub fn json(&self) -> String {
        let [namespace, pod, container] = self.container;
        let time = self.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut text = format!("{{\"time\":{:.3}", time.as_secs_f64());
        for (name, value) in [
            ("namespace", namespace),
            ("pod", pod),
            ("container", container),
            ("command", &self.largest.command),
        ] {
            let _ = write!(text, ",\"{name}\":"); // writing to a String cannot fail
            push_string(&mut text, value);
        }
        let limit = self.values.get(LIMIT).map_or("null".to_owned(), |bytes| bytes.to_string());
        let age = self.age.map_or("null".to_owned(), |age| format!("{:.3}", age.as_secs_f64()));
        let _ = write!(
            text,
            ",\"kills\":{},\"limit_bytes\":{limit},\"use_bytes\":{},\"reading_age_seconds\":{age},\"mapped_bytes\":{},\"paths\":[",
            self.n_kills, self.current, self.largest.pss
        );
        for (i, Part { command, path, pss }) in self.largest.paths.iter().enumerate() {
            text.push_str(if i == 0 { "{\"command\":" } else { ",{\"command\":" });
            push_string(&mut text, command);
            text.push_str(",\"path\":");
            push_string(&mut text, path);
            let _ = write!(text, ",\"pss_bytes\":{pss}}}");
        }
        text.push_str("],\"account\":{");
        // One of another moment than the use would not add up to it.
        let is_of_then = self.values.get(CURRENT) == Some(self.current);
        let account = if is_of_then { parts(self.values).unwrap_or_default() } else { [None; PARTS.len()] };
        let account = PARTS.into_iter().zip(account);
        for (i, (part, bytes)) in account.filter_map(|(part, bytes)| Some((part, bytes?))).enumerate() {
            let _ = write!(text, "{}\"{part}\":{bytes}", if i == 0 { "" } else { "," });
        }
        text.push_str("}}");
        text
    }

    /// As one line of words and `key=value`.
    pub fn log_line(&self) -> String {
        let [namespace, pod, container] = self.container;
        let mut text = format!(
            "killed for want of memory: namespace={namespace:?} pod={pod:?} container={container:?} largest_command={:?} kills={} use_bytes={}",
            self.largest.command, self.n_kills, self.current
        );
        if let Some(bytes) = self.values.get(LIMIT) {
            let _ = write!(text, " limit_bytes={bytes}");
        }
        if let Some(age) = self.age {
            let _ = write!(text, " reading_age_seconds={:.3}", age.as_secs_f64());
        }
        let _ = write!(text, " mapped_bytes={}", self.largest.pss);
        for Part { command, path, pss } in self.largest.paths.iter().take(N_LOGGED) {
            let _ = write!(text, " {:?}={pss}", if path.is_empty() { command } else { path });
        }
        text
    }
}

/// The whole document: the records as they are, the newest first.
pub fn document<'a>(records: impl Iterator<Item = &'a str>) -> String {
    let mut text = "{\"records\":[".to_owned();
    for (i, record) in records.enumerate() {
        text.push_str(if i == 0 { "\n" } else { ",\n" });
        text.push_str(record);
    }
    text.push_str("]}\n");
    text
}

/// A JSON string (RFC 8259, section 7).
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
    fn a_record() {
        let largest = largest();
        let values =
            values(&[("memory.current", "100\n"), ("memory.stat", "anon 90\nfile 4\nshmem 1\nslab 3\n")]);
        let record = Record {
            time: UNIX_EPOCH + Duration::from_millis(1_764_072_000_125),
            container: ["shop", "web \"1\"", "app"],
            n_kills: 2,
            current: 100,
            values: &values,
            age: Some(Duration::from_millis(812)),
            largest: &largest,
        };
        assert_eq!(
            record.json(),
            r#"{"time":1764072000.125,"namespace":"shop","pod":"web \"1\"","container":"app","command":"ja\"va\u000a","kills":2,"limit_bytes":null,"use_bytes":100,"reading_age_seconds":0.812,"mapped_bytes":99,"paths":[{"command":"java","path":"[heap]","pss_bytes":90},{"command":"java","path":"/a\\b\u0001é","pss_bytes":9}],"account":{"anon":90,"page_cache":3,"shmem":1,"slab":3,"remainder":3}}"#
        );
        assert_eq!(
            record.log_line(),
            r#"killed for want of memory: namespace="shop" pod="web \"1\"" container="app" largest_command="ja\"va\n" kills=2 use_bytes=100 reading_age_seconds=0.812 mapped_bytes=99 "[heap]"=90 "/a\\b\u{1}é"=9"#
        );
    }

    #[test]
    fn what_is_not_known() {
        let (largest, nothing) = (Largest::default(), values(&[("memory.max", "7\n")]));
        let mut limited = nothing;
        limited.derive(Some(7));
        let record = Record {
            time: UNIX_EPOCH,
            container: ["", "", ""],
            n_kills: 1,
            current: 0,
            values: &limited,
            age: None,
            largest: &largest,
        };
        let json = record.json();
        assert!(json.ends_with(
            r#""kills":1,"limit_bytes":7,"use_bytes":0,"reading_age_seconds":null,"mapped_bytes":0,"paths":[],"account":{}}"#
        ), "{json}");
        assert!(record.log_line().ends_with("use_bytes=0 limit_bytes=7 mapped_bytes=0"));
    }

    #[test]
    fn documents() {
        assert_eq!(document([].into_iter()), "{\"records\":[]}\n");
        assert_eq!(document(["{\"a\":1}", "{}"].into_iter()), "{\"records\":[\n{\"a\":1},\n{}]}\n");
    }
}
