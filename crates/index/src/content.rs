//! Content, as a namespace sees it (containerd, `core/metadata/content.go`).

use std::sync::Arc;
use std::time::SystemTime;

use davit_content::{IngestStatus, LocalStore, Reader};
use davit_types::{Digest, Labels, Namespace};

use crate::{Index, LeaseId, Result};

/// What a namespace knows of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentInfo {
    /// Its address.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// When this namespace got it.
    pub created_at: SystemTime,
    /// When its labels were last changed.
    pub updated_at: SystemTime,
    /// What clients attached.
    pub labels: Labels,
}

/// How a namespace gets a blob that another one has (containerd,
/// `content_sharing_policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// By naming its digest.
    #[default]
    Shared,
    /// By bringing all its bytes, unless a namespace that has it is labelled
    /// `containerd.io/namespace.shareable=true`.
    Isolated,
}

/// What a writer is to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterRequest {
    /// The ingest's name, for resuming it. Must not be empty.
    pub reference: String,
    /// The size expected in bytes; 0 where unknown.
    pub total: u64,
    /// The digest expected.
    pub expected: Option<Digest>,
}

/// The blobs and ingests of all namespaces.
#[derive(Debug)]
pub struct ContentStore {}

impl ContentStore {
    /// The view that `index` gives of `local`.
    pub fn new(index: Arc<Index>, local: Arc<LocalStore>, sharing: Sharing) -> Self {
        let _ = (index, local, sharing);
        todo!()
    }

    /// What is known of a blob.
    pub fn info(&self, namespace: &Namespace, digest: &Digest) -> Result<ContentInfo> {
        let _ = (namespace, digest);
        todo!()
    }

    /// Replaces a blob's labels; with `paths` (`labels`, `labels.KEY`) those
    /// named alone. Answers the result.
    pub fn update(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        labels: &Labels,
        paths: &[String],
    ) -> Result<ContentInfo> {
        let _ = (namespace, digest, labels, paths);
        todo!()
    }

    /// Those that any of `filters` matches, all when there is none, by digest.
    pub fn list(&self, namespace: &Namespace, filters: &[String]) -> Result<Vec<ContentInfo>> {
        let _ = (namespace, filters);
        todo!()
    }

    /// Takes a blob from a namespace; its bytes go when no namespace has it.
    pub fn delete(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        lease: Option<&LeaseId>,
    ) -> Result<()> {
        let _ = (namespace, digest, lease);
        todo!()
    }

    /// Opens a blob for reading.
    pub fn reader(&self, namespace: &Namespace, digest: &Digest) -> Result<Reader> {
        let _ = (namespace, digest);
        todo!()
    }

    /// Begins an ingest, or goes on with it.
    ///
    /// # Errors
    /// `AlreadyExists` when the namespace has the blob; it is then held by
    /// `lease` all the same.
    pub fn writer(
        self: &Arc<Self>,
        namespace: &Namespace,
        request: WriterRequest,
        lease: Option<&LeaseId>,
    ) -> Result<ContentWriter> {
        let _ = (namespace, request, lease);
        todo!()
    }

    /// Where an ingest stands; `reference` is the namespace's name for it.
    pub fn status(&self, namespace: &Namespace, reference: &str) -> Result<IngestStatus> {
        let _ = (namespace, reference);
        todo!()
    }

    /// Where all ingests stand that any of `filters` matches.
    pub fn list_statuses(
        &self,
        namespace: &Namespace,
        filters: &[String],
    ) -> Result<Vec<IngestStatus>> {
        let _ = (namespace, filters);
        todo!()
    }

    /// Throws an ingest away.
    pub fn abort(
        &self,
        namespace: &Namespace,
        reference: &str,
        lease: Option<&LeaseId>,
    ) -> Result<()> {
        let _ = (namespace, reference, lease);
        todo!()
    }
}

/// An ingest that is being written. Dropping it keeps the bytes for a later
/// writer of the same reference.
#[derive(Debug)]
pub struct ContentWriter {}

impl ContentWriter {
    /// Where the ingest stands.
    pub fn status(&self) -> IngestStatus {
        todo!()
    }

    /// The digest of what is written so far.
    pub fn digest(&self) -> Digest {
        todo!()
    }

    /// Bytes written so far.
    pub fn offset(&self) -> u64 {
        todo!()
    }

    /// Appends all of `data`.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        let _ = data;
        todo!()
    }

    /// Empties the ingest; `size` can only be 0.
    pub fn truncate(&mut self, size: u64) -> Result<()> {
        let _ = size;
        todo!()
    }

    /// Makes the ingest a blob of the namespace, with `labels`, after having
    /// checked `size` (0: any) and `expected`.
    ///
    /// # Errors
    /// `AlreadyExists` when the namespace has got the blob meanwhile; the
    /// ingest is gone then, too.
    pub fn commit(
        self,
        size: u64,
        expected: Option<&Digest>,
        labels: &Labels,
    ) -> Result<ContentInfo> {
        let _ = (size, expected, labels);
        todo!()
    }
}
