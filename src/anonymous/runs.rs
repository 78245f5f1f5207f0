//! The rules for runs. A run is a series of adjacent mappings that may be one reservation. Some of the
//! mappings are writable, and some are inaccessible.

use std::ops::Range;

use super::rules::{ARENA, GIB, KIB, MIB};
use crate::smaps::place::{ACCOUNTED, NO_HUGE_PAGES, NO_RESERVE, NOT_FORKED, Place, is_mmap_address};
use crate::totals::anon_part::AnonPart;
use crate::totals::sums::Totals;

/// Go makes reserved memory usable in multiples of this size. The metaspace of a JVM consists of chunks of
/// this size.
const CHUNK: u64 = 4 * MIB;
/// A run of adjacent mappings that begins in this range is tested as Go's heap. Any other run is tested as
/// memory of a JVM. Up to Go 1.25, Go's heap begins at 0xc000000000, or at 0x4000000000 on arm64
/// (runtime/malloc.go, mallocinit). The range is wide, because the heap begins at a random address from Go
/// 1.26 on.
const GO: Range<u64> = 0x40_0000_0000..0x7e00_0000_0000;

/// The kind of the mapping directly below a run of adjacent anonymous mappings. For example, a JVM reserves
/// memory directly above a file with its classes.
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
    /// Whether the permissions change at an address at which the language runtime would not change them. Go
    /// changes permissions at multiples of 4 MiB, and HotSpot, a JVM, at multiples of 64 KiB.
    has_odd_steps: bool,
    /// Whether a writable mapping begins directly above inaccessible memory, at an address that is a multiple
    /// of 4 MiB. The metaspace of a JVM looks like this, because the JVM begins to use a chunk of 4 MiB
    /// before it has used up the chunk below. A mapping does not count if its distance from the beginning of
    /// the run is a multiple of 64 MiB, because another reservation of the JVM may begin there.
    has_chunks: bool,
    pub is_below_archive: bool,
    n_reserved: u64,
    /// The totals of the writable mappings.
    pub totals: Totals,
}

impl Run {
    /// Returns a run (a series of adjacent mappings) that begins with this mapping. Returns `None` if no run
    /// can begin with it.
    ///
    /// In the mmap area, where the kernel itself chooses addresses, a run has at least two mappings. So this
    /// function returns `None` early if no mapping lies directly above. The early return and
    /// [`depends_on_above`](super::rules::Spot::depends_on_above) together reduce the time for an anonymous
    /// mapping from 80 ns to 25 ns.
    pub fn beginning(place: &Place, below: Option<Below>) -> Option<Self> {
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
        self.has_chunks |= is_chunk && !(place.begin - self.begin).is_multiple_of(ARENA);
        self.n_reserved += if is_reserve { place.size() } else { 0 };
        self.has_odd_steps |= is_odd;
        (self.end, self.is_writable) = (place.end, is_writable);
        true
    }

    /// Whether another reservation of a JVM begins at this address. Then a mapping at this address does not
    /// belong to the run.
    fn is_followed_at(&self, begin: u64) -> bool {
        // A JVM's reservation begins at a multiple of 4 MiB. If the mapping begins at such an address, but
        // the run does not, the run may be memory of malloc that lies directly below a reservation.
        let is_aligned = begin.is_multiple_of(CHUNK) && !self.begin.is_multiple_of(CHUNK);
        // A run directly above a JVM's archive of classes is a class space. The size of a class space is a
        // multiple of 64 MiB. So if a writable mapping begins a multiple of 64 MiB above the beginning of the
        // run, it counts as another reservation.
        let ends_space =
            self.below == Some(Below::ClassArchive) && (begin - self.begin).is_multiple_of(ARENA);
        // If the heap of a JVM ends at the address 4 GiB, the class space begins there.
        !self.is_of_go && begin != self.begin && (begin == 4 * GIB || is_aligned || ends_space)
    }

    /// Returns what the writable mappings are used for, or `None` if no rule claims them. The result may be a
    /// use by Java even if the process is no JVM. The caller corrects this.
    pub fn part(&self, has_named_heap: bool) -> Option<AnonPart> {
        let is_java_heap = |run| is_java_heap(run) || !has_named_heap && is_uncompressed_java_heap(run);
        match self.is_of_go {
            true => is_go_heap(self).then_some(AnonPart::GoHeap),
            false if is_class_space(self) || is_metaspace(self) => Some(AnonPart::JavaClasses),
            false => is_java_heap(self).then_some(AnonPart::JavaHeap),
        }
    }
}

