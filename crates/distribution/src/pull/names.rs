//! What kinds of blob there are, and what follows from that for names and
//! labels (containerd, `core/images/mediatypes.go`, `core/remotes/handlers.go`
//! and `core/remotes/docker/handler.go`).

use std::collections::BTreeMap;

use davit_types::{Descriptor, Digest, Labels, Reference};

const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const CHECKPOINTS: [&str; 2] = [
    "application/vnd.containerd.container.criu.checkpoint.criu.tar",
    "application/vnd.containerd.container.checkpoint.config.v1+proto",
];
const OCI_LAYER: &str = "application/vnd.oci.image.layer.";
const DOCKER_LAYERS: [&str; 5] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];
const EROFS_LAYER: &str = "application/vnd.erofs.layer.v1";

/// Docker's manifests of before 2016, which nobody reads any more.
pub(crate) const SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v1+json",
];

/// The annotation that goes into a blob's name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The labels that say from which repositories a blob came begin with this;
/// behind it comes the host.
const SOURCE: &str = "containerd.io/distribution.source.";
/// The longest label, key and value together, in bytes (containerd,
/// `pkg/labels/validate.go`).
const LABEL_LIMIT: usize = 4096;

/// Whether that is a list of manifests.
pub fn is_index(media_type: &str) -> bool {
    INDEXES.contains(&media_type)
}

/// Whether that is a manifest.
pub fn is_manifest(media_type: &str) -> bool {
    MANIFESTS.contains(&media_type)
}

/// Whether that is the configuration of an image.
pub fn is_config(media_type: &str) -> bool {
    CONFIGS.contains(&media_type)
}

/// Whether that is a layer.
pub fn is_layer(media_type: &str) -> bool {
    let base = media_type.split('+').next().unwrap_or_default();
    media_type.starts_with(OCI_LAYER) || DOCKER_LAYERS.contains(&base) || base == EROFS_LAYER
}

/// Whether others may not be given that layer.
pub fn is_non_distributable(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

fn is_known_config(media_type: &str) -> bool {
    is_config(media_type) || CHECKPOINTS.contains(&media_type)
}

/// What the ingest of a blob is called, and the blob in progress reports.
pub fn reference(blob: &Descriptor) -> String {
    let kind = match blob.media_type.as_str() {
        media_type if is_manifest(media_type) => "manifest",
        media_type if is_index(media_type) => "index",
        media_type if is_layer(media_type) => "layer",
        media_type if is_known_config(media_type) => "config",
        _ => "unknown",
    };
    match blob.annotations.get(REF_NAME) {
        Some(name) => format!("{kind}-{name}@{}", blob.digest),
        None => format!("{kind}-{}", blob.digest),
    }
}

/// The labels by which a document holds `children`.
pub(super) fn child_labels<'a>(children: impl Iterator<Item = &'a Descriptor>) -> Labels {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut labels = Labels::new();
    for child in children {
        let media_type = child.media_type.as_str();
        let key = match media_type {
            _ if is_known_config(media_type) => "containerd.io/gc.ref.content.config",
            _ if is_manifest(media_type) => "containerd.io/gc.ref.content.m.",
            _ if is_layer(media_type) => "containerd.io/gc.ref.content.l.",
            _ => "containerd.io/gc.ref.content.",
        };
        let count = counts.entry(key).or_default();
        let full = match *count {
            0 if !key.ends_with('.') => key.to_owned(),
            number => format!("{key}{number}"),
        };
        *count += 1;
        labels.insert(full, child.digest.to_string());
    }
    labels
}

/// The label that says where a blob came from, `repository` added to those
/// that it names already; `None` when it would be too long.
pub(super) fn source_label(
    host: &str,
    repository: &str,
    existing: &Labels,
) -> Option<(String, String)> {
    let key = format!("{SOURCE}{host}");
    let known = existing.get(&key).map_or("", String::as_str);
    let mut names: Vec<&str> = known.split(',').filter(|name| !name.is_empty()).collect();
    names.push(repository);
    names.sort_unstable();
    names.dedup();
    let value = names.join(",");
    (key.len() + value.len() <= LABEL_LIMIT).then_some((key, value))
}

