//! One `hosts.toml`, read with the place of everything kept.

use std::path::{Path, PathBuf};

use davit_types::duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{API, Capabilities, Draft, Error};

type Value<'t> = Spanned<DeValue<'t>>;

/// A file that is being read.
struct File<'t> {
    path: &'t Path,
    text: &'t str,
    warnings: Vec<String>,
}

/// The hosts that `text` names, in its order, and the server last, which has
/// no name where the file gives none. Also what to warn of.
pub fn parse(path: &Path, text: &str) -> Result<(Vec<Draft>, Vec<String>), Error> {
    let mut file = File { path, text, warnings: Vec::new() };
    let table = DeTable::parse(text)
        .map_err(|error| file.at(error.span().map_or(0, |span| span.start), error.message()))?;
    let table = table.get_ref();
    let mut drafts = Vec::new();
    if let Some(hosts) = value(table, "host") {
        let hosts = file.table(hosts, "host")?;
        // A table is sorted by its keys; mirrors are asked as they are written.
        let mut hosts: Vec<_> = hosts.iter().collect();
        hosts.sort_by_key(|(name, _)| name.span().start);
        for (name, settings) in hosts {
            let settings = file.table(settings, name.get_ref())?;
            let mut draft = file.draft(settings, &["host"])?;
            file.place(&mut draft, name.get_ref(), name.span().start, settings)?;
            drafts.push(draft);
        }
    }
    let mut server = file.draft(table, &["host", "server"])?;
    if let Some(address) = value(table, "server") {
        let name = file.string(address, "server")?;
        if !name.is_empty() {
            file.place(&mut server, name, address.span().start, table)?;
        }
    }
    drafts.push(server);
    Ok((drafts, file.warnings))
}

