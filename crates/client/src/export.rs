//! Exporting images as an archive: an OCI image layout as tar, with the
//! `manifest.json` that `docker load` reads (containerd,
//! `core/images/archive/exporter.go`).

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use davit_distribution::pull::names::is_non_distributable;
use davit_protocols::grpc::containerd::services::content::v1 as api;
use davit_protocols::grpc::containerd::types::{Descriptor, Platform};
use davit_types::platform::Matcher;
use davit_types::{Algorithm, Digest, ErrorKind};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

use crate::import::{INDEX, children, descriptor, is_document, is_index};
use crate::{Client, Error, content, image, naming};

/// How deep indexes may be nested.
const DEPTH: usize = 4;
/// Tar's unit, in bytes.
const BLOCK: usize = 512;

/// containerd's labels for the registries that a blob came from.
const SOURCE: &str = "containerd.io/distribution.source";

/// What is exported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Of these platforms; of this machine's when there are none.
    pub platforms: Vec<Platform>,
    /// Of every platform. What is missing then is an error.
    pub all_platforms: bool,
    /// Without `manifest.json`.
    pub skip_docker_manifest: bool,
    /// Without layers that may not be passed on.
    pub skip_non_distributable: bool,
}

/// What the archive is going to hold.
#[derive(Default)]
struct Plan {
    /// Blobs, by path.
    blobs: BTreeMap<String, Descriptor>,
    /// The entries of `index.json`.
    index: Vec<Value>,
    /// Manifests for `docker load`, with their names.
    docker: BTreeMap<String, (Descriptor, Vec<String>)>,
}

/// Writes an archive of `images`, names with what they point to, into `out`.
///
/// # Errors
/// Not found when a blob is missing, or an image has nothing for the
/// platforms; [`Error::Invalid`] for what is no image; [`Error::Stopped`] when
/// nobody takes what is written; otherwise what the daemon answers.
pub async fn archive(
    client: &Client,
    images: &[(String, Descriptor)],
    options: &Options,
    out: &mpsc::Sender<Bytes>,
) -> Result<(), Error> {
    let mut plan = Plan::default();
    for (name, target) in images {
        plan.add(client, name, target, options).await?;
    }
    let manifest = plan.docker_manifest(client, options).await?;
    directory(out, "blobs/").await?;
    let mut algorithm = "";
    for (path, blob) in &plan.blobs {
        let parent = path.rfind('/').map_or("", |end| &path[..=end]);
        if parent != algorithm {
            directory(out, parent).await?;
            algorithm = parent;
        }
        copy(client, path, blob, out).await?;
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": plan.index});
    document(out, "index.json", 0o644, &index).await?;
    if let Some(manifest) = manifest {
        document(out, "manifest.json", 0o644, &manifest).await?;
    }
    document(out, "oci-layout", 0o444, &json!({"imageLayoutVersion": "1.0.0"})).await?;
    send(out, vec![0; 2 * BLOCK].into()).await
}

impl Plan {
    async fn add(
        &mut self,
        client: &Client,
        name: &str,
        target: &Descriptor,
        options: &Options,
    ) -> Result<(), Error> {
        if !is_document(&target.media_type) {
            return Err(Error::invalid(name, "only manifests may be exported"));
        }
        let digest = parsed(target)?;
        let (_, labels) = content::read(client, &digest).await?;
        let mut annotations = target.annotations.clone();
        annotations.extend(labels.into_iter().filter(|(key, _)| key.starts_with(SOURCE)));
        annotations.insert("io.containerd.image.name".into(), name.to_owned());
        annotations.insert("org.opencontainers.image.ref.name".into(), naming::object(name));
        self.index.push(json!({
            "mediaType": target.media_type, "digest": target.digest, "size": target.size,
            "annotations": annotations.into_iter().collect::<BTreeMap<_, _>>(),
        }));
        let manifest = self.add_tree(client, target, options).await?.ok_or_else(|| {
            let message = "no manifest found for platform: not found".to_owned();
            Error::Daemon { kind: ErrorKind::NotFound, message }
        })?;
        let key = manifest.digest.clone();
        self.docker.entry(key).or_insert((manifest, Vec::new())).1.push(name.to_owned());
        Ok(())
    }

    /// Adds all that `root` refers to. Answers with the manifest that the
    /// platforms asked for find there.
    async fn add_tree(
        &mut self,
        client: &Client,
        root: &Descriptor,
        options: &Options,
    ) -> Result<Option<Descriptor>, Error> {
        let matcher = options.matcher();
        let mut manifest = None;
        // However many refer to a document, it is looked at once.
        let mut seen = HashSet::new();
        let mut open = vec![(root.clone(), true, 0)];
        while let Some((node, fits, depth)) = open.pop() {
            if !seen.insert((node.digest.clone(), node.media_type.clone(), fits)) {
                continue;
            }
            if depth > DEPTH {
                let reason = format!("indexes nested more than {DEPTH} deep");
                return Err(Error::invalid(&root.digest, reason));
            }
            let digest = parsed(&node)?;
            if options.skip_non_distributable && is_non_distributable(&node.media_type) {
                continue;
            }
            let path = format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex());
            self.blobs.insert(path, node.clone());
            if !is_document(&node.media_type) {
                continue;
            }
            let (bytes, _) = content::read(client, &digest).await?;
            let document: Value = serde_json::from_slice(&bytes)
                .map_err(|error| Error::invalid(digest.as_str(), error))?;
            let index = is_index(&node.media_type);
            let list = options.chosen(children(&document).collect(), index.then_some(&matcher));
            // The last one in is the first one out.
            for (child, meant) in list.into_iter().rev() {
                open.push((descriptor(digest.as_str(), child)?, fits && meant, depth + 1));
            }
            if fits && !index && manifest.is_none() {
                manifest = Some(node);
            }
        }
        Ok(manifest)
    }

    /// What `docker load` reads.
    async fn docker_manifest(
        &self,
        client: &Client,
        options: &Options,
    ) -> Result<Option<Value>, Error> {
        if options.skip_docker_manifest || self.docker.is_empty() {
            return Ok(None);
        }
        let mut entries = Vec::new();
        for (manifest, names) in self.docker.values() {
            let (bytes, _) = content::read(client, &parsed(manifest)?).await?;
            let document: Value = serde_json::from_slice(&bytes)
                .map_err(|error| Error::invalid(&manifest.digest, error))?;
            let path = |value: &Value| {
                let digest = value["digest"].as_str().unwrap_or_default();
                format!("blobs/{}", digest.replace(':', "/"))
            };
            let layers = document["layers"].as_array().into_iter().flatten();
            let tags: Vec<String> =
                names.iter().map(|name| naming::familiar(name)).collect::<Result<_, _>>()?;
            entries.push(json!({
                "Config": path(&document["config"]),
                "RepoTags": tags,
                "Layers": layers.map(path).collect::<Vec<_>>(),
            }));
        }
        Ok(Some(Value::Array(entries)))
    }
}

