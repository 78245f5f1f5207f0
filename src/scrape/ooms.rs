//! Makes, logs and keeps OOM records. An OOM record shows what a container held when the kernel killed a
//! process in it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use log::warn;

use crate::cgroupfs::fields::Values;
use crate::exposition::ooms::{Hit, LogLine, PodKill, Process, Record, document};
use crate::logging;
use crate::node::cgroups::kill_counts::{Limit, Place};
use crate::node::cgroups::moment::Member;
use crate::node::cgroups::oom::{Content, Kill};
use crate::totals::labels;
use crate::totals::largest::Largest;
use crate::totals::snapshot::Snapshot;

/// The maximum number of OOM records that are kept.
const MAX_RECORDS: usize = 64;
/// The maximum number of OOM records that are kept for one container or pod.
const MAX_OF_ONE: usize = 4;
/// The maximum size of all OOM records together in bytes. The newest record is kept even if it is larger.
const MAX_BYTES: usize = 256 << 10;
/// The shortest time between two log lines about the same container or pod. Without this limit, a container
/// with 67 kills a second would cause 26 KB of log lines a second.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The growth of a path is measured over at least this time, and over less than [`MAX_GROWTH_TIME`].
const MIN_GROWTH_TIME: Duration = Duration::from_secs(1);
const MAX_GROWTH_TIME: Duration = Duration::from_secs(60);

/// The newest OOM records.
#[derive(Debug, Default)]
pub struct Ooms {
    /// The records, the newest first. An entry has the label text of the container or pod, and the record as
    /// JSON.
    records: VecDeque<(Box<str>, String)>,
    is_new: bool,
    /// The log lines of each container or pod, by its label text. An entry has the time at which the last
    /// line was logged, and the line that waits to be logged.
    logged: BTreeMap<Box<str>, (Instant, Option<LogLine>)>,
}

impl Ooms {
    /// Makes a record of each kill, and logs the record. If the last log line about the same container is too
    /// recent, the new line waits.
    ///
    /// The record shows the largest paths that the container mapped. If the container was close to its limit,
    /// these paths were stored before the kill. Otherwise they are computed from `snapshot`, which has the
    /// sums over the last reads of all processes. `summed_at` is when these sums were computed.
    pub fn record(
        &mut self,
        kills: Vec<Kill>,
        snapshot: &Snapshot,
        summed_at: Option<Instant>,
        now: Instant,
    ) {
        kills.iter().for_each(|kill| self.record_one(kill, snapshot, summed_at, now));
        self.log_due(now);
    }

    fn record_one(&mut self, kill: &Kill, snapshot: &Snapshot, summed_at: Option<Instant>, now: Instant) {
        let (listed, pod) = match &kill.found.place {
            Place::Container(container) => (&container.listed, None),
            Place::Pod { of, candidates, has_unselected } => {
                (&of.listed, Some(PodKill { candidates, has_unselected: *has_unselected }))
            }
        };
        let content = kill.content.as_ref();
        let (mut largest, read_at) = match (content, &kill.found.place) {
            (Some(content), Place::Container(container)) => match &content.last_reading {
                Some(last) => (last.largest.clone(), last.oldest),
                None => {
                    let (mut summed, key) = (Largest::default(), container.id.key());
                    let is_known = content.is_alone && summed.find(snapshot.table(), key, &mut Vec::new());
                    (summed, summed_at.filter(|_| is_known))
                }
            },
            _ => (Largest::default(), None),
        };
        let growth_time = content.and_then(|content| set_growth(&mut largest, read_at?, content));
        let moment = kill.end.moment.as_ref();
        let last =
            content.map(|content| content.last_reading.as_ref().map_or(&content.values, |last| &last.values));
        let no_values = Values::default();
        let record = Record {
            time: SystemTime::now(),
            container: [&listed.namespace, &listed.pod, if pod.is_some() { "" } else { &listed.name }],
            pod,
            n_kills: kill.found.n_kills,
            victims: kill.end.victims.iter().map(process).collect(),
            hit: Hit {
                name: kill.found.limit.map(name_of),
                current: kill.end.hit.current,
                limit: kill.end.hit.limit,
                kills_group: kill.end.kills_group,
                outside_containers: kill.outside_containers,
            },
            values: moment.map(|(_, moment)| &moment.values).or(last).unwrap_or(&no_values),
            processes: moment
                .map(|(at, moment)| (at.elapsed(), moment.members.iter().map(process).collect())),
            age: read_at.map(|read_at| read_at.elapsed()),
            growth_time,
            largest: &largest,
        };
        let [namespace, pod, name] = record.container;
        let labels: Box<str> = labels::container(namespace, pod, name).into();
        let mut line = record.log_line();
        match self.logged.get_mut(&labels) {
            Some((_, waiting)) => {
                waiting.iter().for_each(|earlier| line.add_kills(earlier));
                *waiting = Some(line);
            }
            None => {
                warn!(target: logging::OOM_KILL, "{line}");
                self.logged.insert(labels.clone(), (now, None));
            }
        }
        self.keep(labels, record.json());
    }

