//! The parts of a scraper.

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
    /// The reads of the node's processes.
    pub reads: Reads,
    /// The cgroups of the containers; `None` if none are read.
    pub cgroups: Option<CgroupUsage>,
    /// The CPU time that scrapes and checks may use.
    pub budget: Budget,
    /// The readings, and their sums by path.
    pub snapshot: Snapshot,
    /// What is exported of them.
    pub views: Views,
    /// The exporter's own families.
    pub self_metrics: SelfMetrics,
    /// The shortest time between a scrape or check and the next check; `None` without checks.
    pub check_interval: Option<Duration>,
    /// Whether there is only one scrape, and its result is recorded.
    pub is_recording: bool,
}
