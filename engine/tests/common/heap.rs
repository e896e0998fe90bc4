//! Heap of the whole process, counted by its allocator: for tests that are programs of their own, with one test at a time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Passes everything on to the system's allocator and counts the bytes that are out.
struct Counting;

/// Bytes that are out.
pub(crate) static NOW: AtomicUsize = AtomicUsize::new(0);
/// Most bytes that were out at once since it was last set.
pub(crate) static PEAK: AtomicUsize = AtomicUsize::new(0);

fn taken(bytes: usize) {
    PEAK.fetch_max(NOW.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call is passed on unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both exist while bytes are moved; the old ones are given back after.
        taken(size);
        // SAFETY: the caller keeps the contract of `realloc`.
        let new = unsafe { System.realloc(at, layout, size) };
        NOW.fetch_sub(layout.size(), Relaxed);
        new
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
