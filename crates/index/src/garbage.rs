//! Collecting what nothing holds (containerd, `core/metadata/gc.go`).
//!
//! Containers, sandboxes, unexpired images, leases and ingests, and what is
//! labelled `containerd.io/gc.root`, hold themselves; everything else stays
//! only while one of these leads to it. What does not is found by a reader
//! ([`graph`]), so that writers go on, and removed by the writer a batch at a
//! time ([`sweep`]), so that nobody waits for more than a batch.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use davit_types::Namespace;
use rusqlite::Connection;

use crate::time::to_nanos;
use crate::{ContentStore, Index, Result, Snapshotter, content, digests};

mod explain;
mod graph;
mod sweep;
#[cfg(test)]
mod tests;

use graph::Graph;
use sweep::{Sweep, Victim};

pub use explain::{Explanation, Link};
pub(crate) use sweep::prepare;

/// How many things are looked up together when garbage is told of.
const PIECE: usize = 128;

/// Collects garbage from the index, the blob store and the snapshotters.
#[derive(Debug)]
pub struct Collector {
    index: Arc<Index>,
    content: Arc<ContentStore>,
    snapshotters: Vec<Arc<Snapshotter>>,
    turns: Mutex<Turns>,
    ended: Condvar,
}

/// Collections are made one after the other, and one serves all who asked
/// before it began.
#[derive(Debug, Default)]
struct Turns {
    under_way: bool,
    begun: u64,
    /// The last that ended well.
    done: u64,
}

/// Something that a collection has removed, or would remove.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Garbage {
    /// Whose it is.
    pub namespace: Namespace,
    /// What it is.
    pub thing: Thing,
    /// The bytes on disk that go with it; none of a blob that another
    /// namespace keeps.
    pub size: u64,
}

/// Something that the index knows, by its kind and name within a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thing {
    /// `container`, `content`, `image`, `ingest`, `lease`, `sandbox` or
    /// `snapshot`.
    pub kind: String,
    /// A snapshot's snapshotter, else empty.
    pub snapshotter: String,
    /// A digest, key, name or reference.
    pub name: String,
}

impl Thing {
    fn new(kind: &str, key: &str) -> Self {
        let (snapshotter, name) = match key.split_once('/') {
            Some((snapshotter, name)) if kind == "snapshot" => (snapshotter, name),
            _ => ("", key),
        };
        Self { kind: kind.into(), snapshotter: snapshotter.into(), name: name.into() }
    }
}

/// How exactly a collection says how much space goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// As far as the index knows.
    Known,
    /// Snapshots that were still written to are measured first.
    Measured,
}

impl Collector {
    /// A collector over everything that `index` knows. The snapshots of a
    /// snapshotter that is not among `snapshotters` lose their rows, and
    /// their directories when it is back.
    pub fn new(
        index: Arc<Index>,
        content: Arc<ContentStore>,
        snapshotters: Vec<Arc<Snapshotter>>,
    ) -> Self {
        let (turns, ended) = (Mutex::default(), Condvar::new());
        Self { index, content, snapshotters, turns, ended }
    }

