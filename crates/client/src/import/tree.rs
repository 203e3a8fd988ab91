//! What an archive's documents refer to must be in it, or in the store already.

use std::collections::HashSet;

use davit_distribution::manifest::Document;
use davit_distribution::pull::DEPTH_MAX;
use davit_distribution::pull::names::is_non_distributable;
use davit_types::{Descriptor, Digest, Labels};

use super::{is_document, parse};
use crate::archive::Contents;
use crate::{Client, Error, content};

/// The documents of an archive, each looked at once however often others refer
/// to it.
pub(super) struct Tree<'a> {
    client: &'a Client,
    met: &'a Contents,
    seen: HashSet<(Digest, String)>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(client: &'a Client, met: &'a Contents) -> Self {
        Self { client, met, seen: HashSet::new() }
    }

    /// Checks that what `root` refers to is there, and labels every document
    /// with what it refers to, so that collection keeps it.
    pub(super) async fn label(&mut self, root: &Descriptor) -> Result<(), Error> {
        self.check(root)?;
        let mut open = vec![(root.clone(), 0)];
        while let Some((node, depth)) = open.pop() {
            let key = (node.digest.clone(), node.media_type.clone());
            if !is_document(&node.media_type) || !self.seen.insert(key) {
                continue;
            }
            if depth >= DEPTH_MAX {
                let reason = format!("indexes nested more than {DEPTH_MAX} deep");
                return Err(Error::invalid(node.digest.as_str(), reason));
            }
            let (bytes, _) = content::read(self.client, &node.digest).await?;
            let document = parse(node.digest.as_str(), &node.media_type, &bytes)?;
            // First, so that what is found in the store below is not collected.
            let labels = references(&document);
            content::set_labels(self.client, node.digest.to_string(), &labels).await?;
            for child in document.entries() {
                if self.met.blob(child.blob.digest.as_str()).is_some() {
                    self.check(&child.blob)?;
                    open.push((child.blob.clone(), depth + 1));
                } else {
                    self.check_absent(&child.blob).await?;
                }
            }
        }
        Ok(())
    }

    /// Checks that a blob is in the archive, and as long as is promised.
    fn check(&self, blob: &Descriptor) -> Result<(), Error> {
        let file = self.met.blob(blob.digest.as_str()).ok_or_else(|| lacking(blob))?;
        is_long(blob, file.size)
    }

    /// Checks that a blob may be absent from the archive: it may hold one
    /// platform of several, without what others may not be given or have got.
    async fn check_absent(&self, blob: &Descriptor) -> Result<(), Error> {
        if is_document(&blob.media_type) || is_non_distributable(&blob.media_type) {
            return Ok(());
        }
        let size = content::size(self.client, &blob.digest).await?;
        is_long(blob, size.ok_or_else(|| lacking(blob))?)
    }
}

fn lacking(blob: &Descriptor) -> Error {
    let reason = "referred to, but not in the archive nor in the store";
    Error::invalid(blob.digest.as_str(), reason)
}

fn is_long(blob: &Descriptor, size: u64) -> Result<(), Error> {
    if size != blob.size {
        let reason = format!("{size} bytes, but {} are promised", blob.size);
        return Err(Error::invalid(blob.digest.as_str(), reason));
    }
    Ok(())
}

/// containerd's labels for what a document refers to.
pub(super) fn references(document: &Document) -> Labels {
    let numbered = |letter: &str, list: &[davit_distribution::manifest::Entry]| {
        let entries = list.iter().enumerate();
        let label = |(n, entry): (usize, &davit_distribution::manifest::Entry)| {
            (format!("containerd.io/gc.ref.content.{letter}.{n}"), entry.blob.digest.to_string())
        };
        entries.map(label).collect::<Labels>()
    };
    match document {
        Document::Index(index) => numbered("m", &index.manifests),
        Document::Manifest(manifest) => {
            let mut labels = numbered("l", &manifest.layers);
            let config = manifest.config.blob.digest.to_string();
            labels.insert("containerd.io/gc.ref.content.config".to_owned(), config);
            labels
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_containerds_labels() {
        let blob = |digit: char| {
            let digest = digit.to_string().repeat(64);
            format!(r#"{{"mediaType":"a/b","digest":"sha256:{digest}","size":1}}"#)
        };
        let text = format!(r#"{{"config":{},"layers":[{},{}]}}"#, blob('c'), blob('0'), blob('1'));
        let document = Document::parse(super::super::MANIFEST, text.as_bytes()).unwrap();
        let labels = references(&document);
        let pairs: Vec<_> =
            labels.iter().map(|(key, value)| (key.as_str(), &value[7..8])).collect();
        assert_eq!(
            pairs,
            [
                ("containerd.io/gc.ref.content.config", "c"),
                ("containerd.io/gc.ref.content.l.0", "0"),
                ("containerd.io/gc.ref.content.l.1", "1"),
            ]
        );
    }
}
