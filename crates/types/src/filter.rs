//! Filters, in containerd's syntax (`pkg/filters`).
//!
//! A filter is a list of selectors, separated by commas, all of which must
//! hold: `name==foo,labels."some key"!=bar,image~=/^docker/,labels.present`.
//! Of several filters one must match. A field is a path of names, quoted with
//! `"` where they have other characters than letters, digits, `-` and `_`. A
//! value is a word or quoted with `"`; a regular expression also with `/` or
//! `|`. Regular expressions have Go's syntax and match anywhere.
//!
//! As in containerd, `!=` and `~=` look at an absent field as at an empty one,
//! and a regular expression that cannot be compiled is no error: it matches
//! nothing.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::{ErrorKind, Kind};

mod parser;
mod quote;
mod regexp;
mod scanner;

/// A thing that filters can ask about.
pub trait Adaptor {
    /// The value of the field at `path`, `None` when it is not present.
    /// `path` has at least one element.
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>>;
}

/// A filter that cannot be read. Prints as containerd prints it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filters: parse error: {0}: invalid argument")]
pub struct InvalidFilter(String);

impl Kind for InvalidFilter {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

/// Several filters; a thing matches when any of them does, and when there is
/// none.
#[derive(Clone, Debug, Default)]
pub struct FilterSet {
    filters: Vec<Filter>,
}

/// One filter. Without selectors it matches everything.
#[derive(Clone, Debug)]
pub struct Filter {
    selectors: Vec<Selector>,
}

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    /// `None` where the expression cannot be compiled.
    Matches(Option<regex::Regex>),
}

impl Filter {
    /// Reads one filter; an empty one matches everything.
    pub fn parse(filter: &str) -> Result<Self, InvalidFilter> {
        let selectors = if filter.is_empty() { Vec::new() } else { parser::parse(filter)? };
        Ok(Self { selectors })
    }

    /// Reads each of `filters`.
    ///
    /// # Errors
    /// That of the first that cannot be read.
    pub fn parse_all<S: AsRef<str>>(filters: &[S]) -> Result<FilterSet, InvalidFilter> {
        let filters = filters.iter().map(|filter| Self::parse(filter.as_ref()));
        Ok(FilterSet { filters: filters.collect::<Result<_, _>>()? })
    }

    /// Whether all selectors hold for `thing`.
    pub fn matches(&self, thing: &dyn Adaptor) -> bool {
        self.selectors.iter().all(|selector| selector.holds(thing))
    }

    /// The only value that the field at `path` can have.
    fn value_of(&self, path: &[&str]) -> Option<&str> {
        self.selectors.iter().find_map(|selector| match &selector.test {
            Test::Equal(value) if selector.path == path => Some(value.as_str()),
            _ => None,
        })
    }
}

impl FilterSet {
    /// Whether `thing` matches.
    pub fn matches(&self, thing: &dyn Adaptor) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| filter.matches(thing))
    }

    /// The values that the field at `path` can only have in what matches;
    /// `None` when it can have any. Who can look such things up need not look
    /// at all of them.
    pub fn values_of(&self, path: &[&str]) -> Option<BTreeSet<&str>> {
        if self.filters.is_empty() {
            return None;
        }
        self.filters.iter().map(|filter| filter.value_of(path)).collect()
    }
}

impl Selector {
    fn holds(&self, thing: &dyn Adaptor) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let value = thing.field(&path);
        let or_empty = || value.as_deref().unwrap_or_default();
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.as_deref() == Some(wanted),
            Test::NotEqual(wanted) => or_empty() != wanted,
            Test::Matches(expression) => {
                expression.as_ref().is_some_and(|expression| expression.is_match(or_empty()))
            }
        }
    }
}

/// What a filter sees of a map such as labels: the value at the rest of the
/// path, its names joined by dots, so that a key with dots needs no quotes.
pub fn map_field<'a>(
    map: &'a std::collections::BTreeMap<String, String>,
    path: &[&str],
) -> Option<Cow<'a, str>> {
    map.get(&path.join(".")).map(|value| Cow::Borrowed(value.as_str()))
}

/// `value`, present unless it is empty: what most of containerd's adaptors
/// make of a field.
pub fn unless_empty(value: &str) -> Option<Cow<'_, str>> {
    (!value.is_empty()).then_some(Cow::Borrowed(value))
}

#[cfg(test)]
mod tests;
