//! Snapshots of a snapshotter that runs elsewhere and keeps a graph of its
//! own, under names that the index gives (containerd, `core/metadata/
//! snapshot.go`): `NAMESPACE/NUMBER/KEY`, where the number is never given
//! twice.
//!
//! Nothing here calls the snapshotter. What takes a call between two looks at
//! the index is two functions here, and the caller is in between.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use davit_snapshots::{SnapshotKind, Usage};
use davit_types::{Labels, Namespace};
use rusqlite::Connection;

use super::create::parent_row;
use super::{SnapshotInfo, TARGET, inherited, relabel, require_active, require_key, rows};
use crate::adaptors::walk_filters;
use crate::objects::{self, validate_labels};
use crate::{Error, Index, LeaseId, Result};

/// The rows of one such snapshotter's snapshots.
#[derive(Clone, Debug)]
pub struct RemoteSnapshots {
    index: Arc<Index>,
    name: String,
}

/// A snapshot, and what the snapshotter calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteSnapshot {
    /// What the index knows.
    pub info: SnapshotInfo,
    /// Its name there.
    pub remote: String,
}

/// What the snapshotter is to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name there.
    pub remote: String,
    /// Its parent's name there, or empty.
    pub remote_parent: String,
    /// What the snapshotter gets to see of its labels.
    pub labels: Labels,
    /// The committed snapshot that it is about to become, or empty.
    pub target: String,
}

/// A snapshot that the snapshotter has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRemote {
    /// The client's name for it.
    pub key: String,
    /// The client's name for its parent, or empty.
    pub parent: String,
    /// What can be done with it.
    pub kind: SnapshotKind,
    /// What the client attached.
    pub labels: Labels,
    /// Its name there.
    pub remote: String,
    /// Its parent's name there, or empty.
    pub remote_parent: String,
    /// When it was made.
    pub created_at: SystemTime,
    /// When it was last changed.
    pub updated_at: SystemTime,
}

/// A commit that the snapshotter is to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCommit {
    /// What it calls the active snapshot.
    pub from: String,
    /// What it is to call the committed one.
    pub to: String,
    /// What it calls the parent that the snapshot is put on; empty when it
    /// keeps its own.
    pub onto: String,
    /// What the snapshotter gets to see of its labels.
    pub labels: Labels,
}

impl RemoteSnapshots {
    /// The rows in `index` of the snapshotter `name`.
    pub fn new(index: Arc<Index>, name: String) -> Self {
        Self { index, name }
    }

    /// The snapshotter's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is known of a snapshot.
    pub fn find(&self, namespace: &Namespace, key: &str) -> Result<RemoteSnapshot> {
        self.index.look(|connection| {
            let row = rows::require(connection, namespace, &self.name, key)?;
            let remote = rows::remote_name(connection, row.object)?;
            Ok(RemoteSnapshot { info: row.info, remote })
        })
    }

    /// Those that any of `filters` matches, all when there is none, by name;
    /// `complete` adds what the snapshotter knows of each, or drops it.
    pub fn list(
        &self,
        namespace: &Namespace,
        filters: &[String],
        complete: impl Fn(RemoteSnapshot) -> Option<SnapshotInfo>,
    ) -> Result<Vec<SnapshotInfo>> {
        let filters = walk_filters(filters)?;
        let (known, mut names) = self.index.look(|connection| {
            let known = rows::all(connection, namespace, &self.name)?;
            Ok((known, rows::remote_names(connection, &self.name)?))
        })?;
        Ok(known
            .into_iter()
            .filter_map(|(number, info)| {
                complete(RemoteSnapshot { info, remote: names.remove(&number)? })
            })
            .filter(|info| filters.matches(info))
            .collect())
    }

    /// What the snapshotter calls the snapshots of all namespaces.
    pub fn names(&self) -> Result<HashSet<String>> {
        let names = self.index.look(|connection| rows::remote_names(connection, &self.name))?;
        Ok(names.into_values().collect())
    }

    /// Whether any namespace has what the snapshotter calls `remote`.
    pub fn knows(&self, remote: &str) -> Result<bool> {
        self.index.look(|connection| rows::is_remote_name(connection, &self.name, remote))
    }

