//! Importing an archive: an OCI image layout or what `docker save` writes, as
//! tar, also compressed by gzip or zstd.
//!
//! The archive is read once, front to back, so that it can come from a pipe.
//! Blobs go to the daemon as they are met; only documents stay in memory. At
//! the end every manifest must have all that it refers to.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use davit_protocols::grpc::containerd::types::Descriptor;
use davit_types::{Algorithm, Digest, Labels};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::image::{self, Image};
use crate::naming::{Found, Naming};
use crate::{Client, Error, Lease, compress, content};

/// Documents larger than this are not read as such, in bytes.
const DOCUMENT_LIMIT: u64 = 8 << 20;

/// The most entries that an archive may have.
const ENTRY_LIMIT: usize = 100_000;

/// What is read after the last entry at most, in bytes, so that who writes
/// the archive is not cut off in its padding.
const PADDING_LIMIT: u64 = 1 << 20;

/// What a lease is taken for at most; it ends sooner when all went well.
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

/// What was met in the archive.
#[derive(Default)]
struct Met {
    /// JSON documents by their path.
    documents: BTreeMap<String, Vec<u8>>,
    /// Every file by its path.
    files: BTreeMap<String, File>,
    /// Where symbolic links lead, by their paths: `docker save` writes them for
    /// layers that several images have.
    links: BTreeMap<String, String>,
}

/// A file of the archive.
#[derive(Clone, Debug)]
struct File {
    digest: Digest,
    size: u64,
    /// Whether it begins as what gzip or zstd write.
    compressed: bool,
}

impl Met {
    /// The file that `manifest.json` means by `path`.
    fn file(&self, path: &str) -> Result<&File, Error> {
        let found = self.files.get(path);
        let found = found.or_else(|| self.files.get(self.links.get(path)?));
        found.ok_or_else(|| Error::invalid(path, "manifest.json refers to it, but it is not there"))
    }
}

/// Imports every image of an archive. `name` names the image of an archive
/// that does not name its own.
///
/// `archive` is read on a thread for blocking work, which may outlive the call
/// when `stop` is done first; the future must run on a tokio runtime.
///
/// # Errors
/// [`Error::Invalid`] for what is no archive or lacks something that it refers
/// to, naming it; [`Error::Stopped`]; otherwise what the daemon answers. What
/// was written is dropped with the lease.
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
fn store(client: &Client, handle: &Handle, archive: impl Read) -> Result<Met, Error> {
    let invalid = |error: io::Error| Error::invalid("archive", error);
    let stream = decompress(BufReader::with_capacity(1 << 17, archive)).map_err(invalid)?;
    let mut tar = tar::Archive::new(stream);
    let mut met = Met::default();
    for (number, entry) in tar.entries().map_err(invalid)?.enumerate() {
        if number >= ENTRY_LIMIT {
            return Err(Error::invalid("archive", format!("more than {ENTRY_LIMIT} entries")));
        }
        let mut entry = entry.map_err(invalid)?;
        let path = entry.path().map_err(invalid)?.to_string_lossy().into_owned();
        let path = path.trim_start_matches("./").to_owned();
        if entry.header().entry_type().is_symlink() {
            let target = entry.link_name().map_err(invalid)?.unwrap_or_default();
            met.links.insert(path.clone(), beside(&path, &target.to_string_lossy()));
        }
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let size = entry.size();
        let (digest, compressed) = if is_top_level(&path) {
            (document(&mut entry, &path, size, &mut met)?, false)
        } else {
            let mut entry = BufReader::with_capacity(1 << 17, entry);
            let compressed = is_compressed(entry.fill_buf().map_err(invalid)?);
            (blob(client, handle, &mut entry, &path, size, &mut met)?, compressed)
        };
        check_path(&path, &digest)?;
        met.files.insert(path, File { digest, size, compressed });
    }
    let padding = &mut tar.into_inner().take(PADDING_LIMIT);
    io::copy(padding, &mut io::sink()).map_err(invalid)?;
    Ok(met)
}

/// Reads a file that is only of use here.
fn document(file: &mut impl Read, path: &str, size: u64, met: &mut Met) -> Result<Digest, Error> {
    if size > DOCUMENT_LIMIT {
        let reason = format!("{size} bytes, more than the {DOCUMENT_LIMIT} that it may have");
        return Err(Error::invalid(path, reason));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| Error::invalid(path, error))?;
    let digest = digest_of(&bytes);
    met.documents.insert(path.to_owned(), bytes);
    Ok(digest)
}

