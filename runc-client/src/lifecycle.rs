//! Operations that change a container.

use std::io::Write;
use std::path::Path;
use std::process::ExitStatus;
use std::time::SystemTime;

use tempfile::NamedTempFile;

use crate::args::{self, Args, check_id};
use crate::call::Call;
use crate::error::{Error, Result};
use crate::options::{
    CheckpointOptions, CreateOptions, ExecOptions, RestoreOptions, RunOptions, Stdio,
};
use crate::runc::Runc;

impl Runc {
    /// Creates container `id` from the bundle, without starting its process.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for a bad id or bundle; any other.
    /// Where the process has no terminal, the runtime's stderr is the
    /// container's and its errors are read from the log.
    pub async fn create(&self, id: &str, bundle: &Path, options: CreateOptions) -> Result<()> {
        let args = args::create("create", id, bundle, &options, false);
        self.make(id, Some(bundle), make_call("create", args, options)).await.map(drop)
    }

    /// Starts the process of a created container.
    ///
    /// # Errors
    /// `NotFound`; `NotRunning` when it was started before; any other.
    pub async fn start(&self, id: &str) -> Result<()> {
        self.simple("start", id).await
    }

    /// Creates and starts container `id`. Returns its exit code, 128 plus the
    /// signal's number when a signal ended it; with `detach`, 0 at once.
    /// Without `detach` the container is deleted when it has exited.
    ///
    /// Dropping the call without `detach` kills the container's process.
    ///
    /// # Errors
    /// As [`Runc::create`] and [`Runc::start`]. Without `detach`, a non-zero
    /// exit is the runtime's own failure if it has logged an error.
    pub async fn run(&self, id: &str, bundle: &Path, options: RunOptions) -> Result<i32> {
        let RunOptions { create, detach } = options;
        let args = args::create("run", id, bundle, &create, detach);
        let call = Call { limited: detach, ..make_call("run", args, create) };
        self.make(id, Some(bundle), call).await
    }

    /// Runs a process in container `id`; `process` is the JSON of an OCI
    /// `Process`. Returns its exit code; with `detach`, 0 at once.
    ///
    /// Dropping the call without `detach` kills the process.
    ///
    /// # Errors
    /// `NotFound`, `NotRunning`, or any other, in the way of [`Runc::run`].
    pub async fn exec(&self, id: &str, process: &[u8], options: ExecOptions) -> Result<i32> {
        check_id("exec", id)?;
        let file = self.document("process", process)?;
        let args = args::exec(id, file.path(), &options);
        let stdio = container_stdio(options.stdio, options.console_socket.as_deref());
        let limited = options.detach;
        let fds = options.preserved_fds;
        let call = Call { stdio, fds, limited, ..Call::new("exec", args) };
        self.exit_code(call).await
    }

    /// Sends signal number `signal` to the container's init process, or with
    /// `all` to all of its processes.
    ///
    /// # Errors
    /// `NotFound`; `NotRunning` when the process has exited; any other.
    pub async fn kill(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        check_id("kill", id)?;
        if signal < 0 {
            let reason = format!("invalid signal {signal}: it is negative");
            return Err(Error::Refused { operation: "kill", reason });
        }
        let args = Args::of("kill").flag("--all", all).arg(id).arg(signal.to_string());
        self.call(Call::new("kill", args)).await?.success().map(drop)
    }

    /// Deletes a stopped container; with `force` a running one as well, and
    /// what an aborted create has left. Deleting with `force` what does not
    /// exist succeeds.
    ///
    /// # Errors
    /// `NotFound`; `NotRunning` for a container in a state other than stopped; any other.
    pub async fn delete(&self, id: &str, force: bool) -> Result<()> {
        check_id("delete", id)?;
        let args = Args::of("delete").flag("--force", force).arg(id);
        self.call(Call::new("delete", args)).await?.success().map(drop)
    }

    /// Pauses all processes of the container.
    ///
    /// # Errors
    /// `NotFound`, `NotRunning`, or any other. crun lets a paused container be.
    pub async fn pause(&self, id: &str) -> Result<()> {
        self.simple("pause", id).await
    }

    /// Lets the processes of a paused container go on.
    ///
    /// # Errors
    /// `NotFound`; `NotRunning` when it is not paused, except from crun, which
    /// lets a running container be; any other.
    pub async fn resume(&self, id: &str) -> Result<()> {
        self.simple("resume", id).await
    }

