//! Who we are to a registry.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

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
}
