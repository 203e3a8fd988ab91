//! Names of images in registries: `registry.example:5000/team/app:2@sha256:…`.
//!
//! Two grammars are in use. What people type is docker's
//! (`distribution/reference`): host, `library/` and tag may be left out.
//! What images are called in a daemon, and what is asked of a registry, is
//! containerd's (`pkg/reference`): the host must be there. A [`Reference`] is
//! the result of either. It is safe to put into the path of a URL and to name
//! a directory with, which containerd's own is not.

use std::fmt;

use crate::{Algorithm, Digest, ErrorKind, Kind};

mod grammar;

/// The host that names without one are on.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag of names without one.
pub const DEFAULT_TAG: &str = "latest";
/// The former name of [`DEFAULT_DOMAIN`].
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Where docker's official images are, below [`DEFAULT_DOMAIN`].
const OFFICIAL: &str = "library/";
/// A path may have this many bytes (`RepositoryNameTotalLengthMax`).
pub const MAX_PATH: usize = 255;

/// Where an image is: a repository on a host, and what is meant there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A string that is no reference. The texts are docker's and containerd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// It looks like the id of an image.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// Upper-case letters in a repository's name.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    UpperCase(String),
    /// The path is over [`MAX_PATH`].
    #[error("repository name must not be more than {MAX_PATH} characters")]
    TooLong,
    /// It does not follow docker's grammar.
    #[error("invalid reference format")]
    Format,
    /// What stands behind the `@` is no digest.
    #[error("invalid checksum digest format")]
    Digest,
    /// Or has not as many digits as it must.
    #[error("invalid checksum digest length")]
    DigestLength,
    /// Or is of a hash function that nobody knows here.
    #[error("unsupported digest algorithm")]
    DigestAlgorithm,
    /// It does not follow containerd's grammar.
    #[error("invalid reference")]
    Invalid,
    /// The host's port is no number. `alpine:3` comes to this where the host
    /// must be there.
    #[error("parse {0:?}: invalid port {1:?} after host")]
    Port(String, String),
    /// Nothing stands before the first `/`.
    #[error("hostname required")]
    HostRequired,
    /// There is neither a tag nor a digest.
    #[error("object required")]
    ObjectRequired,
}

impl Kind for InvalidReference {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

impl Reference {
    /// Reads what people type, as docker does (`ParseNormalizedNamed` and
    /// `TagNameOnly`): `busybox` is `docker.io/library/busybox:latest`.
    ///
    /// # Errors
    /// Docker's, in its words. A host that is no host is refused, where docker
    /// takes it for a part of the path.
    pub fn parse_familiar(name: &str) -> Result<Self, InvalidReference> {
        if grammar::is_identifier(name) {
            return Err(InvalidReference::LooksLikeId(name.to_owned()));
        }
        let (domain, remainder) = split_domain(name);
        let remote = remainder.split(':').next().unwrap_or_default();
        if remote.to_lowercase() != remote {
            return Err(InvalidReference::UpperCase(remote.to_owned()));
        }
        let (left, digest) = match remainder.split_once('@') {
            Some((left, digest)) if grammar::is_digest(digest) => (left, Some(digest)),
            Some(_) => return Err(InvalidReference::Format),
            None => (remainder.as_str(), None),
        };
        let (path, tag) = match left.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (left, None),
        };
        if !grammar::is_domain(domain)
            || !grammar::is_path(path)
            || !tag.is_none_or(grammar::is_tag)
        {
            return Err(InvalidReference::Format);
        }
        if path.len() > MAX_PATH {
            return Err(InvalidReference::TooLong);
        }
        let digest = digest.map(parse_digest).transpose()?;
        let tag = tag.or(if digest.is_none() { Some(DEFAULT_TAG) } else { None });
        let (domain, path) = (domain.to_owned(), path.to_owned());
        Ok(Self { domain, path, tag: tag.map(str::to_owned), digest })
    }

