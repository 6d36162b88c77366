//! What the process takes of the machine, under the names that Prometheus' client libraries have
//! for it.

use nix::sys::resource::{Resource, getrlimit};
use std::fs;

/// Ticks of a second in `/proc` (proc(5), USER_HZ): 100 on every machine of this century.
const TICKS: f64 = 100.0;

const GAUGES: [(&str, &str); 6] = [
    ("process_resident_memory_bytes", "Resident memory size in bytes."),
    ("process_virtual_memory_bytes", "Virtual memory size in bytes."),
    ("process_open_fds", "Number of open file descriptors."),
    ("process_max_fds", "Maximum number of open file descriptors."),
    ("process_threads", "Number of OS threads in the process."),
    ("process_start_time_seconds", "Start time of the process since unix epoch in seconds."),
];

pub(super) fn describe() {
    for (name, help) in GAUGES {
        metrics::describe_gauge!(name, help);
    }
    metrics::describe_counter!(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds."
    );
}

/// Reads it anew. What the system does not tell is left as it was.
pub(super) fn measure() {
    let file = |path| fs::read_to_string(path).unwrap_or_default();
    let (status, stat) = (file("/proc/self/status"), Stat::parse(&file("/proc/self/stat")));
    let kibibytes = |field| figure(&status, field).map(|number| number * 1024.0);
    let set = |name: &'static str, value: Option<f64>| {
        if let Some(value) = value {
            metrics::gauge!(name).set(value);
        }
    };
    set("process_resident_memory_bytes", kibibytes("VmRSS:"));
    set("process_virtual_memory_bytes", kibibytes("VmSize:"));
    set("process_threads", figure(&status, "Threads:"));
    // Without the one that the directory is read by.
    let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1));
    set("process_open_fds", open.map(|open| open as f64));
    let limit = getrlimit(Resource::RLIMIT_NOFILE).ok();
    set("process_max_fds", limit.map(|(soft, _)| soft as f64));
    let booted = figure(&file("/proc/stat"), "btime");
    let started = stat.as_ref().zip(booted).map(|(stat, booted)| booted + stat.started);
    set("process_start_time_seconds", started);
    if let Some(stat) = stat {
        // Whole seconds: a counter counts in ones.
        metrics::counter!("process_cpu_seconds_total").absolute(stat.cpu as u64);
    }
}

/// The first number after a field's name.
fn figure(text: &str, field: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(field))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Of `/proc/self/stat`, in seconds.
#[derive(Debug, PartialEq)]
struct Stat {
    /// In user and kernel mode.
    cpu: f64,
    /// After the machine's own start.
    started: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name of the program may contain anything; it ends with the last bracket, before the
        // third field.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        let seconds = |field| ticks(field).map(|ticks| ticks / TICKS);
        Some(Self { cpu: seconds(14)? + seconds(15)?, started: seconds(22)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let text = "7 (a) b) 1 2 (c)) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 9 0 4200 0 0\n";
        assert_eq!(Stat::parse(text), Some(Stat { cpu: 2.0, started: 42.0 }));
        for text in ["", "7 (a", "7 (a) S 1", "7 (a) S 1 7 7 0 -1 4 1 2 3 4 x y 0 0 20 0 9 0 z"] {
            assert_eq!(Stat::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_figure_is_the_number_after_its_name() {
        let text = "VmPeak:\t  9 kB\nVmRSS:\t  2048 kB\nThreads:\t12\n";
        assert_eq!(figure(text, "VmRSS:"), Some(2048.0));
        assert_eq!(figure(text, "Threads:"), Some(12.0));
        assert_eq!(figure(text, "VmSize:"), None);
    }
}
