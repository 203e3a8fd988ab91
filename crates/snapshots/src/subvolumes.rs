//! Removing subvolumes of btrfs with those that a container has made in
//! them: `rmdir` does not remove a read-only one, and the request that does
//! removes none that has others inside.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::path::Path;

use davit_sys::btrfs;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, statat};
use rustix::io::Errno;

use crate::btrfs::is_root;
use crate::tree::{Handle, MAX_DEPTH, names, open_dir};

/// Removes the subvolumes that are directly in the directory `path`, if there
/// is one.
pub(crate) fn remove_those_in(path: &Path) -> io::Result<()> {
    let dir = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    };
    for (name, kind) in names(&dir)? {
        if kind == FileType::Directory && is_subvolume(&dir, &name)? {
            remove(&dir, &name)?;
        }
    }
    Ok(())
}

/// Removes the subvolume `name` of the directory `parent`, and all in it.
/// Succeeds when it is gone already.
pub(crate) fn remove(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    match btrfs::destroy_subvolume(&parent, name) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            remove_nested(&parent, name)?;
            btrfs::destroy_subvolume(&parent, name)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn is_subvolume(dir: impl AsFd, name: &CStr) -> io::Result<bool> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(false),
        result => Ok(is_root(result?.st_ino)),
    }
}

/// One directory of the walk; `name` when it is a subvolume's root, which goes
/// when all in it has been seen.
struct Level {
    entries: Vec<CString>,
    dir: Handle,
    name: Option<CString>,
}

impl Level {
    /// The subvolume `name` of `parent`, made writable: a read-only one lets
    /// go of nothing in it.
    fn subvolume(parent: impl AsFd, name: &CStr) -> io::Result<Self> {
        let dir = open_dir(parent, &name.to_owned())?;
        btrfs::make_writable(&dir)?;
        Self::new(dir, Some(name.to_owned()))
    }

    fn new(dir: OwnedFd, name: Option<CString>) -> io::Result<Self> {
        Ok(Self { entries: directories(&dir)?, dir: Handle::new(dir)?, name })
    }
}

fn directories(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let entries = names(dir)?.into_iter();
    Ok(entries.filter(|(_, kind)| *kind == FileType::Directory).map(|(name, _)| name).collect())
}

/// Removes the subvolumes below the subvolume `name` of `parent`.
fn remove_nested(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    let mut stack = vec![Level { name: None, ..Level::subvolume(parent, name)? }];
    while let Some(top) = stack.last_mut() {
        let Some(name) = top.entries.pop() else {
            if let (Some(done), Some(above)) = (stack.pop(), stack.last_mut()) {
                above.dir.reopen(&done.dir)?;
                if let Some(name) = done.name {
                    btrfs::destroy_subvolume(above.dir.fd(), &name)?;
                }
            }
            continue;
        };
        let dir = top.dir.fd();
        let level = if is_subvolume(dir, &name)? {
            match btrfs::destroy_subvolume(dir, &name) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    Level::subvolume(dir, &name)?
                }
                result => {
                    result?;
                    continue;
                }
            }
        } else {
            match open_dir(dir, &name) {
                Ok(dir) => Level::new(dir, None)?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        stack.push(level);
        if let Some(far) = stack.len().checked_sub(MAX_DEPTH) {
            stack[far].dir.close();
        }
    }
    Ok(())
}
