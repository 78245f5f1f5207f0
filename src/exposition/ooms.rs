//! Writes OOM records as JSON for `/ooms`, and as log lines. An OOM record shows what a container held when
//! the kernel killed a process in it.

use std::fmt::{self, Display, Formatter, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cgroupfs::account::{PARTS, parts};
use crate::cgroupfs::fields::{CURRENT, LIMIT, PEAK, Values};
use crate::totals::largest::{Largest, Part};

/// Details of kills that only the pod's cgroup has counted. The container with the kills is unknown.
#[derive(Clone, Copy, Debug)]
pub struct PodKill<'a> {
    /// The names of containers in which the kill may have happened, because they were removed at about that
    /// time.
    pub candidates: &'a [String],
    /// Whether the pod has containers that no filter selects. Their names are not in `candidates`.
    pub has_unselected: bool,
}

/// A process, with the values of the last read before a kill.
#[derive(Clone, Copy, Debug)]
pub struct Process<'a> {
    /// The pid of the process.
    pub pid: u32,
    /// The name of the process's command.
    pub command: &'a str,
    /// The resident bytes of the process: of anonymous memory, of files, and of shared memory.
    pub rss: [u64; 3],
}

/// The record of kills in one container or pod.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// When the kills were noticed.
    pub time: SystemTime,
    /// The names of the namespace, pod and container. The container's name is empty if only the pod is known.
    pub container: [&'a str; 3],
    /// Details of kills in an unknown container of the pod; `None` if the container is known.
    pub pod: Option<PodKill<'a>>,
    /// How many processes were killed.
    pub n_kills: u64,
    /// The killed processes, as far as they are known.
    pub victims: Vec<Process<'a>>,
    /// The memory limit that was hit.
    pub hit: Hit,
    /// The values of the container's cgroup from the last read before the kill.
    pub values: &'a Values,
    /// The age of the readings when the kill was noticed, and the processes that were read, the largest
    /// first.
    pub processes: Option<(Duration, Vec<Process<'a>>)>,
    /// The age of the oldest reading from which `largest` was computed.
    pub age: Option<Duration>,
    /// The length of the interval over which the growth of paths was measured. The interval ends at the time
    /// of the readings from which `largest` was computed.
    pub growth_time: Option<Duration>,
    /// The largest paths that the container mapped.
    pub largest: &'a Largest,
}

/// The memory limit that was hit. A field is `None` if it is unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hit {
    /// The name of the limit, as records show it.
    pub name: Option<&'static str>,
    /// The memory use of the cgroup that has this limit.
    pub current: Option<u64>,
    /// The limit in bytes.
    pub limit: Option<u64>,
    /// Whether the kernel kills all processes of the container together (memory.oom.group).
    pub kills_group: Option<bool>,
    /// How many bytes were charged to the pod but not to any of its running containers. This is known only if
    /// the pod's limit may have been hit.
    pub outside_containers: Option<u64>,
}

