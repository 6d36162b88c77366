//! The committed corpora of the fuzz targets, replayed.

use crate::corpus;

#[path = "../../fuzz/bayeux_targets.rs"]
mod targets;

fn replay(name: &str, target: fn(&[u8])) {
    let files = corpus::directory(&format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR")));
    assert!(!files.is_empty(), "{name} has no corpus");
    for (_, bytes) in files {
        target(&bytes);
        // And what is left of it when the end is missing.
        for end in (0..bytes.len()).step_by(7) {
            target(&bytes[..end]);
        }
    }
}

#[test]
fn no_committed_message_breaks_the_event_channel() {
    replay("bayeux_message", targets::bayeux_message);
}

#[test]
fn no_committed_sequence_of_operations_loses_or_doubles_an_event() {
    replay("bayeux_session", targets::bayeux_session);
}
