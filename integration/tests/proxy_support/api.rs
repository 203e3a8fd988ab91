//! A daemon's snapshotter by its API: as a client sees it, and as a backend.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use davit_protocols::grpc::containerd::services::snapshots::v1 as wire;
use davit_snapshots::{Backend, Error, SnapshotId, SnapshotKind, Usage};
use davit_types::{Labels, Mount};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use wire::snapshots_client::SnapshotsClient;

/// The namespace that all here is in.
pub const NAMESPACE: &str = "proxied";

/// A message on behalf of it.
pub fn ask<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", NAMESPACE.parse().unwrap());
    request
}

/// A daemon's snapshotter, by its API.
pub struct Snapshots {
    pub runtime: Runtime,
    pub channel: Channel,
    name: String,
}

impl Snapshots {
    /// The snapshotter `name` of the daemon at `socket`.
    pub fn at(socket: &Path, name: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()));
        let channel = runtime.block_on(endpoint.unwrap().connect()).unwrap();
        Self { runtime, channel, name: name.to_owned() }
    }

    pub fn client(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    pub fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>, Status> {
        let message = wire::PrepareSnapshotRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: labels.clone(),
        };
        let answer = self.runtime.block_on(self.client().prepare(ask(message)))?;
        Ok(answer.into_inner().mounts.into_iter().map(Into::into).collect())
    }

    pub fn view(&self, key: &str, parent: &str, labels: &Labels) -> Result<(), Status> {
        let message = wire::ViewSnapshotRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: labels.clone(),
        };
        self.runtime.block_on(self.client().view(ask(message))).map(drop)
    }

    pub fn mounts(&self, key: &str) -> Result<Vec<Mount>, Status> {
        let message = wire::MountsRequest { snapshotter: self.name.clone(), key: key.to_owned() };
        let answer = self.runtime.block_on(self.client().mounts(ask(message)))?;
        Ok(answer.into_inner().mounts.into_iter().map(Into::into).collect())
    }

    pub fn commit(
        &self,
        name: &str,
        key: &str,
        parent: &str,
        labels: &Labels,
    ) -> Result<(), Status> {
        let message = wire::CommitSnapshotRequest {
            snapshotter: self.name.clone(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels: labels.clone(),
            parent: parent.to_owned(),
        };
        self.runtime.block_on(self.client().commit(ask(message))).map(drop)
    }

    pub fn remove(&self, key: &str) -> Result<(), Status> {
        let message =
            wire::RemoveSnapshotRequest { snapshotter: self.name.clone(), key: key.to_owned() };
        self.runtime.block_on(self.client().remove(ask(message))).map(drop)
    }

    pub fn usage(&self, key: &str) -> Result<Usage, Status> {
        let message = wire::UsageRequest { snapshotter: self.name.clone(), key: key.to_owned() };
        let usage = self.runtime.block_on(self.client().usage(ask(message)))?.into_inner();
        let unsigned = i64::unsigned_abs;
        Ok(Usage { inodes: unsigned(usage.inodes), size: unsigned(usage.size) })
    }

    pub fn stat(&self, key: &str) -> Result<wire::Info, Status> {
        let message =
            wire::StatSnapshotRequest { snapshotter: self.name.clone(), key: key.to_owned() };
        let answer = self.runtime.block_on(self.client().stat(ask(message)))?;
        Ok(answer.into_inner().info.unwrap())
    }

    pub fn label(&self, name: &str, labels: Labels) -> Result<wire::Info, Status> {
        let info = wire::Info { name: name.to_owned(), labels, ..wire::Info::default() };
        let message = wire::UpdateSnapshotRequest {
            snapshotter: self.name.clone(),
            info: Some(info),
            update_mask: None,
        };
        let answer = self.runtime.block_on(self.client().update(ask(message)))?;
        Ok(answer.into_inner().info.unwrap())
    }

    pub fn list(&self, filters: &[&str]) -> Vec<wire::Info> {
        let message = wire::ListSnapshotsRequest {
            snapshotter: self.name.clone(),
            filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
        };
        self.runtime.block_on(async {
            let mut answers = self.client().list(ask(message)).await.unwrap().into_inner();
            let mut infos = Vec::new();
            while let Some(answer) = answers.message().await.unwrap() {
                infos.extend(answer.info);
            }
            infos
        })
    }

    pub fn names(&self) -> Vec<String> {
        self.list(&[]).into_iter().map(|info| info.name).collect()
    }
}

/// A daemon's snapshotter as a backend, for the suite that every backend
/// runs: the daemon keeps the graph, and the ids are names in it.
pub struct ByApi<'a> {
    snapshots: &'a Snapshots,
    /// What the index was said to have.
    seen: Mutex<BTreeSet<SnapshotId>>,
}

impl<'a> ByApi<'a> {
    /// The backend that `snapshots` is.
    pub fn open(snapshots: &'a Snapshots) -> Self {
        let names = snapshots.names();
        let ids = names.iter().map(|name| name.trim_start_matches('c').parse().unwrap());
        Self { snapshots, seen: Mutex::new(ids.collect()) }
    }
}

fn committed(parents: &[SnapshotId]) -> String {
    parents.first().map_or_else(String::new, |id| format!("c{id}"))
}

fn failed(status: Status) -> Error {
    Error::Io {
        operation: "ask",
        path: "the daemon".into(),
        source: std::io::Error::other(status.to_string()),
    }
}

impl Backend for ByApi<'_> {
    fn name(&self) -> &'static str {
        "front"
    }

    fn create(
        &self,
        id: SnapshotId,
        kind: SnapshotKind,
        parents: &[SnapshotId],
        labels: &Labels,
    ) -> Result<(), Error> {
        let (key, parent) = (id.to_string(), committed(parents));
        let made = match kind {
            SnapshotKind::View => self.snapshots.view(&key, &parent, labels),
            _ => self.snapshots.prepare(&key, &parent, labels).map(drop),
        };
        made.map_err(failed)
    }

    fn mounts(
        &self,
        id: SnapshotId,
        _: SnapshotKind,
        _: &[SnapshotId],
        _: &Labels,
    ) -> Result<Vec<Mount>, Error> {
        self.snapshots.mounts(&id.to_string()).map_err(failed)
    }

    fn usage(&self, id: SnapshotId) -> Result<Usage, Error> {
        let usage = self.snapshots.usage(&id.to_string());
        usage.or_else(|_| self.snapshots.usage(&format!("c{id}"))).map_err(failed)
    }

    fn commit(&self, id: SnapshotId) -> Result<Usage, Error> {
        let name = format!("c{id}");
        self.snapshots.commit(&name, &id.to_string(), "", &Labels::new()).map_err(failed)?;
        self.snapshots.usage(&name).map_err(failed)
    }

    fn remove(&self, id: SnapshotId) -> Result<(), Error> {
        for key in [id.to_string(), format!("c{id}")] {
            match self.snapshots.remove(&key) {
                Err(status) if status.code() == Code::NotFound => {}
                other => other.map_err(failed)?,
            }
        }
        Ok(())
    }

    fn cleanup(&self, live: &[SnapshotId]) -> Result<(), Error> {
        let live: BTreeSet<SnapshotId> = live.iter().copied().collect();
        let gone: Vec<_> = self.seen.lock().unwrap().difference(&live).copied().collect();
        // Higher numbers stand on lower ones.
        for id in gone.into_iter().rev() {
            self.remove(id)?;
        }
        *self.seen.lock().unwrap() = live;
        Ok(())
    }
}
