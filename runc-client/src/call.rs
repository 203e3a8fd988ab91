//! One call: a process of the runtime, what it prints, and how it ended.
//!
//! Its end is its exit, never the end of its output: a container or a hook
//! that inherited the pipes may hold them open for ever. What the runtime
//! itself wrote is in the pipe by the time it has exited.

use std::future::poll_fn;
use std::io::{self, PipeWriter};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::pin::pin;
use std::process::{Command, ExitStatus};
use std::task::{Context, Poll};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use tempfile::NamedTempFile;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::args::Args;
use crate::cancel::{CLEANUP_LIMIT, kill_children};
use crate::classify::classify_all;
use crate::error::{Error, Failure, Result};
use crate::log::{LOG_LIMIT, LogMark, errors};
use crate::options::{Stdio, Stream};
use crate::runc::Runc;
use crate::spawn::Child;

/// The most of a call's output that is kept.
const OUTPUT_LIMIT: usize = 64 * 1024 * 1024;

/// How much is read at once, on the stack: a runtime says little.
const CHUNK: usize = 1024;

/// How long a killed process may take to be gone. Only one that hangs in the
/// kernel takes longer; it is reaped in the background.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What is to be run.
pub(crate) struct Call<'a> {
    pub(crate) operation: &'static str,
    pub(crate) args: Args,
    /// The container's streams; without them the runtime's are read.
    pub(crate) stdio: Option<Stdio>,
    /// Descriptors that are inherited as 3, 4, and so on.
    pub(crate) fds: Vec<OwnedFd>,
    /// The bundle, if the operation has one.
    pub(crate) bundle: Option<&'a Path>,
    /// Whether the client's time limit holds.
    pub(crate) limited: bool,
}

impl Call<'_> {
    /// A call whose output is read.
    pub(crate) fn new(operation: &'static str, args: Args) -> Self {
        Self { operation, args, stdio: None, fds: Vec::new(), bundle: None, limited: true }
    }
}

/// A call whose process has ended.
pub(crate) struct Ended {
    pub(crate) operation: &'static str,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    /// Everything the runtime said, if it ended with an error.
    pub(crate) messages: Vec<String>,
}

impl Ended {
    pub(crate) fn into_failure(self) -> Error {
        let kind = classify_all(self.operation, &self.messages);
        let (operation, status, messages) = (self.operation, self.status, self.messages);
        Failure { operation, status, messages, kind }.into()
    }

    /// The call, unless the runtime ended with an error.
    pub(crate) fn success(self) -> Result<Self> {
        if self.status.success() { Ok(self) } else { Err(self.into_failure()) }
    }
}

impl Runc {
    /// Starts a call.
    pub(crate) fn begin(&self, call: Call<'_>) -> Result<Running> {
        let Call { operation, args, stdio, fds, .. } = call;
        // Where stderr is a container's, errors are in the log only.
        let own_log = match (&self.log, &stdio) {
            (None, Some(_)) => Some(self.temp_file("runc-log-")?),
            _ => None,
        };
        let log_path = own_log.as_ref().map(NamedTempFile::path).or(self.log.as_deref());
        let mut command = self.command(log_path);
        command.args(&args.0);
        let (stdout, stderr) = match stdio {
            Some(stdio) => {
                attach(&mut command, stdio);
                (Output::none(), Output::none())
            }
            None => capture(&mut command)?,
        };
        map_fds(&mut command, fds)?;
        let log = log_path.map(LogMark::at_end_of);
        log::trace!(operation, binary:% = self.binary.display(); "runtime called");
        let child = self.spawner.spawn(command).map_err(|error| self.spawn_error(error))?;
        Ok(Running { operation, child, stdout, stderr, log, _own_log: own_log, exit: None })
    }

