#![no_main]

#[path = "../bayeux_targets.rs"]
#[allow(dead_code)]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::bayeux_message(data));