    /// Reads a name that says its host, as containerd does (`reference.Parse`).
    /// Empty parts of the path and those that are `.` are left out.
    ///
    /// # Errors
    /// containerd's, in its words. What containerd would put into URLs and
    /// paths as it is (spaces, `?`, `%`, a host `..`), and digests that are
    /// none, are refused here already.
    pub fn parse(name: &str) -> Result<Self, InvalidReference> {
        if name.contains("://") {
            return Err(InvalidReference::Invalid);
        }
        let (domain, rest) = name.split_once('/').unwrap_or((name, ""));
        if domain.is_empty() {
            return Err(InvalidReference::HostRequired);
        }
        check_host(name, domain)?;
        let (path, object) = match rest.find([':', '@']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let path = clean(path)?;
        let object = object.strip_prefix(':').unwrap_or(object);
        let (tag, digest) = match object.split_once('@') {
            Some((tag, digest)) => (tag, Some(digest)),
            None => (object, None),
        };
        let digest = digest.map(parse_digest).transpose()?;
        let tag = Some(tag).filter(|tag| !tag.is_empty());
        if !tag.is_none_or(grammar::is_tag) {
            return Err(InvalidReference::Invalid);
        }
        if path.is_empty() {
            let nothing = tag.is_none() && digest.is_none();
            let object = InvalidReference::ObjectRequired;
            return Err(if nothing { object } else { InvalidReference::Invalid });
        }
        if path.len() > MAX_PATH {
            return Err(InvalidReference::TooLong);
        }
        Ok(Self { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }

    /// The host, with its port where that is given: `docker.io`. Which server
    /// that is, hosts files say.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository on its host: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Host and repository: `docker.io/library/busybox`.
    pub fn locator(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// What stands behind the repository, as containerd's `Spec.Object`:
    /// `1`, `@sha256:…`, `1@sha256:…` or nothing.
    pub fn object(&self) -> String {
        let tag = self.tag.as_deref().unwrap_or_default();
        match &self.digest {
            Some(digest) => format!("{tag}@{digest}"),
            None => tag.to_owned(),
        }
    }

    /// What a registry is asked for: the digest, which says more than a tag,
    /// or the tag.
    ///
    /// # Errors
    /// [`InvalidReference::ObjectRequired`] when there is neither.
    pub fn version(&self) -> Result<&str, InvalidReference> {
        let digest = self.digest.as_ref().map(Digest::as_str);
        digest.or(self.tag.as_deref()).ok_or(InvalidReference::ObjectRequired)
    }

    /// The same without its tag where it has a digest (`ParseDockerRef`).
    pub fn without_needless_tag(self) -> Self {
        let tag = self.tag.filter(|_| self.digest.is_none());
        Self { tag, ..self }
    }

    /// Another version in the same repository, by its digest alone.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// As people type it: without the host and the `library/` that docker
    /// takes for granted; with them where docker would take what is left for
    /// another name.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        if self.domain != DEFAULT_DOMAIN {
            return full;
        }
        let short = &full[DEFAULT_DOMAIN.len() + 1..];
        let official = self.path.strip_prefix(OFFICIAL).filter(|rest| !rest.contains('/'));
        let short = if official.is_some() { &short[OFFICIAL.len()..] } else { short };
        let same = |meant: Self| meant.domain == self.domain && meant.path == self.path;
        if Self::parse_familiar(short).is_ok_and(same) { short.to_owned() } else { full }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// Docker's guess at what is a host and what is not (`splitDockerDomain`).
fn split_domain(name: &str) -> (&str, String) {
    let Some((first, rest)) = name.split_once('/') else {
        return (DEFAULT_DOMAIN, format!("{OFFICIAL}{name}"));
    };
    let is_host =
        first == "localhost" || first.contains(['.', ':']) || first.to_lowercase() != first;
    let (domain, remainder) = match first {
        LEGACY_DOMAIN => (DEFAULT_DOMAIN, rest),
        _ if is_host => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        return (domain, format!("{OFFICIAL}{remainder}"));
    }
    (domain, remainder.to_owned())
}

fn check_host(name: &str, domain: &str) -> Result<(), InvalidReference> {
    let port_at = match domain.rfind(']') {
        Some(bracket) => bracket + 1,
        None => domain.rfind(':').unwrap_or(domain.len()),
    };
    let (host, port) = domain.split_at(port_at);
    if host.is_empty() {
        return Err(InvalidReference::HostRequired);
    }
    if !port.is_empty() && !grammar::is_port(port) {
        return Err(InvalidReference::Port(format!("dummy://{name}"), port.to_owned()));
    }
    if grammar::is_host(host, true) { Ok(()) } else { Err(InvalidReference::Invalid) }
}

/// Reads a digest; errors are those of `go-digest`.
fn parse_digest(text: &str) -> Result<Digest, InvalidReference> {
    let known = [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512];
    text.parse().map_err(|_| match text.split_once(':') {
        None | Some(("", _)) | Some((_, "")) => InvalidReference::Digest,
        Some((name, hex)) => match known.iter().find(|known| known.as_str() == name) {
            Some(known) if known.hex_length() == hex.len() => InvalidReference::Digest,
            Some(_) => InvalidReference::DigestLength,
            None if grammar::is_foreign_digest(name, hex) => InvalidReference::DigestAlgorithm,
            None => InvalidReference::Digest,
        },
    })
}

/// Go's `path.Join`, of a path that must not lead upwards.
fn clean(path: &str) -> Result<String, InvalidReference> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let fine = |part: &&str| *part != ".." && part.bytes().all(grammar::is_path_byte);
    if parts.iter().all(fine) { Ok(parts.join("/")) } else { Err(InvalidReference::Invalid) }
}

#[cfg(test)]
mod tests;
