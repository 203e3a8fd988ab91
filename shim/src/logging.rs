//! The shim's log: lines in the text form of containerd's logger, written to
//! the bundle's FIFO `log`, which the daemon copies into its own log.
//!
//! Writing never waits and never fails: a line that does not fit into the
//! pipe, because nobody reads it, is lost. Until the FIFO is open lines go to
//! standard error.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// The longest line, in bytes with its end: what a pipe takes in one piece
/// (PIPE_BUF). Longer ones are cut.
pub const LINE_MAX: usize = 4096;

struct Logger {
    fifo: OnceLock<File>,
}

static LOGGER: Logger = Logger { fifo: OnceLock::new() };

/// Starts logging to standard error, from `debug` or `info` on. Called by the
/// library; a second call changes the level.
pub fn to_stderr(debug: bool) {
    // A second logger is refused; then the first one stays.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
}

/// Starts logging to the FIFO `log` in the bundle, if there is one.
pub fn to_bundle(bundle: &Path, debug: bool) {
    if let Ok(file) = davit_sys::fifo::open_log(&bundle.join("log")) {
        let _ = LOGGER.fifo.set(file);
    }
    to_stderr(debug);
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = format_line(record, SystemTime::now());
        let _ = match self.fifo.get() {
            Some(mut fifo) => fifo.write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    fn flush(&self) {}
}

/// One line, as containerd's logger writes it when it is not on a terminal.
fn format_line(record: &Record<'_>, now: SystemTime) -> String {
    let level = match record.level() {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let mut line = format!("time=\"{}\" level={level} msg=", timestamp(now));
    push_value(&mut line, &record.args().to_string());
    let _ = record.key_values().visit(&mut Fields(&mut line));
    if line.len() >= LINE_MAX {
        let end = (0..LINE_MAX).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        line.truncate(end);
    }
    line.push('\n');
    line
}

struct Fields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let _ = write!(self.0, " {key}=");
        push_value(self.0, &value.to_string());
        Ok(())
    }
}

/// Quotes what a reader of `key=value` pairs could not tell apart otherwise.
fn push_value(line: &mut String, value: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if value.chars().all(plain) {
        line.push_str(value);
    } else {
        let _ = write!(line, "{value:?}");
    }
}

/// RFC 3339 in UTC, with nanoseconds to their last digit.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_nanos()
    )
}

/// Year, month and day of a number of days since 1970
/// (H. Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn lines_read_as_containerd_s() {
        let now = UNIX_EPOCH + Duration::new(1_709_210_096, 123);
        let pairs = [("id", "a1"), ("error", "no such file")];
        let record = Record::builder()
            .level(Level::Warn)
            .args(format_args!("exec \"x\" failed"))
            .key_values(&pairs)
            .build();
        assert_eq!(
            format_line(&record, now),
            "time=\"2024-02-29T12:34:56.000000123Z\" level=warning \
             msg=\"exec \\\"x\\\" failed\" id=a1 error=\"no such file\"\n"
        );
    }

    #[test]
    fn long_lines_are_cut_to_one_piece() {
        let long = "ä".repeat(LINE_MAX);
        let pairs = [("long", long.as_str())];
        let record = Record::builder().level(Level::Info).key_values(&pairs).build();
        let line = format_line(&record, UNIX_EPOCH);
        assert!(line.len() <= LINE_MAX && line.ends_with("ä\n"));
    }

    #[test]
    fn a_full_pipe_loses_lines_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        davit_sys::fifo::make(&path, 0o700).unwrap();
        let mut fifo = davit_sys::fifo::open_log(&path).unwrap();
        let line = [b'x'; LINE_MAX];
        while fifo.write_all(&line).is_ok() {}
        assert_eq!(fifo.write(&line).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}
