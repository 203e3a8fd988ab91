//! One configuration file, parsed with the place of every key kept, and a
//! cursor that takes known keys out of it.
//!
//! What is taken is checked, and refused with file and line when it is wrong.
//! What was not taken when a section is finished is named in a warning, unless
//! it asks for nothing (an empty string, zero, `false`): containerd writes all
//! its settings into its default file, most of them empty.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use davit_types::duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;

/// A parsed file. Borrows the text it was parsed from.
#[derive(Debug)]
pub struct Document<'t> {
    path: PathBuf,
    text: &'t str,
    table: DeTable<'t>,
}

impl<'t> Document<'t> {
    /// Parses `text`, which was read from `path`.
    ///
    /// # Errors
    /// What the TOML grammar forbids, with file, line and column.
    pub fn parse(path: &Path, text: &'t str) -> Result<Self, ConfigError> {
        match DeTable::parse(text) {
            Ok(table) => Ok(Self { path: path.to_owned(), text, table: table.into_inner() }),
            Err(error) => {
                let (line, column) = position(text, error.span().map_or(0, |span| span.start));
                let message = error.message().to_owned();
                Err(ConfigError::Wrong { path: path.to_owned(), line, column, message })
            }
        }
    }

    /// The whole file as a section.
    pub fn root(&self) -> Section<'_> {
        Section { document: self, name: String::new(), table: &self.table, taken: BTreeSet::new() }
    }

    fn wrong(&self, span: &Range<usize>, message: String) -> ConfigError {
        let (line, column) = position(self.text, span.start);
        ConfigError::Wrong { path: self.path.clone(), line, column, message }
    }
}

/// One table of a document, and which of its keys were taken.
#[derive(Debug)]
pub struct Section<'d> {
    document: &'d Document<'d>,
    /// The full path of its key, empty for the file itself.
    name: String,
    table: &'d DeTable<'d>,
    taken: BTreeSet<String>,
}

impl<'d> Section<'d> {
    /// The keys it has, in alphabetical order.
    pub fn keys(&self) -> Vec<String> {
        self.table.keys().map(|key| key.get_ref().to_string()).collect()
    }

    /// Marks a key as dealt with, so that no warning names it.
    pub fn take(&mut self, key: &str) {
        self.taken.insert(key.to_owned());
    }

    /// A text; `None` where there is none or an empty one, which containerd
    /// does not tell apart when it merges files.
    ///
    /// # Errors
    /// The value is of another type.
    pub fn string(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.get_ref().as_str() {
            Some("") => Ok(None),
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(self.mismatch(key, value, "a string")),
        }
    }

    /// A text out of a fixed choice.
    ///
    /// # Errors
    /// The value is of another type, or not one of `choices`.
    pub fn choice(&mut self, key: &str, choices: &[&str]) -> Result<Option<String>, ConfigError> {
        let Some(text) = self.string(key)? else { return Ok(None) };
        if choices.contains(&text.as_str()) {
            return Ok(Some(text));
        }
        Err(self.invalid(key, &format!("{text:?} is not one of {}", choices.join(", "))))
    }

