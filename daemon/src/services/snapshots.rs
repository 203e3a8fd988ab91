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
use davit_protocols::grpc::containerd::types::Mount as WireMount;
use davit_protocols::topics;
use davit_snapshots::SnapshotKind;
use davit_types::{Any, Namespace};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use wire::snapshots_server::Snapshots as Service;

use super::{blocking, brief, lease, namespace, publish, status};
use crate::proxy::{self, Creation};

/// How many snapshots one message of a list tells of, as with containerd.
const LIST_BLOCK: usize = 100;

/// Serves snapshots from the index and the backends, or from other processes.
#[derive(Clone)]
pub struct Snapshots {
    /// By name.
    pub snapshotters: BTreeMap<String, Arc<Snapshotter>>,
    /// Those that run elsewhere, by name.
    pub proxies: BTreeMap<String, Arc<proxy::Snapshotter>>,
    /// Who is told of changes.
    pub events: Arc<Exchange>,
}

/// Where a snapshotter is.
enum Place {
    Here(Arc<Snapshotter>),
    Elsewhere(Arc<proxy::Snapshotter>),
}

impl Snapshots {
    fn find(&self, name: &str) -> Result<Place, Status> {
        let refuse = |what: String| Status::invalid_argument(format!("{what}: invalid argument"));
        if name.is_empty() {
            return Err(refuse("snapshotter argument missing".to_owned()));
        }
        if let Some(here) = self.snapshotters.get(name) {
            return Ok(Place::Here(Arc::clone(here)));
        }
        let elsewhere = self.proxies.get(name).cloned().map(Place::Elsewhere);
        elsewhere.ok_or_else(|| refuse(format!("snapshotter not loaded: {name}")))
    }

    /// What publishes an event, when it is called.
    fn news(
        &self,
        namespace: &Namespace,
        topic: &'static str,
        event: Any,
    ) -> impl FnOnce() + Send + 'static {
        let (events, namespace) = (Arc::clone(&self.events), namespace.clone());
        move || publish(&events, &namespace, topic, event)
    }

    async fn create(
        &self,
        name: &str,
        creation: Creation,
        then: impl FnOnce() + Send + 'static,
    ) -> Result<Vec<WireMount>, Status> {
        let mounts = match self.find(name)? {
            Place::Here(snapshotter) => {
                blocking(move || {
                    let Creation { namespace, key, parent, kind, labels, lease } = creation;
                    let lease = lease.as_ref();
                    let mounts = match kind {
                        SnapshotKind::View => {
                            snapshotter.view(&namespace, &key, &parent, &labels, lease)?
                        }
                        _ => snapshotter.prepare(&namespace, &key, &parent, &labels, lease)?,
                    };
                    then();
                    Ok::<_, Error>(mounts)
                })
                .await?
            }
            Place::Elsewhere(proxy) => proxy.create(creation, then).await.map_err(status)?,
        };
        Ok(mounts.into_iter().map(Into::into).collect())
    }
}

#[tonic::async_trait]
impl Service for Snapshots {
    async fn prepare(
        &self,
        request: Request<wire::PrepareSnapshotRequest>,
    ) -> Result<Response<wire::PrepareSnapshotResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let wire::PrepareSnapshotRequest { snapshotter, key, parent, labels } =
            request.into_inner();
        let name = snapshotter.clone();
        let event =
            wire_events::SnapshotPrepare { key: key.clone(), parent: parent.clone(), snapshotter };
        let then = self.news(&namespace, topics::SNAPSHOT_PREPARE, pack(&event));
        let kind = SnapshotKind::Active;
        let creation = Creation { namespace, key, parent, kind, labels, lease };
        let mounts = self.create(&name, creation, then).await?;
        Ok(Response::new(wire::PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<wire::ViewSnapshotRequest>,
    ) -> Result<Response<wire::ViewSnapshotResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let wire::ViewSnapshotRequest { snapshotter, key, parent, labels } = request.into_inner();
        let kind = SnapshotKind::View;
        let creation = Creation { namespace, key, parent, kind, labels, lease };
        let mounts = self.create(&snapshotter, creation, || {}).await?;
        Ok(Response::new(wire::ViewSnapshotResponse { mounts }))
    }

    async fn mounts(
        &self,
        request: Request<wire::MountsRequest>,
    ) -> Result<Response<wire::MountsResponse>, Status> {
        let place = self.find(&request.get_ref().snapshotter)?;
        let namespace = namespace(&request)?;
        let key = request.into_inner().key;
        let mounts = match place {
            Place::Here(here) => blocking(move || here.mounts(&namespace, &key)).await?,
            Place::Elsewhere(proxy) => proxy.mounts(&namespace, &key).await.map_err(status)?,
        };
        let mounts = mounts.into_iter().map(Into::into).collect();
        Ok(Response::new(wire::MountsResponse { mounts }))
    }

