//! The snapshotter that layers go to: one of ours, or one that runs in
//! another process and is reached over the daemon's own API.
//!
//! Everything blocks. What is told of changes is told here for ours, and by
//! the API for the others.

use std::sync::Arc;

use davit_client::Client;
use davit_diff::Whiteouts;
use davit_distribution::pull::Failure;
use davit_events::Exchange;
use davit_index::{LeaseId, Snapshotter};
use davit_protocols::convert::grpc::pack;
use davit_protocols::grpc::containerd::events;
use davit_protocols::grpc::containerd::services::snapshots::v1 as wire;
use davit_protocols::topics;
use davit_snapshots::DeletionMarks;
use davit_types::{Any, ErrorKind, Kind, Labels, Mount, Namespace};
use tokio::runtime::Handle;

use crate::services::publish;

/// Where snapshots are made.
#[derive(Clone)]
pub enum Snapshots {
    /// By a snapshotter of ours.
    Here(Arc<Snapshotter>),
    /// By another process.
    Elsewhere {
        /// The daemon's own API.
        client: Client,
        /// The snapshotter's name there.
        name: String,
        /// Whether it wants to know which image a layer is of, so that it can
        /// fetch it by itself.
        wants_source: bool,
    },
}

/// The snapshots of one namespace, held by one lease.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) snapshots: Snapshots,
    pub(super) events: Arc<Exchange>,
    pub(super) namespace: Namespace,
    pub(super) lease: LeaseId,
}

impl Snapshots {
    /// The snapshotter's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Here(snapshotter) => snapshotter.name(),
            Self::Elsewhere { name, .. } => name,
        }
    }

    /// How deletions are marked in layers that are written before those below
    /// them; `None` where that cannot be done.
    pub(super) fn independent_layers(&self) -> Option<Whiteouts> {
        let Self::Here(snapshotter) = self else { return None };
        snapshotter.independent_layers().map(|marks| match marks {
            DeletionMarks::Trusted => Whiteouts::Overlay,
            DeletionMarks::User => Whiteouts::OverlayUser,
        })
    }

    /// Whether layers are to be labelled with where they come from.
    pub(super) fn wants_source(&self) -> bool {
        matches!(self, Self::Elsewhere { wants_source: true, .. })
    }
}

impl Place {
    pub(super) fn prepare(
        &self,
        key: &str,
        parent: &str,
        labels: &Labels,
    ) -> Result<Vec<Mount>, Failure> {
        let snapshotter = match &self.snapshots {
            Snapshots::Here(snapshotter) => snapshotter,
            Snapshots::Elsewhere { client, name, .. } => {
                let request = wire::PrepareSnapshotRequest {
                    snapshotter: name.clone(),
                    key: key.to_owned(),
                    parent: parent.to_owned(),
                    labels: labels.clone(),
                };
                let mut service = self.leased(client)?.snapshots();
                let answer = remote(service.prepare(request))?;
                return Ok(answer.mounts.into_iter().map(Mount::from).collect());
            }
        };
        let made = snapshotter.prepare(&self.namespace, key, parent, labels, Some(&self.lease));
        let mounts = made.map_err(|error| Failure::of(&error))?;
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let snapshotter = snapshotter.name().to_owned();
        let event = pack(&events::SnapshotPrepare { key, parent, snapshotter });
        self.tell(topics::SNAPSHOT_PREPARE, event);
        Ok(mounts)
    }

    pub(super) fn exists(&self, key: &str) -> Result<bool, Failure> {
        let found = match &self.snapshots {
            Snapshots::Here(snapshotter) => {
                let found = snapshotter.stat(&self.namespace, key);
                found.map(drop).map_err(|error| Failure::of(&error))
            }
            Snapshots::Elsewhere { client, name, .. } => {
                let (snapshotter, key) = (name.clone(), key.to_owned());
                let mut service = self.leased(client)?.snapshots();
                remote(service.stat(wire::StatSnapshotRequest { snapshotter, key })).map(drop)
            }
        };
        match found {
            Ok(()) => Ok(true),
            Err(failure) if failure.kind() == ErrorKind::NotFound => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// What to mount to see `key`, which has no parent, on top of `parent`.
    pub(super) fn mounts_over(&self, key: &str, parent: &str) -> Result<Vec<Mount>, Failure> {
        match &self.snapshots {
            Snapshots::Here(snapshotter) => {
                let mounts = snapshotter.mounts_over(&self.namespace, key, parent);
                mounts.map_err(|error| Failure::of(&error))
            }
            Snapshots::Elsewhere { name, .. } => {
                let text = format!("snapshotter {name} does not keep layers apart");
                Err(Failure::new(ErrorKind::Internal, text))
            }
        }
    }

    pub(super) fn commit(
        &self,
        name: &str,
        key: &str,
        parent: &str,
        labels: &Labels,
    ) -> Result<(), Failure> {
        let snapshotter = match &self.snapshots {
            Snapshots::Here(snapshotter) => snapshotter,
            Snapshots::Elsewhere { client, name: snapshotter, .. } => {
                let request = wire::CommitSnapshotRequest {
                    snapshotter: snapshotter.clone(),
                    name: name.to_owned(),
                    key: key.to_owned(),
                    labels: labels.clone(),
                    ..Default::default()
                };
                let mut service = self.leased(client)?.snapshots();
                return remote(service.commit(request)).map(drop);
            }
        };
        let (namespace, lease) = (&self.namespace, Some(&self.lease));
        let done = snapshotter.commit(namespace, name, key, parent, labels, lease);
        done.map_err(|error| Failure::of(&error))?;
        let (key, name) = (key.to_owned(), name.to_owned());
        let snapshotter = snapshotter.name().to_owned();
        let event = pack(&events::SnapshotCommit { key, name, snapshotter });
        self.tell(topics::SNAPSHOT_COMMIT, event);
        Ok(())
    }

    pub(super) fn remove(&self, key: &str) -> Result<(), Failure> {
        let snapshotter = match &self.snapshots {
            Snapshots::Here(snapshotter) => snapshotter,
            Snapshots::Elsewhere { client, name, .. } => {
                let (snapshotter, key) = (name.clone(), key.to_owned());
                let mut service = self.leased(client)?.snapshots();
                let request = wire::RemoveSnapshotRequest { snapshotter, key };
                return remote(service.remove(request)).map(drop);
            }
        };
        let removed = snapshotter.remove(&self.namespace, key, Some(&self.lease));
        removed.map_err(|error| Failure::of(&error))?;
        let (key, snapshotter) = (key.to_owned(), snapshotter.name().to_owned());
        self.tell(topics::SNAPSHOT_REMOVE, pack(&events::SnapshotRemove { key, snapshotter }));
        Ok(())
    }

    fn leased(&self, client: &Client) -> Result<Client, Failure> {
        let client = client.in_namespace(self.namespace.clone());
        client.with_lease(self.lease.as_str()).map_err(|error| Failure::of(&error))
    }

    fn tell(&self, topic: &str, event: Any) {
        publish(&self.events, &self.namespace, topic, event);
    }
}

/// Waits for an answer of the API. On a thread that may block.
fn remote<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Failure> {
    let answer = Handle::current().block_on(call);
    let answer = answer.map_err(davit_client::Error::from);
    answer.map(tonic::Response::into_inner).map_err(|error| Failure::of(&error))
}
