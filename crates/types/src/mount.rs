//! A mount that somebody else is to make.

/// One step of building a root filesystem, as snapshotters hand it out and
/// shims carry it out (containerd's `types.Mount`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mount {
    /// The filesystem type, `bind` and `overlay` among them.
    pub kind: String,
    /// What to mount.
    pub source: String,
    /// Where below the root, for mounts that go to a subdirectory; mostly
    /// empty.
    pub target: String,
    /// Options as in fstab, each one element: `ro`, `lowerdir=…`.
    pub options: Vec<String>,
}
