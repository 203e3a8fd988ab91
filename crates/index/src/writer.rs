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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Bench {
        writer: Writer,
        commits: Arc<AtomicUsize>,
        _dir: tempfile::TempDir,
    }

    fn bench() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE t (x INTEGER UNIQUE)").unwrap();
        let commits = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&commits);
        let count = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            false
        };
        connection.commit_hook(Some(count)).unwrap();
        Bench { writer: Writer::start(connection, &path).unwrap(), commits, _dir: dir }
    }

    impl Bench {
        /// Asks for a change without waiting for it.
        fn ask<T: Send + 'static>(
            &self,
            work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
        ) -> Receiver<Result<T>> {
            let (caller, answer) = mpsc::sync_channel(1);
            let job = Box::new(Change { work: Some(work), outcome: None, caller });
            self.writer.jobs.as_ref().unwrap().send(job).unwrap();
            answer
        }

        /// Keeps the writer busy until the answer is dropped or sent to.
        fn hold(&self) -> mpsc::Sender<()> {
            let (release, released) = mpsc::channel::<()>();
            let (started, running) = mpsc::channel();
            self.ask(move |_| {
                started.send(()).unwrap();
                let _ = released.recv();
                Ok(())
            });
            running.recv().unwrap();
            release
        }

        fn rows(&self) -> Vec<i64> {
            self.writer
                .change(|connection| {
                    let mut statement = connection.prepare("SELECT x FROM t ORDER BY x")?;
                    let rows = statement.query_map([], |row| row.get(0))?;
                    Ok(rows.collect::<rusqlite::Result<_>>()?)
                })
                .unwrap()
        }
    }

    fn insert(x: i64) -> impl FnOnce(&Connection) -> Result<i64> {
        move |connection| {
            connection.execute("INSERT INTO t VALUES (?1)", [x])?;
            Ok(x)
        }
    }

    #[test]
    fn what_waits_is_committed_together() {
        let bench = bench();
        let release = bench.hold();
        let answers: Vec<_> = (0..50).map(|x| bench.ask(insert(x))).collect();
        let before = bench.commits.load(Ordering::Relaxed);
        drop(release);
        for (x, answer) in (0..50).zip(answers) {
            assert_eq!(answer.recv().unwrap().unwrap(), x);
        }
        // One for the change that held the writer, one for the fifty.
        assert_eq!(bench.commits.load(Ordering::Relaxed) - before, 2);
    }

    #[test]
    fn a_change_that_fails_takes_nothing_with_it() {
        let bench = bench();
        let release = bench.hold();
        let first = bench.ask(insert(1));
        let duplicate = bench.ask(|connection| {
            insert(2)(connection)?;
            insert(1)(connection)
        });
        let refused = bench.ask(|connection| {
            insert(3)(connection)?;
            Err::<(), _>(Error::NotFound("x".into()))
        });
        let panicked = bench.ask(|connection| {
            insert(4)(connection)?;
            panic!("on purpose");
            #[expect(unreachable_code, reason = "gives the closure its type")]
            Ok(())
        });
        let last = bench.ask(insert(5));
        drop(release);
        assert_eq!(first.recv().unwrap().unwrap(), 1);
        assert!(matches!(duplicate.recv().unwrap(), Err(Error::Database { .. })));
        assert!(matches!(refused.recv().unwrap(), Err(Error::NotFound(_))));
        assert!(matches!(panicked.recv().unwrap(), Err(Error::Unknown(_))));
        assert_eq!(last.recv().unwrap().unwrap(), 5);
        assert_eq!(bench.rows(), [1, 5]);
    }

    #[test]
    fn nobody_is_told_of_what_was_not_committed() {
        let bench = bench();
        bench.writer.change(insert(1)).unwrap();
        let release = bench.hold();
        let lost = bench.ask(insert(2));
        // As SQLite does by itself when the disk is full.
        let culprit = bench.ask(|connection| {
            connection.execute_batch("ROLLBACK")?;
            Ok(())
        });
        drop(release);
        assert!(matches!(lost.recv().unwrap(), Err(Error::Database { .. })));
        assert!(matches!(culprit.recv().unwrap(), Err(Error::Database { .. })));
        assert_eq!(bench.rows(), [1]);
        bench.writer.change(insert(3)).unwrap();
        assert_eq!(bench.rows(), [1, 3]);
    }

    #[test]
    fn what_was_asked_for_is_done_before_the_end() {
        let Bench { writer, _dir: dir, .. } = {
            let bench = bench();
            drop((0..20).map(|x| bench.ask(insert(x))).collect::<Vec<_>>());
            bench
        };
        drop(writer);
        let connection = Connection::open(dir.path().join("db")).unwrap();
        let count: i64 =
            connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 20);
    }
}
