//! The restart monitor: keeps containers in the state that their labels ask
//! for.
//!
//! It looks at all labelled containers at an interval. What it does about one
//! of them takes as long as it takes and delays no other: a container that is
//! still being worked on is left out of the next round.
//!
//! Inherited from containerd 2 (`plugins/restart`): what is done and in which
//! order, and that a new task has no input.

mod origin;
mod policy;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use davit_events::Exchange;
use davit_index::{Container, ContentStore, Index, Snapshotter};
use davit_protocols::convert::grpc::pack;
use davit_protocols::grpc::containerd::events::ContainerUpdate;
use davit_protocols::topics;
use davit_runtime::{CreateOptions, Deadline, Status, Stdio, Tasks};
use davit_types::{ContainerId, Kind, Mount, Namespace};
use serde_json::Value;

use crate::proxy;
use crate::services::publish;
use policy::{Action, COUNT, LOG_URI, STATUS};

/// How long a task's shim has for each of kill, exit and delete.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long a new task has until it runs.
const START_LIMIT: Duration = Duration::from_secs(120);
/// SIGKILL.
const KILL: u32 = 9;

/// Keeps containers in the state that their labels ask for. Clones are the
/// same thing.
#[derive(Clone)]
pub struct Monitor {
    /// How long between two looks.
    pub interval: Duration,
    /// What containers there are.
    pub index: Arc<Index>,
    /// What their images say.
    pub content: Arc<ContentStore>,
    /// Their root filesystems.
    pub snapshotters: BTreeMap<String, Arc<Snapshotter>>,
    /// Root filesystems that other processes keep.
    pub proxies: BTreeMap<String, Arc<proxy::Snapshotter>>,
    /// Their tasks.
    pub tasks: Tasks,
    /// Who is told of changed labels.
    pub events: Arc<Exchange>,
    /// Which are being worked on.
    pub busy: Arc<Mutex<BTreeSet<(Namespace, String)>>>,
}

impl Monitor {
    /// Runs as long as it is polled.
    pub async fn run(self) {
        let interval =
            if self.interval.is_zero() { Duration::from_secs(10) } else { self.interval };
        loop {
            let monitor = self.clone();
            // A panic would be the index's, and logged there.
            let found = tokio::task::spawn_blocking(move || monitor.labelled()).await;
            for (namespace, container) in found.unwrap_or_default() {
                self.look_at(namespace, container);
            }
            tokio::time::sleep(interval).await;
        }
    }

    fn labelled(&self) -> Vec<(Namespace, Container)> {
        let mut found = Vec::new();
        let filter = [format!("labels.{STATUS:?}")];
        let namespaces = self.index.namespaces().list().unwrap_or_else(|error| {
            log::error!(error = error.full_message().as_str(); "restart: no namespaces");
            Vec::new()
        });
        for (namespace, _) in namespaces {
            match self.index.containers().list(&namespace, &filter) {
                Ok(containers) => {
                    found.extend(containers.into_iter().map(|c| (namespace.clone(), c)));
                }
                Err(error) => log::error!(namespace:%, error = error.full_message().as_str();
                    "restart: no containers"),
            }
        }
        found
    }

    /// Works on one container, unless somebody does already.
    fn look_at(&self, namespace: Namespace, container: Container) {
        let key = (namespace.clone(), container.id.clone());
        if !self.busy().insert(key.clone()) {
            return;
        }
        let monitor = self.clone();
        tokio::spawn(async move {
            let name = container.id.clone();
            if let Err(reason) = monitor.reconcile(&namespace, container).await {
                log::error!(namespace:%, container = name.as_str(), error = reason.as_str();
                    "restart: container stays as it is");
            }
            monitor.busy().remove(&key);
        });
    }

    async fn reconcile(&self, namespace: &Namespace, container: Container) -> Result<(), String> {
        let id = ContainerId::new(container.id.clone()).map_err(|error| error.to_string())?;
        let deadline = Deadline::after(STOP_LIMIT);
        let task = match self.tasks.state(namespace, &id, None, deadline).await {
            Ok(state) => Some((state.status, state.exit_status)),
            Err(davit_runtime::Error::NotFound(_)) => None,
            // A shim that does not answer may well have a running container.
            Err(error) => return Err(error.full_message()),
        };
        match policy::decide(&container.labels, task)? {
            Action::Leave => Ok(()),
            Action::Stop => self.end_task(namespace, &id).await,
            Action::Start { count } => {
                let known = container.clone();
                let (monitor, owner) = (self.clone(), namespace.clone());
                let options =
                    tokio::task::spawn_blocking(move || monitor.prepare(&owner, known, count))
                        .await
                        .map_err(|failure| failure.to_string())??;
                log::info!(namespace:%, container = id.as_str(), count; "restarting container");
                if task.is_some() {
                    self.end_task(namespace, &id).await?;
                }
                self.start(namespace, &id, options).await
            }
        }
    }

