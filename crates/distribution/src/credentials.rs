//! Who we are to a registry.
//!
//! Nothing here prints or logs a secret, also not as a part of what is wrong
//! with the file that it is in.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;

use davit_types::reference::DEFAULT_DOMAIN;
use davit_types::{ErrorKind, Kind};

mod docker;
mod file;
mod helper;

pub use docker::Docker;

/// The servers that docker.io is known as.
const HUB: [&str; 3] = ["index.docker.io", DEFAULT_DOMAIN, "registry-1.docker.io"];

/// What proves who we are. Its `Debug` form holds no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A name and a password.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// An OAuth 2 refresh token (docker's "identity token").
    Refresh(String),
    /// A token that goes into the header as it is (docker's "registry token").
    Bearer(String),
    /// The whole value of the `Authorization` header.
    Header(String),
}

impl Login {
    /// A name and a secret, as docker and containerd hand them on: without a
    /// name, or with the name `<token>`, the secret is a refresh token. `None`
    /// where there is neither.
    pub fn of(username: &str, secret: &str) -> Option<Self> {
        match (username, secret) {
            ("", "") => None,
            ("" | "<token>", secret) => Some(Self::Refresh(secret.to_owned())),
            (username, secret) => {
                Some(Self::Basic { username: username.to_owned(), password: secret.to_owned() })
            }
        }
    }

    /// What `--user` says: `NAME:PASSWORD`.
    pub fn of_user(text: &str) -> Option<Self> {
        let (username, secret) = text.split_once(':').unwrap_or((text, ""));
        Self::of(username, secret)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic",
            Self::Refresh(_) => "Refresh",
            Self::Bearer(_) => "Bearer",
            Self::Header(_) => "Header",
        })
    }
}

/// The answer of [`Credentials::login`], when it comes.
pub type Pending<'a> = Pin<Box<dyn Future<Output = Result<Option<Login>, Error>> + Send + 'a>>;

/// Knows who we are to which host.
pub trait Credentials: Send + Sync {
    /// Asked when `host` (`registry:5000`) has refused a request with
    /// `challenges`, the values of its `WWW-Authenticate` headers. `None`
    /// means that we are nobody there.
    fn login<'a>(&'a self, host: &'a str, challenges: &'a [String]) -> Pending<'a>;
}

/// Nobody, everywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl Credentials for Anonymous {
    fn login<'a>(&'a self, _host: &'a str, _challenges: &'a [String]) -> Pending<'a> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// One login for one registry, such as `--user` gives. It is told to the
/// registry alone, and not to its mirrors.
#[derive(Clone, Debug)]
pub struct Static {
    host: String,
    login: Login,
}

impl Static {
    /// `login` for the registry `domain` (`docker.io`, `registry:5000`).
    pub fn new(domain: impl Into<String>, login: Login) -> Self {
        Self { host: domain.into(), login }
    }
}

impl Credentials for Static {
    fn login<'a>(&'a self, host: &'a str, _challenges: &'a [String]) -> Pending<'a> {
        let is_hub = |host: &str| HUB.contains(&host);
        let same = self.host == host || (is_hub(&self.host) && is_hub(host));
        Box::pin(std::future::ready(Ok(same.then(|| self.login.clone()))))
    }
}

/// Why credentials could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Who was asked could not answer.
    #[error("credentials for {host}: {reason}")]
    Failed {
        /// For which host.
        host: String,
        /// In words.
        reason: String,
    },
    /// A file that cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file that is not as docker writes it. What stands there is not shown.
    #[error("{}:{line}:{column}: not as docker writes it", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// From one.
        line: usize,
        /// From one.
        column: usize,
    },
    /// A login in a file that is none.
    #[error("{}: the login for {host:?} is not NAME:PASSWORD in base64", path.display())]
    Auth {
        /// The file.
        path: PathBuf,
        /// For which host.
        host: String,
    },
    /// A helper that cannot be one.
    #[error("{}: {name:?} is no name of a credential helper", path.display())]
    Helper {
        /// The file that names it.
        path: PathBuf,
        /// The name.
        name: String,
    },
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Failed { .. } => ErrorKind::Unknown,
            Self::Read { source, .. } => ErrorKind::of_io(source),
            Self::Wrong { .. } | Self::Auth { .. } | Self::Helper { .. } => {
                ErrorKind::InvalidArgument
            }
        }
    }
}

#[cfg(test)]
mod tests;
