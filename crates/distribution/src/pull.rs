//! Pulling: from a resolved descriptor to everything that it refers to, in a
//! store, and the layers of images unpacked while they arrive.
//!
//! The rules are containerd's (`core/transfer/local/pull.go` and what it
//! uses): which platforms' manifests and layers are fetched, the labels that
//! hold what a document refers to, the names of ingests. Everything here may
//! be dropped at any point: what was stored by then is gone on with by the
//! next pull of the same blob.

mod arrival;
mod fetch;
pub mod names;
mod observer;
mod remote;
mod store;
mod turns;
mod walk;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use davit_types::{Descriptor, Digest, ErrorKind, Kind, Platform, Reference};

use crate::manifest::{self, Entry};
use fetch::Fetcher;
pub(crate) use fetch::blocking;

pub use arrival::{Arrival, Arriving, arrival};
pub use fetch::Shared;
pub use observer::{Nobody, Observer};
pub use store::{Failure, Ingest, Store, too_large};
pub use turns::{Turn, Turns};

/// How deep indexes may be nested.
pub const DEPTH_MAX: usize = 8;

/// How many blobs the documents of one image may refer to, all in all.
pub(crate) const NODES_MAX: usize = 100_000;

/// What is still to come.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where a pull fetches from: one repository.
pub trait Remote: Send + Sync {
    /// A whole manifest or index, its size and digest checked.
    fn document<'a>(
        &'a self,
        wanted: &'a Descriptor,
        limit: u64,
    ) -> Pending<'a, Result<Bytes, Failure>>;

    /// The bytes of a blob from offset `from` on.
    fn download<'a>(
        &'a self,
        blob: &'a Entry,
        from: u64,
    ) -> Pending<'a, Result<Box<dyn Download>, Failure>>;

    /// Bytes from `sources` were wrong: others are asked first from now on.
    fn distrust(&self, sources: &[String]);
}

/// A blob on its way here.
pub trait Download: Send {
    /// The next bytes; `None` after the last.
    fn next(&mut self) -> Pending<'_, Result<Option<Bytes>, Failure>>;

    /// Where they came from so far.
    fn sources(&self) -> &[String];
}

/// Unpacks the layers of images.
pub trait Unpack: Send + Sync {
    /// Unpacks the layers of an image, for which it has them fetched. An
    /// image that is not for it, it only has fetched.
    ///
    /// # Errors
    /// Whatever keeps the pull from being whole.
    fn unpack<'a>(&'a self, layers: &'a Layers<'a>) -> Pending<'a, Result<(), Error>>;
}

/// What is wanted of an image.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of these platforms; of all when there are none.
    pub platforms: Vec<Platform>,
    /// The manifests and configurations of all platforms all the same.
    pub all_metadata: bool,
    /// So many manifests of an index, the best first; 0 for all.
    pub manifest_limit: usize,
}

/// The layers of one image, for who unpacks them.
pub struct Layers<'a> {
    fetcher: &'a Fetcher,
    walk: &'a walk::Walk<'a>,
    /// The manifest that names them.
    pub manifest: Digest,
    /// The configuration's descriptor.
    pub config: Descriptor,
    /// The configuration itself.
    pub document: Vec<u8>,
    entries: Vec<Entry>,
}

impl Layers<'_> {
    /// Their descriptors, the lowest first.
    pub fn blobs(&self) -> impl ExactSizeIterator<Item = &Descriptor> {
        self.entries.iter().map(|entry| &entry.blob)
    }

    /// Fetches layer `number`, once, for a reader that takes it as it arrives.
    ///
    /// # Errors
    /// As [`Pull::run`]; of what [is damage](Error::is_damage) nothing is
    /// left, and trying again can help.
    pub async fn fetch(&self, number: usize, arrival: Arrival) -> Result<(), Error> {
        let Some(entry) = self.entries.get(number) else { return Ok(()) };
        let reference = names::reference(&entry.blob);
        self.fetcher.fetch_to(entry, &reference, arrival).await?;
        self.walk.note_source(&entry.blob.digest).await
    }

    /// Fetches all of them, for nobody to read now.
    ///
    /// # Errors
    /// As [`Pull::run`].
    pub async fn fetch_all(&self) -> Result<(), Error> {
        self.walk.fetch_all(&self.entries).await
    }
}

