//! Owner, mode, times and extended attributes of what an entry made, set
//! through a descriptor of exactly that inode.

use std::ffi::CStr;
use std::io;

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{self, AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::tar::{Entry, EntryKind, Time};

/// A path to the inode behind a descriptor, also one that was opened with
/// `O_PATH`, also that of a symbolic link.
pub(crate) fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Why an entry's attributes must not be taken over.
pub(crate) fn refusal(entry: &Entry) -> Option<String> {
    let in_range = |id: i64| (0..i64::from(u32::MAX)).contains(&id);
    if !in_range(entry.uid) || !in_range(entry.gid) {
        return Some(format!("owner {}:{} is out of range", entry.uid, entry.gid));
    }
    let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let refused = |attribute: &&(Vec<u8>, Vec<u8>)| {
        // They would change what the overlay shows: other directories'
        // contents, files of the host.
        let (key, _) = attribute;
        key.starts_with(b"trusted.overlay.") || key.starts_with(b"user.overlay.")
    };
    let (key, _) = entry.xattrs.iter().find(refused)?;
    Some(format!("extended attribute {:?} is not allowed", name(key)))
}

/// Sets all that the entry says, times too unless it is a directory, whose
/// come last of all. `fd` is of `O_PATH` unless it is a file's or a
/// directory's. Answers the inode's number.
pub(crate) fn set(fd: &OwnedFd, entry: &Entry) -> Result<u64, (&'static str, io::Error)> {
    let step = |operation| move |error: Errno| (operation, io::Error::from(error));
    let open = matches!(entry.kind, EntryKind::File | EntryKind::Directory);
    // Checked by `refusal`.
    let (uid, gid) = (entry.uid as u32, entry.gid as u32);
    // First, since it takes set-user-id bits and capabilities away; and so
    // only where it changes something, for a further name of a file mostly
    // comes without the attributes.
    let stat = fs::fstat(fd).map_err(step("stat"))?;
    let same_owner = (stat.st_uid, stat.st_gid) == (uid, gid);
    if !same_owner {
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fs::chownat(fd, c"", owner.0, owner.1, AtFlags::EMPTY_PATH).map_err(step("lchown"))?;
    }
    for (name, value) in &entry.xattrs {
        set_xattr(&path_of(fd), entry, name, value).map_err(step("setxattr"))?;
    }
    // Attributes may be access control lists, which change the mode.
    let same_mode = stat.st_mode & 0o7777 == entry.mode && same_owner && entry.xattrs.is_empty();
    if !same_mode && entry.kind != EntryKind::Symlink {
        let mode = Mode::from_raw_mode(entry.mode);
        let set = match open {
            true => fs::fchmod(fd, mode),
            false => fs::chmodat(CWD, path_of(fd), mode, AtFlags::empty()),
        };
        match set {
            // A hard link to a symbolic link, which has no mode.
            Err(Errno::OPNOTSUPP) if entry.kind == EntryKind::HardLink => {}
            result => result.map_err(step("chmod"))?,
        }
    }
    match entry.kind {
        EntryKind::Directory => Ok(()),
        EntryKind::File => fs::futimens(fd, &times(entry)),
        _ => set_times(fd, &times(entry)),
    }
    .map_err(step("utimensat"))?;
    Ok(stat.st_ino)
}

fn set_xattr(path: &str, entry: &Entry, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
    let plain = matches!(entry.kind, EntryKind::File | EntryKind::Directory);
    match fs::setxattr(path, name, value, XattrFlags::empty()) {
        // As containerd: what the file system has not got is left out, and
        // user attributes are for files and directories alone.
        Err(error @ Errno::OPNOTSUPP) => skip(entry, name, error),
        Err(error @ Errno::PERM) if name.starts_with(b"user.") && !plain => {
            skip(entry, name, error)
        }
        result => return result,
    }
    Ok(())
}

fn skip(entry: &Entry, name: &[u8], error: Errno) {
    log::warn!(
        entry:% = String::from_utf8_lossy(&entry.name),
        attribute:% = String::from_utf8_lossy(name),
        error:%;
        "leave an extended attribute out"
    );
}

/// Sets the times of the inode behind `fd`, which may be of `O_PATH`.
pub(crate) fn set_times(fd: &OwnedFd, times: &Timestamps) -> rustix::io::Result<()> {
    fs::utimensat(CWD, path_of(fd), times, AtFlags::empty()).or_else(|error| match error {
        // The link behind the magic link of an `O_PATH` descriptor.
        Errno::LOOP | Errno::NOENT => fs::utimensat(fd, c"", times, AtFlags::EMPTY_PATH),
        other => Err(other),
    })
}

/// The times of an entry: what was read was not read before it was written,
/// and what cannot be said is 1970 (containerd, `pkg/archive/time.go`).
pub(crate) fn times(entry: &Entry) -> Timestamps {
    let atime = entry.atime.map_or(entry.mtime, |atime| atime.max(entry.mtime));
    Timestamps { last_access: bound(atime), last_modification: bound(entry.mtime) }
}

fn bound(time: Time) -> Timespec {
    // The last second that Go can express in nanoseconds.
    const LAST: i64 = i64::MAX / 1_000_000_000;
    if (0..LAST).contains(&time.seconds) {
        Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() }
    } else {
        Timespec { tv_sec: 0, tv_nsec: 0 }
    }
}

/// One extended attribute of the file behind a descriptor; `None` where it
/// has none.
pub(crate) fn get_xattr(fd: &OwnedFd, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let path = path_of(fd);
    let mut value = vec![0; 1 << 10];
    loop {
        match fs::getxattr(&*path, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok((length > 0).then_some(value));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(Errno::RANGE) if value.len() < 1 << 16 => value.resize(1 << 16, 0),
            Err(error) => return Err(error.into()),
        }
    }
}
