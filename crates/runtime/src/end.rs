//! The end of a task: deleted by somebody, or cleaned up after its shim died.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use davit_protocols::topics;
use davit_types::{ContainerId, ErrorKind, Kind as _, Namespace};

use crate::bootstrap::Endpoint;
use crate::bundle::Bundle;
use crate::errands::program_of;
use crate::shim::{End, Shim, Telling, recorded};
use crate::tasks::{blocking, to_the_end};
use crate::turns::Turn;
use crate::{Deadline, Error, Exit, Tasks, told};

/// The exit status of an init that nobody can say anything about (containerd,
/// `cleanupAfterDeadShim`).
const UNKNOWN_STATUS: u32 = 255;

/// Between two looks at a socket that is about to go.
const GOING_PAUSE: Duration = Duration::from_millis(2);

impl Tasks {
    /// Deletes a stopped task with its shim and its bundle. Goes on when the
    /// returned future is dropped. Answers when the shim has deleted the
    /// container and the task is no more; that the shim goes, and the bundle
    /// with it, only the next task of the same id waits for, and
    /// [`Tasks::settled`].
    pub async fn delete(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        deadline: Deadline,
    ) -> Result<Exit, Error> {
        let (tasks, namespace, id) = (self.clone(), namespace.clone(), id.clone());
        to_the_end(async move { tasks.delete_whole(&namespace, &id, deadline).await }).await
    }

