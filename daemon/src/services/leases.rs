//! The service `containerd.services.leases.v1` (containerd,
//! `plugins/services/leases` and `plugins/leases`). Leases have no events.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use davit_events::Exchange;
use davit_index::{Collector, Index, Lease, LeaseId, Resource};
use davit_protocols::convert::grpc::timestamp;
use davit_protocols::grpc::containerd::services::leases::v1 as wire;
use tonic::{Request, Response, Status};
use wire::leases_server::Leases as Service;

use super::maintenance::collect_now;
use super::{blocking, namespace};

/// Serves leases from the index.
#[derive(Clone)]
pub struct Leases {
    /// Where they are.
    pub index: Arc<Index>,
    /// Who is told what a collection removes.
    pub events: Arc<Exchange>,
    /// Who removes what a lease held, when its deletion is to wait for that.
    pub collector: Arc<Collector>,
}

#[tonic::async_trait]
impl Service for Leases {
    async fn create(
        &self,
        request: Request<wire::CreateRequest>,
    ) -> Result<Response<wire::CreateResponse>, Status> {
        let namespace = namespace(&request)?;
        let wire::CreateRequest { id, labels } = request.into_inner();
        let id = LeaseId::new(if id.is_empty() { random_id() } else { id });
        let index = Arc::clone(&self.index);
        let lease = blocking(move || index.leases().create(&namespace, &id, &labels)).await?;
        Ok(Response::new(wire::CreateResponse { lease: Some(to_wire(lease)) }))
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let wire::DeleteRequest { id, sync } = request.into_inner();
        let id = LeaseId::new(id);
        let Self { index, events, collector } = self.clone();
        blocking(move || index.leases().delete(&namespace, &id)).await?;
        if sync {
            collect_now(collector, events).await?;
        }
        Ok(Response::new(()))
    }

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListResponse>, Status> {
        let namespace = namespace(&request)?;
        let filters = request.into_inner().filters;
        let index = Arc::clone(&self.index);
        let found = blocking(move || index.leases().list(&namespace, &filters)).await?;
        let leases = found.into_iter().map(to_wire).collect();
        Ok(Response::new(wire::ListResponse { leases }))
    }

    async fn add_resource(
        &self,
        request: Request<wire::AddResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let wire::AddResourceRequest { id, resource } = request.into_inner();
        let (id, resource) = (LeaseId::new(id), from_wire(resource));
        let index = Arc::clone(&self.index);
        blocking(move || index.leases().add_resource(&namespace, &id, &resource)).await?;
        Ok(Response::new(()))
    }

    async fn delete_resource(
        &self,
        request: Request<wire::DeleteResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let wire::DeleteResourceRequest { id, resource } = request.into_inner();
        let (id, resource) = (LeaseId::new(id), from_wire(resource));
        let index = Arc::clone(&self.index);
        blocking(move || index.leases().delete_resource(&namespace, &id, &resource)).await?;
        Ok(Response::new(()))
    }

    async fn list_resources(
        &self,
        request: Request<wire::ListResourcesRequest>,
    ) -> Result<Response<wire::ListResourcesResponse>, Status> {
        let namespace = namespace(&request)?;
        let id = LeaseId::new(request.into_inner().id);
        let index = Arc::clone(&self.index);
        let found = blocking(move || index.leases().list_resources(&namespace, &id)).await?;
        let to_wire =
            |resource: Resource| wire::Resource { id: resource.id, r#type: resource.kind };
        let resources = found.into_iter().map(to_wire).collect();
        Ok(Response::new(wire::ListResourcesResponse { resources }))
    }
}

fn to_wire(lease: Lease) -> wire::Lease {
    wire::Lease {
        id: lease.id.to_string(),
        created_at: Some(timestamp(lease.created_at)),
        labels: lease.labels,
    }
}

fn from_wire(resource: Option<wire::Resource>) -> Resource {
    let wire::Resource { id, r#type } = resource.unwrap_or_default();
    Resource { id, kind: r#type }
}

/// A name for a lease whose client has none: the nanoseconds of the second
/// and 24 random bits, as containerd makes it.
fn random_id() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let nanos =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    let random = RandomState::new().hash_one(nanos);
    let digit = |shift: u32| char::from(ALPHABET[((random >> shift) & 63) as usize]);
    let random: String = [18, 12, 6, 0].into_iter().map(digit).collect();
    format!("{nanos}-{random}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_look_like_those_of_containerd() {
        let names: std::collections::BTreeSet<String> = (0..100).map(|_| random_id()).collect();
        assert!(names.len() > 95, "{names:?}");
        for name in names {
            let (nanos, random) = name.split_once('-').unwrap();
            assert!(nanos.parse::<u32>().unwrap() < 1_000_000_000);
            assert_eq!(random.len(), 4);
        }
    }
}
