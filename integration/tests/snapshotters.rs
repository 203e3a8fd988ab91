//! Containers on every snapshotter that keeps its own way of storing layers:
//! made by both clients, and gone with everything when they are removed.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use davit_integration::daemon::{Daemon, Server};
use davit_integration::fault_proxy::{Fault, FaultProxy};
use davit_integration::layout::{self, CHECK, Layout};
use davit_integration::leftovers::{becomes_empty, mounts_below};
use davit_integration::peers::Client;
use davit_integration::registry::Registry;
use davit_integration::{describe, image, must, wait_for};
use tempfile::TempDir;

/// An empty btrfs in a file, mounted until it is dropped.
struct Disk(TempDir);

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (image, target) = (dir.path().join("image"), dir.path().join("disk"));
        fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        fs::create_dir(&target).unwrap();
        must(Command::new("mkfs.btrfs").arg("-q").arg(&image));
        must(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&target));
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        must(Command::new("umount").arg("--lazy").arg(self.path()));
    }
}

/// A daemon with the btrfs snapshotter on `disk`.
fn daemon(disk: &Path) -> Daemon {
    let mut daemon = Daemon::start(Server::Davit);
    daemon.stop();
    let mut config = fs::File::options().append(true).open(daemon.path("config.toml")).unwrap();
    let table = "plugins.\"io.containerd.snapshotter.v1.btrfs\"";
    writeln!(config, "[{table}]\nroot_path = {:?}", disk.join("btrfs")).unwrap();
    daemon.launch();
    daemon
}

fn snapshots(daemon: &Daemon, snapshotter: &str) -> String {
    daemon.ctr_ok(Client::Ctr16, &["snapshot", "--snapshotter", snapshotter, "ls"])
}

/// Everything that a client does with one container, and with its image.
fn live(daemon: &mut Daemon, snapshotter: &str, directory: &Path) {
    for client in [Client::Ctr16, Client::Ctr21] {
        daemon.import_image(client);
        let words = ["echo kept > /tmp/file && rm /bin/yes && cat /tmp/file"];
        let run = ["run", "--rm", "--snapshotter", snapshotter, image::NAME, "c1", "sh", "-c"];
        let said = daemon.ctr_ok(client, &[&run[..], &words[..]].concat());
        assert_eq!(said, "kept\n", "{snapshotter} by {client:?}");
        let says = daemon.ctr_ok(
            client,
            &["run", "--rm", "--snapshotter", snapshotter, image::NAME, "c1", "ls", "/tmp"],
        );
        assert_eq!(says, "", "nothing of one container is in the next");
    }
    let run = ["run", "-d", "--snapshotter", snapshotter, image::NAME, "c2", "sleep", "1000"];
    daemon.ctr_ok(Client::Ctr21, &run);
    let usage = ["snapshot", "--snapshotter", snapshotter, "usage"];
    assert_eq!(daemon.ctr_ok(Client::Ctr16, &usage).lines().count(), 3);
    daemon.kill();
    daemon.launch();
    assert_eq!(snapshots(daemon, snapshotter).lines().count(), 3);
    let exec = ["task", "exec", "--exec-id", "x", "c2", "cat", "/bin/busybox"];
    assert!(daemon.ctr(Client::Ctr16).args(exec).output().unwrap().status.success());
    daemon.ctr_ok(Client::Ctr16, &["task", "rm", "-f", "c2"]);
    daemon.ctr_ok(Client::Ctr16, &["container", "rm", "c2"]);
    daemon.ctr_ok(Client::Ctr21, &["image", "rm", "--sync", image::NAME]);
    assert_eq!(snapshots(daemon, snapshotter).lines().count(), 1);
    becomes_empty(directory, 30);
    assert!(mounts_below(directory).is_empty(), "{:?}", mounts_below(directory));
}

