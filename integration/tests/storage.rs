//! The services of content, snapshots and diffs: every call, right and wrong,
//! is answered as forky's containerd answers it, with the same code and the
//! same words.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use davit_integration::daemon::{Daemon, Server};
use davit_protocols::grpc::containerd::services::content::v1 as content;
use davit_protocols::grpc::containerd::services::diff::v1 as diff;
use davit_protocols::grpc::containerd::services::snapshots::v1 as snapshots;
use davit_protocols::grpc::containerd::types::{Descriptor, Mount};
use sha2::{Digest, Sha256};
use tonic::codegen::tokio_stream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use content::content_client::ContentClient;
use diff::diff_client::DiffClient;
use snapshots::snapshots_client::SnapshotsClient;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn sha256(data: &[u8]) -> String {
    let hex: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A message on behalf of the namespace `default`.
fn ask<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "default".parse().unwrap());
    request
}

/// What a server said, without what differs from run to run.
#[derive(Default)]
struct Transcript {
    lines: Vec<String>,
    /// The server's own directory, which shows in mounts.
    directory: String,
}

impl Transcript {
    fn say<T>(&mut self, step: &str, answer: Result<T, Status>, show: impl FnOnce(T) -> String) {
        let text = match answer {
            Ok(answer) => show(answer),
            Err(error) => format!("{:?}: {}", error.code(), error.message()),
        };
        let text = text.replace(&self.directory, "DIR");
        let text = text.replace(&without_numbers(&self.directory), "DIR");
        self.lines.push(format!("{step}: {text}"));
    }
}

async fn channel(socket: &Path) -> Channel {
    let address = format!("unix://{}", socket.display());
    Endpoint::from_shared(address).unwrap().connect().await.unwrap()
}

/// Runs the scenario against both and compares.
fn compare(scenario: impl AsyncFn(Channel, &mut Transcript)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let [theirs, ours] = [Server::Containerd21, Server::Davit].map(|server| {
        let daemon = Daemon::start(server);
        let mut transcript = Transcript {
            directory: daemon.path("").to_str().unwrap().to_owned(),
            ..Transcript::default()
        };
        runtime.block_on(async {
            scenario(channel(&daemon.socket()).await, &mut transcript).await;
        });
        transcript.lines
    });
    let differ: Vec<_> = ours.iter().zip(&theirs).filter(|(ours, theirs)| ours != theirs).collect();
    assert!(differ.is_empty(), "davitd's answers, and containerd's: {differ:#?}");
    assert_eq!(ours.len(), theirs.len(), "{ours:#?}\n{theirs:#?}");
}

/// Labels that keep what has them from being collected in the midst.
fn rooted() -> std::collections::BTreeMap<String, String> {
    [("containerd.io/gc.root".to_owned(), "test".to_owned())].into()
}

/// One message of a write.
fn message(
    action: content::WriteAction,
    reference: &str,
    (offset, data): (i64, &[u8]),
    (total, expected): (i64, &str),
) -> content::WriteContentRequest {
    content::WriteContentRequest {
        action: action.into(),
        r#ref: reference.to_owned(),
        total,
        expected: expected.to_owned(),
        offset,
        data: data.to_vec().into(),
        labels: rooted(),
    }
}

/// Sends the messages in one session and collects all answers.
async fn write(
    client: &mut ContentClient<Channel>,
    messages: Vec<content::WriteContentRequest>,
) -> Result<String, Status> {
    let mut answers = client.write(ask(tokio_stream::iter(messages))).await?.into_inner();
    let mut text = String::new();
    loop {
        match answers.message().await {
            Ok(None) => return Ok(text),
            Ok(Some(answer)) => {
                let content::WriteContentResponse { action, offset, total, digest, .. } = answer;
                text.push_str(&format!("[{action} {offset} {total} {digest}]"));
            }
            Err(error) => {
                text.push_str(&format!("{:?}: {}", error.code(), error.message()));
                return Ok(text);
            }
        }
    }
}

