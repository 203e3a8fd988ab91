//! A process's standard streams: FIFOs in a private directory, and threads
//! that copy between them and our own streams.
//!
//! The daemon's end opens its sides while the process is made. Until then we
//! keep every FIFO open for reading and writing, so that nobody has to wait
//! for anybody and no stream ends early.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::Error;
use crate::terminal::{DetachFilter, DetachKeys};

/// Where the directories are made: a place that is emptied when the machine
/// starts.
const PLACE: &str = "/run";

/// How much is copied at once, in bytes; as much as a pipe holds.
const BUFFER: usize = 64 << 10;

/// How long output may be silent after the process has ended while something
/// else still holds it open.
const SILENCE: Duration = Duration::from_secs(2);

/// How much is read for nobody, in bytes, before the process is told off.
const UNREAD: usize = 16 << 20;

/// What the threads that copy have met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The end.
    End,
    /// The detach keys.
    Detached,
    /// Output without end that nobody takes from us.
    Unread,
}

/// Which streams a process has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Our input is passed on.
    pub stdin: bool,
    /// A terminal: no stderr of its own.
    pub terminal: bool,
}

/// The FIFOs of one process.
#[derive(Debug)]
pub struct Streams {
    directory: TempDir,
    wanted: Wanted,
    /// Held until the process runs.
    keepers: Vec<File>,
    stdin: Option<File>,
    outputs: Vec<(File, Own)>,
    progress: Arc<Progress>,
}

/// How far the copying of output is.
#[derive(Debug, Default)]
struct Progress {
    /// Streams that have not ended.
    open: AtomicUsize,
    /// Streams whose bytes are on their way to us right now.
    writing: AtomicUsize,
    /// Bytes copied so far.
    copied: AtomicU64,
    ended: tokio::sync::Notify,
}

/// One of our own streams.
#[derive(Clone, Copy, Debug)]
enum Own {
    Stdout,
    Stderr,
}

impl Own {
    fn write(self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Self::Stderr => io::stderr().write_all(bytes),
        }
    }
}

type Sender = mpsc::UnboundedSender<Input>;

impl Streams {
    /// Makes the FIFOs and opens our sides.
    ///
    /// # Errors
    /// When they cannot be made; nothing is left then.
    pub fn new(wanted: Wanted) -> Result<Self, Error> {
        let failed = || Error::io(format!("cannot make FIFOs below {PLACE}"));
        let directory = tempfile::Builder::new()
            .prefix("davit-io-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(PLACE)
            .map_err(failed())?;
        let mut streams = Self {
            directory,
            wanted,
            keepers: Vec::new(),
            stdin: None,
            outputs: Vec::new(),
            progress: Arc::default(),
        };
        if wanted.stdin {
            let file = streams.open("stdin", OpenOptions::new().write(true)).map_err(failed())?;
            streams.stdin = Some(file);
        }
        let outputs = [("stdout", Own::Stdout), ("stderr", Own::Stderr)];
        for (name, own) in &outputs[..if wanted.terminal { 1 } else { 2 }] {
            let file = streams.open(name, OpenOptions::new().read(true)).map_err(failed())?;
            streams.outputs.push((file, *own));
        }
        Ok(streams)
    }

    fn open(&mut self, name: &str, options: &OpenOptions) -> io::Result<File> {
        let path = self.directory.path().join(name);
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        self.keepers.push(OpenOptions::new().read(true).write(true).open(&path)?);
        options.open(path)
    }

    fn path(&self, name: &str, there: bool) -> String {
        if there { self.directory.path().join(name).display().to_string() } else { String::new() }
    }

    /// The path for the daemon; empty for none. So too the next two.
    pub fn stdin(&self) -> String {
        self.path("stdin", self.wanted.stdin)
    }

    /// See [`Streams::stdin`].
    pub fn stdout(&self) -> String {
        self.path("stdout", true)
    }

    /// See [`Streams::stdin`].
    pub fn stderr(&self) -> String {
        self.path("stderr", !self.wanted.terminal)
    }

    /// The process runs: starts copying. What the copying meets comes out of
    /// the receiver.
    pub fn copy(&mut self, keys: Option<&DetachKeys>) -> mpsc::UnboundedReceiver<Input> {
        self.keepers.clear();
        let (sender, receiver) = mpsc::unbounded_channel();
        if let Some(file) = self.stdin.take() {
            let filter = keys.map(DetachFilter::new);
            let sender = sender.clone();
            std::thread::spawn(move || {
                let met = read_input(file, filter);
                // Nobody is there any more when the process has ended.
                let _ = sender.send(met);
            });
        }
        for (file, own) in self.outputs.drain(..) {
            let (progress, sender) = (Arc::clone(&self.progress), sender.clone());
            progress.open.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                write_output(file, own, &progress, &sender);
                progress.open.fetch_sub(1, Ordering::SeqCst);
                progress.ended.notify_one();
            });
        }
        receiver
    }

    /// Waits until all output has been copied. Does not wait for somebody who
    /// was left in the background and holds the output without using it.
    pub async fn drain(&self) {
        loop {
            let before = self.progress.copied.load(Ordering::SeqCst);
            let ended = self.progress.ended.notified();
            if self.progress.open.load(Ordering::SeqCst) == 0 {
                return;
            }
            let quiet = tokio::time::timeout(SILENCE, ended).await.is_err();
            let idle = self.progress.writing.load(Ordering::SeqCst) == 0;
            if quiet && idle && self.progress.copied.load(Ordering::SeqCst) == before {
                return;
            }
        }
    }

    /// Gives up the directory without removing it; somebody else reads on.
    pub fn leave(self) -> PathBuf {
        self.directory.keep()
    }
}

