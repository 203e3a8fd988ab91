//! Tasks: bundles on disk, shims that keep them, and the calls that go there.
//!
//! A task is a bundle directory and a shim process that answers for it. This
//! crate makes the one, starts the other, finds both again after the daemon
//! was restarted, and cleans up after a shim that died. It knows nothing of
//! the index: who creates a task says with what.
//!
//! What it keeps:
//! * Nothing that matters is only in memory. A bundle says how its shim is
//!   reached (`bootstrap.json`, or `address` by older shims) and which binary
//!   cleans up after it (`shim-binary-path`, written before the shim runs).
//! * A call to a shim is made under no lock, with the caller's [`Deadline`].
//!   Only what makes and ends the task of one id is done one after another.
//! * Create, Delete and clean-up run to their end although the caller has
//!   gone; a Create whose caller has gone is rolled back.
//! * A dead shim is cleaned up once; its exit is told once.
//!
//! Inherited from containerd 2 (`core/runtime/v2`): the layout of bundles, the
//! way shims are found, started and asked, and every error text.

mod bootstrap;
mod bundle;
mod client;
mod command;
mod connection;
mod create;
mod deadline;
mod dial;
mod end;
mod errands;
mod error;
mod load;
mod names;
mod options;
mod runtime_root;
mod scratch;
mod sealed;
mod shim;
mod shim_log;
mod state;
mod tasks;
mod told;
mod transport;
mod turns;

pub use bootstrap::{Protocol, shim_socket};
pub use davit_protocols::event_field;
pub use deadline::Deadline;
pub use error::Error;
pub use options::{Checkpoint, Config, CreateOptions, ExecOptions, Limits, Sandbox, Stdio};
pub use scratch::Scratch;
pub use state::{Exit, Process, ProcessState, Status};
pub use tasks::Tasks;
