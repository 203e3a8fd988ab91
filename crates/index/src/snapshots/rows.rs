//! The rows that the graph of snapshots is made of.

use std::collections::HashMap;
use std::time::SystemTime;

use davit_snapshots::{SnapshotId, SnapshotKind, Usage};
use davit_types::{Labels, Namespace};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{SnapshotInfo, require_active};
use crate::objects::{self, Kind};
use crate::references::{Reference, Via};
use crate::time::{from_nanos, to_nanos};
use crate::{Error, LeaseId, Result, leases};

/// A snapshot's row.
pub(super) struct Snapshot {
    pub(super) object: i64,
    pub(super) parent: Option<i64>,
    pub(super) directory: SnapshotId,
    pub(super) usage: Usage,
    pub(super) info: SnapshotInfo,
}

/// What a snapshot is called among all objects of its namespace.
pub(super) fn object_key(snapshotter: &str, key: &str) -> String {
    format!("{snapshotter}/{key}")
}

const SELECT: &str = "
    SELECT o.id, o.key, o.created, o.updated, s.kind, s.parent, p.key, s.directory, s.inodes,
           s.size
    FROM objects o JOIN snapshots s ON s.id = o.id LEFT JOIN objects p ON p.id = s.parent";

/// Finds a snapshot.
pub(super) fn find(
    connection: &Connection,
    namespace: &Namespace,
    snapshotter: &str,
    key: &str,
) -> Result<Option<Snapshot>> {
    let sql = format!("{SELECT} WHERE o.namespace = ?1 AND o.kind = 'snapshot' AND o.key = ?2");
    let found = connection
        .prepare_cached(&sql)?
        .query_row(params![namespace.as_str(), object_key(snapshotter, key)], read)
        .optional()?;
    let Some(mut row) = found else { return Ok(None) };
    row.info.labels = objects::labels(connection, row.object)?;
    Ok(Some(row))
}

/// Finds a snapshot that must exist.
pub(super) fn require(
    connection: &Connection,
    namespace: &Namespace,
    snapshotter: &str,
    key: &str,
) -> Result<Snapshot> {
    find(connection, namespace, snapshotter, key)?
        .ok_or_else(|| Error::NotFound(format!("snapshot {key} does not exist")))
}

/// All snapshots of a namespace, by name, with their directories.
pub(super) fn all(
    connection: &Connection,
    namespace: &Namespace,
    snapshotter: &str,
) -> Result<Vec<(SnapshotId, SnapshotInfo)>> {
    let mut labels = objects::all_labels(connection, namespace, Kind::Snapshot)?;
    let sql = format!(
        "{SELECT} WHERE o.namespace = ?1 AND o.kind = 'snapshot' AND s.snapshotter = ?2
         ORDER BY o.key"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![namespace.as_str(), snapshotter])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let Snapshot { object, directory, mut info, .. } = read(row)?;
        info.labels = labels.remove(&object).unwrap_or_default();
        found.push((directory, info));
    }
    Ok(found)
}

/// The directories of all namespaces' snapshots.
pub(super) fn directories(connection: &Connection, snapshotter: &str) -> Result<Vec<SnapshotId>> {
    let mut statement =
        connection.prepare_cached("SELECT directory FROM snapshots WHERE snapshotter = ?1")?;
    let rows = statement.query_map([snapshotter], |row| row.get::<_, i64>(0))?;
    Ok(rows.map(|id| id.map(i64::unsigned_abs)).collect::<rusqlite::Result<_>>()?)
}

/// The directories of `parent` and its ancestors, nearest first.
pub(super) fn chain(connection: &Connection, parent: Option<i64>) -> Result<Vec<SnapshotId>> {
    let mut statement = connection.prepare_cached(
        "WITH RECURSIVE chain (id, depth) AS (
             VALUES (?1, 0)
             UNION ALL
             SELECT s.parent, depth + 1 FROM chain JOIN snapshots s ON s.id = chain.id
             WHERE s.parent IS NOT NULL)
         SELECT s.directory FROM chain JOIN snapshots s ON s.id = chain.id ORDER BY depth",
    )?;
    let rows = statement.query_map([parent], |row| row.get::<_, i64>(0))?;
    Ok(rows.map(|id| id.map(i64::unsigned_abs)).collect::<rusqlite::Result<_>>()?)
}

