//! Snapshots, as a namespace sees them (containerd,
//! `core/metadata/snapshot.go` and `core/snapshots/storage`).
//!
//! The graph is in the index; a backend makes, mounts, measures and removes
//! directories by number. A directory is made before a row speaks of it, and
//! removed after the row has gone. No call to a backend is made within a
//! transaction.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use davit_snapshots::{Backend, SnapshotId, SnapshotKind, Usage};
use davit_types::{Labels, Mount, Namespace};
use rusqlite::Connection;

use crate::adaptors::walk_filters;
use crate::objects::{self, Kind, validate_labels};
use crate::{Error, Index, LeaseId, Result, leases};

mod create;
mod remote;
mod rows;
mod turns;

pub use remote::{NewRemote, RemoteCommit, RemoteSnapshot, RemoteSnapshots, Wanted};

/// The label by which a client that unpacks says which committed snapshot it
/// is about to make.
const TARGET: &str = "containerd.io/snapshot.ref";
/// Labels that a backend gets to see begin with this.
const INHERITED: &str = "containerd.io/snapshot/";

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
pub struct Snapshotter {
    index: Arc<Index>,
    backend: Arc<dyn Backend>,
    /// Of several who clean up, one does: what came into the index since the
    /// other has looked is remains to the other.
    cleaning: Mutex<()>,
    commits: turns::Turns,
}

impl fmt::Debug for Snapshotter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshotter").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl Snapshotter {
    /// The view that `index` gives of `backend`.
    pub fn new(index: Arc<Index>, backend: Arc<dyn Backend>) -> Self {
        Self { index, backend, cleaning: Mutex::default(), commits: turns::Turns::default() }
    }

    /// The snapshotter's name: `overlayfs`.
    pub fn name(&self) -> &str {
        self.backend.name()
    }

    /// What is known of a snapshot.
    pub fn stat(&self, namespace: &Namespace, key: &str) -> Result<SnapshotInfo> {
        let row = self.look_up(namespace, key)?;
        Ok(self.with_backend_labels(row.directory, row.info))
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
        if key.is_empty() {
            return Err(Error::Refused("invalid argument".into()));
        }
        let (namespace, name, key) = (namespace.clone(), self.name().to_owned(), key.to_owned());
        let (labels, paths) = (labels.clone(), paths.to_vec());
        let row = self.index.loosen(move |connection| {
            relabel(connection, &namespace, &name, &key, &labels, &paths)
        })?;
        Ok(self.with_backend_labels(row.directory, row.info))
    }

    /// The space that a snapshot takes by itself: measured now when it is
    /// active, at its commit otherwise.
    pub fn usage(&self, namespace: &Namespace, key: &str) -> Result<Usage> {
        let row = self.look_up(namespace, key)?;
        match row.info.kind {
            SnapshotKind::Active => Ok(self.backend.usage(row.directory)?),
            SnapshotKind::View | SnapshotKind::Committed => Ok(row.usage),
        }
    }

    /// What to mount to see an active snapshot or a view.
    pub fn mounts(&self, namespace: &Namespace, key: &str) -> Result<Vec<Mount>> {
        let (row, parents) = self.index.look(|connection| {
            let row = rows::require(connection, namespace, self.name(), key)?;
            let parents = rows::chain(connection, row.parent)?;
            Ok((row, parents))
        })?;
        if row.info.kind == SnapshotKind::Committed {
            return Err(Error::FailedPrecondition(format!(
                "failed to get active mount: requested snapshot {key} not active nor view"
            )));
        }
        let labels = inherited(&row.info.labels);
        Ok(self.backend.mounts(row.directory, row.info.kind, &parents, &labels)?)
    }

    /// Makes the active snapshot `key` the committed snapshot `name`, with
    /// `labels` in place of its own. `parent` (or empty) becomes the parent
    /// of one that had none.
    ///
    /// # Errors
    /// `AlreadyExists` when there is a snapshot `name`; it is then held by
    /// `lease` all the same, and the active one stays.
    pub fn commit(
        &self,
        namespace: &Namespace,
        name: &str,
        key: &str,
        parent: &str,
        labels: &Labels,
        lease: Option<&LeaseId>,
    ) -> Result<()> {
        validate_labels(labels, "info.Labels")?;
        require_key(name)?;
        let _turn = self.commits.take(namespace, key);
        if self.hold_existing(namespace, name, lease)? {
            return Err(Error::AlreadyExists(format!("snapshot {name:?}")));
        }
        let mut commit = rows::Commit {
            namespace: namespace.clone(),
            snapshotter: self.name().to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            usage: Usage::default(),
            lease: lease.cloned(),
        };
        // What is refused is refused before the backend does what it may be
        // unable to undo.
        let directory = self.index.look(|connection| commit.check(connection))?;
        commit.usage = self.backend.commit(directory)?;
        let mut labels = labels.clone();
        let done = self.index.change(move |connection| commit.make(connection, &mut labels))?;
        if !done {
            return Err(Error::AlreadyExists(format!("snapshot {name:?}")));
        }
        if let Err(error) = self.backend.committed(directory) {
            let snapshotter = self.name();
            log::warn!(snapshotter, directory, error:%; "what a layer was made of stays behind");
        }
        Ok(())
    }

    /// Removes a snapshot, which must have no children.
    pub fn remove(&self, namespace: &Namespace, key: &str, lease: Option<&LeaseId>) -> Result<()> {
        let directory = delete(&self.index, self.name(), namespace, key, lease)?;
        self.remove_directory(directory);
        Ok(())
    }

    /// Those that any of `filters` matches, all when there is none, by name.
    pub fn list(&self, namespace: &Namespace, filters: &[String]) -> Result<Vec<SnapshotInfo>> {
        let filters = walk_filters(filters)?;
        let rows =
            self.index.look_long(|connection| rows::all(connection, namespace, self.name()))?;
        Ok(rows
            .into_iter()
            .map(|(directory, info)| self.with_backend_labels(directory, info))
            .filter(|info| filters.matches(info))
            .collect())
    }

    /// Removes the directories that a crash has left without a snapshot.
    pub fn cleanup(&self) -> Result<()> {
        let _turn = self.cleaning.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.index.look(|connection| rows::directories(connection, self.name()))?;
        Ok(self.backend.cleanup(&live)?)
    }

    /// How many bytes a directory takes; 0 when that cannot be found out.
    pub(crate) fn measure(&self, directory: SnapshotId) -> u64 {
        self.backend.usage(directory).map_or(0, |usage| usage.size)
    }

    /// Removes a directory that no row speaks of any more. What cannot be
    /// removed now, [`cleanup`](Self::cleanup) will find.
    pub(crate) fn remove_directory(&self, directory: SnapshotId) {
        if let Err(error) = self.backend.remove(directory) {
            let snapshotter = self.name();
            log::warn!(snapshotter, directory, error:%; "a snapshot's directory stays behind");
        }
    }

    fn look_up(&self, namespace: &Namespace, key: &str) -> Result<rows::Snapshot> {
        self.index.look(|connection| rows::require(connection, namespace, self.name(), key))
    }

    fn hold_existing(
        &self,
        namespace: &Namespace,
        key: &str,
        lease: Option<&LeaseId>,
    ) -> Result<bool> {
        hold_existing(&self.index, self.name(), namespace, key, lease)
    }

    /// Adds what the backend says of a snapshot; the client's labels win.
    fn with_backend_labels(&self, directory: SnapshotId, mut info: SnapshotInfo) -> SnapshotInfo {
        for (key, value) in self.backend.labels(directory) {
            info.labels.entry(key).or_insert(value);
        }
        info
    }
}