    /// The namespaces that there are.
    pub fn namespaces(&self) -> Result<Vec<Namespace>> {
        let names = self.index.namespaces().list()?;
        Ok(names.into_iter().map(|(name, _)| name).collect())
    }

    /// Says what the snapshotter is to make for a new snapshot `key`.
    ///
    /// # Errors
    /// As those of [`Snapshotter::prepare`](super::Snapshotter::prepare).
    pub fn begin(
        &self,
        namespace: &Namespace,
        key: &str,
        parent: &str,
        labels: &Labels,
        lease: Option<&LeaseId>,
    ) -> Result<Wanted> {
        validate_labels(labels, "info.Labels")?;
        require_key(key)?;
        let target = labels.get(TARGET).cloned().unwrap_or_default();
        if !target.is_empty() && self.hold_existing(namespace, &target, lease)? {
            return Err(Error::AlreadyExists(format!("target snapshot {target:?}")));
        }
        if self.hold_existing(namespace, key, lease)? {
            return Err(Error::AlreadyExists(format!("snapshot {key:?}")));
        }
        let remote_parent =
            self.index.look(|connection| self.parent(connection, namespace, parent))?.1;
        let remote = self.new_name(namespace, key)?;
        Ok(Wanted { remote, remote_parent, labels: inherited(labels), target })
    }

    /// Adds the row of what the snapshotter has made, or had already.
    ///
    /// # Errors
    /// `AlreadyExists` when there is a snapshot `key`, which is then held by
    /// `lease` all the same; `InvalidArgument` when what the snapshotter has
    /// stands on another parent than was asked for.
    pub fn add(
        &self,
        namespace: &Namespace,
        new: NewRemote,
        lease: Option<&LeaseId>,
    ) -> Result<()> {
        let row = rows::New {
            namespace: namespace.clone(),
            snapshotter: self.name.clone(),
            key: new.key.clone(),
            parent: new.parent.clone(),
            kind: new.kind,
            directory: self.index.number()?,
            lease: lease.cloned(),
        };
        let (this, key) = (self.clone(), new.key.clone());
        let added = self.index.change(move |connection| this.add_row(connection, &row, new))?;
        if added { Ok(()) } else { Err(Error::AlreadyExists(format!("snapshot {key:?}"))) }
    }

    fn add_row(&self, connection: &Connection, row: &rows::New, new: NewRemote) -> Result<bool> {
        let (parent, remote_parent) = self.parent(connection, &row.namespace, &new.parent)?;
        if !new.parent.is_empty() && remote_parent != new.remote_parent {
            let NewRemote { parent, key, .. } = new;
            let words = format!("mismatched parent {parent} from target {key}");
            return Err(Error::InvalidArgument(words));
        }
        let mut labels = new.labels;
        if !row.add(connection, parent, new.created_at, &mut labels)? {
            return Ok(false);
        }
        let added = rows::require(connection, &row.namespace, &self.name, &new.key)?;
        objects::touch(connection, added.object, new.updated_at)?;
        rows::set_remote_name(connection, added.object, &new.remote)?;
        Ok(true)
    }

    /// Says what the snapshotter is to do so that the active snapshot `key`
    /// becomes the committed snapshot `name`.
    ///
    /// # Errors
    /// As those of [`Snapshotter::commit`](super::Snapshotter::commit).
    pub fn begin_commit(
        &self,
        namespace: &Namespace,
        (name, key, parent): (&str, &str, &str),
        labels: &Labels,
        lease: Option<&LeaseId>,
    ) -> Result<RemoteCommit> {
        validate_labels(labels, "info.Labels")?;
        require_key(name)?;
        if self.hold_existing(namespace, name, lease)? {
            return Err(Error::AlreadyExists(format!("snapshot {name:?}")));
        }
        let commit = self.commit_of(namespace, (name, key, parent), None);
        let (from, onto) = self.index.look(|connection| {
            let row = rows::require(connection, namespace, &self.name, key)?;
            require_active(&row, key)?;
            let onto = match commit.parent(connection, &row)? {
                (Some(parent), _) if row.parent.is_none() => rows::remote_name(connection, parent)?,
                _ => String::new(),
            };
            Ok((rows::remote_name(connection, row.object)?, onto))
        })?;
        let to = self.new_name(namespace, name)?;
        Ok(RemoteCommit { from, to, onto, labels: inherited(labels) })
    }

