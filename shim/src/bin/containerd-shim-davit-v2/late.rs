//! Output FIFOs, and clients that come for them late.
//!
//! A FIFO keeps what is in it for as long as somebody has an end of it open.
//! A client that opens it when the container has exited, though, would wait
//! for a writer for ever. So after the exit, while a client may still come,
//! the shim is that writer: until a reader is there, who then gets what is in
//! the pipe and an end of file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use davit_sys::polled::{self, Polled};
use nix::libc;
use tokio::task::JoinHandle;

use crate::stdio::{reopen, set_nonblocking};

/// How often to look for a client that comes after the exit. Opening a FIFO
/// for reading wakes nobody who could be waiting for it.
const LOOK_FOR_CLIENT: Duration = Duration::from_millis(100);

/// A FIFO that a container writes to, from the shim's side.
pub struct Output {
    /// A read end, never read.
    spare: File,
    /// Whether a client had it open when the process was made.
    seen: bool,
}

impl Output {
    /// Opens a FIFO without waiting for anybody: the shim's side, and a write
    /// end for the container, a blocking description of its own.
    ///
    /// # Errors
    /// Those of open(2) and fcntl(2).
    pub fn open(path: &Path) -> io::Result<(Self, OwnedFd)> {
        // Opening for writing without waiting fails when nobody reads. When
        // somebody does, this writer must stay: a client that it has let in
        // would take its end for the end of the output.
        match options(false).open(path) {
            Ok(writer) => {
                let writer = OwnedFd::from(writer);
                set_nonblocking(&writer, false)?;
                Ok((Self { spare: options(true).open(path)?, seen: true }, writer))
            }
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                let spare = options(true).open(path)?;
                // Does not wait: the spare end is a reader.
                let writer = reopen(&spare, OpenOptions::new().write(true))?.into();
                Ok((Self { spare, seen: false }, writer))
            }
            Err(error) => Err(error),
        }
    }
}

/// The FIFO of a process that has exited. Dropping it closes the FIFO.
pub struct LateClient(JoinHandle<()>);

impl LateClient {
    /// Starts to attend to clients.
    pub fn attend(output: Output) -> Self {
        Self(tokio::task::spawn_local(async move {
            if let Err(error) = attend(output).await {
                log::warn!(error:%; "cannot attend to a late client");
            }
        }))
    }
}

impl Drop for LateClient {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn attend(Output { spare, seen }: Output) -> io::Result<()> {
    // Processes that the exited one has left may still write.
    let spare = if polled::is_hung_up(&spare)? {
        spare
    } else {
        let watched = Polled::idle(spare.into())?;
        watched.hung_up().await?;
        watched.into_inner().into()
    };
    if seen && !polled::is_readable(&spare)? {
        // The client has read everything, and its next read says so.
        return Ok(());
    }
    let writer = reopen(&spare, &options(false))?;
    drop(spare);
    while polled::is_broken(&writer)? {
        tokio::time::sleep(LOOK_FOR_CLIENT).await;
    }
    Ok(())
}

fn options(read: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(read).write(!read).custom_flags(libc::O_NONBLOCK);
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::sync::mpsc;

    /// Runs `body` as the shim would: on one thread, with local tasks.
    fn in_shim<F: Future<Output = ()>>(body: F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, body);
    }

    /// Opens the FIFO as a client does, waiting, and reads it to its end.
    fn client(path: &Path) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel();
        let path = path.to_owned();
        std::thread::spawn(move || {
            let mut text = String::new();
            File::open(path).unwrap().read_to_string(&mut text).unwrap();
            sender.send(text).unwrap();
        });
        receiver
    }

    /// Waits for what the client has read, letting the shim's tasks run.
    async fn read(receiver: &mpsc::Receiver<String>) -> String {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(text) = receiver.try_recv() {
                return text;
            }
            assert!(tokio::time::Instant::now() < deadline, "the client got no end of file");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn fifo() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        davit_sys::fifo::make(&path, 0o600).unwrap();
        (dir, path)
    }

    #[test]
    fn a_client_after_the_exit_gets_everything_and_the_end() {
        in_shim(async {
            let (_dir, path) = fifo();
            let (output, writer) = Output::open(&path).unwrap();
            assert!(!output.seen);
            File::from(writer).write_all(b"said").unwrap();
            let _late = LateClient::attend(output);
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert_eq!(read(&client(&path)).await, "said");
        });
    }

    #[test]
    fn a_second_client_gets_what_the_first_left() {
        in_shim(async {
            let (_dir, path) = fifo();
            let first = options(true).open(&path).unwrap();
            let (output, writer) = Output::open(&path).unwrap();
            assert!(output.seen);
            let mut writer = File::from(writer);
            drop(first);
            writer.write_all(b"left").unwrap();
            drop(writer);
            let _late = LateClient::attend(output);
            assert_eq!(read(&client(&path)).await, "left");
        });
    }

    #[test]
    fn a_client_that_was_there_sees_the_end_at_once() {
        in_shim(async {
            let (_dir, path) = fifo();
            let client = client(&path);
            let (output, writer) = loop {
                // As long as no client is seen, nobody may have been let in.
                let (output, writer) = Output::open(&path).unwrap();
                if output.seen {
                    break (output, writer);
                }
                drop((output, writer));
                tokio::time::sleep(Duration::from_millis(1)).await;
            };
            File::from(writer).write_all(b"all").unwrap();
            let _late = LateClient::attend(output);
            assert_eq!(read(&client).await, "all");
        });
    }

    #[test]
    fn a_process_left_behind_can_still_write() {
        in_shim(async {
            let (_dir, path) = fifo();
            let (output, left) = Output::open(&path).unwrap();
            let mut left = File::from(left);
            let _late = LateClient::attend(output);
            tokio::time::sleep(Duration::from_millis(10)).await;
            left.write_all(b"later").unwrap();
            drop(left);
            assert_eq!(read(&client(&path)).await, "later");
        });
    }

    #[test]
    fn the_containers_description_blocks() {
        let (_dir, path) = fifo();
        let _client = options(true).open(&path).unwrap();
        for _ in 0..2 {
            let (_output, writer) = Output::open(&path).unwrap();
            let flags = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_GETFL).unwrap();
            assert_eq!(flags & libc::O_NONBLOCK, 0);
        }
    }
}