/// Sends a file to the daemon while it is read; keeps it too if it could be a
/// manifest.
fn blob(
    client: &Client,
    handle: &Handle,
    file: &mut impl Read,
    path: &str,
    size: u64,
    met: &mut Met,
) -> Result<Digest, Error> {
    let (sender, receiver) = mpsc::channel(2);
    // Not the name of an ingest that an import left behind that was killed.
    let now = jiff::Timestamp::now().as_nanosecond();
    let reference = format!("import-{}-{now}-{path}", std::process::id());
    let task_client = client.clone();
    let writing = handle.spawn(async move {
        content::write(&task_client, &reference, size, ReceiverStream::new(receiver)).await
    });
    let mut hash = Sha256::new();
    let mut kept = (size <= DOCUMENT_LIMIT).then(Vec::new);
    loop {
        let mut chunk = Vec::with_capacity(content::CHUNK.min(size as usize));
        let limit = content::CHUNK as u64;
        file.take(limit).read_to_end(&mut chunk).map_err(|error| Error::invalid(path, error))?;
        if chunk.is_empty() {
            break;
        }
        hash.update(&chunk);
        if kept.as_ref().is_some_and(|kept| kept.is_empty() && chunk[0] != b'{') {
            kept = None;
        }
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(&chunk);
        }
        // Fails when the daemon has answered already: the blob is there, or
        // an error that is told below.
        let _ = sender.blocking_send(content::Part::Data(chunk.into()));
    }
    let digest = as_digest(hash);
    let _ = sender.blocking_send(content::Part::End(digest.clone()));
    drop(sender);
    handle.block_on(writing).map_err(|_| Error::Stopped)??;
    if let Some(kept) = kept {
        met.documents.insert(path.to_owned(), kept);
    }
    Ok(digest)
}

/// The path that a symbolic link at `path` leads to.
fn beside(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Whether a file describes the archive instead of being part of an image.
fn is_top_level(path: &str) -> bool {
    ["oci-layout", "index.json", "manifest.json", "repositories"].contains(&path)
}

/// A blob of an OCI layout must be what its path says.
fn check_path(path: &str, digest: &Digest) -> Result<(), Error> {
    match path.strip_prefix("blobs/sha256/") {
        Some(hex) if hex != digest.hex() => {
            Err(Error::invalid(path, format!("its digest is {digest}")))
        }
        _ => Ok(()),
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    as_digest(Sha256::new_with_prefix(bytes))
}

fn as_digest(hash: Sha256) -> Digest {
    Digest::of_sum(Algorithm::Sha256, &hash.finalize())
}

/// Whether these are the first bytes of what gzip or zstd write.
fn is_compressed(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b, 0x08]) || start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
}

fn decompress<'a>(mut stream: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let start = stream.fill_buf()?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(stream))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::stream::read::Decoder::with_buffer(stream)?)
    } else {
        Box::new(stream)
    })
}

/// Labels what belongs together, unpacks the images and gives them their
/// names.
async fn name_images(
    client: &Client,
    met: &Met,
    options: &Options,
) -> Result<Vec<Imported>, Error> {
    let found = match (met.documents.get("index.json"), met.documents.get("manifest.json")) {
        (Some(index), _) => of_layout(client, met, index).await?,
        (None, Some(manifest)) => of_docker(client, met, manifest).await?,
        (None, None) => {
            let reason = "neither index.json nor manifest.json: not an image";
            return Err(Error::invalid("archive", reason));
        }
    };
    let mut named = whole(client, met, &found, options).await?;
    for image in &found {
        let target = &image.target;
        let names = options.naming.of_image(image)?.into_iter();
        named.extend(names.map(|name| Imported { name, target: target.clone() }));
    }
    if named.is_empty() && matches!(options.naming, Naming::Own(_)) {
        return Err(Error::invalid("archive", "no image in it has a name; give one"));
    }
    for image in found.iter().filter(|_| !options.unpack.is_empty()) {
        let image = Image::of(client, &image.target.digest, &image.target).await?;
        for snapshotter in &options.unpack {
            image.unpack(client, snapshotter, std::future::pending()).await?;
        }
    }
    for Imported { name, target } in &named {
        image::put(client, name, target, options.labels.as_ref()).await?;
    }
    Ok(named)
}

