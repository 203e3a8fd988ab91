//! All tasks of the daemon.

use std::path::Path;
use std::sync::Arc;

use davit_events::Exchange;
use davit_types::{Any, ContainerId, Envelope, ExecId, Labels, Namespace};

use crate::{Config, CreateOptions, Deadline, Error, ExecOptions, Exit, Process, ProcessState};

/// All tasks of the daemon. Clones are the same thing.
#[derive(Clone)]
pub struct Tasks {
    #[expect(dead_code, reason = "the bodies come next")]
    config: Arc<Config>,
    #[expect(dead_code, reason = "the bodies come next")]
    events: Arc<Exchange>,
}

#[expect(unused_variables, reason = "the bodies come next")]
impl Tasks {
    /// No tasks yet. Makes the two directories where they are missing (mode
    /// 0711, as containerd's).
    pub fn new(config: Config, events: Arc<Exchange>) -> Result<Self, Error> {
        todo!()
    }

    /// Finds every bundle on disk and connects to its shim, all at once.
    /// Returns when each was found, was cleaned up after, or did not answer
    /// within the limit; those that did not are tried again in the background.
    /// To be called once, after somebody can subscribe to the events of dead
    /// shims, and before the API answers.
    pub async fn load(&self) {
        todo!()
    }

    /// Tells the tasks of an event that a shim has published, before it is
    /// passed on, so that an exit is not told twice when that shim dies.
    pub fn observe(&self, envelope: &Envelope) {
        todo!()
    }

    /// Makes a task: the bundle, the shim, the container. Answers with the
    /// init's pid. When anything fails, when the time is up, or when the
    /// returned future is dropped, all of it is undone again.
    pub async fn create(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        options: CreateOptions,
        deadline: Deadline,
    ) -> Result<u32, Error> {
        todo!()
    }

    /// Starts the init, or an exec that was made; answers with its pid.
    pub async fn start(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<&ExecId>,
        deadline: Deadline,
    ) -> Result<u32, Error> {
        todo!()
    }

    /// Deletes a stopped task with its shim and its bundle.
    pub async fn delete(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        deadline: Deadline,
    ) -> Result<Exit, Error> {
        todo!()
    }

    /// Deletes a stopped exec.
    pub async fn delete_exec(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: &ExecId,
        deadline: Deadline,
    ) -> Result<Exit, Error> {
        todo!()
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
        todo!()
    }

    /// Whether a task of this id is known.
    pub fn contains(&self, namespace: &Namespace, id: &ContainerId) -> bool {
        todo!()
    }

    /// The ids of a namespace's tasks, in order.
    pub fn ids(&self, namespace: &Namespace) -> Vec<ContainerId> {
        todo!()
    }

    /// The state of the init, or of an exec.
    pub async fn state(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<&ExecId>,
        deadline: Deadline,
    ) -> Result<ProcessState, Error> {
        todo!()
    }

    /// The states of all inits of a namespace, asked for at once. A shim that
    /// does not answer within the limit is listed as unknown; a task that is
    /// gone meanwhile is not listed.
    pub async fn list(&self, namespace: &Namespace, deadline: Deadline) -> Vec<ProcessState> {
        todo!()
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
        todo!()
    }

    /// Freezes the container.
    pub async fn pause(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        deadline: Deadline,
    ) -> Result<(), Error> {
        todo!()
    }

    /// Lets a frozen container go on.
    pub async fn resume(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        deadline: Deadline,
    ) -> Result<(), Error> {
        todo!()
    }

    /// Every process of the container.
    pub async fn processes(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        deadline: Deadline,
    ) -> Result<Vec<Process>, Error> {
        todo!()
    }

    /// Sets the size of a terminal, in characters.
    pub async fn resize_pty(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<&ExecId>,
        width: u32,
        height: u32,
        deadline: Deadline,
    ) -> Result<(), Error> {
        todo!()
    }

    /// Ends a process's stdin.
    pub async fn close_stdin(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<&ExecId>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        todo!()
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
        todo!()
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
        todo!()
    }

    /// Waits for the init's exit, or an exec's.
    pub async fn wait(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        exec: Option<&ExecId>,
        deadline: Deadline,
    ) -> Result<Exit, Error> {
        todo!()
    }

    /// The container's cgroup statistics (`io.containerd.cgroups.v1.Metrics`
    /// or `…v2.Metrics`); `None` where the runtime has none.
    pub async fn stats(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        deadline: Deadline,
    ) -> Result<Option<Any>, Error> {
        todo!()
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
        todo!()
    }
}
