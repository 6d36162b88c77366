//! Counts what is allocated: by the thread that asks, or by another one that is watched.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static HERE: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

static WATCHED: AtomicI32 = AtomicI32::new(0);
static THERE: AtomicU64 = AtomicU64::new(0);

fn note_bytes(more: usize, less: usize) {
    let _ = BYTES.try_with(|bytes| bytes.set(bytes.get() + more as i64 - less as i64));
}

fn note() {
    // A thread that is ending has no counter any more.
    let _ = HERE.try_with(|count| count.set(count.get() + 1));
    let watched = WATCHED.load(Ordering::Relaxed);
    if watched != 0 && nix::unistd::gettid().as_raw() == watched {
        THERE.fetch_add(1, Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "an allocator is unsafe; it only counts and passes on")]
// SAFETY: everything is the system's allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        note_bytes(layout.size(), 0);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        note_bytes(layout.size(), 0);
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        note_bytes(size, layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note_bytes(0, layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Bytes that this thread holds more than before it did something, as they were asked for.
pub fn kept_by(what: impl FnOnce()) -> i64 {
    let before = BYTES.get();
    what();
    BYTES.get() - before
}

/// Allocations of this thread while it does something.
pub fn during(what: impl FnOnce()) -> u64 {
    let before = HERE.get();
    what();
    HERE.get() - before
}

/// Allocations of the thread of that name while this one does something. One test at a time may
/// ask.
pub fn of_thread_during(name: &str, what: impl FnOnce()) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("the threads").flatten();
    let named = tasks.filter(|task| {
        let comm = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        comm.trim() == name
    });
    let ids: Vec<i32> = named.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect();
    let [id] = ids[..] else { panic!("threads of name {name}: {ids:?}") };
    let before = THERE.load(Ordering::Relaxed);
    WATCHED.store(id, Ordering::Relaxed);
    what();
    WATCHED.store(0, Ordering::Relaxed);
    THERE.load(Ordering::Relaxed) - before
}