    async fn commit(
        &self,
        request: Request<wire::CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let place = self.find(&request.get_ref().snapshotter)?;
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let wire::CommitSnapshotRequest { snapshotter, name, key, labels, parent } =
            request.into_inner();
        let (in_key, in_name) = (key.clone(), name.clone());
        let event = pack(&wire_events::SnapshotCommit { key: in_key, name: in_name, snapshotter });
        let then = self.news(&namespace, topics::SNAPSHOT_COMMIT, event);
        match place {
            Place::Here(here) => {
                blocking(move || {
                    here.commit(&namespace, &name, &key, &parent, &labels, lease.as_ref())?;
                    then();
                    Ok::<_, Error>(())
                })
                .await?;
            }
            Place::Elsewhere(proxy) => {
                let names = (name, key, parent);
                proxy.commit(namespace, names, labels, lease, then).await.map_err(status)?;
            }
        }
        Ok(Response::new(()))
    }

    async fn remove(
        &self,
        request: Request<wire::RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let place = self.find(&request.get_ref().snapshotter)?;
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let wire::RemoveSnapshotRequest { snapshotter, key } = request.into_inner();
        let event = pack(&wire_events::SnapshotRemove { key: key.clone(), snapshotter });
        let then = self.news(&namespace, topics::SNAPSHOT_REMOVE, event);
        match place {
            Place::Here(here) => {
                blocking(move || {
                    here.remove(&namespace, &key, lease.as_ref())?;
                    then();
                    Ok::<_, Error>(())
                })
                .await?;
            }
            Place::Elsewhere(proxy) => {
                proxy.remove(namespace, key, lease, then).await.map_err(status)?;
            }
        }
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<wire::StatSnapshotRequest>,
    ) -> Result<Response<wire::StatSnapshotResponse>, Status> {
        let place = self.find(&request.get_ref().snapshotter)?;
        let namespace = namespace(&request)?;
        let key = request.into_inner().key;
        let info = match place {
            Place::Here(here) => brief(|| here.stat(&namespace, &key))?,
            Place::Elsewhere(proxy) => proxy.stat(&namespace, &key).await.map_err(status)?,
        };
        Ok(Response::new(wire::StatSnapshotResponse { info: Some(info_to_wire(info)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateSnapshotRequest>,
    ) -> Result<Response<wire::UpdateSnapshotResponse>, Status> {
        let place = self.find(&request.get_ref().snapshotter)?;
        let namespace = namespace(&request)?;
        let wire::UpdateSnapshotRequest { info, update_mask, .. } = request.into_inner();
        let wire::Info { name, labels, .. } = info.unwrap_or_default();
        let paths = update_mask.unwrap_or_default().paths;
        let info = match place {
            Place::Here(here) => {
                blocking(move || here.update(&namespace, &name, &labels, &paths)).await?
            }
            Place::Elsewhere(proxy) => {
                proxy.update(&namespace, name, labels, paths).await.map_err(status)?
            }
        };
        Ok(Response::new(wire::UpdateSnapshotResponse { info: Some(info_to_wire(info)) }))
    }

    type ListStream =
        Pin<Box<dyn Stream<Item = Result<wire::ListSnapshotsResponse, Status>> + Send>>;

    async fn list(
        &self,
        request: Request<wire::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let place = self.find(&request.get_ref().snapshotter)?;
        let namespace = namespace(&request)?;
        let filters = request.into_inner().filters;
        let found = match place {
            Place::Here(here) => blocking(move || here.list(&namespace, &filters)).await?,
            Place::Elsewhere(proxy) => proxy.list(&namespace, filters).await.map_err(status)?,
        };
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
        let place = self.find(&request.get_ref().snapshotter)?;
        let namespace = namespace(&request)?;
        let key = request.into_inner().key;
        let usage = match place {
            Place::Here(here) => blocking(move || here.usage(&namespace, &key)).await?,
            Place::Elsewhere(proxy) => proxy.usage(&namespace, &key).await.map_err(status)?,
        };
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (size, inodes) = (signed(usage.size), signed(usage.inodes));
        Ok(Response::new(wire::UsageResponse { size, inodes }))
    }

    async fn cleanup(
        &self,
        request: Request<wire::CleanupRequest>,
    ) -> Result<Response<()>, Status> {
        match self.find(&request.get_ref().snapshotter)? {
            Place::Here(here) => blocking(move || here.cleanup()).await?,
            Place::Elsewhere(proxy) => {
                proxy.sweep(&namespace(&request)?).await.map_err(status)?;
            }
        }
        Ok(Response::new(()))
    }
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