/// Whether the run of adjacent mappings is Go's heap. This heap consists of whole arenas of 64 MiB. Go makes
/// the memory of an arena usable in steps of 4 MiB (runtime/mheap.go). If the rule did not check the steps,
/// it would also claim memory of PartitionAlloc, the allocator of Chromium. In recorded processes, the rule
/// finds 98% of Go's memory, and claims no other memory. It misses what Go's runtime uses for itself.
fn is_go_heap(run: &Run) -> bool {
    !run.has_odd_steps && (run.begin | run.end).is_multiple_of(ARENA) && run.end <= GO.end
}

/// Whether the run of adjacent mappings is the class space of a JVM. The class space is a reservation
/// directly above the JVM's archive of classes, which is a mapped file. Without an archive, the class space
/// begins at the address 4 GiB, directly above the heap (metaspace.cpp). In recorded processes, this rule and
/// [`is_metaspace`] together find 77% of class space and metaspace, and claim no other memory. They do not
/// find the metaspace of JDK 8 and 11.
fn is_class_space(run: &Run) -> bool {
    let is_aligned = run.begin.is_multiple_of(CHUNK) && (run.end - run.begin).is_multiple_of(ARENA);
    let is_above = |below| run.below == Some(below);
    is_aligned && !run.has_odd_steps && is_above(Below::ClassArchive)
        || run.begin == 4 * GIB && is_above(Below::Anonymous)
}

/// Whether the run of adjacent mappings is metaspace of a JVM, from JDK 16 on. Metaspace consists of
/// reservations of 64 MiB, which become usable in steps of 64 KiB (metaspaceSettings.hpp).
///
/// The first reservation lies directly below the archive of classes. The kernel may have merged the lower end
/// of this reservation with other memory, so the rule also accepts a run that is smaller than 64 MiB. Any
/// other reservation is found only if one of its writable mappings lies directly above inaccessible memory
/// (see `has_chunks`). If the rule did not check `has_chunks`, it would claim 31 MB of a bitmap that the
/// garbage collector G1 has for a heap of 4 GiB. In recorded processes, the rule claims only metaspace.
fn is_metaspace(run: &Run) -> bool {
    let size = run.end - run.begin;
    let has_chunks = run.has_chunks && !run.is_writable && size.is_multiple_of(ARENA) && size <= 4 * ARENA;
    let is_reservation = !run.has_odd_steps && run.begin.is_multiple_of(CHUNK) && is_mmap_address(run.begin);
    is_reservation && (has_chunks || run.is_below_archive && size <= ARENA)
}

/// Whether the run of adjacent mappings is the heap of a JVM with compressed pointers. Such a heap does not
/// extend above 32 GiB. Only two other things lie below 32 GiB: a class space, which [`Run::part`] tests
/// first, and a program that is not position-independent. The rule does not claim a run directly above a
/// mapped file, because the run may belong to such a program. In recorded processes, the rule finds 85% of
/// the memory of Java heaps, and claims no other memory.
fn is_java_heap(run: &Run) -> bool {
    run.end <= 32 * GIB && run.below != Some(Below::File)
}

/// Whether the run of adjacent mappings is the heap of a JVM without compressed pointers. Such a heap is a
/// reservation of at least 32 GiB. ZGC also reserves at least 32 GiB, but its heap is a memfd. So
/// [`Run::part`] does not use this rule for a process that maps such a memfd. In recorded processes, the rule
/// finds no heap, and claims no other memory.
///
/// The rule misses two kinds of heap. In the first kind, the JVM has made all of the reserved memory usable.
/// The second kind is a heap of less than 32 GiB with `-XX:-UseCompressedOops`. Three recorded processes have
/// a heap of one of these kinds. In recorded processes, these three heaps are the only Java heaps that
/// [`is_java_heap`] does not find.
fn is_uncompressed_java_heap(run: &Run) -> bool {
    is_mmap_address(run.begin) && run.n_reserved >= 32 * GIB
}
