//! Where shims listen, and how they are reached there (containerd,
//! `pkg/shim/util_unix.go`).

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::names::words;
use crate::{Deadline, Error};

/// The system's limit (`sockaddr_un`), less the final zero.
const MAX_SOCKET_PATH: usize = 107;
/// Between two tries to reach a socket whose queue is full, or to get what a
/// connection takes on our side.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// How long a hypervisor may go without passing a connection on.
const HYPERVISOR_LIMIT: Duration = Duration::from_secs(10);
/// Between two tries to be passed on.
const HYPERVISOR_PAUSE: Duration = Duration::from_millis(100);
/// The longest line with which a hypervisor answers.
const LINE_MAX: usize = 64;

/// Where a shim listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// One that begins with a zero byte stands for an abstract socket.
    path: PathBuf,
    /// For a shim in a virtual machine, whose hypervisor listens at the
    /// socket: the port to be passed on to.
    port: Option<u32>,
}

impl Place {
    /// Reads an address: `unix:///path`; `hvsock:///path:port`; a path, where
    /// `bare_is_path`; else the name of an abstract socket.
    pub fn parse(address: &str, bare_is_path: bool) -> Result<Self, Error> {
        let refuse = |what: &str| Err(Error::Binary(format!("{what}: {address:?}")));
        let (path, port) = match address.split_once("://") {
            Some(("unix", path)) => (path, None),
            Some(("hvsock", place)) => {
                let port = place.rsplit_once(':').map(|(path, port)| (path, port.parse()));
                let Some((path, Ok(port))) = port else { return refuse("no port in the address") };
                (path, Some(port))
            }
            Some(_) => return refuse("unsupported address"),
            None if bare_is_path => (address, None),
            None if address.len() > MAX_SOCKET_PATH => return refuse("too long a socket name"),
            None => return Ok(Self { path: format!("\0{address}").into(), port: None }),
        };
        match path {
            path if path.len() > MAX_SOCKET_PATH => refuse("too long a socket path"),
            path if path.starts_with('/') => Ok(Self { path: path.into(), port }),
            _ => refuse("no socket path"),
        }
    }

    /// The socket's path.
    pub fn into_path(self) -> PathBuf {
        self.path
    }

    /// Connects. A socket whose queue is full is tried again without end, and
    /// so is one when we are short of files or memory, which says nothing of
    /// the shim.
    pub async fn dial(&self) -> io::Result<UnixStream> {
        match self.port {
            None => self.connect().await,
            Some(port) => {
                let passed_on = Deadline::after(HYPERVISOR_LIMIT).limit(self.passed_on(port)).await;
                passed_on.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        loop {
            match UnixStream::connect(&self.path).await {
                Err(error) if is_passing(&error) => tokio::time::sleep(BUSY_PAUSE).await,
                result => return result,
            }
        }
    }

    /// Connects to what is behind the hypervisor. One that hangs up has nobody
    /// to pass us on to yet.
    async fn passed_on(&self, port: u32) -> io::Result<UnixStream> {
        loop {
            let mut stream = self.connect().await?;
            stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
            match line(&mut stream).await {
                Ok(line) if line.contains("OK") => return Ok(stream),
                Ok(line) => {
                    let words = format!("the hypervisor answered {line:?}");
                    return Err(io::Error::other(words));
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    tokio::time::sleep(HYPERVISOR_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What went wrong with [`Self::dial`], in Go's words.
    pub fn failure(&self, error: &io::Error) -> String {
        format!("dial unix {}: connect: {}", self.path.display(), words(error))
    }

    /// Removes the socket, when it is a shim's own and nobody listens at it.
    pub fn remove_dead(&self) {
        let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        if self.port.is_none()
            && std::os::unix::net::UnixStream::connect(&self.path).is_err_and(|e| refused(&e))
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!(path:? = self.path, error:% = error; "cannot remove a dead shim's socket");
        }
    }
}

/// Reads to the end of the line and no further: what follows is not for us.
async fn line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    while line.len() < LINE_MAX {
        match stream.read_u8().await? {
            b'\n' => break,
            byte => line.push(byte),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

fn is_passing(error: &io::Error) -> bool {
    use nix::Error as E;
    let passing = [E::EAGAIN, E::EMFILE, E::ENFILE, E::ENOMEM, E::ENOBUFS];
    error.raw_os_error().is_some_and(|code| passing.contains(&E::from_raw(code)))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[test]
    fn addresses_are_read_as_containerd_does() {
        let place = |address, bare| Place::parse(address, bare).map_err(|e| e.to_string());
        let at = |path: &str, port| Ok(Place { path: path.into(), port });
        assert_eq!(place("unix:///run/s/a", false), at("/run/s/a", None));
        assert_eq!(place("unix:///run/s/a", true), at("/run/s/a", None));
        assert_eq!(place("/run/s/a", true), at("/run/s/a", None));
        assert_eq!(place("/run/s/a", false), at("\0/run/s/a", None));
        assert_eq!(place("hvsock:///run/vm.sock:1024", false), at("/run/vm.sock", Some(1024)));
        let long = format!("unix:///{}", "x".repeat(107));
        for (address, words) in [
            ("vsock://3:1024", "unsupported address"),
            ("tcp://localhost:1", "unsupported address"),
            ("hvsock:///run/vm.sock", "no port in the address"),
            ("hvsock:///run/vm.sock:port", "no port in the address"),
            ("hvsock://:1", "no socket path"),
            ("unix://relative", "no socket path"),
            (&long, "too long a socket path"),
            (&long[7..], "too long a socket path"),
        ] {
            assert_eq!(place(address, true), Err(format!("{words}: {address:?}")));
        }
    }

    /// A hypervisor that hangs up on the first, and passes the second on.
    #[tokio::test]
    async fn a_hypervisor_passes_us_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vm.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let hypervisor = tokio::spawn(async move {
            let (mut early, _) = listener.accept().await.unwrap();
            assert_eq!(line(&mut early).await.unwrap(), "CONNECT 1024");
            drop(early);
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_eq!(line(&mut stream).await.unwrap(), "CONNECT 1024");
            // What the shim says at once is not swallowed.
            stream.write_all(b"OK 1073741824\nhello").await.unwrap();
            drop(stream);
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"no such machine\n").await.unwrap();
            let _ = line(&mut stream).await;
        });
        let place = Place::parse(&format!("hvsock://{}:1024", path.display()), false).unwrap();
        let mut said = String::new();
        place.dial().await.unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello");
        let refused = place.dial().await.unwrap_err();
        assert_eq!(refused.to_string(), "the hypervisor answered \"no such machine\"");
        hypervisor.await.unwrap();
        place.remove_dead();
        assert!(path.exists(), "the socket is the hypervisor's");
    }
}