/// What the snapshotter calls a snapshot that it keeps a graph of.
pub(super) fn remote_name(connection: &Connection, object: i64) -> Result<String> {
    let name = connection
        .prepare_cached("SELECT name FROM remote_snapshots WHERE id = ?1")?
        .query_row([object], |row| row.get(0))?;
    Ok(name)
}

/// Says what the snapshotter calls a snapshot.
pub(super) fn set_remote_name(connection: &Connection, object: i64, name: &str) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO remote_snapshots (id, name) VALUES (?1, ?2)
             ON CONFLICT DO UPDATE SET name = excluded.name",
        )?
        .execute(params![object, name])?;
    Ok(())
}

/// What the snapshotter calls all namespaces' snapshots, by their numbers.
pub(super) fn remote_names(
    connection: &Connection,
    snapshotter: &str,
) -> Result<HashMap<SnapshotId, String>> {
    let mut statement = connection.prepare_cached(
        "SELECT s.directory, r.name FROM snapshots s JOIN remote_snapshots r ON r.id = s.id
         WHERE s.snapshotter = ?1",
    )?;
    let rows = statement
        .query_map([snapshotter], |row| Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Whether the snapshotter calls any namespace's snapshot `name`.
pub(super) fn is_remote_name(
    connection: &Connection,
    snapshotter: &str,
    name: &str,
) -> Result<bool> {
    let found = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM remote_snapshots r JOIN snapshots s ON s.id = r.id
             WHERE r.name = ?2 AND s.snapshotter = ?1)",
        )?
        .query_row([snapshotter, name], |row| row.get(0))?;
    Ok(found)
}

/// Whether a snapshot is anybody's parent.
pub(super) fn has_children(connection: &Connection, object: i64) -> Result<bool> {
    let found = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM snapshots WHERE parent = ?1)")?
        .query_row([object], |row| row.get(0))?;
    Ok(found)
}

