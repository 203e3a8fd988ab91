//! All tasks of the daemon, and the calls that go straight to their shims.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use davit_events::Exchange;
use davit_protocols::topics;
use davit_types::{Any, ContainerId, Envelope, ErrorKind, ExecId, Kind as _, Labels, Namespace};
use runc_client::SealedCopy;
use tokio::sync::watch;

use crate::bootstrap::Endpoint;
use crate::bundle::make_directory;
use crate::sealed::Copies;
use crate::shim::{Shim, Telling, record_told};
use crate::turns::{Key, Turn, Turns};
use crate::{
    Config, Deadline, Error, ExecOptions, Exit, Process, ProcessState, errands, names, told,
};

/// Others may pass the directories of all bundles, and see nothing.
const PASSABLE: u32 = 0o711;

/// All tasks of the daemon. Clones are the same thing.
#[derive(Clone)]
pub struct Tasks(Arc<Inner>);

struct Inner {
    config: Config,
    events: Arc<Exchange>,
    shims: Mutex<BTreeMap<Key, Arc<Shim>>>,
    /// Exits that were told of tasks that are not known, as long as tasks are
    /// being found again. Locked after `shims`.
    early: Mutex<Option<Vec<(Key, Exit)>>>,
    turns: Turns,
    copies: Copies,
    /// One receiver for each deleted task of which something is left.
    closings: watch::Sender<()>,
}

impl Tasks {
    /// No tasks yet. Makes the two directories where they are missing (mode
    /// 0711, as containerd's).
    pub fn new(config: Config, events: Arc<Exchange>) -> Result<Self, Error> {
        make_directory(&config.state, PASSABLE, true)?;
        make_directory(&config.root, PASSABLE, true)?;
        let (shims, turns, copies, closings) = Default::default();
        let early = Mutex::new(Some(Vec::new()));
        Ok(Self(Arc::new(Inner { config, events, shims, early, turns, copies, closings })))
    }

    /// Returns when nothing is left of the tasks that were deleted.
    pub async fn settled(&self) {
        self.0.closings.closed().await;
    }

    /// Something is left of a deleted task, until it is dropped.
    pub(crate) fn closing(&self) -> watch::Receiver<()> {
        self.0.closings.subscribe()
    }

    /// Looks at an event that a shim has published, before it is passed on.
    /// False when it tells the exit of a task's init a second time and is to
    /// be dropped. The first time, the exit is kept in the bundle, so that the
    /// shim's death makes nobody tell it again. That of a task which had the
    /// id before is passed on, and is nothing to the one that has it now.
    pub async fn observe(&self, envelope: &Envelope) -> bool {
        if envelope.topic != topics::TASK_EXIT {
            return true;
        }
        let Some((id, exit)) = told::init_exit(&envelope.event) else { return true };
        match self.shim_or_early((envelope.namespace.clone(), id), &exit) {
            Some(shim) => self.note_exit(shim, exit).await,
            None => true,
        }
    }

    /// The task that an exit is told of. Of one that is not known yet the exit
    /// is kept for whoever finds it.
    fn shim_or_early(&self, key: Key, exit: &Exit) -> Option<Arc<Shim>> {
        let shims = self.shims();
        let shim = shims.get(&key).cloned();
        if let (None, Some(early)) = (&shim, self.early().as_mut()) {
            early.push((key, exit.clone()));
        }
        shim
    }

    /// Whether this exit was told before its task was found again.
    pub(crate) fn was_early(&self, shim: &Shim, exit: &Exit) -> bool {
        let is_it = |((namespace, id), told): &(Key, Exit)| {
            (namespace, id, told.pid) == (&shim.namespace, &shim.id, exit.pid) && told.at == exit.at
        };
        self.early().as_ref().is_some_and(|early| early.iter().any(is_it))
    }

    /// The tasks that could be found were.
    pub(crate) fn forget_early(&self) {
        *self.early() = None;
    }

    /// True when nobody has told this exit before.
    pub(crate) async fn note_exit(&self, shim: Arc<Shim>, exit: Exit) -> bool {
        match shim.end.tell(exit.clone()) {
            Telling::First => {}
            Telling::Again => return false,
            Telling::Others => return true,
        }
        blocking(move || {
            if let Err(error) = record_told(&shim.bundle, &exit) {
                log::warn!(namespace = shim.namespace.as_str(), container = shim.id.as_str(),
                    error:% = error.full_message(); "cannot keep an exit in its bundle");
            }
        })
        .await;
        true
    }

