//! Images: finding the manifest for this platform, its configuration, and
//! unpacking its layers into snapshots.

use std::collections::HashSet;

use davit_distribution::pull::names::{is_config, is_layer};
use davit_protocols::grpc::containerd::services::diff::v1::ApplyRequest;
use davit_protocols::grpc::containerd::services::images::v1 as images;
use davit_protocols::grpc::containerd::services::images::v1::GetImageRequest;
use davit_protocols::grpc::containerd::services::snapshots::v1 as snapshots;
use davit_protocols::grpc::containerd::types::{Descriptor, Mount};
use davit_types::platform::Matcher;
use davit_types::{Algorithm, Digest, ErrorKind, Kind, Labels, Platform};
use oci_spec::image::ImageConfiguration;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::unique::unique_part;
use crate::{Client, Error, Lease, content};

/// How deep indexes may be nested.
const DEPTH: usize = 4;

/// What a lease is taken for at most while an image is unpacked; as long as an
/// import's, and for the same reasons.
const LEASE: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// How often a key is made up that no snapshot has.
const KEYS_TRIED: usize = 3;

/// An image, as far as this platform is concerned.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// The digest of what the name points to.
    pub target: Digest,
    /// Its configuration's digest.
    pub config_digest: Digest,
    /// What it is made to run, its environment, its user.
    pub config: ImageConfiguration,
    /// The labels of the configuration's blob.
    config_labels: Labels,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

impl Image {
    /// Reads the image called `name`.
    ///
    /// # Errors
    /// Not found when there is none; [`Error::Invalid`] when it has no
    /// manifest for this platform, or its documents make no sense.
    pub async fn get(client: &Client, name: &str) -> Result<Self, Error> {
        Self::of(client, name, &target(client, name).await?).await
    }

    /// Reads the image at `target`, which is called `name` in errors.
    ///
    /// # Errors
    /// As [`Image::get`].
    pub async fn of(client: &Client, name: &str, target: &Descriptor) -> Result<Self, Error> {
        let target: Digest = target.digest.parse().map_err(|e| Error::invalid(name, e))?;
        let manifest = manifest(client, name, &target).await?;
        let unfit = || Error::invalid(name, format!("no manifest for {}", Platform::host()));
        Self::read(client, name, target, &manifest.ok_or_else(unfit)?).await
    }

    /// As [`Image::of`]; `None` where there is nothing to unpack here: in what
    /// has no image's configuration or no layers, as artifacts have not, in
    /// images for other platforms, and where an index came without this one's.
    ///
    /// # Errors
    /// As [`Image::get`], but for what is no image.
    pub async fn if_any(
        client: &Client,
        name: &str,
        target: &Descriptor,
    ) -> Result<Option<Self>, Error> {
        let target: Digest = target.digest.parse().map_err(|e| Error::invalid(name, e))?;
        let (Some(manifest), _) = search(client, name, &target).await? else { return Ok(None) };
        if !is_config(manifest["config"]["mediaType"].as_str().unwrap_or_default()) {
            return Ok(None);
        }
        let image = Self::read(client, name, target, &manifest).await?;
        Ok(Some(image).filter(|image| !image.layers.is_empty()))
    }

    async fn read(
        client: &Client,
        name: &str,
        target: Digest,
        manifest: &Value,
    ) -> Result<Self, Error> {
        let config_digest = digest(name, &manifest["config"])?;
        let (bytes, config_labels) = content::read(client, &config_digest).await?;
        let config = serde_json::from_slice(&bytes)
            .map_err(|error| Error::invalid(config_digest.as_str(), error))?;
        let layers = manifest["layers"].as_array().into_iter().flatten();
        let layers = layers.map(|layer| descriptor(name, layer)).collect::<Result<Vec<_>, _>>()?;
        // What else an image carries along belongs to no snapshot.
        let layers = layers.into_iter().filter(|layer| is_layer(&layer.media_type)).collect();
        Ok(Self { name: name.to_owned(), target, config_digest, config, config_labels, layers })
    }

    /// The key of the snapshot that holds the whole image, the last chain ID;
    /// empty for an image without layers.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a configuration whose diff IDs are no digests.
    pub fn chain_id(&self) -> Result<String, Error> {
        Ok(self.chain()?.pop().unwrap_or_default())
    }

