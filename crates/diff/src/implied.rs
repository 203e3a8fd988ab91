//! Directories that an archive only implies, made as they are in the layers
//! below: at once where those are known, or later.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fd::OwnedFd;
use rustix::fs::{self, Mode, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::Error;
use crate::attributes::set_times;
use crate::root::{Components, Root, components, join};

/// The most bytes that the paths may have together, which are held in memory
/// and sent to whoever settles them: some 200,000 directories.
const BYTES_MAX: usize = 8 << 20;

/// What was made without being in the archive, by its inode, to be settled
/// when the layers below are there.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    /// With the place in the order in which they were made.
    made: HashMap<u64, (u64, Components)>,
    next: u64,
    bytes: usize,
}

impl Unsettled {
    /// Takes down a directory that was just made at `path`.
    pub fn add(&mut self, inode: u64, path: &[CString]) {
        self.bytes += path.iter().map(|name| name.as_bytes().len() + 1).sum::<usize>();
        self.made.insert(inode, (self.next, path.to_vec()));
        self.next += 1;
    }

    /// The archive has an entry for this inode after all, which says what it
    /// is to look like.
    pub fn forget(&mut self, inode: u64) {
        self.made.remove(&inode);
    }

    /// An error when there are too many to remember.
    pub fn check(&self) -> Result<(), Error> {
        if self.bytes <= BYTES_MAX {
            return Ok(());
        }
        let what = "bytes of names of directories that are only implied";
        Err(Error::Limit { what, limit: BYTES_MAX as u64 })
    }

    /// Those that are still there, parents first.
    pub fn finish(self, root: &Root) -> Vec<PathBuf> {
        let same = |inode: u64, path: &[CString]| {
            let stat = root.open_plain(path).and_then(|dir| Ok(fs::fstat(dir)?));
            stat.is_ok_and(|stat| stat.st_ino == inode)
        };
        let mut left: Vec<_> =
            self.made.into_iter().filter(|(inode, (_, path))| same(*inode, path)).collect();
        left.sort_unstable_by_key(|(_, (order, _))| *order);
        let path = |path: &[CString]| PathBuf::from(OsStr::from_bytes(&join(path)));
        left.into_iter().map(|(_, (_, parts))| path(&parts)).collect()
    }
}

/// Gives each directory in `paths` what it has in the layers below.
pub(crate) fn settle(root: &Root, lower: &[Root], paths: &[PathBuf]) -> Result<(), Error> {
    for path in paths {
        let name = path.as_os_str().as_bytes();
        let settled = components(name)
            .ok_or_else(|| Errno::INVAL.into())
            .and_then(|parts| settle_one(root, lower, &parts));
        settled.map_err(|source| Error::Entry {
            entry: String::from_utf8_lossy(name).into_owned(),
            operation: "settle",
            source,
        })?;
    }
    Ok(())
}

fn settle_one(root: &Root, lower: &[Root], path: &[CString]) -> io::Result<()> {
    let dir = root.open_plain(path)?;
    let Some(model) = lower_dir(lower, path)? else { return Ok(()) };
    let times = imitate(&model, &dir)?;
    Ok(set_times(&dir, &times)?)
}

/// The directory that shows at `path` in the lower layers; `None` when there
/// is none, or something else hides it.
pub(crate) fn lower_dir(lower: &[Root], path: &[CString]) -> io::Result<Option<OwnedFd>> {
    for layer in lower {
        match layer.open_dir(path) {
            Ok(dir) => return Ok(Some(dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Gives `made` the owner, mode and attributes of `model`; answers its times.
pub(crate) fn imitate(model: &OwnedFd, made: &OwnedFd) -> io::Result<Timestamps> {
    let stat = fs::fstat(model)?;
    let owner = (fs::Uid::from_raw(stat.st_uid), fs::Gid::from_raw(stat.st_gid));
    fs::fchown(made, Some(owner.0), Some(owner.1))?;
    let mut names = vec![0; 1 << 16];
    let length = match fs::flistxattr(model, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        result => result?,
    };
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        // How the lower layer hides its own lower layers is not about us.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let mut value = vec![0; 1 << 16];
        let length = fs::fgetxattr(model, name, &mut value[..])?;
        match fs::fsetxattr(made, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    fs::fchmod(made, Mode::from_raw_mode(stat.st_mode))?;
    let time = |seconds, nanos: u64| fs::Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanos).unwrap_or(0),
    };
    Ok(Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    })
}
