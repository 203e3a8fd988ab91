//! What the configuration says of images: limits, and programs that unpack.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::registry::{LAYER, Registry, digest};
use common::{Daemon, Home};
use davit_client::transfer::{self, types};
use davit_client::{Client, Error};
use davit_protocols::grpc::containerd::services::diff::v1::ApplyRequest;
use davit_protocols::grpc::containerd::services::snapshots::v1 as snapshots;
use davit_protocols::grpc::containerd::types::Descriptor;
use davit_types::{ErrorKind, Kind, Platform};

fn start<'h>(home: &'h Home, tables: &str) -> Daemon<'h> {
    let config = home.path("config.toml");
    std::fs::write(&config, format!("version = 3\n{tables}")).unwrap();
    let mut command = home.command();
    command.arg("--config").arg(config);
    home.start_with(&mut command)
}

async fn pull(home: &Home, registry: &Registry, unpack: bool) -> Result<(), Error> {
    let client = client(home).await;
    let reference = registry.name("team/app:1");
    let platform = Some(Platform::host().into());
    let unpacks = types::UnpackConfiguration { platform, snapshotter: "native".into() };
    let store = types::ImageStore {
        name: reference.clone(),
        unpacks: if unpack { vec![unpacks] } else { Vec::new() },
        ..Default::default()
    };
    let from = transfer::Registry { reference, plain_http: true, ..Default::default() };
    let nobody = async |_| types::AuthResponse::default();
    transfer::pull(&client, &from, &store, nobody, |_| {}).await
}

async fn client(home: &Home) -> Client {
    Client::connect(&home.socket(), "test".parse().unwrap()).await.unwrap()
}

