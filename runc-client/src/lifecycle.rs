//! Operations that change a container.

use std::path::Path;

use crate::error::Result;
use crate::options::{CheckpointOptions, CreateOptions, ExecOptions, RestoreOptions, RunOptions};
use crate::runc::Runc;

impl Runc {
    /// Creates container `id` from the bundle, without starting its process.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for a bad id or bundle; any other.
    pub async fn create(&self, _id: &str, _bundle: &Path, _options: CreateOptions) -> Result<()> {
        todo!()
    }

    /// Starts the process of a created container.
    ///
    /// # Errors
    /// `NotFound`; `NotRunning` when it was started before; any other.
    pub async fn start(&self, _id: &str) -> Result<()> {
        todo!()
    }

    /// Creates and starts container `id`. Returns its exit code, 128 plus the
    /// signal's number when a signal ended it; with `detach`, 0 at once.
    /// Without `detach` the container is deleted when it has exited.
    ///
    /// Dropping the call without `detach` kills the runtime, not the container.
    ///
    /// # Errors
    /// As [`Runc::create`] and [`Runc::start`].
    pub async fn run(&self, _id: &str, _bundle: &Path, _options: RunOptions) -> Result<i32> {
        todo!()
    }

    /// Runs a process in container `id`; `process` is the JSON of an OCI
    /// `Process`. Returns its exit code; with `detach`, 0 at once.
    ///
    /// Dropping the call without `detach` kills the runtime, not the process.
    ///
    /// # Errors
    /// `NotFound`, `NotRunning`, or any other.
    pub async fn exec(&self, _id: &str, _process: &[u8], _options: ExecOptions) -> Result<i32> {
        todo!()
    }

    /// Sends signal number `signal` to the container's init process, or with
    /// `all` to all of its processes.
    ///
    /// # Errors
    /// `NotFound`; `NotRunning` when the process has exited; any other.
    pub async fn kill(&self, _id: &str, _signal: i32, _all: bool) -> Result<()> {
        todo!()
    }

    /// Deletes a stopped container; with `force` a running one as well, and
    /// what an aborted create has left. Deleting with `force` what does not
    /// exist succeeds.
    ///
    /// # Errors
    /// `NotFound`; `NotRunning` for a container in a state other than stopped; any other.
    pub async fn delete(&self, _id: &str, _force: bool) -> Result<()> {
        todo!()
    }

    /// Pauses all processes of the container.
    ///
    /// # Errors
    /// `NotFound`, `NotRunning`, or any other.
    pub async fn pause(&self, _id: &str) -> Result<()> {
        todo!()
    }

    /// Lets the processes of a paused container go on.
    ///
    /// # Errors
    /// `NotFound`; `NotRunning` when it is not paused; any other.
    pub async fn resume(&self, _id: &str) -> Result<()> {
        todo!()
    }

    /// Changes the container's limits; `resources` is the JSON of an OCI
    /// `LinuxResources`.
    ///
    /// # Errors
    /// `NotFound`, `NotRunning`, or any other.
    pub async fn update(&self, _id: &str, _resources: &[u8]) -> Result<()> {
        todo!()
    }

    /// Saves the container's processes with CRIU. It exits, unless
    /// `leave_running` or `pre_dump` is set.
    ///
    /// # Errors
    /// `NotFound`, `NotRunning`, `Unsupported` when the runtime or the host
    /// lacks CRIU, or any other. CRIU's log is `dump.log` in the work directory.
    pub async fn checkpoint(&self, _id: &str, _options: CheckpointOptions) -> Result<()> {
        todo!()
    }

    /// Makes container `id` from what [`Runc::checkpoint`] saved. Returns its
    /// exit code; with `detach`, 0 as soon as it runs.
    ///
    /// # Errors
    /// `AlreadyExists`, `Unsupported`, or any other.
    pub async fn restore(
        &self,
        _id: &str,
        _bundle: &Path,
        _options: RestoreOptions,
    ) -> Result<i32> {
        todo!()
    }
}
