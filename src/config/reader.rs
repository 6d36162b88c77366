//! Reads the file and the environment over the defaults, and fits what they say to the types of the
//! modules.

use super::{DEFAULTS, path_of};
use crate::private;
use crate::secret::Secret;
use figment::Figment;
use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Value};
use serde::de::value::Error;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The keys whose values are secrets. In the place of each may stand the name of a file that has it:
/// the same key with [`FILE`].
const SECRETS: [&str; 3] = ["password", "password_hash", "client_secret"];
const FILE: &str = "_file";
/// No secret of a file is longer, in bytes.
pub(crate) const LONGEST_SECRET: u64 = 4096;

const DIRECTORY: [&str; 5] = ["user", "device", "device_range", "group", "voice_environment"];

/// Keys of sections that are obeyed while the process runs, besides those of the directory.
const LIVE: [(&str, &str); 2] = [("sip", "trunk"), ("directory", "end_calls_of_removed_devices")];

/// A key's path and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) path: Vec<String>,
    pub(super) message: String,
}

/// Where the keys of some fields stand: in which table, and what precedes the name of the field.
struct Place<'a> {
    table: Vec<String>,
    prefix: &'a str,
}

/// One table of the configuration.
struct ConfigTable {
    values: Dict,
    /// Of a section. A table of a list has none: what is wrong there has no value to go on with.
    defaults: Option<Dict>,
    /// The keys that some type has a field for.
    known: Vec<String>,
}

/// Hands out the values, and goes on after each problem with a stand-in for the value, so that all
/// problems are found.
pub(super) struct ConfigReader {
    tables: BTreeMap<Vec<String>, ConfigTable>,
    findings: Vec<Finding>,
    /// The keys whose values are stand-ins.
    faulty: Vec<Vec<String>>,
    /// Every key outside the directory, with its value.
    settings: BTreeMap<String, String>,
    /// Where files that are named without a directory are looked for first.
    credentials: Option<PathBuf>,
    /// The files that secrets were read from.
    files: Vec<PathBuf>,
}

/// All that was wrong with single keys.
pub(super) struct Findings {
    pub(super) findings: Vec<Finding>,
    /// Of these, and of the keys that are missing, those that have been read as something else:
    /// what they have to do with other keys is not known.
    pub(super) faulty: Vec<Vec<String>>,
    /// The files that secrets were read from.
    pub(super) files: Vec<PathBuf>,
}

impl ConfigReader {
    /// `credentials`: where files that are named without a directory are looked for first.
    ///
    /// # Errors
    /// The file cannot be laid over the defaults.
    pub(super) fn new(
        text: Option<&str>,
        environment: &BTreeMap<String, String>,
        credentials: Option<PathBuf>,
    ) -> Result<Self, Vec<Finding>> {
        let mut values = layers(text.unwrap_or_default(), environment).map_err(|errors| {
            let finding = |error: figment::Error| Finding {
                message: describe(&error.kind),
                path: error.path,
            };
            errors.into_iter().map(finding).collect::<Vec<Finding>>()
        })?;
        let defaults = dict(DEFAULTS);
        let mut reader = Self {
            tables: BTreeMap::new(),
            findings: Vec::new(),
            faulty: Vec::new(),
            settings: settings_of(&values),
            credentials,
            files: Vec::new(),
        };
        for (name, default) in &defaults {
            let Value::Dict(_, defaults) = default else {
                continue;
            };
            let path = vec![name.clone()];
            let values = match values.remove(name) {
                Some(Value::Dict(_, section)) => section,
                Some(_) => {
                    reader.found(path.clone(), format!("must be a section: [{name}]"));
                    reader.faulty.push(path.clone());
                    defaults.clone()
                }
                None => defaults.clone(),
            };
            reader.insert(path, values, Some(defaults.clone()));
        }
        reader.insert(Vec::new(), values, Some(defaults));
        Ok(reader)
    }

    /// Every key outside the directory, with its value.
    pub(super) fn settings(&mut self) -> BTreeMap<String, String> {
        std::mem::take(&mut self.settings)
    }

    fn insert(&mut self, path: Vec<String>, values: Dict, defaults: Option<Dict>) {
        let known = Vec::new();
        self.tables.insert(path, ConfigTable { values, defaults, known });
    }

