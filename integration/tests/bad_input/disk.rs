//! A full disk: what needs room is refused with a code that says why, what was
//! begun is gone, what needs none goes on, and with room again all works as
//! before. A disk that the kernel makes read-only beneath a running daemon.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use davit_integration::api::{Api, Call};
use davit_integration::daemon::Shim;
use davit_integration::{Client, Daemon, Server, image, must as done, peers, wait_for};
use davit_protocols::grpc::containerd::services::containers::v1 as containers;
use davit_protocols::grpc::containerd::services::content::v1 as content;
use davit_protocols::grpc::containerd::services::events::v1 as events;
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

    // The collection after the start would take what is kept for a full disk,
    // and give the next call room.
    wait_for("the first collection", 20, || {
        daemon.log().contains("collected garbage").then_some(())
    });
    fill(&daemon.path("root"));
    for call in large(&own) {
        let (code, words) = code(&api, &call);
        assert_eq!(code, Code::ResourceExhausted, "{}: {words}", call.label);
        assert!(says_full(&words), "{}: {words}", call.label);
    }
    for call in small(&own) {
        let (code, words) = code(&api, &call);
        let refused = code == Code::ResourceExhausted && says_full(&words);
        assert!(code == Code::Ok || refused, "{}: {code:?} {words}", call.label);
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
    assert_eq!(refused, Code::ResourceExhausted, "{words}");
    assert!(says_full(&words), "{words}");
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
    let output = Command::new(peers::ours("davitd"))
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

/// Calls to one container's task.
struct Task {
    record: Call,
    create: Call,
    start: Call,
    kill: Call,
    wait: Call,
    delete: Call,
    forget: Call,
}

impl Task {
    fn of(daemon: &Daemon, id: &str) -> Self {
        let own = &daemon.namespace();
        let container_id = || id.to_owned();
        let container = rows::working(own, id, &daemon.path(""));
        let record = containers::CreateContainerRequest { container: Some(container) };
        let create =
            tasks::CreateTaskRequest { container_id: container_id(), ..Default::default() };
        let start = tasks::StartRequest { container_id: container_id(), ..Default::default() };
        let kill =
            tasks::KillRequest { container_id: container_id(), signal: 9, ..Default::default() };
        let wait = tasks::WaitRequest { container_id: container_id(), ..Default::default() };
        let delete = tasks::DeleteTaskRequest { container_id: container_id() };
        let forget = containers::DeleteContainerRequest { id: container_id() };
        Self {
            record: Call::new(own, ("containers", "Create"), id, &record),
            create: Call::new(own, ("tasks", "Create"), id, &create),
            start: Call::new(own, ("tasks", "Start"), id, &start),
            kill: Call::new(own, ("tasks", "Kill"), id, &kill),
            wait: Call::new(own, ("tasks", "Wait"), id, &wait),
            delete: Call::new(own, ("tasks", "Delete"), id, &delete),
            forget: Call::new(own, ("containers", "Delete"), id, &forget),
        }
    }

    fn run(&self, api: &Api) {
        for call in [&self.record, &self.create, &self.start] {
            must(api, call);
        }
    }

    /// Kills it; the exit is told to whoever waits, and by an event.
    fn killed(&self, daemon: &Daemon, api: &Api) {
        let log = daemon.path("events");
        let file = fs::File::create(&log).unwrap();
        let mut listener = daemon.ctr(Client::Ctr16).arg("events").stdout(file).spawn().unwrap();
        let heard = |word: &str| fs::read_to_string(&log).unwrap().contains(word);
        wait_for("the listener hears something", 20, || {
            let topic = ("events", "Publish");
            let type_url = "containerd.events.NamespaceDelete".into();
            let event = Some(prost_types::Any { type_url, ..Default::default() });
            let publish = events::PublishRequest { topic: "/probe".into(), event };
            let _ = api.call(&Call::new(&daemon.namespace(), topic, "probe", &publish));
            heard("/probe").then_some(())
        });
        must(api, &self.kill);
        let exit: tasks::WaitResponse = api.ask(&self.wait).unwrap();
        assert_eq!(exit.exit_status, 137);
        wait_for("the event", 20, || heard("/tasks/exit").then_some(()));
        listener.kill().unwrap();
        listener.wait().unwrap();
    }
}

/// An exit that cannot be recorded is told all the same, and the log says so.
#[test]
fn an_exit_on_a_full_disk_is_delivered() {
    let daemon = daemon();
    let api = Api::connect(&daemon.socket());
    let task = Task::of(&daemon, "c");
    task.run(&api);
    fill(&daemon.path("state"));
    task.killed(&daemon, &api);
    let deleted: tasks::DeleteResponse = api.ask(&task.delete).unwrap();
    assert_eq!(deleted.exit_status, 137);
    let log = daemon.log();
    let told = log.lines().any(|line| line.contains("exit") && says_full(line));
    assert!(told, "nothing is said of the record\n{log}");
    fs::remove_file(daemon.path("state/filler")).unwrap();
    must(&api, &task.forget);
    task.run(&api);
    must(&api, &task.kill);
    must(&api, &task.wait);
    must(&api, &task.delete);
    must(&api, &task.forget);
    remains::assert_none(&daemon);
}

/// A file system of its own for the directory `name`; the kernel makes it
/// read-only at the first error.
fn fragile(daemon: &Daemon, name: &str) {
    let (disk, at) = (daemon.path(&format!("{name}.disk")), daemon.path(name));
    fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    done(Command::new("mkfs.ext4").args(["-q", "-F", "-O", "^has_journal"]).arg(&disk));
    fs::create_dir(&at).unwrap();
    done(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).arg(&disk).arg(&at));
}

