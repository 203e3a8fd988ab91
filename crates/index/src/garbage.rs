//! Collecting what nothing holds (containerd, `core/metadata/gc.go`).
//!
//! Containers, sandboxes, unexpired images, leases and ingests, and what is
//! labelled `containerd.io/gc.root`, hold themselves; everything else stays
//! only while one of these leads to it. Finding the rest is one query.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use davit_snapshots::SnapshotId;
use davit_types::Namespace;
use rusqlite::{Connection, params};

use crate::time::to_nanos;
use crate::{ContentStore, Index, Result, Snapshotter, digests};

/// Collects garbage from the index, the blob store and the snapshotters.
#[derive(Debug)]
pub struct Collector {
    index: Arc<Index>,
    content: Arc<ContentStore>,
    snapshotters: Vec<Arc<Snapshotter>>,
}

/// What a collection has removed, for the events that tell of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images that had expired: namespace and name.
    pub images: Vec<(Namespace, String)>,
    /// Snapshots: namespace, snapshotter and key.
    pub snapshots: Vec<(Namespace, String, String)>,
    /// Blobs: namespace and digest.
    pub content: Vec<(Namespace, String)>,
    /// Leases that had expired: namespace and id.
    pub leases: Vec<(Namespace, String)>,
    /// Ingests: namespace and reference.
    pub ingests: Vec<(Namespace, String)>,
}

/// A row that nothing leads to.
struct Victim {
    id: i64,
    namespace: Namespace,
    kind: String,
    key: String,
    directory: Option<SnapshotId>,
    stored_reference: Option<String>,
}

/// Finds what nothing leads to. `live` are things and whether they were
/// reached over a flat lease, which leads to nothing but what is theirs by
/// nature: a snapshot's parent, an image's target. The order of the joins is
/// given (`CROSS`), because the planner, which does not know how few rows a
/// step brings, would look at all references in each.
const FIND: &str = "
    WITH RECURSIVE live (id, flat) AS (
        SELECT id, 0 FROM objects WHERE root AND (expires IS NULL OR expires >= ?1)
        UNION
        SELECT target.id, live.flat OR r.via = 'flat'
        FROM live
        CROSS JOIN objects source ON source.id = live.id
        CROSS JOIN refs r ON r.source = live.id
            AND r.via <> 'back' AND (r.via = 'self' OR NOT live.flat)
        CROSS JOIN objects target ON target.namespace = source.namespace
            AND target.kind = r.kind AND target.key = r.key
        UNION
        SELECT source.id, 0
        FROM live
        CROSS JOIN objects target ON target.id = live.id AND NOT live.flat
        CROSS JOIN refs r INDEXED BY refs_back
            ON r.kind = target.kind AND r.key = target.key AND r.via = 'back'
        CROSS JOIN objects source ON source.id = r.source AND source.namespace = target.namespace)
    SELECT o.id, o.namespace, o.kind, o.key, s.directory, i.reference
    FROM objects o
    LEFT JOIN snapshots s ON s.id = o.id
    LEFT JOIN ingests i ON i.id = o.id AND i.expected IS NULL
    WHERE o.id NOT IN (SELECT id FROM live)
    ORDER BY o.id";

impl Collector {
    /// A collector over everything that `index` knows. The snapshots of a
    /// snapshotter that is not among `snapshotters` lose their rows, and
    /// their directories when it is back.
    pub fn new(
        index: Arc<Index>,
        content: Arc<ContentStore>,
        snapshotters: Vec<Arc<Snapshotter>>,
    ) -> Self {
        Self { index, content, snapshotters }
    }

    /// What a collection would remove now.
    pub fn garbage(&self) -> Result<Collected> {
        let victims = self.index.look(|connection| find(connection, SystemTime::now()))?;
        Ok(Collected::from(victims.as_slice()))
    }

    /// Removes what nothing holds: the rows in one transaction, then bytes
    /// and directories. Those that cannot be removed are logged and left to
    /// [`cleanup`](Self::cleanup).
    pub fn collect(&self) -> Result<Collected> {
        let victims = self.index.change(|connection| {
            let victims = find(connection, SystemTime::now())?;
            remove(connection, &victims)?;
            Ok(victims)
        })?;
        for victim in &victims {
            self.remove_files(victim);
        }
        Ok(Collected::from(victims.as_slice()))
    }

    /// Removes the files and directories that a crash has left without a
    /// row. Goes on after a failure and reports the first.
    pub fn cleanup(&self) -> Result<()> {
        let content = self.content.cleanup();
        let snapshots = self.snapshotters.iter().map(|snapshotter| snapshotter.cleanup());
        snapshots.fold(content, Result::and)
    }

    fn remove_files(&self, victim: &Victim) {
        let key = victim.key.as_str();
        let removed = match (victim.kind.as_str(), victim.directory, &victim.stored_reference) {
            ("content", ..) => {
                digests::stored(key).and_then(|digest| self.content.remove_bytes(&digest))
            }
            ("ingest", _, Some(reference)) => self.content.remove_ingest(reference),
            ("snapshot", Some(directory), _) => {
                let name = key.split('/').next().unwrap_or_default();
                let mut named = self.snapshotters.iter().filter(|known| known.name() == name);
                if let Some(snapshotter) = named.next() {
                    snapshotter.remove_directory(directory);
                }
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = removed {
            let kind = victim.kind.as_str();
            log::warn!(kind, key, error:%; "garbage stays behind on disk");
        }
    }
}

fn find(connection: &Connection, now: SystemTime) -> Result<Vec<Victim>> {
    let mut statement = connection.prepare_cached(FIND)?;
    let mut rows = statement.query([to_nanos(now)])?;
    let mut victims = Vec::new();
    while let Some(row) = rows.next()? {
        victims.push(Victim {
            id: row.get(0)?,
            namespace: Namespace::new(row.get::<_, String>(1)?)?,
            kind: row.get(2)?,
            key: row.get(3)?,
            directory: row.get::<_, Option<i64>>(4)?.map(i64::unsigned_abs),
            stored_reference: row.get(5)?,
        });
    }
    Ok(victims)
}

/// Deletes the rows with one statement, because a snapshot and its parent can
/// only go together.
fn remove(connection: &Connection, victims: &[Victim]) -> Result<()> {
    let ids: BTreeSet<String> = victims.iter().map(|victim| victim.id.to_string()).collect();
    let list = format!("[{}]", Vec::from_iter(ids).join(","));
    connection
        .prepare_cached("DELETE FROM objects WHERE id IN (SELECT value FROM json_each(?1))")?
        .execute(params![list])?;
    Ok(())
}

impl From<&[Victim]> for Collected {
    fn from(victims: &[Victim]) -> Self {
        let mut collected = Self::default();
        for Victim { namespace, kind, key, .. } in victims {
            let pair = (namespace.clone(), key.clone());
            match kind.as_str() {
                "image" => collected.images.push(pair),
                "content" => collected.content.push(pair),
                "lease" => collected.leases.push(pair),
                "ingest" => collected.ingests.push(pair),
                "snapshot" => {
                    let (snapshotter, key) = key.split_once('/').unwrap_or_default();
                    let triple = (namespace.clone(), snapshotter.to_owned(), key.to_owned());
                    collected.snapshots.push(triple);
                }
                _ => {}
            }
        }
        collected
    }
}
