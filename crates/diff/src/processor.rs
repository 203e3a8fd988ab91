//! Stream processors: programs that the operator names, each of which turns
//! layers of some media types into another that is closer to a plain archive
//! (containerd, `core/diff/stream.go` and `stream_unix.go`). Decryption is one.
//!
//! They run outside the worker, as whatever runs this process, with its
//! environment: standard input is the layer, standard output what becomes of
//! it, the variable `STREAM_PROCESSOR_MEDIATYPE` its media type, and descriptor
//! 3, where the client sent one, the payload for this processor.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::{Error, media_type};

/// What a processor is told the media type of its input by.
const MEDIA_TYPE_VARIABLE: &str = "STREAM_PROCESSOR_MEDIATYPE";
/// The descriptor of the payload.
const PAYLOAD: i32 = 3;
/// The most processors that one layer may go through.
const CHAIN_MAX: usize = 16;
/// How long a processor may take to exit after it has closed its output.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The end of what a processor says on standard error that is kept.
const MESSAGE_MAX: usize = 4 << 10;
/// How long after its exit a processor's last words may take to arrive;
/// somebody else may hold its standard error open.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(1);

/// One program, as the configuration names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamProcessor {
    /// Its name in the configuration, which payloads are addressed to.
    pub id: String,
    /// The media types that it reads.
    pub accepts: Vec<String>,
    /// The media type that it writes.
    pub returns: String,
    /// The program; looked for in `PATH` when it has no slash.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// What is added to its environment, `KEY=value`.
    pub env: Vec<String>,
}

/// All processors that are configured.
#[derive(Clone, Debug, Default)]
pub struct StreamProcessors(Vec<StreamProcessor>);

/// A layer that a worker can read.
#[derive(Debug)]
pub struct Source {
    /// The layer's bytes.
    pub input: OwnedFd,
    /// Whether they may be compressed.
    pub compressed: bool,
    /// Who makes them.
    pub processing: Processing,
}

impl StreamProcessors {
    /// Of several that accept the same media type, the first is used.
    pub fn new(processors: Vec<StreamProcessor>) -> Self {
        Self(processors)
    }

    /// Whether a layer of this media type can be read.
    ///
    /// # Errors
    /// As [`open`](Self::open), before anything is started.
    pub fn check(&self, media_type: &str) -> Result<(), Error> {
        self.plan(media_type).map(drop)
    }