/// Writes a snapshot's labels and references.
pub(super) fn describe(
    connection: &Connection,
    snapshotter: &str,
    object: i64,
    parent: &str,
    labels: &mut Labels,
) -> Result<()> {
    let parent = (!parent.is_empty()).then(|| Reference {
        kind: Kind::Snapshot,
        key: object_key(snapshotter, parent),
        via: Via::Own,
    });
    objects::describe(connection, object, Kind::Snapshot, labels, parent.as_slice())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Snapshot> {
    let short = |key: String| match key.split_once('/') {
        Some((_, short)) => short.to_owned(),
        None => key,
    };
    let kind: String = row.get(4)?;
    Ok(Snapshot {
        object: row.get(0)?,
        parent: row.get(5)?,
        directory: row.get::<_, i64>(7)?.unsigned_abs(),
        usage: Usage {
            inodes: row.get::<_, i64>(8)?.unsigned_abs(),
            size: row.get::<_, i64>(9)?.unsigned_abs(),
        },
        info: SnapshotInfo {
            name: short(row.get(1)?),
            parent: row.get::<_, Option<String>>(6)?.map(short).unwrap_or_default(),
            kind: match kind.as_str() {
                "active" => SnapshotKind::Active,
                "view" => SnapshotKind::View,
                _ => SnapshotKind::Committed,
            },
            labels: Labels::new(),
            created_at: from_nanos(row.get(2)?),
            updated_at: from_nanos(row.get(3)?),
        },
    })
}

/// A snapshot that is to be added.
pub(super) struct New {
    pub(super) namespace: Namespace,
    pub(super) snapshotter: String,
    pub(super) key: String,
    pub(super) parent: String,
    pub(super) kind: SnapshotKind,
    pub(super) directory: SnapshotId,
    pub(super) lease: Option<LeaseId>,
}

impl New {
    /// Adds the row; false when there is one of that name, which `lease`
    /// holds then.
    pub(super) fn add(
        &self,
        connection: &Connection,
        parent: Option<i64>,
        now: SystemTime,
        labels: &mut Labels,
    ) -> Result<bool> {
        let key = object_key(&self.snapshotter, &self.key);
        let lease = self.lease.as_ref();
        leases::hold(connection, &self.namespace, lease, Kind::Snapshot, &key)?;
        let added = objects::insert(connection, &self.namespace, Kind::Snapshot, &key, now)?;
        let Some(object) = added else { return Ok(false) };
        let kind = match self.kind {
            SnapshotKind::View => "view",
            SnapshotKind::Active => "active",
            SnapshotKind::Committed => "committed",
        };
        connection
            .prepare_cached(
                "INSERT INTO snapshots (id, snapshotter, kind, parent, directory, inodes, size)
                 VALUES (?1, ?2, ?3, ?4, ?5, 0, 0)",
            )?
            .execute(params![
                object,
                self.snapshotter,
                kind,
                parent,
                self.directory.cast_signed()
            ])?;
        describe(connection, &self.snapshotter, object, &self.parent, labels)?;
        Ok(true)
    }
}

/// A snapshot that is to be committed.
pub(super) struct Commit {
    pub(super) namespace: Namespace,
    pub(super) snapshotter: String,
    pub(super) name: String,
    pub(super) key: String,
    pub(super) parent: String,
    pub(super) usage: Usage,
    pub(super) lease: Option<LeaseId>,
}

impl Commit {
    /// What [`make`](Self::make) would refuse now, a name that is taken aside;
    /// the directory of the active snapshot.
    pub(super) fn check(&self, connection: &Connection) -> Result<SnapshotId> {
        let Self { namespace, snapshotter, key, .. } = self;
        if let Some(lease) = &self.lease {
            leases::require(connection, namespace, lease)?;
        }
        let row = require(connection, namespace, snapshotter, key)?;
        require_active(&row, key)?;
        self.parent(connection, &row)?;
        Ok(row.directory)
    }

    /// Renames the row and says that it is committed; false when there is one
    /// of that name, which `lease` holds then.
    pub(super) fn make(&self, connection: &Connection, labels: &mut Labels) -> Result<bool> {
        let Self { namespace, snapshotter, .. } = self;
        let lease = self.lease.as_ref();
        let name = object_key(snapshotter, &self.name);
        leases::hold(connection, namespace, lease, Kind::Snapshot, &name)?;
        if objects::find(connection, namespace, Kind::Snapshot, &name)?.is_some() {
            return Ok(false);
        }
        let row = require(connection, namespace, snapshotter, &self.key)?;
        require_active(&row, &self.key)?;
        let (parent, parent_name) = self.parent(connection, &row)?;
        connection
            .prepare_cached(
                "UPDATE objects SET key = ?2, created = ?3, updated = ?3 WHERE id = ?1",
            )?
            .execute(params![row.object, name, to_nanos(SystemTime::now())])?;
        connection
            .prepare_cached(
                "UPDATE snapshots SET kind = 'committed', parent = ?2, inodes = ?3, size = ?4
                 WHERE id = ?1",
            )?
            .execute(params![
                row.object,
                parent,
                self.usage.inodes.cast_signed(),
                self.usage.size.cast_signed()
            ])?;
        describe(connection, snapshotter, row.object, &parent_name, labels)?;
        let key = object_key(snapshotter, &self.key);
        leases::release(connection, namespace, lease, Kind::Snapshot, &key)?;
        Ok(true)
    }

    /// The parent that the committed snapshot has: its own, or the one it is
    /// put on now.
    pub(super) fn parent(
        &self,
        connection: &Connection,
        row: &Snapshot,
    ) -> Result<(Option<i64>, String)> {
        if row.parent.is_some() || self.parent.is_empty() {
            return Ok((row.parent, row.info.parent.clone()));
        }
        let parent = find(connection, &self.namespace, &self.snapshotter, &self.parent)?
            .ok_or_else(|| {
                Error::NotFound(format!("parent snapshot {} does not exist", self.parent))
            })?;
        if parent.info.kind != SnapshotKind::Committed {
            return Err(Error::FailedPrecondition(format!(
                "failed to commit snapshot {}: parent {:?} is not committed",
                self.key, self.parent
            )));
        }
        Ok((Some(parent.object), self.parent.clone()))
    }
}
