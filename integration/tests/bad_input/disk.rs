//! A full disk: what needs room is refused
//! with a code that says why, what was begun is gone, what needs none goes on,
//! and with room again all works as before.

use std::fs;
use std::io::Write;
use std::path::Path;

use davit_integration::api::{Api, Call};
use davit_integration::daemon::Shim;
use davit_integration::{Daemon, Server, image, peers};
use davit_protocols::grpc::containerd::services::containers::v1 as containers;
use davit_protocols::grpc::containerd::services::content::v1 as content;
use davit_protocols::grpc::containerd::services::leases::v1 as leases;
use davit_protocols::grpc::containerd::services::snapshots::v1 as snapshots;
use davit_protocols::grpc::containerd::services::tasks::v1 as tasks;
use tonic::Code;

use crate::{remains, tasks as rows};

/// davitd with `root` and `state` on small disks of their own.
fn daemon() -> Daemon {
    let disks = [("root", "size=6m"), ("state", "size=2m")];
    let daemon = Daemon::on_disks(Server::Davit, Shim::Ours, &disks);
    image::write_rootfs(&daemon.path("rootfs")).unwrap();
    daemon
}

/// Takes all the room that a disk has.
fn fill(disk: &Path) {
    let mut filler = fs::File::create(disk.join("filler")).unwrap();
    for size in [1 << 16, 1 << 10, 1] {
        while filler.write_all(&vec![7; size]).is_ok() {}
    }
}

/// Calls that need a lot of room.
fn large(own: &str) -> Vec<Call> {
    let blob = content::WriteContentRequest {
        action: content::WriteAction::Commit.into(),
        r#ref: "large".into(),
        data: vec![7; 1 << 20].into(),
        ..Default::default()
    };
    let big = |n: usize| format!("{n}").repeat(900);
    let labels = (0..400).map(|n| (format!("label-{n}"), big(n))).collect();
    let container = containers::Container { labels, ..rows::working(own, "large", Path::new("/")) };
    let create = containers::CreateContainerRequest { container: Some(container) };
    vec![
        Call::new(own, ("content", "Write"), "large", &blob),
        Call::new(own, ("containers", "Create"), "large", &create),
    ]
}

fn abort(own: &str) -> Call {
    let abort = content::AbortRequest { r#ref: "large".into() };
    Call::new(own, ("content", "Abort"), "large", &abort)
}

/// Small things, which may or may not find room.
fn small(own: &str) -> Vec<Call> {
    let prepare = snapshots::PrepareSnapshotRequest {
        snapshotter: "overlayfs".into(),
        key: "small".into(),
        labels: [("containerd.io/gc.root".to_owned(), "test".to_owned())].into(),
        ..Default::default()
    };
    let lease = leases::CreateRequest { id: "small".into(), ..Default::default() };
    vec![
        Call::new(own, ("snapshots", "Prepare"), "small", &prepare),
        Call::new(own, ("leases", "Create"), "small", &lease),
    ]
}

fn unmake(own: &str) -> Vec<Call> {
    let remove =
        snapshots::RemoveSnapshotRequest { snapshotter: "overlayfs".into(), key: "small".into() };
    let delete = leases::DeleteRequest { id: "small".into(), sync: true };
    let forget = containers::DeleteContainerRequest { id: "large".into() };
    vec![
        Call::new(own, ("snapshots", "Remove"), "small", &remove),
        Call::new(own, ("leases", "Delete"), "small", &delete),
        Call::new(own, ("containers", "Delete"), "large", &forget),
    ]
}

fn code(api: &Api, call: &Call) -> (Code, String) {
    match api.call(call) {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => (status.code(), status.message().to_owned()),
    }
}

fn must(api: &Api, call: &Call) {
    let answer = code(api, call);
    assert_eq!(answer.0, Code::Ok, "{}: {}", call.label, answer.1);
}

/// Whether the words say that there is no room.
fn says_full(words: &str) -> bool {
    ["o space left on device", "database or disk is full"].iter().any(|said| words.contains(said))
}

#[test]
fn a_full_disk_is_refused_and_leaves_nothing() {
    let daemon = daemon();
    let (api, own) = (Api::connect(&daemon.socket()), daemon.namespace());
    let record = containers::CreateContainerRequest {
        container: Some(rows::working(&own, "c", &daemon.path(""))),
    };
    must(&api, &Call::new(&own, ("containers", "Create"), "c", &record));
    let create = tasks::CreateTaskRequest { container_id: "c".into(), ..Default::default() };
    let create = Call::new(&own, ("tasks", "Create"), "c", &create);
    let delete = tasks::DeleteTaskRequest { container_id: "c".into() };
    let delete = Call::new(&own, ("tasks", "Delete"), "c", &delete);
    let read = Call::new(&own, ("containers", "List"), "all", &());

    fill(&daemon.path("root"));
    for call in large(&own) {
        let (code, words) = code(&api, &call);
        assert_ne!(code, Code::Ok, "{}", call.label);
        assert!(says_full(&words), "{}: {code:?} {words}", call.label);
    }
    for call in small(&own) {
        let (code, words) = code(&api, &call);
        assert!(code == Code::Ok || says_full(&words), "{}: {code:?} {words}", call.label);
    }
    must(&api, &read);
    fs::remove_file(daemon.path("root/filler")).unwrap();
    let _ = code(&api, &abort(&own));
    for call in small(&own) {
        let (code, words) = code(&api, &call);
        assert!(matches!(code, Code::Ok | Code::AlreadyExists), "{}: {words}", call.label);
    }

    fill(&daemon.path("state"));
    let (refused, words) = code(&api, &create);
    assert_ne!(refused, Code::Ok);
    assert!(says_full(&words), "{refused:?} {words}");
    must(&api, &read);
    fs::remove_file(daemon.path("state/filler")).unwrap();
    must(&api, &create);
    must(&api, &delete);

    let forget = containers::DeleteContainerRequest { id: "c".into() };
    must(&api, &Call::new(&own, ("containers", "Delete"), "c", &forget));
    for call in unmake(&own) {
        let (code, words) = code(&api, &call);
        assert!(matches!(code, Code::Ok | Code::NotFound), "{}: {words}", call.label);
    }
    remains::assert_none(&daemon);
}

#[test]
fn a_root_that_cannot_be_written_is_named_and_refused() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let root = at("root");
    fs::create_dir(&root).unwrap();
    let read_only = nix::mount::MsFlags::MS_RDONLY;
    nix::mount::mount(Some("tmpfs"), &root, Some("tmpfs"), read_only, None::<&str>).unwrap();
    let output = std::process::Command::new(peers::ours("davitd"))
        .args(["--config", "/dev/null", "--root"])
        .arg(&root)
        .arg("--state")
        .arg(at("state"))
        .arg("--address")
        .arg(at("daemon.sock"))
        .output();
    nix::mount::umount(&root).unwrap();
    let output = output.unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains(root.to_str().unwrap()), "{words}");
    assert!(words.contains("ead-only file system"), "{words}");
    assert!(!at("daemon.sock").exists(), "the socket is there");
}