/// Copies our input until it ends, the process has closed its side, or the
/// detach keys were typed.
fn read_input(mut file: File, mut filter: Option<DetachFilter>) -> Input {
    let mut buffer = vec![0; BUFFER];
    let mut passed = Vec::new();
    loop {
        let count = match io::stdin().lock().read(&mut buffer) {
            Ok(0) => return Input::End,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Input::End,
        };
        passed.clear();
        let detached = match &mut filter {
            Some(filter) => filter.feed(&buffer[..count], &mut passed),
            None => {
                passed.extend_from_slice(&buffer[..count]);
                false
            }
        };
        let written = file.write_all(&passed);
        if detached {
            return Input::Detached;
        }
        if written.is_err() {
            return Input::End;
        }
    }
}

/// Copies output until it ends. When nobody takes it from us any more, goes on
/// reading for a while, so that the process is not held up; one that writes on
/// and on is reported.
fn write_output(mut file: File, own: Own, progress: &Progress, told: &Sender) {
    let mut buffer = vec![0; BUFFER];
    let mut unread: Option<usize> = None;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        if let Some(unread) = &mut unread {
            *unread = unread.saturating_add(count);
            if *unread > UNREAD {
                // Nobody is there any more when the process has ended.
                let _ = told.send(Input::Unread);
            }
        } else {
            progress.writing.fetch_add(1, Ordering::SeqCst);
            unread = own.write(&buffer[..count]).is_err().then_some(0);
            progress.writing.fetch_sub(1, Ordering::SeqCst);
        }
        progress.copied.fetch_add(count as u64, Ordering::SeqCst);
    }
}

/// Opens what [`Streams::leave`] left, and reads it to nowhere.
///
/// # Errors
/// When the FIFOs cannot be opened.
pub fn discard(directory: &Path) -> Result<Vec<File>, Error> {
    let mut held = Vec::new();
    for name in ["stdin", "stdout", "stderr"] {
        let path = directory.join(name);
        if !path.exists() {
            continue;
        }
        let failed = || Error::io(path.display().to_string());
        let open = || OpenOptions::new().read(true).write(true).open(&path);
        if name != "stdin" {
            let mut file = open().map_err(failed())?;
            std::thread::spawn(move || io::copy(&mut file, &mut io::sink()));
        }
        held.push(open().map_err(failed())?);
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifos_are_private_and_go_away() {
        let streams = Streams::new(Wanted { stdin: true, terminal: false }).unwrap();
        let directory = streams.directory.path().to_owned();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        for path in [streams.stdin(), streams.stdout(), streams.stderr()] {
            assert_eq!(mode(Path::new(&path)), 0o600);
        }
        drop(streams);
        assert!(!directory.exists());
    }

    #[test]
    fn a_terminal_has_one_output() {
        let streams = Streams::new(Wanted { stdin: false, terminal: true }).unwrap();
        assert_eq!((streams.stdin(), streams.stderr()), (String::new(), String::new()));
        assert!(Path::new(&streams.stdout()).exists());
    }
}
