//! How much one call allocates at most, counted by the allocator itself.
//!
//! The counters are per thread, so that parallel tests do not disturb one another. They count *requested* bytes:
//! stricter than resident memory, because jemalloc reserves lazily.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

use tikv_jemallocator::Jemalloc;

/// The largest allocation of a decoder for any input. `hostile-input` tests the same bound for a whole broker.
pub const GROWTH_MAX_BYTES: usize = 64 * 1024 * 1024;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Jemalloc, which every binary uses, with counters.
pub struct Counting;

fn count(change: isize) {
    // While a thread ends its counters are gone: nothing is measured then.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + change);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// An allocator cannot be written without `unsafe`; every call is handed to jemalloc as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { Jemalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { Jemalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { Jemalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size as isize - layout.size() as isize);
        unsafe { Jemalloc.realloc(pointer, layout, new_size) }
    }
}

/// Runs `work`; returns its result, and the highest growth of its allocated bytes.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.with(Cell::get);
    PEAK.with(|peak| peak.set(before));
    let result = work();
    let rise = PEAK.with(Cell::get) - before;
    (result, usize::try_from(rise).unwrap_or(0))
}
