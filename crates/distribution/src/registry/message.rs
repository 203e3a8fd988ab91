//! What a registry says of its errors: `{"errors":[{"code":…,"message":…}]}`
//! (OCI distribution specification, "Error codes"). It comes from a stranger
//! and goes to a terminal, so it is bounded and holds no control characters.

use std::fmt;

use serde::Deserialize;

/// The body of an error is read so far.
pub(crate) const LONGEST_BODY: usize = 64_000;

/// More messages are dropped.
const MOST: usize = 8;

/// Characters of a message; what is longer is cut.
const LONGEST: usize = 512;

/// A registry's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Messages(Vec<Message>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `MANIFEST_UNKNOWN`
    pub code: String,
    /// For people.
    pub text: String,
}

#[derive(Deserialize)]
struct Body {
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Messages {
    /// Reads the body of an error; what is none of these has no messages.
    pub(crate) fn parse(body: &[u8]) -> Self {
        let Ok(body) = serde_json::from_slice::<Body>(body) else { return Self::default() };
        let entries = body.errors.into_iter().take(MOST);
        Self(entries.map(|e| Message { code: tame(&e.code), text: tame(&e.message) }).collect())
    }

    /// Whether the registry said nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Message> {
        self.0.iter()
    }
}

impl fmt::Display for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => Ok(()),
            [one] => one.fmt(f),
            several => {
                writeln!(f, "errors:")?;
                several.iter().try_for_each(|message| writeln!(f, "{message}"))
            }
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.code.to_lowercase().replace('_', " "))?;
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

/// Fit for a terminal and of bounded length.
pub(crate) fn tame(text: &str) -> String {
    let mut tame: String =
        text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        tame.push_str("...");
    }
    tame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read() {
        let one = Messages::parse(br#"{"errors":[{"code":"NAME_UNKNOWN","message":"what?"}]}"#);
        assert_eq!(one.to_string(), "name unknown: what?");
        let two = br#"{"errors":[{"code":"DENIED","detail":{"a":1}},{"message":"b"}]}"#;
        assert_eq!(Messages::parse(two).to_string(), "errors:\ndenied\n: b\n");
        for body in [&b""[..], b"{}", b"[]", b"{\"errors\":7}", b"<html>", b"\xff"] {
            assert!(Messages::parse(body).is_empty());
        }
    }

    #[test]
    fn a_stranger_does_not_write_on_our_terminal() {
        let evil = format!("\u{1b}]0;x\u{7}\n{}", "é".repeat(LONGEST));
        let text = tame(&evil);
        assert!(!text.chars().any(char::is_control));
        assert_eq!(text.chars().count(), LONGEST + 3);
        let entry = r#"{"code":"A"}"#;
        let many = format!("{{\"errors\":[{}]}}", [entry; 100].join(","));
        assert_eq!(Messages::parse(many.as_bytes()).iter().count(), MOST);
    }
}
