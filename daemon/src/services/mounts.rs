//! The service `containerd.services.mounts.v1.Mounts`.

use std::collections::BTreeMap;
use std::sync::Arc;

use davit_protocols::convert::grpc::timestamp;
use davit_protocols::grpc::containerd::services::mounts::v1 as wire;
use davit_protocols::grpc::containerd::types;
use davit_types::Mount;
use futures::stream;
use tonic::{Request, Response, Status};
use wire::mounts_server::Mounts as Service;

use super::{blocking, lease, namespace, status};
use crate::mounts::{self, Activation, ActiveMount};

/// Makes and keeps mounts for clients.
pub struct Mounts {
    /// All of them.
    pub mounts: Arc<mounts::Mounts>,
}

#[tonic::async_trait]
impl Service for Mounts {
    async fn activate(
        &self,
        request: Request<wire::ActivateRequest>,
    ) -> Result<Response<wire::ActivateResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let wire::ActivateRequest { name, mounts, labels, temporary } = request.into_inner();
        let mounts = mounts.into_iter().map(Mount::from).collect();
        let lease = lease.map(|lease| lease.to_string());
        let request = mounts::Request { name, mounts, labels, temporary, lease };
        let all = Arc::clone(&self.mounts);
        let activation = blocking(move || all.activate(&namespace, request)).await?;
        Ok(Response::new(wire::ActivateResponse { info: Some(message(activation)) }))
    }

    async fn deactivate(
        &self,
        request: Request<wire::DeactivateRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let name = request.into_inner().name;
        let all = Arc::clone(&self.mounts);
        blocking(move || all.deactivate(&namespace, &name)).await.map(Response::new)
    }

    async fn info(
        &self,
        request: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoResponse>, Status> {
        let namespace = namespace(&request)?;
        let activation = self.mounts.info(&namespace, &request.get_ref().name).map_err(status)?;
        Ok(Response::new(wire::InfoResponse { info: Some(message(activation)) }))
    }

    /// containerd 2.2 has the method and does not do it.
    async fn update(
        &self,
        _: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        Err(Status::unimplemented("not implemented"))
    }

    type ListStream = stream::Iter<std::vec::IntoIter<Result<wire::ListMessage, Status>>>;

    /// Filters are ignored, as containerd 2.2 does.
    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let namespace = namespace(&request)?;
        let found: Vec<_> = self
            .mounts
            .list(&namespace)
            .into_iter()
            .map(|activation| Ok(wire::ListMessage { info: Some(message(activation)) }))
            .collect();
        Ok(Response::new(stream::iter(found)))
    }
}

fn message(activation: Activation) -> types::ActivationInfo {
    types::ActivationInfo {
        name: activation.name,
        active: activation.active.into_iter().map(active).collect(),
        system: activation.system.into_iter().map(types::Mount::from).collect(),
        labels: activation.labels,
    }
}

fn active(active: ActiveMount) -> types::ActiveMount {
    types::ActiveMount {
        mount: Some(active.mount.into()),
        mounted_at: Some(timestamp(active.mounted_at)),
        mount_point: active.mount_point.display().to_string(),
        data: BTreeMap::new(),
    }
}
