//! Debian's docker-registry.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use davit_distribution::hosts::{Host, Tls};
use davit_distribution::layout::Layout;
use davit_distribution::pull::{self, Nobody, Pull, Shared, Turns, Wanted};
use davit_distribution::push::Push;
use davit_distribution::registry::{Access, BlobSource, Pushed, Repository, Settings};
use davit_types::{Descriptor, Kind};

use crate::tls::Identity;
use crate::{
    Known, LAYER, MANIFEST, access, basic, bytes, descriptor, host, open, quick, read, registry,
};

/// `user` and the hash of `s3cr3t`.
const USERS: &str = "user:$2y$05$abcdefghijklmnopqrstuu9Avu/WgbsK7g7xfCY1X3pdjsTgxqQLS\n";

const CONFIG: &str = "
version: 0.1
log: { level: info }
storage: { filesystem: { rootdirectory: ROOT }, delete: { enabled: true } }
http: { addr: '127.0.0.1:0', tls: { certificate: CERTIFICATE, key: KEY } }
auth: { htpasswd: { realm: test, path: USERS } }
";

/// A registry that lives as long as the test.
struct Real {
    process: Child,
    address: String,
    identity: Identity,
    _directory: tempfile::TempDir,
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Real {
    /// With TLS and a password.
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::new("registry.test");
        let (root, users) = (directory.path().join("root"), directory.path().join("users"));
        std::fs::write(&users, USERS).unwrap();
        let config = CONFIG
            .replace("ROOT", &root.display().to_string())
            .replace("CERTIFICATE", &identity.certificate.display().to_string())
            .replace("KEY", &identity.key.display().to_string())
            .replace("USERS", &users.display().to_string());
        let path = directory.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed (integration/setup.sh)");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("the registry says where it listens").unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split([',', '"']).next().unwrap().to_owned();
            }
        };
        // Somebody has to read what it logs, or it stops.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address, identity, _directory: directory }
    }

    fn open(&self, name: &str, settings: Settings) -> Repository {
        let tls = Tls { ca: vec![self.identity.certificate.clone()], ..Tls::default() };
        let host = Host { scheme: "https".into(), tls, ..host(&self.address) };
        let credentials = Arc::new(Known(self.address.clone(), basic()));
        let access = Access { credentials, ..access([host]) };
        open(&registry(settings), &format!("registry.test/{name}"), access)
    }
}

async fn push(repository: &Repository, blob: &Descriptor, content: &[u8], from: &[&str]) -> Pushed {
    let source: Arc<dyn BlobSource> = Arc::new(Bytes::copy_from_slice(content));
    let from: Vec<String> = from.iter().map(|from| (*from).to_owned()).collect();
    repository.push_blob(blob, source, &from, &|_| {}).await.unwrap()
}

fn layer() -> Vec<u8> {
    bytes(3 << 20)
}

/// Pushes an image of one layer; hands back its manifest.
async fn image(repository: &Repository) -> (Descriptor, String) {
    let (layer, config) = (layer(), b"{}");
    let layer_blob = descriptor(LAYER, &layer);
    let config_blob = descriptor("application/vnd.oci.image.config.v1+json", config);
    let entry = |blob: &Descriptor| {
        let Descriptor { media_type, digest, size, .. } = blob;
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
    };
    let (config_entry, layer_entry) = (entry(&config_blob), entry(&layer_blob));
    let body = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}",
            "config":{config_entry},"layers":[{layer_entry}]}}"#
    );
    let manifest = descriptor(MANIFEST, body.as_bytes());
    assert_eq!(push(repository, &layer_blob, &layer, &[]).await, Pushed::Uploaded);
    assert_eq!(push(repository, &config_blob, config, &[]).await, Pushed::Uploaded);
    assert_eq!(push(repository, &layer_blob, &layer, &[]).await, Pushed::Existed);
    repository.push_manifest(&manifest, Bytes::from(body.clone()), Some("1")).await.unwrap();
    repository.push_manifest(&manifest, Bytes::from(body.clone()), None).await.unwrap();
    (manifest, body)
}

#[tokio::test]
async fn an_image_goes_there_and_comes_back() {
    let real = Real::start();
    let (layer, chunked) = (layer(), Settings { upload_chunk: Some(1 << 20), ..quick() });
    let layer_blob = descriptor(LAYER, &layer);
    let repository = real.open("team/app:1", chunked);
    let (manifest, body) = image(&repository).await;
    assert_eq!(repository.resolve().await.unwrap(), manifest);
    assert_eq!(repository.document(&manifest, 1 << 20).await.unwrap(), body);
    assert_eq!(read(&repository, &layer_blob, 0).await.unwrap(), layer);
    assert_eq!(read(&repository, &layer_blob, 1 << 20).await.unwrap(), layer[1 << 20..]);
    assert_eq!(repository.tags().await.unwrap(), ["1"]);
    assert!(repository.has(&layer_blob).await.unwrap());
    assert_eq!(repository.referrers(&manifest.digest, None).await.unwrap(), []);

    let other = real.open("team/other:1", quick());
    assert!(!other.has(&layer_blob).await.unwrap());
    let mounted = push(&other, &layer_blob, &layer, &["team/app"]).await;
    assert_eq!(mounted, Pushed::Mounted { from: "team/app".into() });
    let whole = bytes(100_000);
    let blob = descriptor(LAYER, &whole);
    assert_eq!(push(&other, &blob, &whole, &["team/app"]).await, Pushed::Uploaded);
    assert_eq!(read(&other, &blob, 0).await.unwrap(), whole);
    let error = real.open("team/none:1", quick()).resolve().await.unwrap_err();
    assert_eq!(error.full_message(), "registry.test/team/none:1: not found");
}

/// Pulls `name` from the registry into a directory.
async fn pull_into(real: &Real, name: &str, directory: &Path) -> Result<Descriptor, pull::Error> {
    let repository = real.open(name, quick());
    let root = repository.resolve().await.unwrap();
    let layout = Layout::open(directory).unwrap();
    let shared = Shared { downloads: None, fetches: Turns::default() };
    let pull = Pull {
        reference: repository.reference().clone(),
        remote: Arc::new(repository),
        store: Arc::new(layout.clone()),
        observer: Arc::new(Nobody),
        shared,
        unpack: None,
        wanted: Wanted::default(),
    };
    pull.run(&root, name).await?;
    layout.tag(&root, "1").unwrap();
    Ok(root)
}

#[tokio::test]
async fn a_directory_that_is_pulled_into_is_read_by_others_and_pushed_from() {
    let real = Real::start();
    let (manifest, body) = image(&real.open("team/app:1", quick())).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    for _ in 0..2 {
        assert_eq!(pull_into(&real, "team/app:1", &path).await.unwrap(), manifest);
    }
    let output = Command::new("skopeo")
        .args(["inspect", "--raw"])
        .arg(format!("oci:{}:1", path.display()))
        .output()
        .expect("skopeo is installed (integration/setup.sh)");
    assert_eq!(String::from_utf8_lossy(&output.stdout), body);

    let layout = Layout::open(&path).unwrap();
    let root = layout.find("1").unwrap().unwrap();
    let target = real.open("team/copy:2", quick());
    let push = Push {
        source: Arc::new(layout),
        reference: target.reference().clone(),
        target: Arc::new(target.clone()),
        observer: Arc::new(Nobody),
        uploads: None,
        platforms: davit_types::platform::Matcher::all(),
    };
    push.run(&root, "copy").await.unwrap();
    assert_eq!(target.resolve().await.unwrap(), manifest);
}
