//! The rules that look at a single mapping.

use crate::smaps::place::{ACCOUNTED, GUARDED, NO_HUGE_PAGES, NO_RESERVE, NOT_FORKED, Place};
use crate::totals::anon_part::AnonPart;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
/// The size and alignment of an arena of glibc or Go. A JVM reserves memory in units of this size, too.
pub const ARENA: u64 = 64 * MIB;

/// The usual sizes of thread stacks: `ulimit -s`, the default of a JVM, and this default without the stack's
/// guard.
pub const USUAL_STACKS: [u64; 3] = [8192 * KIB, 1024 * KIB, 1008 * KIB];

/// A mapping, and the unnamed mappings directly below and above it.
pub struct Spot<'a> {
    pub place: &'a Place,
    pub below: Option<&'a Place>,
    pub above: Option<&'a Place>,
}

impl Spot<'_> {
    /// Whether [`is_malloc_arena`] or [`is_jemalloc`] may have to see the mapping above. Only then must the
    /// values of this mapping be copied.
    pub fn depends_on_above(&self) -> bool {
        let place = self.place;
        let reaches_arena = || place.begin.wrapping_sub(1) / ARENA != place.end / ARENA;
        place.is_followed && place.is_writable() && (place.has(NO_RESERVE) || reaches_arena())
    }
}

/// A function that returns whether the rule claims a mapping.
type Rule = fn(&Spot<'_>) -> bool;

/// The rules in the order in which they are tried. A mapping belongs to the part of the first rule that
/// returns true.
pub const RULES: [(Rule, AnonPart); 6] = [
    (is_jit_code, AnonPart::JitCode),
    (is_v8_heap, AnonPart::V8Heap),
    (is_flagged_stack, AnonPart::ThreadStacks),
    (is_malloc_arena, AnonPart::MallocArenas),
    (is_mimalloc, AnonPart::Allocator),
    (is_jemalloc, AnonPart::Allocator),
];

/// Whether the mapping is code that a JVM, V8 or PyPy made at run time. In recorded processes: recall 97%,
/// precision 100%.
fn is_jit_code(spot: &Spot<'_>) -> bool {
    // A JVM's tables beside its code are missed, because they are not executable.
    spot.place.permissions[2] == b'x'
}

/// Whether the mapping is V8's heap, or memory of WebAssembly. In recorded processes: recall 81% (99% from
/// Node.js 18 on), precision 100%.
fn is_v8_heap(&Spot { place, .. }: &Spot<'_>) -> bool {
    // From Node.js 18 on, V8 marks the pages of its heap so that fork does not copy them
    // (src/base/platform/platform-linux.cc).
    matches!(&place.permissions, b"rw-p" | b"r--p")
        && place.has(NOT_FORKED)
        && place.begin.is_multiple_of(256 * KIB)
}

/// Whether the mapping is a stack that glibc has mapped with MAP_STACK. In recorded processes: recall 99.6%
/// with [`is_stack_above_guard`], precision 99.8%.
fn is_flagged_stack(&Spot { place, below, .. }: &Spot<'_>) -> bool {
    // The guard lies below the stack, or inside it (glibc 2.42, nptl/allocatestack.c). HotSpot, a JVM, makes
    // the guard 16 KiB larger.
    let has_guard = |guard: &Place| guard.is_inaccessible() && guard.size() <= 64 * KIB;
    // From Linux 6.7 on, mappings with MAP_STACK have the flag `nh` (include/linux/mman.h).
    place.is_writable() && place.has(NO_HUGE_PAGES) && (place.has(GUARDED) || below.is_some_and(has_guard))
}

/// Whether the mapping looks like a stack above its guard. Works without the flag `nh`. In recorded
/// processes: recall 99.4%, precision 99.8%.
pub fn is_stack_above_guard(&Spot { place, below, .. }: &Spot<'_>) -> bool {
    place.is_writable()
        && place.is_in_mmap_area()
        && place.lacks(NO_RESERVE | NOT_FORKED)
        && (64 * KIB..=GIB).contains(&place.size())
        && below.is_some_and(|guard| guard.is_inaccessible() && guard.size() <= 20 * KIB)
}

/// Whether the mapping is a heap of a malloc arena of glibc (malloc/arena.c). In recorded processes: recall
/// 99.9%, precision 100%.
fn is_malloc_arena(&Spot { place, above, .. }: &Spot<'_>) -> bool {
    // Until glibc 2.40, such a heap is mapped with MAP_NORESERVE. The kernel may merge a newer heap with
    // memory below.
    let has_nr = place.has(NO_RESERVE);
    let has_rest = above.is_some_and(|rest| {
        let is_in_heap = rest.end.is_multiple_of(ARENA) && rest.size() < ARENA;
        rest.is_inaccessible() && is_in_heap && rest.has(NO_RESERVE) == has_nr
    });
    let n_in_heap = place.end % ARENA;
    let is_heap = match place.begin.is_multiple_of(ARENA) {
        true => has_rest || has_nr && n_in_heap == 0,
        // At least nine tenths of a merged mapping must be the heap.
        false => has_rest && !has_nr && (place.size() / 10 * 9..place.size()).contains(&n_in_heap),
    };
    is_heap && place.is_writable() && place.is_in_mmap_area() && place.lacks(NOT_FORKED)
}

/// Whether the mapping is memory of mimalloc. In recorded processes, together with [`is_jemalloc`]: recall
/// 99.9%, precision 100%.
fn is_mimalloc(&Spot { place, .. }: &Spot<'_>) -> bool {
    // mimalloc reserves aligned areas at addresses between 2 and 32 TiB (src/os.c, mi_os_get_aligned_hint).
    let is_aligned = place.begin.is_multiple_of(32 * MIB) && (2 << 40..32 << 40).contains(&place.begin);
    is_aligned && place.is_writable() && place.has(NO_RESERVE) && place.size() >= MIB
}

/// Whether the mapping is memory of jemalloc. In recorded processes: precision 100%.
fn is_jemalloc(&Spot { place, above, .. }: &Spot<'_>) -> bool {
    let has_flags = place.has(NO_RESERVE) && place.lacks(ACCOUNTED | NOT_FORKED);
    // All memory that jemalloc maps with MAP_NORESERVE is usable immediately (src/pages.c), so a mapping
    // below an inaccessible rest belongs to another allocator.
    let has_reserve = above.is_some_and(|above| above.is_inaccessible() && above.has(NO_RESERVE));
    place.is_writable() && has_flags && !has_reserve && place.is_in_mmap_area()
}
