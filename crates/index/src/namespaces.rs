//! Namespaces and their labels (containerd, `core/metadata/namespaces.go`).

use davit_types::{Labels, Namespace};

use crate::{Index, Result};

/// The namespaces. A namespace also comes into being, without labels, when
/// something is first made in it.
#[derive(Clone, Copy, Debug)]
pub struct Namespaces<'a> {
    pub(crate) index: &'a Index,
}

impl Namespaces<'_> {
    /// Makes `namespace` with `labels`.
    pub fn create(&self, namespace: &Namespace, labels: &Labels) -> Result<()> {
        let _ = (namespace, labels, self.index);
        todo!()
    }

    /// The labels of `namespace`; none when there is no such namespace.
    pub fn labels(&self, namespace: &Namespace) -> Result<Labels> {
        let _ = namespace;
        todo!()
    }

    /// All namespaces with their labels, in the order of their names.
    pub fn list(&self) -> Result<Vec<(Namespace, Labels)>> {
        todo!()
    }

    /// Replaces all labels; with `paths`, sets those named (`labels.KEY`)
    /// alone. An empty value removes a label.
    pub fn update(&self, namespace: &Namespace, labels: &Labels, paths: &[String]) -> Result<()> {
        let _ = (namespace, labels, paths);
        todo!()
    }

    /// Deletes `namespace`, which must hold nothing.
    pub fn delete(&self, namespace: &Namespace) -> Result<()> {
        let _ = namespace;
        todo!()
    }
}
