//! Where a key stands.

use super::reader::{Finding, is_secret};
use super::{DEFAULTS, PREFIX, Problem, Problems, path_of};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use toml_edit::{Document, Item, Table, Value};

/// The file and the environment, for telling where a problem is.
pub(super) struct ConfigFile<'a> {
    file: Option<(String, &'a str, Document<&'a str>)>,
    variables: &'a BTreeMap<String, String>,
}

/// Where a key is set. What is set later in this order prevails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Setting<'a> {
    /// Neither in the file nor in the environment.
    Default,
    /// From this byte of the file on.
    File(usize),
    /// By this variable.
    Environment(&'a str),
}

enum Node<'a> {
    Item(&'a Item),
    Table(&'a Table),
    Value(&'a Value),
}

/// The longest value that is shown whole.
const SHOWN: usize = 80;

impl<'a> ConfigFile<'a> {
    /// # Errors
    /// The file is not TOML: where and why.
    pub(super) fn new(
        file: Option<(&Path, &'a str)>,
        variables: &'a BTreeMap<String, String>,
    ) -> Result<Self, Problem> {
        let Some((path, text)) = file else {
            return Ok(Self { file: None, variables });
        };
        let name = path.display().to_string();
        match Document::parse(text) {
            Ok(document) => Ok(Self { file: Some((name, text, document)), variables }),
            Err(error) => Err(Problem {
                place: error
                    .span()
                    .map_or_else(|| name.clone(), |span| format!("{name}:{}", line(text, &span))),
                key: String::new(),
                message: error.message().replace('\n', ", "),
            }),
        }
    }

    /// The problems as they are told: in the order of the file, those of the environment last.
    pub(super) fn problems(&self, findings: Vec<Finding>) -> Problems {
        let mut placed: Vec<(Setting<'_>, Problem)> = Vec::new();
        for Finding { path, message } in findings {
            let at = self.around(&path);
            let place = match (at, &self.file) {
                (Setting::Environment(variable), _) => format!("environment {variable}"),
                (Setting::File(start), Some((name, text, _))) => {
                    format!("{name}:{}", line(text, &(start..start)))
                }
                (Setting::Default, Some((name, _, _))) => name.clone(),
                (Setting::Default | Setting::File(_), None) => format!("environment {PREFIX}*"),
            };
            let message = match self.found(&path) {
                Some(found) if !tells(&message, &found) => format!("{message} (found {found})"),
                Some(_) | None => message,
            };
            placed.push((at, Problem { place, key: spelled(&path), message }));
        }
        placed.sort_by_key(|(at, _)| *at);
        Problems::of(placed.into_iter().map(|(_, problem)| problem).collect())
    }

    /// Where a key is set.
    pub(super) fn setting(&self, path: &[String]) -> Setting<'a> {
        if let Some(variable) = self.variable(|named| path.starts_with(named)) {
            return Setting::Environment(variable);
        }
        let found = self.file.as_ref().and_then(|(_, _, document)| {
            let (span, _, is_itself) = nearest(document.as_table(), path)?;
            is_itself.then_some(span.start)
        });
        found.map_or(Setting::Default, Setting::File)
    }

    /// Where a key is set or, when it is not, the innermost table around it.
    fn around(&self, path: &[String]) -> Setting<'a> {
        let set = self.setting(path);
        if set != Setting::Default {
            return set;
        }
        let (_, _, document) = match &self.file {
            Some(file) => file,
            None => return self.brought(path),
        };
        match nearest(document.as_table(), path) {
            Some((span, _, _)) => Setting::File(span.start),
            None => self.brought(path),
        }
    }

    /// The variable that has brought a table into being.
    fn brought(&self, path: &[String]) -> Setting<'a> {
        let variable = self.variable(|named| named.starts_with(path));
        variable.map_or(Setting::Default, Setting::Environment)
    }

    fn variable(&self, fits: impl Fn(&[String]) -> bool) -> Option<&'a str> {
        self.variables.keys().find(|variable| fits(&path_of(variable))).map(String::as_str)
    }

    /// A key's value as it is written, for people; by default, that says so.
    pub(super) fn value(&self, path: &[String]) -> String {
        let written = self.written(path).map(str::to_owned);
        written.map(|written| shown(&written)).unwrap_or_else(|| {
            let defaults = Document::parse(DEFAULTS).ok();
            let value = defaults.as_ref().and_then(|defaults| {
                let (_, value, is_itself) = nearest(defaults.as_table(), path)?;
                DEFAULTS.get(value?).filter(|_| is_itself)
            });
            value.map_or_else(
                || "not set".to_owned(),
                |value| format!("{} by default", shown(value)),
            )
        })
    }

    /// What has been found at a key, unless it is a secret.
    fn found(&self, path: &[String]) -> Option<String> {
        self.written(path).filter(|_| !is_secret(path)).map(shown)
    }

    fn written(&self, path: &[String]) -> Option<&str> {
        let exact = |variable: &&String| path_of(variable) == path;
        if let Some(variable) = self.variables.keys().find(exact) {
            return self.variables.get(variable).map(String::as_str);
        }
        let (_, text, document) = self.file.as_ref()?;
        let (_, value, is_itself) = nearest(document.as_table(), path)?;
        text.get(value?).filter(|_| is_itself)
    }
}

