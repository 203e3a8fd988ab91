//! Snapshots by overlayfs: `snapshots/<id>/{fs,work}`.

use std::path::Path;

use davit_types::{Labels, Mount};

use crate::{Backend, Error, SnapshotId, SnapshotKind, Usage};

/// How overlay snapshots are made; the names are those of containerd's
/// configuration (`plugins."io.containerd.snapshotter.v1.overlayfs"`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverlayConfig {
    /// `mount_options`: further options for every overlay mount.
    pub mount_options: Vec<String>,
    /// `upperdir_label`: tell clients where a snapshot's changes are.
    pub upperdir_label: bool,
    /// `slow_chown`: accept mapped snapshots although the kernel cannot map
    /// the mount, and chown a copy instead.
    pub slow_chown: bool,
}

/// The backend `overlayfs`.
#[derive(Debug)]
pub struct Overlay {}

impl Overlay {
    /// Opens the backend below `root`, which is made when it is missing, and
    /// tries out whether an overlay can be mounted on it.
    pub fn open(root: &Path, config: OverlayConfig) -> Result<Self, Error> {
        let _ = (root, config);
        todo!()
    }
}

impl Backend for Overlay {
    fn name(&self) -> &'static str {
        "overlayfs"
    }

    fn create(
        &self,
        _id: SnapshotId,
        _kind: SnapshotKind,
        _parents: &[SnapshotId],
        _labels: &Labels,
    ) -> Result<(), Error> {
        todo!()
    }

    fn mounts(
        &self,
        _id: SnapshotId,
        _kind: SnapshotKind,
        _parents: &[SnapshotId],
        _labels: &Labels,
    ) -> Result<Vec<Mount>, Error> {
        todo!()
    }

    fn usage(&self, _id: SnapshotId) -> Result<Usage, Error> {
        todo!()
    }

    fn commit(&self, _id: SnapshotId) -> Result<Usage, Error> {
        todo!()
    }

    fn remove(&self, _id: SnapshotId) -> Result<(), Error> {
        todo!()
    }

    fn cleanup(&self, _live: &[SnapshotId]) -> Result<(), Error> {
        todo!()
    }
}
