//! Users, devices and groups as CSV: a line each, and columns that are keys of the configuration
//! file. Lists are words with blanks between them.

use super::fields::Fields;
use serde_json::{Map, Value};
use std::io::{Read, Write};

/// Columns of users: the keys, and the digest of the password.
pub const USERS: &[&str] = &[
    "id",
    "display_name",
    "first_name",
    "last_name",
    "email",
    "roles",
    "features",
    "devices",
    PASSWORD_HASH,
];
/// Columns of devices.
pub const DEVICES: &[&str] = &[
    "id",
    "number",
    "aliases",
    "via",
    "user",
    "kind",
    "voice_environment",
    "nat",
    "own_ports",
    "srtp",
    "srtp_over_clear",
    "transport",
    "qualify",
    "auto_answer",
    "user_data_headers",
    "send_user_data",
    "ha1_md5",
    "ha1_sha256",
    "ha1_sha512_256",
];
/// Columns of groups.
pub const GROUPS: &[&str] =
    &["id", "agents", "supervisors", "monitor_supervisors", "agent_side_only"];

/// The column of a password in clear, in a file that is taken in.
pub const PASSWORD: &str = "password";
/// The column of a user's digest.
pub const PASSWORD_HASH: &str = "password_hash";

const LISTS: &[&str] = &["roles", "features", "devices", "aliases", "agents", "supervisors"];
const SWITCHES: &[&str] = &[
    "own_ports",
    "srtp_over_clear",
    "qualify",
    "auto_answer",
    "monitor_supervisors",
    "agent_side_only",
];
const TABLES: &[&str] = &["user_data_headers", "send_user_data"];

/// What is wrong with a table, and on which line.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It is no CSV.
    #[error(transparent)]
    Csv(#[from] csv::Error),
    /// A column that is no key.
    #[error("there is no column '{0}' here; there are: {1}")]
    Column(String, String),
    /// A cell that can not be read.
    #[error("line {line}: {column}: '{text}' {problem}")]
    Cell {
        /// The line, from 1.
        line: u64,
        /// Its column.
        column: String,
        /// What stands there.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// The entries of a table, each with its line. Empty cells are left out.
///
/// # Errors
/// The first thing that is wrong.
pub fn read(text: impl Read, columns: &[&str]) -> Result<Vec<(u64, Fields)>, TableError> {
    let mut reader = csv::Reader::from_reader(text);
    let names: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
    for name in &names {
        if !columns.contains(&name.as_str()) && name != PASSWORD {
            return Err(TableError::Column(name.clone(), columns.join(", ")));
        }
    }
    let mut entries = Vec::new();
    for record in reader.records() {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        let mut fields = Fields::new();
        for (name, text) in names.iter().zip(record.iter()).filter(|(_, text)| !text.is_empty()) {
            let value = value(name, text).ok_or_else(|| TableError::Cell {
                line,
                column: name.clone(),
                text: match name == PASSWORD || name == PASSWORD_HASH {
                    true => "…".to_owned(),
                    false => text.to_owned(),
                },
                problem: "can not stand here",
            })?;
            fields.insert(name.clone(), value);
        }
        entries.push((line, fields));
    }
    Ok(entries)
}

fn value(name: &str, text: &str) -> Option<Value> {
    let is = |list: &[&str]| list.contains(&name);
    Some(match text {
        _ if is(LISTS) => text.split_whitespace().map(Value::from).collect(),
        _ if is(SWITCHES) => Value::Bool(text.parse().ok()?),
        _ if is(TABLES) => {
            let pairs = text.split(';').map(|pair| pair.trim().split_once('='));
            let pairs = pairs.map(|pair| {
                pair.map(|(name, key)| (name.trim().to_owned(), Value::from(key.trim())))
            });
            Value::Object(pairs.collect::<Option<Map<String, Value>>>()?)
        }
        "true" | "false" if name == "nat" => Value::Bool(text == "true"),
        _ => Value::from(text),
    })
}

/// Writes entries with these columns.
///
/// # Errors
/// Nothing can be written there.
pub fn write(
    to: impl Write,
    columns: &[&str],
    entries: impl IntoIterator<Item = Fields>,
) -> Result<(), TableError> {
    let mut writer = csv::Writer::from_writer(to);
    writer.write_record(columns)?;
    for entry in entries {
        writer.write_record(columns.iter().map(|name| cell(entry.get(*name))))?;
    }
    writer.flush().map_err(csv::Error::from)?;
    Ok(())
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(words)) => {
            words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
        }
        Some(Value::Object(pairs)) => {
            let pair = |(name, key): (&String, &Value)| {
                format!("{name}={}", key.as_str().unwrap_or_default())
            };
            pairs.iter().map(pair).collect::<Vec<_>>().join(";")
        }
        Some(other @ (Value::Bool(_) | Value::Number(_))) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let Value::Object(device) = json!({
            "id": "d1", "number": "5001", "aliases": ["desk", "5001@house"], "kind": "house",
            "nat": true, "own_ports": false, "user_data_headers": {"X-A": "a", "X-B": "b"},
            "voice_environment": "a, \"b\"\nc",
        }) else {
            panic!("an object")
        };
        let mut text = Vec::new();
        write(&mut text, DEVICES, [device.clone()]).expect("written");
        let read = read(text.as_slice(), DEVICES).expect("read");
        assert_eq!(read, [(2, device)]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_never_with_a_password() {
        let column = read("id,colour\n".as_bytes(), USERS).expect_err("no column");
        assert!(column.to_string().contains("'colour'"), "{column}");
        let cell = read("id,qualify\nd1,maybe\n".as_bytes(), DEVICES).expect_err("no switch");
        assert_eq!(cell.to_string(), "line 2: qualify: 'maybe' can not stand here");
    }
}
