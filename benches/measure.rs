//! What the benches share: a figure with its spread, CPU time of threads, memory.

#![allow(dead_code, reason = "each bench takes what it needs")]

use std::alloc::{GlobalAlloc, Layout};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

/// A figure that was measured several times: the median, the least and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub middle: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// `None` without any value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { middle: f64::midpoint(low, high), least, most })
    }

    /// Of a difference: whether it stands out from the noise. No value is negative, and they differ
    /// by less than the median.
    pub fn is_clear(&self) -> bool {
        self.least > 0.0 && self.most - self.least < self.middle
    }

    /// `"1.2 to 1.4"`.
    pub fn range(&self, decimals: usize) -> String {
        format!("{:.decimals$} to {:.decimals$}", self.least, self.most)
    }
}

impl Display for Spread {
    /// `"1.3 (1.2 to 1.4)"`, with the decimals asked for.
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let decimals = out.precision().unwrap_or(2);
        write!(out, "{:.decimals$} ({})", self.middle, self.range(decimals))
    }
}

/// CPU time so far of each thread of a process whose name begins so, to the nanosecond
/// (proc(5): schedstat).
#[derive(Clone, Default)]
pub struct Threads(BTreeMap<String, Duration>);

impl Threads {
    /// `process`: an id, or `self`. Every thread's name begins with `""`.
    pub fn of(process: &str, names: &[&str]) -> Self {
        let tasks =
            std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
        let times = tasks.filter_map(|task| {
            let read = |file: &str| std::fs::read_to_string(task.path().join(file)).ok();
            let name = read("comm")?;
            if !names.iter().any(|start| name.starts_with(start)) {
                return None;
            }
            let nanos = read("schedstat")?.split_whitespace().next()?.parse().ok()?;
            Some((task.file_name().to_string_lossy().into_owned(), Duration::from_nanos(nanos)))
        });
        Self(times.collect())
    }

    /// What the threads have taken since. A thread that has ended meanwhile counts for nothing.
    pub fn since(&self, before: &Threads) -> Duration {
        let taken = self.0.iter().map(|(thread, now)| {
            let then = before.0.get(thread).copied().unwrap_or_default();
            now.saturating_sub(then)
        });
        taken.sum()
    }
}

/// Resident memory of a process in KiB without the pages of files (proc(5): smaps_rollup). To the
/// page, other than VmRSS, which the kernel counts by the batch.
pub fn anonymous_kib(process: &str) -> Result<f64, Box<dyn std::error::Error>> {
    let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    Ok(line.ok_or("no Anonymous")?.trim().trim_end_matches(" kB").parse()?)
}

/// The product's allocator, with a count of the bytes that are held.
pub struct Counting;

static HELD: AtomicIsize = AtomicIsize::new(0);
const INNER: mimalloc::MiMalloc = mimalloc::MiMalloc;

impl Counting {
    /// Bytes that were allocated and not freed, in the whole process.
    pub fn held() -> isize {
        HELD.load(Ordering::Relaxed)
    }
}

#[expect(unsafe_code, reason = "an allocator that counts is written so")]
// SAFETY: every call goes on as it came; the counter beside it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { INNER.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { INNER.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        HELD.fetch_add(size as isize - layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { INNER.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { INNER.dealloc(pointer, layout) }
    }
}
