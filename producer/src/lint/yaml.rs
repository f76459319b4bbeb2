//! YAML as a tree whose every key and value knows its place, which plain deserialisation would forget. All problems of one text are
//! found at once, except that a syntax error ends it.

use std::collections::HashMap;
use std::rc::Rc;

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput, Tag};

use crate::lint::problem::Place;

/// Deepest nesting; Compose needs less than ten.
const DEPTH_MAX: usize = 64;
/// Most entries that merge keys may copy into one text.
const MERGED_ENTRIES_MAX: usize = 100_000;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    /// Also what Compose's `!reset` leaves.
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: Place,
    pub(super) value: Rc<Node>,
}

impl Node {
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(super) fn items(&self) -> &[Rc<Node>] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &*entry.value)
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// True as Compose takes it: quoted or not.
    pub(super) fn is_true(&self) -> bool {
        matches!(self.value, Value::Bool(true)) || self.text() == Some("true")
    }

    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a number with a fraction",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::from(*value),
            Value::Int(value) => Json::from(*value),
            Value::Float(value) => Json::from(*value),
            Value::Text(text) => Json::from(text.as_str()),
            Value::List(items) => items.iter().map(|item| item.to_json()).collect(),
            Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect(),
        }
    }
}

/// Something that makes the text no usable YAML.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: Place,
    pub(super) message: String,
}

/// Every document of the text as far as it is readable, and what is wrong with it.
pub(super) fn parse(text: &str) -> (Vec<Rc<Node>>, Vec<Fault>) {
    let mut options = Options::default();
    options.set_emit_comments(false);
    let mut builder = Builder {
        parser: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        faults: Vec::new(),
        merged: 0,
    };
    let mut documents = Vec::new();
    loop {
        match builder.document() {
            Ok(Some(node)) => documents.push(node),
            Ok(None) => break,
            Err(fault) => {
                builder.faults.push(fault);
                break;
            }
        }
    }
    (documents, builder.faults)
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Rc<Node>>,
    faults: Vec<Fault>,
    merged: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Place), Fault> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, place(&span))),
            Some(Err(error)) => {
                let marker = error.marker();
                let at = Place { line: marker.line(), column: marker.col() + 1, length: 1 };
                Err(Fault { at, message: error.info() })
            }
            None => Ok((Event::StreamEnd, Place::default())),
        }
    }

    fn document(&mut self) -> Result<Option<Rc<Node>>, Fault> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(None),
                (Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _) => {}
                (event, at) => return self.node(event, at, 0).map(Some),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, at: Place, depth: usize) -> Result<Rc<Node>, Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault { at, message: format!("nested deeper than {DEPTH_MAX} levels") });
        }
        let (anchor, tag, value) = match event {
            Event::Alias(id) => {
                let unknown = || Fault { at, message: "this alias stands inside what it names".to_owned() };
                return self.anchors.get(&id).cloned().ok_or_else(unknown);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !tag.as_ref().is_some_and(|tag| is_tag(tag, "str"));
                let value = if plain { resolve(&text) } else { Value::Text(text.into_owned()) };
                (anchor, tag, value)
            }
            Event::SequenceStart(_, anchor, tag) => (anchor, tag, Value::List(self.list(depth)?)),
            Event::MappingStart(_, anchor, tag) => (anchor, tag, Value::Map(self.map(depth)?)),
            other => return Err(Fault { at, message: format!("unexpected {other:?}") }),
        };
        let value = if tag.is_some_and(|tag| is_tag(&tag, "reset")) { Value::Null } else { value };
        let node = Rc::new(Node { at, value });
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Rc<Node>>, Fault> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, at) => items.push(self.node(event, at, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, Fault> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merges = Vec::new();
        loop {
            let (event, key_at) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = self.node(event, key_at, depth + 1)?;
            let (event, at) = self.next()?;
            let value = self.node(event, at, depth + 1)?;
            if merge {
                merges.push(value);
                continue;
            }
            let Some(key) = key_text(&key) else {
                self.faults.push(Fault { at: key_at, message: format!("{} cannot be a key", key.kind()) });
                continue;
            };
            if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                let message = format!("the key `{key}` stands here a second time; first in line {}", first.key_at.line);
                self.faults.push(Fault { at: key_at, message });
                continue;
            }
            entries.push(Entry { key, key_at, value });
        }
        for merge in merges {
            self.merge(&mut entries, &merge)?;
        }
        Ok(entries)
    }

    /// `<<: *base` or `<<: [*a, *b]`: what is already here wins.
    fn merge(&mut self, entries: &mut Vec<Entry>, source: &Node) -> Result<(), Fault> {
        let sources = match &source.value {
            Value::List(items) => items.iter().map(|item| &**item).collect(),
            _ => vec![source],
        };
        for source in sources {
            let Value::Map(base) = &source.value else {
                let message = format!("<< merges mappings, this is {}", source.kind());
                self.faults.push(Fault { at: source.at, message });
                continue;
            };
            self.merged += base.len();
            if self.merged > MERGED_ENTRIES_MAX {
                let message = format!("merge keys copy more than {MERGED_ENTRIES_MAX} entries");
                return Err(Fault { at: source.at, message });
            }
            for entry in base {
                if !entries.iter().any(|own| own.key == entry.key) {
                    entries.push(entry.clone());
                }
            }
        }
        Ok(())
    }
}

