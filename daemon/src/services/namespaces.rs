//! The service `containerd.services.namespaces.v1` (containerd,
//! `plugins/services/namespaces`). Its events are in the namespace that they
//! are about.

use std::sync::Arc;

use davit_events::Exchange;
use davit_index::{ContentStore, Error, Index};
use davit_protocols::convert::grpc::pack;
use davit_protocols::grpc::containerd::events;
use davit_protocols::grpc::containerd::services::namespaces::v1 as wire;
use davit_protocols::topics;
use davit_types::{Any, Labels, Namespace};
use tonic::{Request, Response, Status};
use wire::namespaces_server::Namespaces as Service;

use super::{blocking, brief, publish, status};

/// Serves namespaces from the index.
#[derive(Clone)]
pub struct Namespaces {
    /// Where they are.
    pub index: Arc<Index>,
    /// Where the bytes of their ingests are.
    pub content: Arc<ContentStore>,
    /// Who is told of changes.
    pub events: Arc<Exchange>,
}

impl Namespaces {
    /// Makes a change of `namespace`, then tells of it.
    async fn change(
        &self,
        namespace: Namespace,
        topic: &'static str,
        event: Any,
        work: impl FnOnce(&Index, &Namespace) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Status> {
        let (index, events) = (Arc::clone(&self.index), Arc::clone(&self.events));
        blocking(move || {
            work(&index, &namespace)?;
            publish(&events, &namespace, topic, event);
            Ok::<_, Error>(())
        })
        .await
    }
}

#[tonic::async_trait]
impl Service for Namespaces {
    async fn get(
        &self,
        request: Request<wire::GetNamespaceRequest>,
    ) -> Result<Response<wire::GetNamespaceResponse>, Status> {
        let name = request.into_inner().name;
        // containerd answers for names that cannot exist, too.
        let labels = match Namespace::new(name.as_str()) {
            Ok(namespace) => brief(|| self.index.namespaces().labels(&namespace))?,
            Err(_) => Labels::new(),
        };
        let namespace = Some(wire::Namespace { name, labels });
        Ok(Response::new(wire::GetNamespaceResponse { namespace }))
    }

    async fn list(
        &self,
        _: Request<wire::ListNamespacesRequest>,
    ) -> Result<Response<wire::ListNamespacesResponse>, Status> {
        let index = Arc::clone(&self.index);
        let found = blocking(move || index.namespaces().list()).await?;
        let to_wire = |(name, labels): (Namespace, Labels)| wire::Namespace {
            name: name.to_string(),
            labels,
        };
        let namespaces = found.into_iter().map(to_wire).collect();
        Ok(Response::new(wire::ListNamespacesResponse { namespaces }))
    }

    async fn create(
        &self,
        request: Request<wire::CreateNamespaceRequest>,
    ) -> Result<Response<wire::CreateNamespaceResponse>, Status> {
        let wanted = request.into_inner().namespace.unwrap_or_default();
        let wire::Namespace { name, labels } = wanted.clone();
        let namespace = Namespace::new(name.as_str()).map_err(status)?;
        let event = pack(&events::NamespaceCreate { name, labels: labels.clone() });
        self.change(namespace, topics::NAMESPACE_CREATE, event, move |index, namespace| {
            index.namespaces().create(namespace, &labels)
        })
        .await?;
        Ok(Response::new(wire::CreateNamespaceResponse { namespace: Some(wanted) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateNamespaceRequest>,
    ) -> Result<Response<wire::UpdateNamespaceResponse>, Status> {
        let request = request.into_inner();
        let wire::Namespace { name, labels } = request.namespace.unwrap_or_default();
        let namespace = Namespace::new(name.as_str()).map_err(status)?;
        let paths = request.update_mask.unwrap_or_default().paths;
        let event = pack(&events::NamespaceUpdate { name, labels: labels.clone() });
        self.change(namespace, topics::NAMESPACE_UPDATE, event, move |index, namespace| {
            index.namespaces().update(namespace, &labels, &paths)
        })
        .await?;
        // containerd's answer is empty here.
        Ok(Response::new(wire::UpdateNamespaceResponse::default()))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteNamespaceRequest>,
    ) -> Result<Response<()>, Status> {
        let name = request.into_inner().name;
        let namespace = Namespace::new(name.as_str())
            .map_err(|_| Status::not_found(format!("namespace {name:?}: not found")))?;
        let event = pack(&events::NamespaceDelete { name });
        let content = Arc::clone(&self.content);
        self.change(namespace, topics::NAMESPACE_DELETE, event, move |index, namespace| {
            index.namespaces().delete(namespace, &content)
        })
        .await?;
        Ok(Response::new(()))
    }
}
