//! The standard streams of a process without a terminal. The container gets
//! the FIFO, the file or the logger's pipe itself; no byte passes through
//! this process.
//!
//! Invariants: nothing here waits for a client. A description that a
//! container gets is shared with nobody and blocking. Besides the container,
//! somebody always has a read end of its output FIFO (a client that dies is
//! no EPIPE) and nobody a write end (or the client would see no end of file);
//! and somebody has a write end of its input until CloseIO.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use davit_shim::{Failure, Reaper};
use davit_types::ErrorKind;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use runc_client::{Stdio, Stream};

use crate::console::Console;
use crate::create::prefixed;
use crate::late::{LateClient, Output};
use crate::logger::Logger;
use crate::uri::Sink;
use crate::words;

/// Where the Go shim fails when a client's files are not what they should be.
const COPY: &str = "failed to start io pipe copy: unable to copy pipes";

/// What a client asked for, as it is told back by State.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// A FIFO's path, or empty.
    pub stdin: String,
    /// An address, or empty.
    pub stdout: String,
    /// An address, or empty; unused with a terminal.
    pub stderr: String,
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

/// For whom streams are opened.
pub struct Owner<'a> {
    /// The process: the container's id, or the exec's.
    pub id: &'a str,
    /// The namespace.
    pub namespace: &'a str,
    /// The user that FIFOs and pipes are given to.
    pub uid: u32,
    /// The group that they are given to.
    pub gid: u32,
}

/// What the shim holds of a process's streams while that exists.
#[derive(Default)]
pub struct Io {
    /// The write end of standard input; CloseIO drops it.
    pub stdin: Option<OwnedFd>,
    /// The FIFOs of the output.
    pub outputs: Vec<Output>,
    /// The program that gets the output.
    pub logger: Option<Logger>,
    /// The terminal.
    pub console: Option<Console>,
    /// FIFOs that a client may still come for, after the exit.
    late: Vec<LateClient>,
}

impl Io {
    /// Called when the process has exited: sees to it that a client that
    /// comes late gets what is in the pipes and an end of file.
    pub fn settle(&mut self) {
        self.late.extend(std::mem::take(&mut self.outputs).into_iter().map(LateClient::attend));
    }

    /// Closes the output's FIFOs. Nobody comes for them any more: what still
    /// writes to one is to find out when no client reads it.
    pub fn abandon_outputs(&mut self) {
        self.outputs.clear();
        self.late.clear();
    }

    /// Closes everything and ends the logger. Returns when the logger is gone.
    pub async fn close(mut self) {
        if let Some(logger) = self.logger.take() {
            logger.stop().await;
        }
    }
}

/// Opens the streams of a process without a terminal: the container's part
/// and the shim's.
///
/// # Errors
/// An address that cannot be understood, a file that cannot be opened, a
/// logger that does not get ready.
pub async fn open(
    request: &Request,
    owner: &Owner<'_>,
    reaper: &Reaper,
) -> Result<(Stdio, Io), Failure> {
    let mut io = Io::default();
    let stdout = Sink::parse(&request.stdout)?;
    let stderr = Sink::parse(&request.stderr)?;
    let mut stdio = Stdio::default();
    // Before a logger is started, who would have to be ended again.
    if !request.stdin.is_empty() {
        let (container, spare) = open_input(&request.stdin, owner)?;
        stdio.stdin = container.into();
        io.stdin = Some(spare);
    }
    if let Sink::Logger(program) = stdout {
        // A logger gets both streams, whatever the address of the second.
        let (logger, pipes) = Logger::start(&program, owner, reaper).await?;
        io.logger = Some(logger);
        stdio.stdout = pipes.stdout.into();
        stdio.stderr = pipes.stderr.into();
    } else {
        let mut opened = open_sink(&stdout, "stdout", owner, &mut io)?;
        stdio.stderr = match &opened {
            Some(fd) if stdout.path().is_some() && stderr.path() == stdout.path() => {
                // One description, or the two would overwrite each other.
                Some(fd.try_clone().map_err(|e| failed("dup", &e))?)
            }
            _ => open_sink(&stderr, "stderr", owner, &mut io)?,
        }
        .map_or(Stream::Null, Stream::Fd);
        stdio.stdout = opened.take().map_or(Stream::Null, Stream::Fd);
    }
    Ok((stdio, io))
}

