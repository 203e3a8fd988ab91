//! The registry client against servers that misbehave in every way that we
//! know of, and against a real registry.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod auth;
mod download;
mod listing;
mod proxies;
mod push;
mod real;
mod redirects;
mod referrers;
mod resolve;
mod server;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use davit_content::digest;
use davit_distribution::credentials::{Anonymous, Credentials, Error, Login, Pending};
use davit_distribution::hosts::{Capabilities, Host};
use davit_distribution::registry::{Access, Registry, Repository, Settings};
use davit_types::{Algorithm, Descriptor, Labels, Reference};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Settings with short pauses, but time enough on a busy machine.
fn quick() -> Settings {
    let (backoff, backoff_limit) = (Duration::from_millis(5), Duration::from_millis(20));
    let mirror_connect_timeout = Duration::from_secs(10);
    Settings { backoff, backoff_limit, mirror_connect_timeout, ..Settings::default() }
}

/// Settings for a server that stalls.
fn impatient() -> Settings {
    Settings { stall_timeout: Duration::from_millis(400), ..quick() }
}

/// Settings for a mirror that stalls.
fn hasty() -> Settings {
    Settings { mirror_timeout: Duration::from_millis(200), ..quick() }
}

fn registry(settings: Settings) -> Registry {
    Registry::new(settings)
}

fn host(authority: &str) -> Host {
    Host {
        scheme: "http".into(),
        authority: authority.into(),
        path: "/v2".into(),
        capabilities: Capabilities::ALL,
        ..Host::default()
    }
}

fn mirror(authority: &str) -> Host {
    let capabilities = Capabilities { push: false, ..Capabilities::ALL };
    Host { is_mirror: true, capabilities, ..host(authority) }
}

fn access(hosts: impl IntoIterator<Item = Host>) -> Access {
    let hosts = hosts.into_iter().collect();
    Access { hosts, credentials: Arc::new(Anonymous), headers: Vec::new(), record: None }
}

/// `registry.test/team/app:1` on these hosts.
fn on(hosts: impl IntoIterator<Item = Host>) -> Repository {
    open(&registry(quick()), "registry.test/team/app:1", access(hosts))
}

fn open(registry: &Registry, name: &str, access: Access) -> Repository {
    registry.repository(&Reference::parse(name).unwrap(), access).unwrap()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: digest(Algorithm::Sha256, bytes),
        size: bytes.len() as u64,
        annotations: Labels::default(),
    }
}

/// Bytes of which no two stretches are the same.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Reads a download to its end.
async fn read(
    repository: &Repository,
    blob: &Descriptor,
    from: u64,
) -> Result<Vec<u8>, davit_distribution::registry::Error> {
    let mut download = repository.download(blob, from).await?;
    let mut all = Vec::new();
    while let Some(piece) = download.next().await? {
        all.extend_from_slice(&piece);
        assert_eq!(download.offset(), from + all.len() as u64);
    }
    assert_eq!(download.next().await.unwrap(), None);
    Ok(all)
}

/// The same login for one host, and none for any other.
struct Known(String, Login);

impl Credentials for Known {
    fn login<'a>(&'a self, host: &'a str, _challenges: &'a [String]) -> Pending<'a> {
        let login = (host == self.0).then(|| self.1.clone());
        Box::pin(std::future::ready(Ok(login)))
    }
}

/// The same login for whoever asks, as some clients give it.
struct Careless(Login);

impl Credentials for Careless {
    fn login<'a>(&'a self, _host: &'a str, _challenges: &'a [String]) -> Pending<'a> {
        Box::pin(std::future::ready(Ok(Some(self.0.clone()))))
    }
}

/// Cannot say.
struct Broken;

impl Credentials for Broken {
    fn login<'a>(&'a self, host: &'a str, _challenges: &'a [String]) -> Pending<'a> {
        let (host, reason) = (host.to_owned(), "the helper is gone".to_owned());
        Box::pin(std::future::ready(Err(Error::Failed { host, reason })))
    }
}

fn basic() -> Login {
    Login::Basic { username: "user".into(), password: "s3cr3t".into() }
}

/// The whole text of an error.
fn text(error: &davit_distribution::registry::Error) -> String {
    davit_types::Kind::full_message(error)
}
