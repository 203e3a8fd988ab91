//! The trait that a runtime author implements.

use std::future::Future;
use std::path::PathBuf;
use std::time::SystemTime;

use davit_protocols::ttrpc::task;
use davit_types::Any;

use crate::cli::Invocation;
use crate::{Context, Failure};

/// What becomes of the shim after a Shutdown call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterShutdown {
    /// Nothing is left to look after; the process ends.
    Exit,
    /// Containers of the group remain; the call was for one of them.
    Stay,
}

/// The answer of `shim delete`, the command that cleans up after a dead shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// The process id of the container's init, 0 when it is not known.
    pub pid: u32,
    /// The recorded exit status; 137 (128 + SIGKILL) when none was recorded.
    pub exit_status: u32,
    /// The recorded time of exit, or now.
    pub exited_at: SystemTime,
}

impl Cleaned {
    /// What to answer when nothing was recorded.
    pub fn killed(pid: u32) -> Self {
        Self { pid, exit_status: 137, exited_at: SystemTime::now() }
    }
}

/// A shim. The methods are those of `containerd.task.v3.Task`, served under
/// `containerd.task.v2.Task`, too. All calls run concurrently on one thread;
/// each runs to its end even when its caller has gone, with the exception of
/// [`wait`](Shim::wait), which is dropped then.
///
/// Method names in error texts and the meaning of each message are
/// containerd's (`api/runtime/task/v3/shim.proto`).
#[allow(async_fn_in_trait, reason = "a shim has one thread, its futures need not be Send")]
pub trait Shim: Sized + 'static {
    /// The runtime's name, for the log and for `-info`:
    /// `io.containerd.runc.v2`.
    const NAME: &'static str;

    /// The version that `-v` and `-info` show.
    const VERSION: &'static str;

    /// Called once in the serving process, before the first call is taken.
    /// An error is logged and ends the process; the caller's first call then
    /// fails.
    async fn new(context: Context) -> Result<Self, Failure>;

    /// Makes what is to run, without running it.
    async fn create(
        &self,
        request: task::CreateTaskRequest,
    ) -> Result<task::CreateTaskResponse, Failure>;

    /// Runs what was created, or an exec that was added.
    async fn start(&self, request: task::StartRequest) -> Result<task::StartResponse, Failure>;

    /// Forgets what has exited; the only thing that forgets an exit status.
    async fn delete(&self, request: task::DeleteRequest) -> Result<task::DeleteResponse, Failure>;

    /// The state of the container or of one of its execs.
    async fn state(&self, request: task::StateRequest) -> Result<task::StateResponse, Failure>;

    /// Sends a signal.
    async fn kill(&self, request: task::KillRequest) -> Result<(), Failure>;

    /// Returns when the process has exited; at once when it had before.
    async fn wait(&self, request: task::WaitRequest) -> Result<task::WaitResponse, Failure>;

    /// The process ids inside the container.
    async fn pids(&self, request: task::PidsRequest) -> Result<task::PidsResponse, Failure>;

    /// The ids of shim and container; called by a daemon that finds the shim
    /// again.
    async fn connect(
        &self,
        request: task::ConnectRequest,
    ) -> Result<task::ConnectResponse, Failure>;

    /// Called when the daemon is done with a container. The shim ends when
    /// the answer is [`AfterShutdown::Exit`].
    async fn shutdown(&self, request: task::ShutdownRequest) -> Result<AfterShutdown, Failure>;

    /// Whether containers are left to look after. SIGTERM and SIGINT end a
    /// shim only when none is.
    fn is_idle(&self) -> bool;

    /// Adds a process to a running container.
    async fn exec(&self, _request: task::ExecProcessRequest) -> Result<(), Failure> {
        Err(Failure::unimplemented("method Exec"))
    }

    /// Changes the size of a terminal. Succeeds where there is none.
    async fn resize_pty(&self, _request: task::ResizePtyRequest) -> Result<(), Failure> {
        Err(Failure::unimplemented("method ResizePty"))
    }

    /// Closes the process's standard input once the client has.
    async fn close_io(&self, _request: task::CloseIORequest) -> Result<(), Failure> {
        Err(Failure::unimplemented("method CloseIO"))
    }

    /// Freezes the container.
    async fn pause(&self, _request: task::PauseRequest) -> Result<(), Failure> {
        Err(Failure::unimplemented("method Pause"))
    }

    /// Thaws the container.
    async fn resume(&self, _request: task::ResumeRequest) -> Result<(), Failure> {
        Err(Failure::unimplemented("method Resume"))
    }

    /// Saves the container's processes.
    async fn checkpoint(&self, _request: task::CheckpointTaskRequest) -> Result<(), Failure> {
        Err(Failure::unimplemented("method Checkpoint"))
    }

    /// Changes resource limits.
    async fn update(&self, _request: task::UpdateTaskRequest) -> Result<(), Failure> {
        Err(Failure::unimplemented("method Update"))
    }

    /// Resource usage.
    async fn stats(&self, _request: task::StatsRequest) -> Result<task::StatsResponse, Failure> {
        Err(Failure::unimplemented("method Stats"))
    }

    /// A call of any other service on the shim's socket, decoded by the
    /// author: the payload goes in, the encoded answer comes out. `None`
    /// when the service is not known, which is answered as Go's server does.
    fn other(
        &self,
        _service: &str,
        _method: &str,
        _payload: Vec<u8>,
    ) -> Option<impl Future<Output = Result<Vec<u8>, Failure>> + 'static> {
        None::<std::future::Ready<Result<Vec<u8>, Failure>>>
    }

    /// The command `delete`: cleans up after a shim that is dead, without a
    /// server. Called on a small runtime of its own; the working directory
    /// and `invocation.bundle` may each be the bundle, or the bundle may be
    /// gone. What the last shim left is to be killed, unmounted and removed.
    async fn cleanup(invocation: &Invocation, reaper: &crate::Reaper) -> Result<Cleaned, Failure>;

    /// The runtime's part of `-info`: options (as given, or `None`) and
    /// features, as messages packed into `Any`.
    ///
    /// The default repeats the options and knows no features.
    async fn info(
        options: Option<Any>,
        _reaper: &crate::Reaper,
    ) -> Result<(Option<Any>, Option<Any>), Failure> {
        Ok((options, None))
    }

    /// The group that a container belongs to, from its annotations: all of a
    /// group share one shim. `None`: a shim of its own.
    fn group(annotations: &crate::bootstrap::Annotations) -> Option<&str> {
        annotations.group()
    }

    /// The control group that the runtime's options want the shim itself in,
    /// below every hierarchy's mount point; it has to exist. `None`: that of
    /// the daemon.
    fn cgroup(_options: &Any) -> Option<PathBuf> {
        None
    }
}
