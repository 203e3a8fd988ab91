//! Labels: what clients attach to things, and the names that mean something.

use std::collections::BTreeMap;

use crate::{ErrorKind, Kind};

/// Key and value pairs, in the order of their keys.
pub type Labels = BTreeMap<String, String>;

/// Key and value together may have this many bytes (containerd, `labels`).
pub const MAX_SIZE: usize = 4096;

/// Says where content of a namespace may be taken from by others; `isolated`
/// or `shared` (on a namespace).
pub const SHARING_POLICY: &str = "containerd.io/namespace.shareable";
/// Names the runtime that containers of a namespace get (on a namespace).
pub const DEFAULT_RUNTIME: &str = "containerd.io/defaults/runtime";
/// Names the snapshotter that a namespace uses (on a namespace).
pub const DEFAULT_SNAPSHOTTER: &str = "containerd.io/defaults/snapshotter";
/// The uncompressed digest of a layer's blob (on content).
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// A label that is too large.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "label key and value length ({length} bytes) greater than maximum size ({MAX_SIZE} bytes), \
     key: {key}: invalid argument"
)]
pub struct InvalidLabel {
    /// The key, cut to 64 bytes, as containerd 2.x prints long ones.
    pub key: String,
    /// Bytes of key and value.
    pub length: usize,
}

impl Kind for InvalidLabel {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

/// Refuses a label over [`MAX_SIZE`].
pub fn validate(key: &str, value: &str) -> Result<(), InvalidLabel> {
    let length = key.len() + value.len();
    if length <= MAX_SIZE {
        return Ok(());
    }
    const SHOWN: usize = 64;
    let end = key.floor_char_boundary(SHOWN);
    Err(InvalidLabel { key: key[..end].to_owned(), length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_key_and_value_together() {
        assert_eq!(validate("k", &"v".repeat(MAX_SIZE - 1)), Ok(()));
        let error = validate("k", &"v".repeat(MAX_SIZE)).unwrap_err();
        assert_eq!((error.key.as_str(), error.length), ("k", MAX_SIZE + 1));
        let error = validate(&"ä".repeat(50), &"v".repeat(MAX_SIZE)).unwrap_err();
        assert_eq!((error.key, error.length), ("ä".repeat(32), MAX_SIZE + 100));
        let error = validate(&format!("k{}", "ä".repeat(50)), &"v".repeat(MAX_SIZE)).unwrap_err();
        assert_eq!(error.key, format!("k{}", "ä".repeat(31)));
    }
}