/// Has the kernel meet an error on that file system.
fn damage(daemon: &Daemon, name: &str) {
    let source = done(Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(daemon.path(name)));
    let device = Path::new(source.trim()).file_name().unwrap().to_owned();
    let trigger: PathBuf = Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error");
    fs::write(trigger, "a test").unwrap();
    wait_for("a read-only file system", 20, || {
        fs::write(daemon.path(name).join("probe"), "").is_err().then_some(())
    });
}

fn says_read_only(words: &str) -> bool {
    ["ead-only file system", "readonly database"].iter().any(|said| words.contains(said))
}

#[test]
fn a_root_that_turns_read_only_is_told_and_tasks_go_on() {
    let daemon = Daemon::on_prepared(Server::Davit, Shim::Ours, |daemon| {
        fragile(daemon, "root");
        image::write_rootfs(&daemon.path("rootfs")).unwrap();
    });
    let (api, own) = (Api::connect(&daemon.socket()), daemon.namespace());
    let (task, other) = (Task::of(&daemon, "c"), Task::of(&daemon, "other"));
    task.run(&api);
    must(&api, &other.record);
    damage(&daemon, "root");
    for call in large(&own).iter().chain(&small(&own)).chain([&other.create]) {
        let (code, words) = code(&api, call);
        assert_eq!(code, Code::Unknown, "{}: {words}", call.label);
        assert!(says_read_only(&words), "{}: {words}", call.label);
    }
    must(&api, &Call::new(&own, ("containers", "List"), "all", &()));
    task.killed(&daemon, &api);
    must(&api, &task.delete);
    assert_eq!(code(&api, &task.start).0, Code::NotFound);
}

#[test]
fn a_state_that_turns_read_only_is_told_and_exits_are_delivered() {
    let daemon = Daemon::on_prepared(Server::Davit, Shim::Ours, |daemon| {
        fragile(daemon, "state");
        image::write_rootfs(&daemon.path("rootfs")).unwrap();
    });
    let (api, own) = (Api::connect(&daemon.socket()), daemon.namespace());
    let (task, other) = (Task::of(&daemon, "c"), Task::of(&daemon, "other"));
    task.run(&api);
    must(&api, &other.record);
    damage(&daemon, "state");
    let (refused, words) = code(&api, &other.create);
    assert_eq!(refused, Code::Unknown, "{words}");
    assert!(says_read_only(&words), "{words}");
    must(&api, &Call::new(&own, ("containers", "List"), "all", &()));
    task.killed(&daemon, &api);
    must(&api, &other.forget);
}
