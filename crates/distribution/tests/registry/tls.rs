//! Certificates: whose are taken, and ours.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use davit_distribution::hosts::{Host, Tls};
use davit_distribution::registry::Repository;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, crypto};
use tokio_rustls::TlsAcceptor;

use crate::server::{Reply, Server};
use crate::{descriptor, host, on, text};

/// A certificate and its key.
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
    _directory: tempfile::TempDir,
}

impl Identity {
    /// For 127.0.0.1 and `name`, signed by itself, as people make them for one
    /// registry.
    pub fn new(name: &str) -> Self {
        Self::make(name, &[])
    }

    /// For 127.0.0.1 and `name`, signed by this one.
    pub fn issue(&self, name: &str) -> Self {
        let (ca, key) = (self.certificate.as_os_str(), self.key.as_os_str());
        let constraint = "basicConstraints=critical,CA:FALSE";
        let options = ["-CA".as_ref(), ca, "-CAkey".as_ref(), key];
        Self::make(name, &[&options[..], &["-addext".as_ref(), constraint.as_ref()]].concat())
    }

    /// In version 1, which has no place for names.
    fn old() -> Self {
        let new = Self::new("a.test");
        let csr = new.key.with_extension("csr");
        let signed = Command::new("openssl")
            .args(["req", "-new", "-subj", "/CN=test", "-key"])
            .arg(&new.key)
            .arg("-out")
            .arg(&csr)
            .output()
            .expect("openssl is installed");
        assert!(signed.status.success());
        let made = Command::new("openssl")
            .args(["x509", "-req", "-days", "2", "-signkey"])
            .arg(&new.key)
            .arg("-in")
            .arg(&csr)
            .arg("-out")
            .arg(&new.certificate)
            .output()
            .expect("openssl is installed");
        assert!(made.status.success());
        new
    }

    fn make(name: &str, options: &[&std::ffi::OsStr]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (directory.path().join("crt"), directory.path().join("key"));
        let status = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=test", "-addext"])
            .arg(format!("subjectAltName=IP:127.0.0.1,DNS:{name}"))
            .args(options)
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .expect("openssl is installed")
            .status;
        assert!(status.success());
        Self { certificate, key, _directory: directory }
    }
}

fn chain(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
}

/// A server's side; with `client`, it lets nobody in without that certificate.
pub fn acceptor(identity: &Identity, client: Option<&Identity>) -> TlsAcceptor {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let mut roots = RootCertStore::empty();
            for certificate in chain(&client.certificate) {
                roots.add(certificate).unwrap();
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
    // Without a look at whether the certificate makes sense.
    let key = crypto::ring::sign::any_supported_type(&key).unwrap();
    let identity = CertifiedKey::new(chain(&identity.certificate), key);
    let config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    TlsAcceptor::from(Arc::new(config))
}

async fn server(identity: &Identity, client: Option<&Identity>) -> Server {
    Server::start_tls(Some(acceptor(identity, client)), |_| {
        let digest = descriptor("", b"{}").digest;
        Reply::ok("{}").with("Docker-Content-Digest", digest.as_str())
    })
    .await
}

fn secure(server: &Server, tls: Tls) -> Repository {
    on([Host { scheme: "https".into(), tls, ..host(&server.address) }])
}

#[tokio::test]
async fn a_certificate_that_the_configuration_names_is_taken() {
    let (identity, other) = (Identity::new("a.test"), Identity::new("b.test"));
    let server = server(&identity, None).await;
    let ca = |identity: &Identity| Tls { ca: vec![identity.certificate.clone()], ..Tls::default() };
    secure(&server, ca(&identity)).resolve().await.unwrap();
    secure(&server, Tls { skip_verify: true, ..Tls::default() }).resolve().await.unwrap();
    for tls in [Tls::default(), ca(&other)] {
        let error = secure(&server, tls).resolve().await.unwrap_err();
        let text = text(&error);
        assert!(text.contains("tls: failed to verify certificate: x509: "), "{text}");
        assert!(!error.is_temporary());
    }
}

#[tokio::test]
async fn a_certificate_of_version_1_is_taken_where_nobody_looks() {
    let identity = Identity::old();
    let server = server(&identity, None).await;
    secure(&server, Tls { skip_verify: true, ..Tls::default() }).resolve().await.unwrap();
    assert!(secure(&server, Tls::default()).resolve().await.is_err());
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not() {
    let identity = Identity::new("a.test");
    let server = server(&identity, None).await;
    let port = server.address.rsplit_once(':').unwrap().1;
    let authority = format!("localhost:{port}");
    let tls = Tls { ca: vec![identity.certificate.clone()], ..Tls::default() };
    let host = Host { scheme: "https".into(), tls, ..host(&authority) };
    let error = on([host]).resolve().await.unwrap_err();
    assert!(text(&error).contains("certificate is not valid for"), "{}", text(&error));
}

#[tokio::test]
async fn our_certificate_lets_us_in_and_goes_nowhere_else() {
    let (identity, authority) = (Identity::new("a.test"), Identity::new("authority.test"));
    let ours = authority.issue("us.test");
    let guarded = server(&identity, Some(&authority)).await;
    let tls = |client| Tls { ca: vec![identity.certificate.clone()], client, skip_verify: false };
    let client = vec![(ours.certificate.clone(), Some(ours.key.clone()))];
    secure(&guarded, tls(client.clone())).resolve().await.unwrap();
    assert!(secure(&guarded, tls(Vec::new())).resolve().await.is_err());

    let to = format!("https://{}/", guarded.address);
    let redirecting =
        Server::start_tls(Some(acceptor(&identity, None)), move |_| Reply::redirect(&to)).await;
    assert!(secure(&redirecting, tls(client)).resolve().await.is_err());
    assert_eq!(guarded.seen().len(), 1);
}

#[tokio::test]
async fn a_server_without_tls_is_told_apart() {
    let server = Server::start(|_| {
        let digest = descriptor("", b"{}").digest;
        Reply::ok("{}").with("Docker-Content-Digest", digest.as_str())
    })
    .await;
    let error = secure(&server, Tls::default()).resolve().await.unwrap_err();
    let expected = "http: server gave HTTP response to HTTPS client";
    assert!(text(&error).ends_with(expected), "{}", text(&error));
    let host = Host { scheme: "https".into(), http_fallback: true, ..host(&server.address) };
    on([host]).resolve().await.unwrap();
}

#[test]
fn a_file_that_is_no_certificate_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.crt");
    let reference = davit_types::Reference::parse("registry.test/a:1").unwrap();
    for content in [None, Some(""), Some("-----BEGIN CERTIFICATE-----\nAA\n")] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let tls = Tls { ca: vec![path.clone()], ..Tls::default() };
        let host = Host { tls, ..host("registry.test") };
        let error = crate::registry(crate::quick())
            .repository(&reference, crate::access([host]))
            .unwrap_err();
        assert!(text(&error).starts_with(&format!("read {}: ", path.display())), "{error}");
    }
}
