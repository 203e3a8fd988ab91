//! Apply and compare in a process of their own.
//!
//! The daemon starts its own program with a hidden argument; the program's
//! `main` hands over to [`main`]. What is to be done, and the descriptor of
//! the bytes, come over a Unix socket as standard input, and the answer goes
//! back over it. The process has its own mount namespace and no network, dies
//! with the thread that started it, and gives up what it does not need before
//! it looks at the first byte of the layer.
//!
//! # Layers in any order
//! [`Apply`] reads its input from front to back, never asks for its size and
//! never seeks: a pipe that is filled while the layer arrives is as good as a
//! file. An archive or a compressed stream that ends early is an error;
//! whether the end of the archive was the end of the layer, only the answer's
//! size and digest tell, which are the caller's to check. The tree of a call
//! that failed, or that was given up, is the caller's to remove.
//!
//! A layer can be applied before those below it are there, to a directory of
//! its own ([`Apply::lower_later`]), and so the layers of an image at the same
//! time. Directories that it needs and does not bring are then made with mode
//! 0755 and listed in [`Applied::implied`]. When the layers below have been
//! applied and settled, [`Settle`] gives these directories what they have
//! there. Where the list is empty, there is nothing to settle.

mod mounts;
mod process;
mod sandbox;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::marker::PhantomData;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use davit_types::{ErrorKind, Kind, Mount};
use serde::{Deserialize, Serialize};

use crate::{Applied, CompareOptions, Compression, Error, Limits, Processing, Whiteouts};

pub use process::main;

/// The argument that turns a program into a worker, for its `main` to look
/// for.
pub const ARGUMENT: &str = "unpack-worker";

/// How to start a worker.
#[derive(Clone, Debug)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// An empty directory that workers may mount over, each in its own mount
    /// namespace: nobody else sees it.
    pub scratch: PathBuf,
}

impl Program {
    /// This very program, even if its file was replaced meanwhile, with
    /// [`ARGUMENT`].
    pub fn this(scratch: PathBuf) -> Self {
        Self { path: "/proc/self/exe".into(), arguments: vec![ARGUMENT.into()], scratch }
    }
}

/// A layer to be applied to a snapshot.
#[derive(Debug)]
pub struct Apply {
    /// The layer's bytes: a file, or a pipe.
    pub input: OwnedFd,
    /// Whether they may be compressed.
    pub compressed: bool,
    /// The stream processors that make these bytes; none by default. See
    /// [`crate::StreamProcessors::open`], which makes all three.
    pub processing: Processing,
    /// The snapshot, as its backend hands it out.
    pub mounts: Vec<Mount>,
    /// The layers below come later: the mounts are one bind mount of the
    /// directory that this layer is to have for itself, in which deletions
    /// are marked like this, and [`Settle`] is to follow.
    pub lower_later: Option<Whiteouts>,
    /// How much it may unpack to.
    pub limits: Limits,
    /// Bring everything to the disk before answering.
    pub sync: bool,
}

/// Directories that a layer only implied, to be given what they have in the
/// layers below it.
#[derive(Debug)]
pub struct Settle {
    /// The snapshot on top of its parents, as its backend hands it out to be
    /// written: an overlay. All parents are settled.
    pub mounts: Vec<Mount>,
    /// What [`Applied::implied`] has listed for it.
    pub paths: Vec<PathBuf>,
    /// Bring everything to the disk before answering.
    pub sync: bool,
}

/// Two snapshots to be compared.
#[derive(Debug)]
pub struct Compare {
    /// Where the layer's bytes go: a file, or a pipe.
    pub output: OwnedFd,
    /// What was.
    pub lower: Vec<Mount>,
    /// What is. Not written to.
    pub upper: Vec<Mount>,
    /// How it is written.
    pub options: CompareOptions,
}

