//! The runtime's log and stderr: reading entries, and the errors among them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The most that is read of one call's log, from its end.
pub(crate) const LOG_LIMIT: usize = 64 * 1024;

/// How grave a log entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Level {
    /// Debugging and tracing.
    Debug,
    /// What goes on.
    Info,
    /// What is odd.
    Warning,
    /// What failed; panics and fatal errors as well.
    Error,
}

impl Level {
    /// The level that a runtime calls `name`, in any of their spellings.
    fn parse(name: &str) -> Option<Self> {
        let is = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
        if is(&["error", "erro", "fatal", "fata", "panic", "pani", "critical"]) {
            Some(Self::Error)
        } else if is(&["warning", "warn"]) {
            Some(Self::Warning)
        } else if is(&["info", "notice"]) {
            Some(Self::Info)
        } else if is(&["debug", "debu", "trace", "trac"]) {
            Some(Self::Debug)
        } else {
            None
        }
    }
}

/// One entry of a runtime's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// How grave it is; `None` for a line that is not in a log's form, such as
    /// a usage message.
    pub level: Option<Level>,
    /// What it says, without the newline.
    pub message: String,
}

/// Reads what a runtime wrote to its log or to stderr: JSON entries (runc and
/// crun; those of crun since 1.2x span lines, and runsc puts no newline between
/// its own), text entries (`level=error msg="..."` and `ERRO[0000] ...`), and
/// plain lines, in any mixture. Bytes that are no UTF-8 are replaced; an entry
/// that was cut is taken as plain lines, blank lines are left out. Never fails.
pub fn parse_log(bytes: &[u8]) -> Vec<LogEntry> {
    let text = String::from_utf8_lossy(bytes);
    let mut entries = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if rest.starts_with('{') {
            let after = parse_json(rest, &mut entries);
            if after.len() < rest.len() {
                rest = after.trim_start();
                continue;
            }
        }
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        entries.push(parse_text(line.trim_end()));
        rest = after.trim_start();
    }
    entries
}

/// An entry as runc (logrus), crun and runsc print it.
#[derive(Deserialize)]
struct JsonEntry {
    level: String,
    msg: String,
    #[serde(default)]
    error: Option<String>,
}

/// Takes the JSON entries off the front of `text`; returns what follows them.
fn parse_json<'a>(text: &'a str, entries: &mut Vec<LogEntry>) -> &'a str {
    // No entry is longer: a broken one must not cost a scan of all that follows.
    let seen = &text[..text.floor_char_boundary(LOG_LIMIT)];
    let mut stream = serde_json::Deserializer::from_str(seen).into_iter::<JsonEntry>();
    let mut end = 0;
    while let Some(Ok(entry)) = stream.next() {
        end = stream.byte_offset();
        let mut message = entry.msg.trim().to_owned();
        if let Some(error) = entry.error {
            message = format!("{message}: {}", error.trim());
        }
        entries.push(LogEntry { level: Level::parse(&entry.level), message });
    }
    &text[end..]
}

/// A line that is not JSON.
fn parse_text(line: &str) -> LogEntry {
    logrus_text(line)
        .or_else(|| logrus_terminal(line))
        .unwrap_or_else(|| LogEntry { level: None, message: without_time(line).to_owned() })
}

/// `time="..." level=error msg="..."`.
fn logrus_text(line: &str) -> Option<LogEntry> {
    let start = if line.starts_with("level=") { 0 } else { line.find(" level=")? + 1 };
    let (name, rest) = line[start + "level=".len()..].split_once(' ')?;
    let level = Level::parse(name)?;
    let message = rest.trim_start().strip_prefix("msg=")?;
    Some(LogEntry { level: Some(level), message: unquote(message) })
}

/// The value at the front of `text`: Go's quoting is JSON's but for a few
/// escapes, and those values are then taken as they stand.
fn unquote(text: &str) -> String {
    if !text.starts_with('"') {
        return text.split(' ').next().unwrap_or(text).to_owned();
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
    match values.next() {
        Some(Ok(value)) => value.trim().to_owned(),
        _ => text.trim_matches('"').to_owned(),
    }
}

/// `ERRO[0000] message`, logrus' form for terminals.
fn logrus_terminal(line: &str) -> Option<LogEntry> {
    let (name, rest) = line.split_once('[')?;
    let (seconds, message) = rest.split_once(']')?;
    if name.len() != 4 || seconds.is_empty() || !seconds.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(LogEntry { level: Some(Level::parse(name)?), message: message.trim().to_owned() })
}

/// `line` without the time that crun's text form puts before a message.
fn without_time(line: &str) -> &str {
    match line.split_once("Z: ") {
        Some((time, message)) if is_time(time) => message,
        _ => line,
    }
}

fn is_time(text: &str) -> bool {
    text.len() >= "2026-01-01T00:00:00".len()
        && text.bytes().all(|byte| byte.is_ascii_digit() || b"-T:.".contains(&byte))
}

/// The errors of one call, from its log and its stderr: all that are marked as
/// errors and the plain lines of stderr; if there is neither, plain lines of
/// the log; if there is none, warnings. What was said twice is there once.
pub(crate) fn errors(log: &[u8], stderr: &[u8]) -> Vec<String> {
    let (log, stderr) = (parse_log(log), parse_log(stderr));
    let is_error = |entry: &&LogEntry| entry.level == Some(Level::Error);
    let is_plain = |entry: &&LogEntry| entry.level.is_none();
    let mut found = Messages::default();
    log.iter().chain(&stderr).filter(is_error).for_each(|entry| found.add(entry));
    stderr.iter().filter(is_plain).for_each(|entry| found.add(entry));
    if found.0.is_empty() {
        log.iter().filter(is_plain).for_each(|entry| found.add(entry));
    }
    if found.0.is_empty() {
        let warnings =
            log.iter().chain(&stderr).filter(|entry| entry.level == Some(Level::Warning));
        warnings.for_each(|entry| found.add(entry));
    }
    found.0
}

/// Messages without those that an earlier one contains.
#[derive(Default)]
struct Messages(Vec<String>);

impl Messages {
    fn add(&mut self, entry: &LogEntry) {
        let message = &entry.message;
        if !message.is_empty() && !self.0.iter().any(|known| known.contains(message.as_str())) {
            self.0.push(message.clone());
        }
    }
}

/// Where a log ended when a call began: what follows is the call's.
#[derive(Debug)]
pub(crate) struct LogMark {
    path: PathBuf,
    start: u64,
}

impl LogMark {
    pub(crate) fn at_end_of(path: &Path) -> Self {
        let start = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        Self { path: path.to_owned(), start }
    }

    /// What was written since, at most the last [`LOG_LIMIT`] bytes, beginning
    /// with a whole line. Empty when the log cannot be read: the call's own
    /// failure matters more.
    pub(crate) fn read(&self) -> Vec<u8> {
        read_tail(&self.path, self.start).unwrap_or_else(|error| {
            log::debug!(path:% = self.path.display(), error:% = error; "runtime's log not read");
            Vec::new()
        })
    }
}

fn read_tail(path: &Path, start: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // A log that has shrunk was truncated or replaced meanwhile.
    let start = if length < start { 0 } else { start };
    let from = start.max(length.saturating_sub(LOG_LIMIT as u64));
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(LOG_LIMIT as u64).read_to_end(&mut bytes)?;
    if from > start {
        let line = bytes.iter().position(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        bytes.drain(..line);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
