//! The database file: opening it, the writer, the readers.

use std::path::Path;

use crate::{Containers, Images, Leases, Namespaces, Result, Sandboxes};

/// The index, open. Cheap to share behind an `Arc`; every method may be
/// called from any thread and blocks.
#[derive(Debug)]
pub struct Index {}

impl Index {
    /// Opens the index at `path`, made when it is missing, and brings it to
    /// the current schema.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`] when the file is no index, comes from a later
    /// version, or is broken; [`crate::Error::Database`] for the rest.
    pub fn open(path: &Path) -> Result<Self> {
        let _ = path;
        todo!()
    }

    /// The namespaces.
    pub fn namespaces(&self) -> Namespaces<'_> {
        Namespaces { index: self }
    }

    /// The containers of all namespaces.
    pub fn containers(&self) -> Containers<'_> {
        Containers { index: self }
    }

    /// The images of all namespaces.
    pub fn images(&self) -> Images<'_> {
        Images { index: self }
    }

    /// The leases of all namespaces.
    pub fn leases(&self) -> Leases<'_> {
        Leases { index: self }
    }

    /// The sandboxes of all namespaces.
    pub fn sandboxes(&self) -> Sandboxes<'_> {
        Sandboxes { index: self }
    }
}