    /// Starts what turns the layer in `input` into one that a worker reads:
    /// mostly nothing. `payloads` are by the processors' ids, each an encoded
    /// `google.protobuf.Any`.
    ///
    /// # Errors
    /// [`Error::NoProcessor`] for a media type that nobody reads; a program
    /// that cannot be started.
    pub fn open(
        &self,
        media_type: &str,
        input: OwnedFd,
        payloads: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Source, Error> {
        let (steps, compressed) = self.plan(media_type)?;
        let mut source = Source { input, compressed, processing: Processing::default() };
        let mut kind = media_type;
        for step in steps {
            let payload = payloads.get(&step.id).map(Vec::as_slice);
            source = source.through(step, kind, payload).map_err(|why| {
                let processor = format!("{} ({})", step.id, step.path.display());
                Error::StartProcessor { media_type: media_type.to_owned(), processor, why }
            })?;
            kind = &step.returns;
        }
        Ok(source)
    }

    /// Who reads what, and whether the end of it may be compressed.
    fn plan(&self, media_type: &str) -> Result<(Vec<&StreamProcessor>, bool), Error> {
        let mut steps = Vec::new();
        let mut kind = media_type;
        loop {
            let accepts = |one: &&StreamProcessor| one.accepts.iter().any(|known| known == kind);
            let Some(next) = self.0.iter().find(accepts) else { break };
            if steps.len() == CHAIN_MAX {
                return Err(Error::ProcessorsLoop(media_type.to_owned()));
            }
            steps.push(next);
            kind = &next.returns;
            if kind == media_type::LAYER {
                return Ok((steps, false));
            }
        }
        match media_type::may_be_compressed(kind) {
            Ok(compressed) => Ok((steps, compressed)),
            Err(_) => Err(Error::NoProcessor(media_type.to_owned())),
        }
    }
}

impl Source {
    fn through(
        self,
        step: &StreamProcessor,
        media_type: &str,
        payload: Option<&[u8]>,
    ) -> Result<Self, std::io::Error> {
        let (output, stdout) = std::io::pipe()?;
        let (said, stderr) = std::io::pipe()?;
        let mut command = Command::new(&step.path);
        command
            .args(&step.args)
            .envs(step.env.iter().map(|one| one.split_once('=').unwrap_or((one, ""))))
            .env(MEDIA_TYPE_VARIABLE, media_type)
            .stdin(Stdio::from(self.input))
            .stdout(Stdio::from(OwnedFd::from(stdout)))
            .stderr(Stdio::from(OwnedFd::from(stderr)))
            .process_group(0);
        if let Some(payload) = payload {
            let parent_fd = in_memory(payload)?;
            command
                .fd_mappings(vec![FdMapping { parent_fd, child_fd: PAYLOAD }])
                .map_err(|error| std::io::Error::other(error.to_string()))?;
        }
        davit_sys::process::restore_open_files(&mut command);
        let child = command.spawn()?;
        // Our copies of its ends of the pipes.
        drop(command);
        let output = OwnedFd::from(output);
        // Until we know why the reader stopped, nobody dies of its stopping.
        let kept = output.try_clone()?;
        let processor = Processor::watch(step.id.clone(), child, kept, Message::listen(said))?;
        let mut processing = self.processing;
        processing.0.push(processor);
        Ok(Self { input: output, processing, ..self })
    }
}

/// A file that nobody else can reach, read from its start.
fn in_memory(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    use std::io::{Seek, Write};
    let fd = rustix::fs::memfd_create("payload", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// The programs at work on one layer. Dropping it ends them.
#[derive(Debug, Default)]
pub struct Processing(Vec<Processor>);

impl Processing {
    /// Handles for ending them.
    pub(crate) fn pidfds(&self) -> std::io::Result<Vec<OwnedFd>> {
        self.0.iter().map(|processor| processor.pidfd.try_clone()).collect()
    }

    /// What came of the layer: a processor's failure goes before the failure
    /// that it has caused.
    pub(crate) fn finish<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        let deadline = Instant::now() + EXIT_TIMEOUT;
        let failures: Vec<String> = self
            .0
            .into_iter()
            // One that is still writing was not read to its end.
            .filter(|processor| result.is_ok() || processor.has_finished())
            .filter_map(|processor| processor.end(deadline))
            .collect();
        if failures.is_empty() { result } else { Err(Error::Processor(failures.join("; "))) }
    }
}

#[derive(Debug)]
struct Processor {
    id: String,
    child: Child,
    collected: bool,
    pidfd: OwnedFd,
    /// Kept open so that it does not die of a reader that has stopped, and
    /// is not blamed for that.
    output: OwnedFd,
    message: Message,
}

impl Processor {
    fn watch(
        id: String,
        mut child: Child,
        output: OwnedFd,
        message: Message,
    ) -> std::io::Result<Self> {
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { id, child, collected: false, pidfd, output, message }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    /// Whether it has closed its output.
    fn has_finished(&self) -> bool {
        let mut output = [PollFd::new(&self.output, PollFlags::empty())];
        let polled = poll(&mut output, Some(&Timespec::default()));
        polled.is_err() || output[0].revents().contains(PollFlags::HUP)
    }

    /// Waits for its exit; says what it failed with.
    fn end(mut self, deadline: Instant) -> Option<String> {
        let exited = wait_until(&self.pidfd, deadline);
        self.kill_group();
        let status = self.child.wait();
        self.collected = true;
        let why = match status {
            Ok(status) if exited && status.success() => return None,
            Ok(status) if exited => status.to_string(),
            Ok(_) => "it did not exit".to_owned(),
            Err(error) => error.to_string(),
        };
        match self.message.take() {
            message if message.is_empty() => Some(format!("{}: {why}", self.id)),
            message => Some(format!("{}: {message} ({why})", self.id)),
        }
    }

    /// To be called before it is collected: afterwards its number can be that
    /// of somebody else's group.
    fn kill_group(&self) {
        // Nobody left in it: just as well.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        if !self.collected {
            self.kill_group();
            let _ = self.child.wait();
        }
    }
}

/// Whether a process has exited in time.
fn wait_until(pidfd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], left.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.is_ok_and(|ready| ready > 0),
        }
    }
}

/// The end of what a program says on standard error.
#[derive(Debug)]
struct Message {
    kept: Arc<Mutex<Vec<u8>>>,
    /// Hangs up when nobody can say any more.
    open: Receiver<()>,
}

impl Message {
    fn listen(mut said: impl Read + Send + 'static) -> Self {
        let (sender, open) = sync_channel(0);
        let kept = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&kept);
        std::thread::spawn(move || {
            let _open: SyncSender<()> = sender;
            let mut buffer = [0; MESSAGE_MAX];
            while let Ok(count @ 1..) = said.read(&mut buffer) {
                let mut kept = to.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..count]);
                let surplus = kept.len().saturating_sub(MESSAGE_MAX);
                kept.drain(..surplus);
            }
        });
        Self { kept, open }
    }

    fn take(&self) -> String {
        let _ = self.open.recv_timeout(MESSAGE_TIMEOUT);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).trim().to_owned()
    }
}
