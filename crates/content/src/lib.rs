//! The content store: blobs named by their digest, and ingests on the way to
//! becoming blobs, in containerd's layout on disk.
//!
//! A store knows no namespaces and no labels; `davit-index` adds both.
//! Everything here blocks; a caller in async code crosses over once. A store
//! in another process is a [`Backend`], too.

use std::time::SystemTime;

use davit_types::Digest;

mod backend;
mod error;
mod hash;
mod ingest;
mod reader;
mod store;
mod timestamp;
mod writer;

pub use backend::{Backend, BackendWriter, Blob};
pub use error::Error;
pub use hash::{Hasher, digest};
pub use reader::Reader;
pub use store::LocalStore;
pub use writer::Writer;

/// What the store knows of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its address.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// When it was committed.
    pub created_at: SystemTime,
    /// When it was last touched.
    pub updated_at: SystemTime,
}

/// Where an ingest stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestStatus {
    /// The name its writer chose.
    pub reference: String,
    /// Bytes on disk, where a resumed writer goes on.
    pub offset: u64,
    /// The size expected; 0 where unknown.
    pub total: u64,
    /// The digest expected.
    pub expected: Option<Digest>,
    /// When it was begun.
    pub started_at: SystemTime,
    /// When bytes last came.
    pub updated_at: SystemTime,
}
