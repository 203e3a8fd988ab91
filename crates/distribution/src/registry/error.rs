//! What can go wrong with a registry. The texts are containerd's
//! (`core/remotes/docker`), because clients match them. No text holds a
//! credential, and URLs are printed without what may be a signature.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use davit_types::{Digest, ErrorKind, Kind};

use super::failure::Failure;
use super::message::Messages;
use crate::credentials;

/// A failed operation on a registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No host may be asked for this (`resolve`, `pull`, `push`).
    #[error("no {0} hosts: not found")]
    NoHosts(&'static str),
    /// No host has it.
    #[error("{0}: not found")]
    NotFound(String),
    /// The registry answered, and not what we hoped for.
    #[error(transparent)]
    Status(Box<Status>),
    /// The registry does not accept who we are.
    #[error("{0}")]
    Unauthorized(String),
    /// The registry does not let us, whoever we are.
    #[error("{0} access denied, repository does not exist or may require authorization")]
    Denied(&'static str, #[source] Box<Error>),
    /// A token could not be had.
    #[error("failed to authorize: failed to fetch {kind} token")]
    Token {
        /// `anonymous` or `oauth`.
        kind: &'static str,
        /// Why not.
        #[source]
        source: Box<Error>,
    },
    /// The credentials could not be had.
    #[error(transparent)]
    Credentials(#[from] credentials::Error),
    /// No answer, or only a part of one.
    #[error("failed to do request: {method} {url:?}")]
    Request {
        /// As Go writes it: `Head`.
        method: &'static str,
        /// What was asked.
        url: String,
        /// Why not.
        #[source]
        source: Failure,
    },
    /// An answer that no registry should give.
    #[error("unexpected answer from {url}: {what}")]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        what: String,
    },
    /// The bytes are fewer or more than promised.
    #[error("unexpected commit size {actual}, expected {expected}: failed precondition")]
    Size {
        /// What came, or would have come.
        actual: u64,
        /// What was promised.
        expected: u64,
    },
    /// The bytes are others than promised.
    #[error("unexpected commit digest {actual}, expected {expected}: failed precondition")]
    Digest {
        /// What came.
        actual: Digest,
        /// What was promised.
        expected: Digest,
    },
    /// Larger than we take into memory.
    #[error("rejecting {size} byte manifest for {what}: not found")]
    TooLarge {
        /// Its size.
        size: u64,
        /// What was asked for.
        what: String,
    },
    /// How we are to speak with a host makes no sense.
    #[error("host {host}: {reason}: invalid argument")]
    Host {
        /// Which.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// The proxies that the environment names make no sense.
    #[error("{0}: invalid argument")]
    Proxies(String),
    /// A certificate or key of ours cannot be read.
    #[error("read {}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The manifest is there, and the list that it belongs to is not as it
    /// should be.
    #[error("add to the list of what refers to {subject}")]
    Referrers {
        /// What the manifest is about.
        subject: Digest,
        /// Why not.
        #[source]
        source: Box<Error>,
    },
    /// What is to be pushed cannot be read.
    #[error("read content {digest}")]
    Source {
        /// Of the content.
        digest: Digest,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// An answer with a status that means no.
#[derive(Debug)]
pub struct Status {
    /// `HEAD`
    pub method: String,
    /// Without its signature.
    pub url: String,
    /// `404`
    pub code: u16,
    /// `Not Found`
    pub reason: String,
    /// How long the server asks us to wait.
    pub retry_after: Option<Duration>,
    /// What the server says of it.
    pub messages: Messages,
    /// When it came.
    pub(crate) received: SystemTime,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, url, code, reason, .. } = self;
        write!(f, "unexpected status from {method} request to {url}: {code} {reason}")?;
        let until = self.retry_after.and_then(|wait| self.received.checked_add(wait));
        if let Some(until) = until.and_then(|until| jiff::Timestamp::try_from(until).ok()) {
            write!(f, " (Retry-After: {})", until.strftime("%Y-%m-%dT%H:%M:%SZ"))?;
        }
        if self.messages.is_empty() { Ok(()) } else { write!(f, "\n{}", self.messages) }
    }
}

impl std::error::Error for Status {}

impl Error {
    /// The HTTP status behind it, if there is one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(status.code),
            Self::NotFound(_) => Some(404),
            Self::Denied(_, source)
            | Self::Token { source, .. }
            | Self::Referrers { source, .. } => source.status(),
            _ => None,
        }
    }

    /// Whether the same request can work a little later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status.code, 408 | 429 | 500 | 502 | 503 | 504),
            Self::Request { source, .. } => source.is_temporary(),
            Self::Token { source, .. } | Self::Referrers { source, .. } => source.is_temporary(),
            _ => false,
        }
    }

    /// How long the server asks us to wait before the next attempt.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status(status) => status.retry_after,
            Self::Token { source, .. } | Self::Referrers { source, .. } => source.retry_after(),
            _ => None,
        }
    }

    /// Whether the host could not be reached at all, as far as we know.
    pub(crate) fn is_unreachable(&self) -> bool {
        match self {
            Self::Request { source, .. } => source.is_unreachable(),
            _ => false,
        }
    }

    /// Whether the host is likely to be dead or slow for a while. A connection
    /// that breaks is no sign of that.
    pub(crate) fn is_bad_sign(&self) -> bool {
        match self {
            Self::Request { source: Failure::Timeout(_), .. } => true,
            _ => self.is_unreachable(),
        }
    }

    /// Which of several hosts' errors is told: what got furthest (containerd,
    /// `core/remotes/docker/resolver.go`).
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::TooLarge { .. } => 4,
            Self::Digest { .. } | Self::Size { .. } | Self::Answer { .. } => 4,
            Self::Status(_) => 3,
            Self::NotFound(_) => 2,
            _ => 1,
        }
    }
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoHosts(_) | Self::NotFound(_) | Self::TooLarge { .. } => ErrorKind::NotFound,
            Self::Size { .. } | Self::Digest { .. } => ErrorKind::FailedPrecondition,
            Self::Host { .. } | Self::Proxies(_) => ErrorKind::InvalidArgument,
            Self::Source { source, .. } => ErrorKind::of_io(source),
            // containerd has no kind for any of these.
            _ => ErrorKind::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, retry_after: Option<Duration>, body: &[u8]) -> Error {
        Error::Status(Box::new(Status {
            method: "HEAD".into(),
            url: "https://r/v2/a/manifests/b".into(),
            code,
            reason: "Some Reason".into(),
            retry_after,
            messages: Messages::parse(body),
            received: SystemTime::UNIX_EPOCH,
        }))
    }

    #[test]
    fn texts_are_containerds() {
        let plain = "unexpected status from HEAD request to https://r/v2/a/manifests/b: \
                     500 Some Reason";
        assert_eq!(status(500, None, b"<html>").full_message(), plain);
        let wait = Some(Duration::from_secs(61));
        let text = status(429, wait, b"").full_message();
        assert!(text.ends_with(" (Retry-After: 1970-01-01T00:01:01Z)"), "{text}");
        let body = br#"{"errors":[{"code":"DENIED","message":"no"}]}"#;
        let text = status(403, None, body).full_message();
        assert!(text.ends_with(": 403 Some Reason\ndenied: no"), "{text}");
        let inner = Error::Unauthorized("server message: x: authorization failed".into());
        assert_eq!(
            Error::Denied("pull", Box::new(inner)).full_message(),
            "pull access denied, repository does not exist or may require authorization: \
             server message: x: authorization failed"
        );
    }

    #[test]
    fn only_what_can_pass_is_temporary() {
        for (code, temporary) in
            [(400, false), (401, false), (404, false), (429, true), (501, false), (502, true)]
        {
            assert_eq!(status(code, None, b"").is_temporary(), temporary, "{code}");
        }
    }
}
