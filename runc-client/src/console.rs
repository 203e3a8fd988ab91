//! Receiving the terminal of a container.

use std::fs::Permissions;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use crate::error::{Error, Result};

/// The longest path of a socket, without its NUL.
const SOCKET_PATH_LIMIT: usize = 107;

/// A socket to which a runtime sends the master end of a container's terminal.
///
/// It lives in a private directory (mode 0700) that is removed on drop.
///
/// ```no_run
/// # async fn example() -> runc_client::Result<()> {
/// use runc_client::{ConsoleSocket, CreateOptions, Runc};
/// use std::time::Duration;
///
/// let socket = ConsoleSocket::new()?;
/// let options =
///     CreateOptions { console_socket: Some(socket.path().into()), ..Default::default() };
/// Runc::new("runc").create("web", "/srv/web".as_ref(), options).await?;
/// let master = socket.receive(Duration::from_secs(10)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Removes the directory.
    _dir: TempDir,
}

impl ConsoleSocket {
    /// A socket in a directory of its own under `$XDG_RUNTIME_DIR` or the
    /// system's temporary directory, whichever is short enough for a socket's
    /// path (107 bytes).
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be made.
    pub fn new() -> Result<Self> {
        Self::in_first_of(places())
    }

    /// The same under `dir`; where `dir`'s path is too long for a socket, in
    /// one of the places of [`ConsoleSocket::new`].
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be made.
    pub fn new_in(dir: &Path) -> Result<Self> {
        Self::in_first_of(std::iter::once(dir.to_owned()).chain(places()))
    }

    fn in_first_of(dirs: impl Iterator<Item = PathBuf>) -> Result<Self> {
        const LENGTH: usize = "/runc-pty-XXXXXX/s".len();
        let mut short = dirs.filter(|dir| dir.as_os_str().len() + LENGTH <= SOCKET_PATH_LIMIT);
        // "/tmp" is among them and always short enough.
        let dir = short.next().unwrap_or_else(|| "/tmp".into());
        Self::make(&dir).map_err(|error| {
            Error::io(format!("make a console socket in {}", dir.display()), error)
        })
    }

    fn make(dir: &Path) -> io::Result<Self> {
        let private = Permissions::from_mode(0o700);
        let dir =
            tempfile::Builder::new().prefix("runc-pty-").permissions(private).tempdir_in(dir)?;
        let path = dir.path().join("s");
        debug_assert!(path.as_os_str().len() <= SOCKET_PATH_LIMIT);
        Ok(Self { listener: UnixListener::bind(&path)?, path, _dir: dir })
    }

    /// Where the runtime is to connect to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits at most `limit` for the terminal. Can be called after the call
    /// that makes the container has returned, or beside it. Needs tokio's time.
    ///
    /// # Errors
    /// [`Error::Timeout`] when none arrives in time, [`Error::Parse`] when what
    /// arrives is no terminal.
    pub async fn receive(&self, limit: Duration) -> Result<OwnedFd> {
        const OPERATION: &str = "receive console";
        let received = tokio::time::timeout(limit, self.receive_fd()).await;
        let received = received.map_err(|_| Error::Timeout { operation: OPERATION, limit })?;
        let fd = received.map_err(|error| Error::io(OPERATION, error))?;
        fd.filter(|fd| rustix::termios::isatty(fd))
            .ok_or_else(|| Error::parse(OPERATION, b"no terminal", None))
    }

    async fn receive_fd(&self) -> io::Result<Option<OwnedFd>> {
        let (stream, _) = self.listener.accept().await?;
        loop {
            stream.readable().await?;
            match stream.try_io(Interest::READABLE, || receive_one(&stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }
}

/// Directories for a socket, best first.
fn places() -> impl Iterator<Item = PathBuf> {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime_dir.filter(|dir| dir.is_dir()).into_iter().chain([std::env::temp_dir(), "/tmp".into()])
}

/// The first descriptor of a message; any others are closed.
fn receive_one(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    const FDS: usize = 4;
    let mut name = [0; 4096]; // runc sends the terminal's name along.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut name)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    let mut fds = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    Ok(fds.next())
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsFd;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;
    use crate::error::ErrorKind;

    const LIMIT: Duration = Duration::from_secs(10);

    fn send(path: &Path, fd: Option<impl AsFd>) {
        let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        sendmsg(&stream, &[IoSlice::new(b"name")], &mut control, SendFlags::empty()).unwrap();
    }

    #[tokio::test]
    async fn takes_terminals_only() {
        let socket = ConsoleSocket::new().unwrap();
        let master = std::fs::File::options().read(true).write(true).open("/dev/ptmx").unwrap();
        send(socket.path(), Some(&master));
        let received = socket.receive(LIMIT).await.unwrap();
        assert!(rustix::termios::isatty(&received));
        send(socket.path(), Some(std::fs::File::open("/dev/null").unwrap()));
        assert_eq!(socket.receive(LIMIT).await.unwrap_err().kind(), ErrorKind::Parse);
        send(socket.path(), None::<OwnedFd>);
        assert_eq!(socket.receive(LIMIT).await.unwrap_err().kind(), ErrorKind::Parse);
        let error = socket.receive(Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
    }

    #[tokio::test]
    async fn is_private_short_and_removed() {
        let base = tempfile::tempdir().unwrap();
        let deep = base.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        for dir in [base.path(), &deep] {
            let socket = ConsoleSocket::new_in(dir).unwrap();
            let path = socket.path().to_owned();
            assert!(path.as_os_str().len() <= SOCKET_PATH_LIMIT);
            assert_eq!(path.starts_with(dir), dir == base.path());
            let parent = path.parent().unwrap().to_owned();
            let mode = std::fs::metadata(&parent).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
            drop(socket);
            assert!(!parent.exists());
        }
        assert!(matches!(ConsoleSocket::new_in(Path::new("/nonexistent")), Err(Error::Io { .. })));
    }
}
