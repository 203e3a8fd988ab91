//! Directories that an archive only implies, made as they are in the layers
//! below.

use std::ffi::CString;
use std::io;

use rustix::fd::OwnedFd;
use rustix::fs::{self, Mode, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::root::Root;

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
