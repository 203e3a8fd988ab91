//! Connections for looking. With a write-ahead log they see the last commit
//! and wait for nobody.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use crate::index::{log_of, set_up};

/// How many look at once; more wait.
const LIMIT: usize = 8;
/// How many of them look at very much (a list, the graph); more wait.
const LONG_LIMIT: usize = 2;
/// From what size of the log on, in bytes, long looks give it a chance to be
/// emptied, which nobody can do as long as anybody looks at it.
const LOG_LIMIT: u64 = 16 << 20;
/// How long they do so at most: when nobody writes, the log does not grow
/// either.
const LOG_PATIENCE: Duration = Duration::from_millis(200);
/// How often they look whether it is small.
const LOG_LOOK: Duration = Duration::from_millis(5);
/// How many connections are kept open; each has a cache.
const KEPT: usize = 2;

/// A pool of connections that cannot write.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Connection>,
    lent: usize,
    /// Of those, for long looks.
    long: usize,
}

/// A borrowed connection.
pub(crate) struct Reader<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
    is_long: bool,
}

impl Readers {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), state: Mutex::default(), returned: Condvar::new() }
    }

    /// A connection; waits while too many are lent.
    pub(crate) fn get(&self) -> rusqlite::Result<Reader<'_>> {
        self.lend(false)
    }

    /// A connection to look at very much with, which must not keep short
    /// looks waiting.
    pub(crate) fn get_long(&self) -> rusqlite::Result<Reader<'_>> {
        let deadline = Instant::now() + LOG_PATIENCE;
        while self.log_size() > LOG_LIMIT && Instant::now() < deadline {
            std::thread::sleep(LOG_LOOK);
        }
        self.lend(true)
    }

    fn log_size(&self) -> u64 {
        std::fs::metadata(log_of(&self.path)).map_or(0, |log| log.len())
    }

    fn lend(&self, is_long: bool) -> rusqlite::Result<Reader<'_>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self
            .returned
            .wait_while(state, |state| state.lent >= LIMIT || (is_long && state.long >= LONG_LIMIT))
            .unwrap_or_else(PoisonError::into_inner);
        let idle = state.idle.pop();
        state.lent += 1;
        state.long += usize::from(is_long);
        drop(state);
        let mut reader = Reader { readers: self, connection: idle, is_long };
        if reader.connection.is_none() {
            reader.connection = Some(self.connect()?);
        }
        Ok(reader)
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        set_up(&connection)?;
        connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -512;")?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    }
}

impl Deref for Reader<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("a reader that was handed out has its connection")
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let mut state = self.readers.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lent -= 1;
        state.long -= usize::from(self.is_long);
        let connection = self.connection.take();
        if state.idle.len() < KEPT {
            state.idle.extend(connection);
        }
        drop(state);
        // Not one: it could be one that waits for a long look to end.
        self.readers.returned.notify_all();
    }
}
