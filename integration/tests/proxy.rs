//! Snapshotters and differs in other processes: another daemon of ours, and
//! one that somebody else wrote (the SOCI snapshotter of Debian forky).

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use davit_integration::daemon::{Daemon, Server};
use davit_integration::layout::{self, CHECK, Layout};
use davit_integration::leftovers::becomes_empty;
use davit_integration::peers::{self, Client};
use davit_integration::registry::Registry;
use davit_integration::{image, must, wait_for};
use davit_protocols::grpc::containerd::services::diff::v1 as diff;
use davit_protocols::grpc::containerd::services::snapshots::v1 as wire;
use davit_snapshots::conformance;
use davit_types::Labels;
use tonic::Code;

mod proxy_support;
use proxy_support::{ByApi, NAMESPACE, Renaming, Snapshots, ask};

/// By which a client says what a snapshot will be.
const TARGET: &str = "containerd.io/snapshot.ref";

/// A daemon of ours with more settings than the others.
fn daemon(settings: &str) -> Daemon {
    daemon_of(Server::Davit, settings)
}

fn daemon_of(server: Server, settings: &str) -> Daemon {
    let mut daemon = Daemon::start(server);
    daemon.stop();
    let mut config = fs::File::options().append(true).open(daemon.path("config.toml")).unwrap();
    config.write_all(settings.as_bytes()).unwrap();
    daemon.launch();
    daemon
}

/// Settings of a daemon that collects nothing by itself: snapshots here are
/// nobody's, or another daemon's.
const KEEPING: &str = "[plugins.\"io.containerd.gc.v1.scheduler\"]\nmutation_threshold = 0\n\
                       deletion_threshold = 0\nstartup_delay = \"10h\"\n";

fn proxy(name: &str, kind: &str, address: &Path) -> String {
    format!("[proxy_plugins.{name}]\ntype = {kind:?}\naddress = {address:?}\n")
}

/// Two daemons, the snapshotter `front` of the first being `overlayfs` of the
/// second.
struct Pair {
    front: Daemon,
    renaming: Renaming,
    behind: Daemon,
}

fn pair() -> Pair {
    pair_with(Server::Davit)
}

fn pair_with(server: Server) -> Pair {
    let behind = daemon_of(server, KEEPING);
    let renaming = Renaming::start(&behind.socket(), "overlayfs");
    let front = daemon(&(proxy("front", "snapshot", renaming.address()) + KEEPING));
    Pair { front, renaming, behind }
}

#[test]
fn a_proxied_snapshotter_keeps_every_promise_and_is_left_with_nothing() {
    keeps_promises(&pair());
}

#[test]
fn a_proxied_snapshotter_of_containerd_does_too() {
    keeps_promises(&pair_with(Server::Containerd21));
}

