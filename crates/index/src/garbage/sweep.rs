//! Removing what was found to be garbage, a batch at a time, while others go
//! on writing.
//!
//! Between the moment at which the graph was read and the removal, things can
//! come to be held again. From before that moment until the end, triggers on
//! the writer's connection note what any change can have made reachable: the
//! target of a reference that was added (of a back reference its source), a
//! thing that was added or renamed, and one that came to hold itself or does
//! so for longer. Each batch first takes from the condemned what was noted,
//! and all that it leads to, in the transaction that then removes.
//!
//! Nothing that a root leads to can go that way. Look at a way from a root to
//! a condemned thing, in the transaction that removes it: there was no such
//! way when the graph was read, so some step of it, or that the root is one,
//! is new. Take the last new one. What it ends at was noted, or what it begins
//! at, being new itself; from there on the way is old, nothing on it was
//! reachable then (or the thing would have been), so all of it was condemned,
//! and the reprieve follows it down to the thing.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use davit_snapshots::SnapshotId;
use davit_types::Namespace;
use rusqlite::Connection;

use crate::Result;
use crate::content::IngestBytes;

/// How long a batch goes on removing rows.
const BATCH_TIME: Duration = Duration::from_millis(5);
/// How many rows a batch removes at most; few in tests, which look at what
/// happens between batches.
const BATCH_ROWS: usize = if cfg!(test) { 3 } else { 128 };
/// How many things a batch reprieves at most; it removes nothing while there
/// are more.
const REPRIEVES: u32 = 256;

/// What the writer's connection needs; nothing is noted while the table
/// `collecting` is empty.
const TRIGGERS: &str = "
PRAGMA temp_store = MEMORY;
CREATE TEMP TABLE collecting (yes INTEGER);
CREATE TEMP TABLE noted (id INTEGER PRIMARY KEY);

CREATE TEMP TRIGGER note_thing AFTER INSERT ON main.objects
WHEN EXISTS (SELECT 1 FROM collecting)
BEGIN
    INSERT OR IGNORE INTO noted VALUES (NEW.id);
END;

CREATE TEMP TRIGGER note_root AFTER UPDATE OF root, expires, namespace, kind, key ON main.objects
WHEN EXISTS (SELECT 1 FROM collecting) AND (NEW.root > OLD.root OR NEW.key <> OLD.key
    OR (NEW.expires IS NOT OLD.expires AND OLD.expires IS NOT NULL))
BEGIN
    INSERT OR IGNORE INTO noted VALUES (NEW.id);
END;

CREATE TEMP TRIGGER note_reference AFTER INSERT ON main.refs
WHEN EXISTS (SELECT 1 FROM collecting)
BEGIN
    INSERT OR IGNORE INTO noted SELECT NEW.source WHERE NEW.via = 'back';
    INSERT OR IGNORE INTO noted
        SELECT t.id FROM objects s CROSS JOIN objects t
            ON t.namespace = s.namespace AND t.kind = NEW.kind AND t.key = NEW.key
        WHERE s.id = NEW.source AND NEW.via <> 'back';
    INSERT OR IGNORE INTO noted
        SELECT b.source FROM refs b
        WHERE b.kind = NEW.kind AND b.key = NEW.key AND b.via = 'back' AND NEW.via <> 'back';
END;
";

/// Prepares the writer's connection, once.
pub(crate) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(TRIGGERS)
}

/// From now on what can have become reachable is noted.
pub(super) fn begin(connection: &Connection) -> Result<()> {
    end(connection)?;
    connection.prepare_cached("INSERT INTO collecting VALUES (1)")?.execute([])?;
    Ok(())
}

/// Notes nothing any more.
pub(super) fn end(connection: &Connection) -> Result<()> {
    connection.prepare_cached("DELETE FROM collecting")?.execute([])?;
    connection.prepare_cached("DELETE FROM noted")?.execute([])?;
    Ok(())
}

/// What is left of a collection.
#[derive(Debug)]
pub(super) struct Sweep {
    /// In the order in which they are to go.
    waiting: VecDeque<i64>,
    /// Those of them that still are to.
    condemned: HashSet<i64>,
    /// Reprieved, and what they lead to has not been looked at.
    reprieved: Vec<i64>,
}

/// A row that was removed, or would be.
#[derive(Debug)]
pub(super) struct Victim {
    pub(super) namespace: Namespace,
    pub(super) kind: String,
    pub(super) key: String,
    /// What is known of its size without looking at the disk.
    pub(super) size: u64,
    /// A snapshot's, and whether it may be larger than was said.
    pub(super) directory: Option<SnapshotId>,
    pub(super) is_active: bool,
    /// Those of an ingest.
    pub(super) bytes: Option<IngestBytes>,
}