    async fn delete_whole(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        deadline: Deadline,
    ) -> Result<Exit, Error> {
        let turn = deadline.limit(self.turn(namespace, id)).await?;
        let shim = self.shim(namespace, id)?;
        let answer = shim.client(deadline).delete(None).await;
        match answer {
            Err(Error::Closed(_)) => {
                shim.connection.closed().await;
                Ok(self.bury(&shim).await)
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error.doing("failed to delete task"))
            }
            answer => {
                if shim.end.claim() {
                    self.unregister(&shim);
                    let exit = answer.as_ref().ok().cloned().unwrap_or_default();
                    self.close(shim, exit, turn);
                }
                answer.map_err(|error| error.doing("failed to delete task"))
            }
        }
    }

    /// Removes what is left of a task that its shim has deleted, with nobody
    /// waiting but who wants the next turn.
    fn close(&self, shim: Arc<Shim>, exit: Exit, turn: Turn) {
        let (tasks, closing) = (self.clone(), self.closing());
        tokio::spawn(async move {
            tasks.remove_rest(&shim).await;
            shim.end.finish(exit);
            drop((turn, closing));
        });
    }

    async fn remove_rest(&self, shim: &Arc<Shim>) {
        if !self.send_away(shim).await.is_fine() {
            log::error!(namespace = shim.namespace.as_str(), container = shim.id.as_str();
                "failed to shutdown shim task and the shim might be leaked");
        }
        self.remove_bundle(&shim.namespace, &shim.id, &shim.bundle).await;
    }

    /// Asks the shim of a task that is not known any more to go and waits until
    /// it has, unless it has other tasks to look after.
    pub(crate) async fn send_away(&self, shim: &Arc<Shim>) -> Leave {
        if shim.sandboxed {
            return Leave::Needed;
        }
        let deadline = Deadline::after(self.config().limits.shim_shutdown);
        match shim.client(deadline).shutdown().await {
            Ok(()) if self.serves(&shim.endpoint) => Leave::Needed,
            Ok(()) if deadline.limit(gone(shim)).await.is_ok() => Leave::Gone,
            Ok(()) => Leave::Stays,
            Err(Error::Closed(_)) => Leave::Gone,
            Err(_) => Leave::Silent,
        }
    }

    /// Cleans up after the shim when it has gone before its task was deleted.
    pub(crate) fn watch(&self, shim: Arc<Shim>) {
        let tasks = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = shim.end.finished() => return,
                () = shim.connection.closed() => {}
            }
            let _turn = tasks.turn(&shim.namespace, &shim.id).await;
            tasks.bury(&shim).await;
        });
    }

    /// Cleans up after a dead shim: what is left of the container, the bundle,
    /// and the events that nobody has heard yet. Done once; whoever comes
    /// later gets the same exit. The caller has the task's turn.
    pub(crate) async fn bury(&self, shim: &Arc<Shim>) -> Exit {
        if !shim.end.claim() {
            return shim.end.finished().await;
        }
        let task = Dead {
            namespace: &shim.namespace,
            id: &shim.id,
            bundle: &shim.bundle,
            program: shim.program.as_deref(),
        };
        let exit = self.clean_up(&task, &shim.end).await;
        self.unregister(shim);
        self.tell_end(&task, &shim.end, &exit);
        shim.end.finish(exit.clone());
        exit
    }

    /// As [`Self::bury`], for a shim that was dead when the daemon found its
    /// bundle.
    pub(crate) async fn bury_unknown(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        bundle: &Bundle,
    ) {
        let program = program_of(bundle);
        let task = Dead { namespace, id, bundle, program: program.as_deref() };
        let end = End::new(recorded(bundle));
        let exit = self.clean_up(&task, &end).await;
        self.tell_end(&task, &end, &exit);
    }

    /// Cleans up; answers with the exit: the one that was told, or that the
    /// binary's `delete` found out, or containerd's for one that nobody knows.
    async fn clean_up(&self, task: &Dead<'_>, end: &End) -> Exit {
        log::warn!(namespace = task.namespace.as_str(), container = task.id.as_str();
            "cleaning up after shim disconnected");
        let found = self.ask_binary(task).await;
        self.remove_socket(task.bundle).await;
        self.remove_bundle(task.namespace, task.id, task.bundle).await;
        end.told().unwrap_or(found)
    }

    async fn ask_binary(&self, task: &Dead<'_>) -> Exit {
        let now = Some(SystemTime::now());
        let unknown = Exit { pid: 0, status: UNKNOWN_STATUS, at: now };
        let Some(program) = task.program else { return unknown };
        let errands = self.errands(task.namespace, task.id, task.bundle, program);
        let limit = Deadline::after(self.config().limits.shim_cleanup);
        match errands.delete(limit).await {
            Ok(exit) => Exit { at: exit.at.or(now), ..exit },
            Err(error) => {
                log::warn!(namespace = task.namespace.as_str(), container = task.id.as_str(),
                    error:% = error.full_message(); "failed to clean up after shim disconnected");
                unknown
            }
        }
    }

    /// Tells of the end what nobody has told yet.
    fn tell_end(&self, task: &Dead<'_>, end: &End, exit: &Exit) {
        if end.told().is_none() && end.tell(exit.clone()) != Telling::Again {
            let event = told::task_exit(task.id, exit);
            self.publish(task.namespace, topics::TASK_EXIT, event);
        }
        let event = told::task_delete(task.id, exit);
        self.publish(task.namespace, topics::TASK_DELETE, event);
    }

    pub(crate) async fn remove_socket(&self, bundle: &Bundle) {
        let bundle = bundle.clone();
        blocking(move || {
            if let Ok(Some(endpoint)) = Endpoint::load(&bundle) {
                endpoint.remove_dead_socket();
            }
        })
        .await;
    }

    pub(crate) async fn remove_bundle(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        bundle: &Bundle,
    ) {
        let bundle = bundle.clone();
        if let Err(error) = blocking(move || bundle.remove()).await {
            log::error!(namespace = namespace.as_str(), container = id.as_str(),
                error:% = error.full_message(); "failed to delete bundle");
        }
    }

    pub(crate) fn publish(&self, namespace: &Namespace, topic: &str, event: davit_types::Any) {
        if let Err(error) = self.events().publish(namespace, topic, event) {
            log::error!(topic = topic, error:% = error.full_message(); "error publishing event");
        }
    }
}

/// What a shim did that was asked to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It has gone.
    Gone,
    /// It has other tasks that are known, or belongs to a sandbox.
    Needed,
    /// It said that it would, and is still there: as when it has tasks that
    /// are not known, or not yet.
    Stays,
    /// It did not answer, or refused.
    Silent,
}

impl Leave {
    /// Whether it did as it should.
    pub fn is_fine(self) -> bool {
        matches!(self, Self::Gone | Self::Needed)
    }
}

/// Returns when a shim that was asked to go is no longer there. Its socket
/// counts: a new shim for the same id must not find anybody behind it.
async fn gone(shim: &Shim) {
    shim.connection.closed().await;
    while shim.endpoint.answers().await {
        tokio::time::sleep(GOING_PAUSE).await;
    }
}

/// A task whose shim is dead.
struct Dead<'a> {
    namespace: &'a Namespace,
    id: &'a ContainerId,
    bundle: &'a Bundle,
    program: Option<&'a Path>,
}
