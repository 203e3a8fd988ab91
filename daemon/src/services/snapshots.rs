//! The service `containerd.services.snapshots.v1` (containerd,
//! `plugins/services/snapshots`), for every snapshotter by its name.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use davit_events::Exchange;
use davit_index::{Error, SnapshotInfo, Snapshotter};
use davit_protocols::convert::grpc::{pack, timestamp};
use davit_protocols::grpc::containerd::events as wire_events;
use davit_protocols::grpc::containerd::services::snapshots::v1 as wire;
use davit_protocols::topics;
use davit_snapshots::SnapshotKind;
use davit_types::Mount;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use wire::snapshots_server::Snapshots as Service;

use super::{blocking, lease, namespace, publish};

/// How many snapshots one message of a list tells of, as with containerd.
const LIST_BLOCK: usize = 100;

/// Serves snapshots from the index and the backends.
#[derive(Clone)]
pub struct Snapshots {
    /// By name.
    pub snapshotters: BTreeMap<String, Arc<Snapshotter>>,
    /// Who is told of changes.
    pub events: Arc<Exchange>,
}

impl Snapshots {
    fn find(&self, name: &str) -> Result<Arc<Snapshotter>, Status> {
        let refuse = |what: String| Status::invalid_argument(format!("{what}: invalid argument"));
        if name.is_empty() {
            return Err(refuse("snapshotter argument missing".to_owned()));
        }
        let found = self.snapshotters.get(name).cloned();
        found.ok_or_else(|| refuse(format!("snapshotter not loaded: {name}")))
    }
}

#[tonic::async_trait]
impl Service for Snapshots {
    async fn prepare(
        &self,
        request: Request<wire::PrepareSnapshotRequest>,
    ) -> Result<Response<wire::PrepareSnapshotResponse>, Status> {
        let snapshotter = self.find(&request.get_ref().snapshotter)?;
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let wire::PrepareSnapshotRequest { snapshotter: name, key, parent, labels } =
            request.into_inner();
        let events = Arc::clone(&self.events);
        let mounts = blocking(move || {
            let mounts = snapshotter.prepare(&namespace, &key, &parent, &labels, lease.as_ref())?;
            let event = pack(&wire_events::SnapshotPrepare { key, parent, snapshotter: name });
            publish(&events, &namespace, topics::SNAPSHOT_PREPARE, event);
            Ok::<_, Error>(mounts)
        })
        .await?;
        Ok(Response::new(wire::PrepareSnapshotResponse { mounts: to_wire(mounts) }))
    }

    async fn view(
        &self,
        request: Request<wire::ViewSnapshotRequest>,
    ) -> Result<Response<wire::ViewSnapshotResponse>, Status> {
        let snapshotter = self.find(&request.get_ref().snapshotter)?;
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let wire::ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let mounts =
            blocking(move || snapshotter.view(&namespace, &key, &parent, &labels, lease.as_ref()))
                .await?;
        Ok(Response::new(wire::ViewSnapshotResponse { mounts: to_wire(mounts) }))
    }

    async fn mounts(
        &self,
        request: Request<wire::MountsRequest>,
    ) -> Result<Response<wire::MountsResponse>, Status> {
        let snapshotter = self.find(&request.get_ref().snapshotter)?;
        let namespace = namespace(&request)?;
        let key = request.into_inner().key;
        let mounts = blocking(move || snapshotter.mounts(&namespace, &key)).await?;
        Ok(Response::new(wire::MountsResponse { mounts: to_wire(mounts) }))
    }

    async fn commit(
        &self,
        request: Request<wire::CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let snapshotter = self.find(&request.get_ref().snapshotter)?;
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let wire::CommitSnapshotRequest { snapshotter: in_name, name, key, labels, parent } =
            request.into_inner();
        let events = Arc::clone(&self.events);
        blocking(move || {
            snapshotter.commit(&namespace, &name, &key, &parent, &labels, lease.as_ref())?;
            let event = pack(&wire_events::SnapshotCommit { key, name, snapshotter: in_name });
            publish(&events, &namespace, topics::SNAPSHOT_COMMIT, event);
            Ok::<_, Error>(())
        })
        .await?;
        Ok(Response::new(()))
    }

