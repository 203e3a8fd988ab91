//! Log lines on stderr, in the two forms that containerd writes: `text`
//! (`time="…" level=info msg="…" key=value`) and `json`, one object a line.
//!
//! A line is one `write`, so that lines of several threads do not mix. A log
//! that cannot be written loses lines; it stops nothing.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::SystemTime;

use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `key=value`, quoted where needed.
    Text,
    /// One JSON object.
    Json,
}

struct Logger {
    format: Format,
}

/// Sends what the daemon logs at `level` (one of containerd's names) and
/// above to stderr. To be called once.
pub fn start(level: &str, format: &str) {
    let format = if format == "json" { Format::Json } else { Format::Text };
    log::set_max_level(filter(level));
    // A second call means tests in one process; the first one's logger stays.
    let _ = log::set_boxed_logger(Box::new(Logger { format }));
}

/// The filter for one of containerd's levels. `fatal` and `panic` have no
/// counterpart: what would be logged at them is logged as an error.
fn filter(level: &str) -> LevelFilter {
    match level {
        "trace" => LevelFilter::Trace,
        "debug" => LevelFilter::Debug,
        "warn" | "warning" => LevelFilter::Warn,
        "error" | "fatal" | "panic" => LevelFilter::Error,
        _ => LevelFilter::Info,
    }
}

impl Log for Logger {
    /// What the libraries below us say is about frames and buffers; it is
    /// wanted by nobody who runs a daemon, unless it is a warning.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let ours = ["davit", "runc_client"].iter().any(|name| metadata.target().starts_with(name));
        metadata.level() <= log::max_level() && (ours || metadata.level() <= Level::Warn)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = line(self.format, SystemTime::now(), record);
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

fn line(format: Format, now: SystemTime, record: &Record<'_>) -> String {
    let time = prost_types::Timestamp::from(now).to_string();
    let level = match record.level() {
        Level::Warn => "warning",
        Level::Error => "error",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let mut fields = Fields(Vec::new());
    let message = record.args().to_string();
    for (key, value) in [("time", time.as_str()), ("level", level), ("msg", &message)] {
        fields.0.push((key.to_owned(), value.to_owned()));
    }
    // The visitor never fails.
    let _ = record.key_values().visit(&mut fields);
    match format {
        Format::Text => text(&fields.0),
        Format::Json => json(&fields.0),
    }
}

struct Fields(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0.push((key.to_string(), value.to_string()));
        Ok(())
    }
}

fn text(fields: &[(String, String)]) -> String {
    let mut line = String::with_capacity(128);
    for (key, value) in fields {
        let separator = if line.is_empty() { "" } else { " " };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/@^+".contains(&b);
        // Writing to a String cannot fail.
        let _ = if !value.is_empty() && value.bytes().all(plain) {
            write!(line, "{separator}{key}={value}")
        } else {
            write!(line, "{separator}{key}={value:?}")
        };
    }
    line.push('\n');
    line
}

fn json(fields: &[(String, String)]) -> String {
    let object: serde_json::Map<String, serde_json::Value> =
        fields.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
    let mut line = serde_json::Value::Object(object).to_string();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format) -> String {
        let pairs = [("namespace", "k8s.io"), ("path", "/a b")];
        let record = Record::builder()
            .level(Level::Warn)
            .target("davit_daemon")
            .args(format_args!("two\nlines \"quoted\""))
            .key_values(&pairs)
            .build();
        line(format, SystemTime::UNIX_EPOCH, &record)
    }

    #[test]
    fn a_line_stays_one_line() {
        assert_eq!(
            written(Format::Text),
            "time=\"1970-01-01T00:00:00Z\" level=warning msg=\"two\\nlines \\\"quoted\\\"\" \
             namespace=k8s.io path=\"/a b\"\n"
        );
    }

    #[test]
    fn a_json_line_is_one_object() {
        let value: serde_json::Value = serde_json::from_str(&written(Format::Json)).unwrap();
        assert_eq!(value["msg"], "two\nlines \"quoted\"");
        assert_eq!(value["level"], "warning");
        assert_eq!(value["path"], "/a b");
    }
}
