//! The rules for runs. A run is a series of adjacent mappings. Together they may be memory that a program
//! reserved at once, and made writable in part.

use std::ops::Range;

use super::rules::{ARENA, GIB, KIB, MIB};
use crate::smaps::place::{ACCOUNTED, NO_HUGE_PAGES, NO_RESERVE, NOT_FORKED, Place, is_mmap_address};
use crate::totals::anon_part::AnonPart;
use crate::totals::sums::Totals;

/// Go makes reserved memory usable in multiples of this size. The metaspace of a JVM consists of chunks of
/// this size.
const CHUNK: u64 = 4 * MIB;
/// Where Go's heap begins: up to Go 1.25 at 0xc000000000 (arm64: 0x4000000000), from Go 1.26 on at random
/// (runtime/malloc.go, mallocinit).
const GO: Range<u64> = 0x40_0000_0000..0x7e00_0000_0000;

/// The kind of the mapping directly below a run. For example, a JVM reserves memory directly above a file
/// with its classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    Anonymous,
    File,
    /// A JVM's archive of classes, which is a mapped file. Inaccessible memory may lie between this file and
    /// the run.
    ClassArchive,
}

/// Adjacent mappings that may be one reservation. Further mappings may be added.
#[derive(Debug, Default)]
pub struct Run {
    below: Option<Below>,
    is_of_go: bool,
    begin: u64,
    pub end: u64,
    is_writable: bool,
    /// Whether permissions change at an address that is not a multiple of 4 MiB (Go) or 64 KiB (a JVM).
    has_odd_steps: bool,
    /// Whether a writable mapping begins directly above inaccessible memory at a multiple of 4 MiB, as in the
    /// metaspace of a JVM.
    has_chunks: bool,
    pub is_below_archive: bool,
    n_reserved: u64,
    /// The totals of the writable mappings.
    pub totals: Totals,
}

impl Run {
    /// Returns a run that begins with this mapping, or `None` if no run can begin with it.
    pub fn beginning(place: &Place, below: Option<Below>) -> Option<Self> {
        // A run in the mmap area has at least two mappings. This check and `Spot::depends_on_above` save 55
        // ns per anonymous mapping.
        if place.is_in_mmap_area() && !place.is_followed {
            return None;
        }
        let (begin, is_writable, is_of_go) = (place.begin, place.is_writable(), GO.contains(&place.begin));
        let mut run = Self { below, is_of_go, begin, end: begin, is_writable, ..Self::default() };
        ((is_writable || is_of_go) && run.try_add(place)).then_some(run)
    }

    /// Adds the next mapping if it belongs to the run. Returns whether the mapping was added.
    pub fn try_add(&mut self, place: &Place) -> bool {
        if place.begin != self.end {
            return false;
        }
        let (is_writable, is_reserve) = (place.is_writable(), place.is_inaccessible());
        let (can_belong, is_odd) = if self.is_of_go {
            let is_step = is_writable == self.is_writable || place.begin.is_multiple_of(CHUNK);
            ((is_writable || is_reserve) && place.lacks(NO_RESERVE | NOT_FORKED), !is_step)
        } else {
            let is_used = is_writable && place.has(ACCOUNTED) && place.lacks(NO_RESERVE | NO_HUGE_PAGES);
            let is_step = (place.begin | place.end).is_multiple_of(64 * KIB);
            (is_used || is_reserve && place.has(NO_RESERVE), !is_step)
        };
        if !can_belong || is_writable && self.is_followed_at(place.begin) {
            return false;
        }
        let is_chunk = is_writable && !self.is_writable && place.begin.is_multiple_of(CHUNK);
        // Every 64 MiB from the beginning of the run, another reservation may begin, so a chunk there does
        // not count.
        self.has_chunks |= is_chunk && !(place.begin - self.begin).is_multiple_of(ARENA);
        self.n_reserved += if is_reserve { place.size() } else { 0 };
        self.has_odd_steps |= is_odd;
        (self.end, self.is_writable) = (place.end, is_writable);
        true
    }

