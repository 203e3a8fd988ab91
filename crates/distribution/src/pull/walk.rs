//! From a document to what it refers to.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use davit_types::platform::Matcher;
use davit_types::{Descriptor, Digest, Reference};
use futures::future::try_join_all;

use super::fetch::{Fetcher, blocking};
use super::names::{self, is_config, is_index, is_layer, is_manifest};
use super::{DEPTH_MAX, Error, Layers, NODES_MAX, Pending, Pull};
use crate::manifest::{Document, Entry, MAX_DOCUMENT};

/// A walk through one image.
pub(super) struct Walk<'a> {
    pull: &'a Pull,
    fetcher: &'a Fetcher,
    matcher: Matcher,
    met: Mutex<Met>,
}

/// What a walk has met.
#[derive(Default)]
struct Met {
    /// Documents, what each was taken for, and whether it was meant. However
    /// many others refer to it, each is looked at once.
    documents: HashSet<(Digest, String, bool)>,
    /// How many blobs were referred to.
    nodes: usize,
}

/// A blob to be visited.
struct Node<'a> {
    child: &'a Entry,
    /// What it is a part of, as reports name that.
    parents: &'a [String],
    depth: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(pull: &'a Pull, fetcher: &'a Fetcher) -> Self {
        let matcher = match pull.wanted.platforms.as_slice() {
            [] => Matcher::all(),
            platforms => Matcher::ordered(platforms),
        };
        Self { pull, fetcher, matcher, met: Mutex::default() }
    }

    pub(super) async fn visit(&self, root: &Descriptor, name: &str) -> Result<(), Error> {
        let (platform, artifact_type, urls, data) = (None, None, Vec::new(), None);
        let child = Entry { blob: root.clone(), platform, artifact_type, urls, data };
        let parents = [name.to_owned()];
        self.node(Node { child: &child, parents: &parents, depth: 0 }).await
    }

    /// Fetches a blob and what it refers to.
    fn node<'b>(&'b self, node: Node<'b>) -> Pending<'b, Result<(), Error>> {
        Box::pin(async move {
            let Node { child, parents, depth } = node;
            let blob = &child.blob;
            let document = is_index(&blob.media_type) || is_manifest(&blob.media_type);
            if document && !self.is_new(child) {
                return Ok(());
            }
            let reference = names::reference(blob);
            self.pull.observer.added(&reference, blob, parents);
            self.fetcher.fetch(child, &reference).await?;
            if !document {
                return self.note_source(&blob.digest).await;
            }
            if depth >= DEPTH_MAX {
                return Err(Error::too_deep(&blob.digest));
            }
            let all = self.children_of(blob).await?;
            self.note_source(&blob.digest).await?;
            let wanted = self.wanted(child, all)?;
            self.count(&blob.digest, wanted.len())?;
            let parents = [reference];
            match is_manifest(&blob.media_type) {
                true => self.manifest(&blob.digest, wanted, &parents, depth).await,
                false => self.all(&wanted, &parents, depth + 1).await,
            }
        })
    }

    /// Whether a document has not been met yet.
    fn is_new(&self, document: &Entry) -> bool {
        let blob = &document.blob;
        let key = (blob.digest.clone(), blob.media_type.clone(), self.is_meant(document));
        self.met.lock().unwrap_or_else(PoisonError::into_inner).documents.insert(key)
    }

    /// Counts what a document refers to.
    fn count(&self, document: &Digest, more: usize) -> Result<(), Error> {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        met.nodes += more;
        if met.nodes > NODES_MAX {
            return Err(Error::too_many(document));
        }
        Ok(())
    }

    async fn all(&self, list: &[Entry], parents: &[String], depth: usize) -> Result<(), Error> {
        let nodes = list.iter().map(|child| self.node(Node { child, parents, depth }));
        try_join_all(nodes).await.map(drop)
    }

    /// Fetches what a manifest refers to; the layers of an image are left to
    /// who unpacks them, if anybody does.
    async fn manifest(
        &self,
        digest: &Digest,
        list: Vec<Entry>,
        parents: &[String],
        depth: usize,
    ) -> Result<(), Error> {
        let Some(unpack) = &self.pull.unpack else {
            return self.all(&list, parents, depth + 1).await;
        };
        let (layers, others): (Vec<_>, Vec<_>) =
            list.into_iter().partition(|child| is_layer(&child.blob.media_type));
        for layer in &layers {
            self.pull.observer.added(&names::reference(&layer.blob), &layer.blob, parents);
        }
        self.all(&others, parents, depth + 1).await?;
        let config = others.iter().find(|child| is_config(&child.blob.media_type));
        let (Some(config), false) = (config, layers.is_empty()) else {
            return self.fetch_all(&layers).await;
        };
        let document = self.read(&config.blob.digest).await?;
        let config = config.blob.clone();
        let (fetcher, manifest, entries) = (self.fetcher, digest.clone(), layers);
        let layers = Layers { fetcher, walk: self, manifest, config, document, entries };
        unpack.unpack(&layers).await
    }

    pub(super) async fn fetch_all(&self, list: &[Entry]) -> Result<(), Error> {
        let fetches = list.iter().map(async |child| {
            let reference = names::reference(&child.blob);
            self.fetcher.fetch(child, &reference).await?;
            self.note_source(&child.blob.digest).await
        });
        try_join_all(fetches).await.map(drop)
    }

    /// What a document refers to, which it is labelled with.
    async fn children_of(&self, blob: &Descriptor) -> Result<Vec<Entry>, Error> {
        let bytes = self.read(&blob.digest).await?;
        let document = Document::parse(&blob.media_type, &bytes)
            .map_err(|source| Error::document(&blob.digest, source))?;
        let list: Vec<Entry> = document.entries().cloned().collect();
        let labels = names::child_labels(list.iter().map(|child| &child.blob));
        if !labels.is_empty() {
            let (store, digest) = (self.pull.store.clone(), blob.digest.clone());
            blocking(move || store.label(&digest, &labels)).await?;
        }
        Ok(list)
    }

    async fn read(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let (store, digest) = (self.pull.store.clone(), digest.clone());
        Ok(blocking(move || store.document(&digest, MAX_DOCUMENT)).await?)
    }

    /// Those of a document's children that are to be fetched.
    fn wanted(&self, document: &Entry, mut list: Vec<Entry>) -> Result<Vec<Entry>, Error> {
        let wanted = &self.pull.wanted;
        let meant = |child: &Entry| self.is_meant(child);
        // An image without anything to run is none. containerd gives it a name.
        let index = is_index(&document.blob.media_type);
        let counts = wanted.manifest_limit > 0 || !list.is_empty();
        if index && counts && !list.iter().any(meant) {
            return Err(Error::NoMatch);
        }
        if !wanted.all_metadata {
            list.retain(meant);
        } else if is_manifest(&document.blob.media_type) && !meant(document) {
            list.retain(|child| is_config(&child.blob.media_type));
        }
        if wanted.manifest_limit > 0 && index {
            let rank = |child: &Entry| {
                child.platform.as_ref().map_or(usize::MAX, |platform| self.matcher.rank(platform))
            };
            list.sort_by_key(rank);
            list.truncate(wanted.manifest_limit);
        }
        Ok(list)
    }

    fn is_meant(&self, entry: &Entry) -> bool {
        entry.platform.as_ref().is_none_or(|platform| self.matcher.matches(platform))
    }

    /// Labels a blob with where it comes from.
    pub(super) async fn note_source(&self, digest: &Digest) -> Result<(), Error> {
        let reference: &Reference = &self.pull.reference;
        let (host, path) = (names::source_host(reference).to_owned(), reference.path().to_owned());
        let (store, digest) = (self.pull.store.clone(), digest.clone());
        let noted = blocking(move || {
            let existing = store.labels(&digest)?;
            match names::source_label(&host, &path, &existing) {
                Some((key, value)) if existing.get(&key) != Some(&value) => {
                    store.label(&digest, &[(key, value)].into())
                }
                _ => Ok(()),
            }
        });
        Ok(noted.await?)
    }
}
