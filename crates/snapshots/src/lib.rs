//! Copy-on-write root filesystems: the backends that make, mount, measure and
//! remove directories by id.
//!
//! Which snapshot is whose parent, and what it is called, is kept in the
//! index; a backend sees ids alone. Everything here blocks.

use std::path::PathBuf;

use davit_types::Mount;

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

/// The id of a snapshot's directory: never reused while anything refers to it.
pub type SnapshotId = u64;

/// One way of storing snapshots.
pub trait Backend: Send + Sync {
    /// The snapshotter's name, as clients ask for it: `overlayfs`.
    fn name(&self) -> &'static str;
}

#[doc(hidden)]
pub type Placeholder = (PathBuf, Mount);
