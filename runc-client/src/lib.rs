//! Under construction.
#![forbid(unsafe_code)]

mod args;
mod call;
mod cancel;
mod classify;
mod console;
mod error;
mod lifecycle;
mod log;
mod options;
mod query;
mod runc;
mod spawn;
mod stats;
mod types;

pub use crate::classify::classify;
pub use crate::console::ConsoleSocket;
pub use crate::error::{Error, ErrorKind, Failure, Result};
pub use crate::log::{Level, LogEntry, parse_log};
pub use crate::options::{
    CgroupsMode, CheckpointOptions, CreateOptions, ExecOptions, RestoreOptions, RunOptions, Stdio,
    Stream,
};
pub use crate::query::Events;
pub use crate::runc::{DeathSignal, LogFormat, Rootless, Runc};
pub use crate::spawn::{Child, Spawner, TokioSpawner};
pub use crate::stats::*;
pub use crate::types::{Features, ProcessTable, State, Status, Version, read_pid_file};