async fn read(
    client: &mut ContentClient<Channel>,
    digest: &str,
    (offset, size): (i64, i64),
) -> Result<String, Status> {
    let request = content::ReadContentRequest { digest: digest.to_owned(), offset, size };
    let mut blocks = client.read(ask(request)).await?.into_inner();
    let mut text = String::new();
    while let Some(block) = blocks.message().await? {
        let data = &block.data;
        text.push_str(&format!("[{} {} {}]", block.offset, data.len(), sha256(data)));
    }
    Ok(text)
}

#[test]
fn content_is_served_as_containerd_does() {
    compare(async |channel, t| {
        let mut client = ContentClient::new(channel).max_decoding_message_size(64 << 20);
        let none = sha256(b"nothing");
        for digest in ["", "x", "sha256:", "md5:aa", "sha256:aa", &none] {
            let digest = || digest.to_owned();
            let answer = client.info(ask(content::InfoRequest { digest: digest() })).await;
            t.say("info", answer, |_| "found".into());
            let answer = client.delete(ask(content::DeleteContentRequest { digest: digest() }));
            t.say("delete", answer.await, |_| "deleted".into());
            let info = content::Info { digest: digest(), ..Default::default() };
            let request = content::UpdateRequest { info: Some(info), update_mask: None };
            t.say("update", client.update(ask(request)).await, |_| "updated".into());
            t.say("read", read(&mut client, &digest(), (0, 0)).await, |text| text);
        }
        for reference in ["", "none"] {
            let r#ref = || reference.to_owned();
            let answer = client.status(ask(content::StatusRequest { r#ref: r#ref() })).await;
            t.say("status", answer, |_| "found".into());
            let answer = client.abort(ask(content::AbortRequest { r#ref: r#ref() })).await;
            t.say("abort", answer, |_| "aborted".into());
        }
        writes(&mut client, t).await;
        let big = vec![7; 3_000_000];
        let session = vec![message(content::WriteAction::Commit, "big", (0, &big), (0, ""))];
        t.say("big", write(&mut client, session).await, |text| text);
        let digest = sha256(&big);
        for range in [(0, 0), (1, 5), (2_999_999, 9), (3_000_000, 1), (3_000_001, 0), (-1, -1)] {
            let answer = read(&mut client, &digest, range).await;
            t.say(&format!("read {range:?}"), answer, |text| text);
        }
        let answer = client.list(ask(content::ListContentRequest::default())).await;
        let mut blocks = answer.unwrap().into_inner();
        while let Some(block) = blocks.message().await.unwrap() {
            let shown =
                |info: content::Info| format!("{} {} {:?}", info.digest, info.size, info.labels);
            t.lines.extend(block.info.into_iter().map(shown));
        }
    });
}

async fn writes(client: &mut ContentClient<Channel>, t: &mut Transcript) {
    use content::WriteAction::{Commit, Stat, Write};
    let (data, digest) = (&b"hello world"[..], sha256(b"hello world"));
    let (other, nothing) = (sha256(b"other"), (0, &b""[..]));
    let cases: Vec<(&str, Vec<content::WriteContentRequest>)> = vec![
        ("no ref", vec![message(Stat, "", nothing, (0, ""))]),
        ("stat", vec![message(Stat, "a", nothing, (11, &digest))]),
        ("half", vec![message(Write, "a", (0, &data[..6]), (0, ""))]),
        ("gap", vec![message(Write, "a", (9, &data[6..]), (0, ""))]),
        (
            "wrong size",
            vec![
                message(Write, "a", (6, &data[6..]), (0, "")),
                message(Commit, "a", (11, b""), (12, "")),
            ],
        ),
        ("wrong digest", vec![message(Commit, "a", (11, b""), (0, &other))]),
        ("no digest", vec![message(Commit, "b", (0, data), (0, "garbage"))]),
        ("again", vec![message(Write, "a", (0, b"hello"), (0, ""))]),
        (
            "whole",
            vec![
                message(Stat, "a", nothing, (0, "")),
                message(Write, "a", (5, b" world"), (0, "")),
                message(Stat, "a", nothing, (11, "")),
                message(Commit, "a", (11, b""), (11, &digest)),
            ],
        ),
        ("known", vec![message(Stat, "c", nothing, (0, &digest))]),
        ("twice", vec![message(Commit, "d", (0, data), (0, ""))]),
        (
            "known later",
            vec![
                message(Write, "e", (0, data), (0, "")),
                message(Commit, "e", (11, b""), (0, &digest)),
            ],
        ),
        ("empty", vec![message(Commit, "f", nothing, (0, ""))]),
        ("odd action", {
            let odd = message(Stat, "g", nothing, (0, ""));
            vec![content::WriteContentRequest { action: 77, ..odd }]
        }),
        ("left", vec![message(Write, "h", (0, b"abc"), (9, ""))]),
    ];
    for (step, messages) in cases {
        let answer = write(client, messages).await;
        t.say(step, answer, |text| text);
    }
    let request = content::ListStatusesRequest::default();
    let mut statuses = client.list_statuses(ask(request)).await.unwrap().into_inner().statuses;
    statuses.sort_by(|a, b| a.r#ref.cmp(&b.r#ref));
    for status in statuses {
        let content::Status { r#ref, offset, total, expected, .. } = status;
        t.lines.push(format!("ingest {ref} {offset} {total} {expected:?}"));
    }
}

/// The numbers of directories are nobody's business, nor are those that
/// containerd puts before a key where its backends speak: `default/5/key`.
fn without_numbers(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let end = rest[at..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |n| at + n);
        kept.push_str(&rest[..at]);
        kept.push('N');
        rest = &rest[end..];
    }
    (kept + rest).replace("default/N/", "")
}

fn shown(mounts: Vec<Mount>) -> String {
    let shown = |mount: Mount| {
        let root = "io.containerd.snapshotter.v1.";
        let text = format!("{} {} {}", mount.r#type, mount.source, mount.options.join(","));
        assert!(text.contains(root), "{text}");
        without_numbers(&text)
    };
    mounts.into_iter().map(shown).collect::<Vec<_>>().join("; ")
}

fn named(info: snapshots::Info) -> String {
    format!("{} {:?} {} {:?}", info.name, info.parent, info.kind, info.labels)
}

#[test]
fn snapshots_are_served_as_containerd_does() {
    compare(async |channel, t| {
        let mut client = SnapshotsClient::new(channel);
        for name in ["", "nosuch"] {
            let snapshotter = name.to_owned();
            let request = snapshots::StatSnapshotRequest { snapshotter, key: "k".into() };
            t.say("snapshotter", client.stat(ask(request)).await, |_| "found".into());
        }
        for name in ["overlayfs", "native"] {
            lives(&mut client, t, name).await;
        }
    });
}

/// Errors of snapshotters come from backends, whose words have changed from
/// version to version, and which know a key by another name.
fn words(error: Status) -> Status {
    let message = without_numbers(error.message());
    let message = message.replace("not active nor view", "not active or view");
    Status::new(error.code(), message.replace("snapshot mount:", "active mount:"))
}

async fn lives(client: &mut SnapshotsClient<Channel>, t: &mut Transcript, snapshotter: &str) {
    let name = || snapshotter.to_owned();
    let prepare = |key: &str, parent: &str| {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        ask(snapshots::PrepareSnapshotRequest {
            snapshotter: name(),
            key,
            parent,
            labels: rooted(),
        })
    };
    let view = |key: &str, parent: &str| {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        ask(snapshots::ViewSnapshotRequest { snapshotter: name(), key, parent, labels: rooted() })
    };
    let commit = |key: &str, to: &str| {
        ask(snapshots::CommitSnapshotRequest {
            snapshotter: name(),
            name: to.to_owned(),
            key: key.to_owned(),
            labels: rooted(),
            ..Default::default()
        })
    };
    let stat = |key: &str| {
        ask(snapshots::StatSnapshotRequest { snapshotter: name(), key: key.to_owned() })
    };
    let mounts =
        |key: &str| ask(snapshots::MountsRequest { snapshotter: name(), key: key.to_owned() });
    let remove = |key: &str| {
        ask(snapshots::RemoveSnapshotRequest { snapshotter: name(), key: key.to_owned() })
    };
    let usage =
        |key: &str| ask(snapshots::UsageRequest { snapshotter: name(), key: key.to_owned() });

    for key in ["none"] {
        t.say("stat", client.stat(stat(key)).await.map_err(words), |_| "found".into());
        t.say("mounts", client.mounts(mounts(key)).await.map_err(words), |_| "found".into());
        t.say("usage", client.usage(usage(key)).await.map_err(words), |_| "found".into());
        t.say("remove", client.remove(remove(key)).await.map_err(words), |_| "removed".into());
        t.say("child", client.prepare(prepare("a", key)).await.map_err(words), |_| {
            "prepared".into()
        });
        t.say("view", client.view(view("a", key)).await.map_err(words), |_| "viewed".into());
    }
    let show_prepared =
        |a: tonic::Response<snapshots::PrepareSnapshotResponse>| shown(a.into_inner().mounts);
    let show_viewed =
        |a: tonic::Response<snapshots::ViewSnapshotResponse>| shown(a.into_inner().mounts);
    let show_mounts = |a: tonic::Response<snapshots::MountsResponse>| shown(a.into_inner().mounts);
    let show_stat = |a: tonic::Response<snapshots::StatSnapshotResponse>| {
        a.into_inner().info.map(named).unwrap_or_default()
    };
    t.say("prepare", client.prepare(prepare("a", "")).await.map_err(words), show_prepared);
    t.say("prepare again", client.prepare(prepare("a", "")).await.map_err(words), show_prepared);
    t.say(
        "of an active one",
        client.prepare(prepare("b", "a")).await.map_err(words),
        show_prepared,
    );
    t.say("mounts", client.mounts(mounts("a")).await.map_err(words), show_mounts);
    t.say("stat", client.stat(stat("a")).await.map_err(words), show_stat);
    t.say("commit none", client.commit(commit("none", "c")).await.map_err(words), |_| {
        "committed".into()
    });
    t.say("commit", client.commit(commit("a", "one")).await.map_err(words), |_| "committed".into());
    t.say("commit again", client.commit(commit("a", "one")).await.map_err(words), |_| {
        "committed".into()
    });
    t.say("stat", client.stat(stat("one")).await.map_err(words), show_stat);
    t.say("stat", client.stat(stat("a")).await.map_err(words), show_stat);
    t.say("mounts", client.mounts(mounts("one")).await.map_err(words), show_mounts);
    t.say("prepare", client.prepare(prepare("b", "one")).await.map_err(words), show_prepared);
    t.say("remove a parent", client.remove(remove("one")).await.map_err(words), |_| {
        "removed".into()
    });
    t.say("view", client.view(view("v", "one")).await.map_err(words), show_viewed);
    if snapshotter == "overlayfs" {
        // native says what it misses on disk.
        t.say("commit a view", client.commit(commit("v", "x")).await.map_err(words), |_| {
            "committed".into()
        });
    }
    t.say("commit to known", client.commit(commit("b", "one")).await.map_err(words), |_| {
        "committed".into()
    });
    t.say("commit", client.commit(commit("b", "two")).await.map_err(words), |_| "committed".into());
    t.say("view of two", client.view(view("w", "two")).await.map_err(words), show_viewed);
    t.say(
        "prepare of two",
        client.prepare(prepare("c", "two")).await.map_err(words),
        show_prepared,
    );
    for path in ["labels.colour", "parent"] {
        let mut labels = rooted();
        labels.insert("colour".to_owned(), "red".to_owned());
        let info = snapshots::Info { name: "two".into(), labels, ..Default::default() };
        let mask = prost_types::FieldMask { paths: vec![path.to_owned()] };
        let request = snapshots::UpdateSnapshotRequest {
            snapshotter: name(),
            info: Some(info),
            update_mask: Some(mask),
        };
        t.say(path, client.update(ask(request)).await.map_err(words), |answer| {
            answer.into_inner().info.map(named).unwrap_or_default()
        });
    }
    let list = snapshots::ListSnapshotsRequest { snapshotter: name(), ..Default::default() };
    let mut blocks = client.list(ask(list)).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(block) = blocks.message().await.unwrap() {
        found.extend(block.info.into_iter().map(named));
    }
    found.sort();
    t.lines.extend(found);
    for key in ["c", "w", "v", "two", "one", "one"] {
        t.say(key, client.remove(remove(key)).await.map_err(words), |_| "removed".into());
    }
    let cleanup = ask(snapshots::CleanupRequest { snapshotter: name() });
    // containerd's index stands between its service and what implements it,
    // so that it never works there.
    if let Err(error) = client.cleanup(cleanup).await {
        assert_eq!(error.code(), tonic::Code::Unimplemented, "{error}");
    }
}

#[test]
fn layers_are_applied_and_compared_as_containerd_does() {
    compare(async |channel, t| {
        let mut store = ContentClient::new(channel.clone());
        let mut graph = SnapshotsClient::new(channel.clone());
        let mut client = DiffClient::new(channel);
        let layer = layer();
        for (name, data) in [("layer", &layer[..]), ("junk", b"no archive at all")] {
            let session = vec![message(content::WriteAction::Commit, name, (0, data), (0, ""))];
            write(&mut store, session).await.unwrap();
        }
        let prepare = |key: &str, parent: &str| {
            ask(snapshots::PrepareSnapshotRequest {
                snapshotter: "overlayfs".into(),
                key: key.into(),
                parent: parent.into(),
                labels: rooted(),
            })
        };
        let apply = |media_type: &str, digest: &str, mounts: &[Mount]| {
            ask(diff::ApplyRequest {
                diff: Some(Descriptor {
                    media_type: media_type.into(),
                    digest: digest.into(),
                    ..Default::default()
                }),
                mounts: mounts.to_vec(),
                ..Default::default()
            })
        };
        let target = graph.prepare(prepare("t", "")).await.unwrap().into_inner().mounts;
        let digest = sha256(&layer);
        for (media_type, digest) in [
            (LAYER, sha256(b"none").as_str()),
            (LAYER, "garbage"),
            ("application/json", &digest),
            ("", &digest),
            (LAYER, &digest),
        ] {
            let answer = client.apply(apply(media_type, digest, &target)).await;
            t.say(&format!("apply {media_type:?} {digest:?}"), answer, |answer| {
                let applied = answer.into_inner().applied.unwrap();
                format!("{} {} {}", applied.media_type, applied.digest, applied.size)
            });
        }
        let junk = client.apply(apply(LAYER, &sha256(b"no archive at all"), &target)).await;
        t.say("junk", junk.map_err(|error| Status::new(error.code(), "")), |_| "applied".into());
        let commit = snapshots::CommitSnapshotRequest {
            snapshotter: "overlayfs".into(),
            name: "base".into(),
            key: "t".into(),
            labels: rooted(),
            ..Default::default()
        };
        graph.commit(ask(commit)).await.unwrap();
        let upper = graph.prepare(prepare("u", "base")).await.unwrap().into_inner().mounts;
        client.apply(apply(LAYER, &digest, &upper)).await.unwrap();
        for media_type in ["text/plain", LAYER, "", &format!("{LAYER}+zstd")] {
            let request = diff::DiffRequest {
                left: Vec::new(),
                right: upper.clone(),
                media_type: media_type.into(),
                labels: rooted(),
                ..Default::default()
            };
            let answer = client.diff(ask(request)).await.map(|a| a.into_inner().diff.unwrap());
            let Ok(made) = answer else {
                t.say(media_type, answer, |_| String::new());
                continue;
            };
            // Compressors differ; what they compress does not.
            let info = content::InfoRequest { digest: made.digest.clone() };
            let labels = store.info(ask(info)).await.unwrap().into_inner().info.unwrap().labels;
            let bytes = if media_type == LAYER { made.digest } else { String::new() };
            t.lines.push(format!("{} {bytes} {labels:?}", made.media_type));
        }
    });
}

/// A small archive with whiteouts left out, as one that made nothing.
fn layer() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: tar::EntryType, data: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        archive.append_data(&mut header, name, data).unwrap();
    };
    add("etc", tar::EntryType::Directory, b"");
    add("etc/hello", tar::EntryType::Regular, b"hello");
    add("bin", tar::EntryType::Directory, b"");
    archive.into_inner().unwrap()
}
