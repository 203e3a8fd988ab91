//! One task and the shim that answers for it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use davit_types::{ContainerId, Namespace};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::bootstrap::Endpoint;
use crate::bundle::Bundle;
use crate::client::Client;
use crate::connection::Connection;
use crate::shim_log::ShimLog;
use crate::{Deadline, Error, Exit};

/// Keeps, in the bundle, the exit that was told.
const TOLD_FILE: &str = "told-exit.json";

/// A task, its bundle, and the connection to its shim.
pub(crate) struct Shim {
    pub namespace: Namespace,
    pub id: ContainerId,
    pub bundle: Bundle,
    /// The binary to clean up with; none for a task in a sandbox.
    pub program: Option<PathBuf>,
    /// Where the shim listens; the same for all tasks that share it.
    pub endpoint: Endpoint,
    /// Whether the shim belongs to a sandbox, and not to this task.
    pub sandboxed: bool,
    pub connection: Connection,
    /// Read as long as the shim is kept.
    pub _log: Option<ShimLog>,
    pub end: End,
}

impl Shim {
    /// The calls to this task.
    pub fn client(&self, deadline: Deadline) -> Client<'_> {
        Client { connection: &self.connection, id: &self.id, deadline }
    }
}

/// How far the end of a task has come.
pub(crate) struct End {
    /// Whether somebody is at work ending it.
    claimed: AtomicBool,
    /// The init's pid, once the shim has said it.
    pid: OnceLock<u32>,
    /// The init's exit, once its event was passed on.
    told: Mutex<Option<Exit>>,
    /// The same, from before the daemon was restarted. A shim that has had no
    /// answer then tells it again, and is right to.
    recorded: Option<Exit>,
    /// The exit, once nothing is left of the task.
    over: watch::Sender<Option<Exit>>,
}

/// What is to become of an exit that somebody tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    /// Nobody has told it since the daemon was started.
    First,
    /// It was told.
    Again,
    /// It is that of another init: the task that had the id before has a shim
    /// that tells it late.
    Others,
}

impl End {
    /// Of a task that has not been ended; `recorded` when its exit was told
    /// before the daemon was restarted.
    pub fn new(recorded: Option<Exit>) -> Self {
        let (claimed, pid, told) = Default::default();
        Self { claimed, pid, told, recorded, over: watch::Sender::new(None) }
    }

    /// True for the one who is to end the task.
    pub fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }

    /// Takes the init's pid from a shim's answer. One that is restored has
    /// none before it is started.
    pub fn learn(&self, pid: u32) {
        if pid != 0 {
            // It stays what it was.
            let _ = self.pid.set(pid);
        }
    }

    /// The exit that was told, now or before a restart.
    pub fn told(&self) -> Option<Exit> {
        let told = self.told_here().clone().filter(|exit| self.is_of_init(exit));
        told.or_else(|| self.recorded.clone().filter(|exit| self.is_of_init(exit)))
    }

    /// Takes note of an exit that is being told.
    pub fn tell(&self, exit: Exit) -> Telling {
        if !self.is_of_init(&exit) {
            return Telling::Others;
        }
        let mut told = self.told_here();
        if told.as_ref().is_some_and(|told| self.is_of_init(told) && may_be_one(told.pid, exit.pid))
        {
            return Telling::Again;
        }
        *told = Some(exit);
        Telling::First
    }

    /// Whether the exit may be the init's, for all that is known of it.
    fn is_of_init(&self, exit: &Exit) -> bool {
        self.pid.get().is_none_or(|pid| may_be_one(*pid, exit.pid))
    }

    fn told_here(&self) -> MutexGuard<'_, Option<Exit>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is left of the task; wakes everybody who waits for that.
    pub fn finish(&self, exit: Exit) {
        self.over.send_replace(Some(exit));
    }

    /// Waits until nothing is left of the task.
    pub async fn finished(&self) -> Exit {
        let mut over = self.over.subscribe();
        let exit = over.wait_for(Option::is_some).await.map(|exit| exit.clone());
        // The sender is ours, and so cannot have gone.
        exit.ok().flatten().unwrap_or_default()
    }
}

/// Whether two pids may be the same, where 0 is one that nobody knows.
fn may_be_one(one: u32, other: u32) -> bool {
    one == other || one == 0 || other == 0
}

#[derive(Serialize, Deserialize)]
struct Record {
    pid: u32,
    status: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at_unix_nanos: Option<u64>,
}

/// Keeps in the bundle that `exit` is being told.
pub(crate) fn record_told(bundle: &Bundle, exit: &Exit) -> Result<(), Error> {
    let since = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).ok();
    let at = exit.at.and_then(since).and_then(|time| u64::try_from(time.as_nanos()).ok());
    let record = Record { pid: exit.pid, status: exit.status, at_unix_nanos: at };
    bundle.write(TOLD_FILE, &serde_json::to_vec(&record).expect("plain fields serialise"))
}

/// The exit that was told before, if any.
pub(crate) fn recorded(bundle: &Bundle) -> Option<Exit> {
    let record: Record = serde_json::from_str(&bundle.read(TOLD_FILE)?).ok()?;
    let at = record.at_unix_nanos.map(|at| SystemTime::UNIX_EPOCH + Duration::from_nanos(at));
    Some(Exit { pid: record.pid, status: record.status, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(pid: u32) -> Exit {
        Exit { pid, status: 1, at: None }
    }

    #[test]
    fn another_inits_exit_is_neither_kept_nor_in_the_way() {
        let end = End::new(None);
        end.learn(0);
        end.learn(8);
        assert_eq!(end.tell(exit(7)), Telling::Others);
        assert_eq!(end.told(), None);
        assert_eq!(end.tell(exit(8)), Telling::First);
        assert_eq!((end.tell(exit(8)), end.tell(exit(0))), (Telling::Again, Telling::Again));
        assert_eq!((end.tell(exit(7)), end.told()), (Telling::Others, Some(exit(8))));
    }

    #[test]
    fn before_the_pid_is_known_every_exit_counts() {
        let end = End::new(None);
        assert_eq!((end.tell(exit(7)), end.tell(exit(7))), (Telling::First, Telling::Again));
        assert_eq!(end.told(), Some(exit(7)));
        end.learn(8);
        assert_eq!(end.told(), None, "it was another's");
        assert_eq!((end.tell(exit(8)), end.tell(exit(8))), (Telling::First, Telling::Again));
        let end = End::new(Some(exit(7)));
        assert_eq!((end.told(), end.tell(exit(7))), (Some(exit(7)), Telling::First));
    }
}