/// A message says what was found already.
fn tells(message: &str, found: &str) -> bool {
    let bare = found.trim_matches(['"', '\'']);
    !bare.is_empty() && message.contains(bare)
}

/// On one line, and not too long.
fn shown(written: &str) -> String {
    let line = written.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// A key and its value, or the innermost table around it that the document has; whether it is the
/// key itself.
type Found = (Range<usize>, Option<Range<usize>>, bool);

fn nearest(root: &Table, path: &[String]) -> Option<Found> {
    let mut node = Node::Table(root);
    let mut found: Option<Found> = None;
    for (number, step) in path.iter().enumerate() {
        let Some((span, next)) = step_into(&node, step) else {
            return found.map(|(key, value, _)| (key, value, false));
        };
        let is_itself = number + 1 == path.len();
        if let Some(span) = span {
            found = Some((span, next.value(), is_itself));
        } else if let Some((_, _, itself)) = &mut found {
            *itself = is_itself;
        }
        node = next;
    }
    found
}

impl Node<'_> {
    /// Where its value is written, if it is one.
    fn value(&self) -> Option<Range<usize>> {
        match self {
            Node::Item(Item::Value(value)) => value.span(),
            Node::Value(value) => value.span(),
            Node::Item(Item::None | Item::Table(_) | Item::ArrayOfTables(_)) | Node::Table(_) => {
                None
            }
        }
    }
}

fn step_into<'a>(node: &Node<'a>, step: &str) -> Option<(Option<Range<usize>>, Node<'a>)> {
    let number = || step.parse::<usize>().ok();
    match node {
        Node::Table(table) => {
            let (key, item) = table.get_key_value(step)?;
            Some((key.span().or_else(|| item.span()), Node::Item(item)))
        }
        Node::Item(Item::Table(table)) => step_into(&Node::Table(table), step),
        Node::Item(Item::ArrayOfTables(tables)) => {
            let table = tables.get(number()?)?;
            Some((table.span(), Node::Table(table)))
        }
        Node::Item(Item::Value(value)) => step_into(&Node::Value(value), step),
        Node::Item(Item::None) => None,
        Node::Value(Value::InlineTable(table)) => {
            let (key, item) = table.get_key_value(step)?;
            Some((key.span().or_else(|| item.span()), Node::Item(item)))
        }
        Node::Value(Value::Array(values)) => {
            let value = values.get(number()?)?;
            Some((value.span(), Node::Value(value)))
        }
        Node::Value(_) => None,
    }
}

fn line(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// A path as a person writes it: `sip.trunk[0].target`
pub(super) fn spelled(path: &[String]) -> String {
    let mut text = String::new();
    for step in path {
        match step.parse::<usize>() {
            Ok(number) => text.push_str(&format!("[{number}]")),
            Err(_) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(step);
            }
        }
    }
    text
}
