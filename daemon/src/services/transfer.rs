//! The service `containerd.services.transfer.v1` (containerd,
//! `plugins/services/transfer` and `core/transfer/local`): images between the
//! store, registries, and archives that a client sends or receives on a
//! stream.
//!
//! Archives are read and images unpacked by `davit-client`, over the daemon's
//! own socket, so that there is one implementation of both.

mod incoming;
mod outgoing;
mod progress;
mod pull;
mod push;
mod record;
mod registry;
mod tracker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use davit_client::naming::{Naming, Prefix, Rules, Whole};
use davit_client::{Client, export as archive, image, import};
use davit_distribution::registry::Registry;
use davit_distribution::verify::Verifiers;
use davit_index::LeaseId;
use davit_protocols::grpc::containerd::services::images::v1::GetImageRequest;
use davit_protocols::grpc::containerd::services::transfer::v1 as wire;
use davit_protocols::grpc::containerd::types::{Descriptor, transfer as types};
use davit_types::{Labels, Namespace};
use prost_types::Any;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, mpsc, oneshot};
use tonic::{Request, Response, Status};
use wire::transfer_server::Transfer as Service;

use super::streaming::{Opened, Streams, decode, is};
use super::{lease, namespace, status};
use crate::config::Config;
use crate::config::images::Unpack;
use crate::pull::{Hold, Images};
use incoming::Incoming;
use progress::Progress;
use registry::{Recorded, Remote};

const EXPORT_STREAM: &str = "containerd.types.transfer.ImageExportStream";
const IMAGE_STORE: &str = "containerd.types.transfer.ImageStore";
const IMPORT_STREAM: &str = "containerd.types.transfer.ImageImportStream";
const REGISTRY: &str = "containerd.types.transfer.OCIRegistry";

/// Pieces of an archive that wait to be sent.
const PIECES_MAX: usize = 4;

/// What images are unpacked for when the client leaves it to the daemon.
const SNAPSHOTTER: &str = "overlayfs";

/// Serves transfers. Cheap to clone.
#[derive(Clone)]
pub struct Transfer {
    /// Where it is done.
    pub runtime: Handle,
    /// Those that clients have opened.
    pub streams: Arc<Streams>,
    /// This daemon's own socket, which is connected to when it is needed.
    pub address: PathBuf,
    /// The connection to it.
    pub connection: Arc<OnceCell<Client>>,
    /// Where images are.
    pub images: Images,
    /// What speaks with registries.
    pub registry: Registry,
    /// What the configuration says.
    pub settings: Arc<Settings>,
}

/// What the configuration says of transfers.
#[derive(Debug)]
pub struct Settings {
    /// Where hosts of registries are described.
    directories: Vec<PathBuf>,
    /// Where images may be unpacked, if that is limited.
    unpacks: Option<Vec<Unpack>>,
    /// Whether only those for a platform named there are.
    checks_platform: bool,
    /// Snapshotters that run elsewhere, and whether each wants to know where
    /// layers come from.
    proxies: BTreeMap<String, bool>,
    /// Who may refuse an image.
    verifiers: Option<Verifiers>,
}

impl Settings {
    /// What `config` says.
    pub fn of(config: &Config) -> Arc<Self> {
        let plugins = &config.plugins;
        let wants_source = |exports: &BTreeMap<String, String>| {
            exports.get("enable_remote_snapshot_annotations").is_some_and(|value| value == "true")
        };
        let proxies = config.proxy_plugins.iter().filter(|(_, proxy)| proxy.kind == "snapshot");
        let proxies = proxies.map(|(name, proxy)| (name.clone(), wants_source(&proxy.exports)));
        let verifies = config.enabled("io.containerd.image-verifier.v1.bindir");
        let checks_platform = plugins.transfer.check_platform_supported;
        Arc::new(Self {
            directories: plugins.registry_directories(),
            unpacks: match checks_platform {
                true => Some(plugins.transfer.unpacks()),
                false => plugins.transfer.unpack_config.clone(),
            },
            checks_platform,
            proxies: proxies.collect(),
            verifiers: verifies.then(|| plugins.image_verifier.verifiers()),
        })
    }
}

impl Transfer {
    /// This daemon, as the caller would see it.
    async fn client(
        &self,
        namespace: &Namespace,
        lease: Option<&LeaseId>,
    ) -> Result<Client, Status> {
        let connect = || Client::connect(&self.address, namespace.clone());
        let client = self.connection.get_or_try_init(connect).await.map_err(status)?;
        let client = client.in_namespace(namespace.clone());
        let leased = lease.map(|lease| client.with_lease(lease.as_str())).transpose();
        Ok(leased.map_err(status)?.unwrap_or(client))
    }

