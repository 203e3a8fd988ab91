//! Leases: what keeps things from being collected while somebody works with
//! them (containerd, `core/metadata/leases.go`).

use std::fmt;
use std::time::SystemTime;

use davit_types::{Labels, Namespace};

use crate::{Index, Result};

/// A lease's name: whatever its client chose.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(String);

impl LeaseId {
    /// The lease called `id`, which need not exist.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A lease's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name, unique within the namespace.
    pub id: LeaseId,
    /// When it was made.
    pub created_at: SystemTime,
    /// What clients attached; `containerd.io/gc.expire` ends it.
    pub labels: Labels,
}

/// What a lease holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// Its name among its kind: a digest, a key, a ref.
    pub id: String,
    /// `content`, `ingests`, `images` or `snapshots/SNAPSHOTTER`.
    pub kind: String,
}

/// The leases of all namespaces.
#[derive(Clone, Copy, Debug)]
pub struct Leases<'a> {
    pub(crate) index: &'a Index,
}

impl Leases<'_> {
    /// Adds a lease.
    pub fn create(&self, namespace: &Namespace, id: &LeaseId, labels: &Labels) -> Result<Lease> {
        let _ = (namespace, id, labels, self.index);
        todo!()
    }

    /// Deletes a lease; what it alone held can be collected from then on.
    pub fn delete(&self, namespace: &Namespace, id: &LeaseId) -> Result<()> {
        let _ = (namespace, id);
        todo!()
    }

    /// Those that any of `filters` matches, all when there is none, by id.
    pub fn list(&self, namespace: &Namespace, filters: &[String]) -> Result<Vec<Lease>> {
        let _ = (namespace, filters);
        todo!()
    }

    /// Makes a lease hold `resource`, which need not exist yet.
    pub fn add_resource(
        &self,
        namespace: &Namespace,
        id: &LeaseId,
        resource: &Resource,
    ) -> Result<()> {
        let _ = (namespace, id, resource);
        todo!()
    }

    /// Makes a lease let go of `resource`.
    pub fn delete_resource(
        &self,
        namespace: &Namespace,
        id: &LeaseId,
        resource: &Resource,
    ) -> Result<()> {
        let _ = (namespace, id, resource);
        todo!()
    }

    /// What a lease holds.
    pub fn list_resources(&self, namespace: &Namespace, id: &LeaseId) -> Result<Vec<Resource>> {
        let _ = (namespace, id);
        todo!()
    }
}