impl Sweep {
    /// Is to remove the rows of `order`, in that order.
    pub(super) fn new(order: Vec<i64>) -> Self {
        let condemned = order.iter().copied().collect();
        Self { waiting: order.into(), condemned, reprieved: Vec::new() }
    }

    /// Whether nothing is left to remove.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Removes the next rows that nothing has come to hold. Takes a few
    /// milliseconds, however many are left.
    pub(super) fn batch(&mut self, connection: &Connection) -> Result<Vec<Victim>> {
        let mut removed = Vec::new();
        if !self.reprieve(connection)? {
            return Ok(removed);
        }
        let start = Instant::now();
        while removed.len() < BATCH_ROWS && start.elapsed() < BATCH_TIME {
            let Some(id) = self.waiting.pop_front() else { break };
            if !self.condemned.remove(&id) {
                continue;
            }
            // Others may have removed it.
            if let Some(victim) = look(connection, id)? {
                connection.prepare_cached("DELETE FROM objects WHERE id = ?1")?.execute([id])?;
                removed.push(victim);
            }
        }
        Ok(removed)
    }

    /// Takes what was noted from the condemned, with what it leads to;
    /// whether that is all of it.
    fn reprieve(&mut self, connection: &Connection) -> Result<bool> {
        let mut statement = connection.prepare_cached("SELECT id FROM noted LIMIT ?1")?;
        let noted: Vec<i64> =
            statement.query_map([REPRIEVES], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let mut forget = connection.prepare_cached("DELETE FROM noted WHERE id = ?1")?;
        for id in &noted {
            forget.execute([id])?;
            // Not only if it was condemned: what is new may be named by back
            // references that are old.
            self.condemned.remove(id);
            self.follow(connection, *id)?;
        }
        let mut count = noted.len() as u32;
        while count < REPRIEVES {
            let Some(id) = self.reprieved.pop() else { return Ok(true) };
            if self.condemned.remove(&id) {
                self.follow(connection, id)?;
                count += 1;
            }
        }
        Ok(false)
    }

    /// Has everything looked at that a reprieved thing leads to.
    fn follow(&mut self, connection: &Connection, id: i64) -> Result<()> {
        let led_to = led_to(connection, id)?;
        self.reprieved.extend(led_to.into_iter().filter(|id| self.condemned.contains(id)));
        Ok(())
    }
}

/// Everything that a thing leads to, by whatever reference; rather too much
/// than too little.
fn led_to(connection: &Connection, id: i64) -> Result<Vec<i64>> {
    let mut statement = connection.prepare_cached(
        "SELECT t.id FROM objects s
         CROSS JOIN refs r ON r.source = s.id AND r.via <> 'back'
         CROSS JOIN objects t ON t.namespace = s.namespace AND t.kind = r.kind AND t.key = r.key
         WHERE s.id = ?1
         UNION ALL
         SELECT s.id FROM objects t
         CROSS JOIN refs r INDEXED BY refs_back
             ON r.kind = t.kind AND r.key = t.key AND r.via = 'back'
         CROSS JOIN objects s ON s.id = r.source AND s.namespace = t.namespace
         WHERE t.id = ?1
         UNION ALL
         SELECT s.id FROM refs r
         CROSS JOIN refs b INDEXED BY refs_back
             ON b.kind = r.kind AND b.key = r.key AND b.via = 'back'
         CROSS JOIN objects s ON s.id = b.source
         WHERE r.source = ?1 AND r.via <> 'back'",
    )?;
    let ids = statement.query_map([id], |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

/// What is known of a row that is to go.
pub(super) fn look(connection: &Connection, id: i64) -> Result<Option<Victim>> {
    let mut statement = connection.prepare_cached(
        "SELECT o.namespace, o.kind, o.key, coalesce(b.size, s.size, 0), s.directory,
                coalesce(s.kind = 'active', 0), i.id IS NOT NULL, i.reference, i.expected
         FROM objects o
         LEFT JOIN blobs b ON b.id = o.id
         LEFT JOIN snapshots s ON s.id = o.id
         LEFT JOIN ingests i ON i.id = o.id
         WHERE o.id = ?1",
    )?;
    let mut rows = statement.query([id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(Victim {
        namespace: Namespace::new(row.get::<_, String>(0)?)?,
        kind: row.get(1)?,
        key: row.get(2)?,
        size: row.get::<_, i64>(3)?.unsigned_abs(),
        directory: row.get::<_, Option<i64>>(4)?.map(i64::unsigned_abs),
        is_active: row.get(5)?,
        bytes: row.get::<_, bool>(6)?.then(|| IngestBytes::read(row, 7)).transpose()?,
    }))
}
