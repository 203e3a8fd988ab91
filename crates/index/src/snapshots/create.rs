//! Making snapshots.

use std::time::SystemTime;

use davit_snapshots::{DeletionMarks, SnapshotId, SnapshotKind};
use davit_types::{Labels, Mount, Namespace};
use rusqlite::Connection;

use super::{Snapshotter, TARGET, inherited, require_key, rows};
use crate::objects::validate_labels;
use crate::{Error, LeaseId, Result};

impl Snapshotter {
    /// Makes a snapshot that can be written to, from `parent` (or empty), and
    /// answers its mounts.
    ///
    /// # Errors
    /// `AlreadyExists` when there is a snapshot `key`, or the one that the
    /// label `containerd.io/snapshot.ref` names; it is then held by `lease`
    /// all the same.
    pub fn prepare(
        &self,
        namespace: &Namespace,
        key: &str,
        parent: &str,
        labels: &Labels,
        lease: Option<&LeaseId>,
    ) -> Result<Vec<Mount>> {
        self.create(namespace, key, parent, SnapshotKind::Active, labels, lease)
    }

    /// Makes a snapshot that can be looked at, from `parent` (or empty), and
    /// answers its mounts.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn view(
        &self,
        namespace: &Namespace,
        key: &str,
        parent: &str,
        labels: &Labels,
        lease: Option<&LeaseId>,
    ) -> Result<Vec<Mount>> {
        self.create(namespace, key, parent, SnapshotKind::View, labels, lease)
    }

    /// How deletions are marked in a layer that is written into a snapshot
    /// without a parent, which gets one when it is committed; `None` where
    /// that cannot be done.
    pub fn independent_layers(&self) -> Option<DeletionMarks> {
        self.backend.independent_layers()
    }

    /// What to mount to write to the active snapshot `key`, which has no
    /// parent, as if it had been made from `parent`.
    pub fn mounts_over(
        &self,
        namespace: &Namespace,
        key: &str,
        parent: &str,
    ) -> Result<Vec<Mount>> {
        let (row, parents) = self.index.look(|connection| {
            let row = rows::require(connection, namespace, self.name(), key)?;
            let parent = rows::require(connection, namespace, self.name(), parent)?;
            Ok((row, rows::chain(connection, Some(parent.object))?))
        })?;
        let labels = inherited(&row.info.labels);
        Ok(self.backend.mounts(row.directory, SnapshotKind::Active, &parents, &labels)?)
    }

    fn create(
        &self,
        namespace: &Namespace,
        key: &str,
        parent: &str,
        kind: SnapshotKind,
        labels: &Labels,
        lease: Option<&LeaseId>,
    ) -> Result<Vec<Mount>> {
        validate_labels(labels, "info.Labels")?;
        require_key(key)?;
        if let Some(target) = labels.get(TARGET).filter(|target| !target.is_empty())
            && self.hold_existing(namespace, target, lease)?
        {
            return Err(Error::AlreadyExists(format!("target snapshot {target:?}")));
        }
        if self.hold_existing(namespace, key, lease)? {
            return Err(Error::AlreadyExists(format!("snapshot {key:?}")));
        }
        let parents = self.index.look(|connection| {
            parent_row(connection, namespace, self.name(), parent)
                .and_then(|parent| rows::chain(connection, parent))
        })?;
        let directory = self.index.number()?;
        let seen = inherited(labels);
        self.backend.create(directory, kind, &parents, &seen)?;
        let add = || {
            let mounts = self.backend.mounts(directory, kind, &parents, &seen)?;
            self.add_row(namespace, key, parent, kind, directory, labels, lease)?;
            Ok(mounts)
        };
        add().inspect_err(|_| self.remove_directory(directory))
    }

    #[expect(clippy::too_many_arguments, reason = "a row has as many columns")]
    fn add_row(
        &self,
        namespace: &Namespace,
        key: &str,
        parent: &str,
        kind: SnapshotKind,
        directory: SnapshotId,
        labels: &Labels,
        lease: Option<&LeaseId>,
    ) -> Result<()> {
        let new = rows::New {
            namespace: namespace.clone(),
            snapshotter: self.name().to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            kind,
            directory,
            lease: lease.cloned(),
        };
        let mut labels = labels.clone();
        let added = self.index.change(move |connection| {
            // It was there a moment ago, and is looked up again because it
            // can have gone since.
            let parent = parent_row(connection, &new.namespace, &new.snapshotter, &new.parent)?;
            new.add(connection, parent, SystemTime::now(), &mut labels)
        })?;
        if added { Ok(()) } else { Err(Error::AlreadyExists(format!("snapshot {key:?}"))) }
    }
}

/// The row of the snapshot that is to be a parent.
pub(super) fn parent_row(
    connection: &Connection,
    namespace: &Namespace,
    snapshotter: &str,
    parent: &str,
) -> Result<Option<i64>> {
    if parent.is_empty() {
        return Ok(None);
    }
    let row = rows::find(connection, namespace, snapshotter, parent)?
        .ok_or_else(|| Error::NotFound(format!("parent snapshot {parent} does not exist")))?;
    if row.info.kind != SnapshotKind::Committed {
        return Err(Error::InvalidArgument(format!(
            "failed to create snapshot: parent {parent:?} is not committed snapshot"
        )));
    }
    Ok(Some(row.object))
}
