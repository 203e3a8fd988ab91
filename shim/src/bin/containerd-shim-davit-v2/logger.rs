//! `binary://`: a program that gets a container's output (containerd,
//! `process/io.go`, NewBinaryIO).
//!
//! It reads the container's standard output as descriptor 3 and its standard
//! error as 4, says that it is ready by closing 5 (or writing to it), finds
//! `CONTAINER_ID` and `CONTAINER_NAMESPACE` in its environment and nothing
//! else but what the address adds. The path is the client's; nothing here
//! looks at labels or annotations.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use davit_shim::{Child, Failure, Reaper};
use davit_types::ErrorKind;
use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::timeout;

use crate::stdio::{Owner, give};
use crate::uri::Program;
use crate::words;

/// How long a logger may take to get ready.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to finish by itself after the end of its input.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take after SIGTERM, until SIGKILL.
const TERM_LIMIT: Duration = Duration::from_secs(10);

/// A running logger.
pub struct Logger {
    child: Child,
}

/// The write ends of a logger's pipes.
pub struct Pipes {
    /// For the container's standard output.
    pub stdout: OwnedFd,
    /// For the container's standard error.
    pub stderr: OwnedFd,
}

impl Logger {
    /// Starts a logger and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started, or does not get ready; it is gone then.
    pub async fn start(
        program: &Program,
        owner: &Owner<'_>,
        reaper: &Reaper,
    ) -> Result<(Self, Pipes), Failure> {
        let failed = |what: &str, error: &io::Error| {
            Failure::new(ErrorKind::Unknown, format!("failed to {what}: {}", words::of(error)))
        };
        let (child, pipes, ready) = spawn(program, owner, reaper).map_err(|error| {
            let what = format!("start binary process: fork/exec {}", program.path.display());
            failed(&what, &error)
        })?;
        let logger = Self { child };
        match timeout(READY_LIMIT, is_ready(ready, program.strict)).await {
            Ok(Ok(())) => Ok((logger, pipes)),
            Ok(Err(error)) => {
                logger.kill().await;
                Err(failed("read from logging binary", &error))
            }
            Err(_) => {
                logger.kill().await;
                let text = format!("logging binary is not ready after {READY_LIMIT:?}");
                Err(Failure::new(ErrorKind::DeadlineExceeded, text))
            }
        }
    }

    /// Ends the logger. Its input has ended by now, or ends with the
    /// processes that still write to it.
    pub async fn stop(mut self) {
        if timeout(FLUSH_LIMIT, self.child.exit()).await.is_ok() {
            return;
        }
        self.signal(Signal::SIGTERM);
        if timeout(TERM_LIMIT, self.child.exit()).await.is_err() {
            log::warn!(pid:% = self.child.pid; "logger survives SIGTERM, killing it");
            self.kill().await;
        }
    }

    async fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        if timeout(TERM_LIMIT, self.child.exit()).await.is_err() {
            log::error!(pid:% = self.child.pid; "logger survives SIGKILL");
        }
    }

    /// One that has exited is no error.
    fn signal(&mut self, signal: Signal) {
        let _ = self.child.signal(signal as i32);
    }
}

fn spawn(
    program: &Program,
    owner: &Owner<'_>,
    reaper: &Reaper,
) -> io::Result<(Child, Pipes, OwnedFd)> {
    let (out_reader, out_writer) = io::pipe()?;
    let (err_reader, err_writer) = io::pipe()?;
    let (ready_reader, ready_writer) = io::pipe()?;
    let pipes = Pipes { stdout: out_writer.into(), stderr: err_writer.into() };
    give(&pipes.stdout, owner);
    give(&pipes.stderr, owner);

    let mut command = Command::new(&program.path);
    command.args(&program.args).env_clear();
    command.envs(program.env.iter().map(|(name, value)| (name, value)));
    command.env("CONTAINER_ID", owner.id).env("CONTAINER_NAMESPACE", owner.namespace);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mappings = [out_reader.into(), err_reader.into(), ready_writer.into()]
        .into_iter()
        .zip(3..)
        .map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd })
        .collect();
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    let child = reaper.spawn(&mut command)?;
    // `command` ends here, and with it our ends of the logger's pipes.
    Ok((child, pipes, ready_reader.into()))
}

/// Waits for the logger's word. One that may leave it out says it by closing
/// its end, willingly or by dying.
async fn is_ready(reader: OwnedFd, strict: bool) -> io::Result<()> {
    let mut byte = [0];
    let count = pipe::Receiver::from_owned_fd(reader)?.read(&mut byte).await?;
    match count {
        0 if strict => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "logging binary did not call ready (it may have crashed or exited prematurely)",
        )),
        _ => Ok(()),
    }
}
