//! The committed data as bytes.

use std::fs;
use std::path::Path;

/// A file of tests/data.
pub(crate) fn file(name: &str) -> Vec<u8> {
    fs::read(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR")))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The files of a directory with their names, sorted.
pub(crate) fn directory(path: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(Path::new(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut files: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.expect("an entry"))
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                fs::read(entry.path()).expect("a file"),
            )
        })
        .collect();
    files.sort();
    files
}

/// All SIP messages of tests/data/torture.
pub(crate) fn torture() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for part in ["rfc4475", "rfc4475_wire_fix", "rfc5118/wire", "rfc5118/archive", "derived"] {
        let named = directory(&format!("{}/tests/data/torture/{part}", env!("CARGO_MANIFEST_DIR")));
        files.extend(
            named
                .into_iter()
                .filter(|(name, _)| name != "index.tsv")
                .map(|(name, bytes)| (format!("{part}/{name}"), bytes)),
        );
    }
    files
}
