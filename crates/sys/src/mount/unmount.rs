//! Taking mounts away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::mountinfo;
use crate::{Error, Result};

/// How often a busy mount is tried, and how long the pauses are: a process
/// that has just been killed may hold it for a moment.
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Removes one mount. Nothing mounted there, or no such path: success. Links
/// are not followed. `detach` takes it out of the tree although it is in use
/// (`MNT_DETACH`).
///
/// # Errors
/// The system's: `EBUSY` after repeated tries without `detach`.
pub fn unmount(target: &Path, detach: bool) -> Result<()> {
    take_away(target, detach).map(|_| ())
}

/// Removes everything mounted at exactly this path, however many lie on top
/// of each other.
///
/// # Errors
/// As [`unmount`].
pub fn unmount_all(target: &Path, detach: bool) -> Result<()> {
    while take_away(target, detach)? {}
    Ok(())
}

/// Removes everything mounted at or below a path, deepest first, and goes on
/// after failures.
///
/// # Errors
/// The first failure.
pub fn unmount_recursive(target: &Path, detach: bool) -> Result<()> {
    let target = match std::fs::canonicalize(target) {
        Ok(target) => target,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::path("resolve", target, e)),
    };
    // Later mounts come later in the list, and lie on top of earlier ones.
    let mut points: Vec<PathBuf> = mountinfo::read()?
        .into_iter()
        .map(|mount| mount.mount_point)
        .filter(|point| point.starts_with(&target))
        .collect();
    points.reverse();
    points.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().len()));
    let mut failure = Ok(());
    for point in points {
        let result = unmount(&point, detach);
        if failure.is_ok() {
            failure = result;
        }
    }
    failure
}

/// Whether there was something to take away.
fn take_away(target: &Path, detach: bool) -> Result<bool> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    flags.set(MntFlags::MNT_DETACH, detach);
    let mut tries = 0;
    loop {
        match umount2(target, flags) {
            Ok(()) => return Ok(true),
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(false),
            Err(Errno::EINTR) => {}
            Err(Errno::EBUSY) if tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            Err(e) => return Err(Error::path("unmount", target, e)),
        }
    }
}
