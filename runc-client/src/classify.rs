//! What kind of failure a message tells of.

use crate::error::ErrorKind;

/// What kind of failure a runtime's error message tells of; `Failed` when the
/// wording is unknown. `operation` is the operation's name (`exec`).
pub fn classify(_operation: &str, _message: &str) -> ErrorKind {
    todo!()
}