impl Apply {
    /// Starts a worker for it.
    ///
    /// The thread that calls this must live until the worker has answered:
    /// the worker dies with it.
    pub fn spawn(self, program: &Program) -> Result<Running<Applied>, Error> {
        let work = Work::Apply {
            compressed: self.compressed,
            mounts: from_mounts(self.mounts),
            lower_later: self.lower_later,
            limits: self.limits,
            sync: self.sync,
        };
        let mut running = spawn(program, work, Some(self.input))?;
        running.processing = self.processing;
        Ok(running)
    }
}

impl Settle {
    /// Starts a worker for it; see [`Apply::spawn`] about the thread.
    pub fn spawn(self, program: &Program) -> Result<Running<()>, Error> {
        let paths = self.paths.iter().map(|path| text_of(path)).collect();
        let work = Work::Settle { mounts: from_mounts(self.mounts), paths, sync: self.sync };
        spawn(program, work, None)
    }
}

impl Compare {
    /// Starts a worker for it; see [`Apply::spawn`] about the thread. The
    /// answer is the uncompressed archive's.
    pub fn spawn(self, program: &Program) -> Result<Running<Applied>, Error> {
        let work = Work::Compare {
            lower: from_mounts(self.lower),
            upper: from_mounts(self.upper),
            compression: self.options.compression,
            newest: self.options.newest,
        };
        spawn(program, work, Some(self.output))
    }
}

/// A worker at work. Dropping it kills it.
#[derive(Debug)]
pub struct Running<T> {
    child: Child,
    socket: UnixStream,
    pidfd: OwnedFd,
    processing: Processing,
    answer: PhantomData<T>,
}

/// Can end a worker from another thread.
#[derive(Debug)]
pub struct Killer(Vec<OwnedFd>);

impl Killer {
    /// Ends the worker and the stream processors before it at once; its
    /// answer is an error then, unless it was done.
    pub fn kill(&self) {
        use rustix::process::{Signal, pidfd_send_signal};
        for process in &self.0 {
            // It is gone: just as well.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }
}

impl Running<Applied> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// What the worker said, or [`Error::Worker`] when it ended without a
    /// word.
    pub fn wait(self) -> Result<Applied, Error> {
        let broken = |what: &dyn std::fmt::Display| Error::Worker(format!("answer: {what}"));
        match self.answer()? {
            Answer::Done { digest, size, implied } => {
                let digest = digest.parse().map_err(|error| broken(&error))?;
                let implied = implied.iter().map(|text| path_of(text)).collect::<Option<_>>();
                let implied = implied.ok_or_else(|| broken(&"a path that is none"))?;
                Ok(Applied { digest, size, implied })
            }
            Answer::Settled => Err(broken(&"settled")),
        }
    }
}

impl Running<()> {
    /// Waits until it is done.
    ///
    /// # Errors
    /// As with an apply.
    pub fn wait(self) -> Result<(), Error> {
        self.answer().map(drop)
    }
}

impl<T> Running<T> {
    /// What the worker says, when neither it nor a processor has failed.
    fn answer(mut self) -> Result<Answer, Error> {
        let processing = std::mem::take(&mut self.processing);
        processing.finish(self.worker_answer())
    }

    fn worker_answer(&mut self) -> Result<Answer, Error> {
        let mut answer = Vec::new();
        let read = self.socket.read_to_end(&mut answer);
        let status = self.child.wait();
        let died = |why: &dyn std::fmt::Display| match &status {
            Ok(status) => Error::Worker(format!("{why} ({status})")),
            Err(_) => Error::Worker(why.to_string()),
        };
        // A worker that is killed leaves a request unread behind, too.
        if answer.is_empty() {
            return Err(died(&"ended without an answer"));
        }
        read.map_err(|error| died(&error))?;
        match serde_json::from_slice(&answer).map_err(|error| died(&error))? {
            Reply::Failed { kind, message } => Err(Error::Remote { kind: kind_of(&kind), message }),
            Reply::Answer(answer) => Ok(answer),
        }
    }

