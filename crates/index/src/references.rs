//! What labels say about what holds what (containerd, `core/metadata/gc.go`).

use davit_types::Labels;

use crate::objects::Kind;
use crate::time::parse_rfc3339;

const ROOT: &str = "containerd.io/gc.root";
const EXPIRE: &str = "containerd.io/gc.expire";
const FLAT: &str = "containerd.io/gc.flat";
const FORWARD: &str = "containerd.io/gc.ref.";
const BACKWARD: &str = "containerd.io/gc.bref.";

/// Where a reference comes from, and so how far it reaches; see `schema`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    Own,
    Label,
    Back,
    Lease,
    Flat,
}

impl Via {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Own => "self",
            Self::Label => "label",
            Self::Back => "back",
            Self::Lease => "lease",
            Self::Flat => "flat",
        }
    }
}

/// One reference; the target need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) kind: Kind,
    pub(crate) key: String,
    pub(crate) via: Via,
}

/// The references that `labels` make.
pub(crate) fn of_labels(labels: &Labels) -> Vec<Reference> {
    labels.iter().filter_map(|(label, value)| of_label(label, value)).collect()
}

fn of_label(label: &str, value: &str) -> Option<Reference> {
    let (rest, via) = match label.strip_prefix(FORWARD) {
        Some(rest) => (rest, Via::Label),
        None => (label.strip_prefix(BACKWARD)?, Via::Back),
    };
    let (kind, key) = target(rest, value, via)?;
    Some(Reference { kind, key, via })
}

/// The first of `labels` that makes a reference to what is called `key`.
pub(crate) fn label_naming<'a>(
    labels: &'a Labels,
    kind: &str,
    key: &str,
    via: Via,
) -> Option<&'a str> {
    let names = |(label, value): &(&String, &String)| {
        of_label(label, value).is_some_and(|reference| {
            (reference.kind.as_str(), reference.key.as_str(), reference.via) == (kind, key, via)
        })
    };
    labels.iter().find(names).map(|(label, _)| label.as_str())
}

/// Reads `content`, `content.NAME`, `content/NAME` and `snapshot.SNAPSHOTTER`,
/// `snapshot.SNAPSHOTTER/NAME`; the names serve to have several.
fn target(label: &str, value: &str, via: Via) -> Option<(Kind, String)> {
    if let Some(rest) = label.strip_prefix("snapshot.") {
        let snapshotter = rest.split('/').next().unwrap_or_default();
        return Some((Kind::Snapshot, format!("{snapshotter}/{value}")));
    }
    let word = label.split(['.', '/']).next().unwrap_or_default();
    let kind = match (word, via) {
        ("content", _) => Kind::Content,
        ("image", _) => Kind::Image,
        ("container", Via::Back) => Kind::Container,
        _ => return None,
    };
    Some((kind, value.to_owned()))
}

/// Whether `labels` say that a blob or a snapshot is to be kept.
pub(crate) fn is_root(labels: &Labels) -> bool {
    labels.keys().any(|label| is_root_label(label))
}

/// Whether a label, whatever its value, says that its blob or snapshot is to
/// be kept.
pub(crate) fn is_root_label(label: &str) -> bool {
    label.starts_with(ROOT)
}

/// Until when `labels` say that an image or a lease is to be kept; `None` for
/// ever, also when what they say is no time.
pub(crate) fn expiry(labels: &Labels) -> Option<i64> {
    let text = labels.get(EXPIRE)?;
    let time = parse_rfc3339(text);
    if time.is_none() {
        log::info!(value = text.as_str(); "ignoring an expiration that is no time");
    }
    time
}

/// Whether `labels` say when something ends, in whatever words.
pub(crate) fn expires(labels: &Labels) -> bool {
    labels.contains_key(EXPIRE)
}

/// Whether `labels` say that a lease holds no more than what it names.
pub(crate) fn is_flat(labels: &Labels) -> bool {
    labels.contains_key(FLAT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_name_their_targets() {
        for (label, expected) in [
            ("containerd.io/gc.ref.content", Some((Kind::Content, "v", Via::Label))),
            ("containerd.io/gc.ref.content.0", Some((Kind::Content, "v", Via::Label))),
            ("containerd.io/gc.ref.content/config", Some((Kind::Content, "v", Via::Label))),
            ("containerd.io/gc.ref.contents", None),
            ("containerd.io/gc.ref.image.x", Some((Kind::Image, "v", Via::Label))),
            ("containerd.io/gc.ref.container", None),
            (
                "containerd.io/gc.ref.snapshot.overlayfs",
                Some((Kind::Snapshot, "overlayfs/v", Via::Label)),
            ),
            (
                "containerd.io/gc.ref.snapshot.native/a",
                Some((Kind::Snapshot, "native/v", Via::Label)),
            ),
            ("containerd.io/gc.bref.container", Some((Kind::Container, "v", Via::Back))),
            ("containerd.io/gc.bref.content.x", Some((Kind::Content, "v", Via::Back))),
            ("containerd.io/gc.bref.image", Some((Kind::Image, "v", Via::Back))),
            (
                "containerd.io/gc.bref.snapshot.overlayfs",
                Some((Kind::Snapshot, "overlayfs/v", Via::Back)),
            ),
            ("containerd.io/gc.root", None),
            ("anything", None),
        ] {
            let labels = Labels::from([(label.to_owned(), "v".to_owned())]);
            let expected =
                expected.map(|(kind, key, via)| Reference { kind, key: key.to_owned(), via });
            assert_eq!(of_labels(&labels), Vec::from_iter(expected), "{label}");
        }
    }
}