    /// The chain ID of each layer (OCI image specification, `config.md`).
    fn chain(&self) -> Result<Vec<String>, Error> {
        let mut chain: Vec<String> = Vec::new();
        for diff_id in self.config.rootfs().diff_ids() {
            diff_id.parse::<Digest>().map_err(|e| Error::invalid(&self.name, e))?;
            chain.push(match chain.last() {
                None => diff_id.clone(),
                Some(parent) => {
                    let sum = Sha256::digest(format!("{parent} {diff_id}"));
                    Digest::of_sum(Algorithm::Sha256, &sum).to_string()
                }
            });
        }
        if chain.len() != self.layers.len() {
            let reason = format!("{} layers but {} diff IDs", self.layers.len(), chain.len());
            return Err(Error::invalid(&self.name, reason));
        }
        Ok(chain)
    }

    /// Unpacks the layers that `snapshotter` has not got yet. When `stop` is
    /// done first, gives up what has been unpacked so far.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a layer is not what the configuration says;
    /// [`Error::Stopped`]; otherwise what the daemon answers. Nothing half-done
    /// is left.
    pub async fn unpack(
        &self,
        client: &Client,
        snapshotter: &str,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let chain = self.chain()?;
        let Some(last) = chain.last() else { return Ok(()) };
        let there = exists(client, snapshotter, last).await?;
        if there && self.config_labels.get(&reference(snapshotter)) == Some(last) {
            return Ok(());
        }
        let lease = Lease::take(client, LEASE).await?;
        let result = tokio::select! {
            result = self.unpack_all(lease.client(), snapshotter, &chain) => result,
            () = stop => Err(Error::Stopped),
        };
        let ended = lease.end().await;
        result.and(ended)
    }

    async fn unpack_all(
        &self,
        client: &Client,
        snapshotter: &str,
        chain: &[String],
    ) -> Result<(), Error> {
        let mut parent = String::new();
        for (number, name) in chain.iter().enumerate() {
            if !exists(client, snapshotter, name).await? {
                self.unpack_layer(client, snapshotter, number, &parent, name).await?;
            }
            parent.clone_from(name);
        }
        // What the lease holds from here on, the label on the configuration does.
        let labels = Labels::from([(reference(snapshotter), parent)]);
        content::set_labels(client, self.config_digest.to_string(), &labels).await
    }

    async fn unpack_layer(
        &self,
        client: &Client,
        snapshotter: &str,
        number: usize,
        parent: &str,
        name: &str,
    ) -> Result<(), Error> {
        let Some((key, mounts)) = prepare(client, snapshotter, parent, name).await? else {
            return Ok(());
        };
        let result = self.fill_layer(client, snapshotter, number, &key, name, mounts).await;
        if result.is_err() {
            let remove =
                snapshots::RemoveSnapshotRequest { snapshotter: snapshotter.to_owned(), key };
            // The first error is the one to tell.
            let _ = client.snapshots().remove(remove).await;
        }
        result
    }

    async fn fill_layer(
        &self,
        client: &Client,
        snapshotter: &str,
        number: usize,
        key: &str,
        name: &str,
        mounts: Vec<Mount>,
    ) -> Result<(), Error> {
        let layer = &self.layers[number];
        let apply = ApplyRequest { diff: Some(layer.clone()), mounts, ..Default::default() };
        let applied = client.diff().apply(apply).await?.into_inner().applied.unwrap_or_default();
        let diff_id = &self.config.rootfs().diff_ids()[number];
        if applied.digest != *diff_id {
            let reason = format!("unpacks to {}, but {diff_id} is promised", applied.digest);
            return Err(Error::invalid(&layer.digest, reason));
        }
        let commit = snapshots::CommitSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            ..Default::default()
        };
        match client.snapshots().commit(commit).await.map_err(Error::from) {
            // Somebody else unpacked the same layer at the same time.
            Err(Error::Daemon { kind: ErrorKind::AlreadyExists, .. }) => {
                let key = key.to_owned();
                let snapshotter = snapshotter.to_owned();
                let remove = snapshots::RemoveSnapshotRequest { snapshotter, key };
                client.snapshots().remove(remove).await?;
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }
}

/// What the name of an image points to.
///
/// # Errors
/// Not found when there is no image.
pub async fn target(client: &Client, name: &str) -> Result<Descriptor, Error> {
    let request = GetImageRequest { name: name.to_owned() };
    let record = client.images().get(request).await?.into_inner().image.unwrap_or_default();
    Ok(record.target.unwrap_or_default())
}

/// Names an image, anew if there is one of that name already. Without
/// `labels` those that the record has stay as they are.
///
/// # Errors
/// What the daemon answers.
pub async fn put(
    client: &Client,
    name: &str,
    target: &Descriptor,
    labels: Option<&Labels>,
) -> Result<(), Error> {
    let record = images::Image {
        name: name.to_owned(),
        target: Some(target.clone()),
        labels: labels.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        ..Default::default()
    };
    let create = images::CreateImageRequest { image: Some(record.clone()), ..Default::default() };
    // Without a mask, all of the record is replaced.
    let update_mask = match labels {
        None => Some(prost_types::FieldMask { paths: vec!["target".into()] }),
        Some(_) => None,
    };
    let update =
        images::UpdateImageRequest { image: Some(record), update_mask, ..Default::default() };
    loop {
        match client.images().create(create.clone()).await.map_err(Error::from) {
            Err(Error::Daemon { kind: ErrorKind::AlreadyExists, .. }) => {}
            other => return other.map(|_| ()),
        }
        match client.images().update(update.clone()).await.map_err(Error::from) {
            // Somebody removed it in between.
            Err(Error::Daemon { kind: ErrorKind::NotFound, .. }) => {}
            other => return other.map(|_| ()),
        }
    }
}

/// containerd's label, on a configuration, for the snapshot that holds the
/// whole image.
fn reference(snapshotter: &str) -> String {
    format!("containerd.io/gc.ref.snapshot.{snapshotter}")
}

/// Makes an active snapshot on `parent` to become the committed one `name`: its
/// key, and what to mount. `None` when somebody else has made that one.
async fn prepare(
    client: &Client,
    snapshotter: &str,
    parent: &str,
    name: &str,
) -> Result<Option<(String, Vec<Mount>)>, Error> {
    let mut tried = 1;
    loop {
        let key = format!("extract-{} {name}", unique_part());
        let request = snapshots::PrepareSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.clone(),
            parent: parent.to_owned(),
            ..Default::default()
        };
        match client.snapshots().prepare(request).await.map_err(Error::from) {
            Ok(answer) => return Ok(Some((key, answer.into_inner().mounts))),
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            Err(_) if exists(client, snapshotter, name).await? => return Ok(None),
            Err(error) if tried == KEYS_TRIED => return Err(error),
            Err(_) => tried += 1,
        }
    }
}

