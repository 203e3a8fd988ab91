//! The stargz snapshotter under davitd: layers that are not fetched before
//! somebody reads them.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use davit_integration::daemon::{Daemon, Server};
use davit_integration::layout::{self, CHECK_FILES, Layout};
use davit_integration::leftovers::{mounts_below, names_in};
use davit_integration::peers::{self, Client};
use davit_integration::registry::Registry;
use davit_integration::{must, wait_for};
use tempfile::TempDir;

const CTR: Client = Client::Ctr21;
const NAME: &str = "stargz";

/// The snapshotter, on a socket in a directory of its own, until it is
/// dropped.
struct Stargz {
    process: Child,
    directory: TempDir,
}

impl Stargz {
    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("davit-stargz-").tempdir().unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let process = Command::new(peers::forky(NAME))
            .arg(directory.path().join("sock"))
            .arg(directory.path().join("root"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let stargz = Self { process, directory };
        wait_for("the snapshotter listens", 30, || stargz.socket().exists().then_some(()));
        stargz
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    fn snapshots(&self) -> PathBuf {
        self.directory.path().join("root/snapshotter/snapshots")
    }

    /// Layers that come from the registry when they are read: mounted by FUSE.
    fn lazy_layers(&self) -> usize {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let below = self.snapshots().to_str().unwrap().to_owned();
        table.lines().filter(|line| line.contains(&below) && line.contains(" - fuse.")).count()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Stargz {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the snapshotter\n{}", self.log());
        }
        // Nothing answers for these mounts any more.
        for target in mounts_below(self.directory.path()).into_iter().rev() {
            let _ = nix::mount::umount2(&target, nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// davitd with the snapshotter, and a registry with an image.
struct Seat {
    daemon: Daemon,
    stargz: Stargz,
    registry: Registry,
    layout: Layout,
    /// The image as it is.
    plain: String,
}

impl Seat {
    fn new() -> Self {
        let (stargz, registry) = (Stargz::start(), Registry::start());
        let tables = format!(
            "[proxy_plugins.{NAME}]\ntype = \"snapshot\"\naddress = {:?}\n\
             [proxy_plugins.{NAME}.exports]\nenable_remote_snapshot_annotations = \"true\"\n",
            stargz.socket()
        );
        let daemon = Daemon::with_config(Server::Davit, &tables);
        let layout = Layout::of(&layout::GZIP);
        let plain = layout.push(&registry, "some/image:plain");
        Self { daemon, stargz, registry, layout, plain }
    }

    /// `ctr-remote`, which knows of such images, on the daemon.
    fn ctr_remote(&self, words: &[&str]) -> String {
        let mut command = Command::new(peers::forky("ctr-remote"));
        command.arg("--address").arg(self.daemon.socket()).stdin(Stdio::null());
        command.env("CONTAINERD_NAMESPACE", self.daemon.namespace());
        must(command.args(words))
    }

    /// Makes an eStargz image of the plain one through davitd, and pushes it.
    fn convert(&self) -> String {
        let lazy = self.registry.reference("some/image:lazy");
        self.daemon.ctr_ok(CTR, &["image", "pull", "--plain-http", &self.plain]);
        self.ctr_remote(&["image", "convert", "--oci", "--estargz", &self.plain, &lazy]);
        self.daemon.ctr_ok(CTR, &["image", "push", "--plain-http", &lazy]);
        self.daemon.ctr_ok(CTR, &["image", "rm", "--sync", &lazy, &self.plain]);
        self.nothing_left();
        lazy
    }

    fn content(&self) -> usize {
        self.daemon.ctr_ok(CTR, &["content", "ls", "-q"]).lines().count()
    }

    fn keys(&self) -> usize {
        let list = ["snapshot", "--snapshotter", NAME, "ls"];
        self.daemon.ctr_ok(CTR, &list).lines().count() - 1
    }

    fn check(&self, reference: &str) {
        let run = ["run", "--rm", "--snapshotter", NAME, reference, "check"];
        assert_eq!(self.daemon.ctr_ok(CTR, &[&run[..], CHECK_FILES].concat()), "whole\n");
    }

    /// All that a container does, its daemon's death included.
    fn live(&mut self, reference: &str) {
        let layers = self.layout.layers("amd64").len();
        self.check(reference);
        let run = ["run", "-d", "--snapshotter", NAME, reference, "long", "sleep", "1000"];
        self.daemon.ctr_ok(CTR, &run);
        self.daemon.kill();
        self.daemon.launch();
        let exec = ["task", "exec", "--exec-id", "x", "long", "sh", "-c"];
        let words = ["busybox sha256sum -c -s /list && echo new > /data/file && cat /data/file"];
        assert_eq!(self.daemon.ctr_ok(CTR, &[&exec[..], &words].concat()), "new\n");
        let usage = ["snapshot", "--snapshotter", NAME, "usage", "long"];
        let usage = self.daemon.ctr_ok(CTR, &usage);
        assert!(usage.lines().count() == 2 && usage.contains("long"), "{usage}");
        assert_eq!(self.keys(), layers + 1);
        self.daemon.ctr_ok(CTR, &["task", "rm", "-f", "long"]);
        self.daemon.ctr_ok(CTR, &["container", "rm", "long"]);
        self.daemon.ctr_ok(CTR, &["image", "rm", "--sync", reference]);
        self.nothing_left();
    }

    /// Neither in the daemon, nor in the snapshotter.
    fn nothing_left(&self) {
        assert_eq!((self.keys(), self.content()), (0, 0));
        wait_for("directories and mounts go", 30, || {
            let left = names_in(&self.stargz.snapshots());
            (left.is_empty() && mounts_below(&self.stargz.snapshots()).is_empty()).then_some(())
        });
    }
}

#[test]
fn layers_are_fetched_when_they_are_read() {
    let mut seat = Seat::new();
    let lazy = seat.convert();
    let layers = seat.layout.layers("amd64").len();
    // The daemon pulls; then a client that does it by itself.
    for own in [false, true] {
        match own {
            false => {
                let words = ["image", "pull", "--plain-http", "--snapshotter", NAME, &lazy];
                seat.daemon.ctr_ok(CTR, &words);
            }
            true => drop(seat.ctr_remote(&["image", "rpull", "--plain-http", &lazy])),
        }
        assert_eq!(seat.stargz.lazy_layers(), layers, "{}", seat.stargz.log());
        assert_eq!(seat.keys(), layers);
        assert_eq!(seat.content(), 2, "the manifest and the configuration, and no layer");
        seat.live(&lazy);
        assert_eq!(seat.stargz.lazy_layers(), 0);
    }
}

#[test]
fn other_images_are_unpacked_as_everywhere() {
    let mut seat = Seat::new();
    let plain = seat.plain.clone();
    let words = ["image", "pull", "--plain-http", "--snapshotter", NAME, &plain];
    seat.daemon.ctr_ok(CTR, &words);
    assert_eq!(seat.stargz.lazy_layers(), 0);
    assert_eq!(seat.content(), seat.layout.content("amd64").len());
    seat.live(&plain);
}
