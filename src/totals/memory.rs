//! Limits the memory of commands, series and readings. A reading is the stored result of a process's last
//! read. No workload can use up the exporter's memory.
//!
//! While all containers together are below the limit, everything is kept. Above the limit, each container has
//! a fair share. If a container exceeds its share, its smallest paths are merged into `[other]`, in the table
//! and in the readings. Such a container also gets no new commands: processes with a new name are summed as
//! `comm="[other]"`.

use super::fair_share::FairShare;
use super::other::{Candidate, OTHER, merge_smallest};
use super::reading::Reading;
use super::slab::Slab;
use super::sums::Totals;
use super::table::{Command, Series, Table};

/// About how many bytes a series takes in each reading that contains it. A reading is the stored result of a
/// read.
const READING_BYTES: usize = 24;

/// Whether a container may use another `n_bytes` for a new command. This is allowed while all containers
/// together use at most `max_bytes`. Above this limit, it is allowed while the container uses at most its
/// fair share, which is an equal part of `max_bytes`.
pub(super) fn has_room(table: &Table, container: u32, n_bytes: usize, max_bytes: usize) -> bool {
    let fair_share = max_bytes / (table.containers.len() + 1);
    table.n_bytes + n_bytes <= max_bytes || table.containers.get(container).n_bytes + n_bytes <= fair_share
}

/// Whether a path is kept under its name. If paths of the container were merged into `[other]`, a new path is
/// kept only if it is larger than all merged paths. A smaller path would soon be merged again.
pub(super) fn admits_path(table: &Table, command: u32, value: &str, totals: &Totals) -> bool {
    let command = table.commands.get(command);
    let largest_merged = table.containers.get(command.container).largest_merged;
    largest_merged.is_none_or(|largest| totals.size() > largest || value == OTHER)
        || command.series.contains_key(value)
}

/// Forgets which paths were merged into `[other]`, so that new paths of any size are kept under their names
/// (see [`admits_path`]). This is done for each container that uses at most half of its fair share of
/// `max_bytes`. If at least half of `max_bytes` is free, it is done for all containers.
pub(super) fn forget_merged(table: &mut Table, max_bytes: usize) {
    let share =
        if table.n_bytes <= max_bytes / 2 { max_bytes } else { max_bytes / (table.containers.len() + 1) };
    for container in table.containers.iter_mut().filter(|container| container.n_bytes <= share / 2) {
        container.largest_merged = None;
    }
}

/// Measures the memory of each container. If all containers together use more than `max_bytes`, each
/// container that uses more than its fair share is reduced: its smallest paths are merged into `[other]`. The
/// table must contain the current sums, because the sums show which paths are the smallest.
pub(super) fn keep_within(table: &mut Table, readings: &mut Slab<Reading>, max_bytes: usize) {
    measure(table, readings);
    if table.n_bytes <= max_bytes {
        return;
    }
    let mut containers: Vec<u32> = table.containers.ids().collect();
    containers.sort_by_key(|&id| table.containers.get(id).n_bytes);
    let mut shares = FairShare::new(max_bytes, containers.len());
    let paths = paths_by_container(table);
    let mut merged = vec![false; paths.iter().map(|&(_, (_, id))| id as usize + 1).max().unwrap_or(0)];
    let mut is_merged = false;
    for container in containers {
        let (n_bytes, share) = (table.containers.get(container).n_bytes, shares.next());
        shares.take(n_bytes.min(share));
        if n_bytes <= share {
            continue;
        }
        let start = paths.partition_point(|&(of, _)| of < container);
        let end = paths.partition_point(|&(of, _)| of <= container);
        let mut candidates: Vec<Candidate> = paths[start..end].iter().map(|&(_, path)| path).collect();
        merge_smallest(&mut candidates, n_bytes, share, |id, n_bytes| {
            (merged[id as usize], is_merged) = (true, true);
            n_bytes.saturating_sub(merge_path(table, id))
        });
    }
    if !is_merged {
        return;
    }
    let is_merged = |id: u32| merged.get(id as usize).is_some_and(|is_merged| *is_merged);
    for reading in readings.iter_mut() {
        if let Some(other) = table.commands.get(reading.command).other {
            reading.merge(other, is_merged);
        }
    }
    table.series.retain(|id, _| !is_merged(id));
    table.forget_removed_series();
    measure(table, readings);
}

/// Returns all paths that are not `[other]` yet, each with its container. To save memory, any of them may be
/// merged into `[other]`. The result is sorted by container.
fn paths_by_container(table: &Table) -> Vec<(u32, Candidate)> {
    let mut paths: Vec<(u32, Candidate)> = Vec::new();
    for id in table.series.ids() {
        let series = table.series.get(id);
        if !series.is_other {
            let container = table.commands.get(series.command).container;
            paths.push((container, ((series.totals.size(), id), id)));
        }
    }
    paths.sort_unstable_by_key(|&(container, _)| container);
    paths
}

/// Merges a path into `[other]` of its command. Returns how many bytes this frees.
fn merge_path(table: &mut Table, id: u32) -> usize {
    let series = table.series.get(id);
    let (command, totals) = (series.command, series.totals);
    let freed = n_bytes(series, table.commands.get(command)) + READING_BYTES * series.n_readings as usize;
    let other = table.series_of(command, OTHER);
    table.series.get_mut(other).totals.add(&totals);
    let container = table.containers.get_mut(table.commands.get(command).container);
    container.n_folded += 1;
    container.largest_merged = container.largest_merged.max(Some(totals.size()));
    freed
}

fn n_bytes(series: &Series, command: &Command) -> usize {
    Series::n_bytes(series.labels.len(), series.labels.len() - command.labels.len())
}

/// Computes the memory of each container, and of all together.
fn measure(table: &mut Table, readings: &Slab<Reading>) {
    let Table { containers, commands, series, .. } = table;
    containers.iter_mut().for_each(|container| container.n_bytes = 0);
    for command in commands.iter() {
        containers.get_mut(command.container).n_bytes += Command::n_bytes(command.labels.len());
    }
    for series in series.iter() {
        let command = commands.get(series.command);
        containers.get_mut(command.container).n_bytes += n_bytes(series, command);
    }
    for reading in readings.iter() {
        containers.get_mut(commands.get(reading.command).container).n_bytes += reading.n_bytes();
    }
    table.n_bytes = containers.iter().map(|container| container.n_bytes).sum();
}
