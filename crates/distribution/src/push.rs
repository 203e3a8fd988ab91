//! Pushing: everything that a descriptor refers to, from a local store to one
//! repository (containerd, `core/remotes/handlers.go`, `PushContent`).
//!
//! Configurations and layers go first, several at a time, then manifests,
//! then indexes, the innermost first, so that a registry never has a document
//! without what it refers to.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use davit_types::platform::Matcher;
use davit_types::{Descriptor, Digest, Labels, Reference};
use futures::future::try_join_all;
use tokio::sync::Semaphore;

use crate::manifest::{Document, Entry, MAX_DOCUMENT};
use crate::pull::names::{self, is_index, is_manifest};
use crate::pull::{DEPTH_MAX, Error, Failure, Observer, Pending};
use crate::registry::BlobSource;

/// Where blobs to be pushed are. Every method may block.
pub trait Source: Send + Sync + 'static {
    /// Reads a small blob whole.
    fn document(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Failure>;

    /// The labels of a blob; none for one that is not there.
    fn labels(&self, digest: &Digest) -> Result<Labels, Failure>;

    /// What reads a blob.
    ///
    /// # Errors
    /// `NotFound` when it is not there.
    fn blob(&self, blob: &Descriptor) -> Result<Arc<dyn BlobSource>, Failure>;
}

/// Where a push goes to: one repository.
pub trait Target: Send + Sync {
    /// Whether the repository has it.
    fn has<'a>(&'a self, blob: &'a Descriptor) -> Pending<'a, Result<bool, Failure>>;

    /// Sends a blob, or has the registry take it from one of `mount_from`, its
    /// other repositories; false when the blob was there already. `progress`
    /// is told how many bytes are over.
    fn push_blob<'a>(
        &'a self,
        blob: &'a Descriptor,
        bytes: Arc<dyn BlobSource>,
        mount_from: &'a [String],
        progress: &'a (dyn Fn(u64) + Send + Sync),
    ) -> Pending<'a, Result<bool, Failure>>;

    /// Sends a manifest or an index, by its digest and, with `tag`, by that.
    fn push_document<'a>(
        &'a self,
        document: &'a Descriptor,
        bytes: Bytes,
        tag: Option<&'a str>,
    ) -> Pending<'a, Result<(), Failure>>;
}

/// One push.
pub struct Push {
    /// From where.
    pub source: Arc<dyn Source>,
    /// To where.
    pub target: Arc<dyn Target>,
    /// Who is told of it.
    pub observer: Arc<dyn Observer>,
    /// Uploads at a time.
    pub uploads: Option<Arc<Semaphore>>,
    /// Which tag or digest it is to have, in which repository.
    pub reference: Reference,
    /// What of an index is sent. The index itself always is: only registries
    /// that do not look take it without its parts.
    pub platforms: Matcher,
}

/// What a push has met.
#[derive(Default)]
struct Met {
    /// Blobs that are being sent.
    seen: HashSet<Digest>,
    manifests: Vec<Descriptor>,
    /// Outermost first.
    indexes: Vec<Descriptor>,
}

impl Push {
    /// Sends `root` and what it refers to. `name` is what the image is called
    /// in reports.
    ///
    /// # Errors
    /// The first failure. A blob that is not there is one, unless the
    /// repository has it.
    pub async fn run(&self, root: &Descriptor, name: &str) -> Result<(), Error> {
        let met = Mutex::default();
        let labels = self.labels(&root.digest).await?;
        self.visit(root, &[name.to_owned()], labels, &met, 0).await?;
        let Met { manifests, indexes, .. } =
            met.into_inner().unwrap_or_else(PoisonError::into_inner);
        try_join_all(manifests.iter().map(|manifest| self.document(manifest, root))).await?;
        for index in indexes.iter().rev() {
            self.document(index, root).await?;
        }
        Ok(())
    }