    /// Whether another reservation of a JVM begins at this address. Then a mapping at this address does not
    /// belong to the run.
    fn is_followed_at(&self, begin: u64) -> bool {
        // A JVM's reservation begins at a multiple of 4 MiB. Memory of malloc may lie directly below it.
        let is_aligned = begin.is_multiple_of(CHUNK) && !self.begin.is_multiple_of(CHUNK);
        // A run directly above a JVM's archive of classes is a class space. Its size is a multiple of 64 MiB.
        let ends_space =
            self.below == Some(Below::ClassArchive) && (begin - self.begin).is_multiple_of(ARENA);
        // At 4 GiB, the class space begins above the heap.
        !self.is_of_go && begin != self.begin && (begin == 4 * GIB || is_aligned || ends_space)
    }

    /// Returns the use that a rule infers for the writable mappings. This use may be Java's even if the
    /// process is no JVM.
    pub fn part(&self, has_named_heap: bool) -> Option<AnonPart> {
        let is_java_heap = |run| is_java_heap(run) || !has_named_heap && is_uncompressed_java_heap(run);
        match self.is_of_go {
            true => is_go_heap(self).then_some(AnonPart::GoHeap),
            false if is_class_space(self) || is_metaspace(self) => Some(AnonPart::JavaClasses),
            false => is_java_heap(self).then_some(AnonPart::JavaHeap),
        }
    }
}

/// Whether the run is Go's heap, without what Go's runtime uses for itself. In recorded processes: recall
/// 98%, precision 100%.
fn is_go_heap(run: &Run) -> bool {
    // Go uses arenas of 64 MiB in steps of 4 MiB (runtime/mheap.go). The steps rule out PartitionAlloc, the
    // allocator of Chromium.
    !run.has_odd_steps && (run.begin | run.end).is_multiple_of(ARENA) && run.end <= GO.end
}

/// Whether the run is the class space of a JVM. In recorded processes, together with [`is_metaspace`]: recall
/// 77%, precision 100%.
fn is_class_space(run: &Run) -> bool {
    // The class space lies directly above the archive of classes or, without an archive, above the heap at 4
    // GiB (metaspace.cpp).
    let is_aligned = run.begin.is_multiple_of(CHUNK) && (run.end - run.begin).is_multiple_of(ARENA);
    let is_above = |below| run.below == Some(below);
    is_aligned && !run.has_odd_steps && is_above(Below::ClassArchive)
        || run.begin == 4 * GIB && is_above(Below::Anonymous)
}

/// Whether the run is metaspace from JDK 16 on: reservations of 64 MiB, usable in steps of 64 KiB
/// (metaspaceSettings.hpp).
fn is_metaspace(run: &Run) -> bool {
    let size = run.end - run.begin;
    // Without `has_chunks`, the rule would claim 31 MB of a bitmap of G1, a garbage collector of JVMs.
    let has_chunks = run.has_chunks && !run.is_writable && size.is_multiple_of(ARENA) && size <= 4 * ARENA;
    let is_reservation = !run.has_odd_steps && run.begin.is_multiple_of(CHUNK) && is_mmap_address(run.begin);
    // The first reservation lies directly below the archive of classes, and may be merged with memory below
    // it.
    is_reservation && (has_chunks || run.is_below_archive && size <= ARENA)
}

/// Whether the run is a Java heap with compressed pointers, which ends below 32 GiB. In recorded processes:
/// recall 85%, precision 100%.
fn is_java_heap(run: &Run) -> bool {
    // Apart from such a heap, only a program that is not position-independent lies below 32 GiB.
    run.end <= 32 * GIB && run.below != Some(Below::File)
}

/// Whether the run is a Java heap without compressed pointers, with at least 32 GiB reserved. No recorded
/// process has one.
fn is_uncompressed_java_heap(run: &Run) -> bool {
    // Misses heaps that are usable as a whole, and heaps below 32 GiB with `-XX:-UseCompressedOops`. Three
    // recorded processes have such heaps.
    is_mmap_address(run.begin) && run.n_reserved >= 32 * GIB
}