fn open_sink(
    sink: &Sink,
    name: &str,
    owner: &Owner<'_>,
    io: &mut Io,
) -> Result<Option<OwnedFd>, Failure> {
    match sink {
        Sink::Null => Ok(None),
        Sink::Fifo(path) if is_fifo(path)? => {
            let (output, fd) = Output::open(path).map_err(|e| cannot_open("w/o fifo", path, &e))?;
            give(&fd, owner);
            io.outputs.push(output);
            Ok(Some(fd))
        }
        Sink::Fifo(path) => {
            let file = OpenOptions::new().append(true).custom_flags(libc::O_NOCTTY).open(path);
            Ok(Some(file.map_err(|e| cannot_open("file", path, &e))?.into()))
        }
        Sink::File(path) => Ok(Some(append(path).map_err(|e| cannot_open("file", path, &e))?)),
        Sink::Logger(_) => {
            let text = format!("{name}: a logger gets both streams, name it for stdout");
            Err(Failure::new(ErrorKind::InvalidArgument, text))
        }
    }
}

/// Opens standard input: the read end, blocking, and a write end to keep.
///
/// # Errors
/// An address that is no FIFO's.
pub fn open_input(address: &str, owner: &Owner<'_>) -> Result<(OwnedFd, OwnedFd), Failure> {
    let Sink::Fifo(path) = Sink::parse(address)? else {
        let text = format!("stdin {address}: not a FIFO");
        return Err(Failure::new(ErrorKind::InvalidArgument, text));
    };
    let failed = |e: davit_sys::Error| {
        let text = format!("failed to open stdin fifo {}: {e}", path.display());
        Failure::new(davit_types::Kind::kind(&e), text)
    };
    let input = davit_sys::fifo::open_input(&path).map_err(failed)?;
    give(&input.container, owner);
    Ok((input.container, input.spare))
}

/// Opens a file for appending, and makes it and its directory where missing.
///
/// # Errors
/// Those of the file system.
pub fn append(path: &Path) -> io::Result<OwnedFd> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o644).custom_flags(libc::O_NOCTTY);
    Ok(options.open(path)?.into())
}

/// Gives a stream to the owner that the options name, so that
/// `/dev/stdout` can be opened again in the container. (The runtime does the
/// same for the user of the process.)
pub fn give(stream: &OwnedFd, owner: &Owner<'_>) {
    if owner.uid == 0 && owner.gid == 0 {
        return;
    }
    if let Err(error) = std::os::unix::fs::fchown(stream, Some(owner.uid), Some(owner.gid)) {
        log::warn!(id:% = owner.id, error:%; "cannot give a stream to the container's user");
    }
}

/// Whether the path is a FIFO's.
///
/// # Errors
/// When there is nothing at the path.
pub fn is_fifo(path: &Path) -> Result<bool, Failure> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.file_type().is_fifo()),
        Err(error) => {
            let shown = path.display();
            let text =
                format!("{COPY}: containerd-shim: opening file {shown:?} failed: open {shown}");
            Err(failed(&text, &error))
        }
    }
}

/// A failure of [`open`], with the step at which it comes in the Go shim.
pub fn not_opened(failure: &Failure) -> Failure {
    match failure.message().starts_with(COPY) {
        true => failure.clone(),
        false => prefixed("failed to create init process I/O", failure),
    }
}

fn failed(what: &str, error: &io::Error) -> Failure {
    Failure::new(ErrorKind::Unknown, format!("{what}: {}", words::of(error)))
}

fn cannot_open(what: &str, path: &Path, error: &io::Error) -> Failure {
    let text = format!("{COPY}: containerd-shim: opening {what} {:?} failed", path.display());
    failed(&text, error)
}

/// Opens what an open descriptor refers to again: a new description, even
/// when the path names something else by now, or nothing.
///
/// # Errors
/// Those of open(2).
pub fn reopen(file: &impl AsRawFd, options: &OpenOptions) -> io::Result<File> {
    options.open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Makes a description that nobody else has non-blocking, or blocking.
///
/// # Errors
/// Those of fcntl(2).
pub fn set_nonblocking(fd: &OwnedFd, nonblocking: bool) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    let mut wanted = flags;
    wanted.set(OFlag::O_NONBLOCK, nonblocking);
    if wanted != flags {
        fcntl(fd, FcntlArg::F_SETFL(wanted))?;
    }
    Ok(())
}
