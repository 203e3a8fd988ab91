//! Images: names of content (containerd, `core/metadata/images.go`).

use std::time::SystemTime;

use davit_types::{Descriptor, Digest, Labels, Namespace};

use crate::{Index, LeaseId, Result};

/// An image's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name, unique within the namespace: `docker.io/library/busybox:latest`.
    pub name: String,
    /// What clients attached.
    pub labels: Labels,
    /// The manifest or index it names.
    pub target: Descriptor,
    /// When it was made; ignored on create and update.
    pub created_at: SystemTime,
    /// When it was last changed; ignored on create and update.
    pub updated_at: SystemTime,
}

/// The images of all namespaces.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    pub(crate) index: &'a Index,
}

impl Images<'_> {
    /// One image.
    pub fn get(&self, namespace: &Namespace, name: &str) -> Result<Image> {
        let _ = (namespace, name, self.index);
        todo!()
    }

    /// Those that any of `filters` matches, all when there is none, by name.
    pub fn list(&self, namespace: &Namespace, filters: &[String]) -> Result<Vec<Image>> {
        let _ = (namespace, filters);
        todo!()
    }

    /// Adds an image; answers it with its times, `now` instead of the clock
    /// where given (`SOURCE_DATE_EPOCH`). `lease` holds it only if it expires.
    pub fn create(
        &self,
        namespace: &Namespace,
        image: Image,
        now: Option<SystemTime>,
        lease: Option<&LeaseId>,
    ) -> Result<Image> {
        let _ = (namespace, image, now, lease);
        todo!()
    }

    /// Changes the fields that `paths` names; without any, all of them.
    /// Answers the result.
    pub fn update(
        &self,
        namespace: &Namespace,
        image: Image,
        paths: &[String],
        now: Option<SystemTime>,
        lease: Option<&LeaseId>,
    ) -> Result<Image> {
        let _ = (namespace, image, paths, now, lease);
        todo!()
    }

    /// Deletes an image; with `target`, only if that is what it names.
    pub fn delete(
        &self,
        namespace: &Namespace,
        name: &str,
        target: Option<&Digest>,
        lease: Option<&LeaseId>,
    ) -> Result<()> {
        let _ = (namespace, name, target, lease);
        todo!()
    }
}
