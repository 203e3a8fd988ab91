//! Operations that only look.

use std::time::Duration;

use crate::error::Result;
use crate::runc::Runc;
use crate::stats::{Event, Stats};
use crate::types::{Features, ProcessTable, State, Version};

impl Runc {
    /// The container's state.
    ///
    /// # Errors
    /// `NotFound`, or any other.
    pub async fn state(&self, _id: &str) -> Result<State> {
        todo!()
    }

    /// All containers under the client's root.
    ///
    /// # Errors
    /// Any.
    pub async fn list(&self) -> Result<Vec<State>> {
        todo!()
    }

    /// The pids of the container's processes, in the caller's pid namespace.
    ///
    /// # Errors
    /// `NotFound`, `NotRunning`, or any other.
    pub async fn ps(&self, _id: &str) -> Result<Vec<u32>> {
        todo!()
    }

    /// The container's processes as `ps` on the host prints them; `args` are
    /// arguments of `ps`, `-ef` if there are none.
    ///
    /// # Errors
    /// As [`Runc::ps`]; runtimes that only know pids give a table of one column.
    pub async fn ps_table(&self, _id: &str, _args: &[&str]) -> Result<ProcessTable> {
        todo!()
    }

    /// The container's statistics.
    ///
    /// # Errors
    /// `NotFound`, `NotRunning`, `Unsupported`, or any other.
    pub async fn stats(&self, _id: &str) -> Result<Stats> {
        todo!()
    }

    /// The container's events: statistics every `interval`, and memory running
    /// out, until it stops.
    ///
    /// # Errors
    /// When the runtime cannot be started. What it says later comes from
    /// [`Events::next`].
    pub fn events(&self, _id: &str, _interval: Duration) -> Result<Events> {
        todo!()
    }

    /// What the runtime supports.
    ///
    /// # Errors
    /// `Unsupported` for one that cannot tell, or any other.
    pub async fn features(&self) -> Result<Features> {
        todo!()
    }

    /// The runtime's version.
    ///
    /// # Errors
    /// `BinaryNotFound`, or any other.
    pub async fn version(&self) -> Result<Version> {
        todo!()
    }
}

/// A running `events` call. Dropping it kills the runtime process.
#[derive(Debug)]
pub struct Events {}

impl Events {
    /// The next event; `None` when the container has stopped. Cancelling it
    /// loses nothing.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        todo!()
    }
}
