//! Sums the memory that a container or a process maps from certain files. The path of a file decides whether
//! the file is included.

use super::labels::push_unescaped;
use super::reading::ReadingId;
use super::snapshot::Snapshot;
use super::table::{ContainerKey, Table};

/// Returns how many proportional bytes (PSS) of files a container maps, according to the last sums. A file is
/// included if `is_of` returns true for its path. File pages that a process has changed in a private mapping
/// are not included.
///
/// Returns `None` if files are merged into `[other]`, because then their paths are unknown.
pub fn mapped_files(table: &Table, container: ContainerKey, is_of: impl Fn(&str) -> bool) -> Option<u64> {
    let Some(id) = table.container(container) else { return Some(0) };
    if table.containers.get(id).has_unnamed_files {
        return None;
    }
    let mapped = table.commands_of(id).flat_map(|command| &command.series).map(|(path, &id)| {
        let bytes = table.series.get(id).totals.of_files();
        if bytes > 0 && is_of(path) { bytes } else { 0 }
    });
    Some(mapped.sum())
}

/// Does the same as [`mapped_files`], for one process. Files that are merged into `[other]` are not included.
pub fn mapped_files_of(
    snapshot: &Snapshot,
    reading: &ReadingId,
    is_of: impl Fn(&str) -> bool,
    scratch: &mut String,
) -> u64 {
    let (table, mut mapped) = (snapshot.table(), 0);
    snapshot.reading(reading).for_each(|_, id, totals| {
        let bytes = totals.of_files();
        if bytes > 0 {
            let series = table.series.get(id);
            scratch.clear();
            push_unescaped(scratch, series.value(table.commands.get(series.command)), usize::MAX);
            mapped += if is_of(scratch) { bytes } else { 0 };
        }
    });
    mapped
}