    /// Runs a call to its end, within the time limit.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<Ended> {
        let bundle = call.bundle.map(Path::to_owned);
        let (operation, silent) = (call.operation, call.stdio.is_some());
        let limit = self.timeout.filter(|_| call.limited);
        let mut running = self.begin(call)?;
        running.end(limit).await?;
        let mut ended = running.into_ended();
        if silent && !ended.status.success() && ended.messages.is_empty() {
            let bundle = bundle.as_deref();
            ended.messages = self.explain(operation, bundle).await;
        }
        Ok(ended)
    }

    /// Why a call failed whose runtime wrote nothing to its log, as crun does
    /// when it dislikes its arguments: stderr was the container's.
    async fn explain(&self, operation: &'static str, bundle: Option<&Path>) -> Vec<String> {
        if let Some(bundle) = bundle
            && let Err(error) = std::fs::read_dir(bundle)
        {
            return vec![format!("cannot open bundle {}: {error}", bundle.display())];
        }
        // Only restore is an operation that some build of a runtime lacks.
        if operation != "restore" {
            return Vec::new();
        }
        let probe = Call::new(operation, Args::of(operation).arg("--help"));
        let Ok(mut running) = self.begin(probe) else { return Vec::new() };
        match running.end(Some(KILL_LIMIT)).await {
            Ok(()) => running.into_ended().messages,
            Err(_) => Vec::new(),
        }
    }

    /// A private file (mode 0600) that is removed on drop.
    pub(crate) fn temp_file(&self, prefix: &str) -> Result<NamedTempFile> {
        let dir = self.temp_dir.clone().unwrap_or_else(std::env::temp_dir);
        tempfile::Builder::new().prefix(prefix).tempfile_in(&dir).map_err(|error| {
            Error::io(format!("create a temporary file in {}", dir.display()), error)
        })
    }

    fn spawn_error(&self, error: io::Error) -> Error {
        if let Some(dir) = &self.working_dir
            && let Err(error) = std::fs::read_dir(dir)
        {
            return Error::io(format!("enter working directory {}", dir.display()), error);
        }
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                Error::BinaryNotFound { binary: self.binary.clone(), source: error }
            }
            _ => Error::io(format!("start {}", self.binary.display()), error),
        }
    }
}

/// Gives the container's streams to the runtime, which passes them on.
fn attach(command: &mut Command, stdio: Stdio) {
    // With the caller's terminal it stays in the group that may use it.
    let shared = [&stdio.stdin, &stdio.stdout, &stdio.stderr];
    if !shared.iter().any(|stream| matches!(stream, Stream::Inherit)) {
        command.process_group(0);
    }
    let stream = |stream| match stream {
        Stream::Null => std::process::Stdio::null(),
        Stream::Inherit => std::process::Stdio::inherit(),
        Stream::Fd(fd) => fd.into(),
    };
    command.stdin(stream(stdio.stdin)).stdout(stream(stdio.stdout)).stderr(stream(stdio.stderr));
}

/// Makes pipes of the runtime's stdout and stderr.
fn capture(command: &mut Command) -> Result<(Output, Output)> {
    let (stdout, stdout_writer) = Output::pipe(OUTPUT_LIMIT, Keep::Beginning)?;
    let (stderr, stderr_writer) = Output::pipe(LOG_LIMIT, Keep::End)?;
    command.stdin(std::process::Stdio::null()).stdout(stdout_writer).stderr(stderr_writer);
    command.process_group(0);
    Ok((stdout, stderr))
}

/// Lets the runtime inherit `fds` as 3, 4, and so on.
fn map_fds(command: &mut Command, fds: Vec<OwnedFd>) -> Result<()> {
    if fds.is_empty() {
        return Ok(()); // A command without mappings is started by posix_spawn.
    }
    let mappings =
        fds.into_iter().zip(3..).map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
    command.fd_mappings(mappings.collect()).map_err(|error| {
        Error::io("pass descriptors", io::Error::new(io::ErrorKind::InvalidInput, error))
    })?;
    Ok(())
}

/// A call whose process runs. Dropping it kills the process.
pub(crate) struct Running {
    pub(crate) operation: &'static str,
    child: Box<dyn Child>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    log: Option<LogMark>,
    /// Removes the file.
    _own_log: Option<NamedTempFile>,
    pub(crate) exit: Option<ExitStatus>,
}