    /// Does what is asked for, unless `gone` is ready first.
    async fn transfer_now(
        self,
        namespace: Namespace,
        lease: Option<LeaseId>,
        request: wire::TransferRequest,
        gone: impl Future<Output = ()>,
    ) -> Result<(), Status> {
        let options = request.options.unwrap_or_default();
        let progress = match options.progress_stream.as_str() {
            "" => Progress::default(),
            id => Progress::on(self.streams.take(&namespace, id)?),
        };
        let source = request.source.unwrap_or_default();
        let destination = request.destination.unwrap_or_default();
        if let Some(none) = [&source, &destination].into_iter().find(|any| any.type_url.is_empty())
        {
            return Err(Status::unknown(format!("type with url {}: not found", none.type_url)));
        }
        let (from, to) = (kind(&source), kind(&destination));
        match (from, to) {
            (REGISTRY, IMAGE_STORE) => {
                let (remote, recording) = self.remote(&namespace, &source).await?;
                let store = decode(&destination, IMAGE_STORE)?;
                let request = pull::Request { namespace, lease, remote, store, progress };
                let result = unless(gone, self.pull(request)).await;
                recording.end().await;
                result
            }
            (IMAGE_STORE, REGISTRY) => {
                let (remote, recording) = self.remote(&namespace, &destination).await?;
                let store = decode(&source, IMAGE_STORE)?;
                let pushing = self.push(&namespace, &store, remote, &progress);
                let result = unless(gone, pushing).await;
                recording.end().await;
                result
            }
            (IMAGE_STORE, EXPORT_STREAM) => {
                let to = decode(&destination, EXPORT_STREAM)?;
                let client = self.client(&namespace, lease.as_ref()).await?;
                let images = named(&client, &decode(&source, IMAGE_STORE)?).await?;
                let exporting = self.export(&namespace, &client, &images, to, &progress);
                unless(gone, exporting).await
            }
            (IMAGE_STORE, IMAGE_STORE) => {
                let client = self.client(&namespace, lease.as_ref()).await?;
                let source = decode(&source, IMAGE_STORE)?;
                tag(&client, &source, &decode(&destination, IMAGE_STORE)?).await
            }
            (IMPORT_STREAM, IMAGE_STORE) => {
                let from = decode(&source, IMPORT_STREAM)?;
                let options = import_options(decode(&destination, IMAGE_STORE)?);
                let hold = Hold::take(&self.images.index, &namespace, lease).await?;
                let client = self.client(&namespace, Some(hold.id())).await?;
                let done = self.import(&namespace, &client, from, options, &progress, gone).await;
                // Nothing of it can be gone on with.
                let ended = hold.end().await;
                davit_sys::process::trim_heap();
                done.and(ended)
            }
            _ => Err(not_implemented(&source, &destination)),
        }
    }

    /// The registry that a source or destination names.
    async fn remote(&self, namespace: &Namespace, any: &Any) -> Result<Recorded, Status> {
        let named: types::OciRegistry = decode(any, REGISTRY)?;
        let directories = self.settings.directories.clone();
        Remote::of(&self.registry, &self.streams, namespace, named, directories).await
    }

    async fn export(
        &self,
        namespace: &Namespace,
        client: &Client,
        images: &[(String, Descriptor)],
        to: types::ImageExportStream,
        progress: &Progress,
    ) -> Result<(), Status> {
        let stream = self.streams.take(namespace, &to.stream)?;
        progress.tell("Exporting").await;
        export(client, images, to, stream).await?;
        progress.tell("Completed export").await;
        Ok(())
    }

    async fn import(
        &self,
        namespace: &Namespace,
        client: &Client,
        from: types::ImageImportStream,
        mut options: import::Options,
        progress: &Progress,
        gone: impl Future<Output = ()>,
    ) -> Result<(), Status> {
        options.compress = from.force_compress;
        let stream = self.streams.take(namespace, &from.stream)?;
        progress.tell("Importing").await;
        // Dropped at the end of this, which ends a reader left behind.
        let (_working, over) = oneshot::channel();
        let archive = Incoming::new(stream, over);
        let imported = import::archive_with(client, archive, &options, gone).await;
        for image in imported.map_err(status)? {
            progress.saved(image).await;
        }
        progress.tell("Completed import").await;
        Ok(())
    }
}

/// Does `work`, unless `gone` is ready first.
async fn unless(
    gone: impl Future<Output = ()>,
    work: impl Future<Output = Result<(), Status>>,
) -> Result<(), Status> {
    tokio::select! {
        result = work => result,
        () = gone => Err(Status::cancelled("canceled")),
    }
}

/// The name of the message in `any`, if it is one that a transfer knows.
fn kind(any: &Any) -> &'static str {
    let known = [REGISTRY, IMAGE_STORE, EXPORT_STREAM, IMPORT_STREAM];
    known.into_iter().find(|name| is(any, name)).unwrap_or_default()
}