    /// Keeps a new record. Drops the oldest records if there are too many or if they are too large.
    fn keep(&mut self, labels: Box<str>, json: String) {
        self.records.push_front((labels.clone(), json));
        let mut n_of_one = 0;
        self.records.retain(|(other, _)| {
            n_of_one += usize::from(*other == labels);
            *other != labels || n_of_one <= MAX_OF_ONE
        });
        let mut n_bytes = 0;
        let fits = |(_, json): &&(Box<str>, String)| {
            n_bytes += json.len();
            n_bytes <= MAX_BYTES
        };
        let n_fitting = self.records.iter().take(MAX_RECORDS).take_while(fits).count();
        self.records.truncate(n_fitting.max(1));
        self.is_new = true;
    }

    /// Logs each line that had to wait, if the last log line about the same container is old enough.
    fn log_due(&mut self, now: Instant) {
        self.logged.retain(|_, (logged_at, waiting)| {
            if now < *logged_at + LOG_INTERVAL {
                return true;
            }
            let Some(line) = waiting.take() else { return false };
            warn!(target: logging::OOM_KILL, "{line}");
            *logged_at = now;
            true
        });
    }

    /// Returns the JSON document with all records, or `None` if there is no new record since the last call.
    pub fn take_new_document(&mut self) -> Option<String> {
        let records = self.records.iter().map(|(_, json)| json.as_str());
        std::mem::take(&mut self.is_new).then(|| document(records))
    }
}

/// Sets the growth of each path: its size at `read_at`, minus its size at an earlier time. The earlier time
/// must be at least a second and less than a minute before `read_at`. If sizes from several such times are
/// stored, the earliest of these times is used. Returns how long before `read_at` the earlier time is. If no
/// sizes from such a time are stored, sets no growth and returns `None`.
fn set_growth(largest: &mut Largest, read_at: Instant, content: &Content) -> Option<Duration> {
    let time_to = |at: Instant| read_at.saturating_duration_since(at);
    let earlier = content
        .earlier
        .iter()
        .find(|earlier| (MIN_GROWTH_TIME..MAX_GROWTH_TIME).contains(&time_to(earlier.at)))?;
    largest.compare(&earlier.sizes);
    Some(time_to(earlier.at))
}

fn process(member: &Member) -> Process<'_> {
    Process { pid: member.pid, command: &member.name, rss: member.rss }
}

