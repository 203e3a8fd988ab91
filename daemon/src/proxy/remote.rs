//! The calls of containerd's Snapshots service, as a proxy makes them.

use std::time::Duration;

use davit_index::{RemoteCommit, SnapshotInfo, Wanted};
use davit_protocols::convert::grpc::time;
use davit_protocols::error::RemoteError;
use davit_protocols::grpc::containerd::services::snapshots::v1 as wire;
use davit_protocols::grpc::containerd::types::Mount as WireMount;
use davit_snapshots::{SnapshotKind, Usage};
use davit_types::{ErrorKind, Labels, Mount, Namespace};
use prost_types::FieldMask;
use tonic::transport::Channel;
use wire::snapshots_client::SnapshotsClient;

use super::Error;
use super::link::{Link, MESSAGE_LIMIT, about};

/// For looking at what is there.
const LOOK_LIMIT: Duration = Duration::from_secs(60);
/// For making and removing snapshots: a layer may have to be converted, or
/// its index fetched from a registry.
const WORK_LIMIT: Duration = Duration::from_secs(600);

/// A snapshotter in another process.
#[derive(Debug)]
pub(super) struct Remote {
    link: Link,
}

fn client(channel: Channel) -> SnapshotsClient<Channel> {
    SnapshotsClient::new(channel)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT)
}

impl Remote {
    pub(super) fn new(link: Link) -> Self {
        Self { link }
    }

    fn snapshotter(&self) -> String {
        self.link.name().to_owned()
    }

    /// Makes a snapshot; `kind` is `View` or `Active`.
    pub(super) async fn create(
        &self,
        namespace: &Namespace,
        kind: SnapshotKind,
        wanted: &Wanted,
    ) -> Result<Vec<Mount>, Error> {
        let Wanted { remote, remote_parent, labels, .. } = wanted.clone();
        let (snapshotter, key, parent) = (self.snapshotter(), remote, remote_parent);
        let mounts = self.link.call(WORK_LIMIT, |channel| async move {
            let mut client = client(channel);
            if kind == SnapshotKind::View {
                let message = wire::ViewSnapshotRequest { snapshotter, key, parent, labels };
                return Ok(client.view(about(namespace, message)).await?.into_inner().mounts);
            }
            let message = wire::PrepareSnapshotRequest { snapshotter, key, parent, labels };
            Ok(client.prepare(about(namespace, message)).await?.into_inner().mounts)
        });
        Ok(from_wire(mounts.await?))
    }

    pub(super) async fn mounts(
        &self,
        namespace: &Namespace,
        key: String,
    ) -> Result<Vec<Mount>, Error> {
        let message = wire::MountsRequest { snapshotter: self.snapshotter(), key };
        let mounts = self.link.call(LOOK_LIMIT, |channel| async move {
            Ok(client(channel).mounts(about(namespace, message)).await?.into_inner().mounts)
        });
        Ok(from_wire(mounts.await?))
    }

    pub(super) async fn commit(
        &self,
        namespace: &Namespace,
        commit: RemoteCommit,
    ) -> Result<(), Error> {
        let RemoteCommit { from, to, onto, labels } = commit;
        let message = wire::CommitSnapshotRequest {
            snapshotter: self.snapshotter(),
            name: to,
            key: from,
            labels,
            parent: onto,
        };
        let committed = self.link.call(WORK_LIMIT, |channel| async move {
            client(channel).commit(about(namespace, message)).await
        });
        committed.await.map(drop)
    }

    pub(super) async fn remove(&self, namespace: &Namespace, key: String) -> Result<(), Error> {
        let message = wire::RemoveSnapshotRequest { snapshotter: self.snapshotter(), key };
        let removed = self.link.call(WORK_LIMIT, |channel| async move {
            client(channel).remove(about(namespace, message)).await
        });
        removed.await.map(drop)
    }

