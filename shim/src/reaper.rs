//! The one place where children are waited for.
//!
//! The shim is a subreaper: besides the processes it starts itself, the
//! orphans of those end up as its children: a container's init, whose parent
//! (the runtime binary) has exited, and everything in the container that
//! outlives its own parent. All are collected here; nobody else may call
//! `wait`, so `tokio::process` is not for shims.
//!
//! Invariant: an exit is delivered once to whoever watches the pid, however
//! the watching and the exit fall in time, and never to somebody who watches
//! a later process of the same pid. Everything happens on one thread: between
//! a spawn and the registration of its pid no exit can be collected.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::SystemTime;

use davit_sys::process::{self, Reaped};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::open_files;

/// How many exits of unknown orphans are kept while an [`OrphanWindow`] is
/// open. The oldest goes first; a container that forks itself to death inside
/// the window cannot fill the shim's memory.
pub const KEPT_ORPHANS: usize = 4096;

/// A collected exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Whose.
    pub pid: u32,
    /// The exit code, or 128 + the signal's number.
    pub status: u32,
    /// The signal that ended it, 0 when it exited.
    pub signal: u32,
    /// When it was collected.
    pub at: SystemTime,
}

/// Collects exits. Cheap to clone; all clones are one. It is also how
/// `runc-client` starts the runtime's processes in a shim.
#[derive(Clone, Debug, Default)]
pub struct Reaper(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    watched: HashMap<u32, Vec<oneshot::Sender<Exit>>>,
    kept: VecDeque<Exit>,
    windows: usize,
}

/// A process started through [`Reaper::spawn`].
#[derive(Debug)]
pub struct Child {
    /// Its process id, valid until [`Child::exit`] has returned.
    pub pid: u32,
    /// The write end of its standard input, if that was piped.
    pub stdin: Option<ChildStdin>,
    /// The read end of its standard output, if that was piped.
    pub stdout: Option<ChildStdout>,
    /// The read end of its standard error, if that was piped.
    pub stderr: Option<ChildStderr>,
    exit: Watch,
}

impl Child {
    /// Waits for the exit. Can be dropped and called again.
    pub async fn exit(&mut self) -> Exit {
        (&mut self.exit).await
    }

    /// The watch alone, for callers that keep the pid elsewhere.
    pub fn into_watch(self) -> Watch {
        self.exit
    }

    /// Sends a signal, unless the exit has been collected: the pid may be
    /// another process's by then.
    ///
    /// # Errors
    /// The system's; `NotFound` after the exit.
    pub fn signal(&mut self, signal: i32) -> io::Result<()> {
        if self.exit.is_ready() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let signal = Signal::try_from(signal)?;
        kill(Pid::from_raw(self.pid as i32), signal).map_err(io::Error::from)
    }
}

/// The exit of one process, to be awaited. Dropping it forgets the exit.
#[derive(Debug)]
pub struct Watch {
    receiver: oneshot::Receiver<Exit>,
    done: Option<Exit>,
}

impl Watch {
    /// Whether the exit is known already.
    pub fn is_ready(&mut self) -> bool {
        if let (None, Ok(exit)) = (self.done, self.receiver.try_recv()) {
            self.done = Some(exit);
        }
        self.done.is_some()
    }
}

