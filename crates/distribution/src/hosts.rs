//! Where a registry is: `hosts.toml` files, docker's `certs.d`, and defaults
//! (containerd, `docs/hosts.md` and `core/remotes/docker/config`).
//!
//! A file that is wrong is refused, with its name and line. containerd logs
//! such a file and asks the registry itself instead of the mirrors.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use davit_types::reference::DEFAULT_DOMAIN;
use davit_types::{ErrorKind, Kind};

mod certificates;
mod directory;
mod file;

/// The name of the file in a host's directory.
const FILE: &str = "hosts.toml";
/// What serves [`DEFAULT_DOMAIN`].
const DEFAULT_SERVER: &str = "registry-1.docker.io";
/// Where the distribution specification has its paths.
const API: &str = "/v2";

/// One server that can be asked for a registry's content.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// `https` or `http`.
    pub scheme: String,
    /// Name or address, with its port where that is given: `registry:5000`.
    pub authority: String,
    /// What stands before the repository in a path: `/v2`, or what
    /// `override_path` says. Ends with no `/`.
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
    /// Whether it may turn out to speak plain http, though `scheme` says
    /// `https`: what it then refuses to take as TLS is asked again without.
    pub http_fallback: bool,
}

impl fmt::Debug for Host {
    /// Without the values of headers, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Host")
            .field("scheme", &self.scheme)
            .field("authority", &self.authority)
            .field("path", &self.path)
            .field("capabilities", &self.capabilities)
            .field("headers", &headers)
            .field("tls", &self.tls)
            .field("dial_timeout", &self.dial_timeout)
            .field("is_mirror", &self.is_mirror)
            .field("http_fallback", &self.http_fallback)
            .finish()
    }
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

impl Capabilities {
    /// Everything.
    pub const ALL: Self = Self { pull: true, resolve: true, push: true, referrers: true };
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

/// Why nobody knows where a registry is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory that cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file that is wrong, and where.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// From one.
        line: usize,
        /// In characters, from one.
        column: usize,
        /// What is wrong with what.
        message: String,
    },
    /// A name that is no host's.
    #[error("{0:?} is no host of a registry")]
    Domain(String),
    /// A default scheme that is not known.
    #[error("scheme {0:?} is neither \"http\" nor \"https\"")]
    Scheme(String),
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { source, .. } => ErrorKind::of_io(source),
            Self::Wrong { .. } | Self::Domain(_) | Self::Scheme(_) => ErrorKind::InvalidArgument,
        }
    }
}

/// Where to look, and what to take for granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Directories with a directory for each registry; the first that has one
    /// for it, or a `_default`, counts.
    pub directories: Vec<PathBuf>,
    /// `http` or `https`, for registries whose files do not name a server;
    /// where none is given it is `https`, but for this machine's own.
    pub default_scheme: Option<String>,
    /// What holds for the servers of all registries, besides what their files
    /// say.
    pub default_tls: Option<Tls>,
}

/// A host as a file has it, before what it leaves open is filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Draft {
    host: Host,
    skip_verify: Option<bool>,
}

impl Config {
    /// The servers of the registry `domain` (`registry:5000`), in the order in
    /// which they are to be asked. Reads the files anew every time; blocks.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn hosts(&self, domain: &str) -> Result<Vec<Host>, Error> {
        // It becomes a part of a path below.
        if domain.is_empty() || domain.starts_with('.') || domain.contains(['/', '\0']) {
            return Err(Error::Domain(domain.to_owned()));
        }
        let mut drafts = match directory::find(&self.directories, domain)? {
            Some(directory) => load(&directory)?,
            None => vec![Draft::default()],
        };
        if let Some(last) = drafts.last_mut().filter(|last| last.host.authority.is_empty()) {
            self.complete(last, domain)?;
        }
        Ok(drafts.into_iter().map(|draft| self.finish(draft, domain)).collect())
    }

    /// Makes the registry itself of a host that no file names.
    fn complete(&self, draft: &mut Draft, domain: &str) -> Result<(), Error> {
        let port = split_port(domain).1;
        let scheme = match self.default_scheme.as_deref() {
            _ if domain == DEFAULT_DOMAIN => "https",
            Some(scheme @ ("http" | "https")) => scheme,
            Some(other) => return Err(Error::Scheme(other.to_owned())),
            None if is_local(domain) => {
                if port != "80" {
                    draft.skip_verify.get_or_insert(true);
                }
                if matches!(port, "" | "443") { "https" } else { "http" }
            }
            None => "https",
        };
        draft.host.scheme = scheme.to_owned();
        let authority = if domain == DEFAULT_DOMAIN { DEFAULT_SERVER } else { domain };
        draft.host.authority = authority.to_owned();
        draft.host.path = API.to_owned();
        draft.host.capabilities = Capabilities::ALL;
        Ok(())
    }

    fn finish(&self, draft: Draft, domain: &str) -> Host {
        let Draft { mut host, skip_verify } = draft;
        let own = !host.tls.ca.is_empty() || !host.tls.client.is_empty() || skip_verify.is_some();
        if let Some(common) = &self.default_tls {
            host.tls.ca.splice(0..0, common.ca.iter().cloned());
            host.tls.client.splice(0..0, common.client.iter().cloned());
        }
        let common = self.default_tls.as_ref().is_some_and(|tls| tls.skip_verify);
        host.tls.skip_verify = skip_verify.unwrap_or(common);
        // Who configures TLS for a host that is said to speak http wants it,
        // if it is there.
        let safe = own || self.default_tls.is_some();
        if host.scheme == "http" && safe && split_port(&host.authority).1 != "80" {
            host.scheme = "https".to_owned();
            host.http_fallback = true;
        }
        let default = domain == DEFAULT_DOMAIN && host.authority == DEFAULT_SERVER;
        host.is_mirror = host.authority != domain && !default;
        host
    }
}

fn load(directory: &Path) -> Result<Vec<Draft>, Error> {
    let path = directory.join(FILE);
    match directory::read(&path)? {
        // Docker's files count only where there is no other.
        None => Ok(vec![certificates::load(directory)?]),
        Some(text) => {
            let (drafts, warnings) = file::parse(&path, &text)?;
            for warning in warnings {
                log::warn!("{warning}");
            }
            Ok(drafts)
        }
    }
}

/// A host and its port, which is empty where there is none.
fn split_port(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        Some((host, port))
            if !port.contains(']') && (!host.contains(':') || host.ends_with(']')) =>
        {
            (host, port)
        }
        _ => (authority, ""),
    }
}

/// Whether a host is this machine (containerd's `MatchLocalhost`).
fn is_local(authority: &str) -> bool {
    let host = split_port(authority).0;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let address: Result<IpAddr, _> = bare.parse();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
