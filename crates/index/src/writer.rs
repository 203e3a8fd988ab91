//! The one thread that changes the database.
//!
//! Changes that wait when the thread looks are made in one transaction, each
//! in a savepoint of its own, and brought to the disk together: that costs as
//! much as one of them alone. A change that fails takes nothing else with it.
//! Callers are answered after the commit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::JoinHandle;

use rusqlite::Connection;

use crate::error::copy_sqlite_error;
use crate::{Error, Result};

/// How many changes are committed together at most, which bounds how long the
/// first of them waits.
const GROUP_LIMIT: usize = 128;

/// The thread, and the way to it. Dropping it waits until what was asked for
/// is done.
#[derive(Debug)]
pub(crate) struct Writer {
    jobs: Option<Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
}

trait Job: Send {
    /// Makes the change; whether it is to be kept.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Answers the caller; `failure` is why nothing was kept.
    fn answer(self: Box<Self>, failure: Option<Error>);
}

struct Change<T, F> {
    work: Option<F>,
    outcome: Option<Result<T>>,
    caller: SyncSender<Result<T>>,
}

impl<T, F> Job for Change<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        let Some(work) = self.work.take() else { return false };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(connection))).unwrap_or_else(|_| {
            Err(Error::Unknown("a change of the index failed inside the daemon".into()))
        });
        let keep = outcome.is_ok();
        self.outcome = Some(outcome);
        keep
    }

    fn answer(self: Box<Self>, failure: Option<Error>) {
        let outcome = match (self.outcome, failure) {
            (Some(Err(own)), _) => Err(own),
            (_, Some(failure)) => Err(failure),
            (Some(Ok(value)), None) => Ok(value),
            (None, None) => Err(stopped()),
        };
        // A caller that has gone needs no answer.
        let _ = self.caller.send(outcome);
    }
}

impl Writer {
    /// Starts the thread on `connection`, which it owns from now on.
    pub(crate) fn start(connection: Connection, path: &Path) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("index-writer".into())
            .spawn(move || serve(&connection, &queue))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), path: path.to_owned() })
    }

    /// Makes a change and answers when it is on disk. When `work` fails,
    /// nothing of it is kept.
    pub(crate) fn change<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let (caller, answer) = mpsc::sync_channel(1);
        let job = Box::new(Change { work: Some(work), outcome: None, caller });
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(job).map_err(|_| stopped())?;
        answer.recv().map_err(|_| stopped())?.map_err(|error| error.at(&self.path, "write"))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported where it happened.
            let _ = thread.join();
        }
    }
}

fn stopped() -> Error {
    Error::Unknown("the index has stopped".into())
}

fn serve(connection: &Connection, queue: &Receiver<Box<dyn Job>>) {
    while let Ok(first) = queue.recv() {
        let mut group = vec![first];
        group.extend(queue.try_iter().take(GROUP_LIMIT - 1));
        commit(connection, group);
    }
}

/// Makes and commits the changes of `group`, and answers all of them.
fn commit(connection: &Connection, mut group: Vec<Box<dyn Job>>) {
    let failure = make(connection, &mut group).err();
    if let Some(error) = &failure {
        log::error!(error:%; "a transaction of the index failed");
        if !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
    }
    for job in group {
        job.answer(failure.as_ref().map(|error| copy_sqlite_error(error).into()));
    }
}

fn make(connection: &Connection, group: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
    let execute = |sql: &str| connection.prepare_cached(sql)?.execute([]);
    execute("BEGIN IMMEDIATE")?;
    if let [only] = group {
        let keep = only.run(connection);
        execute(if keep { "COMMIT" } else { "ROLLBACK" })?;
        return Ok(());
    }
    for job in group {
        execute("SAVEPOINT change")?;
        if !job.run(connection) {
            execute("ROLLBACK TO change")?;
        }
        execute("RELEASE change")?;
    }
    execute("COMMIT")?;
    Ok(())
}
