//! Snapshots by copying: `snapshots/<id>`.

use std::path::Path;

use davit_types::{Labels, Mount};

use crate::{Backend, Error, SnapshotId, SnapshotKind, Usage};

/// The backend `native`.
#[derive(Debug)]
pub struct Native {}

impl Native {
    /// Opens the backend below `root`, which is made when it is missing.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let _ = root;
        todo!()
    }
}

impl Backend for Native {
    fn name(&self) -> &'static str {
        "native"
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