fn layer(files: usize, bytes: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for number in 0..files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("file-{number}"), bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_measured_by_the_configured_limits() {
    const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    let packed = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    // A gibibyte is no bomb yet, whatever it was packed to.
    let zeros = packed(&layer(1, &vec![0; (1 << 30) + (8 << 20)]));
    for (limit, layer, says) in [
        ("max_unpacked_bytes = 100000", packed(&layer(1, &[7; 200_000])), "100000 uncompressed"),
        ("max_unpacked_entries = 10", packed(&layer(11, b"x")), "10 entries"),
        ("max_unpack_ratio = 20", zeros, "20 bytes out of one compressed byte"),
    ] {
        let (home, remote) = (Home::new(), Registry::start());
        let table = "plugins.\"io.containerd.differ.v1.walking\"";
        let _daemon = start(&home, &format!("[{table}]\n{limit}\n"));
        remote.image_of("1", &[layer], Some(vec![digest(b"whatever")]), ZSTD);
        let error = pull(&home, &remote, true).await.expect_err(limit);
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{limit}: {error}");
        assert!(error.to_string().contains(says), "{limit}: {error}");
        let request =
            snapshots::ListSnapshotsRequest { snapshotter: "native".into(), ..Default::default() };
        let mut list = client(&home).await.snapshots().list(request).await.unwrap().into_inner();
        let left = list.message().await.unwrap().map(|part| part.info).unwrap_or_default();
        assert!(left.is_empty(), "{limit}: {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_layers_come_at_a_time() {
    let layers: Vec<Vec<u8>> = (0..6).map(|n| layer(1, &[n; 100_000])).collect();
    for (limit, expected) in [(2, 2), (0, 6)] {
        let (home, remote) = (Home::new(), Registry::start());
        let table = "plugins.\"io.containerd.transfer.v1.local\"";
        let _daemon = start(&home, &format!("[{table}]\nmax_concurrent_downloads = {limit}\n"));
        remote.image("1", &layers, None);
        // All stop in their middle.
        remote.with(|state| state.flow = Some(50_000));
        let sending = || remote.with(|state| state.sending);
        let waiting = async {
            let end = Instant::now() + common::LIMIT;
            while sending().0 != expected {
                assert!(Instant::now() < end, "{:?} at a limit of {limit}", sending());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // Whoever does not keep the limit is not slow about it.
            let end = Instant::now() + Duration::from_millis(500);
            while Instant::now() < end {
                assert_eq!(sending().0, expected, "at a limit of {limit}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            remote.with(|state| state.flow = None);
        };
        let (pulled, ()) = tokio::join!(pull(&home, &remote, false), waiting);
        pulled.unwrap();
        assert_eq!(sending().1, expected, "at a limit of {limit}");
    }
}

/// Layers of a type that only a configured program reads.
#[tokio::test(flavor = "multi_thread")]
async fn layers_go_through_stream_processors() {
    const TURNED: &str = "application/vnd.oci.image.layer.v1.tar+turned";
    let (home, remote) = (Home::new(), Registry::start());
    let program = home.path("turn");
    // Keeps what it was sent for it alone, too.
    let script = format!(
        "#!/bin/sh\n[ -e /proc/self/fd/3 ] && cat <&3 >{0}/payload\necho \"$@ $TURNING\" >{0}/said\n\
         LC_ALL=C exec tr '\\000-\\377' '\\200-\\377\\000-\\177'\n",
        home.dir.path().display()
    );
    common::install(&program, &script);
    let table = format!(
        "[stream_processors.\"turner\"]\naccepts = [{TURNED:?}]\nreturns = {LAYER:?}\n\
         path = {program:?}\nargs = [\"one\", \"two\"]\nenv = [\"TURNING=yes\"]\n"
    );
    let _daemon = start(&home, &table);
    let plain = layer(3, b"content");
    let turned: Vec<u8> = plain.iter().map(|byte| byte ^ 0x80).collect();
    remote.image_of("1", std::slice::from_ref(&turned), Some(vec![digest(&plain)]), TURNED);
    pull(&home, &remote, true).await.unwrap();
    let said = || std::fs::read_to_string(home.path("said")).unwrap();
    assert_eq!(said(), "one two yes\n");

    // A client that unpacks by itself has something for the program.
    let client = client(&home).await;
    let prepare = snapshots::PrepareSnapshotRequest {
        snapshotter: "native".into(),
        key: "ours".into(),
        ..Default::default()
    };
    let mounts = client.snapshots().prepare(prepare).await.unwrap().into_inner().mounts;
    let tree = std::path::PathBuf::from(&mounts[0].source);
    let payload = prost_types::Any { type_url: "test/secret".into(), value: b"open sesame".into() };
    let apply = ApplyRequest {
        diff: Some(Descriptor {
            media_type: TURNED.into(),
            digest: digest(&turned),
            size: turned.len() as i64,
            ..Default::default()
        }),
        mounts,
        payloads: [("turner".to_owned(), payload)].into(),
        ..Default::default()
    };
    let applied = client.diff().apply(apply).await.unwrap().into_inner().applied.unwrap();
    assert_eq!(applied.digest, digest(&plain));
    assert_eq!(std::fs::read(tree.join("file-2")).unwrap(), b"content");
    let given = std::fs::read(home.path("payload")).unwrap();
    let secret = b"open sesame";
    assert!(given.windows(secret.len()).any(|part| part == secret), "{given:?}");

    // What it is given that it does not know is refused by the daemon.
    remote.image_of("2", &[turned], Some(vec![digest(b"other")]), TURNED);
    remote.with(|state| {
        let second = state.tags["2"].clone();
        state.tags.insert("1".into(), second);
    });
    let error = pull(&home, &remote, true).await.unwrap_err().to_string();
    assert!(error.contains("wrong diff id calculated on extraction"), "{error}");
}

/// A worker that gives up reads no more of what a processor still has to say,
/// and that reads no more of what still arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_refused_while_it_arrives_ends_its_pull() {
    const SAME: &str = "application/vnd.oci.image.layer.v1.tar+same";
    let (home, remote) = (Home::new(), Registry::start());
    let begun = home.path("begun");
    let table = format!(
        "[stream_processors.\"same\"]\naccepts = [{SAME:?}]\nreturns = {LAYER:?}\npath = \"/bin/sh\"\n\
         args = [\"-c\", \": >{}; cat\"]\n\
         [plugins.\"io.containerd.differ.v1.walking\"]\nmax_unpacked_entries = 2\n",
        begun.display()
    );
    let _daemon = start(&home, &table);
    remote.image_of("1", &[layer(16, &[7; 1 << 20])], Some(vec![digest(b"whatever")]), SAME);
    // It stops in its middle until it is being unpacked.
    remote.with(|state| state.flow = Some(1 << 20));
    let going_on = async {
        let begins = move || common::wait_for("a processor", || begun.exists().then_some(()));
        tokio::task::spawn_blocking(begins).await.unwrap();
        remote.with(|state| state.flow = None);
    };
    let pulling = tokio::time::timeout(common::LIMIT, pull(&home, &remote, true));
    let (pulled, ()) = tokio::join!(pulling, going_on);
    let error = pulled.expect("the pull ends").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
}
