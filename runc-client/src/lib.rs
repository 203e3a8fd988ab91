//! An async client of any runc-compatible container runtime: runc, crun,
//! runsc, youki and whatever else understands runc's command line.
//!
//! One call is one process of the runtime. The crate builds its command line,
//! starts it, reads what it answers and says in a typed [`Error`] what went
//! wrong, with everything that the runtime reported. It keeps no state, starts
//! no thread and needs nothing but tokio.
//!
//! ```no_run
//! use std::path::Path;
//! use runc_client::{CreateOptions, ErrorKind, ExecOptions, Runc, Status, Stdio};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runc = Runc::new("crun").root("/run/example").timeout(std::time::Duration::from_secs(30));
//!
//! // A directory with config.json and a root file system.
//! let bundle = Path::new("/srv/web");
//! let options = CreateOptions { stdio: Stdio::inherit(), ..Default::default() };
//! runc.create("web", bundle, options).await?;
//! runc.start("web").await?;
//! assert_eq!(runc.state("web").await?.status, Status::Running);
//!
//! // An OCI process; oci-spec's `Process` serialises to the same.
//! let process = br#"{"args": ["ls", "/"], "cwd": "/", "env": ["PATH=/bin"], "user": {}}"#;
//! let options = ExecOptions { stdio: Stdio::inherit(), ..Default::default() };
//! let exit_code = runc.exec("web", process, options).await?;
//! println!("ls returned {exit_code}");
//!
//! match runc.kill("web", 9, true).await {
//!     Err(error) if error.kind() == ErrorKind::NotRunning => {} // It has exited by itself.
//!     killed => killed?,
//! }
//! runc.delete("web", true).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//! Where the runtime's stderr is its own, it is read beside the log. Where it
//! belongs to a container (create, run, exec and restore without a terminal),
//! the log alone tells what went wrong: the file given to [`Runc::log`], of
//! which each call reads what was added since it began, or a private temporary
//! one. [`classify`] is the one place that knows the runtimes' wordings, and
//! [`Failure::messages`] holds all of what was said.
//!
//! # Waiting
//! A call ends when the runtime process exits, not when its output ends: a
//! container may hold that open. A process that reaps all children itself
//! supplies a [`Spawner`]; with the default one, tokio does.
//!
//! # Alternatives that were rejected
//! A daemon beside the runtime: one more process per container. Linking a
//! runtime in: the choice of runtime is the user's. One trait per runtime: they
//! differ in words, not in operations; what one lacks is reported as
//! [`ErrorKind::Unsupported`].
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
mod sealed;
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
pub use crate::sealed::{Original, SealedCopy};
pub use crate::spawn::{Child, Spawner, TokioSpawner};
pub use crate::stats::{
    Blkio, BlkioEntry, Cpu, CpuUsage, Event, HugeTlb, Memory, MemoryEntry, NetworkInterface, Pids,
    Psi, PsiData, Stats, Throttling,
};
pub use crate::types::{Features, ProcessTable, State, Status, Version, read_pid_file};