    /// A whole number between `low` and `high`.
    ///
    /// # Errors
    /// The value is of another type or out of range.
    pub fn integer(&mut self, key: &str, low: i64, high: i64) -> Result<Option<i64>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let Some(number) = value.get_ref().as_integer() else {
            return Err(self.mismatch(key, value, "an integer"));
        };
        match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if (low..=high).contains(&number) => Ok(Some(number)),
            _ => Err(self.invalid(key, &format!("{number} is not between {low} and {high}"))),
        }
    }

    /// A number, whole or not, between `low` and `high`.
    ///
    /// # Errors
    /// The value is of another type or out of range.
    pub fn float(&mut self, key: &str, low: f64, high: f64) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let number: Option<f64> = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) => number.as_str().parse().ok(),
            _ => return Err(self.mismatch(key, value, "a number")),
        };
        match number {
            Some(number) if (low..=high).contains(&number) => Ok(Some(number)),
            _ => Err(self.invalid(key, &format!("the number is not between {low} and {high}"))),
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// The value is of another type.
    pub fn boolean(&mut self, key: &str) -> Result<Option<bool>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.get_ref().as_bool() {
            Some(flag) => Ok(Some(flag)),
            None => Err(self.mismatch(key, value, "a boolean")),
        }
    }

    /// A list of texts, empty where there is none.
    ///
    /// # Errors
    /// The value, or one in the list, is of another type.
    pub fn strings(&mut self, key: &str) -> Result<Vec<String>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        let Some(items) = value.get_ref().as_array() else {
            return Err(self.mismatch(key, value, "an array of strings"));
        };
        items
            .iter()
            .map(|item| match item.get_ref().as_str() {
                Some(text) => Ok(text.to_owned()),
                None => Err(self.mismatch(key, item, "a string")),
            })
            .collect()
    }

    /// A length of time in Go's notation: `1m30s`, `100ms`.
    ///
    /// # Errors
    /// The value is of another type, or not such a length.
    pub fn duration(&mut self, key: &str) -> Result<Option<Duration>, ConfigError> {
        let Some(text) = self.string(key)? else { return Ok(None) };
        match duration::parse(&text) {
            Ok(length) => Ok(Some(length)),
            Err(reason) => Err(self.invalid(key, &format!("{text:?}: {reason}"))),
        }
    }

    /// A table in it.
    ///
    /// # Errors
    /// The value is of another type.
    pub fn section(&mut self, key: &str) -> Result<Option<Section<'d>>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.get_ref().as_table() {
            Some(table) => Ok(Some(Section {
                document: self.document,
                name: self.full_name(key),
                table,
                taken: BTreeSet::new(),
            })),
            None => Err(self.mismatch(key, value, "a table")),
        }
    }

    /// Every table in it, with its key.
    ///
    /// # Errors
    /// One of the values is no table.
    pub fn sections(&mut self) -> Result<Vec<(String, Section<'d>)>, ConfigError> {
        let keys = self.keys();
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(section) = self.section(&key)? {
                found.push((key, section));
            }
        }
        Ok(found)
    }

    /// The tables in a list; `None` where there is no list.
    ///
    /// # Errors
    /// The value is of another type, or one in the list is.
    pub fn tables(&mut self, key: &str) -> Result<Option<Vec<Section<'d>>>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let Some(items) = value.get_ref().as_array() else {
            return Err(self.mismatch(key, value, "an array of tables"));
        };
        let section = |item: &'d Spanned<DeValue<'d>>| match item.get_ref().as_table() {
            Some(table) => Ok(Section {
                document: self.document,
                name: self.full_name(key),
                table,
                taken: BTreeSet::new(),
            }),
            None => Err(self.mismatch(key, item, "a table")),
        };
        items.iter().map(section).collect::<Result<_, _>>().map(Some)
    }

    /// The first key that was not taken and asks for something.
    pub fn unknown(&self) -> Option<String> {
        let asks = |value: &Spanned<DeValue<'_>>| asks_for_something(value.get_ref());
        let mut others = self
            .table
            .iter()
            .filter(|(key, value)| !self.taken.contains(key.get_ref().as_ref()) && asks(value));
        others.next().map(|(key, _)| key.get_ref().to_string())
    }

    /// Refuses the value of `key`, saying why.
    pub fn invalid(&self, key: &str, reason: &str) -> ConfigError {
        let span = self.entry(key).map_or(0..0, |(_, value)| value.span());
        self.document.wrong(&span, format!("{}: {reason}", self.full_name(key)))
    }

    /// Where `key` is: `file:line`.
    pub fn place(&self, key: &str) -> String {
        let start = self.entry(key).map_or(0, |(name, _)| name.span().start);
        let (line, _) = position(self.document.text, start);
        format!("{}:{line}", self.document.path.display())
    }

    /// Whether anything in it says more than nothing.
    pub fn asks_for_something(&self) -> bool {
        self.table.values().any(|value| asks_for_something(value.get_ref()))
    }

    /// Names every key that was not taken and asks for something.
    pub fn finish(self, warnings: &mut Vec<String>) {
        for (key, value) in self.table {
            let key = key.get_ref().as_ref();
            if !self.taken.contains(key) && asks_for_something(value.get_ref()) {
                let name = self.full_name(key);
                warnings.push(format!("{}: {name} does not apply and is ignored", self.place(key)));
            }
        }
    }

    /// The key path of `key` in this section, as TOML writes it.
    pub fn full_name(&self, key: &str) -> String {
        let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let key = if !key.is_empty() && key.bytes().all(bare) {
            key.to_owned()
        } else {
            format!("{key:?}")
        };
        if self.name.is_empty() { key } else { format!("{}.{key}", self.name) }
    }

    fn entry(
        &self,
        key: &str,
    ) -> Option<(&'d Spanned<std::borrow::Cow<'d, str>>, &'d Spanned<DeValue<'d>>)> {
        self.table.iter().find(|(name, _)| name.get_ref() == key)
    }

    fn value(&mut self, key: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.take(key);
        self.entry(key).map(|(_, value)| value)
    }

    fn mismatch(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> ConfigError {
        let found = value.get_ref().type_str();
        let message = format!("{}: expected {wanted}, found {found}", self.full_name(key));
        self.document.wrong(&value.span(), message)
    }
}