    /// Kills a task, if that needs doing, and deletes it.
    async fn end_task(&self, namespace: &Namespace, id: &ContainerId) -> Result<(), String> {
        let limit = || Deadline::after(STOP_LIMIT);
        let state = self.tasks.state(namespace, id, None, limit()).await;
        if !state.is_ok_and(|state| state.status == Status::Stopped) {
            // What cannot be killed may have gone; deleting tells.
            if self.tasks.kill(namespace, id, None, KILL, true, limit()).await.is_ok() {
                let exit = self.tasks.wait(namespace, id, None, limit()).await;
                exit.map_err(|error| error.full_message())?;
            }
        }
        match self.tasks.delete(namespace, id, limit()).await {
            Ok(_) | Err(davit_runtime::Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error.full_message()),
        }
    }

    async fn start(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        options: CreateOptions,
    ) -> Result<(), String> {
        let deadline = Deadline::after(START_LIMIT);
        let made = self.tasks.create(namespace, id, options, deadline).await;
        made.map_err(|error| error.full_message())?;
        let started = self.tasks.start(namespace, id, None, deadline).await;
        started.map(|_| ()).map_err(|error| error.full_message())
    }

    /// Counts the restart, and puts together what the new task is to be.
    /// Blocks.
    fn prepare(
        &self,
        namespace: &Namespace,
        container: Container,
        count: u64,
    ) -> Result<CreateOptions, String> {
        let log_uri = container.labels.get(LOG_URI).cloned().unwrap_or_default();
        self.check_origin(namespace, &container, &log_uri)?;
        let spec = container.spec.as_ref().map(|spec| spec.value.as_slice()).unwrap_or_default();
        let spec: Value = serde_json::from_slice(spec).unwrap_or_default();
        let rootfs = self.rootfs(namespace, &container, &spec)?;
        self.count(namespace, &container, count)?;
        Ok(CreateOptions {
            rootfs,
            stdio: Stdio {
                stdin: String::new(),
                stdout: log_uri.clone(),
                stderr: log_uri,
                terminal: spec.pointer("/process/terminal").and_then(Value::as_bool) == Some(true),
            },
            spec: container.spec,
            runtime: container.runtime.name,
            runtime_options: container.runtime.options,
            ..CreateOptions::default()
        })
    }

    /// Refuses labels that came with an image, and a program as logger where
    /// nobody can tell.
    fn check_origin(
        &self,
        namespace: &Namespace,
        container: &Container,
        log_uri: &str,
    ) -> Result<(), String> {
        let image = &container.image;
        if image.is_empty() {
            return Ok(());
        }
        match origin::image_has_labels(&self.index, &self.content, namespace, image) {
            Some(false) => Ok(()),
            Some(true) => Err(format!("the image {image:?} brings labels for restarts")),
            None if log_uri.starts_with("binary:") => {
                let words = "is not there to show that it does not name the logger";
                Err(format!("the image {image:?} {words}"))
            }
            None => Ok(()),
        }
    }

    fn rootfs(
        &self,
        namespace: &Namespace,
        container: &Container,
        spec: &Value,
    ) -> Result<Vec<Mount>, String> {
        if container.snapshot_key.is_empty() {
            return Ok(Vec::new());
        }
        let (name, key) = (&container.snapshotter, &container.snapshot_key);
        let mounts = match (self.snapshotters.get(name), self.proxies.get(name)) {
            (Some(own), _) => own.mounts(namespace, key).map_err(|error| error.full_message()),
            (None, Some(proxy)) => {
                proxy.mounts_blocking(namespace, key).map_err(|error| error.full_message())
            }
            (None, None) => Err(format!("no snapshotter {name:?}")),
        };
        let mut mounts = mounts?;
        let label = spec.pointer("/linux/mountLabel").and_then(Value::as_str).unwrap_or_default();
        if !label.is_empty() {
            for mount in &mut mounts {
                mount.options.push(format!("context=\"{label}\""));
            }
        }
        Ok(mounts)
    }

    fn count(
        &self,
        namespace: &Namespace,
        container: &Container,
        count: u64,
    ) -> Result<(), String> {
        let mut counted = container.clone();
        counted.labels.insert(COUNT.to_owned(), count.to_string());
        let paths = [format!("labels.{COUNT}")];
        let updated = self.index.containers().update(namespace, counted, &paths);
        let updated = updated.map_err(|error| error.full_message())?;
        let event = pack(&ContainerUpdate {
            id: updated.id,
            image: updated.image,
            labels: updated.labels,
            snapshot_key: updated.snapshot_key,
        });
        publish(&self.events, namespace, topics::CONTAINER_UPDATE, event);
        Ok(())
    }

    /// The set is changed by single inserts and removals.
    fn busy(&self) -> std::sync::MutexGuard<'_, BTreeSet<(Namespace, String)>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
