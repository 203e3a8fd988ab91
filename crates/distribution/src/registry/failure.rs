//! Why there was no answer: from the name's look-up to the last byte. The
//! texts are those of Go's network library, which people search for and some
//! clients match.

use std::error::Error as StdError;
use std::io;

use rustls::CertificateError;

/// A request that was not answered, or not wholly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The name leads nowhere.
    #[error("dial tcp: lookup {host}: no such host")]
    Lookup {
        /// The name.
        host: String,
    },
    /// Nobody answers there.
    #[error("dial tcp {address}: {reason}")]
    Connect {
        /// Name or address, with the port.
        address: String,
        /// In words.
        reason: String,
    },
    /// The proxy does not let us through.
    #[error("proxyconnect tcp: {0}")]
    Proxy(String),
    /// No secure connection can be made.
    #[error("tls: {0}")]
    Tls(String),
    /// Not TLS, what speaks there.
    #[error("http: server gave HTTP response to HTTPS client")]
    NotTls,
    /// Nothing came for too long.
    #[error("timeout: {0}")]
    Timeout(&'static str),
    /// The connection broke.
    #[error("{0}")]
    Broken(String),
}

impl Failure {
    /// Whether another attempt can work.
    pub fn is_temporary(&self) -> bool {
        !matches!(self, Self::Tls(_) | Self::NotTls)
    }

    /// Whether the server was not even reached.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Lookup { .. }
                | Self::Connect { .. }
                | Self::Proxy(_)
                | Self::Tls(_)
                | Self::NotTls
        )
    }

    /// What the HTTP library's error stands for.
    pub(crate) fn of(error: &(dyn StdError + 'static)) -> Self {
        let mut next = Some(error);
        let mut deepest = error;
        while let Some(error) = next {
            if let Some(failure) = error.downcast_ref::<Self>() {
                return failure.clone();
            }
            if let Some(failure) = error.downcast_ref::<io::Error>().and_then(Self::of_wrapped) {
                return failure;
            }
            if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message)
            {
                return Self::Broken("unexpected EOF".to_owned());
            }
            deepest = error;
            next = error.source();
        }
        Self::Broken(deepest.to_string())
    }

    /// An I/O error that is another error in disguise, or one that Go words
    /// differently.
    fn of_wrapped(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref();
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(Self::of_tls(tls));
        }
        if let Some(failure) = inner.and_then(|inner| inner.downcast_ref::<Self>()) {
            return Some(failure.clone());
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Some(Self::Broken("unexpected EOF".to_owned())),
            _ if error.raw_os_error().is_some() => Some(Self::Broken(reason(error))),
            _ => None,
        }
    }

    /// What a failed handshake stands for.
    pub(crate) fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
                Self::NotTls
            }
            rustls::Error::InvalidCertificate(why) => {
                Self::Tls(format!("failed to verify certificate: x509: {}", certificate(why)))
            }
            other => Self::Tls(other.to_string()),
        }
    }
}

/// What is wrong with a certificate, in Go's words where it has some.
fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => "certificate signed by unknown authority".into(),
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "certificate has expired or is not yet valid".into()
        }
        CertificateError::NotValidForName => "certificate is not valid for this name".into(),
        CertificateError::NotValidForNameContext { expected, .. } => {
            format!("certificate is not valid for {}", expected.to_str())
        }
        other => other.to_string(),
    }
}

/// An error of the operating system, without its number and in Go's lower
/// case: `connection refused`.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_found_wherever_they_hide() {
        let refused = Failure::Connect { address: "h:1".into(), reason: "x".into() };
        let outer = io::Error::other(refused.clone());
        assert_eq!(Failure::of(&outer), refused);
        let tls = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let text = Failure::of(&io::Error::new(io::ErrorKind::InvalidData, tls)).to_string();
        assert_eq!(
            text,
            "tls: failed to verify certificate: x509: certificate signed by unknown authority"
        );
        let reset = io::Error::from_raw_os_error(104);
        assert_eq!(Failure::of(&reset).to_string(), "connection reset by peer");
        let eof = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(Failure::of(&eof).to_string(), "unexpected EOF");
    }

    #[test]
    fn a_bad_certificate_does_not_get_better() {
        assert!(!Failure::Tls("x".into()).is_temporary());
        assert!(!Failure::NotTls.is_temporary());
        assert!(Failure::Timeout("x").is_temporary());
        assert!(Failure::Lookup { host: "h".into() }.is_temporary());
    }
}
