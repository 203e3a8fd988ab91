//! What filters see of each kind of thing (containerd,
//! `core/metadata/adaptors.go` and `core/content/adaptor.go`).

use std::borrow::Cow;

use davit_content::IngestStatus;
use davit_snapshots::SnapshotKind;
use davit_types::filter::{Adaptor, Filter, FilterSet, map_field, unless_empty};

use crate::{Container, ContentInfo, Error, Image, Lease, Result, Sandbox, SnapshotInfo};

/// Reads the filters of a list of records. containerd says twice there that
/// the argument is invalid.
pub(crate) fn record_filters(filters: &[String]) -> Result<FilterSet> {
    Filter::parse_all(filters).map_err(|error| Error::InvalidArgument(error.to_string()))
}

/// Reads the filters of a walk over content or snapshots.
pub(crate) fn walk_filters(filters: &[String]) -> Result<FilterSet> {
    Filter::parse_all(filters).map_err(Error::invalid)
}

impl Adaptor for Container {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id", ..] => unless_empty(&self.id),
            ["runtime", "name", ..] => unless_empty(&self.runtime.name),
            ["image", ..] => unless_empty(&self.image),
            ["labels", key @ ..] => map_field(&self.labels, key),
            _ => None,
        }
    }
}

impl Adaptor for Image {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["name", ..] => unless_empty(&self.name),
            ["target", "digest", ..] => unless_empty(self.target.digest.as_str()),
            ["target", "mediatype", ..] => unless_empty(&self.target.media_type),
            ["labels", key @ ..] => map_field(&self.labels, key),
            ["annotations", key @ ..] => map_field(&self.target.annotations, key),
            _ => None,
        }
    }
}

impl Adaptor for ContentInfo {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["digest", ..] => Some(Cow::Borrowed(self.digest.as_str())),
            ["labels", key @ ..] => map_field(&self.labels, key),
            _ => None,
        }
    }
}

/// An ingest, as filters see it. (Neither trait nor type is of this crate.)
pub(crate) struct Ingest<'a>(pub(crate) &'a IngestStatus);

impl Adaptor for Ingest<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["ref", ..] => Some(Cow::Borrowed(self.0.reference.as_str())),
            _ => None,
        }
    }
}

impl Adaptor for Lease {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id", ..] => unless_empty(self.id.as_str()),
            ["labels", key @ ..] => map_field(&self.labels, key),
            _ => None,
        }
    }
}

impl Adaptor for Sandbox {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id", ..] => Some(Cow::Borrowed(self.id.as_str())),
            ["labels", key @ ..] => map_field(&self.labels, key),
            _ => None,
        }
    }
}

impl Adaptor for SnapshotInfo {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["kind", ..] => Some(Cow::Borrowed(match self.kind {
                SnapshotKind::Active => "active",
                SnapshotKind::View => "view",
                SnapshotKind::Committed => "committed",
            })),
            ["name", ..] => Some(Cow::Borrowed(self.name.as_str())),
            ["parent", ..] => Some(Cow::Borrowed(self.parent.as_str())),
            ["labels", key @ ..] => map_field(&self.labels, key),
            _ => None,
        }
    }
}
