//! One task and the shim that answers for it.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// The init's exit, once its event was passed on.
    told: OnceLock<Exit>,
    /// The same, from before the daemon was restarted. A shim that has had no
    /// answer then tells it again, and is right to.
    recorded: Option<Exit>,
    /// The exit, once nothing is left of the task.
    over: watch::Sender<Option<Exit>>,
}

impl End {
    /// Of a task that has not been ended; `recorded` when its exit was told
    /// before the daemon was restarted.
    pub fn new(recorded: Option<Exit>) -> Self {
        let (claimed, told) = (AtomicBool::new(false), OnceLock::new());
        Self { claimed, told, recorded, over: watch::Sender::new(None) }
    }

    /// True for the one who is to end the task.
    pub fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }

    /// The exit that was told, now or before a restart.
    pub fn told(&self) -> Option<&Exit> {
        self.told.get().or(self.recorded.as_ref())
    }

    /// True for the first who tells the exit since the daemon was started.
    pub fn tell(&self, exit: Exit) -> bool {
        self.told.set(exit).is_ok()
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
