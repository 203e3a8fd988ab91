//! The shim's own socket: where it is, and who gets to bind it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use sha2::{Digest, Sha256};

use crate::Failure;

/// Where sockets are when nobody says otherwise: containerd's fixed place
/// (`pkg/shim`, `SocketAddress`), for daemons that look for them there.
pub const DEFAULT_DIR: &str = "/run/containerd/s";

/// The variable by which a daemon says where sockets are to be.
pub const DIR_VARIABLE: &str = "SHIM_SOCKET_DIR";

/// The longest path of a Unix socket, in bytes, as containerd counts it.
pub const PATH_MAX: usize = 106;

/// The scheme before an address's path.
pub const SCHEME: &str = "unix://";

/// The socket's path for a daemon (by its address), a namespace and a group:
/// a hash, so that it has one length however long these are. A directory so
/// deep that the whole would not fit is replaced by [`DEFAULT_DIR`]; the
/// daemon's address in the hash keeps daemons apart there.
pub fn path(dir: &Path, daemon: &str, namespace: &str, group: &str) -> PathBuf {
    let hash = Sha256::digest(format!("{}/{namespace}/{group}", daemon.trim_end_matches('/')));
    let name: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = dir.join(&name);
    match path.as_os_str().len() > PATH_MAX {
        true => Path::new(DEFAULT_DIR).join(name),
        false => path,
    }
}

/// Who serves at a socket's path.
#[derive(Debug)]
pub enum Bound {
    /// We do, with this listener.
    Here(UnixListener),
    /// A live shim of the same group does.
    Elsewhere,
}

/// Binds the path, or finds out that a live shim has. A dead shim's socket is
/// replaced. The directory is made, closed to others, the socket 0600.
///
/// # Errors
/// The system's, naming the path.
pub fn bind(path: &Path) -> Result<Bound, Failure> {
    let failed = |e: &io::Error| Failure::io(format!("listen unix {}", path.display()), e);
    let _turn = path.parent().map(take_turn).transpose()?;
    // Shims of other makes take no turns: a look at the socket may be outdated
    // when it is acted on, but not for ever.
    for _ in 0..10 {
        match UnixListener::bind(path) {
            Ok(listener) => return close_to_others(path, listener).map_err(|e| failed(&e)),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(failed(&e)),
        }
        match probe(path) {
            Ok(()) => return Ok(Bound::Elsewhere),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => remove(path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(&e)),
        }
    }
    Err(failed(&io::ErrorKind::AddrInUse.into()))
}

/// Makes the directory and waits for those who bind in it just now. Of two
/// shims of one group that find a dead socket, the second would else replace
/// the socket that the first has bound since.
fn take_turn(dir: &Path) -> Result<Flock<File>, Failure> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Failure::io(format!("mkdir failed for {}", dir.display()), &e))?;
    let failed = |e: &io::Error| Failure::io(format!("lock {}", dir.display()), e);
    let file = File::open(dir).map_err(|e| failed(&e))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| failed(&e.into()))
}

fn close_to_others(path: &Path, listener: UnixListener) -> io::Result<Bound> {
    if let Err(e) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)) {
        remove(path);
        return Err(e);
    }
    Ok(Bound::Here(listener))
}

/// Whether somebody listens. Does not wait: a listener too busy to accept is
/// a listener.
fn probe(path: &Path) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) | Err(Errno::EAGAIN) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Removes a socket; that it is gone already is no failure worth a word.
pub fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

/// Removes a socket that nobody listens on any more.
pub fn remove_if_dead(path: &Path) {
    let refused = probe(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        remove(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_containerd_s() {
        // printf /run/containerd/containerd.sock/default/a1 | sha256sum
        let path = path(Path::new(DEFAULT_DIR), "/run/containerd/containerd.sock", "default", "a1");
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(name, EXPECTED);
        assert_eq!(path.parent().unwrap(), Path::new(DEFAULT_DIR));
    }
    const EXPECTED: &str = "b06fb43eabae9be14ad6cef61010a9864cc528f35c3a86047fec37b2a165f5a2";

    #[test]
    fn deep_directories_are_replaced() {
        let deep = PathBuf::from(format!("/{}", "d".repeat(90)));
        let path = path(&deep, "/a.sock", "n", "g");
        assert!(path.starts_with(DEFAULT_DIR) && path.as_os_str().len() <= PATH_MAX);
    }

    #[test]
    fn of_many_that_find_a_dead_socket_one_binds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for _ in 0..20 {
            drop(UnixListener::bind(&path).unwrap());
            let bound = std::thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|_| scope.spawn(|| bind(&path).unwrap())).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
            });
            let here = bound.iter().filter(|bound| matches!(bound, Bound::Here(_))).count();
            assert_eq!(here, 1);
            remove(&path);
        }
    }

    #[test]
    fn dead_sockets_are_replaced_live_ones_joined() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s/x");
        let Bound::Here(listener) = bind(&path).unwrap() else { panic!("nobody else is here") };
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let parent = std::fs::metadata(dir.path().join("s")).unwrap();
        assert_eq!(parent.permissions().mode() & 0o777, 0o700);
        assert!(matches!(bind(&path).unwrap(), Bound::Elsewhere));
        remove_if_dead(&path);
        assert!(path.exists());
        drop(listener);
        assert!(matches!(bind(&path).unwrap(), Bound::Here(_)));
        remove_if_dead(&path);
        assert!(!path.exists());
    }
}
