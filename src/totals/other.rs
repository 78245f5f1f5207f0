//! Decides which paths and commands are summed as `[other]`. The smallest ones are always taken first, and
//! only until the rest is within a limit.
//!
//! | limit | what is summed as `[other]` | applied by |
//! | --- | --- | --- |
//! | half of [`max_bytes`] | paths of one process, while it is read | [`process_sums`](super::process_sums) |
//! | [`max_bytes`] | paths of a command, commands of a container | [`memory`](super::memory) |
//! | `--max-samples` | paths of a command, commands of a container | [`fold`](super::fold) |
//!
//! There is one other reason for `[other]`. If the kernel takes too long to print the mappings of a process,
//! only the sum over its mappings is read. All memory of such a process is summed as `[other]`.

use super::sums::Size;

/// The label value for everything that is not shown by name.
pub const OTHER: &str = "[other]";

/// For each sample of `--max-samples`, the exporter may store this many bytes about containers.
const BYTES_PER_SAMPLE: usize = 128;
/// The memory limit of commands, series and readings (the stored results of reads) if `--max-samples` is from
/// 1 to 100,000. If `--max-samples` is small, the usual exposition shows few paths. The memory limit is not
/// reduced further, because OOM records and requests to `/metrics` with parameters may need more paths.
const MIN_BYTES: usize = 12_800_000;
/// The memory limit of commands, series and readings if `--max-samples` is 0, which means that the number of
/// samples is not limited. This is far more than programs need, and far less than hostile paths could use.
const BYTES_WITHOUT_LIMIT: usize = 256 << 20;

/// Returns the memory limit for the commands, series and readings of all containers, given `--max-samples`.
pub fn max_bytes(max_samples: usize) -> usize {
    match max_samples {
        0 => BYTES_WITHOUT_LIMIT,
        _ => MIN_BYTES.max(max_samples.saturating_mul(BYTES_PER_SAMPLE)),
    }
}

/// Something that may be summed as `[other]`: its size, a number that orders candidates of the same size, and
/// its id.
pub(super) type Candidate = ((Size, u32), u32);

/// Merges the smallest candidates until the cost is at most `limit`. `cost` is the cost before the first
/// merge. `merge` gets the id of one candidate and the current cost, and returns the new cost. Returns the
/// final cost.
pub(super) fn merge_smallest(
    candidates: &mut [Candidate],
    mut cost: usize,
    limit: usize,
    mut merge: impl FnMut(u32, usize) -> usize,
) -> usize {
    if cost > limit {
        candidates.sort_unstable();
    }
    for &(_, id) in candidates.iter() {
        if cost <= limit {
            break;
        }
        cost = merge(id, cost);
    }
    cost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smallest_candidates_are_merged_until_the_rest_fits() {
        let candidates: [Candidate; 4] =
            [(((5, 0), 0), 10), (((1, 2), 3), 11), (((1, 2), 1), 12), (((1, 1), 2), 13)];
        for (limit, expected, cost_after) in
            [(40, &[][..], 40), (39, &[13], 30), (20, &[13, 12], 20), (0, &[13, 12, 11, 10], 0)]
        {
            let mut merged = Vec::new();
            let cost = merge_smallest(&mut candidates.clone(), 40, limit, |id, cost| {
                merged.push(id);
                cost - 10
            });
            assert_eq!((&*merged, cost), (expected, cost_after), "{limit}");
        }
    }

    #[test]
    fn memory_has_a_limit_for_every_number_of_samples() {
        for (max_samples, expected) in
            [(0, 256 << 20), (1, 12_800_000), (100_000, 12_800_000), (usize::MAX, usize::MAX)]
        {
            assert_eq!(max_bytes(max_samples), expected);
        }
    }
}
