//! Waiting for descriptors, in programs that run on tokio (feature `tokio`).
//!
//! tokio's own `AsyncFd` is unsafe to make, because what it wraps could be
//! exchanged under it. Here it is a descriptor that cannot be.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How often to look at a FIFO whose last writer went and was followed by a
/// new one.
const COME_BACK: Duration = Duration::from_millis(50);

/// A descriptor that tasks of one runtime wait for: a terminal, a FIFO, an
/// eventfd, anything that can be polled and is not a regular file.
#[derive(Debug)]
pub struct Polled(AsyncFd<OwnedFd>);

impl Polled {
    /// A descriptor to be read and written. Its description becomes
    /// non-blocking, so nobody else may have it.
    ///
    /// # Errors
    /// The kernel's; what cannot be polled is refused.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled; so for all constructors.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Self::register(fd, Interest::READABLE | Interest::WRITABLE)
    }

    /// A descriptor to be read.
    ///
    /// # Errors
    /// As [`Polled::new`].
    pub fn reader(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Self::register(fd, Interest::READABLE)
    }

    /// A descriptor to be written.
    ///
    /// # Errors
    /// As [`Polled::new`].
    pub fn writer(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Self::register(fd, Interest::WRITABLE)
    }

    /// A descriptor that is neither read nor written, only waited for until
    /// its other side is gone. Data that comes does not wake the program.
    ///
    /// # Errors
    /// As [`Polled::new`].
    pub fn idle(fd: OwnedFd) -> io::Result<Self> {
        Self::register(fd, Interest::PRIORITY)
    }

    fn register(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is open as long as it lives; it is moved into
        // the `AsyncFd`, whose `get_mut` nobody outside can reach, so it
        // stays the same until it is dropped or taken out again.
        let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    /// Reads once there is something to read. 0 is the end.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, buffer)?)).await
    }

    /// Writes once there is room; maybe not all.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.async_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, bytes)?)).await
    }

    /// Waits until there is something to read, and takes notice of it: the
    /// next call waits for something more, whether or not this was read.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn notified(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }

    /// Waits until the other side is gone (POLLHUP): a FIFO has no writer, a
    /// terminal no process.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn hung_up(&self) -> io::Result<()> {
        while !is(&self.0, PollFlags::POLLHUP)? {
            self.0.ready(Interest::PRIORITY).await?.clear_ready();
            if !is(&self.0, PollFlags::POLLHUP)? {
                // It was gone and is back, which tokio does not unlearn.
                tokio::time::sleep(COME_BACK).await;
            }
        }
        Ok(())
    }

    /// The descriptor, no longer waited for.
    pub fn into_inner(self) -> OwnedFd {
        self.0.into_inner()
    }
}

impl AsFd for Polled {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether a read would return something, or the end. Does not wait.
///
/// # Errors
/// The kernel's; so for all that follow.
pub fn is_readable(fd: impl AsFd) -> io::Result<bool> {
    is(fd, PollFlags::POLLIN)
}

/// Whether the other side is gone: a pipe's read end has no writer.
///
/// # Errors
/// The kernel's.
pub fn is_hung_up(fd: impl AsFd) -> io::Result<bool> {
    is(fd, PollFlags::POLLHUP)
}

/// Whether writing would fail: a pipe's write end has no reader.
///
/// # Errors
/// The kernel's.
pub fn is_broken(fd: impl AsFd) -> io::Result<bool> {
    is(fd, PollFlags::POLLERR)
}

fn is(fd: impl AsFd, state: PollFlags) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd.as_fd(), state)];
    poll(&mut fds, PollTimeout::ZERO)?;
    Ok(fds[0].revents().is_some_and(|revents| revents.intersects(state)))
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn on_tokio<F: Future<Output = ()>>(body: F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(20), body).await })
            .unwrap();
    }

    #[test]
    fn reads_and_writes_a_pipe() {
        on_tokio(async {
            let (reader, writer) = io::pipe().unwrap();
            let (reader, writer) =
                (Polled::reader(reader.into()).unwrap(), Polled::writer(writer.into()).unwrap());
            let mut buffer = [0; 8];
            assert_eq!(writer.write(b"abc").await.unwrap(), 3);
            assert_eq!(reader.read(&mut buffer).await.unwrap(), 3);
            drop(writer);
            assert_eq!(reader.read(&mut buffer).await.unwrap(), 0);
        });
    }

    #[test]
    fn sees_the_last_writer_go_and_not_what_it_writes() {
        on_tokio(async {
            let (reader, mut writer) = io::pipe().unwrap();
            let reader = Polled::idle(reader.into()).unwrap();
            writer.write_all(b"unread").unwrap();
            let early = tokio::time::timeout(Duration::from_millis(20), reader.hung_up()).await;
            assert!(early.is_err(), "hung up while there was a writer");
            drop(writer);
            reader.hung_up().await.unwrap();
            let reader = reader.into_inner();
            assert!(is_readable(&reader).unwrap() && is_hung_up(&reader).unwrap());
        });
    }

    #[test]
    fn a_writer_without_a_reader_is_broken() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(!is_broken(&writer).unwrap());
        drop(reader);
        assert!(is_broken(&writer).unwrap());
    }

    #[test]
    fn refuses_a_regular_file() {
        on_tokio(async {
            let file = tempfile::tempfile().unwrap();
            assert!(Polled::new(file.into()).is_err());
        });
    }
}