/// The archive's index, as an image of its own where it is to have a name.
async fn whole(
    client: &Client,
    met: &Met,
    found: &[Found],
    options: &Options,
) -> Result<Vec<Imported>, Error> {
    let bytes = met.documents.get("index.json").cloned().unwrap_or_else(|| {
        let entry = |image: &Found| {
            let target = &image.target;
            serde_json::json!({
                "mediaType": target.media_type, "digest": target.digest, "size": target.size,
            })
        };
        let entries: Vec<Value> = found.iter().map(entry).collect();
        serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
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
    let labels = references(&parse("index.json", &bytes)?);
    content::write_whole(client, bytes, &digest, &labels).await?;
    Ok(names.into_iter().map(|name| Imported { name, target: target.clone() }).collect())
}

fn parse(path: &str, bytes: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::invalid(path, error))
}

/// The images of an OCI layout.
async fn of_layout(client: &Client, met: &Met, index: &[u8]) -> Result<Vec<Found>, Error> {
    let index = parse("index.json", index)?;
    let mut found = Vec::new();
    for entry in index["manifests"].as_array().into_iter().flatten() {
        let mut target = descriptor("index.json", entry)?;
        label_tree(client, met, &target).await?;
        let annotations = entry["annotations"].as_object().into_iter().flatten();
        let text =
            |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        target.annotations = annotations.filter_map(text).collect();
        let annotation = |key: &str| target.annotations.get(key).cloned();
        let full = annotation("io.containerd.image.name");
        let reference = annotation("org.opencontainers.image.ref.name");
        found.push(Found { full, reference, familiar: None, target });
    }
    Ok(found)
}

/// The images of `docker save`'s own format; manifests are made for them, with
/// docker's media types and byte for byte as containerd makes them
/// (`core/images/archive`, `ImportIndex`).
async fn of_docker(client: &Client, met: &Met, manifest: &[u8]) -> Result<Vec<Found>, Error> {
    let list = parse("manifest.json", manifest)?;
    let mut found = Vec::new();
    for image in list.as_array().into_iter().flatten() {
        let bytes = docker_manifest(met, image)?.into_bytes();
        let digest = digest_of(&bytes);
        let target = Descriptor {
            media_type: DOCKER_MANIFEST.into(),
            digest: digest.to_string(),
            size: bytes.len() as i64,
            ..Default::default()
        };
        let labels = references(&parse("manifest.json", &bytes)?);
        content::write_whole(client, bytes, &digest, &labels).await?;
        let tags = image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let before = found.len();
        found.extend(tags.map(|tag| Found {
            familiar: Some(tag.to_owned()),
            target: target.clone(),
            ..Found::default()
        }));
        if found.len() == before {
            found.push(Found { target, ..Found::default() });
        }
    }
    Ok(found)
}

/// Puts compressed layers in the place of those that are not.
async fn compress_layers(client: &Client, met: &mut Met) -> Result<(), Error> {
    let (None, Some(manifest)) =
        (met.documents.get("index.json"), met.documents.get("manifest.json"))
    else {
        return Ok(());
    };
    let list = parse("manifest.json", manifest)?;
    let images = list.as_array().into_iter().flatten();
    let paths = images.flat_map(|image| image["Layers"].as_array().into_iter().flatten());
    for path in paths.filter_map(Value::as_str) {
        let path = met.links.get(path).map_or(path, String::as_str).to_owned();
        let Some(file) = met.files.get_mut(&path).filter(|file| !file.compressed) else {
            continue;
        };
        let (digest, size) = compress::gzip(client, &file.digest).await?;
        *file = File { digest, size, compressed: true };
    }
    Ok(())
}

/// A manifest for one entry of `manifest.json`.
fn docker_manifest(met: &Met, image: &Value) -> Result<String, Error> {
    let entry = |path: &Value, kind: &dyn Fn(&File) -> &'static str| {
        let file = met.file(path.as_str().unwrap_or_default())?;
        // Nothing in these has to be escaped.
        let (digest, size) = (&file.digest, file.size);
        Ok::<_, Error>(format!(
            r#"{{"mediaType":"{}","digest":"{digest}","size":{size}}}"#,
            kind(file)
        ))
    };
    let config = entry(&image["Config"], &|_| DOCKER_CONFIG)?;
    // containerd takes everything that is compressed for gzip's; who unpacks
    // looks at the bytes.
    let kind = |file: &File| if file.compressed { DOCKER_LAYER_GZIP } else { DOCKER_LAYER };
    let layers = image["Layers"].as_array().into_iter().flatten();
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

/// Checks that what `root` refers to is there, and labels every document with
/// what it refers to, so that collection keeps it.
async fn label_tree(client: &Client, met: &Met, root: &Descriptor) -> Result<(), Error> {
    let mut open = vec![root.clone()];
    while let Some(node) = open.pop() {
        let path = format!("blobs/{}", node.digest.replace(':', "/"));
        let file = met
            .files
            .get(&path)
            .ok_or_else(|| Error::invalid(&node.digest, "referred to, but not in the archive"))?;
        if file.size as i64 != node.size {
            let reason = format!("{} bytes, but {} are promised", file.size, node.size);
            return Err(Error::invalid(file.digest.as_str(), reason));
        }
        let Some(bytes) = met.documents.get(&path).filter(|_| is_document(&node.media_type)) else {
            continue;
        };
        let document = parse(&path, bytes)?;
        content::set_labels(client, node.digest.clone(), &references(&document)).await?;
        for child in children(&document) {
            let child = descriptor(&path, child)?;
            // An archive may hold one platform of several.
            let there =
                met.files.contains_key(&format!("blobs/{}", child.digest.replace(':', "/")));
            if there || !is_document(&child.media_type) {
                open.push(child);
            }
        }
    }
    Ok(())
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

/// containerd's labels for what a document refers to.
fn references(document: &Value) -> Labels {
    let digest = |value: &Value| value["digest"].as_str().unwrap_or_default().to_owned();
    let numbered = |list: &str, letter: &str| {
        let entries = document[list].as_array().into_iter().flatten().enumerate();
        entries
            .map(|(n, entry)| (format!("containerd.io/gc.ref.content.{letter}.{n}"), digest(entry)))
            .collect::<Vec<_>>()
    };
    let config = document.get("config");
    let config = config.map(|c| ("containerd.io/gc.ref.content.config".to_owned(), digest(c)));
    numbered("manifests", "m").into_iter().chain(numbered("layers", "l")).chain(config).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_containerds_labels() {
        let document = serde_json::json!({
            "config": {"digest": "sha256:c"}, "layers": [{"digest": "sha256:0"}, {"digest": "sha256:1"}],
        });
        let labels = references(&document);
        let pairs: Vec<_> =
            labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(
            pairs,
            [
                ("containerd.io/gc.ref.content.config", "sha256:c"),
                ("containerd.io/gc.ref.content.l.0", "sha256:0"),
                ("containerd.io/gc.ref.content.l.1", "sha256:1"),
            ]
        );
    }

    #[test]
    fn links_lead_to_files_of_the_archive() {
        assert_eq!(beside("a/layer.tar", "../b/layer.tar"), "b/layer.tar");
        assert_eq!(beside("link", "./file"), "file");
        assert_eq!(beside("a/link", "../../../etc/passwd"), "etc/passwd");
        let mut met = Met::default();
        let file = File { digest: digest_of(b"x"), size: 1, compressed: true };
        met.files.insert("b/layer.tar".into(), file);
        met.links.insert("a/layer.tar".into(), "b/layer.tar".into());
        met.links.insert("gone".into(), "nowhere".into());
        assert_eq!(met.file("a/layer.tar").unwrap().digest, digest_of(b"x"));
        assert!(met.file("gone").unwrap_err().to_string().contains("gone"));
    }

    #[test]
    fn manifests_for_docker_archives_are_containerds() {
        let mut met = Met::default();
        for (name, bytes, compressed) in
            [("config.json", "{}", false), ("a.tar", "plain", false), ("b.tar.gz", "packed", true)]
        {
            let digest = digest_of(bytes.as_bytes());
            met.files.insert(name.into(), File { digest, size: bytes.len() as u64, compressed });
        }
        let image = serde_json::json!({"Config": "config.json", "Layers": ["a.tar", "b.tar.gz"]});
        let text = docker_manifest(&met, &image).unwrap();
        let kinds = [DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LAYER_GZIP];
        let places = kinds.map(|kind| text.find(&format!("{kind}\"")).expect(kind));
        assert!(places.is_sorted(), "{text}");
        let missing = serde_json::json!({"Config": "config.json", "Layers": ["c.tar"]});
        assert!(docker_manifest(&met, &missing).unwrap_err().to_string().contains("c.tar"));
    }

    #[test]
    fn a_blob_must_be_what_its_path_says() {
        let digest = digest_of(b"bytes");
        assert!(check_path(&format!("blobs/sha256/{}", digest.hex()), &digest).is_ok());
        assert!(check_path("layer.tar", &digest).is_ok());
        let error = check_path("blobs/sha256/00", &digest).unwrap_err();
        assert!(error.to_string().contains("blobs/sha256/00"), "{error}");
    }

    #[test]
    fn compression_is_recognised_by_its_first_bytes() {
        let plain = b"plain bytes".to_vec();
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &plain).unwrap();
        for stream in [plain.clone(), zstd, gzip.finish().unwrap()] {
            let mut out = Vec::new();
            decompress(&stream[..]).unwrap().read_to_end(&mut out).unwrap();
            assert_eq!(out, plain);
        }
    }
}