impl Running {
    /// Waits until something was read or the process has exited, whose output
    /// is then complete. Cancelling it loses nothing.
    pub(crate) async fn step(&mut self) -> Result<()> {
        let step = poll_fn(|context| self.poll_step(context)).await;
        step.map_err(|error| Error::io(format!("wait for the runtime ({})", self.operation), error))
    }

    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.exit.is_some() {
            return Poll::Ready(Ok(()));
        }
        let stdout = self.stdout.poll_fill(context);
        let stderr = self.stderr.poll_fill(context);
        match self.child.poll_exit(context) {
            Poll::Ready(status) => {
                self.stdout.drain();
                self.stderr.drain();
                self.exit = Some(status?);
                Poll::Ready(Ok(()))
            }
            Poll::Pending if stdout.is_ready() || stderr.is_ready() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Waits for the exit; when `limit` is exceeded, kills the process, its
    /// children first.
    pub(crate) async fn end(&mut self, limit: Option<Duration>) -> Result<()> {
        let Some(limit) = limit else { return self.exited().await };
        if let Ok(exited) = tokio::time::timeout(limit, self.exited()).await {
            return exited;
        }
        kill_children(self.child.pid());
        if tokio::time::timeout(CLEANUP_LIMIT, self.exited()).await.is_ok() {
            return Err(Error::Timeout { operation: self.operation, limit });
        }
        if let Err(error) = self.child.kill() {
            log::warn!(operation = self.operation, error:% = error; "runtime not killed");
        }
        if tokio::time::timeout(KILL_LIMIT, self.exited()).await.is_err() {
            log::warn!(operation = self.operation, pid = self.child.pid(); "runtime survives SIGKILL");
        }
        Err(Error::Timeout { operation: self.operation, limit })
    }

    async fn exited(&mut self) -> Result<()> {
        while self.exit.is_none() {
            self.step().await?;
        }
        Ok(())
    }

    /// The outcome; only after the exit.
    pub(crate) fn into_ended(self) -> Ended {
        let status = self.exit.expect("asked for after the exit");
        let messages = if status.success() {
            Vec::new()
        } else {
            let log = self.log.as_ref().map_or_else(Vec::new, LogMark::read);
            errors(&log, &self.stderr.bytes)
        };
        Ended { operation: self.operation, status, stdout: self.stdout.bytes, messages }
    }
}

/// What is kept of output that is longer than its limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Beginning,
    End,
}

/// One of the runtime's output streams; empty if it is not read.
pub(crate) struct Output {
    receiver: Option<pipe::Receiver>,
    pub(crate) bytes: Vec<u8>,
    limit: usize,
    keep: Keep,
}

impl Output {
    fn none() -> Self {
        Self { receiver: None, bytes: Vec::new(), limit: 0, keep: Keep::Beginning }
    }

    fn pipe(limit: usize, keep: Keep) -> Result<(Self, PipeWriter)> {
        let pipe = || -> io::Result<_> {
            let (reader, writer) = io::pipe()?;
            Ok((pipe::Receiver::from_owned_fd(reader.into())?, writer))
        };
        let (receiver, writer) = pipe().map_err(|error| Error::io("make a pipe", error))?;
        Ok((Self { receiver: Some(receiver), bytes: Vec::new(), limit, keep }, writer))
    }

    /// Ready when something was read or the stream has ended just now.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(receiver) = &mut self.receiver else { return Poll::Pending };
        let mut buffer = [0; CHUNK];
        let read = pin!(receiver.read(&mut buffer)).poll(context);
        match read {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(count)) if count > 0 => self.keep(&buffer[..count]),
            Poll::Ready(_) => self.receiver = None,
        }
        Poll::Ready(())
    }

    /// Reads what is in the pipe and closes it. Somebody else may still be
    /// writing: no more is read than the runtime can have left.
    fn drain(&mut self) {
        const MOST: usize = 1024 * 1024; // The largest size of a pipe.
        let Some(receiver) = self.receiver.take() else { return };
        let mut buffer = [0; CHUNK];
        let mut total = 0;
        while total < MOST {
            match rustix::io::read(&receiver, &mut buffer) {
                Ok(count) if count > 0 => self.keep(&buffer[..count]),
                Err(rustix::io::Errno::INTR) => continue,
                _ => break, // The end, or nothing more for now.
            }
            total += buffer.len();
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        match self.keep {
            Keep::Beginning => {
                let room = self.limit.saturating_sub(self.bytes.len());
                self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Keep::End => {
                self.bytes.extend_from_slice(bytes);
                if self.bytes.len() > 2 * self.limit {
                    self.bytes.drain(..self.bytes.len() - self.limit);
                }
            }
        }
    }
}
