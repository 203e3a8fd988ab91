//! Indexes, manifests and configurations of images (OCI image specification
//! and Docker's schema 2), and which manifest of an index suits a platform
//! (containerd, `core/images/image.go`).
//!
//! A document that different readers could take for different things is
//! refused: one that is an index and a manifest at once (CVE-2021-41190), and
//! one whose keys repeat or differ from ours by their case alone, which Go's
//! readers take for the same.

use davit_types::platform::Matcher;
use davit_types::{Descriptor, Digest, ErrorKind, Kind, Labels, Platform};

use crate::pull::names::{SCHEMA_1, is_index, is_manifest};

mod list;
mod wire;

pub use list::List;

/// The largest manifest or index that a registry's answer is taken for, in
/// bytes (containerd's `MaxManifestSize`).
pub const MAX_RESOLVED: u64 = 4 * 1048 * 1048;
/// The largest manifest, index or configuration that is read, in bytes.
pub const MAX_DOCUMENT: u64 = 8 << 20;
/// How many blobs a document may refer to.
pub const MAX_ENTRIES: usize = 10_000;

/// Marks an entry of an index as no image but what BuildKit says of one.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// A blob that a document refers to, with all that it says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub blob: Descriptor,
    /// What it runs on, if that is said.
    pub platform: Option<Platform>,
    /// What kind of artifact it is, if that is said.
    pub artifact_type: Option<String>,
    /// Where else it can be had.
    pub urls: Vec<String>,
    /// The blob itself, when it came along. Of the size that is promised, but
    /// its digest is not checked.
    pub data: Option<Vec<u8>>,
}

/// What a document says besides what kind it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// What kind of artifact it is.
    pub artifact_type: Option<String>,
    /// The manifest that it is about.
    pub subject: Option<Box<Entry>>,
    /// What else is said of it.
    pub annotations: Labels,
}

/// A list of manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// The manifests, or further indexes.
    pub manifests: Vec<Entry>,
    /// The rest.
    pub extras: Extras,
}

/// A configuration and layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration; of an artifact, anything.
    pub config: Box<Entry>,
    /// The layers, lowest first; of an artifact, anything.
    pub layers: Vec<Entry>,
    /// The rest.
    pub extras: Extras,
}

/// A document that refers to blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// A list of manifests.
    Index(Index),
    /// A configuration and layers.
    Manifest(Manifest),
}

/// The part of an image's configuration that says how it is unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// What it runs on, in its normal form.
    pub platform: Platform,
    /// The digests of its layers once decompressed, lowest first.
    pub diff_ids: Vec<Digest>,
}

/// Why a document was refused. The digest of the document is the caller's to
/// say.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is too long to be read.
    #[error("a document of {0} bytes, but {MAX_DOCUMENT} are the most")]
    TooLarge(usize),
    /// It is no JSON, or not that which it should be.
    #[error("no such document")]
    Json(#[from] serde_json::Error),
    /// It is an index where a manifest was promised.
    #[error("media-type: expected manifest but found index ({0})")]
    ExpectedManifest(String),
    /// It is a manifest where an index was promised.
    #[error("media-type: expected index but found manifest ({0})")]
    ExpectedIndex(String),
    /// Docker's first format.
    #[error("media-type: schema 1 not supported")]
    Schema1,
    /// It is neither index nor manifest.
    #[error("unexpected media type {0}")]
    MediaType(String),
    /// A key twice, or in another case.
    #[error("the key {0:?} can be taken for two things")]
    Ambiguous(String),
    /// A descriptor in it.
    #[error("{digest:?}: {reason}")]
    Descriptor {
        /// Its digest as written.
        digest: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something is not as it must be.
    #[error("{0}")]
    Invalid(String),
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::TooLarge(_) => ErrorKind::ResourceExhausted,
            Self::Schema1 => ErrorKind::Unimplemented,
            Self::MediaType(_) => ErrorKind::NotFound,
            _ => ErrorKind::InvalidArgument,
        }
    }
}

impl Document {
    /// Reads what was promised to be of `media_type`.
    ///
    /// # Errors
    /// It is none, is another or could be taken for another.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(Error::TooLarge(bytes.len()));
        }
        let (index, manifest) = (is_index(media_type), is_manifest(media_type));
        if SCHEMA_1.contains(&media_type) {
            return Err(Error::Schema1);
        }
        if !index && !manifest {
            return Err(Error::MediaType(media_type.to_owned()));
        }
        let keys = wire::keys(bytes)?;
        let has = |key: &str| keys.contains(key);
        let document: wire::Document = serde_json::from_slice(bytes)?;
        let own = document.media_type.as_deref().unwrap_or_default();
        if has("fsLayers") || SCHEMA_1.contains(&own) {
            return Err(Error::Schema1);
        }
        if manifest && (has("manifests") || is_index(own)) {
            return Err(Error::ExpectedManifest(media_type.to_owned()));
        }
        if index && (has("config") || has("layers") || is_manifest(own)) {
            return Err(Error::ExpectedIndex(media_type.to_owned()));
        }
        if index { document.into_index() } else { document.into_manifest() }
    }

    /// What it says besides.
    pub fn extras(&self) -> &Extras {
        match self {
            Self::Index(index) => &index.extras,
            Self::Manifest(manifest) => &manifest.extras,
        }
    }

    /// All that it refers to, the configuration before the layers. Not the
    /// manifest that it is about, which does not belong to it.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        let (config, list) = match self {
            Self::Index(index) => (None, &index.manifests),
            Self::Manifest(manifest) => (Some(&*manifest.config), &manifest.layers),
        };
        config.into_iter().chain(list)
    }
}

impl Index {
    /// The manifests that `matcher` means, the best first. Those that do not
    /// say what they run on come last, since their configuration may; with
    /// containerd, the first one counts and no other is tried.
    pub fn candidates(&self, matcher: &Matcher) -> Vec<&Entry> {
        let meant = |entry: &&Entry| {
            entry.platform.as_ref().is_none_or(|platform| matcher.matches(platform))
        };
        let mut list: Vec<&Entry> = self.manifests.iter().filter(meant).collect();
        list.sort_by_key(|entry| {
            entry.platform.as_ref().map_or(usize::MAX, |platform| matcher.rank(platform))
        });
        list
    }
}

impl Entry {
    /// Whether it is no image but what is said of one: BuildKit's provenance
    /// and lists of contents, which are for `unknown/unknown`.
    pub fn is_attestation(&self) -> bool {
        self.platform.as_ref().is_some_and(Platform::is_unknown)
            || self.blob.annotations.contains_key(REFERENCE_TYPE)
    }
}

impl ImageConfig {
    /// Reads the configuration of an image.
    ///
    /// # Errors
    /// It is none, or its diff IDs are no digests.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(Error::TooLarge(bytes.len()));
        }
        let config: wire::Config = serde_json::from_slice(bytes)?;
        config.into_config()
    }

    /// Checks that there is a diff ID for each of a manifest's layers.
    ///
    /// # Errors
    /// There are more or fewer.
    pub fn check_layers(&self, layers: usize) -> Result<(), Error> {
        let diffs = self.diff_ids.len();
        if diffs == layers {
            return Ok(());
        }
        let words = format!("number of layers and diffIDs don't match: {layers} != {diffs}");
        Err(Error::Invalid(words))
    }
}

#[cfg(test)]
mod tests;
