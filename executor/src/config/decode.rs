//! Reads TOML value by value, so that one run tells every mistake, each with its place.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line and column, from 1; `None` for what is missing, or comes from the environment.
    pub at: Option<(usize, usize)>,
    /// The setting, e.g. `bus.url`.
    pub setting: String,
    pub message: String,
    pub hint: Option<String>,
}

impl Problem {
    pub fn new(setting: impl Into<String>, message: impl Into<String>) -> Self {
        Self { at: None, setting: setting.into(), message: message.into(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.at {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !self.setting.is_empty() {
            write!(f, "{}: ", self.setting)?;
        }
        write!(f, "{}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Collects the mistakes of one document.
pub(super) struct Problems<'t> {
    text: &'t str,
    found: RefCell<Vec<Problem>>,
}

impl<'t> Problems<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: RefCell::new(Vec::new()) }
    }

    pub(super) fn add(&self, problem: Problem) {
        self.found.borrow_mut().push(problem);
    }

    pub(super) fn add_at(&self, span: Range<usize>, problem: Problem) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        self.add(Problem { at: Some((line, column)), ..problem });
    }

    /// In the order of the file; what has no place comes last.
    pub(super) fn into_sorted(self) -> Vec<Problem> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|problem| (problem.at.is_none(), problem.at, problem.setting.clone()));
        found
    }
}

/// One table of the document. Every accessor remembers its key; [`Section::finish`] reports the keys that nobody asked for.
pub(super) struct Section<'a, 'd> {
    path: String,
    table: Option<&'a DeTable<'d>>,
    known: RefCell<BTreeSet<String>>,
    problems: &'a Problems<'a>,
}

impl<'a, 'd> Section<'a, 'd> {
    pub(super) fn root(table: &'a DeTable<'d>, problems: &'a Problems<'a>) -> Self {
        Self { path: String::new(), table: Some(table), known: RefCell::default(), problems }
    }

    fn setting(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn missing(&self, key: &str, hint: &str) {
        self.problems.add(Problem::new(self.setting(key), "is missing").hint(hint));
    }

    fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'d>>> {
        self.known.borrow_mut().insert(key.to_owned());
        let table = self.table?;
        table.iter().find(|(name, _)| name.get_ref().as_ref() == key).map(|(_, value)| value)
    }

    pub(super) fn is_set(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    pub(super) fn is_empty_list(&self, key: &str) -> bool {
        let members = self.value(key).and_then(|value| value.get_ref().as_array());
        members.is_some_and(|members| members.iter().next().is_none())
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'d>>, expected: &str) {
        let message = format!("is {} {}, expected {expected}", article(value.get_ref()), value.get_ref().type_str());
        self.problems.add_at(value.span(), Problem::new(self.setting(key), message));
    }

    /// A sub-table; absent ones read as empty.
    pub(super) fn section(&self, key: &str) -> Section<'a, 'd> {
        let table = self.value(key).and_then(|value| {
            let table = value.get_ref().as_table();
            if table.is_none() {
                self.wrong_type(key, value, "a table");
            }
            table
        });
        Section { path: self.setting(key), table, known: RefCell::default(), problems: self.problems }
    }

    /// The sub-tables of a table whose keys are names.
    pub(super) fn sections<K>(&self, key: &str) -> Vec<(K, Section<'a, 'd>)>
    where
        K: FromStr,
        K::Err: fmt::Display,
    {
        let outer = self.section(key);
        let mut found = Vec::new();
        for (name, _) in outer.table.into_iter().flatten() {
            match name.get_ref().parse() {
                Ok(parsed) => found.push((parsed, outer.section(name.get_ref()))),
                Err(error) => self
                    .problems
                    .add_at(name.span(), Problem::new(outer.setting(name.get_ref()), K::Err::to_string(&error))),
            }
        }
        found
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        let value = self.value(key)?;
        let text = value.get_ref().as_str().map(str::to_owned);
        if text.is_none() {
            self.wrong_type(key, value, "a text in quotes");
        }
        text
    }

    pub(super) fn parsed<T>(&self, key: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.parsed_by(key, |text| text.parse::<T>().map_err(|error| error.to_string()))
    }

    pub(super) fn parsed_by<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(key)?;
        match parse(&text) {
            Ok(parsed) => Some(parsed),
            Err(message) => {
                if let Some(value) = self.value(key) {
                    self.problems.add_at(value.span(), Problem::new(self.setting(key), message));
                }
                None
            }
        }
    }

    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.wrong_type(key, value, "true or false");
        }
        boolean
    }

    /// A whole number from `least` to `most`.
    pub(super) fn number(&self, key: &str, least: u64, most: u64) -> Option<u64> {
        let value = self.value(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, "a whole number");
            return None;
        };
        let digits = integer.as_str().replace('_', "");
        match u64::from_str_radix(&digits, integer.radix()) {
            Ok(number) if (least..=most).contains(&number) => Some(number),
            _ => {
                let message = format!("is {digits}, allowed is {least} to {most}");
                self.problems.add_at(value.span(), Problem::new(self.setting(key), message));
                None
            }
        }
    }

    /// Each member is parsed; bad ones are reported and left out.
    pub(super) fn list<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(members) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of texts");
            return Vec::new();
        };
        let mut parsed = Vec::new();
        for member in members.iter() {
            match member.get_ref().as_str().map(&parse) {
                Some(Ok(good)) => parsed.push(good),
                Some(Err(message)) => {
                    self.problems.add_at(member.span(), Problem::new(self.setting(key), message));
                }
                None => self.wrong_type(key, member, "a text in quotes"),
            }
        }
        parsed
    }

    /// Names and texts of a table such as `[labels]`.
    pub(super) fn texts(&self, key: &str) -> Vec<(String, String)> {
        let inner = self.section(key);
        let names: Vec<String> =
            inner.table.into_iter().flatten().map(|(name, _)| name.get_ref().clone().into_owned()).collect();
        names.into_iter().filter_map(|name| inner.text(&name).map(|text| (name, text))).collect()
    }

    /// A mistake that concerns a value which is well-formed by itself.
    pub(super) fn reject(&self, key: &str, message: impl Into<String>, hint: impl Into<String>) {
        let problem = Problem::new(self.setting(key), message).hint(hint);
        match self.value(key) {
            Some(value) => self.problems.add_at(value.span(), problem),
            None => self.problems.add(problem),
        }
    }

    /// Reports the keys that no accessor asked for.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for (name, _) in self.table.into_iter().flatten() {
            let key = name.get_ref().as_ref();
            if known.contains(key) {
                continue;
            }
            let allowed = known.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let problem = Problem::new(self.setting(key), "is no setting of the executor")
                .hint(format!("known here are: {allowed}; see `landfall-executor --print-default-config`"));
            self.problems.add_at(name.span(), problem);
        }
    }
}

fn article(value: &DeValue<'_>) -> &'static str {
    if value.is_integer() || value.is_array() { "an" } else { "a" }
}
