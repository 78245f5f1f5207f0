//! Writes a recording, which has the files that the last scrape read.

use super::Scraper;
use super::state_log::refused;
use crate::procfs::Buffers;
use crate::sources::recording::Writer;

impl Scraper {
    /// Writes the files that the last scrape read, and the files that show which container each process is
    /// in. Returns the number of recorded processes. Processes that have ended since the scrape are left out.
    ///
    /// Fails if there is nothing to record, or if a file cannot be written. The error is a one-line message.
    pub fn record(&mut self, writer: &mut Writer) -> Result<usize, String> {
        let n_processes = self.processes.record(&self.proc, writer)?;
        if n_processes == 0 {
            return Err(format!("nothing to record: {}", self.why_nothing()));
        }
        let selected = || self.discovery.containers().filter(|container| container.is_selected);
        let mut buffers = Buffers::default();
        for init_pid in selected().filter_map(|container| container.listed.init_pid) {
            // The exporter may find the container of a process by the cgroup of the container's init process.
            // For this reason, the cgroup of each init process is recorded, even if no filter selects the
            // init process.
            let init = self.proc.process(init_pid, &mut buffers);
            if let Ok(cgroup) = init.and_then(|init| init.raw_cgroup(&mut buffers)) {
                writer.file(init_pid, "cgroup", &cgroup)?;
            }
        }
        if let Some(cgroups) = &mut self.cgroups {
            cgroups.record(&self.proc, writer)?;
        }
        writer.containers(selected().map(|container| &container.listed))?;
        Ok(n_processes)
    }

    /// Returns the reason why no process was read.
    fn why_nothing(&self) -> String {
        let (n_refused, n_selected) = self.processes.refusals();
        match n_selected {
            0 => self.discovery.selection(self.processes.attributed()).to_string(),
            _ if n_refused > 0 => refused(n_refused, n_selected),
            _ => format!("none of the {n_selected} processes selected can be read"),
        }
    }
}