    /// Tells what a collection would remove now, one by one, until `tell`
    /// answers false.
    pub fn garbage(&self, tell: &mut dyn FnMut(Garbage) -> bool) -> Result<()> {
        let mut shared = HashMap::new();
        // In pieces, because a listener may be slow.
        for piece in self.find()?.chunks(PIECE) {
            let victims = self.index.look(|connection| {
                let look = |id: &i64| {
                    let Some(victim) = sweep::look(connection, *id)? else { return Ok(None) };
                    let owners = content::owners(connection, &victim.key)?;
                    Ok(Some((victim, owners)))
                };
                piece.iter().filter_map(|id| look(id).transpose()).collect::<Result<Vec<_>>>()
            })?;
            for (victim, owners) in victims {
                let size = self.size_before(&victim, owners, &mut shared);
                if !tell(victim.garbage(size)) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The rows that can go now.
    fn find(&self) -> Result<Vec<i64>> {
        self.index.look_long(|connection| {
            Ok(self.graph(connection, None)?.garbage(to_nanos(SystemTime::now())))
        })
    }

    /// What leads to what, in one namespace or in all.
    fn graph(&self, connection: &Connection, of: Option<&Namespace>) -> Result<Graph> {
        let mut graph = Graph::load(connection, of)?;
        graph.keep(&self.index.pins.rows(connection)?);
        Ok(graph)
    }

    /// Removes what nothing holds and tells of it, one by one: first rows,
    /// then bytes and directories. Those that cannot be removed are logged
    /// and left to [`cleanup`](Self::cleanup).
    ///
    /// Of several callers at a time, those that wait are told nothing: the
    /// next collection is made for all of them.
    ///
    /// Answers how long the index was busy with it; what is on disk may take
    /// much longer to go.
    pub fn collect(&self, sizes: Sizes, tell: &mut dyn FnMut(Garbage)) -> Result<Duration> {
        let Some(turn) = self.take_turn() else { return Ok(Duration::ZERO) };
        let mut started = Instant::now();
        let _noting = Noting::begin(&self.index)?;
        let mut sweep = Sweep::new(self.find()?);
        let mut busy = started.elapsed();
        while !sweep.is_done() {
            started = Instant::now();
            let removed;
            (sweep, removed) = self.index.upkeep(move |connection| {
                let removed = sweep.batch(connection)?;
                Ok((sweep, removed))
            })?;
            busy += started.elapsed();
            for victim in removed {
                let size = self.remove_files(&victim, sizes);
                tell(victim.garbage(size));
            }
        }
        if let Err(error) = self.content.cleanup_remains() {
            log::warn!(error:%; "leftovers of the content store stay");
        }
        self.index.keep_room();
        turn.done();
        Ok(busy)
    }

    /// Removes the files and directories that a crash has left without a
    /// row. Goes on after a failure and reports the first.
    pub fn cleanup(&self) -> Result<()> {
        let content = self.content.cleanup();
        let snapshots = self.snapshotters.iter().map(|snapshotter| snapshotter.cleanup());
        snapshots.fold(content, Result::and)
    }

    /// Waits until it is the caller's turn; `None` when a collection that
    /// began after the call has ended.
    fn take_turn(&self) -> Option<Turn<'_>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = turns.begun;
        while turns.under_way {
            turns = self.ended.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
        if turns.done > asked {
            return None;
        }
        turns.under_way = true;
        turns.begun += 1;
        Some(Turn { collector: self, number: turns.begun })
    }

    /// Removes what a row that has gone left behind; how many bytes that
    /// were.
    fn remove_files(&self, victim: &Victim, sizes: Sizes) -> u64 {
        let key = victim.key.as_str();
        let removed = match (victim.kind.as_str(), victim.directory, &victim.bytes) {
            ("content", ..) => digests::stored(key)
                .and_then(|digest| self.content.remove_bytes(&digest))
                .map(|gone| if gone { victim.size } else { 0 }),
            ("ingest", _, Some(bytes)) => {
                let size = self.content.ingest_size(&bytes.reference);
                self.content.remove_ingest(bytes).map(|()| size)
            }
            ("snapshot", Some(directory), _) => {
                let Some(snapshotter) = self.snapshotter(key) else { return 0 };
                let size = match sizes {
                    Sizes::Measured if victim.is_active => snapshotter.measure(directory),
                    Sizes::Measured | Sizes::Known => victim.size,
                };
                snapshotter.remove_directory(directory);
                Ok(size)
            }
            _ => Ok(0),
        };
        removed.unwrap_or_else(|error| {
            let kind = victim.kind.as_str();
            log::warn!(kind, key, error:%; "garbage stays behind on disk");
            0
        })
    }

    /// How many bytes would go with a row. `shared` counts the rows seen of
    /// blobs that several namespaces have: the last takes the bytes along.
    fn size_before(&self, victim: &Victim, owners: u64, shared: &mut HashMap<String, u64>) -> u64 {
        match (victim.kind.as_str(), victim.directory, &victim.bytes) {
            ("content", ..) if owners > 1 => {
                let seen = shared.entry(victim.key.clone()).or_default();
                *seen += 1;
                if *seen < owners { 0 } else { victim.size }
            }
            ("ingest", _, Some(bytes)) => self.content.ingest_size(&bytes.reference),
            ("snapshot", Some(directory), _) if victim.is_active => {
                self.snapshotter(&victim.key).map_or(0, |known| known.measure(directory))
            }
            _ => victim.size,
        }
    }

    /// The snapshotter of a snapshot's key.
    fn snapshotter(&self, key: &str) -> Option<&Snapshotter> {
        let name = key.split('/').next().unwrap_or_default();
        self.snapshotters.iter().find(|known| known.name() == name).map(|known| &**known)
    }
}

impl Victim {
    fn garbage(self, size: u64) -> Garbage {
        let thing = Thing::new(&self.kind, &self.key);
        Garbage { namespace: self.namespace, thing, size }
    }
}

/// The right to collect, until it is dropped.
struct Turn<'a> {
    collector: &'a Collector,
    number: u64,
}

impl Turn<'_> {
    /// Everything was collected.
    fn done(self) {
        let mut turns = self.collector.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.done = self.number;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = self.collector.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.under_way = false;
        drop(turns);
        self.collector.ended.notify_all();
    }
}

/// Has the writer note what can have become reachable, until it is dropped.
struct Noting<'a>(&'a Index);

impl<'a> Noting<'a> {
    fn begin(index: &'a Index) -> Result<Self> {
        index.upkeep(sweep::begin)?;
        Ok(Self(index))
    }
}

impl Drop for Noting<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.upkeep(sweep::end) {
            log::warn!(error:%; "the index goes on noting what is not asked for");
        }
    }
}
