//! From a registry to the image store (containerd,
//! `core/transfer/local/pull.go` and `core/transfer/image/imagestore.go`).

use std::sync::Arc;

use davit_client::import::Imported;
use davit_client::{Client, image};
use davit_distribution::pull::{Observer, Pull, Store, Unpack, Wanted};
use davit_index::LeaseId;
use davit_protocols::grpc::containerd::types::transfer as types;
use davit_types::platform::Matcher;
use davit_types::{Descriptor, Namespace, Platform};
use tonic::Status;

use super::progress::Progress;
use super::registry::Remote;
use super::tracker::Watch;
use super::{SNAPSHOTTER, Transfer, labels};
use crate::config::images;
use crate::pull::{Contents, Destination, Hold, Snapshots, Unpacker};
use crate::services::status;

/// One pull that a client asked for.
pub(super) struct Request {
    pub(super) namespace: Namespace,
    pub(super) lease: Option<LeaseId>,
    pub(super) remote: Remote,
    pub(super) store: types::ImageStore,
    pub(super) progress: Progress,
}

impl Transfer {
    /// Pulls. May be dropped at any point; what was fetched by then can be
    /// gone on with for a while.
    pub(super) async fn pull(&self, request: Request) -> Result<(), Status> {
        let Request { namespace, lease, remote, store, progress } = request;
        let hold = Hold::take(&self.images.index, &namespace, lease).await?;
        let title = remote.title();
        progress.tell(&format!("Resolving from {title}")).await;
        let root = remote.repository.resolve().await.map_err(status).map_err(|error| {
            Status::new(error.code(), format!("failed to resolve image: {}", error.message()))
        })?;
        if let Some(verifiers) = &self.settings.verifiers {
            verifiers.verify(&remote.name, &root).await.map_err(status)?;
        }
        progress.tell(&format!("Pulling from {title}")).await;
        let target = root.clone();
        progress.about("fetching image content", &remote.name, target.into()).await;
        self.fetch(&namespace, hold.id(), &remote, &store, &root, &progress).await?;
        let client = self.client(&namespace, Some(hold.id())).await?;
        for name in names(&store, &root)? {
            let target = root.clone().into();
            image::put(&client, &name, &target, Some(&labels(&store))).await.map_err(status)?;
            progress.saved(Imported { name, target }).await;
        }
        hold.end().await?;
        progress.tell(&format!("Completed pull from {title}")).await;
        Ok(())
    }

    async fn fetch(
        &self,
        namespace: &Namespace,
        lease: &LeaseId,
        remote: &Remote,
        store: &types::ImageStore,
        root: &Descriptor,
        progress: &Progress,
    ) -> Result<(), Status> {
        let watch = Watch::of(progress, "downloading");
        let observer = watch.observer();
        let contents = Contents {
            content: Arc::clone(&self.images.content),
            events: Arc::clone(&self.images.events),
            namespace: namespace.clone(),
            lease: Some(lease.clone()),
        };
        let pull = Pull {
            remote: Arc::new(remote.repository.clone()),
            store: Arc::new(contents.clone()) as Arc<dyn Store>,
            observer: Arc::clone(&observer),
            shared: self.images.shared.clone(),
            unpack: self.unpacker(&remote.name, &store.unpacks, contents, lease, observer).await?,
            reference: remote.reference.clone(),
            wanted: Wanted {
                platforms: store.platforms.iter().cloned().map(Platform::from).collect(),
                all_metadata: store.all_metadata,
                manifest_limit: store.manifest_limit as usize,
            },
        };
        let result = watch.during(pull.run(root, &remote.name), progress).await;
        davit_sys::process::trim_heap();
        davit_sys::process::unmap_idle_code();
        result.map_err(status)
    }

    /// What unpacks for the platforms and snapshotters that were asked for.
    async fn unpacker(
        &self,
        reference: &str,
        unpacks: &[types::UnpackConfiguration],
        contents: Contents,
        lease: &LeaseId,
        observer: Arc<dyn Observer>,
    ) -> Result<Option<Arc<dyn Unpack>>, Status> {
        let client = self.client(&contents.namespace, None).await?;
        let destination = |unpack| self.destination(unpack, &client);
        let destinations: Vec<_> = unpacks.iter().filter_map(destination).collect();
        if unpacks.is_empty() {
            return Ok(None);
        }
        if destinations.is_empty() {
            let text =
                "unable to initialize unpacker: no unpack platforms defined: invalid argument";
            return Err(Status::invalid_argument(text));
        }
        let (images, lease, reference) = (self.images.clone(), lease.clone(), reference.to_owned());
        let unpacker = Unpacker { images, contents, lease, destinations, reference, observer };
        Ok(Some(Arc::new(unpacker)))
    }
}

impl Transfer {
    /// Where something is unpacked that a client wants to be; `None` where the
    /// configuration has no place for it.
    fn destination(
        &self,
        unpack: &types::UnpackConfiguration,
        client: &Client,
    ) -> Option<Destination> {
        let name = match unpack.snapshotter.as_str() {
            "" => SNAPSHOTTER,
            name => name,
        };
        let wanted = Platform::from(unpack.platform.clone().unwrap_or_default());
        let matcher = |place: &images::Unpack| match self.settings.checks_platform {
            true => Matcher::only(&place.platform),
            false => Matcher::all(),
        };
        let platform = match &self.settings.unpacks {
            None => Matcher::all(),
            Some(places) => places
                .iter()
                .filter(|place| place.snapshotter == name)
                .map(matcher)
                .find(|matcher| matcher.matches(&wanted))?,
        };
        let snapshots = match self.images.snapshotters.get(name) {
            Some(snapshotter) => Snapshots::Here(Arc::clone(snapshotter)),
            None => Snapshots::Elsewhere {
                wants_source: *self.settings.proxies.get(name)?,
                client: client.clone(),
                name: name.to_owned(),
            },
        };
        Some(Destination { platform, snapshots })
    }
}

/// What the image is to be called.
fn names(store: &types::ImageStore, root: &Descriptor) -> Result<Vec<String>, Status> {
    let own = Some(store.name.clone()).filter(|name| !name.is_empty());
    let extra = store.extra_references.iter().filter(|extra| !extra.is_prefix);
    let extra = extra.map(|extra| match extra.add_digest {
        true => format!("{}@{}", extra.name, root.digest),
        false => extra.name.clone(),
    });
    let names: Vec<String> = own.into_iter().chain(extra).collect();
    if names.is_empty() {
        return Err(Status::not_found("no image name found: not found"));
    }
    Ok(names)
}
