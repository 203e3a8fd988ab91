//! Copies a tree with everything that makes it up: owners, modes, times,
//! extended attributes, hard links, holes, devices. Blocks are shared with
//! the source where the file system can.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{
    self, AtFlags, CWD, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use crate::tree::{names, open_dir};

/// Where an inode with several names was copied to first: a directory and a
/// name in it, relative to the target.
type Links = HashMap<(u64, u64), PathBuf>;

/// One level of the walk.
struct Level {
    entries: Vec<(CString, FileType)>,
    source: OwnedFd,
    target: OwnedFd,
    stat: Stat,
    /// Relative to the root.
    path: PathBuf,
}

/// Makes the directory `target`, which exists and is empty, equal to
/// `source`.
pub(crate) fn tree(source: &Path, target: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = fs::openat(CWD, source, flags, Mode::empty())?;
    let root = fs::openat(CWD, target, flags, Mode::empty())?;
    let mut links = Links::new();
    let mut stack = vec![level(source, root.try_clone()?, PathBuf::new())?];
    while let Some(top) = stack.last_mut() {
        match top.entries.pop() {
            Some((name, _)) => {
                if let Some(next) = entry(top, &name, &root, &mut links)? {
                    stack.push(next);
                }
            }
            None => {
                // After its entries, which would change its times.
                set_attributes(&top.source, &top.target, &top.stat)?;
                stack.pop();
            }
        }
    }
    Ok(())
}

fn level(source: OwnedFd, target: OwnedFd, path: PathBuf) -> io::Result<Level> {
    let stat = fs::fstat(&source)?;
    Ok(Level { entries: names(&source)?, source, target, stat, path })
}

/// Copies one entry; answers the level below when it is a directory.
fn entry(at: &Level, name: &CStr, root: &OwnedFd, links: &mut Links) -> io::Result<Option<Level>> {
    let name = name.to_owned();
    let stat = fs::statat(&at.source, &name, AtFlags::SYMLINK_NOFOLLOW)?;
    let path = at.path.join(OsStr::from_bytes(name.as_bytes()));
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Directory {
        fs::mkdirat(&at.target, &name, Mode::RWXU)?;
        let (source, target) = (open_dir(&at.source, &name)?, open_dir(&at.target, &name)?);
        return level(source, target, path).map(Some);
    }
    if stat.st_nlink > 1 {
        if let Some(first) = links.get(&(stat.st_dev, stat.st_ino)) {
            fs::linkat(root, first, &at.target, &name, AtFlags::empty())?;
            return Ok(None);
        }
        links.insert((stat.st_dev, stat.st_ino), path);
    }
    if kind == FileType::RegularFile {
        file(at, &name, &stat)?;
    } else {
        special(at, &name, kind, &stat)?;
    }
    Ok(None)
}

fn file(at: &Level, name: &CStr, stat: &Stat) -> io::Result<()> {
    let source = fs::openat(
        &at.source,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = fs::openat(&at.target, name, create, Mode::RUSR | Mode::WUSR)?;
    data(&source, &target, stat.st_size.unsigned_abs())?;
    set_attributes(&source, &target, stat)
}

/// Shares the blocks, or copies those that are not holes.
fn data(source: &OwnedFd, target: &OwnedFd, size: u64) -> io::Result<()> {
    if size == 0 || fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    fs::ftruncate(target, size)?;
    let mut offset = 0;
    while offset < size {
        let start = match fs::seek(source, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = fs::seek(source, SeekFrom::Hole(start))?.min(size);
        range(source, target, start, end)?;
        offset = end.max(start + 1);
    }
    Ok(())
}

fn range(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let length = usize::try_from(end - from).unwrap_or(usize::MAX).min(1 << 30);
        match fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => {
                return by_hand(source, target, from, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn by_hand(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 17];
    let mut offset = start;
    while offset < end {
        let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
        let count = rustix::io::pread(source, &mut buffer[..wanted], offset)?;
        if count == 0 {
            return Ok(());
        }
        let mut written = 0;
        while written < count {
            written +=
                rustix::io::pwrite(target, &buffer[written..count], offset + written as u64)?;
        }
        offset += count as u64;
    }
    Ok(())
}

fn special(at: &Level, name: &CStr, kind: FileType, stat: &Stat) -> io::Result<()> {
    if kind == FileType::Symlink {
        let text = fs::readlinkat(&at.source, name, Vec::new())?;
        fs::symlinkat(&text, &at.target, name)?;
    } else {
        fs::mknodat(&at.target, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?;
    }
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    fs::chownat(&at.target, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    let (source, target) = (path_of(&at.source, name), path_of(&at.target, name));
    copy_attributes(
        |buffer| fs::llistxattr(&source, buffer),
        |attribute, buffer| fs::lgetxattr(&source, attribute, buffer),
        |attribute, value| fs::lsetxattr(&target, attribute, value, XattrFlags::empty()),
    )?;
    if kind != FileType::Symlink {
        fs::chmodat(&at.target, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
    }
    Ok(fs::utimensat(&at.target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A path to what has no file descriptor that could be used for its
/// attributes, without following it.
fn path_of(dir: &OwnedFd, name: &CStr) -> PathBuf {
    let dir = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    dir.join(OsStr::from_bytes(name.to_bytes()))
}

/// Owner first: a change of it takes set-user-id bits and capabilities away.
fn set_attributes(source: impl AsFd, target: impl AsFd, stat: &Stat) -> io::Result<()> {
    fs::fchown(&target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    copy_attributes(
        |buffer| fs::flistxattr(&source, buffer),
        |name, buffer| fs::fgetxattr(&source, name, buffer),
        |name, value| fs::fsetxattr(&target, name, value, XattrFlags::empty()),
    )?;
    fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode))?;
    Ok(fs::futimens(&target, &times(stat))?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanos: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanos).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Copies all extended attributes. Those that the target's file system or a
/// security module refuses are left out, as containerd does.
fn copy_attributes(
    list: impl FnOnce(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&CStr, &mut [u8]) -> rustix::io::Result<usize>,
    set: impl Fn(&CStr, &[u8]) -> rustix::io::Result<()>,
) -> io::Result<()> {
    // The kernel's limits for the list and for one value.
    let mut buffer = vec![0; 1 << 16];
    let length = match list(&mut buffer) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        result => result?,
    };
    let mut value = vec![0; 1 << 16];
    for name in buffer[..length].split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let size = match get(name, &mut value) {
            Err(Errno::NODATA) => continue,
            result => result?,
        };
        match set(name, &value[..size]) {
            Ok(()) => {}
            Err(error @ (Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS)) => {
                log::debug!(name:? = name, error:% = error; "leave an attribute out of a copy");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