    /// Starts the init, or an exec that was made; answers with its pid.
    pub async fn start(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<&ExecId>,
        deadline: Deadline,
    ) -> Result<u32, Error> {
        let shim = self.shim(namespace, id)?;
        let pid = shim.client(deadline).start(exec).await?;
        if exec.is_none() {
            shim.end.learn(pid);
        }
        Ok(pid)
    }

    /// Deletes a stopped exec.
    pub async fn delete_exec(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: &ExecId,
        deadline: Deadline,
    ) -> Result<Exit, Error> {
        self.shim(namespace, id)?.client(deadline).delete(Some(exec)).await
    }

    /// Adds a process, not yet started.
    pub async fn exec(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: &ExecId,
        options: ExecOptions,
        deadline: Deadline,
    ) -> Result<(), Error> {
        self.shim(namespace, id)?.client(deadline).exec(exec, options).await
    }

    /// Whether a task of this id is known.
    pub fn contains(&self, namespace: &Namespace, id: &ContainerId) -> bool {
        self.shim(namespace, id).is_ok()
    }

    /// The ids of a namespace's tasks, in order.
    pub fn ids(&self, namespace: &Namespace) -> Vec<ContainerId> {
        let shims = self.shims();
        let ours = shims.keys().filter(|(n, _)| n == namespace);
        ours.map(|(_, id)| id.clone()).collect()
    }

    /// The state of the init, or of an exec. That of a task whose shim has
    /// died is not found.
    pub async fn state(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<&ExecId>,
        deadline: Deadline,
    ) -> Result<ProcessState, Error> {
        let shim = self.shim(namespace, id)?;
        let answer = shim.client(deadline).state(exec).await;
        if let (Ok(state), None) = (&answer, exec) {
            shim.end.learn(state.pid);
        }
        answer.map_err(|error| gone(error, id))
    }

    /// As [`Self::state`], for overviews: a shim that does not answer within
    /// the limit, or answers something else than that there is no such
    /// process, gives a process of unknown status.
    pub async fn status(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<&ExecId>,
        deadline: Deadline,
    ) -> Result<ProcessState, Error> {
        let deadline = deadline.at_most(self.0.config.limits.task_state);
        let error = match self.state(namespace, id, exec, deadline).await {
            Err(error) if !missing(&error) => error,
            result => return result,
        };
        log::error!(namespace = namespace.as_str(), container = id.as_str(),
            error:% = error.full_message(); "cannot get the state of a task");
        let name = exec.map_or(id.as_str(), ExecId::as_str);
        Ok(ProcessState { id: name.to_owned(), ..Default::default() })
    }

    /// The states of all inits of a namespace, asked for at once, each as by
    /// [`Self::status`]. A task that is gone meanwhile is not listed.
    pub async fn list(&self, namespace: &Namespace, deadline: Deadline) -> Vec<ProcessState> {
        let ids = self.ids(namespace);
        let states = ids.iter().map(|id| self.status(namespace, id, None, deadline));
        futures::future::join_all(states).await.into_iter().filter_map(Result::ok).collect()
    }

    /// Signals the init or an exec; with `all`, every process of the container.
    pub async fn kill(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<&ExecId>,
        signal: u32,
        all: bool,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let answer = self.shim(namespace, id)?.client(deadline).kill(exec, signal, all).await;
        answer.map_err(|error| gone(error, id))
    }

    /// Freezes the container.
    pub async fn pause(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        deadline: Deadline,
    ) -> Result<(), Error> {
        self.shim(namespace, id)?.client(deadline).pause().await
    }

    /// Lets a frozen container go on.
    pub async fn resume(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        deadline: Deadline,
    ) -> Result<(), Error> {
        self.shim(namespace, id)?.client(deadline).resume().await
    }

    /// Every process of the container.
    pub async fn processes(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        deadline: Deadline,
    ) -> Result<Vec<Process>, Error> {
        self.shim(namespace, id)?.client(deadline).processes().await
    }

    /// Sets the size of a terminal: (columns, rows).
    pub async fn resize_pty(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<&ExecId>,
        (width, height): (u32, u32),
        deadline: Deadline,
    ) -> Result<(), Error> {
        self.shim(namespace, id)?.client(deadline).resize_pty(exec, width, height).await
    }

    /// Ends a process's stdin.
    pub async fn close_stdin(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<&ExecId>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        self.shim(namespace, id)?.client(deadline).close_stdin(exec).await
    }