    /// Sends what `blob` refers to, or itself when it is no document.
    /// `inherited` are its parents' labels: what they came from it may have
    /// come from, too.
    fn visit<'a>(
        &'a self,
        blob: &'a Descriptor,
        parents: &'a [String],
        inherited: Labels,
        met: &'a Mutex<Met>,
        depth: usize,
    ) -> Pending<'a, Result<(), Error>> {
        Box::pin(async move {
            let reference = names::reference(blob);
            {
                let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
                if !met.seen.insert(blob.digest.clone()) {
                    return Ok(());
                }
                if is_manifest(&blob.media_type) {
                    met.manifests.push(blob.clone());
                } else if is_index(&blob.media_type) {
                    met.indexes.push(blob.clone());
                }
            }
            self.observer.added(&reference, blob, parents);
            if !is_manifest(&blob.media_type) && !is_index(&blob.media_type) {
                return self.blob(blob, &inherited).await;
            }
            if depth >= DEPTH_MAX {
                return Err(Error::too_deep(&blob.digest));
            }
            let bytes = self.read(&blob.digest).await?;
            let document = Document::parse(&blob.media_type, &bytes)
                .map_err(|source| Error::document(&blob.digest, source))?;
            let mut labels = self.labels(&blob.digest).await?;
            for (key, value) in names::sources(&inherited) {
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
            let parents = [reference];
            let is_wanted = |entry: &&Entry| {
                entry.platform.as_ref().is_none_or(|platform| self.platforms.matches(platform))
            };
            let visits = document
                .entries()
                .filter(is_wanted)
                .map(|entry| self.visit(&entry.blob, &parents, labels.clone(), met, depth + 1));
            try_join_all(visits).await.map(drop)
        })
    }

    async fn blob(&self, blob: &Descriptor, inherited: &Labels) -> Result<(), Error> {
        let _place = match &self.uploads {
            Some(places) => Some(Arc::clone(places).acquire_owned().await),
            None => None,
        };
        let host = names::source_host(&self.reference);
        let mut labels = self.labels(&blob.digest).await?;
        for (key, value) in names::sources(inherited) {
            labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let mount_from = names::mount_candidates(&labels, host, self.reference.path());
        let (source, wanted) = (Arc::clone(&self.source), blob.clone());
        let bytes = match crate::pull::blocking(move || source.blob(&wanted)).await {
            // What we have not got, the registry may have.
            Err(failure) => {
                if !self.target.has(blob).await.unwrap_or(false) {
                    return Err(failure.into());
                }
                self.observer.exists(blob);
                return Ok(());
            }
            Ok(bytes) => bytes,
        };
        let progress = |offset| self.observer.offset(blob, offset);
        match self.target.push_blob(blob, bytes, &mount_from, &progress).await? {
            true => self.observer.complete(blob),
            false => self.observer.exists(blob),
        }
        Ok(())
    }

    /// Sends a document; the outermost one gets the tag.
    async fn document(&self, document: &Descriptor, root: &Descriptor) -> Result<(), Error> {
        let tag = match (self.reference.tag(), self.reference.digest()) {
            _ if document.digest != root.digest => None,
            (Some(tag), None) => Some(tag),
            // A tag with a digest is for that digest alone.
            (Some(tag), Some(digest)) if *digest == document.digest => Some(tag),
            _ => None,
        };
        let bytes = self.read(&document.digest).await?;
        // One with a subject has to be in a list, too.
        let is_alone = Document::parse(&document.media_type, &bytes)
            .is_ok_and(|document| document.extras().subject.is_none());
        if tag.is_none() && is_alone && self.target.has(document).await? {
            self.observer.exists(document);
            return Ok(());
        }
        self.target.push_document(document, bytes.into(), tag).await?;
        self.observer.complete(document);
        Ok(())
    }

    async fn read(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let (source, digest) = (Arc::clone(&self.source), digest.clone());
        Ok(crate::pull::blocking(move || source.document(&digest, MAX_DOCUMENT)).await?)
    }

    async fn labels(&self, digest: &Digest) -> Result<Labels, Error> {
        let (source, digest) = (Arc::clone(&self.source), digest.clone());
        Ok(crate::pull::blocking(move || source.labels(&digest)).await?)
    }
}
