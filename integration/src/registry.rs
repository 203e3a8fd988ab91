//! Private registries: Debian's `docker-registry`, each with a port and a
//! directory of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::authority::Authority;
use crate::tokens::TokenServer;
use crate::{must, peers, wait_for};

/// Who may speak with every registry that wants to know: a name and a password.
pub const USER: (&str, &str) = ("davit", "open sesame");

/// The same for `htpasswd` files, whose passwords are bcrypt's.
const HTPASSWD: &str = "davit:$2y$05$davitdavitdavitdavitduOrBofcLzv1oUvcF8gJsuaaTIsk8RNbS\n";

/// What a registry asks of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Nothing.
    #[default]
    None,
    /// A name and a password, [`USER`].
    Basic,
    /// A token of a server that wants [`USER`]'s, but for pulls of
    /// repositories below `public/`.
    Token,
}

/// How it speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// HTTP.
    #[default]
    Plain,
    /// HTTPS, with a certificate of [`Registry::authority`]'s for `localhost`
    /// and 127.0.0.1.
    Tls,
    /// The same, and clients have to show a certificate of that authority's.
    MutualTls,
}

/// A running registry. Dropping it ends it and removes all that it keeps.
pub struct Registry {
    process: Child,
    directory: TempDir,
    address: SocketAddr,
    /// Who has signed its certificate, and could sign a client's.
    pub authority: Option<Authority>,
    /// Where its tokens come from.
    pub tokens: Option<TokenServer>,
}

impl Registry {
    /// Starts one that speaks plain HTTP with everybody.
    pub fn start() -> Self {
        Self::with(Transport::Plain, Auth::None)
    }

    /// Starts an empty one.
    pub fn with(transport: Transport, auth: Auth) -> Self {
        Self::launch(transport, auth, None)
    }

    /// Starts one with the same content as `other`, now and later.
    pub fn beside(other: &Self, transport: Transport, auth: Auth) -> Self {
        Self::launch(transport, auth, Some(&other.storage()))
    }

    fn launch(transport: Transport, auth: Auth, storage: Option<&Path>) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("davit-registry-")
            .tempdir()
            .expect("a temporary directory can be made");
        let path = |name: &str| directory.path().join(name);
        let authority = (transport != Transport::Plain).then(|| Authority::new(&path("tls")));
        let tokens = (auth == Auth::Token).then(|| TokenServer::start(&path("tokens")));
        if auth == Auth::Basic {
            fs::write(path("htpasswd"), HTPASSWD).expect("the directory is writable");
        }
        let storage = storage.map_or_else(|| path("data"), PathBuf::from);
        let config = config(directory.path(), &storage, transport, tokens.as_ref());
        fs::write(path("config.yml"), config).expect("the directory is writable");
        let log = File::create(path("log")).expect("the directory is writable");
        let mut process = Command::new("/usr/bin/docker-registry")
            .arg("serve")
            .arg(path("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed");
        let address = wait_for("the registry listens", 30, || {
            let log = fs::read_to_string(path("log")).unwrap_or_default();
            let exited = process.try_wait().ok().flatten();
            assert!(exited.is_none(), "the registry ended: {exited:?}\n{log}");
            let (_, rest) = log.split_once("listening on ")?;
            rest.split(['"', ',', ' ', '\n']).next()?.parse().ok()
        });
        Self { process, directory, address, authority, tokens }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its name in references: `127.0.0.1:1234`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// A reference to something it keeps: `127.0.0.1:1234/NAME`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The scheme and address: `http://127.0.0.1:1234`.
    pub fn url(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The directory of all that it keeps.
    pub fn storage(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The file that a blob is kept in, by the digest's hexadecimal digits.
    pub fn blob(&self, hex: &str) -> PathBuf {
        let blobs = self.storage().join("docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// The digest of a tag, as `crane` is told it.
    pub fn digest(&self, name: &str) -> String {
        let reference = self.reference(name);
        must(self.crane().args(["digest", "--insecure", &reference])).trim().to_owned()
    }

    /// `crane`, logged in.
    pub fn crane(&self) -> Command {
        let home = self.directory.path().join("crane");
        fs::create_dir_all(&home).expect("the directory is writable");
        fs::write(home.join("config.json"), docker_config(&self.host()))
            .expect("the directory is writable");
        let mut command = Command::new(peers::forky("crane"));
        command.env("DOCKER_CONFIG", home).stdin(Stdio::null());
        command
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- log of the registry\n{}",
                lines[lines.len().saturating_sub(20)..].join("\n")
            );
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Docker's `config.json` with [`USER`]'s password for `host`.
pub fn docker_config(host: &str) -> String {
    use base64::Engine;
    let login = format!("{}:{}", USER.0, USER.1);
    let login = base64::engine::general_purpose::STANDARD.encode(login);
    serde_json::json!({"auths": {host: {"auth": login}}}).to_string()
}

fn config(
    directory: &Path,
    storage: &Path,
    transport: Transport,
    tokens: Option<&TokenServer>,
) -> String {
    let mut http = serde_json::json!({"addr": "127.0.0.1:0", "secret": "davit"});
    if transport != Transport::Plain {
        let file = |name: &str| directory.join("tls").join(name);
        http["tls"] =
            serde_json::json!({"certificate": file("server.pem"), "key": file("server.key")});
        if transport == Transport::MutualTls {
            http["tls"]["clientcas"] = serde_json::json!([file("ca.pem")]);
        }
    }
    let mut config = serde_json::json!({
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": true}},
        "storage": {
            "filesystem": {"rootdirectory": storage},
            "delete": {"enabled": true},
            "maintenance": {"uploadpurging": {"enabled": false}},
        },
        "http": http,
    });
    if directory.join("htpasswd").exists() {
        let path = directory.join("htpasswd");
        config["auth"] = serde_json::json!({"htpasswd": {"realm": "davit", "path": path}});
    }
    if let Some(tokens) = tokens {
        config["auth"] = serde_json::json!({"token": {
            "realm": tokens.url(), "service": TokenServer::SERVICE,
            "issuer": TokenServer::ISSUER, "rootcertbundle": tokens.certificate(),
        }});
    }
    // YAML contains JSON.
    config.to_string()
}
