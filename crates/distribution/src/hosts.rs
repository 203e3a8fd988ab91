//! Where a registry is: `hosts.toml` files, docker's `certs.d`, and defaults
//! (containerd, `docs/hosts.md` and `core/remotes/docker/config`).

use std::path::PathBuf;
use std::time::Duration;

/// One server that can be asked for a registry's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// `https` or `http`.
    pub scheme: String,
    /// Name or address, with its port where that is given: `registry:5000`.
    pub authority: String,
    /// What stands before the repository in a path: `/v2`, or what
    /// `override_path` says.
    pub path: String,
    /// What it can be asked for.
    pub capabilities: Capabilities,
    /// Sent along with every request to it.
    pub headers: Vec<(String, String)>,
    /// How its certificate is checked and what ours is.
    pub tls: Tls,
    /// How long a connection may take to be made; the client's own limit
    /// where none is given.
    pub dial_timeout: Option<Duration>,
    /// Whether it stands in for another registry, which it is then told of
    /// (`?ns=`).
    pub is_mirror: bool,
}

/// What a host can be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Blobs, and manifests by digest.
    pub pull: bool,
    /// The digest of a tag.
    pub resolve: bool,
    /// To take content.
    pub push: bool,
    /// What refers to a manifest.
    pub referrers: bool,
}

/// How a connection is made safe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of further authorities (PEM files).
    pub ca: Vec<PathBuf>,
    /// Our certificates, each with its key where that is in a file of its own
    /// (PEM files).
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
    /// Any certificate will do.
    pub skip_verify: bool,
}
