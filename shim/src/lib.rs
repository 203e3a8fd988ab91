//! Write a shim for containerd or davitd.
//!
//! A shim is the small process that owns a container (or the containers of a
//! pod) on behalf of the daemon: it survives the daemon's restarts, keeps the
//! exit statuses and speaks ttrpc on a Unix socket of its own. Whoever wants
//! to run something that is not a runc-compatible binary writes one.
//!
//! The author implements [`Shim`], about a dozen async methods that take the
//! task service's messages, and calls [`run`]:
//!
//! ```ignore
//! fn main() -> std::process::ExitCode {
//!     davit_shim::run::<MyShim>()
//! }
//! ```
//!
//! The crate supplies the rest: the command line and the three dialects in
//! which daemons of different ages start a shim ([`bootstrap`]), the socket
//! and its hand-over, the ttrpc server for `containerd.task.v2` and `v3`, the
//! ordered and durable way of events to the daemon ([`Publisher`]), the one
//! place where children are reaped ([`Reaper`]) and the log ([`logging`]).
//!
//! A shim has one thread. Futures need not be `Send`, state can live in a
//! `RefCell`, and no lock is needed or offered. Files small enough to be read
//! at once are read synchronously; nothing may block for longer than a disk
//! takes to answer. `examples/containerd-shim-davit-process-v1.rs` is a
//! complete shim that runs plain processes.
//!
//! Alternatives looked at: a trait per service, as the Go library has it
//! (more freedom, but every author repeats the decoding and the downgrade
//! from v3 to v2); a blocking server with a thread per connection (ten times
//! the private memory).

pub mod bootstrap;
pub mod cli;
mod context;
mod dispatch;
pub mod events;
mod failure;
pub mod logging;
mod open_files;
mod publisher;
mod queue;
mod reaper;
mod sealed;
mod serve;
mod shim;
pub mod socket;
mod start;

pub use context::{Context, ShutdownHandle};
pub use failure::Failure;
pub use publisher::Publisher;
pub use reaper::{Child, Exit, OrphanWindow, Reaper, Watch};
pub use shim::{AfterShutdown, Cleaned, Shim};
pub use start::{ADDRESS_FILE, run, timestamp};

/// The messages of the task service; versions 2 and 3 are the same bytes.
pub use davit_protocols::ttrpc::task;