    /// Has the runtime write a checkpoint into the directory `path`.
    pub async fn checkpoint(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        path: &Path,
        options: Option<Any>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let path = path.to_string_lossy().into_owned();
        self.shim(namespace, id)?.client(deadline).checkpoint(path, options).await
    }

    /// Changes the container's resources.
    pub async fn update(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        resources: Option<Any>,
        annotations: &Labels,
        deadline: Deadline,
    ) -> Result<(), Error> {
        self.shim(namespace, id)?.client(deadline).update(resources, annotations).await
    }

    /// Waits for the init's exit, or an exec's. When the shim dies meanwhile,
    /// the init's exit is what its clean-up found out.
    pub async fn wait(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<&ExecId>,
        deadline: Deadline,
    ) -> Result<Exit, Error> {
        let shim = self.shim(namespace, id)?;
        match shim.client(deadline).wait(exec).await {
            Err(Error::Closed(_)) if exec.is_none() => deadline.limit(shim.end.finished()).await,
            answer => answer,
        }
    }

    /// The container's cgroup statistics (`io.containerd.cgroups.v1.Metrics`
    /// or `…v2.Metrics`); `None` where the runtime has none.
    pub async fn stats(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        deadline: Deadline,
    ) -> Result<Option<Any>, Error> {
        let answer = self.shim(namespace, id)?.client(deadline).stats().await;
        answer.map_err(|error| gone(error, id))
    }

    /// What the shim binary of `runtime` says of itself (`-info`): a
    /// `containerd.types.RuntimeInfo`, encoded. `runtime` is a name or an
    /// absolute path; `options` goes to the binary's stdin.
    pub async fn runtime_info(
        &self,
        runtime: &str,
        options: Option<Any>,
        deadline: Deadline,
    ) -> Result<Vec<u8>, Error> {
        let program =
            names::resolve(runtime).await.map_err(|e| e.doing("failed to resolve runtime path"))?;
        let deadline = deadline.at_most(self.0.config.limits.shim_start);
        errands::info(&program, options.as_ref(), deadline).await
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(crate) fn events(&self) -> &Exchange {
        &self.0.events
    }

    /// A copy of the runtime that `options` name, if there is one.
    pub(crate) async fn copy_of_runtime(&self, options: Option<&Any>) -> Option<Arc<SealedCopy>> {
        self.0.copies.of(options).await
    }

    /// The right to make or end one task.
    pub(crate) async fn turn(&self, namespace: &Namespace, id: &ContainerId) -> Turn {
        self.0.turns.wait((namespace.clone(), id.clone())).await
    }

    /// The task of this id.
    pub(crate) fn shim(&self, namespace: &Namespace, id: &ContainerId) -> Result<Arc<Shim>, Error> {
        let key = (namespace.clone(), id.clone());
        self.shims().get(&key).cloned().ok_or_else(|| Error::NotFound(id.clone()))
    }

    pub(crate) fn register(&self, shim: Arc<Shim>) {
        self.shims().insert((shim.namespace.clone(), shim.id.clone()), shim);
    }

    /// Forgets this task, unless another has taken its id.
    pub(crate) fn unregister(&self, shim: &Arc<Shim>) {
        let key = (shim.namespace.clone(), shim.id.clone());
        let mut shims = self.shims();
        if shims.get(&key).is_some_and(|known| Arc::ptr_eq(known, shim)) {
            shims.remove(&key);
        }
    }

    /// Whether the shim that listens there has a task that is known.
    pub(crate) fn serves(&self, endpoint: &Endpoint) -> bool {
        self.shims().values().any(|known| known.endpoint == *endpoint)
    }

    fn early(&self) -> MutexGuard<'_, Option<Vec<(Key, Exit)>>> {
        self.0.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The map stays whole when a thread panics: it is only ever inserted to
    /// and removed from. Never held across a wait.
    fn shims(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Shim>>> {
        self.0.shims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task whose shim has gone is no more.
fn gone(error: Error, id: &ContainerId) -> Error {
    match error {
        Error::Closed(_) => Error::NotFound(id.clone()),
        error => error,
    }
}

fn missing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unavailable)
}

/// Does `work` to its end, although the caller may go.
pub(crate) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.unwrap_or_else(|failure| {
        Err(Error::Shim { kind: ErrorKind::Internal, message: format!("internal: {failure}") })
    })
}

/// Files and mounts, off the threads that serve sockets.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
        // The process is about to end, and this with it.
        Err(_) => std::future::pending().await,
    }
}
