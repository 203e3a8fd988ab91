//! How a runtime process is started and how its exit is learnt.
//!
//! The client never waits for a process itself. It hands a prepared command to
//! a [`Spawner`] and polls the [`Child`] that comes back. A program that is a
//! subreaper and calls `waitpid` for everything (a shim) supplies its own
//! spawner; everybody else uses [`TokioSpawner`].

use std::fmt;
use std::io;
use std::process::{Command, ExitStatus};
use std::task::{Context, Poll};

use crate::cancel::{CLEANUP_LIMIT, kill_children, kill_group};

/// Starts processes.
///
/// `command` is complete: arguments, environment, working directory, stdio and
/// inherited descriptors are set. Unless it has the caller's own streams, it
/// becomes the leader of a process group (the container leaves it). It holds the write ends of the pipes that the
/// client reads, so it must be dropped before `spawn` returns.
pub trait Spawner: fmt::Debug + Send + Sync {
    /// Starts `command`.
    ///
    /// # Errors
    /// What the operating system says; `NotFound` when the program is missing.
    fn spawn(&self, command: Command) -> io::Result<Box<dyn Child>>;
}

/// A process that was started and not yet reaped.
///
/// Dropping one whose exit was not reported kills it and sees to it that it is
/// reaped: this is what cancels a call. The default kills its children first
/// and gives it 2 s to clean up.
pub trait Child: Send {
    /// The process id; valid until the exit has been reported.
    fn pid(&self) -> u32;

    /// The exit status, once the process has been reaped. Not called again
    /// after it was ready.
    ///
    /// # Errors
    /// When the exit status can no longer be learnt.
    fn poll_exit(&mut self, context: &mut Context<'_>) -> Poll<io::Result<ExitStatus>>;

    /// Sends SIGKILL, to the process' group if it leads one: a runtime's hooks
    /// go with it. The exit is still to be polled for.
    ///
    /// # Errors
    /// What the operating system says. None when the process has exited.
    fn kill(&mut self) -> io::Result<()>;
}

/// The default: `tokio::process`, for programs where tokio reaps.
///
/// Must be used inside a tokio runtime with I/O and time enabled.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioSpawner;

impl Spawner for TokioSpawner {
    fn spawn(&self, command: Command) -> io::Result<Box<dyn Child>> {
        let mut command = tokio::process::Command::from(command);
        let child = command.kill_on_drop(true).spawn()?;
        let pid = child.id().expect("a child that was not waited for has a pid");
        Ok(Box::new(TokioChild { child: Some(child), pid }))
    }
}

/// A child of tokio's; `child` is gone once its exit has been reported.
struct TokioChild {
    child: Option<tokio::process::Child>,
    pid: u32,
}

impl Child for TokioChild {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn poll_exit(&mut self, context: &mut Context<'_>) -> Poll<io::Result<ExitStatus>> {
        let child = self.child.as_mut().expect("not polled after it was ready");
        let exit = std::pin::pin!(child.wait()).poll(context);
        if exit.is_ready() {
            self.child = None;
        }
        exit
    }

    fn kill(&mut self) -> io::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        kill_group(self.pid);
        child.start_kill()
    }
}

impl Drop for TokioChild {
    /// Kills its children at once, then itself and reaps it in a task; where
    /// the tokio runtime is shutting down, tokio's queue of orphans
    /// (`kill_on_drop`) is what is left.
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = self.pid;
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return kill_group(pid);
        };
        kill_children(pid);
        runtime.spawn(async move {
            if tokio::time::timeout(CLEANUP_LIMIT, child.wait()).await.is_err() {
                kill_group(pid);
                if child.start_kill().is_ok() {
                    let _ = child.wait().await;
                }
            }
        });
    }
}
