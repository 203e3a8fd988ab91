//! Taking mounts away.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;

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
    each_below(target, |mount| unmount(&mount.mount_point, detach))
}

/// Overlays that are out of the tree and not let go of yet. Dropping it can
/// take long and cannot fail.
#[derive(Debug, Default)]
pub struct Lingering(Vec<OwnedFd>);

/// Removes everything mounted at or below a path, as [`unmount_recursive`]
/// does, busy or not, but puts off what takes long: with the last user of an
/// overlay the kernel brings all of the filesystem below it to the disk,
/// whoever wrote to that (`ovl_sync_fs`). That happens when the answer is
/// dropped; until then the overlay has no path any more, but its directories
/// are in use. Other filesystems are gone on return: their device may be
/// wanted.
///
/// # Errors
/// The first failure.
pub fn unmount_early(target: &Path) -> Result<Lingering> {
    let mut lingering = Lingering::default();
    each_below(target, |mount| {
        let overlay = mount.kind == "overlay";
        if overlay {
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
            // Without it the call below takes as long as it takes.
            lingering.0.extend(open(&mount.mount_point, flags, Mode::empty()));
        }
        unmount(&mount.mount_point, overlay).or_else(|_| unmount(&mount.mount_point, true))
    })?;
    Ok(lingering)
}

/// Does something to every mount at or below a path, deepest first; the first
/// failure, after the last mount.
fn each_below(
    target: &Path,
    mut action: impl FnMut(&mountinfo::MountPoint) -> Result<()>,
) -> Result<()> {
    let target = match std::fs::canonicalize(target) {
        Ok(target) => target,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::path("resolve", target, e)),
    };
    // Later mounts come later in the list, and lie on top of earlier ones.
    let mut mounts = mountinfo::read()?;
    mounts.retain(|mount| mount.mount_point.starts_with(&target));
    mounts.reverse();
    mounts.sort_by_key(|mount| std::cmp::Reverse(mount.mount_point.as_os_str().len()));
    let mut failure = Ok(());
    for mount in &mounts {
        let result = action(mount);
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