impl Options {
    /// Those of a document's children that are exported, with whether they are
    /// meant: those that `matcher` means, the best first, and then the others
    /// if they are wanted. Without a matcher all are meant.
    fn chosen<'v>(&self, all: Vec<&'v Value>, matcher: Option<&Matcher>) -> Vec<(&'v Value, bool)> {
        let Some(matcher) = matcher else {
            return all.into_iter().map(|child| (child, true)).collect();
        };
        let (mut meant, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|child| image::is_meant(child, matcher));
        image::sort(&mut meant, matcher);
        let others = others.into_iter().filter(|_| self.all_platforms);
        let meant = meant.into_iter().map(|child| (child, true));
        meant.chain(others.map(|child| (child, false))).collect()
    }

    /// Says which entries of an index are for the platforms asked for.
    fn matcher(&self) -> Matcher {
        let platforms: Vec<_> = self.platforms.iter().cloned().map(Into::into).collect();
        match platforms.as_slice() {
            [] => Matcher::only_strict(&davit_types::Platform::host()),
            platforms => Matcher::ordered(platforms),
        }
    }
}

fn parsed(target: &Descriptor) -> Result<Digest, Error> {
    target.digest.parse().map_err(|error| Error::invalid(&target.digest, error))
}

/// Writes a blob, checked against its descriptor on the way.
async fn copy(
    client: &Client,
    path: &str,
    blob: &Descriptor,
    out: &mpsc::Sender<Bytes>,
) -> Result<(), Error> {
    header(out, path, tar::EntryType::Regular, 0o444, blob.size as u64).await?;
    let request =
        api::ReadContentRequest { digest: blob.digest.clone(), offset: 0, size: blob.size };
    let mut parts = client.content().read(request).await?.into_inner();
    let (mut hash, mut size) = (Sha256::new(), 0);
    while let Some(part) = parts.next().await {
        let data = part?.data;
        hash.update(&data);
        size += data.len();
        send(out, data).await?;
    }
    if size as i64 != blob.size {
        let reason = format!("{size} bytes, but {} are promised", blob.size);
        return Err(Error::invalid(&blob.digest, reason));
    }
    let found = Digest::of_sum(Algorithm::Sha256, &hash.finalize());
    if blob.digest.starts_with("sha256:") && blob.digest != found.as_str() {
        return Err(Error::invalid(&blob.digest, format!("its bytes have the digest {found}")));
    }
    pad(out, size).await
}

async fn document(
    out: &mpsc::Sender<Bytes>,
    path: &str,
    mode: u32,
    document: &Value,
) -> Result<(), Error> {
    let bytes = document.to_string().into_bytes();
    let size = bytes.len();
    header(out, path, tar::EntryType::Regular, mode, size as u64).await?;
    send(out, bytes.into()).await?;
    pad(out, size).await
}

async fn directory(out: &mpsc::Sender<Bytes>, path: &str) -> Result<(), Error> {
    header(out, path, tar::EntryType::Directory, 0o755, 0).await
}

async fn header(
    out: &mpsc::Sender<Bytes>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    size: u64,
) -> Result<(), Error> {
    let mut header = tar::Header::new_gnu();
    header.set_path(path).map_err(|error| Error::invalid(path, error))?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    send(out, Bytes::copy_from_slice(header.as_bytes())).await
}

async fn pad(out: &mpsc::Sender<Bytes>, size: usize) -> Result<(), Error> {
    match size % BLOCK {
        0 => Ok(()),
        rest => send(out, vec![0; BLOCK - rest].into()).await,
    }
}

async fn send(out: &mpsc::Sender<Bytes>, bytes: Bytes) -> Result<(), Error> {
    out.send(bytes).await.map_err(|_| Error::Stopped)
}
