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

/// What an image runs on (OCI image index, `platform`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`, `arm64`: Go's names.
    pub architecture: String,
    /// `v7`, `v8`; empty where the architecture has none.
    pub variant: String,
    /// Windows' build, empty elsewhere.
    pub os_version: String,
}