fn place(span: &Span) -> Place {
    let one_line = span.start.line() == span.end.line();
    let length = if one_line { span.end.col().saturating_sub(span.start.col()).max(1) } else { 1 };
    Place { line: span.start.line(), column: span.start.col() + 1, length }
}

/// `!reset` and `!override` are Compose's own; `!!str` is YAML's.
fn is_tag(tag: &Tag, suffix: &str) -> bool {
    tag.suffix() == suffix
}

fn key_text(key: &Node) -> Option<String> {
    match &key.value {
        Value::Text(text) => Some(text.clone()),
        Value::Int(value) => Some(value.to_string()),
        Value::Float(value) => Some(value.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null => Some("null".to_owned()),
        Value::List(_) | Value::Map(_) => None,
    }
}

/// A plain scalar, as Compose's own reader takes it: `yes` and `on` are text.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) {
        return Value::Text(text.to_owned());
    }
    let digits = text.replace('_', "");
    let radix =
        |prefix: &str, radix| digits.strip_prefix(prefix).and_then(|rest| i64::from_str_radix(rest, radix).ok());
    if let Some(value) = digits.parse().ok().or(radix("0x", 16)).or(radix("0o", 8)).or(radix("0b", 2)) {
        return Value::Int(value);
    }
    match digits.parse::<f64>() {
        Ok(value) if value.is_finite() && digits.bytes().any(|b| b.is_ascii_digit()) => Value::Float(value),
        _ => Value::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn scalars_as_compose_takes_them() {
        for (text, expect) in [
            ("1_000", "1000"),
            ("-7", "-7"),
            ("0x10", "16"),
            ("1.5", "1.5"),
            ("yes", "\"yes\""),
            ("no", "\"no\""),
            ("True", "true"),
            ("~", "null"),
            ("5s", "\"5s\""),
            ("3000:3000", "\"3000:3000\""),
            ("\"7\"", "\"7\""),
            ("!!str 7", "\"7\""),
            ("!reset [a]", "null"),
            ("!override [a]", "[\"a\"]"),
            ("99999999999999999999", "1e+20"),
        ] {
            let (documents, faults) = parse(&format!("key: {text}\n"));
            assert!(faults.is_empty(), "{text}: {faults:?}");
            assert_eq!(documents[0].get("key").unwrap().to_json().to_string(), expect, "{text}");
        }
    }

    #[test]
    fn anchors_and_merges() {
        let text = "base: &b {x: 1, y: 2}\nmore: &m {z: 3}\nall: {<<: [*b, *m], y: 7}\nsame: *b\n";
        let (documents, faults) = parse(text);
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(documents[0].get("all").unwrap().to_json(), serde_json::json!({"x": 1, "y": 7, "z": 3}));
        assert_eq!(documents[0].get("same").unwrap().to_json(), serde_json::json!({"x": 1, "y": 2}));
    }

    #[test]
    fn hostile_texts_end_in_a_fault() {
        let mut bomb = "a0: &a0 {k0: 1, l0: 1}\n".to_owned();
        for i in 1..200 {
            let all = (0..i).map(|j| format!("*a{j}")).collect::<Vec<_>>().join(", ");
            bomb.push_str(&format!("a{i}: &a{i} {{<<: [{all}], k{i}: 1, l{i}: 1}}\n"));
        }
        for text in ["[".repeat(100_000), "a: &a [*a]".to_owned(), "a: *nowhere".to_owned(), bomb, "\u{0}".to_owned()] {
            let (_, faults) = parse(&text);
            assert!(!faults.is_empty(), "{:.40}", text);
        }
    }
}
