//! Copy-on-write root filesystems: the backends that make, mount, measure and
//! remove directories by id.
//!
//! Which snapshot is whose parent, and what it is called, is kept in the
//! index; a backend sees ids alone. Everything here blocks.

use davit_types::{Labels, Mount};

mod btrfs;
pub mod conformance;
mod copy;
mod dirs;
mod eraser;
mod erofs;
mod error;
mod idmap;
mod mkfs;
mod native;
mod overlay;
mod probe;
mod subvolumes;
mod tree;

pub use btrfs::Btrfs;
pub use erofs::{Erofs, ErofsConfig};
pub use error::Error;
pub use native::Native;
pub use overlay::{Overlay, OverlayConfig};

/// What a snapshot's directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnapshotKind {
    /// Can only be looked at.
    View,
    /// Is being written.
    Active,
    /// Is written, and can be a parent.
    Committed,
}

/// Space that a snapshot takes by itself, its parents not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of inodes.
    pub inodes: u64,
    /// Bytes on disk.
    pub size: u64,
}

/// The id of a snapshot's directory: given out by the index, never reused
/// while anything refers to it.
pub type SnapshotId = u64;

/// The label that carries a snapshot's user id mapping,
/// `container:host:length`, comma-separated.
pub const LABEL_UID_MAPPING: &str = "containerd.io/snapshot/uidmapping";
/// The label that carries a snapshot's group id mapping.
pub const LABEL_GID_MAPPING: &str = "containerd.io/snapshot/gidmapping";

/// Whose extended attributes say what a layer of an overlay deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletionMarks {
    /// `trusted.overlay.*`.
    Trusted,
    /// `user.overlay.*`: overlays are mounted with the option `userxattr`.
    User,
}

/// One way of storing snapshots.
///
/// `parents` is always the whole chain, nearest first, and every one of them
/// is committed. `labels` are those of the snapshot itself. A caller calls
/// [`create`](Self::create) before it writes the id to the index, and
/// [`remove`](Self::remove) after it has deleted it from there (or when
/// writing it failed).
pub trait Backend: Send + Sync {
    /// The snapshotter's name, as clients ask for it: `overlayfs`.
    fn name(&self) -> &'static str;

    /// Makes the directory of snapshot `id`. `kind` is `View` or `Active`.
    /// After a failure nothing of it is left.
    fn create(
        &self,
        id: SnapshotId,
        kind: SnapshotKind,
        parents: &[SnapshotId],
        labels: &Labels,
    ) -> Result<(), Error>;

    /// What to mount to see the snapshot. Writes nothing to disk.
    fn mounts(
        &self,
        id: SnapshotId,
        kind: SnapshotKind,
        parents: &[SnapshotId],
        labels: &Labels,
    ) -> Result<Vec<Mount>, Error>;

    /// Measures the snapshot; hard links count once.
    fn usage(&self, id: SnapshotId) -> Result<Usage, Error>;

    /// Says that the active snapshot `id` is written, and measures it. It
    /// keeps its id. A caller does this once at a time, and once more where
    /// the snapshot has stayed active and may have been written to since.
    fn commit(&self, id: SnapshotId) -> Result<Usage, Error>;

    /// Says that the index has `id` as a committed snapshot: what
    /// [`commit`](Self::commit) has made its layer of may go.
    fn committed(&self, id: SnapshotId) -> Result<(), Error> {
        let _ = id;
        Ok(())
    }

    /// Makes the snapshot's directory unreachable at once and removes it.
    /// Succeeds when there is none.
    fn remove(&self, id: SnapshotId) -> Result<(), Error>;

    /// Removes every directory that is neither in `live` nor made by this
    /// process and not yet seen in `live`: what a crash has left over.
    /// Goes on after a failure and reports the first.
    fn cleanup(&self, live: &[SnapshotId]) -> Result<(), Error>;

    /// How a layer marks what it deletes that is written into a snapshot
    /// without parents and put on its parent when it is committed: the
    /// directory of a snapshot then holds what the layer changes and nothing
    /// of those below it. `None` where that cannot be done.
    fn independent_layers(&self) -> Option<DeletionMarks> {
        None
    }

    /// Labels that the backend adds to what clients see of a snapshot.
    fn labels(&self, id: SnapshotId) -> Labels {
        let _ = id;
        Labels::new()
    }
}