/// The log line of a record. The number of kills is kept apart from the text before and after it, because the
/// kills of an earlier record may have to be added to the number.
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

    /// Adds the kills of an earlier record of the same container or pod to this log line. The log line of the
    /// earlier record is never logged, so this log line must show the kills of both records.
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
    /// Returns the record as one JSON object. An unknown value is null. The memory that is charged to the
    /// container is split into parts, and an unknown part is left out.
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
        let _ = write!(text, ",\"kills\":{},\"victims\":[", self.n_kills);
        for (i, process) in self.victims.iter().enumerate() {
            text.push_str(if i == 0 { "{" } else { ",{" });
            push_process(&mut text, process);
            text.push('}');
        }
        let limit = or_null(self.hit.name.map(|name| format!("\"{name}\"")));
        let _ = write!(text, "],\"limit\":{limit}");
        for (name, value) in self.numbers() {
            let _ = write!(text, ",\"{name}\":{}", or_null(value));
        }
        let _ = write!(text, ",\"oom_group\":{}", or_null(self.hit.kills_group));
        self.push_processes(&mut text);
        let _ = write!(
            text,
            ",\"reading_age_seconds\":{},\"mapped_bytes\":{},\"growth_seconds\":{},\"paths\":[",
            or_null(self.age.map(seconds)),
            self.largest.pss,
            or_null(self.growth_time.map(seconds))
        );
        for (i, Part { command, path, pss, growth }) in self.largest.paths.iter().enumerate() {
            text.push_str(if i == 0 { "{\"command\":" } else { ",{\"command\":" });
            push_string(&mut text, command);
            text.push_str(",\"path\":");
            push_string(&mut text, path);
            let _ = write!(text, ",\"pss_bytes\":{pss},\"growth_bytes\":{}}}", or_null(*growth));
        }
        text.push_str("],\"account\":{");
        for (i, (part, bytes)) in self.account().enumerate() {
            let _ = write!(text, "{}\"{part}\":{bytes}", if i == 0 { "" } else { "," });
        }
        text.push_str("}}");
        text
    }

    fn push_processes(&self, text: &mut String) {
        let age = self.processes.as_ref().map(|(age, _)| seconds(*age));
        let _ = write!(text, ",\"processes_age_seconds\":{},\"processes\":[", or_null(age));
        let processes = self.processes.iter().flat_map(|(_, processes)| processes);
        for (i, process) in processes.enumerate() {
            let [anon, file, shmem] = process.rss;
            text.push_str(if i == 0 { "{" } else { ",{" });
            push_process(text, process);
            let _ = write!(
                text,
                ",\"rss_anon_bytes\":{anon},\"rss_file_bytes\":{file},\"rss_shmem_bytes\":{shmem}}}"
            );
        }
        text.push(']');
    }

    /// Returns the memory uses and limits that the record shows, each with its name. The first two belong to
    /// the cgroup with the limit that was hit, the third to the pod, and the last three to the container.
    fn numbers(&self) -> [(&'static str, Option<u64>); 6] {
        [
            ("hit_limit_bytes", self.hit.limit),
            ("hit_use_bytes", self.hit.current),
            ("outside_containers_bytes", self.hit.outside_containers),
            ("limit_bytes", self.values.get(LIMIT)),
            ("use_bytes", self.values.get(CURRENT)),
            ("peak_bytes", self.values.get(PEAK)),
        ]
    }

    /// Returns the parts of the memory that is charged to the container. Unknown parts are left out.
    fn account(&self) -> impl Iterator<Item = (&'static str, i64)> {
        let account = parts(self.values).unwrap_or_default();
        PARTS.into_iter().zip(account).filter_map(|(part, bytes)| Some((part, bytes?)))
    }

    /// Returns the record as one line of `key=value` pairs. The paths are at the end of the line. Each path
    /// has its size, and its growth in parentheses.
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
        for Process { pid, command, .. } in &self.victims {
            let _ = write!(before, " victim={command:?} victim_pid={pid}");
        }
        let mut after = String::new();
        if let Some(name) = self.hit.name {
            let _ = write!(after, " limit={name}");
        }
        for (name, value) in self.numbers() {
            let _ = value.map(|value| write!(after, " {name}={value}"));
        }
        let _ = self.hit.kills_group.map(|kills_group| write!(after, " oom_group={kills_group}"));
        if let Some((age, processes)) = &self.processes {
            let rss = |of: &Process<'_>| format!("{}[{}]={}", of.command, of.pid, of.rss.iter().sum::<u64>());
            let processes: Vec<_> = processes.iter().map(rss).collect();
            let _ =
                write!(after, " processes_age_seconds={} processes={:?}", seconds(*age), processes.join(" "));
        }
        let account: Vec<_> = self.account().map(|(part, bytes)| format!("{part}={bytes}")).collect();
        if !account.is_empty() {
            let _ = write!(after, " account={:?}", account.join(" "));
        }
        let _ = self.age.map(|age| write!(after, " reading_age_seconds={}", seconds(age)));
        if self.pod.is_none() {
            let _ = write!(after, " mapped_bytes={}", self.largest.pss);
        }
        let _ = self.growth_time.map(|time| write!(after, " growth_seconds={}", seconds(time)));
        for Part { command, path, pss, growth } in &self.largest.paths {
            let _ = write!(after, " {:?}={pss}", if path.is_empty() { command } else { path });
            let _ = growth.map(|growth| write!(after, "({growth:+})"));
        }
        LogLine { before, n_kills: self.n_kills, after }
    }
}

fn or_null(value: Option<impl ToString>) -> String {
    value.map_or("null".to_owned(), |value| value.to_string())
}

fn seconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64())
}

/// Returns a JSON document with these records, in the same order.
pub fn document<'a>(records: impl Iterator<Item = &'a str>) -> String {
    let mut text = "{\"records\":[".to_owned();
    for (i, record) in records.enumerate() {
        text.push_str(if i == 0 { "\n" } else { ",\n" });
        text.push_str(record);
    }
    text.push_str("]}\n");
    text
}

/// Appends the pid and the name of a process as members of a JSON object, without the object's braces.
fn push_process(text: &mut String, process: &Process<'_>) {
    let _ = write!(text, "\"pid\":{},\"command\":", process.pid);
    push_string(text, process.command);
}