impl Future for Watch {
    type Output = Exit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Exit> {
        if let Some(exit) = self.done {
            return Poll::Ready(exit);
        }
        match Pin::new(&mut self.receiver).poll(cx) {
            Poll::Ready(Ok(exit)) => {
                self.done = Some(exit);
                Poll::Ready(exit)
            }
            // The reaper lives as long as the process; without it nothing
            // will ever be known.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

/// While it lives, exits of orphans nobody watches yet are kept. Open it
/// before running something that will leave an orphan whose pid is learnt
/// afterwards (`runc create`, `runc exec --detach`), close it (drop it) once
/// that pid is watched.
pub struct OrphanWindow(Reaper);

impl Drop for OrphanWindow {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.windows -= 1;
        if state.windows == 0 {
            state.kept = VecDeque::new();
        }
    }
}

impl Reaper {
    /// Makes the process a subreaper and starts collecting. Must be called on
    /// a `LocalSet`; there may be one in a process.
    ///
    /// # Errors
    /// When the kernel or the runtime refuses.
    pub fn new() -> io::Result<Self> {
        process::set_subreaper()?;
        let mut sigchld = signal(SignalKind::child())?;
        let reaper = Self::default();
        let collector = reaper.clone();
        tokio::task::spawn_local(async move {
            loop {
                collector.collect();
                if sigchld.recv().await.is_none() {
                    break;
                }
            }
        });
        Ok(reaper)
    }

    /// Starts a command, with the limit of open files that the shim was started
    /// with. Its exit is collected here and nowhere else.
    ///
    /// # Errors
    /// Those of [`Command::spawn`].
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // Held so that no exit is collected before the pid is registered.
        let mut state = self.lock();
        let mut child = open_files::spawn(command)?;
        let pid = child.id();
        Ok(Child {
            pid,
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            exit: state.register(pid),
        })
    }

    /// Watches a process that is, or will have been, a child of this one.
    /// An exit that was kept by an [`OrphanWindow`] is delivered at once,
    /// unless a process of that pid is alive now: then the kept one was of
    /// an earlier process.
    pub fn watch(&self, pid: u32) -> Watch {
        let mut state = self.lock();
        // Whatever has exited by now is collected first, so that a kept exit
        // is never younger than the question whether the process lives.
        state.collect();
        let kept = state.kept.iter().rev().find(|exit| exit.pid == pid).copied();
        state.kept.retain(|exit| exit.pid != pid);
        match kept {
            Some(exit) if !process::is_living_child(pid) => {
                let (_, receiver) = oneshot::channel();
                Watch { receiver, done: Some(exit) }
            }
            _ => state.register(pid),
        }
    }

    /// Keeps exits of orphans until the window is dropped.
    pub fn keep_orphans(&self) -> OrphanWindow {
        self.lock().windows += 1;
        OrphanWindow(self.clone())
    }

    /// Collects everything that has exited. Called by the library on SIGCHLD;
    /// calling it more often does no harm.
    pub fn collect(&self) {
        self.lock().collect();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn register(&mut self, pid: u32) -> Watch {
        let (sender, receiver) = oneshot::channel();
        self.watched.entry(pid).or_default().push(sender);
        Watch { receiver, done: None }
    }

    fn collect(&mut self) {
        while let Some(Reaped { pid, status, signal }) = process::reap_any() {
            self.deliver(Exit { pid, status, signal, at: SystemTime::now() });
        }
    }

    fn deliver(&mut self, exit: Exit) {
        match self.watched.remove(&exit.pid) {
            Some(watchers) => {
                for watcher in watchers {
                    let _ = watcher.send(exit);
                }
            }
            None if self.windows > 0 => {
                if self.kept.len() == KEPT_ORPHANS {
                    self.kept.pop_front();
                }
                self.kept.push_back(exit);
            }
            None => {}
        }
    }
}

impl runc_client::Spawner for Reaper {
    fn spawn(&self, mut command: Command) -> io::Result<Box<dyn runc_client::Child>> {
        let child = Reaper::spawn(self, &mut command)?;
        Ok(Box::new(RuntimeChild { child, reported: false }))
    }
}

/// A runtime's process, as `runc-client` sees it.
struct RuntimeChild {
    child: Child,
    reported: bool,
}

impl runc_client::Child for RuntimeChild {
    fn pid(&self) -> u32 {
        self.child.pid
    }

    fn poll_exit(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<ExitStatus>> {
        Pin::new(&mut self.child.exit).poll(cx).map(|exit| {
            self.reported = true;
            // The encoding of wait(2).
            let raw = if exit.signal != 0 { exit.signal } else { exit.status << 8 };
            Ok(ExitStatus::from_raw(raw as i32))
        })
    }

    fn kill(&mut self) -> io::Result<()> {
        match self.child.signal(Signal::SIGKILL as i32) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

impl Drop for RuntimeChild {
    /// Cancels the call: the process is killed, and reaped like every other.
    fn drop(&mut self) {
        if !self.reported {
            let _ = runc_client::Child::kill(self);
        }
    }
}
