//! The parts from which a scraper is built.

use std::time::Duration;

use super::views::Views;
use crate::exposition::self_metrics::SelfMetrics;
use crate::node::cgroups::usage::CgroupUsage;
use crate::node::containers::discovery::Discovery;
use crate::node::reads::budget::Budget;
use crate::node::reads::scheduler::Reads;
use crate::procfs::Proc;
use crate::totals::snapshot::Snapshot;

/// The parts of a [`Scraper`](super::Scraper).
#[derive(Debug)]
pub struct Parts {
    /// The proc file system of the node.
    pub proc: Proc,
    /// The containers of the node.
    pub discovery: Discovery,
    /// Chooses and counts the reads of processes.
    pub reads: Reads,
    /// The cgroups of the containers; `None` if no cgroups are read.
    pub cgroups: Option<CgroupUsage>,
    /// Limits the CPU time of scrapes, and of the checks between scrapes.
    pub budget: Budget,
    /// The values that were read from the processes, and their sums by path.
    pub snapshot: Snapshot,
    /// Decides what one series of `/metrics` stands for, for example a path or a process.
    pub views: Views,
    /// Renders the families about the exporter itself.
    pub self_metrics: SelfMetrics,
    /// The shortest time from the start of a scrape or a check to the start of the next check; `None` if
    /// there are no checks. A check has the same steps as a scrape, but reads only the processes of
    /// containers that come close to their memory limit.
    pub check_interval: Option<Duration>,
    /// Whether the program scrapes only once, and records the result.
    pub is_recording: bool,
}
