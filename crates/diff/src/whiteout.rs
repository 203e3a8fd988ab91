//! Deletions in a layer (OCI image specification, `layer.md`, Whiteouts), and
//! what they become in a directory.

use std::ffi::CString;

/// What a layer's file with a special name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whiteout {
    /// The directory's lower contents are hidden.
    Opaque,
    /// This name is deleted.
    Of(CString),
}

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

impl Whiteout {
    /// Reads the last component of a name. An error for a whiteout of the
    /// directory itself or of what is above it.
    pub fn of(base: &CString) -> Result<Option<Self>, &'static str> {
        let base = base.as_bytes();
        if base == OPAQUE {
            return Ok(Some(Self::Opaque));
        }
        match base.strip_prefix(PREFIX) {
            None => Ok(None),
            Some(b"" | b"." | b"..") => Err("invalid whiteout name"),
            Some(name) => Ok(CString::new(name).ok().map(Self::Of)),
        }
    }
}

/// How deletions are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Whiteouts {
    /// What is deleted is removed: the directory has all layers in it.
    Remove,
    /// As overlayfs marks deletions in an upper directory, in `trusted.`
    /// attributes.
    Overlay,
    /// As overlayfs marks them when mounted with `userxattr`.
    OverlayUser,
}

impl Whiteouts {
    /// The attribute that hides a directory's lower contents.
    pub(crate) fn opaque_attribute(self) -> Option<&'static str> {
        match self {
            Self::Remove => None,
            Self::Overlay => Some("trusted.overlay.opaque"),
            Self::OverlayUser => Some("user.overlay.opaque"),
        }
    }
}