    fn found(&mut self, path: Vec<String>, message: String) {
        let finding = Finding { path, message };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Reads a type of which every field is a key of one section. The section without a name is the
    /// top of the file.
    pub(super) fn section<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        self.sections(&[(name, "")])
    }

    /// Reads a type of which the fields are keys of several sections, each given with the prefix of
    /// its keys. A key stands in the first section that has a default for it; a field without a
    /// default in any of them is no key.
    pub(super) fn sections<T: DeserializeOwned>(
        &mut self,
        sections: &[(&str, &'static str)],
    ) -> Option<T> {
        let place = |(name, prefix): &(&str, &'static str)| Place {
            table: Some(*name)
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .into_iter()
                .collect(),
            prefix,
        };
        self.fitted(&sections.iter().map(place).collect::<Vec<_>>())
    }

    /// Reads each table of a list as one type.
    pub(super) fn items<T: DeserializeOwned>(&mut self, list: &[&str]) -> Vec<T> {
        let tables = self.tables_of(list);
        tables.into_iter().filter_map(|table| self.item(table)).collect()
    }

    /// Reads each table of a list as two types, of which the keys are in it side by side.
    pub(super) fn pairs<A: DeserializeOwned, B: DeserializeOwned>(
        &mut self,
        list: &[&str],
    ) -> Vec<(A, B)> {
        let tables = self.tables_of(list);
        let pair = |table: Vec<String>| {
            let (first, second) = (self.item(table.clone()), self.item(table));
            Some((first?, second?))
        };
        tables.into_iter().filter_map(pair).collect()
    }

    /// Reads the table of this name within each table of a list, where there is one; by the number
    /// of the table around it.
    pub(super) fn inner<T: DeserializeOwned>(
        &mut self,
        list: &[&str],
        name: &str,
    ) -> BTreeMap<usize, T> {
        let mut found = BTreeMap::new();
        for (number, path) in self.numbered(list) {
            let Some(outer) = self.tables.get_mut(&path) else { continue };
            outer.known.push(name.to_owned());
            let inner = [path.as_slice(), &[name.to_owned()]].concat();
            match outer.values.remove(name) {
                None => {}
                Some(Value::Dict(_, values)) => {
                    self.insert(inner.clone(), values, None);
                    found.extend(self.item(inner).map(|item| (number, item)));
                }
                Some(_) => {
                    self.faulty.push(inner.clone());
                    self.found(inner, "must be a table".to_owned());
                }
            }
        }
        found
    }

    /// Reads the tables of the list of this name within each table of a list; by the number of the
    /// table around them.
    pub(super) fn inner_items<T: DeserializeOwned>(
        &mut self,
        list: &[&str],
        name: &str,
    ) -> BTreeMap<usize, Vec<T>> {
        let mut found = BTreeMap::new();
        for (number, path) in self.numbered(list) {
            if let Some(outer) = self.tables.get_mut(&path) {
                outer.known.push(name.to_owned());
            }
            let steps: Vec<&str> = path.iter().map(String::as_str).chain([name]).collect();
            found.insert(number, self.items(&steps));
        }
        found
    }

    /// The tables of a list that has been taken apart, and their numbers.
    fn numbered(&self, list: &[&str]) -> Vec<(usize, Vec<String>)> {
        let number = |path: &Vec<String>| {
            let (number, around) = path.split_last()?;
            let is_of_list = around.iter().map(String::as_str).eq(list.iter().copied());
            Some((number.parse().ok().filter(|_| is_of_list)?, path.clone()))
        };
        self.tables.keys().filter_map(number).collect()
    }

    fn item<T: DeserializeOwned>(&mut self, table: Vec<String>) -> Option<T> {
        self.fitted(&[Place { table, prefix: "" }])
    }

    fn fitted<T: DeserializeOwned>(&mut self, places: &[Place<'_>]) -> Option<T> {
        let mut keys: BTreeMap<&str, (Vec<String>, String)> = BTreeMap::new();
        let mut values = Dict::new();
        for field in field_names::<T>() {
            let Some((path, key)) = self.place_of(field, places) else {
                continue;
            };
            let table = self.tables.get_mut(&path)?;
            if !table.known.contains(&key) {
                table.known.push(key.clone());
            }
            let mut value = table.values.get(&key).cloned();
            if is_secret_key(&key) {
                value = self.secret(&path, &key, value);
            } else if names_a_secret(&path, &key) {
                value = value.map(|value| self.found_file(value));
            }
            if let Some(value) = value {
                values.insert((*field).to_owned(), value);
            }
            keys.insert(field, (path, key));
        }
        let mut tried: BTreeMap<Vec<String>, usize> = BTreeMap::new();
        loop {
            let error = match Value::from(values.clone()).deserialize::<T>() {
                Ok(fitted) => return Some(fitted),
                Err(error) => error,
            };
            let mut at = error.path;
            at.truncate(2);
            let field = match (at.first(), &error.kind) {
                (Some(field), _) => field.clone(),
                (None, Kind::MissingField(field)) => field.clone().into_owned(),
                (None, _) => {
                    self.found(places.first()?.table.clone(), describe(&error.kind));
                    return None;
                }
            };
            let is_missing = at.is_empty();
            let (table, key) = keys.get(field.as_str())?;
            let full: Vec<String> =
                table.iter().chain([key]).chain(at.iter().skip(1)).cloned().collect();
            if is_missing {
                at.push(field.clone());
            }
            if !tried.keys().any(|path| at.starts_with(path) || path.starts_with(&at)) {
                self.faulty.push(full.clone());
                let message = described(&full, &error.kind);
                self.found(if is_missing { table.clone() } else { full }, message);
            }
            let defaults = self.tables.get(table)?.defaults.as_ref();
            let default = defaults.and_then(|defaults| defaults.get(key));
            loop {
                let number = tried.entry(at.clone()).or_default();
                let stand_in = stand_ins(default, &values, &at).into_iter().nth(*number);
                *number += 1;
                match stand_in {
                    Some(stand_in) => break put(&mut values, &at, stand_in),
                    None if at.len() > 1 => at.truncate(1),
                    None => return None,
                }
            }
        }
    }

    /// The value of a secret: `given`, or what is in the file that is named in its place. Where that
    /// can not be had, something else.
    fn secret(&mut self, table: &[String], key: &str, given: Option<Value>) -> Option<Value> {
        let file_key = format!("{key}{FILE}");
        let entries = self.tables.get_mut(table)?;
        if !entries.known.contains(&file_key) {
            entries.known.push(file_key.clone());
        }
        let Some(named) = entries.values.get(&file_key).cloned() else {
            return given;
        };
        let path = |key: &str| table.iter().cloned().chain([key.to_owned()]).collect::<Vec<_>>();
        let read = match (&given, self.found_file(named)) {
            (Some(_), _) => Err(format!("{key} is there, too: one of the two")),
            (None, Value::String(_, file)) => {
                let file = PathBuf::from(file);
                let read = secret_of(&file);
                self.files.push(file);
                read
            }
            (None, _) => Err("must be the name of a file".to_owned()),
        };
        match read {
            Ok(secret) => Some(Value::from(secret.expose().as_str())),
            Err(message) => {
                self.found(path(&file_key), message);
                self.faulty.extend([path(&file_key), path(key)]);
                Some(Value::from(STAND_IN_SECRET))
            }
        }
    }

    /// The file that is meant: one of the directory of credentials, if it is there.
    fn found_file(&self, named: Value) -> Value {
        let Value::String(tag, name) = &named else {
            return named;
        };
        let credentials = self.credentials.as_ref().filter(|_| !name.contains('/'));
        let found = credentials.map(|folder| folder.join(name)).filter(|file| file.is_file());
        match found.as_deref().and_then(Path::to_str) {
            Some(found) => Value::String(*tag, found.to_owned()),
            None => named,
        }
    }

    /// The table and the key of a field.
    fn place_of(&self, field: &str, places: &[Place<'_>]) -> Option<(Vec<String>, String)> {
        let found = |place: &&Place<'_>| {
            let key = format!("{}{field}", place.prefix);
            let defaults = self.tables.get(&place.table).and_then(|table| table.defaults.as_ref());
            places.len() == 1 || defaults.is_some_and(|defaults| defaults.contains_key(&key))
        };
        let place = places.iter().find(found)?;
        Some((place.table.clone(), format!("{}{field}", place.prefix)))
    }

    /// Takes a list of tables apart; the path of each.
    fn tables_of(&mut self, path: &[&str]) -> Vec<Vec<String>> {
        let path: Vec<String> = path.iter().map(|step| (*step).to_owned()).collect();
        let parent =
            path.split_last().and_then(|(name, parent)| Some((name, self.tables.get_mut(parent)?)));
        let items = match parent.and_then(|(name, parent)| parent.values.remove(name)) {
            None => return Vec::new(),
            Some(Value::Array(_, items)) => items,
            Some(_) => {
                let message = format!("must be a list of tables: [[{}]]", path.join("."));
                self.faulty.push(path.clone());
                self.found(path, message);
                return Vec::new();
            }
        };
        let mut tables = Vec::new();
        let are_tables = items.iter().all(|item| matches!(item, Value::Dict(..)));
        if !are_tables {
            // What its other tables say is not known by their numbers any more.
            self.faulty.push(path.clone());
        }
        for (number, item) in items.into_iter().enumerate() {
            let path: Vec<String> = path.iter().cloned().chain([number.to_string()]).collect();
            match item {
                Value::Dict(_, values) => {
                    self.insert(path.clone(), values, None);
                    tables.push(path);
                }
                _ => self.found(path, "must be a table".to_owned()),
            }
        }
        tables
    }

    /// All that was wrong, the keys that no type has a field for included.
    pub(super) fn finish(mut self) -> Findings {
        for (path, table) in std::mem::take(&mut self.tables) {
            for name in table.values.keys().filter(|name| !table.known.contains(name)) {
                let message = match path.is_empty() {
                    true => format!("there is no section or key '{name}'"),
                    false => format!(
                        "there is no key '{name}' here; there are: {}",
                        table.known.join(", ")
                    ),
                };
                self.found(path.iter().chain([name]).cloned().collect(), message);
            }
        }
        Findings { findings: self.findings, faulty: self.faulty, files: self.files }
    }
}

/// The keys of sections, and those of none, as text that changes when the value does.
fn settings_of(values: &Dict) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for (name, value) in values.iter().filter(|(name, _)| !DIRECTORY.contains(&name.as_str())) {
        let Value::Dict(_, section) = value else {
            settings.insert(name.clone(), text_of(value));
            continue;
        };
        let is_live = |key: &str| LIVE.contains(&(name, key));
        let keys = section.iter().filter(|(key, _)| !is_live(key));
        settings.extend(keys.map(|(key, value)| (format!("{name}.{key}"), text_of(value))));
    }
    settings
}

fn text_of(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Stands for a secret that can not be read.
const STAND_IN_SECRET: &str = "secret";
/// Values each of which some type takes.
const STAND_INS: [&str; 5] = ["1", "192.0.2.1", "PCMU", "Agent", "api-voice"];

/// What may stand in for a value that is wrong or missing, so that what comes after it is looked at
/// too; `None`: nothing. `at`: its field, and which element of it.
fn stand_ins(default: Option<&Value>, values: &Dict, at: &[String]) -> Vec<Option<Value>> {
    let near: Vec<Option<Value>> = match at {
        [field, _, ..] => [default, values.get(field)]
            .into_iter()
            .flatten()
            .flat_map(elements)
            .map(Some)
            .collect(),
        _ => vec![default.cloned()],
    };
    let words = STAND_INS.map(|word| Some(Value::from(word)));
    near.into_iter()
        .chain(words)
        .chain([Some(Value::from(1)), Some(Value::from(Vec::<Value>::new()))])
        .collect()
}

fn elements(value: &Value) -> Vec<Value> {
    value.as_array().map(<[Value]>::to_vec).unwrap_or_default()
}

fn put(values: &mut Dict, at: &[String], value: Option<Value>) {
    let Some((field, element)) = at.split_first() else {
        return;
    };
    let number = element.first().and_then(|number| number.parse::<usize>().ok());
    match (number, value) {
        (None, Some(value)) => drop(values.insert(field.clone(), value)),
        (None, None) => drop(values.remove(field)),
        (Some(number), Some(value)) => {
            if let Some(Value::Array(_, elements)) = values.get_mut(field)
                && let Some(element) = elements.get_mut(number)
            {
                *element = value;
            }
        }
        (Some(_), None) => {}
    }
}

#[expect(clippy::result_large_err, reason = "figment's error; once at the start")]
fn layers(text: &str, environment: &BTreeMap<String, String>) -> Result<Dict, figment::Error> {
    let mut defaults = dict(DEFAULTS);
    let own = Figment::from(Toml::string(text)).extract::<Dict>()?;
    if DIRECTORY.iter().any(|name| own.contains_key(*name)) {
        DIRECTORY.iter().for_each(|name| {
            defaults.remove(*name);
        });
    }
    let mut figment =
        Figment::new().merge(Serialized::defaults(defaults)).merge(Serialized::defaults(own));
    for (key, value) in environment {
        // A value that is no TOML is text; `Value`'s parser never fails.
        let value: Value = match value.parse() {
            Ok(value) => value,
            Err(never) => match never {},
        };
        figment = figment.merge(Serialized::default(&path_of(key).join("."), value));
    }
    figment.extract()
}

fn dict(text: &str) -> Dict {
    // The defaults are part of the program, and a test reads them.
    Figment::from(Toml::string(text)).extract().unwrap_or_default()
}

/// What is wrong with the value of a key; of a secret, without it.
fn described(path: &[String], kind: &Kind) -> String {
    match kind {
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) if is_secret(path) => {
            format!("expected {expected}")
        }
        kind => describe(kind),
    }
}

/// The value of this key is never shown.
pub(super) fn is_secret(path: &[String]) -> bool {
    path.last().is_some_and(|key| is_secret_key(key))
}

fn is_secret_key(key: &str) -> bool {
    SECRETS.contains(&key)
}

/// The key names a file that an operator may keep with other credentials. That of `grpc.token_file`
/// is made in the state directory.
fn names_a_secret(table: &[String], key: &str) -> bool {
    match table.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => key == "backend_token_file",
        ["tls"] => true,
        ["grpc", "caller", _] => key == "token_file",
        _ => false,
    }
}

/// The secret in a file: all of it but the end of its only line.
fn secret_of(file: &Path) -> Result<Secret, String> {
    let bytes = private::read_secret(file, LONGEST_SECRET).map_err(|error| error.to_string())?;
    let wrong = |what: &str| format!("{}: {what}", file.display());
    let text = std::str::from_utf8(bytes.expose()).map_err(|_| wrong("it is not UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    match text.strip_suffix('\r').unwrap_or(text) {
        "" => Err(wrong("it is empty")),
        text if text.contains(['\r', '\n']) => Err(wrong("it has more than one line")),
        text => Ok(text.into()),
    }
}

/// The first secret that stands in the text of a file.
pub(super) fn first_secret(text: &str) -> Option<Vec<String>> {
    fn within(value: &Value, path: &[String]) -> Option<Vec<String>> {
        let below = |step: String| [path, &[step]].concat();
        match value {
            Value::Dict(_, values) => values.iter().find_map(|(key, value)| {
                let path = below(key.clone());
                if is_secret_key(key) { Some(path) } else { within(value, &path) }
            }),
            Value::Array(_, items) => {
                let mut items = items.iter().enumerate();
                items.find_map(|(number, item)| within(item, &below(number.to_string())))
            }
            _ => None,
        }
    }
    within(&Value::from(dict(text)), &[])
}

fn describe(kind: &Kind) -> String {
    match kind {
        Kind::UnknownField(name, known) => {
            format!("there is no key '{name}' here; there are: {}", known.join(", "))
        }
        Kind::MissingField(name) => format!("'{name}' is missing"),
        Kind::UnknownVariant(found, known) => {
            format!("'{found}' is not one of {}", known.join(", "))
        }
        Kind::InvalidType(found, expected) => format!("found {found}, expected {expected}"),
        other => other.to_string(),
    }
}

/// The fields of a struct as serde reads them.
fn field_names<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // It only looks, and always ends in an error.
    let _ = T::deserialize(FieldNames(&mut names));
    names
}

struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom("only its fields are wanted"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
