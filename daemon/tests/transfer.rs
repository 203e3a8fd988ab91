//! Images from and to a registry, by the transfer service.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use common::registry::{Registry, digest};
use common::{Home, wait_for};
use davit_client::transfer::{self, types};
use davit_client::{Client, Error, Lease};
use davit_protocols::grpc::containerd::services::{content, images, leases, snapshots};
use davit_types::{ErrorKind, Kind, Platform};
use tokio_stream::StreamExt;

/// A layer of these directories, with their modes, and files.
fn layer(directories: &[(&str, u32)], files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, mode: u32, kind: tar::EntryType, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    for (name, mode) in directories {
        add(name, *mode, tar::EntryType::Directory, b"");
    }
    for (name, bytes) in files {
        add(name, 0o644, tar::EntryType::Regular, bytes);
    }
    archive.into_inner().unwrap()
}

fn layers() -> Vec<Vec<u8>> {
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
    vec![
        layer(&[("etc/", 0o700), ("etc/deep/", 0o1777)], &[("etc/deep/one", b"1"), ("gone", b"")]),
        layer(&[("srv/", 0o750)], &[("etc/deep/two", b"2"), (".wh.gone", b"")]),
        // On top of directories that only the layers below have.
        layer(&[], &[("etc/deep/three", &large), ("srv/new", b"3")]),
    ]
}

async fn client(home: &Home) -> Client {
    Client::connect(&home.socket(), "test".parse().unwrap()).await.unwrap()
}

fn registry(registry: &Registry, name: &str) -> transfer::Registry {
    let reference = registry.name(name);
    transfer::Registry { reference, plain_http: true, ..Default::default() }
}

fn store(name: &str, snapshotter: &str) -> types::ImageStore {
    let platform = Some(Platform::host().into());
    let snapshotter = snapshotter.to_owned();
    types::ImageStore {
        name: name.to_owned(),
        unpacks: vec![types::UnpackConfiguration { platform, snapshotter }],
        platforms: vec![Platform::host().into()],
        ..Default::default()
    }
}

/// Pulls without a login; answers what was told.
async fn pull(
    client: &Client,
    from: &transfer::Registry,
    snapshotter: &str,
) -> Result<Vec<(String, String)>, Error> {
    let mut told = Vec::new();
    let store = store(&from.reference, snapshotter);
    let nobody = async |_| types::AuthResponse::default();
    transfer::pull(client, from, &store, nobody, |report| told.push((report.event, report.name)))
        .await?;
    Ok(told)
}

async fn snapshots_of(client: &Client, snapshotter: &str) -> Vec<snapshots::v1::Info> {
    let request = snapshots::v1::ListSnapshotsRequest {
        snapshotter: snapshotter.to_owned(),
        ..Default::default()
    };
    let mut list = client.snapshots().list(request).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(part) = list.next().await {
        found.extend(part.unwrap().info);
    }
    found
}

async fn leases_of(client: &Client) -> usize {
    let request = leases::v1::ListRequest::default();
    client.leases().list(request).await.unwrap().into_inner().leases.len()
}

async fn ingests_of(client: &Client) -> Vec<content::v1::Status> {
    let request = content::v1::ListStatusesRequest::default();
    client.content().list_statuses(request).await.unwrap().into_inner().statuses
}

