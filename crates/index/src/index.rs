//! The database file: opening it, changing it, looking into it.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use davit_types::{Labels, Namespace};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::leases::Pins;
use crate::readers::{Reader, Readers};
use crate::references::Via;
use crate::reserve::Reserve;
use crate::time::{from_nanos, to_nanos};
use crate::writer::Writer;
use crate::{
    Containers, Error, Images, Leases, Namespaces, Result, Sandboxes, garbage, objects, references,
    schema, sequences,
};

/// How long to wait for somebody who has the file open otherwise (a person
/// with `sqlite3`).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The index, open. Cheap to share behind an `Arc`; every method may be
/// called from any thread and blocks.
#[derive(Debug)]
pub struct Index {
    writer: Writer,
    readers: Readers,
    numbers: Mutex<sequences::Block>,
    tally: Tally,
    reserve: Reserve,
    path: PathBuf,
    pub(crate) pins: Pins,
}

/// How many changes there have been since the index was opened. What
/// collection does itself is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// All of them.
    pub all: u64,
    /// Those that may have let go of something.
    pub loosening: u64,
}

#[derive(Default)]
struct Tally {
    all: AtomicU64,
    loosening: AtomicU64,
    observer: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tally").field("all", &self.all).finish_non_exhaustive()
    }
}

impl Index {
    /// Opens the index at `path`, made when it is missing (readable by its
    /// owner alone), and brings it to the current schema. After an unclean
    /// end the whole file is checked.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the file is no index, comes from a later
    /// version, or is broken; [`Error::Database`] for the rest.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |error: rusqlite::Error| refine(Error::from(error).at(path, "open"));
        let connection = connect(path).map_err(fail)?;
        let unclean = unclean(path);
        let version =
            identify(&connection, path).map_err(|error| refine(error.at(path, "open")))?;
        if unclean {
            check(&connection, path).map_err(|error| refine(error.at(path, "check")))?;
        }
        schema::migrate(&connection, version, schema::MIGRATIONS).map_err(fail)?;
        garbage::prepare(&connection).map_err(fail)?;
        let writer = Writer::start(connection, path)
            .map_err(|error| Error::Unknown(format!("start the index writer: {error}")))?;
        let reserve = Reserve::beside(path);
        reserve.keep();
        Ok(Self {
            writer,
            readers: Readers::new(path),
            numbers: Mutex::default(),
            tally: Tally::default(),
            reserve,
            path: path.to_owned(),
            pins: Pins::default(),
        })
    }

    /// The namespaces.
    pub fn namespaces(&self) -> Namespaces<'_> {
        Namespaces { index: self }
    }

    /// The containers of all namespaces.
    pub fn containers(&self) -> Containers<'_> {
        Containers { index: self }
    }

    /// The images of all namespaces.
    pub fn images(&self) -> Images<'_> {
        Images { index: self }
    }

    /// The leases of all namespaces.
    pub fn leases(&self) -> Leases<'_> {
        Leases { index: self }
    }

    /// The sandboxes of all namespaces.
    pub fn sandboxes(&self) -> Sandboxes<'_> {
        Sandboxes { index: self }
    }

    /// How much has changed.
    pub fn changes(&self) -> Changes {
        let count = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        Changes { all: count(&self.tally.all), loosening: count(&self.tally.loosening) }
    }

    /// Has `observer` called after every change that counts, on whatever
    /// thread made it. It must not block. Only the first one given is called.
    pub fn observe(&self, observer: impl Fn() + Send + Sync + 'static) {
        let _ = self.tally.observer.set(Box::new(observer));
    }

    /// When, after `time`, something next ends by itself: a lease, an ingest
    /// or an image.
    pub fn next_expiry(&self, time: SystemTime) -> Result<Option<SystemTime>> {
        self.look(|connection| {
            let expiry: Option<i64> = connection
                .prepare_cached("SELECT min(expires) FROM objects WHERE expires > ?1")?
                .query_row([to_nanos(time)], |row| row.get(0))?;
            Ok(expiry.map(from_nanos))
        })
    }

    /// Whether there is anything that `labels` attach their owner to, by a
    /// label `containerd.io/gc.bref.*`.
    pub fn is_attached(&self, namespace: &Namespace, labels: &Labels) -> Result<bool> {
        let targets = references::of_labels(labels).into_iter();
        let mut targets = targets.filter(|reference| reference.via == Via::Back);
        self.look(|connection| {
            let found = targets
                .find_map(|target| {
                    objects::find(connection, namespace, target.kind, &target.key).transpose()
                })
                .transpose()?;
            Ok(found.is_some())
        })
    }

    /// Makes a change and answers when it is on disk.
    pub(crate) fn change<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let value = self.writer.change(work)?;
        self.count(false);
        Ok(value)
    }

    /// The same for a change that may let go of something; there is room for
    /// it on a full disk, too.
    pub(crate) fn loosen<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.make_room();
        let value = self.writer.change(work)?;
        self.count(true);
        Ok(value)
    }

    /// The same for a change that is our own affair, as collecting is.
    pub(crate) fn upkeep<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.make_room();
        self.writer.change(work)
    }

    /// On a full disk, has the next change begin the log anew, which takes room
    /// that the log has already.
    fn make_room(&self) {
        if !self.reserve.give_up_when_full() {
            return;
        }
        let empty = || self.readers.get()?.execute_batch("PRAGMA wal_checkpoint(PASSIVE)");
        if let Err(error) = empty() {
            log::warn!(error:%; "the index's log cannot be emptied");
        }
    }

    /// Keeps room on the disk for letting go of things, if there is plenty.
    pub(crate) fn keep_room(&self) {
        self.reserve.keep();
    }

    fn count(&self, is_loosening: bool) {
        self.tally.all.fetch_add(1, Ordering::AcqRel);
        if is_loosening {
            self.tally.loosening.fetch_add(1, Ordering::AcqRel);
        }
        if let Some(observer) = self.tally.observer.get() {
            observer();
        }
    }

    /// Looks at the last commit. What `work` sees does not change meanwhile.
    pub(crate) fn look<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.look_with(self.readers.get(), work)
    }

    /// The same for work that looks at very much, and that short looks must
    /// not wait for.
    pub(crate) fn look_long<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.look_with(self.readers.get_long(), work)
    }

    fn look_with<T>(
        &self,
        reader: rusqlite::Result<Reader<'_>>,
        work: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        let run = || {
            let reader = reader?;
            let transaction = reader.unchecked_transaction()?;
            work(&transaction)
        };
        run().map_err(|error| error.at(&self.path, "read"))
    }

    /// A number that was never given out before, and never will be again.
    pub(crate) fn number(&self) -> Result<u64> {
        let mut block = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = block.next() {
            return Ok(number);
        }
        // For something new, which is not worth the room that is kept.
        *block = self.writer.change(sequences::reserve)?;
        block.next().ok_or_else(|| Error::Unknown("the index has run out of numbers".into()))
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // SQLite would make it readable by everybody. A failure shows up below.
    let _ = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    set_up(&connection)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// What holds for every connection.
pub(crate) fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Or else a statement would be planned anew each time that something is bound to it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Whether the last user of the file did not close it: its log is still
/// there.
fn unclean(path: &Path) -> bool {
    std::fs::metadata(log_of(path)).is_ok_and(|log| log.len() > 0)
}

/// The write-ahead log of the index at `path`.
pub(crate) fn log_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

/// The file beside `path` that is called as that is, and `suffix`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes sure that the file is an index, sets the connection up, and answers
/// the version of its schema; 0 when it is new.
fn identify(connection: &Connection, path: &Path) -> Result<usize> {
    let number = |pragma: &str| -> rusqlite::Result<i64> {
        connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
    };
    let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    if tables > 0 && number("application_id")? != i64::from(schema::APPLICATION_ID) {
        return Err(damaged("it is a database of something else".into()));
    }
    let version = usize::try_from(number("user_version")?)
        .map_err(|_| damaged("its version is negative".into()))?;
    if version > schema::VERSION {
        return Err(damaged(format!(
            "it was written by a later version (schema {version}, this one knows {})",
            schema::VERSION
        )));
    }
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
         PRAGMA cache_size = -1024; PRAGMA journal_size_limit = 4194304;",
    )?;
    Ok(version)
}

