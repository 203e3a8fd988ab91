//! The runtime's log and stderr.

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
    /// What failed.
    Error,
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

/// Reads what a runtime wrote to its log or to stderr: JSON entries, text
/// entries (`level=error msg="..."`), and plain lines, in any mixture. Bytes
/// that are no UTF-8 are replaced; a line that was cut is taken as plain.
/// Never fails.
pub fn parse_log(_bytes: &[u8]) -> Vec<LogEntry> {
    todo!()
}
