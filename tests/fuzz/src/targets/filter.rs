//! Filters, as any client of a List or Subscribe sends them.

use std::borrow::Cow;

use davit_types::filter::{Adaptor, Filter};

use super::list;

/// A thing with a few fields.
struct Thing;

impl Adaptor for Thing {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["name"] => Some("foo".into()),
            ["labels", key @ ..] => Some(Cow::Owned(key.join("."))),
            ["empty"] => Some("".into()),
            _ => None,
        }
    }
}

/// Parses, and asks.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let one = Filter::parse(text);
    let all = Filter::parse_all(&[text]);
    assert_eq!(one.is_ok(), all.is_ok(), "one filter alone and in a list");
    if let (Ok(one), Ok(all)) = (one, all) {
        assert_eq!(one.matches(&Thing), all.matches(&Thing), "{text:?}");
    }
}

/// Every operator and every way of quoting.
pub fn seeds() -> Vec<Vec<u8>> {
    list([
        b"name==foo",
        b"name!=foo,labels.a==a",
        b"name~=^f.*$,empty",
        b"labels.\"very complex\\nlabel\"==something",
        b"name~=/[abc]{1,3}/",
        b"name~=|a/b|",
        b"labels.a.b",
        b"",
        b"name==\"\\x41\\u00e9\\101\"",
    ])
}
