//! The service `containerd.services.containers.v1` (containerd,
//! `plugins/services/containers`).

use std::pin::Pin;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use davit_events::Exchange;
use davit_index::{Container, Error, Index, Runtime};
use davit_protocols::convert::grpc::{any, any_from, pack, timestamp};
use davit_protocols::grpc::containerd::events;
use davit_protocols::grpc::containerd::services::containers::v1 as wire;
use davit_protocols::topics;
use futures::stream::{self, Stream, StreamExt};
use tonic::{Request, Response, Status};
use wire::containers_server::Containers as Service;

use super::{blocking, brief, namespace, publish};

/// Serves containers' records from the index.
#[derive(Clone)]
pub struct Containers {
    /// Where they are.
    pub index: Arc<Index>,
    /// Who is told of changes.
    pub events: Arc<Exchange>,
}

impl Containers {
    async fn matching(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Result<Vec<Container>, Status> {
        let namespace = namespace(&request)?;
        let filters = request.into_inner().filters;
        let index = Arc::clone(&self.index);
        blocking(move || index.containers().list(&namespace, &filters)).await
    }
}

#[tonic::async_trait]
impl Service for Containers {
    async fn get(
        &self,
        request: Request<wire::GetContainerRequest>,
    ) -> Result<Response<wire::GetContainerResponse>, Status> {
        let namespace = namespace(&request)?;
        let id = request.into_inner().id;
        let found = brief(|| self.index.containers().get(&namespace, &id))?;
        Ok(Response::new(wire::GetContainerResponse { container: Some(to_wire(found)) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Result<Response<wire::ListContainersResponse>, Status> {
        let containers = self.matching(request).await?.into_iter().map(to_wire).collect();
        Ok(Response::new(wire::ListContainersResponse { containers }))
    }

    type ListStreamStream =
        Pin<Box<dyn Stream<Item = Result<wire::ListContainerMessage, Status>> + Send>>;

    async fn list_stream(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Result<Response<Self::ListStreamStream>, Status> {
        let found = self.matching(request).await?;
        let message =
            |container| Ok(wire::ListContainerMessage { container: Some(to_wire(container)) });
        Ok(Response::new(Box::pin(stream::iter(found).map(message))))
    }

    async fn create(
        &self,
        request: Request<wire::CreateContainerRequest>,
    ) -> Result<Response<wire::CreateContainerResponse>, Status> {
        let namespace = namespace(&request)?;
        let wanted = from_wire(request.into_inner().container.unwrap_or_default());
        let Self { index, events } = self.clone();
        let created = blocking(move || {
            let created = index.containers().create(&namespace, wanted)?;
            publish(&events, &namespace, topics::CONTAINER_CREATE, creation(&created));
            Ok::<_, Error>(created)
        })
        .await?;
        Ok(Response::new(wire::CreateContainerResponse { container: Some(to_wire(created)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateContainerRequest>,
    ) -> Result<Response<wire::UpdateContainerResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let wanted = from_wire(request.container.unwrap_or_default());
        let paths = request.update_mask.unwrap_or_default().paths;
        if wanted.id.is_empty() {
            return Err(Status::invalid_argument("Container.ID required"));
        }
        let Self { index, events } = self.clone();
        let updated = blocking(move || {
            let updated = index.containers().update(&namespace, wanted, &paths)?;
            let event = pack(&events::ContainerUpdate {
                id: updated.id.clone(),
                image: updated.image.clone(),
                labels: updated.labels.clone(),
                snapshot_key: updated.snapshot_key.clone(),
            });
            publish(&events, &namespace, topics::CONTAINER_UPDATE, event);
            Ok::<_, Error>(updated)
        })
        .await?;
        Ok(Response::new(wire::UpdateContainerResponse { container: Some(to_wire(updated)) }))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteContainerRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let id = request.into_inner().id;
        let Self { index, events } = self.clone();
        blocking(move || {
            index.containers().delete(&namespace, &id)?;
            let event = pack(&events::ContainerDelete { id });
            publish(&events, &namespace, topics::CONTAINER_DELETE, event);
            Ok::<_, Error>(())
        })
        .await?;
        Ok(Response::new(()))
    }
}

fn creation(container: &Container) -> davit_types::Any {
    pack(&events::ContainerCreate {
        id: container.id.clone(),
        image: container.image.clone(),
        runtime: Some(events::container_create::Runtime {
            name: container.runtime.name.clone(),
            options: container.runtime.options.clone().map(any),
        }),
    })
}

fn to_wire(container: Container) -> wire::Container {
    wire::Container {
        id: container.id,
        labels: container.labels,
        image: container.image,
        runtime: Some(wire::container::Runtime {
            name: container.runtime.name,
            options: container.runtime.options.map(any),
        }),
        spec: container.spec.map(any),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: Some(timestamp(container.created_at)),
        updated_at: Some(timestamp(container.updated_at)),
        extensions: container.extensions.into_iter().map(|(k, v)| (k, any(v))).collect(),
        sandbox: container.sandbox_id,
    }
}

/// The times are the index's to set.
fn from_wire(container: wire::Container) -> Container {
    let runtime = container.runtime.unwrap_or_default();
    Container {
        id: container.id,
        labels: container.labels,
        image: container.image,
        runtime: Runtime { name: runtime.name, options: runtime.options.map(any_from) },
        spec: container.spec.map(any_from),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: UNIX_EPOCH,
        updated_at: UNIX_EPOCH,
        extensions: container.extensions.into_iter().map(|(k, v)| (k, any_from(v))).collect(),
        sandbox_id: container.sandbox,
    }
}