/// Where the layers of `overlayfs` are, the lowest first.
async fn upper_dirs(client: &Client, chain: &str) -> Vec<PathBuf> {
    let request = snapshots::v1::ViewSnapshotRequest {
        snapshotter: "overlayfs".into(),
        key: "look".into(),
        parent: chain.to_owned(),
        ..Default::default()
    };
    let mounts = client.snapshots().view(request).await.unwrap().into_inner().mounts;
    let lower = mounts[0].options.iter().find_map(|option| option.strip_prefix("lowerdir="));
    let mut dirs: Vec<PathBuf> = lower.unwrap().split(':').map(PathBuf::from).collect();
    dirs.reverse();
    dirs
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_unpacked_together_are_what_they_should_be() {
    let (home, remote) = (Home::new(), Registry::start());
    let _daemon = home.start();
    remote.image("1", &layers(), None);
    let (client, from) = (client(&home).await, registry(&remote, "team/app:1"));
    let told = pull(&client, &from, "overlayfs").await.unwrap();
    let events: BTreeSet<&str> = told.iter().map(|(event, _)| event.as_str()).collect();
    for wanted in ["fetching image content", "complete", "extracted", "saved"] {
        assert!(events.contains(wanted), "{wanted} in {events:?}");
    }
    let infos = snapshots_of(&client, "overlayfs").await;
    let committed = snapshots::v1::Kind::Committed as i32;
    assert!(infos.len() == 3 && infos.iter().all(|info| info.kind == committed), "{infos:?}");
    let top = infos.iter().find(|info| infos.iter().all(|other| other.parent != info.name));
    let dirs = upper_dirs(&client, &top.unwrap().name).await;
    assert_eq!(dirs.len(), 3);
    for dir in &dirs[1..] {
        let mode = |name: &str| dir.join(name).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("etc"), mode("etc/deep")), (0o700, 0o1777), "{}", dir.display());
        assert_eq!(dir.join("etc/deep").metadata().unwrap().mtime(), 1_000_000_000);
    }
    assert_eq!(dirs[2].join("srv").metadata().unwrap().permissions().mode() & 0o7777, 0o750);
    let whiteout = dirs[1].join("gone").symlink_metadata().unwrap();
    assert_eq!((whiteout.rdev(), whiteout.mode() & 0o170_000), (0, 0o020_000));
    assert_eq!(leases_of(&client).await, 0);
    assert!(ingests_of(&client).await.is_empty());
    let request = images::v1::GetImageRequest { name: from.reference.clone() };
    client.images().get(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_neither_fetched_nor_unpacked_again() {
    let (home, remote) = (Home::new(), Registry::start());
    let _daemon = home.start();
    remote.image("1", &layers(), None);
    let (client, from) = (client(&home).await, registry(&remote, "team/app:1"));
    let (a, b) = tokio::join!(pull(&client, &from, "native"), pull(&client, &from, "native"));
    a.unwrap();
    b.unwrap();
    assert_eq!(snapshots_of(&client, "native").await.len(), 3);
    let before = remote.requests("GET").len();
    assert_eq!(remote.requests("/blobs/").len(), 4, "each once: {:?}", remote.requests(""));
    pull(&client, &from, "native").await.unwrap();
    assert_eq!(remote.requests("GET").len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    let (home, remote) = (Home::new(), Registry::start());
    let _daemon = home.start();
    let layers = layers();
    let mut diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    diff_ids[1] = digest(b"something else");
    remote.image("1", &layers, Some(diff_ids.clone()));
    let (client, from) = (client(&home).await, registry(&remote, "team/app:1"));
    let error = pull(&client, &from, "overlayfs").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    let wanted = format!("wrong diff id calculated on extraction {:?}", diff_ids[1]);
    assert!(error.to_string().contains(&wanted), "{error}");
    let active = snapshots::v1::Kind::Active as i32;
    let infos = snapshots_of(&client, "overlayfs").await;
    assert!(infos.iter().all(|info| info.kind != active), "{infos:?}");
    let request = images::v1::ListImagesRequest::default();
    assert!(client.images().list(request).await.unwrap().into_inner().images.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_goes_on_where_it_was() {
    let (home, remote) = (Home::new(), Registry::start());
    let first = home.start();
    let layers = layers();
    remote.image("1", &layers, None);
    let large = digest(&layers[2]);
    remote.with(|state| state.flow = Some(2_000_000));
    let from = registry(&remote, "team/app:1");
    let stuck = {
        let (client, from) = (client(&home).await, from.clone());
        tokio::spawn(async move { pull(&client, &from, "overlayfs").await })
    };
    let there = || {
        let root = home.path("root/io.containerd.content.v1.content/ingest");
        let ingests = std::fs::read_dir(root).ok()?.flatten();
        let mut sizes = ingests.filter_map(|dir| dir.path().join("data").metadata().ok());
        sizes.find(|meta| meta.len() > 1_000_000).map(drop)
    };
    wait_for("half of the layer is stored", there);
    first.kill();
    stuck.await.unwrap().unwrap_err();
    remote.with(|state| state.flow = None);
    let _second = home.start();
    let client = client(&home).await;
    pull(&client, &from, "overlayfs").await.unwrap();
    let asked = remote.requests(&large);
    let resumed = asked.last().unwrap().split("bytes=").nth(1).map(str::to_owned);
    let from: usize =
        resumed.unwrap_or_else(|| panic!("{asked:?}")).split('-').next().unwrap().parse().unwrap();
    assert!(from > 1_000_000, "{asked:?}");
    let committed = snapshots::v1::Kind::Committed as i32;
    let infos = snapshots_of(&client, "overlayfs").await;
    assert_eq!(infos.iter().filter(|info| info.kind == committed).count(), 3);
    // What the killed one has left is held for minutes, not for a day.
    let request = leases::v1::ListRequest::default();
    let leases = client.leases().list(request).await.unwrap().into_inner().leases;
    for lease in leases {
        let end: jiff::Timestamp = lease.labels["containerd.io/gc.expire"].parse().unwrap();
        let left = end.duration_since(jiff::Timestamp::now());
        assert!(left.as_secs() <= 600, "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_are_asked_for_and_images_are_pushed() {
    let (home, remote) = (Home::new(), Registry::start());
    let _daemon = home.start();
    remote.image("1", &layers(), None);
    // me:secret
    remote.with(|state| state.authorization = Some("Basic bWU6c2VjcmV0".into()));
    let (client, from) = (client(&home).await, registry(&remote, "team/app:1"));
    let login = |secret: &'static str| {
        async move |request: types::AuthRequest| {
            assert!(request.wwwauthenticate[0].starts_with("Basic"), "{request:?}");
            let auth_type = types::AuthType::Credentials.into();
            let (username, secret) = ("me".into(), secret.into());
            types::AuthResponse { auth_type, username, secret, expire_at: None }
        }
    };
    let store = store(&from.reference, "overlayfs");
    let refused = transfer::pull(&client, &from, &store, login("wrong"), |_| {}).await;
    refused.unwrap_err();
    assert!(snapshots_of(&client, "overlayfs").await.is_empty());
    transfer::pull(&client, &from, &store, login("secret"), |_| {}).await.unwrap();
    let other = Registry::start();
    let to = registry(&other, "copies/app:2");
    let mut events = Vec::new();
    let told = |report: types::Progress| events.push(report.event);
    transfer::push(&client, &from.reference, &to, login("secret"), told).await.unwrap();
    let (tag, blobs) = other.with(|state| (state.tags.get("2").cloned(), state.blobs.len()));
    assert_eq!(tag, remote.with(|state| state.tags.get("1").cloned()));
    assert_eq!(blobs, 5, "manifest, configuration and three layers");
    assert!(events.iter().any(|event| event == "pushed content"), "{events:?}");
    // The document that refers to all goes last.
    let last = other.requests("PUT").pop().unwrap();
    assert!(last.contains("/manifests/"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_can_refuse_an_image() {
    let (home, remote) = (Home::new(), Registry::start());
    let bin = home.path("verifiers");
    std::fs::create_dir(&bin).unwrap();
    common::install(&bin.join("no"), "#!/bin/sh\necho not today\nexit 1\n");
    let config = home.path("config.toml");
    let text = format!(
        "version = 3\n[plugins.\"io.containerd.image-verifier.v1.bindir\"]\nbin_dir = {:?}\n",
        bin.display().to_string()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = home.command();
    command.arg("--config").arg(config);
    let _daemon = home.start_with(&mut command);
    remote.image("1", &layers(), None);
    let (client, from) = (client(&home).await, registry(&remote, "team/app:1"));
    let error = pull(&client, &from, "overlayfs").await.unwrap_err();
    assert!(error.to_string().contains("not today"), "{error}");
    assert!(remote.requests("/blobs/").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_held_for_minutes() {
    let home = Home::new();
    let _daemon = home.start();
    let client = client(&home).await;
    let path = home.path("image.tar");
    common::image::write(&path);
    let archive = std::fs::read(path).unwrap();
    let (first, second) = archive.split_at(archive.len() - (256 << 10));
    let (first, second) = (first.to_vec(), second.to_vec());
    let (go, mut gone_on) = tokio::sync::oneshot::channel::<()>();
    let mut pieces = vec![second, first];
    let give = async || {
        if pieces.len() == 1 {
            (&mut gone_on).await.unwrap();
        }
        Ok(pieces.pop().map(bytes::Bytes::from))
    };
    let prefix = types::ImageReference {
        name: "test.invalid".into(),
        is_prefix: true,
        allow_overwrite: true,
        ..Default::default()
    };
    let store = types::ImageStore { extra_references: vec![prefix], ..Default::default() };
    let options = types::ImageImportStream::default();
    let importing = transfer::import(&client, give, options, &store, |_| {});
    let watching = async {
        let lease = loop {
            let request = leases::v1::ListRequest::default();
            let list = client.leases().list(request).await.unwrap().into_inner();
            if let Some(lease) = list.leases.into_iter().next() {
                break lease;
            }
        };
        let end: jiff::Timestamp = lease.labels["containerd.io/gc.expire"].parse().unwrap();
        let left = end.duration_since(jiff::Timestamp::now());
        assert!((500..=600).contains(&left.as_secs()), "{left:?}");
        go.send(()).unwrap();
    };
    let (imported, ()) = tokio::join!(importing, watching);
    imported.unwrap();
    assert_eq!(leases_of(&client).await, 0);
    let request = images::v1::GetImageRequest { name: common::image::NAME.into() };
    client.images().get(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_layers_are_pushed_like_others() {
    const FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    let (home, remote, other) = (Home::new(), Registry::start(), Registry::start());
    let _daemon = home.start();
    let layer = layer(&[], &[("file", b"foreign")]);
    remote.image_of("1", std::slice::from_ref(&layer), None, FOREIGN);
    let (client, from) = (client(&home).await, registry(&remote, "team/app:1"));
    let store = types::ImageStore { unpacks: Vec::new(), ..store(&from.reference, "native") };
    let nobody = async |_| types::AuthResponse::default();
    transfer::pull(&client, &from, &store, nobody, |_| {}).await.unwrap();
    // Whoever wants to keep them back pushes by itself, as `ctr --local` does.
    let to = registry(&other, "copies/app:2");
    transfer::push(&client, &from.reference, &to, nobody, |_| {}).await.unwrap();
    assert!(other.with(|state| state.blobs.contains_key(&digest(&layer))));
}

/// What a client brings that is there already is held by its lease, whenever it
/// says what it brings.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_there_is_held_for_who_brings_it_again() {
    let home = Home::new();
    let _daemon = home.start();
    let client = client(&home).await;
    let write = async |client: &Client| -> Result<(), Error> {
        let message = |action, data: &[u8], expected: String| content::v1::WriteContentRequest {
            action: i32::from(action),
            r#ref: "r".into(),
            data: data.to_vec().into(),
            expected,
            ..Default::default()
        };
        let messages = [
            message(content::v1::WriteAction::Write, b"blob", String::new()),
            content::v1::WriteContentRequest {
                offset: 4,
                ..message(content::v1::WriteAction::Commit, b"", digest(b"blob"))
            },
        ];
        let mut answers = client.content().write(tokio_stream::iter(messages)).await?.into_inner();
        while let Some(answer) = answers.next().await {
            answer?;
        }
        Ok(())
    };
    write(&client).await.unwrap();
    let lease = Lease::take(&client, Duration::from_secs(600)).await.unwrap();
    let error = write(lease.client()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let list = leases::v1::ListRequest::default();
    let known = client.leases().list(list).await.unwrap().into_inner().leases;
    let request = leases::v1::ListResourcesRequest { id: known[0].id.clone() };
    let held = client.leases().list_resources(request).await.unwrap().into_inner().resources;
    let held: Vec<_> = held.iter().map(|one| (one.r#type.as_str(), one.id.clone())).collect();
    assert_eq!(held, [("content", digest(b"blob"))]);
}
