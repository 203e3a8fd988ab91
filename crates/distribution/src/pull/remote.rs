//! A registry's repository, as pulls and pushes see it.

use std::sync::Arc;

use bytes::Bytes;
use davit_types::Descriptor;

use super::{Download, Failure, Pending, Remote};
use crate::manifest::Entry;
use crate::push::Target;
use crate::registry::{self, BlobSource, Pushed, Repository};

impl Remote for Repository {
    fn document<'a>(
        &'a self,
        wanted: &'a Descriptor,
        limit: u64,
    ) -> Pending<'a, Result<Bytes, Failure>> {
        Box::pin(async move {
            Self::document(self, wanted, limit).await.map_err(|error| Failure::of(&error))
        })
    }

    fn download<'a>(
        &'a self,
        blob: &'a Entry,
        from: u64,
    ) -> Pending<'a, Result<Box<dyn Download>, Failure>> {
        Box::pin(async move {
            let download = self.download_with(&blob.blob, from, &blob.urls).await;
            let download = download.map_err(|error| Failure::of(&error))?;
            Ok(Box::new(download) as Box<dyn Download>)
        })
    }

    fn distrust(&self, sources: &[String]) {
        for source in sources {
            Self::distrust(self, source);
        }
    }
}

impl Download for registry::Download {
    fn next(&mut self) -> Pending<'_, Result<Option<Bytes>, Failure>> {
        Box::pin(async move { Self::next(self).await.map_err(|error| Failure::of(&error)) })
    }

    fn sources(&self) -> &[String] {
        Self::sources(self)
    }
}

impl Target for Repository {
    fn has<'a>(&'a self, blob: &'a Descriptor) -> Pending<'a, Result<bool, Failure>> {
        Box::pin(async move { Self::has(self, blob).await.map_err(|error| Failure::of(&error)) })
    }

    fn push_blob<'a>(
        &'a self,
        blob: &'a Descriptor,
        bytes: Arc<dyn BlobSource>,
        mount_from: &'a [String],
        progress: &'a (dyn Fn(u64) + Send + Sync),
    ) -> Pending<'a, Result<bool, Failure>> {
        Box::pin(async move {
            let pushed = Self::push_blob(self, blob, bytes, mount_from, progress).await;
            let pushed = pushed.map_err(|error| Failure::of(&error))?;
            Ok(matches!(pushed, Pushed::Uploaded))
        })
    }

    fn push_document<'a>(
        &'a self,
        document: &'a Descriptor,
        bytes: Bytes,
        tag: Option<&'a str>,
    ) -> Pending<'a, Result<(), Failure>> {
        Box::pin(async move {
            let pushed = self.push_manifest(document, bytes, tag).await;
            pushed.map_err(|error| Failure::of(&error))
        })
    }
}
