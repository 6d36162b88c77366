//! Where a key stands.

use super::{PREFIX, Problem, path_of};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use toml_edit::{Document, Item, Table, Value};

/// The file and the environment, for telling where a problem is.
pub(super) struct ConfigFile<'a> {
    file: Option<(String, &'a str, Document<&'a str>)>,
    variables: BTreeSet<String>,
}

enum Node<'a> {
    Item(&'a Item),
    Table(&'a Table),
    Value(&'a Value),
}

impl<'a> ConfigFile<'a> {
    /// # Errors
    /// The file is not TOML: where and why.
    pub(super) fn new(
        file: Option<(&Path, &'a str)>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, Problem> {
        let variables = environment.keys().cloned().collect();
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

    pub(super) fn problem(&self, path: &[String], message: String) -> Problem {
        Problem { place: self.place(path), key: spelled(path), message }
    }

    fn place(&self, path: &[String]) -> String {
        let variable = |fits: &dyn Fn(&[String]) -> bool| {
            let variable = self.variables.iter().find(|variable| fits(&path_of(variable)))?;
            Some(format!("environment {variable}"))
        };
        let set_by = || variable(&|named| path.starts_with(named));
        let in_file = || {
            let (name, text, document) = self.file.as_ref()?;
            let span = nearest(document.as_table(), path)?;
            Some(format!("{name}:{}", line(text, &span)))
        };
        let brought_by = || variable(&|named| named.starts_with(path));
        let file_name = || self.file.as_ref().map(|(name, _, _)| name.clone());
        set_by()
            .or_else(in_file)
            .or_else(brought_by)
            .or_else(file_name)
            .unwrap_or_else(|| format!("environment {PREFIX}*"))
    }
}

/// The key itself, or the innermost table around it that the file has.
fn nearest(root: &Table, path: &[String]) -> Option<Range<usize>> {
    let mut node = Node::Table(root);
    let mut found = None;
    for step in path {
        let (span, next) = match step_into(&node, step) {
            Some(next) => next,
            None => return found,
        };
        found = span.or(found);
        node = next;
    }
    found
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
fn spelled(path: &[String]) -> String {
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
