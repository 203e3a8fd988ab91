//! The daemon's sockets.
//!
//! A socket is never open to more people than it is meant for, not even for a
//! moment: its mode and its owner are set before it listens.

use std::fs::Permissions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::unistd::{Gid, Uid, chown};

use crate::error::Error;
use crate::lock::make_directory;

/// Owner and group may speak to the daemon; who may is as good as root.
const SOCKET_MODE: u32 = 0o660;

/// Listens at `path`, for `uid` and `gid`. A socket that nobody listens at is
/// replaced.
///
/// # Errors
/// Somebody listens there, something else than a socket is there, the path is
/// too long for a socket, or the system says no.
pub fn at(path: &Path, uid: u32, gid: u32) -> Result<UnixListener, Error> {
    if let Some(directory) = path.parent()
        && !directory.exists()
    {
        make_directory(directory, 0o711)?;
    }
    replace_stale(path)?;
    let failed = |operation| move |errno: nix::Error| Error::io(operation, path)(errno.into());
    let address = UnixAddr::new(path).map_err(failed("make a socket's address of"))?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .map_err(failed("make a socket for"))?;
    bind(socket.as_raw_fd(), &address).map_err(failed("bind"))?;
    std::fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))
        .map_err(Error::io("set the mode of", path))?;
    chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(failed("give away"))?;
    listen(&socket, Backlog::MAXCONN).map_err(failed("listen at"))?;
    Ok(UnixListener::from(socket))
}

fn replace_stale(path: &Path) -> Result<(), Error> {
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io("look at", path))?,
    };
    if !metadata.file_type().is_socket() {
        let exists = std::io::ErrorKind::AlreadyExists.into();
        return Err(Error::io("replace what is no socket at", path)(exists));
    }
    if UnixStream::connect(path).is_ok() {
        let owner = "somebody who listens there".to_owned();
        return Err(Error::InUse { what: "address", path: path.to_owned(), owner });
    }
    std::fs::remove_file(path).map_err(Error::io("remove the stale socket", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_socket_is_for_its_owner_and_group() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/a.sock");
        let _listener = at(&path, 0, 12).unwrap();
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
        assert_eq!((metadata.uid(), metadata.gid()), (0, 12));
        let directory = path.parent().unwrap().metadata().unwrap();
        assert_eq!(directory.permissions().mode() & 0o777, 0o711);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let live = at(&path, 0, 0).unwrap();
        assert!(matches!(at(&path, 0, 0), Err(Error::InUse { what: "address", .. })));
        drop(live);
        at(&path, 0, 0).unwrap();
    }

    #[test]
    fn nothing_else_is_replaced_and_a_long_path_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "x").unwrap();
        assert!(at(&path, 0, 0).unwrap_err().to_string().contains("precious"));
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
        let long = dir.path().join("s".repeat(120));
        assert!(matches!(at(&long, 0, 0), Err(Error::Io { .. })));
    }
}