fn keeps_promises(pair: &Pair) {
    let (front, behind) = (
        Snapshots::at(&pair.front.socket(), "front"),
        Snapshots::at(&pair.behind.socket(), "overlayfs"),
    );
    let scratch = tempfile::tempdir().unwrap();
    // The suite makes a backend for each check; all here are one daemon.
    let front: &'static Snapshots = Box::leak(Box::new(front));
    conformance::run(scratch.path(), |_| Box::new(ByApi::open(front)));
    assert_eq!(front.names(), [""; 0]);
    wait_for("what was removed goes there, too", 30, || behind.names().is_empty().then_some(()));
    // containerd would remove them with its next collection.
    if pair.behind.server() == Server::Davit {
        let directory = pair.behind.path("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
        becomes_empty(&directory, 30);
    }
    // What the other side is called by: NAMESPACE/NUMBER/KEY, as by containerd.
    let keys = pair.renaming.keys();
    assert!(keys.len() > 100);
    let numbers: BTreeSet<u64> = keys
        .iter()
        .map(|key| {
            let mut parts = key.splitn(3, '/');
            assert_eq!(parts.next(), Some(NAMESPACE), "{key}");
            let number = parts.next().unwrap().parse().unwrap();
            assert!(!parts.next().unwrap().is_empty(), "{key}");
            number
        })
        .collect();
    assert_eq!(numbers.len(), keys.len(), "a number was given twice");
}

#[test]
fn images_are_pulled_into_another_daemon_and_run_there() {
    let Pair { front, renaming: _renaming, behind } = pair();
    let registry = Registry::start();
    let layout = Layout::of(&layout::SMALL);
    let name = layout.push(&registry, "some/image:1");
    let list = |daemon: &Daemon, snapshotter: &str| {
        let mut ctr = daemon.ctr(Client::Ctr21);
        ctr.env("CONTAINERD_NAMESPACE", front.namespace());
        must(ctr.args(["snapshot", "--snapshotter", snapshotter, "ls"])).lines().count() - 1
    };
    let both = || (list(&front, "front"), list(&behind, "overlayfs"));
    let pull = ["image", "pull", "--plain-http", "--snapshotter", "front", &name];
    front.ctr_ok(Client::Ctr21, &pull);
    let layers = layout.layers("amd64").len();
    assert_eq!(both(), (layers, layers));
    let run = ["run", "-d", "--snapshotter", "front", &name, "long", "sleep", "1000"];
    front.ctr_ok(Client::Ctr21, &run);
    assert_eq!(both(), (layers + 1, layers + 1));
    let exec = ["task", "exec", "--exec-id", "x", "long"];
    assert_eq!(front.ctr_ok(Client::Ctr21, &[&exec[..], CHECK].concat()), "whole\n");
    front.ctr_ok(Client::Ctr21, &["task", "rm", "-f", "long"]);
    front.ctr_ok(Client::Ctr21, &["container", "rm", "long"]);
    front.ctr_ok(Client::Ctr21, &["image", "rm", "--sync", &name]);
    assert_eq!(list(&front, "front"), 0);
    wait_for("what was removed goes there, too", 30, || (both() == (0, 0)).then_some(()));
    let directory = behind.path("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
    becomes_empty(&directory, 30);
    assert_eq!(front.ctr_ok(Client::Ctr21, &["content", "ls", "-q"]), "");
}

#[test]
fn labels_parents_and_errors_are_the_clients_and_the_snapshotters() {
    let pair = pair();
    let (front, behind) = (
        Snapshots::at(&pair.front.socket(), "front"),
        Snapshots::at(&pair.behind.socket(), "overlayfs"),
    );
    let labels: Labels = [("containerd.io/snapshot/own", "1"), ("other", "2")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    front.prepare("a", "", &labels).unwrap();
    assert_eq!(front.stat("a").unwrap().labels, labels);
    // The snapshotter sees those alone that are its business.
    let there = behind.list(&[]).remove(0);
    assert_eq!(there.labels.keys().collect::<Vec<_>>(), ["containerd.io/snapshot/own"]);
    front.commit("base", "a", "", &labels).unwrap();
    front.prepare("b", "", &Labels::new()).unwrap();
    front.commit("top", "b", "base", &Labels::new()).unwrap();
    let top = front.stat("top").unwrap();
    assert_eq!((top.parent.as_str(), top.kind()), ("base", wire::Kind::Committed));
    let there = behind.list(&[]);
    let base = there.iter().find(|info| info.name.ends_with("/base")).unwrap();
    let top = there.iter().find(|info| info.name.ends_with("/top")).unwrap();
    assert_eq!(top.parent, base.name, "it was put on its parent there, too");

    let changed = front.label("top", [("x".to_owned(), "y".to_owned())].into()).unwrap();
    assert_eq!(changed.labels["x"], "y");
    assert_eq!(front.list(&["labels.x==y"]).len(), 1);
    assert_eq!(front.list(&["kind==committed"]).len(), 2);

    for (status, code, message) in [
        (
            front.prepare("top", "", &Labels::new()).unwrap_err(),
            Code::AlreadyExists,
            "snapshot \"top\": already exists",
        ),
        (
            front.prepare("x", "none", &Labels::new()).unwrap_err(),
            Code::NotFound,
            "parent snapshot none does not exist: not found",
        ),
        (
            front.stat("none").unwrap_err(),
            Code::NotFound,
            "snapshot none does not exist: not found",
        ),
        (
            front.remove("base").unwrap_err(),
            Code::FailedPrecondition,
            "cannot remove snapshot with child: failed precondition",
        ),
        (
            front.commit("z", "top", "", &Labels::new()).unwrap_err(),
            Code::FailedPrecondition,
            "failed to commit snapshot top: snapshot \"top\" is not active: failed precondition",
        ),
    ] {
        assert_eq!((status.code(), status.message()), (code, message));
    }
    for name in ["top", "base"] {
        front.remove(name).unwrap();
    }
    wait_for("what was removed goes there, too", 30, || behind.names().is_empty().then_some(()));
}

#[test]
fn a_layer_that_the_snapshotter_has_already_is_taken() {
    let pair = pair();
    let (front, behind) = (
        Snapshots::at(&pair.front.socket(), "front"),
        Snapshots::at(&pair.behind.socket(), "overlayfs"),
    );
    let target: Labels = [(TARGET.to_owned(), "chain".to_owned())].into();
    // As a snapshotter does that gets layers by itself.
    behind.prepare("fetched", "", &Labels::new()).unwrap();
    behind.commit("chain", "fetched", "", &target).unwrap();
    let refused = front.prepare("extract", "", &target).unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert_eq!(refused.message(), "target snapshot \"chain\" from snapshotter: already exists");
    assert_eq!(front.stat("chain").unwrap().kind(), wire::Kind::Committed);
    assert_eq!(front.names(), ["chain"]);
    // The next one need not ask.
    let refused = front.prepare("again", "", &target).unwrap_err();
    assert_eq!(refused.message(), "target snapshot \"chain\": already exists");
    front.view("look", "chain", &Labels::new()).unwrap();
    assert_eq!(front.mounts("look").unwrap().len(), 1);
    for key in ["look", "chain"] {
        front.remove(key).unwrap();
    }
    wait_for("the layer goes with its last user", 30, || behind.names().is_empty().then_some(()));
}

#[test]
fn what_a_crash_leaves_behind_is_removed_at_the_next_start() {
    let mut pair = pair();
    let behind = Snapshots::at(&pair.behind.socket(), "overlayfs");
    Snapshots::at(&pair.front.socket(), "front").prepare("kept", "", &Labels::new()).unwrap();
    pair.front.kill();
    // Made there, and the daemon died before it wrote that down.
    let lost = format!("{NAMESPACE}/999/lost");
    behind.prepare(&format!("{NAMESPACE}/998/x"), "", &Labels::new()).unwrap();
    behind.commit(&lost, &format!("{NAMESPACE}/998/x"), "", &Labels::new()).unwrap();
    behind.prepare(&format!("{NAMESPACE}/1000/on"), &lost, &Labels::new()).unwrap();
    assert_eq!(behind.names().len(), 3);
    pair.front.launch();
    wait_for("remains are removed", 30, || (behind.names().len() == 1).then_some(()));
    assert!(behind.names()[0].ends_with("/kept"));
    assert_eq!(Snapshots::at(&pair.front.socket(), "front").names(), ["kept"]);
}

#[test]
fn one_that_is_away_or_stuck_keeps_nobody_else_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let (stuck, away) = (directory.path().join("stuck.sock"), directory.path().join("away.sock"));
    // Takes connections and never says a word.
    let _listener = UnixListener::bind(&stuck).unwrap();
    let daemon =
        daemon(&(proxy("stuck", "snapshot", &stuck) + &proxy("away", "snapshot", &away) + KEEPING));
    let gone =
        Snapshots::at(&daemon.socket(), "away").prepare("a", "", &Labels::new()).unwrap_err();
    assert_eq!(gone.code(), Code::Unavailable, "{gone}");
    assert!(gone.message().contains(away.to_str().unwrap()), "{gone}");

    let hopeless = Snapshots::at(&daemon.socket(), "stuck");
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let mut client = hopeless.client();
            hopeless.runtime.spawn(async move {
                let message = wire::PrepareSnapshotRequest {
                    snapshotter: "stuck".into(),
                    key: format!("k{number}"),
                    ..Default::default()
                };
                client.prepare(ask(message)).await.map(drop)
            })
        })
        .collect();
    let own = Snapshots::at(&daemon.socket(), "overlayfs");
    for number in 0..20 {
        own.prepare(&format!("own-{number}"), "", &Labels::new()).unwrap();
        own.remove(&format!("own-{number}")).unwrap();
    }
    assert!(calls.iter().all(|call| !call.is_finished()), "a stuck snapshotter answered");
    let listed = daemon.ctr_ok(Client::Ctr21, &["plugins", "ls"]);
    for name in ["stuck", "away"] {
        let line = listed.lines().find(|line| line.contains(name)).unwrap();
        assert!(line.starts_with("io.containerd.snapshotter.v1"), "{line}");
        assert!(line.contains("ok"), "{line}");
    }
    let exports = daemon.ctr_ok(Client::Ctr21, &["plugins", "ls", "-d", "id==stuck"]);
    assert!(exports.contains(stuck.to_str().unwrap()), "{exports}");
}

