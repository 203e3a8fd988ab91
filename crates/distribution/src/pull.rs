//! Pulling: from a resolved descriptor to everything that it refers to, in a
//! store, and the layers of images unpacked while they arrive.
//!
//! The rules are containerd's (`core/transfer/local/pull.go` and what it
//! uses): which platforms' manifests and layers are fetched, the labels that
//! hold what a document refers to, the names of ingests. Everything here may
//! be dropped at any point: what was stored by then is gone on with by the
//! next pull of the same blob.

mod arrival;
mod document;
mod fetch;
pub mod names;
mod observer;
mod store;
mod turns;
mod walk;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use davit_types::{Descriptor, Digest, ErrorKind, Kind, Platform, Reference};

use fetch::Fetcher;
pub(crate) use fetch::blocking;

pub use arrival::{Arrival, Arriving, arrival};
pub use document::{Child, children};
pub use fetch::Shared;
pub use observer::{Nobody, Observer};
pub use store::{Failure, Ingest, Store};
pub use turns::{Turn, Turns};

/// The largest manifest, index or configuration that is read, in bytes.
pub const DOCUMENT_LIMIT: u64 = 8 << 20;

/// How deep indexes may be nested.
const DEPTH_MAX: usize = 8;

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
        blob: &'a Descriptor,
        from: u64,
    ) -> Pending<'a, Result<Box<dyn Download>, Failure>>;
}

/// A blob on its way here.
pub trait Download: Send {
    /// The next bytes; `None` after the last.
    fn next(&mut self) -> Pending<'_, Result<Option<Bytes>, Failure>>;
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
    /// The configuration's descriptor.
    pub config: Descriptor,
    /// The configuration itself.
    pub document: Vec<u8>,
    children: Vec<Child>,
}

impl Layers<'_> {
    /// Their descriptors, the lowest first.
    pub fn blobs(&self) -> impl ExactSizeIterator<Item = &Descriptor> {
        self.children.iter().map(|child| &child.blob)
    }

    /// Fetches layer `number`, for a reader that takes it as it arrives.
    ///
    /// # Errors
    /// [`Error::Damaged`] when what an earlier pull had left was not good; it
    /// is gone then, and trying again helps.
    pub async fn fetch(&self, number: usize, arrival: Arrival) -> Result<(), Error> {
        let Some(child) = self.children.get(number) else { return Ok(()) };
        let reference = names::reference(&child.blob);
        self.fetcher.fetch_to(&child.blob, &reference, child.data(), arrival).await?;
        self.walk.note_source(&child.blob.digest).await
    }

    /// Fetches all of them, for nobody to read now.
    ///
    /// # Errors
    /// As [`Pull::run`].
    pub async fn fetch_all(&self) -> Result<(), Error> {
        self.walk.fetch_all(&self.children).await
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
    /// What an earlier pull had left is not good, and was thrown away.
    #[error("what was left of {reference:?} was damaged")]
    Damaged {
        /// The ingest.
        reference: String,
        /// How.
        #[source]
        source: Failure,
    },
    /// A document that is none.
    #[error("{digest}: {reason}")]
    Document {
        /// Which.
        digest: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// An index has nothing for the platform.
    #[error("no match for platform in manifest: not found")]
    NoMatch,
    /// The registry, the store, or unpacking.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Schema1 | Self::Empty(_) | Self::Document { .. } => ErrorKind::InvalidArgument,
            Self::NoMatch => ErrorKind::NotFound,
            Self::Damaged { .. } => ErrorKind::DataLoss,
            Self::Commit { source, .. } | Self::Failed(source) => source.kind(),
        }
    }
}