/// One pull.
pub struct Pull {
    /// From where.
    pub remote: Arc<dyn Remote>,
    /// To where.
    pub store: Arc<dyn Store>,
    /// Who is told of it.
    pub observer: Arc<dyn Observer>,
    /// What it shares with other pulls.
    pub shared: Shared,
    /// Who unpacks layers, if anybody.
    pub unpack: Option<Arc<dyn Unpack>>,
    /// What is asked for; says where the blobs come from.
    pub reference: Reference,
    /// How much of it.
    pub wanted: Wanted,
}

impl Pull {
    /// Fetches `root` and what it refers to. `name` is what the image is
    /// called in reports.
    ///
    /// # Errors
    /// The first failure; what else was under way is given up.
    pub async fn run(&self, root: &Descriptor, name: &str) -> Result<(), Error> {
        if names::SCHEMA_1.contains(&root.media_type.as_str()) {
            return Err(Error::Schema1);
        }
        let fetcher = Fetcher {
            remote: Arc::clone(&self.remote),
            store: Arc::clone(&self.store),
            observer: Arc::clone(&self.observer),
            shared: self.shared.clone(),
        };
        walk::Walk::new(self, &fetcher).visit(root, name).await
    }
}

/// Why a pull failed. The texts are containerd's where it has one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Docker's oldest format.
    #[error("schema 1 image manifests are no longer supported: invalid argument")]
    Schema1,
    /// A descriptor that cannot be right.
    #[error(
        "unable to fetch descriptor ({0}) which reports content size of zero: invalid argument"
    )]
    Empty(Digest),
    /// What came was not what was promised.
    #[error("failed commit on ref {reference:?}")]
    Commit {
        /// The ingest.
        reference: String,
        /// How not.
        #[source]
        source: Failure,
    },
    /// A document that is none, or refers to too much.
    #[error("{digest}")]
    Document {
        /// Which.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: manifest::Error,
    },
    /// An index has nothing for the platform.
    #[error("no match for platform in manifest: not found")]
    NoMatch,
    /// The registry, the store, or unpacking.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl Error {
    /// Whether what came was not what was promised.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Commit { source, .. } if source.kind() == ErrorKind::FailedPrecondition)
    }

    /// Says which ingest it is about, if what came was not what was promised.
    pub(crate) fn of_ingest(self, reference: &str) -> Self {
        match self {
            Self::Failed(source) if source.kind() == ErrorKind::FailedPrecondition => {
                Self::Commit { reference: reference.to_owned(), source }
            }
            other => other,
        }
    }

    pub(crate) fn document(digest: &Digest, source: manifest::Error) -> Self {
        Self::Document { digest: digest.clone(), source }
    }

    pub(crate) fn too_many(digest: &Digest) -> Self {
        let reason = format!("the image refers to more than {NODES_MAX} blobs");
        Self::document(digest, manifest::Error::Invalid(reason))
    }

    pub(crate) fn too_deep(digest: &Digest) -> Self {
        let reason = format!("indexes nested more than {DEPTH_MAX} deep");
        Self::document(digest, manifest::Error::Invalid(reason))
    }
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Schema1 | Self::Empty(_) => ErrorKind::InvalidArgument,
            Self::NoMatch => ErrorKind::NotFound,
            Self::Document { source, .. } => source.kind(),
            Self::Commit { source, .. } | Self::Failed(source) => source.kind(),
        }
    }
}

#[cfg(test)]
mod tests;