/// The repositories on `host` that have a blob with these labels or
/// annotations, the likeliest to be allowed first: those that share most of
/// their path with `target`, which is none of them.
pub(crate) fn mount_candidates(labels: &Labels, host: &str, target: &str) -> Vec<String> {
    let known = labels.get(&format!("{SOURCE}{host}")).map_or("", String::as_str);
    let shared =
        |name: &str| name.split('/').zip(target.split('/')).take_while(|(a, b)| a == b).count();
    let mut names: Vec<&str> =
        known.split(',').filter(|name| !name.is_empty() && *name != target).collect();
    names.sort_by_key(|name| std::cmp::Reverse(shared(name)));
    names.into_iter().map(str::to_owned).collect()
}

/// Those of `labels` that say where a blob came from.
pub(crate) fn sources(labels: &Labels) -> impl Iterator<Item = (&String, &String)> {
    labels.iter().filter(|(key, _)| key.starts_with(SOURCE))
}

/// The host of a reference, without its port, as the label has it.
pub(crate) fn source_host(reference: &Reference) -> &str {
    let domain = reference.domain();
    match domain.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            host.trim_start_matches('[').trim_end_matches(']')
        }
        _ => domain,
    }
}

/// The chain ID of every layer, from the layers' diff IDs (OCI image
/// specification, `config.md`).
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    use sha2::{Digest as _, Sha256};
    let mut chain: Vec<Digest> = Vec::new();
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(parent) => {
                let sum = Sha256::digest(format!("{parent} {diff_id}"));
                Digest::of_sum(davit_types::Algorithm::Sha256, &sum)
            }
        });
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(media_type: &str, letter: char) -> Descriptor {
        let digest = format!("sha256:{}", letter.to_string().repeat(64)).parse().unwrap();
        Descriptor { media_type: media_type.into(), digest, size: 1, annotations: Labels::new() }
    }

    #[test]
    fn references_are_containerds() {
        for (media_type, kind) in [
            (INDEXES[0], "index"),
            (INDEXES[1], "index"),
            (MANIFESTS[0], "manifest"),
            (CONFIGS[1], "config"),
            ("application/vnd.oci.image.layer.v1.tar+zstd", "layer"),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted", "layer"),
            ("application/vnd.wasm.config.v0+json", "unknown"),
        ] {
            let blob = blob(media_type, 'a');
            assert_eq!(reference(&blob), format!("{kind}-{}", blob.digest));
        }
        let mut named = blob(MANIFESTS[0], 'a');
        named.annotations.insert(REF_NAME.into(), "v1".into());
        assert_eq!(reference(&named), format!("manifest-v1@{}", named.digest));
    }

    #[test]
    fn children_are_numbered_by_kind() {
        let layer = "application/vnd.oci.image.layer.v1.tar";
        let children =
            [blob(CONFIGS[0], 'a'), blob(layer, 'b'), blob(layer, 'c'), blob("x/y", 'd')];
        let labels = child_labels(children.iter());
        let keys: Vec<&str> = labels.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "containerd.io/gc.ref.content.0",
                "containerd.io/gc.ref.content.config",
                "containerd.io/gc.ref.content.l.0",
                "containerd.io/gc.ref.content.l.1",
            ]
        );
        let indexes = [blob(INDEXES[0], 'a'), blob(MANIFESTS[0], 'b')];
        let labels = child_labels(indexes.iter());
        assert!(labels.contains_key("containerd.io/gc.ref.content.0"), "an index in an index");
        assert!(labels.contains_key("containerd.io/gc.ref.content.m.0"));
    }

    #[test]
    fn sources_are_added_to_in_order_and_once() {
        let add = |known: &str, name: &str| {
            let labels = Labels::from([(format!("{SOURCE}registry.test"), known.to_owned())]);
            source_label("registry.test", name, &labels).map(|(_, value)| value)
        };
        assert_eq!(add("", "b").as_deref(), Some("b"));
        assert_eq!(add("b,d", "c").as_deref(), Some("b,c,d"));
        assert_eq!(add("b,c", "b").as_deref(), Some("b,c"));
        assert_eq!(add(&"a".repeat(LABEL_LIMIT), "b"), None);
    }

    #[test]
    fn the_nearest_repository_is_mounted_from_first() {
        let labels = Labels::from([(format!("{SOURCE}r.test"), "a/x,a/b/y,c,a/b/z".to_owned())]);
        assert_eq!(mount_candidates(&labels, "r.test", "a/b/z"), ["a/b/y", "a/x", "c"]);
        assert!(mount_candidates(&labels, "other.test", "a/b/z").is_empty());
    }
}