    /// Changes the container's limits; `resources` is the JSON of an OCI
    /// `LinuxResources`.
    ///
    /// # Errors
    /// `NotFound`, `NotRunning`, or any other.
    pub async fn update(&self, id: &str, resources: &[u8]) -> Result<()> {
        check_id("update", id)?;
        let file = self.document("resources", resources)?;
        let args = Args::of("update").value("--resources", Some(file.path())).arg(id);
        self.call(Call::new("update", args)).await?.success().map(drop)
    }

    /// Saves the container's processes with CRIU. It exits, unless
    /// `leave_running` or `pre_dump` is set.
    ///
    /// # Errors
    /// `NotFound`, `NotRunning`, `Unsupported` when the runtime or the host
    /// lacks CRIU, or any other. CRIU's log is `dump.log` in the work directory.
    pub async fn checkpoint(&self, id: &str, options: CheckpointOptions) -> Result<()> {
        check_id("checkpoint", id)?;
        let args = args::checkpoint(id, &options);
        let fds = options.status_fd.into_iter().collect();
        let call = Call { fds, ..Call::new("checkpoint", args) };
        self.call(call).await?.success().map(drop)
    }

    /// Makes container `id` from what [`Runc::checkpoint`] saved. Returns its
    /// exit code; with `detach`, 0 as soon as it runs.
    ///
    /// # Errors
    /// `AlreadyExists`, `Unsupported`, or any other, in the way of [`Runc::run`].
    pub async fn restore(&self, id: &str, bundle: &Path, options: RestoreOptions) -> Result<i32> {
        let args = args::restore(id, bundle, &options);
        let stdio = container_stdio(options.stdio, options.console_socket.as_deref());
        let call = Call { stdio, limited: options.detach, ..Call::new("restore", args) };
        self.make(id, Some(bundle), call).await
    }

    /// An operation that takes nothing but the id.
    async fn simple(&self, operation: &'static str, id: &str) -> Result<()> {
        check_id(operation, id)?;
        let args = Args::of(operation).arg(id);
        self.call(Call::new(operation, args)).await?.success().map(drop)
    }

    /// An operation that makes a container. Out of time, it deletes what it
    /// had made: the caller has only heard that there is no container.
    async fn make(&self, id: &str, bundle: Option<&Path>, call: Call<'_>) -> Result<i32> {
        check_id(call.operation, id)?;
        let begun = SystemTime::now();
        let made = self.exit_code(Call { bundle, ..call }).await;
        if let Err(Error::Timeout { .. }) = made {
            self.delete_aborted(id, begun).await;
        }
        made
    }

    /// Deletes container `id` unless it was created before `begun`, by somebody
    /// else.
    async fn delete_aborted(&self, id: &str, begun: SystemTime) {
        let own = match self.state(id).await {
            Ok(state) => state.created_at().is_some_and(|created| created >= begun),
            // A runtime may leave files that it does not call a container yet.
            Err(Error::NotFound(_)) => true,
            Err(error) => {
                log::warn!(container = id, error:% = error; "aborted container not looked at");
                false
            }
        };
        if own && let Err(error) = self.delete(id, true).await {
            log::warn!(container = id, error:% = error; "aborted container not deleted");
        }
    }

    /// Runs a call that ends as the container's process does. With `limited`,
    /// it ends before, and every failure is the runtime's.
    async fn exit_code(&self, call: Call<'_>) -> Result<i32> {
        let detached = call.limited;
        let ended = self.call(call).await?;
        if ended.status.success() || (!detached && ended.messages.is_empty()) {
            return Ok(exit_code(ended.status));
        }
        Err(ended.into_failure())
    }

    /// A private file that holds `json`.
    fn document(&self, name: &str, json: &[u8]) -> Result<NamedTempFile> {
        let mut file = self.temp_file(&format!("runc-{name}-"))?;
        file.write_all(json)
            .map_err(|error| Error::io(format!("write {}", file.path().display()), error))?;
        Ok(file)
    }
}

fn make_call(operation: &'static str, args: Args, options: CreateOptions) -> Call<'static> {
    let stdio = container_stdio(options.stdio, options.console_socket.as_deref());
    Call { stdio, fds: options.preserved_fds, ..Call::new(operation, args) }
}

/// The streams that the container gets from the runtime: none with a terminal,
/// and the runtime's own can then be read.
fn container_stdio(stdio: Stdio, console_socket: Option<&Path>) -> Option<Stdio> {
    console_socket.is_none().then_some(stdio)
}

/// The exit code as shells count.
fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}
