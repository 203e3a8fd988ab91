//! Importing an archive: an OCI image layout or what `docker save` writes, as
//! tar, also compressed by gzip or zstd.
//!
//! Blobs go to the daemon as they are met, and documents are read from there
//! again. At the end every manifest must have all that it refers to, but for
//! layers that others may not be given.

mod tree;

use std::io::Read;

use davit_distribution::manifest::{Document, List};
use davit_protocols::grpc::containerd::types::Descriptor;
use davit_types::{Digest, Labels};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::archive::{Contents, File, Saved, digest_of, invalid};
use crate::image::{self, Image};
use crate::naming::{Found, Naming};
use crate::unique::unique_part;
use crate::{Client, Error, Lease, compress, content};
use tree::{Tree, references};

/// What a lease is taken for at most, as by containerd's clients: it ends with
/// the import, well or not. The API puts no lease off, so a shorter one would
/// take from a slow import what it has; after a kill, what is there serves the
/// next one for so long.
const LEASE: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// The media type of an OCI index.
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// An image that an archive held.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The name it has now.
    pub name: String,
    /// What the name points to.
    pub target: Descriptor,
}

/// What is made of an archive.
#[derive(Clone, Debug)]
pub struct Options {
    /// The names of its images.
    pub naming: Naming,
    /// The labels of the images' records; `None` leaves those that there are.
    pub labels: Option<Labels>,
    /// The snapshotters that the images are unpacked for.
    pub unpack: Vec<String>,
    /// Compress the layers of `docker save`'s own format that are not.
    pub compress: bool,
}

/// Imports every image of an archive. `name` names the image of an archive
/// that does not name its own.
///
/// `archive` is read on a thread for blocking work, which may outlive the call
/// when `stop` is done first; the future must run on a tokio runtime.
///
/// # Errors
/// [`Error::Invalid`] for what is no archive or refers to something that is
/// neither in it nor in the store, naming it; [`Error::Stopped`]; otherwise what
/// the daemon answers. What was written is dropped with the lease.
pub async fn archive(
    client: &Client,
    archive: impl Read + Send + 'static,
    name: Option<&str>,
    stop: impl Future<Output = ()>,
) -> Result<Vec<Imported>, Error> {
    let naming = Naming::Own(name.map(str::to_owned));
    let options = Options { naming, labels: None, unpack: Vec::new(), compress: false };
    archive_with(client, archive, &options, stop).await
}

/// Imports what `options` name of an archive, as [`archive`] does. Images are
/// unpacked before they are named.
///
/// # Errors
/// As [`archive`] and [`Image::unpack`].
pub async fn archive_with(
    client: &Client,
    archive: impl Read + Send + 'static,
    options: &Options,
    stop: impl Future<Output = ()>,
) -> Result<Vec<Imported>, Error> {
    let lease = Lease::take(client, LEASE).await?;
    let importing = async {
        let leased = lease.client().clone();
        let handle = Handle::current();
        let reading = tokio::task::spawn_blocking(move || store(&leased, &handle, archive));
        let mut met = reading.await.map_err(|_| Error::Stopped)??;
        if options.compress {
            compress_layers(lease.client(), &mut met).await?;
        }
        name_images(lease.client(), &met, options).await
    };
    let result = tokio::select! {
        result = importing => result,
        () = stop => Err(Error::Stopped),
    };
    let ended = lease.end().await;
    let imported = result?;
    ended?;
    Ok(imported)
}

/// Reads the archive and stores its blobs. Blocks.
fn store(client: &Client, handle: &Handle, archive: impl Read) -> Result<Contents, Error> {
    Contents::read(archive, |path: &str, size, file: &mut dyn Read| {
        blob(client, handle, file, path, size)
    })
}

/// Sends a file to the daemon while it is read.
fn blob(
    client: &Client,
    handle: &Handle,
    file: &mut dyn Read,
    path: &str,
    size: u64,
) -> Result<Digest, Error> {
    let (sender, receiver) = mpsc::channel(2);
    let reference = format!("import-{}-{path}", unique_part());
    let task_client = client.clone();
    let writing = handle.spawn(async move {
        content::write(&task_client, &reference, size, ReceiverStream::new(receiver)).await
    });
    let mut hash = Sha256::new();
    loop {
        let mut chunk = Vec::with_capacity(content::CHUNK.min(size as usize));
        let limit = content::CHUNK as u64;
        file.take(limit).read_to_end(&mut chunk).map_err(|error| invalid(path, &error))?;
        if chunk.is_empty() {
            break;
        }
        hash.update(&chunk);
        // Fails when the daemon has answered already: the blob is there, or
        // an error that is told below.
        let _ = sender.blocking_send(content::Part::Data(chunk.into()));
    }
    let digest = Digest::of_sum(davit_types::Algorithm::Sha256, &hash.finalize());
    let _ = sender.blocking_send(content::Part::End(digest.clone()));
    drop(sender);
    handle.block_on(writing).map_err(|_| Error::Stopped)??;
    Ok(digest)
}

