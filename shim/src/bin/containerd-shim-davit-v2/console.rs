//! The terminal of a process: the one place where output passes through the
//! shim, once each way (containerd, `runc/platform.go`).
//!
//! The end of the output is EIO: no process has the terminal any more. Where
//! processes that the exited one has left keep it, the output counts as
//! drained when nothing has come for a moment.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::time::Duration;

use davit_shim::{Failure, Reaper};
use davit_sys::polled::Polled;
use davit_types::ErrorKind;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::late::Output;
use crate::logger::Logger;
use crate::stdio::{self, Io, Owner, Request};
use crate::uri::Sink;

/// How much is copied at once, each way.
const BUFFER: usize = 8192;
/// After an exit, how long nothing may come until the output counts as
/// complete.
const QUIET: Duration = Duration::from_millis(50);
/// After an exit, how long the output is waited for at most. What comes later
/// is copied all the same, until Delete.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// After Delete, how much is still copied at most; more than the kernel keeps
/// of a terminal's output. Processes left behind may write without end.
const REST: u64 = 64 << 10;

/// A terminal and the tasks that copy to and from it. Dropping it ends them
/// and closes the terminal, which hangs up on whoever still has it.
pub struct Console {
    master: Weak<Polled>,
    progress: Rc<Progress>,
    output: Option<JoinHandle<()>>,
    input: Option<JoinHandle<()>>,
}

/// How far the copy of the output is.
pub struct Progress {
    bytes: Cell<u64>,
    /// How many bytes are copied at most.
    limit: Cell<u64>,
    /// Whether the copy ends as soon as there is nothing to read.
    hung_up: watch::Sender<bool>,
    ended: watch::Sender<bool>,
}

impl Progress {
    fn new() -> Self {
        Self {
            bytes: Cell::new(0),
            limit: Cell::new(u64::MAX),
            hung_up: watch::Sender::new(false),
            ended: watch::Sender::new(false),
        }
    }

    /// Waits until all output of a process that has exited is with the
    /// client, or as much as can be waited for.
    pub async fn drained(&self) {
        let limit = Instant::now() + DRAIN_LIMIT;
        let mut ended = self.ended.subscribe();
        loop {
            let before = self.bytes.get();
            if tokio::time::timeout(QUIET, ended.wait_for(|ended| *ended)).await.is_ok() {
                return;
            }
            if self.bytes.get() == before || Instant::now() > limit {
                return;
            }
        }
    }
}

impl Console {
    /// Takes over a terminal's master: opens what the client asked for and
    /// starts to copy. The result's other parts are what [`Io`] holds.
    ///
    /// # Errors
    /// An address that cannot be understood, a file that cannot be opened, a
    /// logger that does not get ready.
    pub async fn start(
        master: OwnedFd,
        request: &Request,
        owner: &Owner<'_>,
        reaper: &Reaper,
    ) -> Result<Io, Failure> {
        let failed = |error: io::Error| {
            Failure::new(ErrorKind::Unknown, format!("failed to start console copy: {error}"))
        };
        let mut io = Io::default();
        // Before a logger is started, who would have to be ended again.
        let input = match request.stdin.as_str() {
            "" => None,
            address => Some(stdio::open_input(address, owner)?),
        };
        let writer = Writer::open(request, owner, reaper, &mut io).await?;
        let master = Rc::new(Polled::new(master).map_err(failed)?);
        let progress = Rc::new(Progress::new());
        let output = copy_output(master.clone(), writer, progress.clone());
        let mut console = Self {
            master: Rc::downgrade(&master),
            progress: progress.clone(),
            output: Some(tokio::task::spawn_local(output)),
            input: None,
        };
        if let Some((reader, spare)) = input {
            let reader = Polled::reader(reader).map_err(failed)?;
            io.stdin = Some(spare);
            let input = copy_input(reader, master, progress);
            console.input = Some(tokio::task::spawn_local(input));
        }
        io.console = Some(console);
        Ok(io)
    }

