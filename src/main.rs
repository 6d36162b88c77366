//! Undertone: the program. What it is asked to do is read by `cli`.

mod cli;

use std::process::ExitCode;

/// Answering a poll takes some dozen small allocations; this allocator makes them at a third of the
/// system's price.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    undertone::tls::install_provider();
    cli::run()
}
