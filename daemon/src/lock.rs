//! Directories that belong to one daemon at a time.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::Error;

const FILE: &str = "davitd.lock";

/// A directory of this daemon's, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Claim {
    _lock: Flock<File>,
}

/// Makes `path` with `mode` where it is missing (a directory that is there
/// keeps no more than that mode) and claims it.
///
/// # Errors
/// It cannot be made, or another daemon has it; then its pid is named.
pub fn claim(what: &'static str, path: &Path, mode: u32) -> Result<Claim, Error> {
    make_directory(path, mode)?;
    let file_path = path.join(FILE);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&file_path)
        .map_err(Error::io("open", &file_path))?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            // Who cannot be named is still there.
            let _ = file.read_to_string(&mut pid);
            let owner = match pid.trim() {
                "" => "another daemon".to_owned(),
                pid => format!("the daemon with pid {pid}"),
            };
            return Err(Error::InUse { what, path: path.to_owned(), owner });
        }
        Err((_, errno)) => return Err(Error::io("lock", file_path)(errno.into())),
    };
    let pid = std::process::id();
    lock.set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| writeln!(lock, "{pid}"))
        .map_err(Error::io("write", file_path))?;
    Ok(Claim { _lock: lock })
}

/// Makes a directory and its parents; takes away from an existing one what
/// `mode` does not allow.
///
/// # Errors
/// It cannot be made, is no directory, or cannot be closed.
pub fn make_directory(path: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(Error::io("make directory", path))?;
    let current =
        path.metadata().map_err(Error::io("look at", path))?.permissions().mode() & 0o7777;
    if current & !mode != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(current & mode))
            .map_err(Error::io("close directory", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/root");
        let first = claim("root", &root, 0o700).unwrap();
        assert_eq!(root.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let refusal = claim("root", &root, 0o700).unwrap_err().to_string();
        let pid = std::process::id();
        assert_eq!(
            refusal,
            format!("root {} is in use by the daemon with pid {pid}", root.display())
        );
        drop(first);
        claim("root", &root, 0o700).unwrap();
    }

    #[test]
    fn an_open_directory_is_closed_and_a_closed_one_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        for (before, after) in [(0o777, 0o711), (0o700, 0o700)] {
            std::fs::set_permissions(dir.path(), Permissions::from_mode(before)).unwrap();
            make_directory(dir.path(), 0o711).unwrap();
            assert_eq!(dir.path().metadata().unwrap().permissions().mode() & 0o777, after);
        }
    }
}