fn check(connection: &Connection, path: &Path) -> Result<()> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(Error::Damaged { path: path.to_owned(), reason: verdict })
}

/// Calls damage what SQLite calls an error.
fn refine(error: Error) -> Error {
    match error {
        Error::Database { path, source, .. }
            if matches!(
                source.sqlite_error_code(),
                Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
            ) =>
        {
            Error::Damaged { path, reason: source.to_string() }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// Looks without end must not keep the log from being emptied: it would
    /// grow until the disk is full.
    #[test]
    fn the_log_stays_small_although_somebody_always_looks() {
        const ROUNDS: usize = 100;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        let (index, done) = (&Index::open(&path).unwrap(), &AtomicBool::new(false));
        let write = |connection: &Connection| {
            connection.execute(
                "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
                 INSERT INTO sequences SELECT hex(randomblob(100)), i FROM n",
                [],
            )?;
            connection.execute("DELETE FROM sequences WHERE random() % 2", [])?;
            Ok(())
        };
        let count = |connection: &Connection| {
            let sql = "SELECT count(DISTINCT name) FROM sequences";
            Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))?)
        };
        let log = dir.path().join("index.db-wal");
        let size = || std::fs::metadata(&log).unwrap().len();
        let (mut largest, mut written) = (0, 0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        index.look_long(count).unwrap();
                    }
                });
            }
            for _ in 0..ROUNDS {
                let before = size();
                index.upkeep(write).unwrap();
                written += size().saturating_sub(before);
                largest = largest.max(size());
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(largest < 32 << 20, "{largest} bytes of log, of {written} or more written");
    }
}