#[test]
fn a_differ_that_cannot_is_followed_by_the_next() {
    let behind = daemon(KEEPING);
    let directory = tempfile::tempdir().unwrap();
    let (lower, upper) = (directory.path().join("lower"), directory.path().join("upper"));
    fs::create_dir_all(&lower).unwrap();
    fs::create_dir_all(&upper).unwrap();
    fs::write(upper.join("file"), "text").unwrap();
    // It is a snapshotter, and knows nothing of layers.
    let renaming = Renaming::start(&behind.socket(), "overlayfs");
    let settings = proxy("cannot", "diff", renaming.address())
        + &proxy("can", "diff", &behind.socket())
        + "[plugins.\"io.containerd.service.v1.diff-service\"]\n";
    let with = |order: &str| daemon(&format!("{settings}default = {order}\n{KEEPING}"));
    let compare = |daemon: &Daemon| {
        let snapshots = Snapshots::at(&daemon.socket(), "overlayfs");
        let mut client = diff::diff_client::DiffClient::new(snapshots.channel.clone());
        let bind = |path: &Path| davit_protocols::grpc::containerd::types::Mount {
            r#type: "bind".into(),
            source: path.to_str().unwrap().into(),
            target: String::new(),
            options: vec!["rbind".into(), "ro".into()],
        };
        let message = diff::DiffRequest {
            left: vec![bind(&lower)],
            right: vec![bind(&upper)],
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
            ..Default::default()
        };
        let made = snapshots.runtime.block_on(client.diff(ask(message))).unwrap();
        made.into_inner().diff.unwrap().digest
    };
    let content = |daemon: &Daemon| {
        let mut ctr = daemon.ctr(Client::Ctr21);
        must(ctr.env("CONTAINERD_NAMESPACE", NAMESPACE).args(["content", "ls", "-q"]))
    };
    let falls_through = with(r#"["cannot", "walking"]"#);
    let digest = compare(&falls_through);
    assert_eq!(content(&falls_through).trim(), digest);
    assert_eq!(content(&behind), "");
    let asks = with(r#"["can", "walking"]"#);
    assert_eq!(compare(&asks), digest);
    assert_eq!(content(&behind).trim(), digest, "it was made by the other");
    assert_eq!(content(&asks), "");
}

/// Debian's SOCI snapshotter, until it is dropped.
struct Soci(Child);

impl Soci {
    fn start(directory: &Path) -> Self {
        let log = fs::File::create(directory.join("soci.log")).unwrap();
        let child = Command::new(peers::forky("soci-snapshotter-grpc"))
            .arg("--address")
            .arg(directory.join("soci.sock"))
            .arg("--root")
            .arg(directory.join("soci"))
            .args(["--log-level", "debug"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Soci {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn containers_run_on_a_snapshotter_that_somebody_else_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let soci = Soci::start(directory.path());
    let address = directory.path().join("soci.sock");
    let mut daemon = daemon(&proxy("soci", "snapshot", &address));
    wait_for("the snapshotter listens", 20, || address.exists().then_some(()));
    for client in [Client::Ctr16, Client::Ctr21] {
        daemon.import_image(client);
        let run = ["run", "--rm", "--snapshotter", "soci", image::NAME, "c1", "echo", "hello"];
        assert_eq!(daemon.ctr_ok(client, &run), "hello\n", "{client:?}");
    }
    let list = |daemon: &Daemon| {
        daemon.ctr_ok(Client::Ctr16, &["snapshot", "--snapshotter", "soci", "ls"])
    };
    assert_eq!(list(&daemon).lines().count(), 2, "the image's one layer\n{}", list(&daemon));
    // A container survives the daemon, and its snapshotter the daemon's death.
    let run = ["run", "-d", "--snapshotter", "soci", image::NAME, "c2", "sleep", "1000"];
    daemon.ctr_ok(Client::Ctr16, &run);
    daemon.kill();
    daemon.launch();
    assert_eq!(list(&daemon).lines().count(), 3);
    assert!(daemon.ctr_ok(Client::Ctr16, &["task", "ls"]).contains("RUNNING"));
    daemon.ctr_ok(Client::Ctr16, &["task", "rm", "-f", "c2"]);
    daemon.ctr_ok(Client::Ctr16, &["container", "rm", "c2"]);
    daemon.ctr_ok(Client::Ctr21, &["image", "rm", "--sync", image::NAME]);
    assert_eq!(list(&daemon).lines().count(), 1, "{}", list(&daemon));
    let directories = directory.path().join("soci/snapshotter/snapshots");
    becomes_empty(&directories, 30);
    drop(soci);
    let mut gone = daemon.ctr(Client::Ctr16);
    gone.args(["snapshot", "--snapshotter", "soci", "prepare", "x"]);
    let output = gone.output().unwrap();
    assert!(!output.status.success());
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("is away"), "{words}");
}
