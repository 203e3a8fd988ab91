//! Images that somebody made to do harm, from a registry and from an archive:
//! refused with an error that names what is wrong, and nothing of them stays.

#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::registry::{CONFIG, LAYER, MANIFEST, Registry, digest};
use common::{Daemon, Home};
use davit_client::transfer::{self, types};
use davit_client::{Client, Error};
use davit_protocols::grpc::containerd::services::{content, images, leases, snapshots};
use davit_types::Platform;
use serde_json::{Value, json};
use tokio_stream::StreamExt;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The blobs of an image, and what its name points to.
#[derive(Default)]
struct Parts {
    blobs: Vec<(String, Vec<u8>)>,
    /// Under these digests there are other bytes.
    damaged: Vec<(String, Vec<u8>)>,
    root: Value,
}

impl Parts {
    fn put(&mut self, media_type: &str, bytes: impl Into<Vec<u8>>) -> Value {
        let bytes = bytes.into();
        let entry = json!({"mediaType": media_type, "digest": digest(&bytes), "size": bytes.len()});
        self.blobs.push((media_type.to_owned(), bytes));
        entry
    }

    fn config(&mut self, diff_ids: &[String]) -> Value {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
        let config = json!({"architecture": architecture, "os": "linux", "rootfs": rootfs});
        self.put(CONFIG, config.to_string())
    }

    /// A manifest that is as it should be.
    fn manifest(&mut self) -> Value {
        let layer = layer("file");
        let config = self.config(&[digest(&layer)]);
        let layer = self.put(LAYER, layer);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
        });
        self.put(MANIFEST, manifest.to_string())
    }

    fn index(&mut self, list: Vec<Value>) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": list});
        self.put(INDEX, index.to_string())
    }

    fn serve(self, registry: &Registry) {
        let root = self.root["digest"].as_str().unwrap().to_owned();
        registry.with(|state| {
            for (kind, bytes) in self.blobs {
                state.blobs.insert(digest(&bytes), (kind, bytes));
            }
            for (digest, bytes) in self.damaged {
                state.blobs.get_mut(&digest).unwrap().1 = bytes;
            }
            state.tags.insert("1".to_owned(), root);
        });
    }

    /// As an OCI layout.
    fn archive(self) -> Vec<u8> {
        let mut root = self.root;
        if root["annotations"].is_null() {
            root["annotations"] = json!({"io.containerd.image.name": "registry.test/app:1"});
        }
        let index = json!({"schemaVersion": 2, "manifests": [root]}).to_string();
        let mut files = vec![("index.json".to_owned(), index.into_bytes())];
        for (_, bytes) in self.blobs {
            let digest = digest(&bytes);
            let damage = self.damaged.iter().find(|(damaged, _)| *damaged == digest);
            let bytes = damage.map_or(bytes, |(_, bytes)| bytes.clone());
            files.push((format!("blobs/{}", digest.replace(':', "/")), bytes));
        }
        tar(&files)
    }
}

fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, &bytes[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

fn layer(name: &str) -> Vec<u8> {
    tar(&[(name.to_owned(), b"content".to_vec())])
}

async fn client(home: &Home) -> Client {
    Client::connect(&home.socket(), "test".parse().unwrap()).await.unwrap()
}

fn store(name: &str) -> types::ImageStore {
    let platform = Some(Platform::host().into());
    types::ImageStore {
        name: name.to_owned(),
        unpacks: vec![types::UnpackConfiguration { platform, snapshotter: "native".to_owned() }],
        ..Default::default()
    }
}

async fn pull(client: &Client, registry: &Registry) -> Result<(), Error> {
    let reference = registry.name("team/app:1");
    let store = store(&reference);
    let from = transfer::Registry { reference, plain_http: true, ..Default::default() };
    let nobody = async |_| types::AuthResponse::default();
    transfer::pull(client, &from, &store, nobody, |_| {}).await
}

/// Imports by the transfer service: the daemon reads the archive.
async fn import(client: &Client, archive: Vec<u8>) -> Result<(), Error> {
    let mut rest = Bytes::from(archive);
    let give = async || {
        let piece = rest.split_to(rest.len().min(1 << 20));
        Ok((!piece.is_empty()).then_some(piece))
    };
    let prefix = types::ImageReference {
        name: "registry.test/app".to_owned(),
        is_prefix: true,
        allow_overwrite: true,
        ..Default::default()
    };
    let store = types::ImageStore { extra_references: vec![prefix], ..store("") };
    transfer::import(client, give, types::ImageImportStream::default(), &store, |_| {}).await
}

/// What there is of anything.
async fn remains(client: &Client) -> Vec<String> {
    let mut found = Vec::new();
    let list = client.images().list(images::v1::ListImagesRequest::default()).await.unwrap();
    found.extend(list.into_inner().images.into_iter().map(|image| image.name));
    let list = client.content().list(content::v1::ListContentRequest::default()).await.unwrap();
    let mut list = list.into_inner();
    while let Some(part) = list.next().await {
        found.extend(part.unwrap().info.into_iter().map(|info| info.digest));
    }
    let request = content::v1::ListStatusesRequest::default();
    let list = client.content().list_statuses(request).await.unwrap().into_inner();
    found.extend(list.statuses.into_iter().map(|status| status.r#ref));
    let snapshotter = "native".to_owned();
    let request = snapshots::v1::ListSnapshotsRequest { snapshotter, ..Default::default() };
    let mut list = client.snapshots().list(request).await.unwrap().into_inner();
    while let Some(part) = list.next().await {
        found.extend(part.unwrap().info.into_iter().map(|info| info.name));
    }
    found
}

/// Ends what a failed pull is held by and has everything collected.
async fn assert_nothing_stays(client: &Client, case: &str) {
    let list = client.leases().list(leases::v1::ListRequest::default()).await.unwrap();
    for lease in list.into_inner().leases {
        let request = leases::v1::DeleteRequest { id: lease.id, sync: true };
        client.leases().delete(request).await.unwrap();
    }
    // Has it collected now.
    let id = "collect".to_owned();
    let request = leases::v1::CreateRequest { id: id.clone(), ..Default::default() };
    client.leases().create(request).await.unwrap();
    let request = leases::v1::DeleteRequest { id, sync: true };
    client.leases().delete(request).await.unwrap();
    let deadline = std::time::Instant::now() + common::LIMIT;
    loop {
        let left = remains(client).await;
        if left.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{case}: {left:?} stay");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Every case: what it is, how it is made, and what a pull and an import say.
struct Case {
    name: &'static str,
    make: fn(&mut Parts) -> Value,
    pulled: &'static str,
    imported: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "an index that is a manifest, too",
        make: |parts| {
            let manifest = parts.manifest();
            let (config, layer) = (parts.config(&[]), parts.put(LAYER, layer("other")));
            let both = json!({
                "schemaVersion": 2, "manifests": [manifest], "config": config, "layers": [layer],
            });
            parts.put(INDEX, both.to_string())
        },
        pulled: "expected index but found manifest",
        imported: "expected index but found manifest",
    },
    Case {
        name: "a manifest that is an index, too",
        make: |parts| {
            let (manifest, config) = (parts.manifest(), parts.config(&[]));
            let both = json!({"schemaVersion": 2, "config": config, "layers": [],
                "manifests": [manifest]});
            parts.put(MANIFEST, both.to_string())
        },
        pulled: "expected manifest but found index",
        imported: "expected manifest but found index",
    },
    Case {
        name: "keys that repeat",
        make: |parts| {
            let (config, layer) = (parts.config(&[]), parts.put(LAYER, layer("other")));
            let text = format!(
                r#"{{"schemaVersion":2,"config":{config},"layers":[],"layers":[{layer}]}}"#
            );
            parts.put(MANIFEST, text)
        },
        pulled: "the key \"layers\" can be taken for two things",
        imported: "the key \"layers\" can be taken for two things",
    },
    Case {
        name: "keys in another case",
        make: |parts| {
            let (config, layer) = (parts.config(&[]), parts.put(LAYER, layer("other")));
            let text = format!(r#"{{"schemaVersion":2,"config":{config},"Layers":[{layer}]}}"#);
            parts.put(MANIFEST, text)
        },
        pulled: "the key \"Layers\" can be taken for two things",
        imported: "the key \"Layers\" can be taken for two things",
    },
    Case {
        name: "more diff IDs than layers",
        make: |parts| {
            let layer = layer("file");
            let config = parts.config(&[digest(&layer), digest(b"another")]);
            let layer = parts.put(LAYER, layer);
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
            parts.put(MANIFEST, manifest.to_string())
        },
        pulled: "number of layers and diffIDs don't match: 1 != 2",
        imported: "1 layers but 2 diff IDs",
    },
    Case {
        name: "a configuration that is too long",
        make: |parts| {
            let mut text = "{}".to_owned();
            text.push_str(&" ".repeat(8 << 20));
            let (config, layer) = (parts.put(CONFIG, text), parts.put(LAYER, layer("file")));
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
            parts.put(MANIFEST, manifest.to_string())
        },
        pulled: "has more than the 8388608 bytes",
        imported: "8388610 bytes",
    },
    Case {
        name: "indexes nested deep",
        make: |parts| {
            let mut root = parts.manifest();
            for _ in 0..10 {
                root = parts.index(vec![root]);
            }
            root
        },
        pulled: "nested more than",
        imported: "nested more than",
    },
    Case {
        name: "a layer with other bytes",
        make: |parts| {
            let root = parts.manifest();
            let (_, bytes) = &parts.blobs[1];
            let mut other = bytes.clone();
            other[0] ^= 1;
            parts.damaged.push((digest(bytes), other));
            root
        },
        pulled: "unexpected commit digest",
        imported: "its digest is sha256:",
    },
    Case {
        name: "a layer of another size",
        make: |parts| {
            let layer = layer("file");
            let config = parts.config(&[digest(&layer)]);
            let mut layer = parts.put(LAYER, layer);
            layer["size"] = json!(4000);
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
            parts.put(MANIFEST, manifest.to_string())
        },
        pulled: "sha256:",
        imported: "bytes, but 4000 are promised",
    },
    Case {
        name: "a layer that is not what its diff ID says",
        make: |parts| {
            let config = parts.config(&[digest(b"something else")]);
            let layer = parts.put(LAYER, layer("file"));
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
            parts.put(MANIFEST, manifest.to_string())
        },
        pulled: "wrong diff id calculated on extraction",
        imported: "is promised",
    },
    Case {
        name: "a list without end",
        make: |parts| {
            let config = parts.config(&[]);
            let mut text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":["#);
            text.push_str(&"{},".repeat(2_000_000));
            text.push_str("{}]}");
            parts.put(MANIFEST, text)
        },
        pulled: "",
        imported: "refers to more than 10000 blobs",
    },
    Case {
        name: "a layer that is nowhere",
        make: |parts| {
            let config = parts.config(&[digest(b"gone")]);
            let layer = json!({"mediaType": LAYER, "digest": digest(b"gone"), "size": 4});
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
            parts.put(MANIFEST, manifest.to_string())
        },
        pulled: "not found",
        imported: "referred to, but not in the archive",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn hostile_images_are_not_pulled() {
    let home = Home::new();
    let _daemon = home.start();
    let client = client(&home).await;
    for Case { name, make, pulled, .. } in CASES {
        let (remote, mut parts) = (Registry::start(), Parts::default());
        parts.root = make(&mut parts);
        parts.serve(&remote);
        let error = pull(&client, &remote).await.expect_err(name).to_string();
        assert!(error.contains(pulled) && !error.is_empty(), "{name}: {error}");
        assert_nothing_stays(&client, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_images_are_not_imported() {
    let home = Home::new();
    let _daemon = home.start();
    let client = client(&home).await;
    for Case { name, make, imported, .. } in CASES {
        let mut parts = Parts::default();
        parts.root = make(&mut parts);
        let error = import(&client, parts.archive()).await.expect_err(name).to_string();
        assert!(error.contains(imported), "{name}: {error}");
        assert_nothing_stays(&client, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_as_it_should_be_is_taken() {
    let home = Home::new();
    let _daemon = home.start();
    let client = client(&home).await;
    for pulled in [true, false] {
        let (remote, mut parts) = (Registry::start(), Parts::default());
        let manifest = parts.manifest();
        parts.root = parts.index(vec![manifest.clone(), manifest]);
        if pulled {
            parts.serve(&remote);
            pull(&client, &remote).await.unwrap();
        } else {
            import(&client, parts.archive()).await.unwrap();
        }
        let all = remains(&client).await;
        let name = if pulled { remote.name("team/app:1") } else { "registry.test/app:1".into() };
        assert!(all.contains(&name), "{all:?}");
        assert_eq!(all.len(), 6, "a name, four blobs and a snapshot: {all:?}");
        let request = images::v1::DeleteImageRequest { name, sync: true, ..Default::default() };
        client.images().delete(request).await.unwrap();
        assert_nothing_stays(&client, "a deleted image").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_archives_are_references() {
    let home = Home::new();
    let _daemon = home.start();
    let client = client(&home).await;
    for name in ["registry.test/app:1\u{1b}[2J", "registry.test/../app:1", "registry.test/a b:1"] {
        let mut parts = Parts::default();
        parts.root = parts.manifest();
        parts.root["annotations"] = json!({"io.containerd.image.name": name});
        let error = import(&client, parts.archive()).await.expect_err(name).to_string();
        assert!(error.contains("registry.test"), "{name:?}: {error}");
        assert!(!error.contains('\u{1b}'), "{error:?}");
        assert_nothing_stays(&client, name).await;
    }
}

/// The most that the daemon has had in memory since this was called first.
fn peak_kib(daemon: &Daemon<'_>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A header of `kind` that promises `size` bytes.
fn promise(kind: tar::EntryType, name: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_path(name).unwrap();
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// `size` bytes of `byte` behind `start`, compressed.
fn bomb(start: &[u8], byte: u8, size: usize) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    std::io::Write::write_all(&mut encoder, start).unwrap();
    let piece = vec![byte; 1 << 20];
    for _ in 0..size >> 20 {
        std::io::Write::write_all(&mut encoder, &piece).unwrap();
    }
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_does_not_fill_the_daemons_memory() {
    const GROWTH_MAX_KIB: u64 = 64 << 10;
    let home = Home::new();
    let daemon = home.start();
    let client = client(&home).await;
    let before = peak_kib(&daemon);
    let documents = {
        // Each may be a manifest, and is none.
        let document = [b"{".to_vec(), vec![b' '; (4 << 20) - 2], b"}".to_vec()].concat();
        let mut archive = tar::Builder::new(Vec::new());
        for number in 0..20 {
            let mut header = tar::Header::new_gnu();
            header.set_size(document.len() as u64);
            archive.append_data(&mut header, format!("{number}.json"), &document[..]).unwrap();
        }
        zstd::encode_all(&archive.into_inner().unwrap()[..], 1).unwrap()
    };
    let names = {
        let mut archive = tar::Builder::new(Vec::new());
        for number in 0..20_000 {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            let name = format!("{number:04000}");
            archive.append_link(&mut header, &name, &name).unwrap();
        }
        zstd::encode_all(&archive.into_inner().unwrap()[..], 1).unwrap()
    };
    let saved = format!(r#"[{{"Config":"c","Layers":[{}"a"]}}]"#, r#""a","#.repeat(1_500_000));
    let (long, pax) = (tar::EntryType::GNULongName, tar::EntryType::XHeader);
    for (name, archive, says) in [
        ("a long name", bomb(&promise(long, "l", 1 << 30), b'n', 1 << 30), "field too long"),
        ("long records", bomb(&promise(pax, "x", 1 << 30), b'n', 1 << 30), "field too long"),
        ("documents", documents, "neither index.json nor manifest.json"),
        ("names", names, "bytes of names"),
        ("layers", tar(&[("manifest.json".into(), saved.into_bytes())]), "more than 10000"),
        (
            "a document",
            bomb(&promise(tar::EntryType::Regular, "index.json", 1 << 30), b'{', 1 << 30),
            "index.json: 1073741824 bytes",
        ),
    ] {
        let error = import(&client, archive).await.expect_err(name).to_string();
        assert!(error.contains(says), "{name}: {error}");
        let growth = peak_kib(&daemon) - before;
        assert!(growth < GROWTH_MAX_KIB, "{name}: {growth} KiB");
    }
    assert_nothing_stays(&client, "bombs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_explodes_is_walked_once() {
    let home = Home::new();
    let daemon = home.start();
    let client = client(&home).await;
    let make = || {
        let mut parts = Parts::default();
        parts.root = parts.manifest();
        // No deeper than this is an image unpacked.
        for _ in 0..3 {
            parts.root = parts.index(vec![parts.root.clone(); 1000]);
        }
        parts
    };
    let before = peak_kib(&daemon);
    let remote = Registry::start();
    make().serve(&remote);
    pull(&client, &remote).await.unwrap();
    assert_eq!(remote.requests("/blobs/").len(), 2, "{:?}", remote.requests(""));
    import(&client, make().archive()).await.unwrap();
    let growth = peak_kib(&daemon) - before;
    assert!(growth < 300 << 10, "{growth} KiB");
}