    pub(super) async fn stat(
        &self,
        namespace: &Namespace,
        key: String,
    ) -> Result<SnapshotInfo, Error> {
        let message = wire::StatSnapshotRequest { snapshotter: self.snapshotter(), key };
        let info = self.link.call(LOOK_LIMIT, |channel| async move {
            Ok(client(channel).stat(about(namespace, message)).await?.into_inner().info)
        });
        info_from_wire(info.await?.unwrap_or_default())
    }

    /// Replaces the labels that `paths` name.
    pub(super) async fn update(
        &self,
        namespace: &Namespace,
        name: String,
        labels: Labels,
        paths: Vec<String>,
    ) -> Result<SnapshotInfo, Error> {
        let message = wire::UpdateSnapshotRequest {
            snapshotter: self.snapshotter(),
            info: Some(wire::Info { name, labels, ..wire::Info::default() }),
            update_mask: (!paths.is_empty()).then_some(FieldMask { paths }),
        };
        let info = self.link.call(LOOK_LIMIT, |channel| async move {
            Ok(client(channel).update(about(namespace, message)).await?.into_inner().info)
        });
        info_from_wire(info.await?.unwrap_or_default())
    }

    pub(super) async fn list(
        &self,
        namespace: &Namespace,
        filters: Vec<String>,
    ) -> Result<Vec<SnapshotInfo>, Error> {
        let message = wire::ListSnapshotsRequest { snapshotter: self.snapshotter(), filters };
        let infos = self.link.call(LOOK_LIMIT, |channel| async move {
            let mut stream = client(channel).list(about(namespace, message)).await?.into_inner();
            let mut infos = Vec::new();
            while let Some(block) = stream.message().await? {
                infos.extend(block.info);
            }
            Ok(infos)
        });
        match infos.await {
            // What some say that have never had any.
            Err(error) if error.answered() == Some(ErrorKind::NotFound) => Ok(Vec::new()),
            infos => infos?.into_iter().map(info_from_wire).collect(),
        }
    }

    pub(super) async fn usage(&self, namespace: &Namespace, key: String) -> Result<Usage, Error> {
        let message = wire::UsageRequest { snapshotter: self.snapshotter(), key };
        let usage = self.link.call(WORK_LIMIT, |channel| async move {
            Ok(client(channel).usage(about(namespace, message)).await?.into_inner())
        });
        let wire::UsageResponse { size, inodes } = usage.await?;
        let unsigned = |number| u64::try_from(number).unwrap_or(0);
        Ok(Usage { inodes: unsigned(inodes), size: unsigned(size) })
    }

    /// Frees what removed snapshots have left; done also where the snapshotter
    /// knows no such call.
    pub(super) async fn cleanup(&self, namespace: &Namespace) -> Result<(), Error> {
        let message = wire::CleanupRequest { snapshotter: self.snapshotter() };
        let cleaned = self.link.call(WORK_LIMIT, |channel| async move {
            client(channel).cleanup(about(namespace, message)).await
        });
        match cleaned.await {
            Err(error) if error.answered() == Some(ErrorKind::Unimplemented) => Ok(()),
            other => other.map(drop),
        }
    }
}

fn from_wire(mounts: Vec<WireMount>) -> Vec<Mount> {
    mounts.into_iter().map(Into::into).collect()
}

fn info_from_wire(info: wire::Info) -> Result<SnapshotInfo, Error> {
    let kind = match info.kind() {
        wire::Kind::View => SnapshotKind::View,
        wire::Kind::Committed => SnapshotKind::Committed,
        wire::Kind::Active | wire::Kind::Unknown => SnapshotKind::Active,
    };
    let moment = |field, stamp: Option<prost_types::Timestamp>| {
        time(field, &stamp.unwrap_or_default()).map_err(|error| {
            let message = format!("snapshot {:?}: {error}", info.name);
            Error::Remote(RemoteError { kind: ErrorKind::Unknown, message })
        })
    };
    let created_at = moment("created_at", info.created_at)?;
    let updated_at = moment("updated_at", info.updated_at)?;
    let wire::Info { name, parent, labels, .. } = info;
    Ok(SnapshotInfo { name, parent, kind, labels, created_at, updated_at })
}