/// Makes `lease` hold the snapshot `key`, if there is one; whether there is.
fn hold_existing(
    index: &Index,
    snapshotter: &str,
    namespace: &Namespace,
    key: &str,
    lease: Option<&LeaseId>,
) -> Result<bool> {
    let exists = |connection: &Connection, namespace: &Namespace, name: &str, key: &str| {
        rows::find(connection, namespace, name, key).map(|row| row.is_some())
    };
    let found = index.look(|connection| exists(connection, namespace, snapshotter, key))?;
    if !found || lease.is_none() {
        return Ok(found);
    }
    let (namespace, key, lease) = (namespace.clone(), key.to_owned(), lease.cloned());
    let name = snapshotter.to_owned();
    index.change(move |connection| {
        let found = exists(connection, &namespace, &name, &key)?;
        if found {
            let full = rows::object_key(&name, &key);
            leases::hold(connection, &namespace, lease.as_ref(), Kind::Snapshot, &full)?;
        }
        Ok(found)
    })
}

/// Refuses an empty key, as the store behind containerd's does.
fn require_key(key: &str) -> Result<()> {
    if key.is_empty() { Err(Error::Unknown("key required".into())) } else { Ok(()) }
}

fn require_active(row: &rows::Snapshot, key: &str) -> Result<()> {
    if row.info.kind == SnapshotKind::Active {
        return Ok(());
    }
    Err(Error::FailedPrecondition(format!(
        "failed to commit snapshot {key}: snapshot {key:?} is not active"
    )))
}

/// Deletes the row of a snapshot, which must have no children; the number of
/// its directory.
fn delete(
    index: &Index,
    snapshotter: &str,
    namespace: &Namespace,
    key: &str,
    lease: Option<&LeaseId>,
) -> Result<SnapshotId> {
    let (namespace, lease) = (namespace.clone(), lease.cloned());
    let (name, key) = (snapshotter.to_owned(), key.to_owned());
    index.loosen(move |connection| {
        let row = rows::require(connection, &namespace, &name, &key)?;
        if rows::has_children(connection, row.object)? {
            return Err(Error::FailedPrecondition("cannot remove snapshot with child".into()));
        }
        let full = rows::object_key(&name, &key);
        objects::delete(connection, &namespace, Kind::Snapshot, &full)?;
        leases::release(connection, &namespace, lease.as_ref(), Kind::Snapshot, &full)?;
        Ok(row.directory)
    })
}

/// Replaces the labels of a snapshot's row as `paths` say, and answers it.
fn relabel(
    connection: &Connection,
    namespace: &Namespace,
    snapshotter: &str,
    key: &str,
    labels: &Labels,
    paths: &[String],
) -> Result<rows::Snapshot> {
    let mut row = rows::require(connection, namespace, snapshotter, key)?;
    set_labels(&mut row.info.labels, key, labels, paths)?;
    row.info.updated_at = SystemTime::now();
    objects::touch(connection, row.object, row.info.updated_at)?;
    rows::describe(connection, snapshotter, row.object, &row.info.parent, &mut row.info.labels)?;
    Ok(row)
}

fn set_labels(current: &mut Labels, key: &str, labels: &Labels, paths: &[String]) -> Result<()> {
    objects::update_labels(current, labels, paths, |path| {
        Error::InvalidArgument(format!("cannot update {path:?} field on snapshot {key:?}"))
    })?;
    validate_labels(current, "info.Labels")
}

/// The labels that a backend gets to see.
fn inherited(labels: &Labels) -> Labels {
    let seen = |key: &&String| key.as_str() == TARGET || key.starts_with(INHERITED);
    labels.iter().filter(|(key, _)| seen(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
}