/// Pulls an image of several layers, with deletions and hard links, which a
/// container finds as they should be.
fn pulled(daemon: &Daemon, snapshotter: &str) {
    let davit = |words: &[&str]| must(&mut daemon.davit(words));
    let registry = Registry::start();
    let layout = Layout::of(&layout::SMALL);
    let name = layout.push(&registry, "some/image:1");
    davit(&["pull", "--snapshotter", snapshotter, &name]);
    let layers = layout.layers("amd64").len();
    assert_eq!(snapshots(daemon, snapshotter).lines().count(), 1 + layers);
    let run = [&["run", "--rm", "--snapshotter", snapshotter, &name], CHECK].concat();
    assert_eq!(davit(&run), "whole\n", "{snapshotter}");
    davit(&["rmi", &name]);
    assert_eq!(snapshots(daemon, snapshotter).lines().count(), 1, "{snapshotter}");
}

#[test]
fn erofs_keeps_layers_as_images() {
    let disk = Disk::new();
    let mut daemon = daemon(&disk.path());
    pulled(&daemon, "erofs");
    let directory = daemon.path("root/io.containerd.snapshotter.v1.erofs/snapshots");
    live(&mut daemon, "erofs", &directory);
}

#[test]
fn erofs_takes_layers_in_any_order() {
    let disk = Disk::new();
    let daemon = daemon(&disk.path());
    let registry = Registry::start();
    let layout = Layout::of(&layout::SMALL);
    layout.push(&registry, "some/image:1");
    // The lowest layer takes some seconds.
    let lowest = layout.layers("amd64").remove(0);
    let rate = fs::metadata(layout.file(&lowest)).unwrap().len() / 4;
    let proxy = FaultProxy::start(registry.address(), move |asked| {
        match asked.is_blob() && asked.target.ends_with(&lowest) {
            true => Fault::Slow(rate),
            false => Fault::None,
        }
    });
    let reference = format!("{}/some/image:1", proxy.host());
    let mut pull = daemon.ctr(Client::Ctr21);
    pull.args(["image", "pull", "--plain-http", "--snapshotter", "erofs", &reference]);
    let mut pull = pull.stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_for("two layers are being unpacked", 30, || {
        let list = snapshots(&daemon, "erofs");
        (list.lines().filter(|line| line.starts_with("extract-")).count() > 1).then_some(())
    });
    assert!(pull.wait().unwrap().success());
    let run = ["run", "--rm", "--snapshotter", "erofs", &reference, "c1"];
    assert_eq!(daemon.ctr_ok(Client::Ctr21, &[&run[..], CHECK].concat()), "whole\n");
    daemon.ctr_ok(Client::Ctr21, &["image", "rm", "--sync", &reference]);
    let directory = daemon.path("root/io.containerd.snapshotter.v1.erofs/snapshots");
    becomes_empty(&directory, 30);
    assert!(mounts_below(&directory).is_empty(), "{:?}", mounts_below(&directory));
}

/// A daemon whose overlays are brought to the disk by nobody.
fn volatile(server: Server) -> Daemon {
    let table = "plugins.\"io.containerd.snapshotter.v1.overlayfs\"";
    Daemon::with_config(server, &format!("[{table}]\nmount_options = [\"volatile\"]\n"))
}

/// The options of the root of a running container, as the kernel tells them.
fn root_options(daemon: &Daemon, container: &str) -> String {
    let exec = ["task", "exec", "--exec-id", "root", container, "cat", "/proc/self/mountinfo"];
    let table = daemon.ctr_ok(Client::Ctr21, &exec);
    let root = table.lines().find(|line| line.split(' ').nth(4) == Some("/"));
    let (_, options) = root.and_then(|line| line.rsplit_once(' ')).expect("there is a root");
    options.to_owned()
}

