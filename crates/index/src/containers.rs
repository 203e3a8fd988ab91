//! Containers: what is to run, not what runs (containerd,
//! `core/metadata/containers.go`).

use std::collections::BTreeMap;
use std::time::SystemTime;

use davit_types::{Any, Labels, Namespace};

use crate::{Index, Result};

/// A container's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name, unique within the namespace.
    pub id: String,
    /// What clients attached.
    pub labels: Labels,
    /// The image's name, which need not exist.
    pub image: String,
    /// Which runtime runs it.
    pub runtime: Runtime,
    /// The OCI spec, as its client encoded it.
    pub spec: Option<Any>,
    /// The snapshotter of its root filesystem.
    pub snapshotter: String,
    /// Its root filesystem's key there.
    pub snapshot_key: String,
    /// When it was made; ignored on create and update.
    pub created_at: SystemTime,
    /// When it was last changed; ignored on create and update.
    pub updated_at: SystemTime,
    /// What clients keep with it.
    pub extensions: BTreeMap<String, Any>,
    /// The sandbox it is in, or empty.
    pub sandbox_id: String,
}

/// A runtime and what it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// `io.containerd.runc.v2`
    pub name: String,
    /// For the runtime alone to understand.
    pub options: Option<Any>,
}

/// The containers of all namespaces.
#[derive(Clone, Copy, Debug)]
pub struct Containers<'a> {
    pub(crate) index: &'a Index,
}

impl Containers<'_> {
    /// One container.
    pub fn get(&self, namespace: &Namespace, id: &str) -> Result<Container> {
        let _ = (namespace, id, self.index);
        todo!()
    }

    /// Those that any of `filters` matches, all when there is none, by id.
    pub fn list(&self, namespace: &Namespace, filters: &[String]) -> Result<Vec<Container>> {
        let _ = (namespace, filters);
        todo!()
    }

    /// Adds a container; answers it with its times.
    pub fn create(&self, namespace: &Namespace, container: Container) -> Result<Container> {
        let _ = (namespace, container);
        todo!()
    }

    /// Changes the fields that `paths` names; without any, all that may
    /// change, and a change of another is refused. Answers the result.
    pub fn update(
        &self,
        namespace: &Namespace,
        container: Container,
        paths: &[String],
    ) -> Result<Container> {
        let _ = (namespace, container, paths);
        todo!()
    }

    /// Deletes a container.
    pub fn delete(&self, namespace: &Namespace, id: &str) -> Result<()> {
        let _ = (namespace, id);
        todo!()
    }
}
