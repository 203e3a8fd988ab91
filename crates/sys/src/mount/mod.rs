//! Mounts, as containerd's `core/mount` makes and removes them.

use std::path::Path;

use davit_types::Mount;

use crate::Result;

/// Makes one mount at `target`, or below it when the mount names a target of
/// its own.
///
/// Options are fstab's: words that are flags become flags, the rest goes to
/// the filesystem. A read-only bind mount is made in two steps, as the kernel
/// wants it. Propagation (`rprivate`, `rslave`, …) is set afterwards. `loop`
/// attaches the source to a free loop device first. `uidmap=`/`gidmap=` map
/// owners; for overlays the lower layers are mapped. Options starting with
/// `X-containerd.` are for containerd's own use and dropped. An overlay whose
/// layers' paths do not fit into a page is mounted all the same.
///
/// # Errors
/// The system's, naming the target; [`crate::Error::MountOption`] for options
/// without meaning. Nothing is left mounted after an error.
pub fn mount(_mount: &Mount, _target: &Path) -> Result<()> {
    todo!()
}

/// Makes all mounts, in order, over the same target; after an error those
/// already made are removed.
///
/// # Errors
/// As [`mount`].
pub fn mount_all(_mounts: &[Mount], _target: &Path) -> Result<()> {
    todo!()
}

/// Removes one mount. Nothing mounted there, or no such path: success.
/// `detach` takes it out of the tree although it is in use (`MNT_DETACH`).
///
/// # Errors
/// The system's: `EBUSY` after repeated tries without `detach`.
pub fn unmount(_target: &Path, _detach: bool) -> Result<()> {
    todo!()
}

/// Removes everything mounted at exactly this path, however many lie on top
/// of each other.
///
/// # Errors
/// As [`unmount`].
pub fn unmount_all(_target: &Path, _detach: bool) -> Result<()> {
    todo!()
}

/// Removes everything mounted at or below a path, deepest first, and goes on
/// after failures.
///
/// # Errors
/// The last failure.
pub fn unmount_recursive(_target: &Path, _detach: bool) -> Result<()> {
    todo!()
}