impl File<'_> {
    /// Everything in a table but the address and the keys `besides`.
    fn draft(&mut self, table: &DeTable<'_>, besides: &[&str]) -> Result<Draft, Error> {
        let mut draft = Draft::default();
        draft.host.capabilities = Capabilities::ALL;
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "capabilities" => draft.host.capabilities = self.capabilities(value)?,
                "ca" => draft.host.tls.ca = self.authorities(value)?,
                "client" => draft.host.tls.client = self.pairs(value)?,
                "skip_verify" => draft.skip_verify = Some(self.boolean(value, "skip_verify")?),
                "override_path" => drop(self.boolean(value, "override_path")?),
                "header" => draft.host.headers = self.headers(value)?,
                "dial_timeout" => {
                    let text = self.string(value, "dial_timeout")?;
                    let length = duration::parse(text)
                        .map_err(|reason| self.wrong(value, &format!("dial_timeout: {reason}")))?;
                    draft.host.dial_timeout = Some(length).filter(|length| !length.is_zero());
                }
                key_name if besides.contains(&key_name) => {}
                other => {
                    let (line, _) = position(self.text, key.span().start);
                    let path = self.path.display();
                    self.warnings
                        .push(format!("{path}:{line}: {other} does not apply and is ignored"));
                }
            }
        }
        Ok(draft)
    }

    /// Puts the address of a server into its draft.
    fn place(
        &self,
        draft: &mut Draft,
        address: &str,
        at: usize,
        settings: &DeTable<'_>,
    ) -> Result<(), Error> {
        let wrong = |reason: &str| self.at(at, &format!("{address:?}: {reason}"));
        let (scheme, rest) = address.split_once("://").unwrap_or(("https", address));
        if !matches!(scheme, "http" | "https") {
            return Err(wrong("the scheme is neither http nor https"));
        }
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let fine = |b: u8| b.is_ascii_graphic() && !b"@?#%\"<>\\^`{|}".contains(&b);
        if authority.is_empty() || !rest.bytes().all(fine) {
            return Err(wrong(
                "not the address of a server, such as https://registry.example:5000",
            ));
        }
        let as_it_is = match value(settings, "override_path") {
            Some(flag) => self.boolean(flag, "override_path")?,
            None => false,
        };
        let path = clean(path).ok_or_else(|| wrong("the path leads upwards"))?;
        let whole = as_it_is || path.ends_with(API);
        draft.host.scheme = scheme.to_owned();
        draft.host.authority = authority.to_owned();
        draft.host.path = if whole { path } else { path + API };
        Ok(())
    }

    fn capabilities(&self, value: &Value<'_>) -> Result<Capabilities, Error> {
        let mut found = Capabilities::default();
        let names = self.array(value, "capabilities")?;
        if names.is_empty() {
            return Ok(Capabilities::ALL);
        }
        for item in names {
            let name = self.string(item, "capabilities")?;
            match name.to_ascii_lowercase().as_str() {
                "pull" => found.pull = true,
                "resolve" => found.resolve = true,
                "push" => found.push = true,
                "referrers" => found.referrers = true,
                _ => return Err(self.wrong(item, &format!("unknown capability {name}"))),
            }
        }
        Ok(found)
    }

    /// One file or several.
    fn authorities(&self, value: &Value<'_>) -> Result<Vec<PathBuf>, Error> {
        match value.get_ref() {
            DeValue::Array(items) => items.iter().map(|item| self.file(item, "ca")).collect(),
            _ => Ok(vec![self.file(value, "ca")?]),
        }
    }

    /// One file, several, or pairs of a certificate's and a key's.
    fn pairs(&self, value: &Value<'_>) -> Result<Vec<(PathBuf, Option<PathBuf>)>, Error> {
        let DeValue::Array(items) = value.get_ref() else {
            return Ok(vec![(self.file(value, "client")?, None)]);
        };
        let pair = |item: &Value<'_>| match item.get_ref() {
            DeValue::Array(pair) => match &pair[..] {
                [certificate, key] => {
                    let alone = self.string(key, "client")?.is_empty();
                    let key = if alone { None } else { Some(self.file(key, "client")?) };
                    Ok((self.file(certificate, "client")?, key))
                }
                _ => Err(self.wrong(item, "client: a pair is a certificate and a key")),
            },
            _ => Ok((self.file(item, "client")?, None)),
        };
        items.iter().map(pair).collect()
    }

    fn headers(&self, value: &Value<'_>) -> Result<Vec<(String, String)>, Error> {
        let mut entries: Vec<_> = self.table(value, "header")?.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let mut headers = Vec::new();
        for (name, value) in entries {
            let key = name.get_ref().as_ref();
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if key.is_empty() || !key.bytes().all(token) {
                return Err(self.at(name.span().start, &format!("{key:?} is no name of a header")));
            }
            let values = match value.get_ref() {
                DeValue::Array(items) => &items[..],
                _ => std::slice::from_ref(value),
            };
            for item in values {
                let text = self.string(item, "header")?;
                // Not shown: it may be a secret.
                if text.chars().any(char::is_control) {
                    return Err(self.wrong(item, &format!("header: {key} has control characters")));
                }
                headers.push((key.to_owned(), text.to_owned()));
            }
        }
        Ok(headers)
    }

    /// A path, relative to the file's directory.
    fn file(&self, value: &Value<'_>, key: &str) -> Result<PathBuf, Error> {
        let path = self.string(value, key)?;
        if path.is_empty() {
            return Err(self.wrong(value, &format!("{key}: a file has a name")));
        }
        Ok(self.path.parent().unwrap_or(Path::new("")).join(path))
    }

    fn string<'v>(&self, value: &'v Value<'_>, key: &str) -> Result<&'v str, Error> {
        value.get_ref().as_str().ok_or_else(|| self.mismatch(value, key, "a string"))
    }

    fn boolean(&self, value: &Value<'_>, key: &str) -> Result<bool, Error> {
        value.get_ref().as_bool().ok_or_else(|| self.mismatch(value, key, "a boolean"))
    }

    fn array<'v>(&self, value: &'v Value<'_>, key: &str) -> Result<&'v [Value<'v>], Error> {
        let array = value.get_ref().as_array().map(|array| &array[..]);
        array.ok_or_else(|| self.mismatch(value, key, "an array of strings"))
    }

    fn table<'v>(&self, value: &'v Value<'_>, key: &str) -> Result<&'v DeTable<'v>, Error> {
        value.get_ref().as_table().ok_or_else(|| self.mismatch(value, key, "a table"))
    }

    fn mismatch(&self, value: &Value<'_>, key: &str, wanted: &str) -> Error {
        let found = value.get_ref().type_str();
        self.wrong(value, &format!("{key}: expected {wanted}, found {found}"))
    }

    fn wrong(&self, value: &Value<'_>, message: &str) -> Error {
        self.at(value.span().start, message)
    }

    fn at(&self, byte: usize, message: &str) -> Error {
        let (line, column) = position(self.text, byte);
        let (path, message) = (self.path.to_owned(), message.to_owned());
        Error::Wrong { path, line, column, message }
    }
}

fn value<'t>(table: &'t DeTable<'t>, key: &str) -> Option<&'t Value<'t>> {
    table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
}

/// A path without what means nothing in it; `None` when it leads upwards.
fn clean(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    (!parts.contains(&"..")).then(|| parts.iter().map(|part| format!("/{part}")).collect())
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
mod tests;
