//! Receiving the terminal of a container.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::UnixListener;

use crate::error::Result;

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
    path: std::path::PathBuf,
    /// Removes the directory.
    _dir: TempDir,
}

impl ConsoleSocket {
    /// A socket in a directory of its own under `$XDG_RUNTIME_DIR` or the
    /// system's temporary directory, whichever is short enough for a socket's
    /// path (107 bytes).
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when it cannot be made.
    pub fn new() -> Result<Self> {
        todo!()
    }

    /// The same under `dir`; where `dir`'s path is too long for a socket, in
    /// one of the places of [`ConsoleSocket::new`].
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when it cannot be made.
    pub fn new_in(_dir: &Path) -> Result<Self> {
        todo!()
    }

    /// Where the runtime is to connect to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits at most `limit` for the terminal. Can be called after the call
    /// that makes the container has returned, or beside it.
    ///
    /// # Errors
    /// [`Error::Timeout`](crate::Error::Timeout) when none arrives in time,
    /// [`Error::Parse`](crate::Error::Parse) when what arrives is no terminal.
    pub async fn receive(&self, _limit: Duration) -> Result<OwnedFd> {
        let _ = &self.listener;
        todo!()
    }
}