    async fn remove(
        &self,
        request: Request<wire::RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let snapshotter = self.find(&request.get_ref().snapshotter)?;
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let wire::RemoveSnapshotRequest { snapshotter: name, key } = request.into_inner();
        let events = Arc::clone(&self.events);
        blocking(move || {
            snapshotter.remove(&namespace, &key, lease.as_ref())?;
            let event = pack(&wire_events::SnapshotRemove { key, snapshotter: name });
            publish(&events, &namespace, topics::SNAPSHOT_REMOVE, event);
            Ok::<_, Error>(())
        })
        .await?;
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<wire::StatSnapshotRequest>,
    ) -> Result<Response<wire::StatSnapshotResponse>, Status> {
        let snapshotter = self.find(&request.get_ref().snapshotter)?;
        let namespace = namespace(&request)?;
        let key = request.into_inner().key;
        let info = blocking(move || snapshotter.stat(&namespace, &key)).await?;
        Ok(Response::new(wire::StatSnapshotResponse { info: Some(info_to_wire(info)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateSnapshotRequest>,
    ) -> Result<Response<wire::UpdateSnapshotResponse>, Status> {
        let snapshotter = self.find(&request.get_ref().snapshotter)?;
        let namespace = namespace(&request)?;
        let wire::UpdateSnapshotRequest { info, update_mask, .. } = request.into_inner();
        let wire::Info { name, labels, .. } = info.unwrap_or_default();
        let paths = update_mask.unwrap_or_default().paths;
        let info = blocking(move || snapshotter.update(&namespace, &name, &labels, &paths)).await?;
        Ok(Response::new(wire::UpdateSnapshotResponse { info: Some(info_to_wire(info)) }))
    }

    type ListStream =
        Pin<Box<dyn Stream<Item = Result<wire::ListSnapshotsResponse, Status>> + Send>>;

    async fn list(
        &self,
        request: Request<wire::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let snapshotter = self.find(&request.get_ref().snapshotter)?;
        let namespace = namespace(&request)?;
        let filters = request.into_inner().filters;
        let found = blocking(move || snapshotter.list(&namespace, &filters)).await?;
        let infos: Vec<_> = found.into_iter().map(info_to_wire).collect();
        let blocks: Vec<_> = infos
            .chunks(LIST_BLOCK)
            .map(|block| Ok(wire::ListSnapshotsResponse { info: block.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(blocks))))
    }

    async fn usage(
        &self,
        request: Request<wire::UsageRequest>,
    ) -> Result<Response<wire::UsageResponse>, Status> {
        let snapshotter = self.find(&request.get_ref().snapshotter)?;
        let namespace = namespace(&request)?;
        let key = request.into_inner().key;
        let usage = blocking(move || snapshotter.usage(&namespace, &key)).await?;
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (size, inodes) = (signed(usage.size), signed(usage.inodes));
        Ok(Response::new(wire::UsageResponse { size, inodes }))
    }

    async fn cleanup(
        &self,
        request: Request<wire::CleanupRequest>,
    ) -> Result<Response<()>, Status> {
        let snapshotter = self.find(&request.get_ref().snapshotter)?;
        blocking(move || snapshotter.cleanup()).await?;
        Ok(Response::new(()))
    }
}

fn to_wire(mounts: Vec<Mount>) -> Vec<davit_protocols::grpc::containerd::types::Mount> {
    mounts.into_iter().map(Into::into).collect()
}

fn info_to_wire(info: SnapshotInfo) -> wire::Info {
    let kind = match info.kind {
        SnapshotKind::View => wire::Kind::View,
        SnapshotKind::Active => wire::Kind::Active,
        SnapshotKind::Committed => wire::Kind::Committed,
    };
    wire::Info {
        name: info.name,
        parent: info.parent,
        kind: kind.into(),
        created_at: Some(timestamp(info.created_at)),
        updated_at: Some(timestamp(info.updated_at)),
        labels: info.labels,
    }
}