/// Labels what belongs together, unpacks the images and gives them their
/// names.
async fn name_images(
    client: &Client,
    met: &Contents,
    options: &Options,
) -> Result<Vec<Imported>, Error> {
    let found = match (&met.index, met.saved()?) {
        (Some(index), _) => of_layout(client, met, index).await?,
        (None, Some(saved)) => of_docker(client, met, saved).await?,
        (None, None) => {
            let reason = "neither index.json nor manifest.json: not an image";
            return Err(Error::invalid("archive", reason));
        }
    };
    let mut named = whole(client, met, &found, options).await?;
    for image in &found {
        let target = &image.target;
        for name in options.naming.of_image(image)? {
            check_name(&name)?;
            named.push(Imported { name, target: target.clone() });
        }
    }
    if named.is_empty() && matches!(options.naming, Naming::Own(_)) {
        return Err(Error::invalid("archive", "no image in it has a name; give one"));
    }
    for image in found.iter().filter(|_| !options.unpack.is_empty()) {
        let target = &image.target;
        let Some(image) = Image::if_any(client, &target.digest, target).await? else { continue };
        for snapshotter in &options.unpack {
            image.unpack(client, snapshotter, std::future::pending()).await?;
        }
    }
    for Imported { name, target } in &named {
        image::put(client, name, target, options.labels.as_ref()).await?;
    }
    Ok(named)
}

/// An archive gives no name that does harm where it is printed, or looks like
/// the way to something else.
fn check_name(name: &str) -> Result<(), Error> {
    let odd = |c: char| c.is_control() || c.is_whitespace();
    if name.contains(odd) || name.split('/').any(|part| part == "..") {
        return Err(Error::invalid(name.escape_debug().to_string(), "no name for an image"));
    }
    Ok(())
}

/// The archive's index, as an image of its own where it is to have a name.
async fn whole(
    client: &Client,
    met: &Contents,
    found: &[Found],
    options: &Options,
) -> Result<Vec<Imported>, Error> {
    let bytes = met.index.clone().unwrap_or_else(|| {
        let entry = |image: &Found| {
            let target = &image.target;
            json!({
                "mediaType": target.media_type, "digest": target.digest, "size": target.size,
            })
        };
        let entries: Vec<Value> = found.iter().map(entry).collect();
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
            .to_string()
            .into_bytes()
    });
    let digest = digest_of(&bytes);
    let names = options.naming.of_whole(digest.as_str());
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let target = Descriptor {
        media_type: INDEX.into(),
        digest: digest.to_string(),
        size: bytes.len() as i64,
        ..Default::default()
    };
    let labels = references(&parse("index.json", INDEX, &bytes)?);
    content::write_whole(client, bytes, &digest, &labels).await?;
    Ok(names.into_iter().map(|name| Imported { name, target: target.clone() }).collect())
}

fn parse(path: &str, media_type: &str, bytes: &[u8]) -> Result<Document, Error> {
    Document::parse(media_type, bytes).map_err(|error| invalid(path, &error))
}

/// The images of an OCI layout.
async fn of_layout(client: &Client, met: &Contents, index: &[u8]) -> Result<Vec<Found>, Error> {
    let index = parse("index.json", INDEX, index)?;
    let mut found = Vec::new();
    let mut tree = Tree::new(client, met);
    for entry in index.entries() {
        tree.label(&entry.blob).await?;
        let annotation = |key: &str| entry.blob.annotations.get(key).cloned();
        let full = annotation("io.containerd.image.name");
        let reference = annotation("org.opencontainers.image.ref.name");
        let target = entry.blob.clone().into();
        found.push(Found { full, reference, familiar: None, target });
    }
    Ok(found)
}

