//! The server's core and the load's, and what a process has taken of them.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::error::Error;
use std::time::Duration;

/// Which core is whose.
#[derive(Clone, Copy)]
pub struct Cores {
    pub server: usize,
    pub generator: usize,
}

impl Cores {
    /// The first two that we may use; on a machine of one core both are the same.
    pub fn find() -> Result<Self, Box<dyn Error>> {
        let ours = sched_getaffinity(Pid::from_raw(0))?;
        let mut usable = (0..CpuSet::count()).filter(|core| ours.is_set(*core).unwrap_or(false));
        let server = usable.next().ok_or("no core")?;
        let generator = usable.next().unwrap_or(server);
        pin(generator)?;
        Ok(Self { server, generator })
    }
}

/// This thread, and what it starts, from now on.
pub fn pin(core: usize) -> Result<(), Box<dyn Error>> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// CPU time so far of all threads of a process, those that have ended too, to the nanosecond.
pub fn cpu_of(process: u32) -> Result<Duration, Box<dyn Error>> {
    // clock_getcpuclockid(3): the clock of a process is its id, inverted, above three bits.
    const SCHEDULED: i32 = 2;
    let id = i32::try_from(process)?;
    Ok(clock_gettime(ClockId::from_raw((!id << 3) | SCHEDULED))?.into())
}
