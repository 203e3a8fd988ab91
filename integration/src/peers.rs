//! Other people's programs: where each is, in the version wanted.

use std::path::{Path, PathBuf};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("integration/ is in the workspace").into()
}

/// The directory with our own binaries.
pub fn bin_dir() -> PathBuf {
    std::env::var_os("DAVIT_BIN_DIR")
        .map_or_else(|| workspace().join("target/release"), |dir| workspace().join(dir))
}

/// A binary of ours.
///
/// # Panics
/// When it has not been built.
pub fn ours(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(path.exists(), "{} is missing: run `make release` first", path.display());
    path
}

/// A program of Debian forky, by name.
///
/// # Panics
/// When `setup.sh` has not been run.
pub fn forky(name: &str) -> PathBuf {
    let tree = std::env::var_os("DAVIT_FORKY")
        .map_or_else(|| workspace().join("target/forky"), PathBuf::from);
    let path = tree.join("peers").join(name);
    assert!(path.exists(), "{} is missing: run `make test-setup` first", path.display());
    path
}

/// A file of the kernel that the virtual machine boots.
///
/// # Panics
/// When `setup.sh` has not been run.
pub fn kernel(name: &str) -> PathBuf {
    let path = workspace().join("target/kernel").join(name);
    assert!(path.exists(), "{} is missing: run `make test-setup` first", path.display());
    path
}

/// A client of the API, with the reference it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// `ctr` of Debian 12: containerd 1.6.
    Ctr16,
    /// `ctr` of Debian forky: containerd 2.1.
    Ctr21,
    /// The same, that speaks with registries itself instead of letting the
    /// daemon do it.
    Ctr21Local,
}

impl Client {
    /// Its executable.
    pub fn path(self) -> PathBuf {
        match self {
            Self::Ctr16 => "/usr/bin/ctr".into(),
            Self::Ctr21 | Self::Ctr21Local => forky("ctr"),
        }
    }
}

/// A runtime binary that containers are run by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Debian 12's runc 1.1.
    Runc,
    /// Debian 12's crun 1.8.
    Crun,
    /// forky's runc 1.3.
    NewRunc,
    /// forky's crun 1.28.
    NewCrun,
}

impl Runtime {
    /// Its executable.
    pub fn path(self) -> PathBuf {
        match self {
            Self::Runc => "/usr/sbin/runc".into(),
            Self::Crun => "/usr/bin/crun".into(),
            Self::NewRunc => forky("runc"),
            Self::NewCrun => forky("crun"),
        }
    }
}