/// The images of `docker save`'s own format; manifests are made for them, with
/// docker's media types and byte for byte as containerd makes them
/// (`core/images/archive`, `ImportIndex`).
async fn of_docker(
    client: &Client,
    met: &Contents,
    saved: Vec<Saved>,
) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    for image in saved {
        let bytes = docker_manifest(met, &image)?.into_bytes();
        let digest = digest_of(&bytes);
        let target = Descriptor {
            media_type: DOCKER_MANIFEST.into(),
            digest: digest.to_string(),
            size: bytes.len() as i64,
            ..Default::default()
        };
        let labels = references(&parse("manifest.json", DOCKER_MANIFEST, &bytes)?);
        content::write_whole(client, bytes, &digest, &labels).await?;
        let before = found.len();
        found.extend(list(&image.repo_tags).iter().map(|tag| Found {
            familiar: Some(tag.clone()),
            target: target.clone(),
            ..Found::default()
        }));
        if found.len() == before {
            found.push(Found { target, ..Found::default() });
        }
    }
    Ok(found)
}

fn list(list: &Option<List<String>>) -> &[String] {
    list.as_ref().map_or(&[], |List(list)| list)
}

/// Puts compressed layers in the place of those that are not.
async fn compress_layers(client: &Client, met: &mut Contents) -> Result<(), Error> {
    for image in met.saved()?.unwrap_or_default() {
        for path in list(&image.layers) {
            let path = met.links.get(path).unwrap_or(path).clone();
            let Some(file) = met.files.get_mut(&path).filter(|file| !file.compressed) else {
                continue;
            };
            let (digest, size) = compress::gzip(client, &file.digest).await?;
            *file = File { digest, size, compressed: true };
        }
    }
    Ok(())
}

/// A manifest for one entry of `manifest.json`.
fn docker_manifest(met: &Contents, image: &Saved) -> Result<String, Error> {
    let entry = |path: &str, kind: &dyn Fn(&File) -> &'static str| {
        let file = met.file(path)?;
        // Nothing in these has to be escaped.
        let (digest, size) = (&file.digest, file.size);
        Ok::<_, Error>(format!(
            r#"{{"mediaType":"{}","digest":"{digest}","size":{size}}}"#,
            kind(file)
        ))
    };
    let config = entry(&image.config, &|_| DOCKER_CONFIG)?;
    // containerd takes everything that is compressed for gzip's; who unpacks
    // looks at the bytes.
    let kind = |file: &File| if file.compressed { DOCKER_LAYER_GZIP } else { DOCKER_LAYER };
    let layers = list(&image.layers).iter();
    let layers = layers.map(|path| entry(path, &kind)).collect::<Result<Vec<_>, _>>()?;
    Ok(format!(
        r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{config},"layers":[{}]}}"#,
        layers.join(",")
    ))
}

pub(crate) fn descriptor(subject: &str, value: &Value) -> Result<Descriptor, Error> {
    let digest = value["digest"].as_str().unwrap_or_default();
    digest.parse::<Digest>().map_err(|error| Error::invalid(subject, error))?;
    Ok(Descriptor {
        media_type: value["mediaType"].as_str().unwrap_or_default().to_owned(),
        digest: digest.to_owned(),
        size: value["size"].as_i64().unwrap_or_default(),
        ..Default::default()
    })
}

/// Whether that is an index.
pub(crate) fn is_index(media_type: &str) -> bool {
    [INDEX, DOCKER_LIST].contains(&media_type)
}

/// Whether that is an index or a manifest.
pub(crate) fn is_document(media_type: &str) -> bool {
    [INDEX, DOCKER_LIST, MANIFEST, DOCKER_MANIFEST].contains(&media_type)
}

/// What an index or a manifest refers to.
pub(crate) fn children(document: &Value) -> impl Iterator<Item = &Value> {
    let list = |name: &str| document[name].as_array().into_iter().flatten();
    list("manifests").chain(document.get("config")).chain(list("layers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_for_docker_archives_are_containerds() {
        let mut met = Contents::default();
        for (name, bytes, compressed) in
            [("config.json", "{}", false), ("a.tar", "plain", false), ("b.tar.gz", "packed", true)]
        {
            let digest = digest_of(bytes.as_bytes());
            met.files.insert(name.into(), File { digest, size: bytes.len() as u64, compressed });
        }
        let image = |layers: &[&str]| Saved {
            config: "config.json".into(),
            repo_tags: None,
            layers: Some(List(layers.iter().map(|&layer| layer.to_owned()).collect())),
        };
        let text = docker_manifest(&met, &image(&["a.tar", "b.tar.gz"])).unwrap();
        let kinds = [DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LAYER_GZIP];
        let places = kinds.map(|kind| text.find(&format!("{kind}\"")).expect(kind));
        assert!(places.is_sorted(), "{text}");
        let error = docker_manifest(&met, &image(&["c.tar"])).unwrap_err();
        assert!(error.to_string().contains("c.tar"), "{error}");
    }
}
