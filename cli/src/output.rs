//! Printing: tables or JSON, and several things one after the other.

use std::fmt::Display;
use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Error;
use crate::args::Format;
use crate::table::Table;

/// Prints a line.
///
/// # Errors
/// When standard output does not take it. So too the rest here.
pub fn line(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Error::io("standard output"))
}

/// Prints JSON over several lines.
pub fn json(value: &Value) -> Result<(), Error> {
    line(&format!("{value:#}"))
}

/// Prints names, each on its line, or as a list of objects.
pub fn names<'a>(
    format: Format,
    kind: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<(), Error> {
    match format {
        Format::Table => names.into_iter().try_for_each(line),
        Format::Json => json(&names.into_iter().map(|name| json!({kind: name})).collect()),
    }
}

/// Prints a table, or the same as a list of objects.
pub fn rows(format: Format, table: &Table, rows: Vec<Value>) -> Result<(), Error> {
    match format {
        Format::Table => table.print().map_err(Error::io("standard output")),
        Format::Json => json(&Value::Array(rows)),
    }
}

/// A time from the wire; `None` for none.
pub fn time(stamp: &prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(stamp.seconds, stamp.nanos).ok()
}

/// Tells of an error.
pub fn complain(error: &Error) {
    // There is nobody left to tell when standard error is gone.
    let _ = writeln!(io::stderr(), "davit: {}", error.message());
}

/// Does something to each of several things, goes on when one fails, and
/// prints the names of those done.
///
/// # Errors
/// [`Error::Told`] when any failed; each failure has been told.
pub async fn each<T: Display>(
    format: Format,
    kind: &str,
    things: &[T],
    action: impl AsyncFn(&T) -> Result<(), Error>,
) -> Result<u8, Error> {
    let mut done = Vec::new();
    for thing in things {
        match action(thing).await {
            Ok(()) if format == Format::Table => line(&thing.to_string())?,
            Ok(()) => {}
            Err(error) => {
                complain(&error);
                continue;
            }
        }
        done.push(json!({kind: thing.to_string()}));
    }
    let all = done.len() == things.len();
    if format == Format::Json {
        json(&Value::Array(done))?;
    }
    if all { Ok(0) } else { Err(Error::Told) }
}
