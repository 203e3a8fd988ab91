//! Pointers to content, as the OCI image specification defines them.

use crate::{Digest, Labels};

/// A typed pointer to a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What the blob is: `application/vnd.oci.image.manifest.v1+json`.
    pub media_type: String,
    /// Its address.
    pub digest: Digest,
    /// Its length in bytes. Signed on the wire; never negative here.
    pub size: u64,
    /// What else is said of it.
    pub annotations: Labels,
}