    /// Changes the terminal's size. One that is closed has none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn resize(&self, columns: u32, rows: u32) -> Result<(), davit_sys::Error> {
        let size = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        match self.master.upgrade() {
            Some(master) => davit_sys::terminal::set_size(&*master, size(columns), size(rows)),
            None => Ok(()),
        }
    }

    /// How far the output is.
    pub fn progress(&self) -> Rc<Progress> {
        self.progress.clone()
    }

    /// Closes the terminal when what is left of the output is written, which
    /// is waited for no longer than `patience`. A client that reads slowly
    /// gets it afterwards; one that goes away ends the copy.
    pub async fn finish(mut self, patience: Duration) {
        self.progress.drained().await;
        self.progress.limit.set(self.progress.bytes.get().saturating_add(REST));
        self.progress.hung_up.send_replace(true);
        if let Some(output) = self.output.take() {
            // Dropping the handle leaves the copy running.
            let _ = tokio::time::timeout(patience, output).await;
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        for task in self.output.iter().chain(&self.input) {
            task.abort();
        }
    }
}

/// Where the output goes.
enum Writer {
    /// Nowhere; it is read all the same, or the process would stop.
    Null,
    /// A FIFO or a logger's pipe.
    Pipe(Polled),
    /// A file.
    File(File),
}

impl Writer {
    async fn open(
        request: &Request,
        owner: &Owner<'_>,
        reaper: &Reaper,
        io: &mut Io,
    ) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            let text = format!("failed to start console copy: {}: {error}", request.stdout);
            Failure::new(ErrorKind::Unknown, text)
        };
        let pipe = |fd: OwnedFd| Polled::writer(fd).map(Self::Pipe);
        match Sink::parse(&request.stdout)? {
            Sink::Null => Ok(Self::Null),
            Sink::Fifo(path) if stdio::is_fifo(&path)? => {
                let (output, fd) = Output::open(&path).map_err(failed)?;
                io.outputs.push(output);
                pipe(fd).map_err(failed)
            }
            Sink::Fifo(path) | Sink::File(path) => {
                Ok(Self::File(stdio::append(&path).map_err(failed)?.into()))
            }
            Sink::Logger(program) => {
                // Its second pipe ends at once: a terminal is one stream.
                let (logger, pipes) = Logger::start(&program, owner, reaper).await?;
                io.logger = Some(logger);
                pipe(pipes.stdout).map_err(failed)
            }
        }
    }

    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Null => Ok(()),
            Self::File(file) => file.write_all(bytes),
            Self::Pipe(pipe) => {
                while !bytes.is_empty() {
                    bytes = &bytes[pipe.write(bytes).await?..];
                }
                Ok(())
            }
        }
    }
}

/// Copies until no process has the terminal any more, or until the client has
/// hung up and everything up to then is copied.
async fn copy_output(master: Rc<Polled>, mut writer: Writer, progress: Rc<Progress>) {
    let mut hung_up = progress.hung_up.subscribe();
    let mut buffer = vec![0; BUFFER];
    while progress.bytes.get() < progress.limit.get() {
        let count = tokio::select! {
            biased;
            read = master.read(&mut buffer) => read.unwrap_or(0),
            Ok(_) = hung_up.wait_for(|hung_up| *hung_up) => 0,
        };
        if count == 0 {
            break;
        }
        progress.bytes.set(progress.bytes.get() + count as u64);
        if let Err(error) = writer.write(&buffer[..count]).await {
            log::warn!(error:%; "cannot write a terminal's output, dropping the rest");
            writer = Writer::Null;
        }
    }
    drop(writer);
    progress.ended.send_replace(true);
}

/// Copies until the client and, by CloseIO, the shim have closed standard
/// input; then hangs up, as the Go shim does.
async fn copy_input(reader: Polled, master: Rc<Polled>, progress: Rc<Progress>) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(count) = reader.read(&mut buffer).await {
        if count == 0 {
            progress.hung_up.send_replace(true);
            return;
        }
        let mut bytes = &buffer[..count];
        while !bytes.is_empty() {
            match master.write(bytes).await {
                Ok(count) => bytes = &bytes[count..],
                // No process has the terminal any more.
                Err(_) => return,
            }
        }
    }
}
