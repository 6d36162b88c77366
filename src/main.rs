//! Undertone: command line.
fn main() {}
