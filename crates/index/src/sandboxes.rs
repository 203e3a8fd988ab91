//! Sandboxes: what holds containers together (containerd,
//! `core/metadata/sandbox.go`).

use std::collections::BTreeMap;
use std::time::SystemTime;

use davit_types::{Any, Labels, Namespace};

use crate::{Index, Result, Runtime};

/// A sandbox's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Its name, unique within the namespace.
    pub id: String,
    /// What clients attached.
    pub labels: Labels,
    /// Which runtime runs it.
    pub runtime: Runtime,
    /// What it is to be, as its client encoded it.
    pub spec: Option<Any>,
    /// Who looks after it: `shim`, `podsandbox`.
    pub sandboxer: String,
    /// When it was made; ignored on create and update.
    pub created_at: SystemTime,
    /// When it was last changed; ignored on create and update.
    pub updated_at: SystemTime,
    /// What clients keep with it.
    pub extensions: BTreeMap<String, Any>,
}

/// The sandboxes of all namespaces.
#[derive(Clone, Copy, Debug)]
pub struct Sandboxes<'a> {
    pub(crate) index: &'a Index,
}

impl Sandboxes<'_> {
    /// One sandbox.
    pub fn get(&self, namespace: &Namespace, id: &str) -> Result<Sandbox> {
        let _ = (namespace, id, self.index);
        todo!()
    }

    /// Those that any of `filters` matches, all when there is none, by id.
    pub fn list(&self, namespace: &Namespace, filters: &[String]) -> Result<Vec<Sandbox>> {
        let _ = (namespace, filters);
        todo!()
    }

    /// Adds a sandbox; answers it with its times.
    pub fn create(&self, namespace: &Namespace, sandbox: Sandbox) -> Result<Sandbox> {
        let _ = (namespace, sandbox);
        todo!()
    }

    /// Changes the fields that `paths` names; without any, all that may
    /// change. Answers the result.
    pub fn update(
        &self,
        namespace: &Namespace,
        sandbox: Sandbox,
        paths: &[String],
    ) -> Result<Sandbox> {
        let _ = (namespace, sandbox, paths);
        todo!()
    }

    /// Deletes a sandbox.
    pub fn delete(&self, namespace: &Namespace, id: &str) -> Result<()> {
        let _ = (namespace, id);
        todo!()
    }
}