    /// The worker's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A handle for ending the worker.
    pub fn killer(&self) -> Result<Killer, Error> {
        let all = self.pidfd.try_clone().and_then(|worker| {
            let mut all = self.processing.pidfds()?;
            all.push(worker);
            Ok(all)
        });
        all.map(Killer).map_err(|error| Error::Worker(format!("dup: {error}")))
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The request, as it travels.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    work: Work,
    parent: u32,
    scratch: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Work {
    Apply {
        compressed: bool,
        mounts: Vec<WireMount>,
        lower_later: Option<Whiteouts>,
        limits: Limits,
        sync: bool,
    },
    Settle {
        mounts: Vec<WireMount>,
        /// See [`text_of`].
        paths: Vec<String>,
        sync: bool,
    },
    Compare {
        lower: Vec<WireMount>,
        upper: Vec<WireMount>,
        compression: Compression,
        newest: Option<i64>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply {
    Answer(Answer),
    Failed { kind: String, message: String },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Done {
        digest: String,
        size: u64,
        /// See [`text_of`].
        implied: Vec<String>,
    },
    Settled,
}

#[derive(Debug, Serialize, Deserialize)]
struct WireMount {
    kind: String,
    source: String,
    target: String,
    options: Vec<String>,
}

impl From<Mount> for WireMount {
    fn from(mount: Mount) -> Self {
        let Mount { kind, source, target, options } = mount;
        Self { kind, source, target, options }
    }
}

impl From<WireMount> for Mount {
    fn from(mount: WireMount) -> Self {
        let WireMount { kind, source, target, options } = mount;
        Self { kind, source, target, options }
    }
}

fn from_mounts(mounts: Vec<Mount>) -> Vec<WireMount> {
    mounts.into_iter().map(WireMount::from).collect()
}

/// A path as text, whatever its bytes: one character for each.
fn text_of(path: &Path) -> String {
    path.as_os_str().as_bytes().iter().map(|&byte| char::from(byte)).collect()
}

/// The path that [`text_of`] has made `text` of.
fn path_of(text: &str) -> Option<PathBuf> {
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
    bytes.map(|bytes| OsString::from_vec(bytes).into())
}

/// The kind that prints as `text`.
fn kind_of(text: &str) -> ErrorKind {
    use ErrorKind::*;
    let kinds = [
        InvalidArgument,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        Unimplemented,
        Internal,
        Unavailable,
        DataLoss,
    ];
    kinds.into_iter().find(|kind| kind.to_string() == text).unwrap_or(Unknown)
}

fn failed(error: &Error) -> Reply {
    Reply::Failed { kind: error.kind().to_string(), message: error.full_message() }
}

fn spawn<T>(program: &Program, work: Work, bytes: Option<OwnedFd>) -> Result<Running<T>, Error> {
    let broken = |what: &'static str| {
        move |error: &dyn std::fmt::Display| Error::Worker(format!("{what}: {error}"))
    };
    let (mut ours, theirs) = UnixStream::pair().map_err(|e| broken("socketpair")(&e))?;
    let child = Command::new(&program.path)
        .args(&program.arguments)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| broken("start")(&error))?;
    let pid = rustix::process::Pid::from_child(&child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    let pidfd = pidfd.map_err(|error| broken("pidfd_open")(&error))?;
    let request = Request { work, parent: std::process::id(), scratch: program.scratch.clone() };
    let text = serde_json::to_vec(&request).map_err(|error| broken("request")(&error))?;
    let running = Running {
        child,
        socket: ours.try_clone().map_err(|e| broken("dup")(&e))?,
        pidfd,
        processing: Processing::default(),
        answer: PhantomData,
    };
    davit_sys::socket::send_descriptors(&ours, &[1], bytes.as_slice())
        .map_err(|error| Error::Worker(error.full_message()))?;
    ours.write_all(&text)
        .and_then(|()| ours.shutdown(Shutdown::Write))
        .map_err(|error| broken("send the request")(&error))?;
    Ok(running)
}
