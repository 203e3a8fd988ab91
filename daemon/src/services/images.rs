//! The service `containerd.services.images.v1` (containerd,
//! `plugins/services/images`).

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use davit_events::Exchange;
use davit_index::{Collector, Error, Image, ImageUpdate, Index, image_target};
use davit_protocols::convert::grpc::{pack, time, timestamp};
use davit_protocols::grpc::containerd::services::images::v1 as wire;
use davit_protocols::topics;
use tonic::{Request, Response, Status};
use wire::images_server::Images as Service;

use super::maintenance::collect_now;
use super::{blocking, brief, lease, looking, namespace, publish, status};

/// Serves images from the index.
#[derive(Clone)]
pub struct Images {
    /// Where they are.
    pub index: Arc<Index>,
    /// Who is told of changes.
    pub events: Arc<Exchange>,
    /// Who removes what an image held, when its deletion is to wait for that.
    pub collector: Arc<Collector>,
}

#[tonic::async_trait]
impl Service for Images {
    async fn get(
        &self,
        request: Request<wire::GetImageRequest>,
    ) -> Result<Response<wire::GetImageResponse>, Status> {
        let namespace = namespace(&request)?;
        let name = request.into_inner().name;
        let image = brief(|| self.index.images().get(&namespace, &name))?;
        Ok(Response::new(wire::GetImageResponse { image: Some(to_wire(image)) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListImagesRequest>,
    ) -> Result<Response<wire::ListImagesResponse>, Status> {
        let namespace = namespace(&request)?;
        let filters = request.into_inner().filters;
        let index = Arc::clone(&self.index);
        let found = looking(move || index.images().list(&namespace, &filters)).await?;
        let images = found.into_iter().map(to_wire).collect();
        Ok(Response::new(wire::ListImagesResponse { images }))
    }

    async fn create(
        &self,
        request: Request<wire::CreateImageRequest>,
    ) -> Result<Response<wire::CreateImageResponse>, Status> {
        let namespace = namespace(&request)?;
        let lease = lease(&request);
        let request = request.into_inner();
        let wire::Image { name, labels, target, .. } = request.image.unwrap_or_default();
        require_name(&name)?;
        let target = target.unwrap_or_default();
        let now = epoch(request.source_date_epoch)?;
        let Self { index, events, .. } = self.clone();
        let image = blocking(move || {
            let target =
                image_target(target.media_type, &target.digest, target.size, target.annotations)?;
            let (created_at, updated_at) = (UNIX_EPOCH, UNIX_EPOCH);
            let image = Image { name, labels, target, created_at, updated_at };
            let image = index.images().create(&namespace, image, now, lease.as_ref())?;
            let (name, labels) = (image.name.clone(), image.labels.clone());
            let event = pack(&wire::ImageCreate { name, labels });
            publish(&events, &namespace, topics::IMAGE_CREATE, event);
            Ok::<_, Error>(image)
        })
        .await?;
        Ok(Response::new(wire::CreateImageResponse { image: Some(to_wire(image)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateImageRequest>,
    ) -> Result<Response<wire::UpdateImageResponse>, Status> {
        let namespace = namespace(&request)?;
        let lease = lease(&request);
        let request = request.into_inner();
        let wanted = request.image.unwrap_or_default();
        require_name(&wanted.name)?;
        let paths = request.update_mask.unwrap_or_default().paths;
        let now = epoch(request.source_date_epoch)?;
        let Self { index, events, .. } = self.clone();
        let image = blocking(move || {
            let update = update_from_wire(wanted, &paths)?;
            let image = index.images().update(&namespace, update, &paths, now, lease.as_ref())?;
            let (name, labels) = (image.name.clone(), image.labels.clone());
            let event = pack(&wire::ImageUpdate { name, labels });
            publish(&events, &namespace, topics::IMAGE_UPDATE, event);
            Ok::<_, Error>(image)
        })
        .await?;
        Ok(Response::new(wire::UpdateImageResponse { image: Some(to_wire(image)) }))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteImageRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let lease = lease(&request);
        let wire::DeleteImageRequest { name, sync, target } = request.into_inner();
        let target = target.map(|target| target.digest).filter(|digest| !digest.is_empty());
        let Self { index, events, collector } = self.clone();
        blocking(move || {
            index.images().delete(&namespace, &name, target.as_deref(), lease.as_ref())?;
            let event = pack(&wire::ImageDelete { name });
            publish(&events, &namespace, topics::IMAGE_DELETE, event);
            Ok::<_, Error>(())
        })
        .await?;
        if sync {
            collect_now(collector, Arc::clone(&self.events)).await?;
        }
        Ok(Response::new(()))
    }
}

fn require_name(name: &str) -> Result<(), Status> {
    if name.is_empty() { Err(Status::invalid_argument("Image.Name required")) } else { Ok(()) }
}

/// The client's clock, where it wants its own in the record.
fn epoch(stamp: Option<prost_types::Timestamp>) -> Result<Option<SystemTime>, Status> {
    stamp.map(|stamp| time("source_date_epoch", &stamp).map_err(status)).transpose()
}

/// The target is looked at only where it is to be changed: clients leave it
/// empty otherwise.
fn update_from_wire(image: wire::Image, paths: &[String]) -> Result<ImageUpdate, Error> {
    let target = image.target.unwrap_or_default();
    let annotations = target.annotations.clone();
    let changed = paths.is_empty() || paths.iter().any(|path| path == "target");
    let checked = changed
        .then(|| image_target(target.media_type, &target.digest, target.size, target.annotations));
    let (name, labels) = (image.name, image.labels);
    Ok(ImageUpdate { name, labels, target: checked.transpose()?, annotations })
}

fn to_wire(image: Image) -> wire::Image {
    wire::Image {
        name: image.name,
        labels: image.labels,
        target: Some(image.target.into()),
        created_at: Some(timestamp(image.created_at)),
        updated_at: Some(timestamp(image.updated_at)),
    }
}