fn asks_for_something(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::String(text) => !matches!(text.as_ref(), "" | "0s"),
        DeValue::Integer(number) => number.as_str().bytes().any(|b| b != b'0'),
        DeValue::Float(number) => number.as_str().parse() != Ok(0.0),
        DeValue::Boolean(flag) => *flag,
        DeValue::Datetime(_) => true,
        DeValue::Array(items) => !items.is_empty(),
        DeValue::Table(table) => table.values().any(|value| asks_for_something(value.get_ref())),
    }
}

/// Line and column of a byte, both from one.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..byte.min(text.len())];
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document<'_> {
        Document::parse(Path::new("c.toml"), text).unwrap()
    }

    #[test]
    fn says_where_a_value_is_wrong() {
        let text = "version = 3\n\n[grpc]\n  uid = -1\n  gid = \"x\"\n  address = 7\n";
        let file = document(text);
        let mut root = file.root();
        let mut grpc = root.section("grpc").unwrap().unwrap();
        let message = |error: ConfigError| error.to_string();
        assert_eq!(
            message(grpc.integer("uid", 0, 9).unwrap_err()),
            "c.toml:4:9: grpc.uid: -1 is not between 0 and 9"
        );
        assert_eq!(
            message(grpc.integer("gid", 0, 9).unwrap_err()),
            "c.toml:5:9: grpc.gid: expected an integer, found string"
        );
        assert_eq!(
            message(grpc.string("address").unwrap_err()),
            "c.toml:6:13: grpc.address: expected a string, found integer"
        );
        assert_eq!(
            message(root.section("version").unwrap_err()),
            "c.toml:1:11: version: expected a table, found integer"
        );
    }

    #[test]
    fn says_where_the_grammar_is_broken() {
        let error = Document::parse(Path::new("c.toml"), "a = 1\nb = [1,\nc = 2\n").unwrap_err();
        assert!(error.to_string().starts_with("c.toml:3:"), "{error}");
    }

    #[test]
    fn names_what_was_not_taken_unless_it_asks_for_nothing() {
        let text = "a = 1\nb = \"\"\nc = 0\nd = false\ne = \"0s\"\n\
                    [plugins.\"io.x.v1\"]\n f = 2.5\n[plugins.\"io.y.v1\".sub]\n g = []\n";
        let file = document(text);
        let mut root = file.root();
        let mut warnings = Vec::new();
        root.section("plugins").unwrap().unwrap().finish(&mut warnings);
        root.finish(&mut warnings);
        assert_eq!(
            warnings,
            [
                "c.toml:6: plugins.\"io.x.v1\" does not apply and is ignored",
                "c.toml:1: a does not apply and is ignored"
            ]
        );
    }
}
