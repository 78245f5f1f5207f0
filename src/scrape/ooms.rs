//! The newest OOM records: what containers held when the kernel killed a process in them.

use std::collections::VecDeque;
use std::time::{Instant, SystemTime};

use log::warn;

use crate::exposition::ooms::{Record, document};
use crate::logging;
use crate::node::cgroups::oom::Kill;
use crate::totals::largest::Largest;
use crate::totals::snapshot::Snapshot;

/// The maximum number of records, and of their bytes. The newest record is kept in any case.
const MAX_RECORDS: usize = 32;
const MAX_BYTES: usize = 256 << 10;

/// The newest OOM records.
#[derive(Debug, Default)]
pub struct Ooms {
    /// The records as JSON, the newest first.
    records: VecDeque<String>,
    is_new: bool,
}

impl Ooms {
    /// Records these kills.
    pub fn record(&mut self, kills: Vec<Kill>, snapshot: &Snapshot, summed_at: Option<Instant>) {
        kills.iter().for_each(|kill| self.record_one(kill, snapshot, summed_at));
    }

    /// Records and logs a kill. For a container that was not near its limit, the last sums, made at
    /// `summed_at`, show what it mapped.
    fn record_one(&mut self, kill: &Kill, snapshot: &Snapshot, summed_at: Option<Instant>) {
        let listed = &kill.container.listed;
        let mut summed = Largest::default();
        let (largest, read_at, values, current) = match &kill.last_reading {
            Some(last) => (&last.largest, last.oldest, &last.values, last.current),
            None => {
                let (table, key) = (snapshot.table(), kill.container.id.key());
                let is_known = kill.is_alone && summed.find(table, key, &mut Vec::new());
                (&summed, summed_at.filter(|_| is_known), &kill.values, kill.current)
            }
        };
        let record = Record {
            time: SystemTime::now(),
            container: [&listed.namespace, &listed.pod, &listed.name],
            n_kills: kill.n_kills,
            current,
            values,
            age: read_at.map(|read_at| read_at.elapsed()),
            largest,
        };
        warn!(target: logging::OOM_KILL, "{}", record.log_line());
        self.records.push_front(record.json());
        let mut n_bytes = 0;
        let fits = |record: &&String| {
            n_bytes += record.len();
            n_bytes <= MAX_BYTES
        };
        let n_fitting = self.records.iter().take(MAX_RECORDS).take_while(fits).count();
        self.records.truncate(n_fitting.max(1));
        self.is_new = true;
    }

    /// Whether there are new records since the last call of [`Ooms::news`].
    pub fn has_news(&self) -> bool {
        self.is_new
    }

    /// Returns the document with all records, if there are new ones since the last call.
    pub fn news(&mut self) -> Option<String> {
        std::mem::take(&mut self.is_new).then(|| document(self.records.iter().map(String::as_str)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroupfs::fields::Values;
    use crate::node::cgroups::oom::LastReading;
    use crate::node::containers::table::{Container, ContainerId};
    use crate::sources;
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
        let container = Arc::new(Container::new(ContainerId(0), listed, true));
        Kill { container, n_kills: 1, values: Values::default(), current: 5, is_alone: true, last_reading }
    }

    #[test]
    fn the_newest_are_kept() {
        let (mut ooms, snapshot) = (Ooms::default(), Snapshot::default());
        assert_eq!(ooms.news(), None);
        for i in 0..40 {
            ooms.record_one(&kill(&format!("p{i}"), None), &snapshot, Some(Instant::now()));
        }
        let news = ooms.news().unwrap();
        assert_eq!(news.matches("\"time\"").count(), MAX_RECORDS);
        assert!(news.find("\"p39\"").unwrap() < news.find("\"p8\"").unwrap() && !news.contains("\"p7\""));
        assert!(news.contains("\"use_bytes\":5,\"reading_age_seconds\":null,\"mapped_bytes\":0"), "{news}");
        assert_eq!(ooms.news(), None);
    }

    #[test]
    fn long_ones_take_the_place_of_many() {
        let (mut ooms, snapshot) = (Ooms::default(), Snapshot::default());
        for i in 0..9 {
            ooms.record_one(&kill(&format!("{i}{}", "\u{1}".repeat(10_000)), None), &snapshot, None);
        }
        let news = ooms.news().unwrap();
        assert_eq!(news.matches("\"time\"").count(), MAX_BYTES / 60_000);
        ooms.record_one(&kill(&"\u{1}".repeat(100_000), None), &snapshot, None);
        assert_eq!(ooms.news().unwrap().matches("\"time\"").count(), 1, "the newest in any case");
    }

    #[test]
    fn the_last_reading_of_a_full_container_is_told() {
        let mut ooms = Ooms::default();
        let largest = Largest { pss: 77, ..Largest::default() };
        let last =
            LastReading { largest, oldest: Some(Instant::now()), current: 99, ..LastReading::default() };
        ooms.record_one(&kill("p", Some(last)), &Snapshot::default(), None);
        let news = ooms.news().unwrap();
        assert!(news.contains("\"use_bytes\":99,\"reading_age_seconds\":0.00"), "{news}");
        assert!(news.contains("\"mapped_bytes\":77"), "{news}");
    }
}
