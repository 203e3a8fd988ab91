//! Where a client wants a process's output: `SCHEME://PATH?QUERY`, or a bare
//! path (containerd, `cio` and `process/io.go`).

use std::path::{Path, PathBuf};

use davit_shim::Failure;
use davit_types::ErrorKind;

/// A parsed address of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Nowhere.
    Null,
    /// A FIFO that the client has made; or, at a bare path, any other file
    /// that exists.
    Fifo(PathBuf),
    /// A file to append to, made when it is missing.
    File(PathBuf),
    /// A program that gets the output.
    Logger(Program),
}

/// A logger's program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Its arguments: key and first value of each query parameter.
    pub args: Vec<String>,
    /// Its environment: the parameters that start with `env.`, without that.
    pub env: Vec<(String, String)>,
    /// Whether it must say that it is ready (`binary-v2`), or may as well
    /// close its end without a word.
    pub strict: bool,
}

impl Sink {
    /// Parses an address.
    ///
    /// # Errors
    /// An unknown scheme, or an escape that is none.
    pub fn parse(address: &str) -> Result<Self, Failure> {
        if address.is_empty() {
            return Ok(Self::Null);
        }
        let Some((scheme, authority, rest)) = split_scheme(address) else {
            return Ok(Self::Fifo(address.into()));
        };
        let unreadable = |escape: BadEscape| {
            let text = format!("unable to parse stdout uri: parse {address:?}: {escape}");
            Failure::new(ErrorKind::Unknown, text)
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        unescape(authority, false).map_err(unreadable)?;
        let path = PathBuf::from(unescape(path, false).map_err(unreadable)?);
        let logger =
            |strict| program(path.clone(), query, strict).map(Self::Logger).map_err(unreadable);
        match scheme.to_ascii_lowercase().as_str() {
            "fifo" => Ok(Self::Fifo(path)),
            "file" => Ok(Self::File(path)),
            "binary" => logger(false),
            "binary-v2" => logger(true),
            _ => Err(Failure::new(ErrorKind::Unknown, format!("unknown STDIO scheme {scheme}"))),
        }
    }

    /// The file behind it, if there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Fifo(path) | Self::File(path) => Some(path),
            Self::Null | Self::Logger(_) => None,
        }
    }
}

/// A percent sign that begins no escape, and what follows it; or escapes that
/// make up no text.
#[derive(Debug, thiserror::Error)]
#[error("invalid URL escape {0:?}")]
struct BadEscape(String);

/// Splits `scheme:rest` and takes the authority out of
/// `scheme://authority/path`, which means nothing: all of these are local.
/// `None` for a bare path.
fn split_scheme(address: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = address.split_once(':')?;
    let mut bytes = scheme.bytes();
    let valid = bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !valid {
        return None;
    }
    let (authority, path) = match rest.strip_prefix("//") {
        Some(both) => both.split_at(both.find('/').unwrap_or(both.len())),
        None => ("", rest),
    };
    Some((scheme, authority, path))
}

fn program(path: PathBuf, query: &str, strict: bool) -> Result<Program, BadEscape> {
    let mut program = Program { path, strict, ..Program::default() };
    let mut seen = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let (key, value) = (unescape(key, true)?, unescape(value, true)?);
        if seen.contains(&key) {
            continue;
        }
        seen.push(key.clone());
        match key.strip_prefix("env.") {
            Some(name) => program.env.push((name.to_owned(), value)),
            None => program.args.extend([key, value]),
        }
    }
    Ok(program)
}

/// Undoes percent-encoding, and `+` for a blank in queries.
fn unescape(text: &str, in_query: bool) -> Result<String, BadEscape> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => {
                let digits = rest.get(..2).and_then(|d| std::str::from_utf8(d).ok());
                let digits = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                let value = digits.and_then(|d| u8::from_str_radix(d, 16).ok());
                let escape =
                    || format!("%{}", String::from_utf8_lossy(rest)).chars().take(3).collect();
                bytes.push(value.ok_or_else(|| BadEscape(escape()))?);
                rest = &rest[2..];
            }
            b'+' if in_query => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| BadEscape(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_every_scheme() {
        let logger = |args: &[&str], env: &[(&str, &str)], strict| {
            Sink::Logger(Program {
                path: "/usr/bin/log ger".into(),
                args: args.iter().map(|a| (*a).to_owned()).collect(),
                env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
                strict,
            })
        };
        for (address, sink) in [
            ("", Sink::Null),
            ("/run/c/out", Sink::Fifo("/run/c/out".into())),
            ("/run/a:b%zz?c", Sink::Fifo("/run/a:b%zz?c".into())),
            ("fifo:///run/out", Sink::Fifo("/run/out".into())),
            ("file:///var/log/x%20y", Sink::File("/var/log/x y".into())),
            ("FILE:///x", Sink::File("/x".into())),
            ("binary:///usr/bin/log%20ger", logger(&[], &[], false)),
            (
                "binary-v2:///usr/bin/log%20ger?--id=a+b&-v&env.A=1%262&--id=c",
                logger(&["--id", "a b", "-v", ""], &[("A", "1&2")], true),
            ),
        ] {
            assert_eq!(Sink::parse(address).unwrap(), sink, "{address}");
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let refusal = Sink::parse("http://x/y").unwrap_err();
        assert_eq!(refusal.to_string(), "unknown STDIO scheme http");
        let refusal = Sink::parse("file://%zz").unwrap_err().to_string();
        let words = "unable to parse stdout uri: parse \"file://%zz\": invalid URL escape \"%zz\"";
        assert_eq!(refusal, words);
        for address in ["file:///%", "file:///%4", "file:///%zz", "file:///%+1", "file:///%ff"] {
            assert!(Sink::parse(address).is_err(), "{address}");
        }
    }
}