#[tonic::async_trait]
impl Service for Transfer {
    async fn transfer(
        &self,
        request: Request<wire::TransferRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let lease = lease(&request);
        // When the caller goes, what was begun is given up in good order,
        // which takes a while longer than this call.
        let (caller, gone) = oneshot::channel::<()>();
        let gone = async {
            let _ = gone.await;
        };
        let work = self.clone().transfer_now(namespace, lease, request.into_inner(), gone);
        let result = self.runtime.spawn(work).await;
        drop(caller);
        result
            .unwrap_or_else(|failure| {
                log::error!(failure:%; "a transfer did not finish");
                Err(Status::internal("the transfer failed inside the daemon: internal"))
            })
            .map(Response::new)
    }
}

fn not_implemented(source: &Any, destination: &Any) -> Status {
    Status::unimplemented(format!(
        "method Transfer not implemented for {} to {}",
        source.type_url, destination.type_url
    ))
}

/// What a name points to.
async fn target(client: &Client, name: &str) -> Result<Descriptor, Status> {
    let request = GetImageRequest { name: name.to_owned() };
    let found = client.images().get(request).await.map_err(davit_client::Error::from);
    let image = found.map_err(status)?.into_inner().image.unwrap_or_default();
    Ok(image.target.unwrap_or_default())
}

/// The images that a source names.
async fn named(
    client: &Client,
    source: &types::ImageStore,
) -> Result<Vec<(String, Descriptor)>, Status> {
    if source.extra_references.iter().any(|extra| extra.is_prefix) {
        let text = "prefix lookup on export not implemented: not implemented";
        return Err(Status::unimplemented(text));
    }
    let own = Some(&source.name).filter(|name| !name.is_empty());
    let mut images = Vec::new();
    for name in own.into_iter().chain(source.extra_references.iter().map(|extra| &extra.name)) {
        images.push((name.clone(), target(client, name).await?));
    }
    Ok(images)
}

/// Sends an archive of `images` on `stream`.
async fn export(
    client: &Client,
    images: &[(String, Descriptor)],
    to: types::ImageExportStream,
    stream: Opened,
) -> Result<(), Status> {
    let options = archive::Options {
        platforms: to.platforms,
        all_platforms: to.all_platforms,
        skip_docker_manifest: to.skip_compatibility_manifest,
        skip_non_distributable: to.skip_non_distributable,
    };
    let (pieces, receiver) = mpsc::channel(PIECES_MAX);
    let writing = async {
        let result = archive::archive(client, images, &options, &pieces).await.map_err(status);
        drop(pieces);
        result
    };
    let (written, sent) = tokio::join!(writing, outgoing::send(stream, receiver));
    // A client that is gone is why no more could be written.
    sent.and(written)
}

/// Gives an image further names.
async fn tag(
    client: &Client,
    source: &types::ImageStore,
    destination: &types::ImageStore,
) -> Result<(), Status> {
    let target = target(client, &source.name).await?;
    let labels = labels(destination);
    let mut names: Vec<String> = Vec::new();
    names.extend((!destination.name.is_empty()).then(|| destination.name.clone()));
    for extra in destination.extra_references.iter().filter(|extra| !extra.is_prefix) {
        names.push(match extra.add_digest {
            true => format!("{}@{}", extra.name, target.digest),
            false => extra.name.clone(),
        });
    }
    if names.is_empty() {
        return Err(Status::not_found("no image name found: not found"));
    }
    for name in names {
        image::put(client, &name, &target, Some(&labels)).await.map_err(status)?;
    }
    Ok(())
}

fn labels(store: &types::ImageStore) -> Labels {
    store.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// What a destination says about the images that come to it.
fn import_options(store: types::ImageStore) -> import::Options {
    let labels = Some(labels(&store));
    let mut rules = Rules::default();
    if !store.name.is_empty() {
        rules.whole.push(Whole { name: store.name, add_digest: false });
    }
    for extra in store.extra_references {
        let types::ImageReference { name, add_digest, .. } = extra;
        if extra.is_prefix {
            rules.prefixes.push(Prefix {
                name,
                allow_overwrite: extra.allow_overwrite,
                add_digest,
                skip_named_digest: extra.skip_named_digest,
            });
        } else {
            rules.whole.push(Whole { name, add_digest });
        }
    }
    // Those of other platforms are left packed, as containerd does.
    let ours = store.unpacks.into_iter().filter(|unpack| {
        let platform = unpack.platform.clone().unwrap_or_default();
        (platform.os.is_empty() || platform.os == "linux")
            && (platform.architecture.is_empty() || platform.architecture == image::architecture())
    });
    let unpack = ours.map(|unpack| match unpack.snapshotter.as_str() {
        "" => SNAPSHOTTER.to_owned(),
        _ => unpack.snapshotter,
    });
    let (unpack, naming) = (unpack.collect(), Naming::Rules(rules));
    import::Options { unpack, naming, labels, compress: false }
}
