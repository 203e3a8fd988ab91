//! What a snapshotter that fetches layers by itself has to know of them, as
//! labels (containerd, `pkg/snapshotters/annotations.go`).

use davit_types::{Descriptor, Digest, Labels};

const IMAGE: &str = "containerd.io/snapshot/cri.image-ref";
const MANIFEST: &str = "containerd.io/snapshot/cri.manifest-digest";
const LAYER: &str = "containerd.io/snapshot/cri.layer-digest";
const LAYERS: &str = "containerd.io/snapshot/cri.image-layers";
/// The longest label, key and value together, in bytes.
const LABEL_LIMIT: usize = 4096;

/// The labels of the layer that `layers` begin with; the others are those
/// above it, as many as fit.
pub(super) fn labels(image: &str, manifest: &Digest, layers: &[Descriptor]) -> Labels {
    let mut above = String::new();
    for layer in layers {
        let digest = layer.digest.as_str();
        if LAYERS.len() + above.len() + 1 + digest.len() > LABEL_LIMIT {
            break;
        }
        if !above.is_empty() {
            above.push(',');
        }
        above.push_str(digest);
    }
    let layer = layers.first().map(|layer| layer.digest.to_string());
    [
        (IMAGE.to_owned(), image.to_owned()),
        (MANIFEST.to_owned(), manifest.to_string()),
        (LAYER.to_owned(), layer.unwrap_or_default()),
        (LAYERS.to_owned(), above),
    ]
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_layers_are_named_as_fit() {
        let layer = |n: u32| Descriptor {
            media_type: String::new(),
            digest: format!("sha256:{n:064x}").parse().unwrap(),
            size: 1,
            annotations: Labels::new(),
        };
        let layers: Vec<Descriptor> = (0..100).map(layer).collect();
        let labels = labels("registry.test/app:1", &layers[99].digest, &layers[1..]);
        assert_eq!(labels[LAYER], layers[1].digest.as_str());
        assert_eq!(labels[MANIFEST], layers[99].digest.as_str());
        let named: Vec<&str> = labels[LAYERS].split(',').collect();
        assert_eq!(named[0], layers[1].digest.as_str());
        assert!(LAYERS.len() + labels[LAYERS].len() <= LABEL_LIMIT);
        assert!(named.len() > 50 && named.len() < 99, "{}", named.len());
    }
}