/// The names in the layer that a snapshot has on its parent.
fn changes(daemon: &Daemon, snapshot: &str) -> Vec<String> {
    let layer = daemon.path("layer");
    let to = fs::File::create(&layer).unwrap();
    let mut diff = daemon.ctr(Client::Ctr21);
    assert!(diff.args(["snapshot", "diff", snapshot]).stdout(to).status().unwrap().success());
    let list = must(Command::new("tar").arg("-tzf").arg(&layer));
    list.lines().map(str::to_owned).collect()
}

fn ctr(daemon: &Daemon, words: &[&str]) -> String {
    daemon.ctr_ok(Client::Ctr21, words)
}

fn lives_on_volatile_overlays(server: Server) {
    let mut daemon = volatile(server);
    let registry = Registry::start();
    let name = Layout::of(&layout::SMALL).push(&registry, "some/image:1");
    ctr(&daemon, &["image", "pull", "--plain-http", &name]);
    let check = [&["run", "--rm", &name, "check"], CHECK].concat();
    assert_eq!(ctr(&daemon, &check), "whole\n");
    writes_on_a_volatile_root(&mut daemon, &name);
    assert_eq!(ctr(&daemon, &check), "whole\n");
    ctr(&daemon, &["image", "rm", "--sync", &name]);
    assert_eq!(snapshots(&daemon, "overlayfs").lines().count(), 1);
    let directory = daemon.path("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
    becomes_empty(&directory, 30);
    let state = daemon.path("state");
    assert!(mounts_below(&state).is_empty(), "{:?}", mounts_below(&state));
}

/// A container that goes on while its layer is read, and its daemon dies.
fn writes_on_a_volatile_root(daemon: &mut Daemon, name: &str) {
    let script = "echo new >/data/new && rm /data/file && echo ready && exec sleep 1000";
    let log = daemon.path("said");
    let to = format!("file://{}", log.display());
    ctr(daemon, &["run", "-d", "--log-uri", &to, name, "long", "sh", "-c", script]);
    wait_for("it has written", 20, || (fs::read_to_string(&log).ok()? == "ready\n").then_some(()));
    let options = root_options(daemon, "long");
    // Newer kernels have another word for it.
    let is_volatile = |option: &str| matches!(option, "volatile" | "fsync=volatile");
    assert!(options.split(',').any(is_volatile), "{options}");
    let layer = changes(daemon, "long");
    for name in ["data/new", "data/.wh.file"] {
        assert!(layer.iter().any(|entry| entry == name), "{name} is not in {layer:?}");
    }
    daemon.kill();
    daemon.launch();
    let exec = ["task", "exec", "--exec-id", "x", "long", "cat", "/data/new"];
    assert_eq!(ctr(daemon, &exec), "new\n");
    assert_eq!(changes(daemon, "long"), layer);
    ctr(daemon, &["task", "rm", "-f", "long"]);
    // The kernel mounts such an upper directory once, and never again.
    let mut again = daemon.ctr(Client::Ctr21);
    let output = again.args(["task", "start", "-d", "long"]).output().unwrap();
    let told = describe(&again, &output);
    assert!(!output.status.success() && told.contains("failed to mount rootfs"), "{told}");
    ctr(daemon, &["snapshot", "commit", "kept", "long"]);
    assert_eq!(changes(daemon, "kept"), layer);
    ctr(daemon, &["container", "rm", "long"]);
    ctr(daemon, &["snapshot", "rm", "kept"]);
}

#[test]
fn overlays_may_be_volatile() {
    lives_on_volatile_overlays(Server::Davit);
}

#[test]
fn overlays_may_be_volatile_in_containerd() {
    lives_on_volatile_overlays(Server::Containerd21);
}

#[test]
fn btrfs_keeps_layers_as_subvolumes() {
    let disk = Disk::new();
    let mut daemon = daemon(&disk.path());
    pulled(&daemon, "btrfs");
    let directory = disk.path().join("btrfs/snapshots");
    live(&mut daemon, "btrfs", &directory);
    let left = must(Command::new("btrfs").args(["subvolume", "list"]).arg(disk.path()));
    assert_eq!(left, "");
}