/// Returns the name of a limit in OOM records.
fn name_of(limit: Limit) -> &'static str {
    match limit {
        Limit::Container => "container",
        Limit::Pod => "pod",
        Limit::Kubepods => "kubepods",
        Limit::Node => "node",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroupfs::fields::values;
    use crate::node::cgroups::kill_counts::FoundKill;
    use crate::node::cgroups::moment::{End, Moment};
    use crate::node::cgroups::oom::{Earlier, LastReading};
    use crate::node::containers::table::{Container, ContainerId};
    use crate::sources;
    use crate::totals::largest::Part;
    use std::sync::Arc;

    fn kill(pod: &str, last_reading: Option<LastReading>) -> Kill {
        let name = |name: &str| name.to_owned();
        let listed = sources::Container {
            id: name("id"),
            init_pid: None,
            namespace: name("shop"),
            pod: name(pod),
            name: name("app"),
        };
        let place = Place::Container(Arc::new(Container::new(ContainerId(0), listed, true)));
        let found = FoundKill { place, n_kills: 1, limit: Some(Limit::Pod), limited: None };
        let content = Content {
            values: values(&[("memory.current", "5\n")]),
            is_alone: true,
            last_reading,
            earlier: VecDeque::new(),
        };
        Kill { found, end: End::default(), content: Some(content), outside_containers: Some(90) }
    }

    fn record(ooms: &mut Ooms, kill: Kill, now: Instant) {
        ooms.record(vec![kill], &Snapshot::new(usize::MAX, 0), Some(now), now);
    }

    #[test]
    fn the_newest_records_are_kept() {
        let (mut ooms, now) = (Ooms::default(), Instant::now());
        assert_eq!(ooms.take_new_document(), None);
        for i in 0..80 {
            record(&mut ooms, kill(&format!("p{i}"), None), now);
        }
        let document = ooms.take_new_document().unwrap();
        assert_eq!(document.matches("\"time\"").count(), MAX_RECORDS);
        assert!(
            document.find("\"p79\"").unwrap() < document.find("\"p16\"").unwrap()
                && !document.contains("\"p15\"")
        );
        assert!(document.contains("\"use_bytes\":5,\"peak_bytes\":null,\"oom_group\":null,"), "{document}");
        assert_eq!(ooms.take_new_document(), None);
    }

    #[test]
    fn a_loop_of_kills_does_not_displace_the_records_of_other_containers() {
        let (mut ooms, now) = (Ooms::default(), Instant::now());
        record(&mut ooms, kill("other", None), now);
        for _ in 0..100 {
            record(&mut ooms, kill("loop", None), now);
        }
        let document = ooms.take_new_document().unwrap();
        assert_eq!(
            (document.matches("\"loop\"").count(), document.matches("\"other\"").count()),
            (MAX_OF_ONE, 1)
        );
    }

    #[test]
    fn a_loop_of_kills_is_logged_every_ten_seconds_with_its_count() {
        let (mut ooms, now) = (Ooms::default(), Instant::now());
        let waiting = |ooms: &Ooms| -> Vec<_> {
            let waiting = ooms.logged.values();
            waiting.map(|(at, line)| (*at - now, line.as_ref().map_or(0, LogLine::n_kills))).collect()
        };
        for (ms, expected) in
            [(0, (0, 0)), (15, (0, 1)), (9_999, (0, 2)), (10_000, (10_000, 0)), (10_015, (10_000, 1))]
        {
            record(&mut ooms, kill("loop", None), now + Duration::from_millis(ms));
            let expected = (Duration::from_millis(expected.0), expected.1);
            assert_eq!(waiting(&ooms), [expected], "after {ms} ms");
        }
        ooms.log_due(now + 2 * LOG_INTERVAL);
        assert_eq!(waiting(&ooms), [(2 * LOG_INTERVAL, 0)], "the last kills are logged, too");
        ooms.log_due(now + 3 * LOG_INTERVAL);
        assert_eq!(waiting(&ooms), []);
    }

    #[test]
    fn the_size_of_all_records_is_limited() {
        let (mut ooms, now) = (Ooms::default(), Instant::now());
        for i in 0..9 {
            record(&mut ooms, kill(&format!("{i}{}", "\u{1}".repeat(10_000)), None), now);
        }
        let document = ooms.take_new_document().unwrap();
        assert_eq!(document.matches("\"time\"").count(), MAX_BYTES / 60_000);
        record(&mut ooms, kill(&"\u{1}".repeat(100_000), None), now);
        assert_eq!(ooms.take_new_document().unwrap().matches("\"time\"").count(), 1, "the newest is kept");
    }

    #[test]
    fn the_last_reading_of_a_full_container_is_recorded() {
        let (mut ooms, now) = (Ooms::default(), Instant::now());
        let largest = Largest { pss: 77, ..Largest::default() };
        let values = values(&[("memory.current", "99\n")]);
        let last = LastReading { largest, oldest: Some(now), values };
        record(&mut ooms, kill("p", Some(last)), now);
        let document = ooms.take_new_document().unwrap();
        assert!(
            document.contains("\"limit\":\"pod\",") && document.contains("\"use_bytes\":99,"),
            "{document}"
        );
        assert!(document.contains("\"outside_containers_bytes\":90,"), "{document}");
        assert!(
            document.contains("\"reading_age_seconds\":0.0") && document.contains("\"mapped_bytes\":77"),
            "{document}"
        );
    }

    #[test]
    fn the_growth_of_paths_and_the_moment_before_the_kill_are_recorded() {
        let (mut ooms, now) = (Ooms::default(), Instant::now() + 2 * MAX_GROWTH_TIME);
        let part = Part { path: "[heap]".into(), pss: 77, ..Part::default() };
        let largest = Largest { pss: 77, paths: vec![part], sizes: vec![(5, 77)], ..Largest::default() };
        let mut kill = kill("p", Some(LastReading { largest, oldest: Some(now), ..LastReading::default() }));
        let earlier =
            |seconds, pss| Earlier { at: now - Duration::from_secs(seconds), sizes: vec![(5, pss)] };
        let content = kill.content.as_mut().unwrap();
        content.earlier = VecDeque::from([earlier(70, 1), earlier(50, 30), earlier(20, 60), earlier(0, 77)]);
        let members = vec![Member { pid: 12, name: "leak".into(), rss: [70, 2, 1] }];
        let moment = Moment { values: values(&[("memory.current", "98\n")]), members, ..Moment::default() };
        kill.end.victims = moment.members.clone();
        kill.end.moment = Some((Instant::now(), moment));
        record(&mut ooms, kill, now);
        let document = ooms.take_new_document().unwrap();
        for expected in [
            r#""victims":[{"pid":12,"command":"leak"}]"#,
            r#""use_bytes":98,"#,
            r#""processes":[{"pid":12,"command":"leak","rss_anon_bytes":70,"#,
            r#""growth_seconds":50.000,"paths":[{"command":"","path":"[heap]","#,
            r#""pss_bytes":77,"growth_bytes":47}]"#,
        ] {
            assert!(document.contains(expected), "{expected}: {document}");
        }
    }

    #[test]
    fn a_kill_in_a_pod_has_candidates_and_no_content() {
        let mut ooms = Ooms::default();
        let mut kill = kill("p", None);
        let Place::Container(of) = kill.found.place else { unreachable!("as made above") };
        let candidates = vec!["a".to_owned(), "b".to_owned()];
        kill.found.place = Place::Pod { of, candidates, has_unselected: true };
        kill.content = None;
        record(&mut ooms, kill, Instant::now());
        let document = ooms.take_new_document().unwrap();
        let expected = r#""container":"","candidates":["a","b"],"has_unselected":true,"#;
        assert!(document.contains(expected) && document.contains(r#""use_bytes":null,"#), "{document}");
    }
}
