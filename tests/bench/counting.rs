//! An allocator that counts the allocations of each thread and their bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with counters for each thread.
pub struct Counting;

/// The allocations of one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocations {
    /// The number of allocations. A call that resizes an allocation is counted as one allocation.
    pub n_allocations: u64,
    /// The total number of allocated bytes.
    pub n_bytes: u64,
}

thread_local! {
    // The variable has a constant initial value and no destructor. So an access to it never allocates memory,
    // and is possible until the thread ends. The allocator below needs both.
    static COUNTED: Cell<Allocations> = const { Cell::new(Allocations { n_allocations: 0, n_bytes: 0 }) };
}

/// Returns the allocations of this thread while `work` runs.
pub fn during(work: impl FnOnce()) -> Allocations {
    let before = COUNTED.get();
    work();
    let after = COUNTED.get();
    Allocations {
        n_allocations: after.n_allocations - before.n_allocations,
        n_bytes: after.n_bytes - before.n_bytes,
    }
}

fn count(n_bytes: usize) {
    let Allocations { n_allocations, n_bytes: sum } = COUNTED.get();
    COUNTED.set(Allocations { n_allocations: n_allocations + 1, n_bytes: sum + n_bytes as u64 });
}

// SAFETY: every call is passed unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        unsafe { System.realloc(memory, layout, new_size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}
