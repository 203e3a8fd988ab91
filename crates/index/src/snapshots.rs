//! Snapshots, as a namespace sees them (containerd,
//! `core/metadata/snapshot.go` and `core/snapshots/storage`).

use std::sync::Arc;
use std::time::SystemTime;

use davit_snapshots::{Backend, SnapshotKind, Usage};
use davit_types::{Labels, Mount, Namespace};

use crate::{Index, LeaseId, Result};

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its key while it is active or a view, its name once committed.
    pub name: String,
    /// What it was made from, or empty.
    pub parent: String,
    /// What can be done with it.
    pub kind: SnapshotKind,
    /// What clients attached, and what the backend adds.
    pub labels: Labels,
    /// When it was made, or committed.
    pub created_at: SystemTime,
    /// When it was last changed.
    pub updated_at: SystemTime,
}

/// The snapshots of all namespaces in one backend.
pub struct Snapshotter {}

impl Snapshotter {
    /// The view that `index` gives of `backend`.
    pub fn new(index: Arc<Index>, backend: Arc<dyn Backend>) -> Self {
        let _ = (index, backend);
        todo!()
    }

    /// The snapshotter's name: `overlayfs`.
    pub fn name(&self) -> &str {
        todo!()
    }

    /// What is known of a snapshot.
    pub fn stat(&self, namespace: &Namespace, key: &str) -> Result<SnapshotInfo> {
        let _ = (namespace, key);
        todo!()
    }

    /// Replaces a snapshot's labels; with `paths` (`labels`, `labels.KEY`)
    /// those named alone. Answers the result.
    pub fn update(
        &self,
        namespace: &Namespace,
        key: &str,
        labels: &Labels,
        paths: &[String],
    ) -> Result<SnapshotInfo> {
        let _ = (namespace, key, labels, paths);
        todo!()
    }

    /// The space that a snapshot takes by itself: measured now when it is
    /// active, at its commit otherwise.
    pub fn usage(&self, namespace: &Namespace, key: &str) -> Result<Usage> {
        let _ = (namespace, key);
        todo!()
    }

    /// What to mount to see an active snapshot or a view.
    pub fn mounts(&self, namespace: &Namespace, key: &str) -> Result<Vec<Mount>> {
        let _ = (namespace, key);
        todo!()
    }

    /// Makes a snapshot that can be written to, from `parent` (or empty), and
    /// answers its mounts.
    pub fn prepare(
        &self,
        namespace: &Namespace,
        key: &str,
        parent: &str,
        labels: &Labels,
        lease: Option<&LeaseId>,
    ) -> Result<Vec<Mount>> {
        let _ = (namespace, key, parent, labels, lease);
        todo!()
    }

    /// Makes a snapshot that can be looked at, from `parent` (or empty), and
    /// answers its mounts.
    pub fn view(
        &self,
        namespace: &Namespace,
        key: &str,
        parent: &str,
        labels: &Labels,
        lease: Option<&LeaseId>,
    ) -> Result<Vec<Mount>> {
        let _ = (namespace, key, parent, labels, lease);
        todo!()
    }

    /// Makes the active snapshot `key` the committed snapshot `name`, with
    /// `labels` in place of its own. `parent` (or empty) becomes the parent
    /// of one that had none.
    pub fn commit(
        &self,
        namespace: &Namespace,
        name: &str,
        key: &str,
        parent: &str,
        labels: &Labels,
        lease: Option<&LeaseId>,
    ) -> Result<()> {
        let _ = (namespace, name, key, parent, labels, lease);
        todo!()
    }

    /// Removes a snapshot, which must have no children.
    pub fn remove(&self, namespace: &Namespace, key: &str, lease: Option<&LeaseId>) -> Result<()> {
        let _ = (namespace, key, lease);
        todo!()
    }

    /// Those that any of `filters` matches, all when there is none, by name.
    pub fn list(&self, namespace: &Namespace, filters: &[String]) -> Result<Vec<SnapshotInfo>> {
        let _ = (namespace, filters);
        todo!()
    }

    /// Removes the directories that a crash has left without a snapshot.
    pub fn cleanup(&self) -> Result<()> {
        todo!()
    }
}