async fn exists(client: &Client, snapshotter: &str, key: &str) -> Result<bool, Error> {
    let request =
        snapshots::StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
    match client.snapshots().stat(request).await.map_err(Error::from) {
        Ok(_) => Ok(true),
        Err(Error::Daemon { kind: ErrorKind::NotFound, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Go's name of this machine's architecture.
pub fn architecture() -> String {
    Platform::host().architecture
}

/// The manifest for this machine, if there is one; not found when there should
/// be, and it is missing.
async fn manifest(client: &Client, name: &str, target: &Digest) -> Result<Option<Value>, Error> {
    let (found, missing) = search(client, name, target).await?;
    match missing {
        Some(error) if found.is_none() => Err(error),
        _ => Ok(found),
    }
}

/// Follows indexes to the manifest for this machine, if there is one, by
/// containerd's rules (`images.Manifest`): the best one that says so, or the
/// first whose configuration does. What of an index is not there, since only
/// other platforms were wanted of it, is passed over; the first error of these
/// comes along.
async fn search(
    client: &Client,
    name: &str,
    target: &Digest,
) -> Result<(Option<Value>, Option<Error>), Error> {
    let mut missing = None;
    let matcher = Matcher::host();
    let mut seen = HashSet::new();
    // The next one last, with whether its platform is known and how deep it is.
    let mut pending = vec![(target.clone(), true, 0)];
    while let Some((at, known, depth)) = pending.pop() {
        if depth == DEPTH {
            return Err(Error::invalid(name, format!("indexes nested more than {DEPTH} deep")));
        }
        if !seen.insert(at.clone()) {
            continue;
        }
        let bytes = match content::read(client, &at).await {
            Err(error) if depth > 0 && error.kind() == ErrorKind::NotFound => {
                missing.get_or_insert(error);
                continue;
            }
            other => other?.0,
        };
        let document: Value =
            serde_json::from_slice(&bytes).map_err(|e| Error::invalid(at.as_str(), e))?;
        let Some(entries) = document["manifests"].as_array() else {
            // What an index does not say, the configuration does.
            if known || matcher.matches(&configured(client, name, &document).await?) {
                return Ok((Some(document), missing));
            }
            continue;
        };
        let mut entries: Vec<&Value> =
            entries.iter().filter(|entry| is_meant(entry, &matcher)).collect();
        sort(&mut entries, &matcher);
        for entry in entries.into_iter().rev() {
            pending.push((digest(name, entry)?, platform(entry).is_some(), depth + 1));
        }
    }
    Ok((None, missing))
}

/// Bytes of all layers that the manifest for this machine names, also where it
/// is an artifact's; `None` where there is no such manifest.
///
/// # Errors
/// Not found when parts are missing; [`Error::Invalid`] for documents that make
/// no sense.
pub async fn size(client: &Client, name: &str, target: &Descriptor) -> Result<Option<u64>, Error> {
    let target: Digest = target.digest.parse().map_err(|e| Error::invalid(name, e))?;
    let Some(manifest) = manifest(client, name, &target).await? else { return Ok(None) };
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let sizes = layers.filter_map(|layer| layer["size"].as_u64());
    Ok(Some(sizes.fold(0, u64::saturating_add)))
}

/// The platforms that the index of the image called `name` says it has;
/// `None` when the name leads to no index. Attestations are no platform.
///
/// # Errors
/// Not found when there is no image; [`Error::Invalid`] for an index that
/// makes no sense.
pub async fn platforms(client: &Client, name: &str) -> Result<Option<Vec<Platform>>, Error> {
    let target = target(client, name).await?.digest;
    let target: Digest = target.parse().map_err(|error| Error::invalid(name, error))?;
    let (bytes, _) = content::read(client, &target).await?;
    let document: Value =
        serde_json::from_slice(&bytes).map_err(|e| Error::invalid(target.as_str(), e))?;
    let entries = document["manifests"].as_array();
    let named = |entries: &Vec<Value>| {
        entries.iter().filter_map(platform).filter(|platform| platform.os != "unknown").collect()
    };
    Ok(entries.map(named))
}

/// The platform that a manifest's configuration is for.
async fn configured(client: &Client, name: &str, manifest: &Value) -> Result<Platform, Error> {
    let config = digest(name, &manifest["config"])?;
    let (bytes, _) = content::read(client, &config).await?;
    // An artifact's configuration is whatever it likes.
    Ok(platform_of(&serde_json::from_slice(&bytes).unwrap_or_default()))
}

/// Whether `matcher` means an entry of an index, or could: it need not say
/// what it runs on.
pub(crate) fn is_meant(entry: &Value, matcher: &Matcher) -> bool {
    platform(entry).is_none_or(|platform| matcher.matches(&platform))
}

/// Puts the best entry of an index first, and those that do not say what they
/// run on last.
pub(crate) fn sort(entries: &mut [&Value], matcher: &Matcher) {
    entries.sort_by_key(|entry| {
        platform(entry).map_or(usize::MAX, |platform| matcher.rank(&platform))
    });
}

/// What an entry of an index runs on, if it says so.
fn platform(entry: &Value) -> Option<Platform> {
    let platform = &entry["platform"];
    (!platform.is_null()).then(|| platform_of(platform))
}

fn platform_of(value: &Value) -> Platform {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let features = value["os.features"].as_array().into_iter().flatten();
    Platform {
        os: text("os"),
        architecture: text("architecture"),
        variant: text("variant"),
        os_version: text("os.version"),
        os_features: features.filter_map(Value::as_str).map(str::to_owned).collect(),
    }
}

fn digest(subject: &str, value: &Value) -> Result<Digest, Error> {
    value["digest"].as_str().unwrap_or_default().parse().map_err(|e| Error::invalid(subject, e))
}

fn descriptor(subject: &str, value: &Value) -> Result<Descriptor, Error> {
    Ok(Descriptor {
        media_type: value["mediaType"].as_str().unwrap_or_default().to_owned(),
        digest: digest(subject, value)?.to_string(),
        size: value["size"].as_i64().unwrap_or_default(),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_best_entry_comes_first_and_attestations_do_not_come() {
        let entry = |digest: u8, os: &str, architecture: &str, variant: &str| {
            json!({"digest": digest, "platform":
                {"os": os, "architecture": architecture, "variant": variant}})
        };
        let list = [
            json!({"digest": 0}),
            entry(1, "linux", "arm", "v6"),
            entry(2, "unknown", "unknown", ""),
            entry(3, "linux", "arm", "v7"),
            entry(4, "linux", "arm64", "v8"),
            entry(5, "windows", "arm64", ""),
        ];
        let sorted = |platform: &str| {
            let matcher = Matcher::only(&Platform::parse(platform).unwrap());
            let meant = list.iter().filter(|entry| is_meant(entry, &matcher));
            let mut entries: Vec<&Value> = meant.collect();
            sort(&mut entries, &matcher);
            entries.iter().map(|entry| entry["digest"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(sorted("linux/arm64"), [4, 3, 1, 0]);
        assert_eq!(sorted("linux/arm/v6"), [1, 0]);
        assert_eq!(sorted("linux/amd64"), [0]);
        assert_eq!(sorted("windows/arm64"), [5, 0]);
    }
}
