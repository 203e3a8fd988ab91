//! Whose labels they are.
//!
//! Clients copy the labels in an image's configuration to the containers that
//! they make from it. Those of the restart monitor can name a program of the
//! host that gets a container's output, so an image must not be their source:
//! a container whose image's configuration has such labels is left alone.

use std::sync::Arc;

use davit_index::{ContentStore, Index};
use davit_types::{Digest, Namespace};
use serde_json::Value;

use super::policy::PREFIX;

/// Bytes of a document that is looked at.
const DOCUMENT_MAX: u64 = 4 << 20;
/// Documents of one image that are looked at.
const DOCUMENTS_MAX: usize = 64;

/// Whether the configuration of an image has labels for the restart monitor;
/// `None` when that cannot be found out.
pub fn image_has_labels(
    index: &Index,
    content: &Arc<ContentStore>,
    namespace: &Namespace,
    image: &str,
) -> Option<bool> {
    let mut pending = vec![index.images().get(namespace, image).ok()?.target.digest];
    let mut looked_at = 0;
    let mut configurations = 0;
    while let Some(digest) = pending.pop() {
        looked_at += 1;
        if looked_at > DOCUMENTS_MAX {
            return None;
        }
        // Of an index, only the platforms that were pulled are there.
        let Some(document) = read(content, namespace, &digest) else { continue };
        if document.get("rootfs").is_some() {
            configurations += 1;
            if has_labels(&document) {
                return Some(true);
            }
            continue;
        }
        pending.extend(digests(&document));
    }
    (configurations > 0).then_some(false)
}

fn read(content: &ContentStore, namespace: &Namespace, digest: &Digest) -> Option<Value> {
    let reader = content.reader(namespace, digest).ok()?;
    let size = reader.size();
    if size > DOCUMENT_MAX {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    let mut offset = 0;
    while offset < bytes.len() {
        match reader.read_at(&mut bytes[offset..], offset as u64) {
            Ok(count) if count > 0 => offset += count,
            _ => return None,
        }
    }
    serde_json::from_slice(&bytes).ok()
}

/// The manifests of an index, the configuration of a manifest.
fn digests(document: &Value) -> Vec<Digest> {
    let manifests = document.get("manifests").and_then(Value::as_array).into_iter().flatten();
    let descriptors = manifests.chain(document.get("config"));
    let digest = |descriptor: &Value| descriptor.get("digest")?.as_str()?.parse().ok();
    descriptors.filter_map(digest).collect()
}

fn has_labels(configuration: &Value) -> bool {
    let labels = configuration.pointer("/config/Labels").and_then(Value::as_object);
    labels.is_some_and(|labels| labels.keys().any(|key| key.starts_with(PREFIX)))
}
