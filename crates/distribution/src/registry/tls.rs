//! Secure connections: whom we trust, and who we are.
//!
//! The system's authorities are read when the first secure connection is
//! made, and once.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{self, CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::Error;
use super::failure::Failure;
use crate::hosts::Tls;

/// How secure connections are made, once there is one to make. A registry
/// that is spoken to in the clear needs nobody's certificates.
pub(crate) struct Lazy {
    tls: Tls,
    made: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl Lazy {
    /// As `tls` says.
    ///
    /// # Errors
    /// [`Error::Certificate`] for a file that cannot be read.
    pub fn new(tls: Tls) -> Result<Arc<Self>, Error> {
        let made = OnceLock::new();
        if !tls.ca.is_empty() || !tls.client.is_empty() {
            let config = config(&tls)?;
            made.get_or_init(|| Ok(config));
        }
        Ok(Arc::new(Self { tls, made }))
    }

    /// The configuration.
    ///
    /// # Errors
    /// [`Failure::Tls`].
    pub fn get(&self) -> Result<Arc<ClientConfig>, Failure> {
        let made = self.made.get_or_init(|| config(&self.tls).map_err(|error| error.to_string()));
        made.clone().map_err(Failure::Tls)
    }
}

fn config(tls: &Tls) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(Path::new("TLS"), &error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier(tls, provider)?);
    // One certificate is what a server asks for; containerd, too, offers the
    // first that suits.
    let config = match tls.client.first() {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = key.as_ref().unwrap_or(certificate);
            let chain = certificates(certificate)?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| unusable(key, &e))?;
            builder.with_client_auth_cert(chain, secret).map_err(|e| unusable(certificate, &e))?
        }
    };
    Ok(Arc::new(config))
}

fn verifier(
    tls: &Tls,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let algorithms = provider.signature_verification_algorithms;
    if tls.skip_verify {
        return Ok(Arc::new(Blind { takes_any: true, algorithms }));
    }
    let mut roots = RootCertStore { roots: system_roots().to_vec() };
    let mut named = Vec::new();
    for path in &tls.ca {
        for certificate in certificates(path)? {
            roots.add(certificate.clone()).map_err(|error| unusable(path, &error))?;
            named.push(certificate);
        }
    }
    if roots.is_empty() {
        return Ok(Arc::new(Blind { takes_any: false, algorithms }));
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| unusable(Path::new("CA"), &error))?;
    Ok(Arc::new(Named { inner, named }))
}

/// The system's authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` say where).
fn system_roots() -> &'static [rustls::pki_types::TrustAnchor<'static>] {
    static ROOTS: OnceLock<Vec<rustls::pki_types::TrustAnchor<'static>>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            log::warn!(error:% = error; "read the system's certificates");
        }
        let mut store = RootCertStore::empty();
        // Some systems list certificates that are none.
        store.add_parsable_certificates(found.certs);
        store.roots
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    let found = found.map_err(|error| unusable(path, &error))?;
    if found.is_empty() {
        return Err(unusable(path, &"no certificate in it"));
    }
    Ok(found)
}

fn unusable(path: &Path, reason: &dyn fmt::Display) -> Error {
    Error::Certificate { path: path.to_owned(), reason: reason.to_string() }
}

/// Trusts authorities, and certificates that the configuration names
/// themselves: those that people make for one registry are often marked as an
/// authority's, which no server's may be, and Go does not mind.
#[derive(Debug)]
struct Named {
    inner: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.inner.verify_server_cert(certificate, chain, name, ocsp, now);
        match verdict {
            // An authority's certificate where a server's should be.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.named.iter().any(|named| named == certificate) =>
            {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Looks at no certificate: takes any, as `skip_verify` says, or none, where
/// this system knows no authority.
#[derive(Debug)]
struct Blind {
    takes_any: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Blind {
    /// Whether it does not matter who signs, either. Certificates of version 1
    /// (`openssl x509 -req` makes them) cannot be read here, so that nobody
    /// knows whose the signature should be; Go reads them.
    fn takes_signature(&self, certificate: &CertificateDer<'_>) -> bool {
        self.takes_any && ParsedCertificate::try_from(certificate).is_err()
    }
}

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.takes_any {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.takes_signature(certificate) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.takes_signature(certificate) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