    /// Makes the row that of a committed snapshot, which the snapshotter
    /// calls `remote`.
    ///
    /// # Errors
    /// As [`begin_commit`](Self::begin_commit).
    pub fn finish_commit(
        &self,
        namespace: &Namespace,
        (name, key, parent): (&str, &str, &str),
        remote: &str,
        labels: &Labels,
        lease: Option<&LeaseId>,
    ) -> Result<()> {
        let commit = self.commit_of(namespace, (name, key, parent), lease);
        let (mut labels, remote) = (labels.clone(), remote.to_owned());
        let done = self.index.change(move |connection| {
            if !commit.make(connection, &mut labels)? {
                return Ok(false);
            }
            let row =
                rows::require(connection, &commit.namespace, &commit.snapshotter, &commit.name)?;
            rows::set_remote_name(connection, row.object, &remote)?;
            Ok(true)
        })?;
        if done { Ok(()) } else { Err(Error::AlreadyExists(format!("snapshot {name:?}"))) }
    }

    /// What the labels of a snapshot would be after an update, as far as the
    /// snapshotter gets to see them, and its name there.
    ///
    /// # Errors
    /// As those of [`Snapshotter::update`](super::Snapshotter::update).
    pub fn begin_update(
        &self,
        namespace: &Namespace,
        key: &str,
        labels: &Labels,
        paths: &[String],
    ) -> Result<(String, Labels)> {
        if key.is_empty() {
            return Err(Error::Refused("invalid argument".into()));
        }
        let mut known = self.find(namespace, key)?;
        super::set_labels(&mut known.info.labels, key, labels, paths)?;
        Ok((known.remote, inherited(&known.info.labels)))
    }

    /// Replaces a snapshot's labels, and answers the result.
    ///
    /// # Errors
    /// As [`begin_update`](Self::begin_update).
    pub fn finish_update(
        &self,
        namespace: &Namespace,
        key: &str,
        labels: &Labels,
        paths: &[String],
    ) -> Result<SnapshotInfo> {
        let (namespace, name, key) = (namespace.clone(), self.name.clone(), key.to_owned());
        let (labels, paths) = (labels.clone(), paths.to_vec());
        let row = self.index.change(move |connection| {
            relabel(connection, &namespace, &name, &key, &labels, &paths)
        })?;
        Ok(row.info)
    }

    /// Deletes the row of a snapshot, which must have no children. That the
    /// snapshotter has it still, [`names`](Self::names) tells.
    pub fn remove(&self, namespace: &Namespace, key: &str, lease: Option<&LeaseId>) -> Result<()> {
        super::delete(&self.index, &self.name, namespace, key, lease).map(drop)
    }

    fn hold_existing(
        &self,
        namespace: &Namespace,
        key: &str,
        lease: Option<&LeaseId>,
    ) -> Result<bool> {
        super::hold_existing(&self.index, &self.name, namespace, key, lease)
    }

    /// The row of a parent, and its name there.
    fn parent(
        &self,
        connection: &Connection,
        namespace: &Namespace,
        parent: &str,
    ) -> Result<(Option<i64>, String)> {
        let row = parent_row(connection, namespace, &self.name, parent)?;
        let remote = row.map(|object| rows::remote_name(connection, object)).transpose()?;
        Ok((row, remote.unwrap_or_default()))
    }

    fn commit_of(
        &self,
        namespace: &Namespace,
        (name, key, parent): (&str, &str, &str),
        lease: Option<&LeaseId>,
    ) -> rows::Commit {
        rows::Commit {
            namespace: namespace.clone(),
            snapshotter: self.name.clone(),
            name: name.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            usage: Usage::default(),
            lease: lease.cloned(),
        }
    }

    fn new_name(&self, namespace: &Namespace, key: &str) -> Result<String> {
        Ok(format!("{namespace}/{}/{key}", self.index.number()?))
    }
}