/// Appends `value` as a JSON string (RFC 8259, section 7).
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
        let part = |path: &str, pss, growth| Part { command: "java".into(), path: path.into(), pss, growth };
        Largest {
            pss: 99,
            command: "ja\"va\n".into(),
            paths: vec![part("[heap]", 90, Some(80)), part("/a\\b\u{1}é", 9, Some(-1))],
            sizes: Vec::new(),
        }
    }

    #[test]
    fn a_record_is_written_as_json_and_as_a_log_line() {
        let largest = largest();
        let values = values(&[
            ("memory.current", "100\n"),
            ("memory.peak", "101\n"),
            ("memory.stat", "anon 90\nfile 4\nshmem 1\nslab 3\n"),
        ]);
        let java = Process { pid: 12, command: "java", rss: [90, 5, 1] };
        let sh = Process { pid: 7, command: "s\"h", rss: [1, 2, 0] };
        let record = Record {
            time: UNIX_EPOCH + Duration::from_millis(1_764_072_000_125),
            container: ["shop", "web \"1\"", "app"],
            pod: None,
            n_kills: 2,
            victims: vec![java],
            hit: Hit {
                name: Some("kubepods"),
                current: Some(998),
                limit: Some(999),
                kills_group: Some(false),
                outside_containers: Some(5),
            },
            values: &values,
            processes: Some((Duration::from_millis(104), vec![java, sh])),
            age: Some(Duration::from_millis(812)),
            growth_time: Some(Duration::from_secs(45)),
            largest: &largest,
        };
        assert_eq!(
            record.json(),
            concat!(
                r#"{"time":1764072000.125,"namespace":"shop","pod":"web \"1\"","container":"app","#,
                r#""command":"ja\"va\u000a","kills":2,"victims":[{"pid":12,"command":"java"}],"#,
                r#""limit":"kubepods","hit_limit_bytes":999,"hit_use_bytes":998,"#,
                r#""outside_containers_bytes":5,"limit_bytes":null,"use_bytes":100,"peak_bytes":101,"#,
                r#""oom_group":false,"processes_age_seconds":0.104,"processes":[{"pid":12,"#,
                r#""command":"java","rss_anon_bytes":90,"rss_file_bytes":5,"rss_shmem_bytes":1},{"pid":7,"#,
                r#""command":"s\"h","rss_anon_bytes":1,"rss_file_bytes":2,"rss_shmem_bytes":0}],"#,
                r#""reading_age_seconds":0.812,"mapped_bytes":99,"growth_seconds":45.000,"#,
                r#""paths":[{"command":"java","path":"[heap]","pss_bytes":90,"growth_bytes":80},"#,
                r#"{"command":"java","path":"/a\\b\u0001é","pss_bytes":9,"growth_bytes":-1}],"#,
                r#""account":{"anon":90,"page_cache":3,"shmem":1,"slab":3,"remainder":3}}"#,
            )
        );
        assert_eq!(
            record.log_line().to_string(),
            concat!(
                r#"OOM kill: namespace="shop" pod="web \"1\"" container="app" largest_command="ja\"va\n" "#,
                r#"victim="java" victim_pid=12 kills=2 limit=kubepods hit_limit_bytes=999 "#,
                r#"hit_use_bytes=998 outside_containers_bytes=5 use_bytes=100 peak_bytes=101 "#,
                r#"oom_group=false processes_age_seconds=0.104 processes="java[12]=96 s\"h[7]=3" "#,
                r#"account="anon=90 page_cache=3 shmem=1 slab=3 remainder=3" reading_age_seconds=0.812 "#,
                r#"mapped_bytes=99 growth_seconds=45.000 "[heap]"=90(+80) "/a\\b\u{1}é"=9(-1)"#,
            )
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
            victims: Vec::new(),
            hit: Hit::default(),
            values: &limited,
            processes: None,
            age: None,
            growth_time: None,
            largest: &largest,
        };
        let json = record.json();
        let unknown = concat!(
            r#""processes_age_seconds":null,"processes":[],"reading_age_seconds":null,"mapped_bytes":0,"#,
            r#""growth_seconds":null,"paths":[],"account":{}}"#,
        );
        assert!(json.ends_with(unknown), "{json}");
        assert!(
            json.contains(concat!(
                r#""kills":1,"victims":[],"limit":null,"hit_limit_bytes":null,"hit_use_bytes":null,"#,
                r#""outside_containers_bytes":null,"limit_bytes":7,"use_bytes":null,"#,
            )),
            "{json}"
        );
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
