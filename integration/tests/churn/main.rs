//! A thousand containers, fifty at a time, some failing at each stage: the
//! right exit code for every one, and nothing left when they are gone.

mod fates;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use davit_integration::leftovers::{
    cgroups_with, fifos_below, mounts_below, names_in, open_files, processes_in_cgroups,
    processes_with,
};
use davit_integration::{Client, Daemon, Server, wait_for};

const CONTAINERS: usize = 1000;
const IN_FLIGHT: usize = 50;

/// Everything that a container could leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Leftovers {
    mounts: Vec<PathBuf>,
    cgroups: BTreeSet<PathBuf>,
    processes: Vec<String>,
    inmates: Vec<i32>,
    fifos: BTreeSet<PathBuf>,
    bundles: BTreeSet<String>,
    work: BTreeSet<String>,
    snapshots: BTreeSet<String>,
    runtime_state: BTreeSet<String>,
    sockets: BTreeSet<String>,
}

impl Leftovers {
    fn of(daemon: &Daemon) -> Self {
        let namespace = daemon.namespace();
        let tasks = Path::new("io.containerd.runtime.v2.task").join(&namespace);
        let below = |directory: &str| names_in(&daemon.path(directory).join(&tasks));
        let shims = processes_with(&daemon.socket().to_string_lossy());
        Self {
            mounts: mounts_below(&daemon.path("")),
            cgroups: cgroups_with(&format!("/{namespace}/")),
            processes: shims.into_iter().filter(|line| line.contains("shim")).collect(),
            inmates: processes_in_cgroups(&namespace),
            fifos: fifos_below(&daemon.path("")),
            bundles: below("state"),
            work: below("root"),
            snapshots: names_in(
                &daemon.path("root/io.containerd.snapshotter.v1.overlayfs/snapshots"),
            ),
            runtime_state: names_in(&daemon.runtime_state()),
            sockets: names_in(&daemon.sockets()),
        }
    }

    /// Whether there is nothing but the image's snapshot.
    fn is_nothing(&self) -> bool {
        let names = [&self.bundles, &self.work, &self.runtime_state, &self.sockets];
        names.iter().all(|names| names.is_empty())
            && self.mounts.is_empty()
            && self.cgroups.is_empty()
            && self.processes.is_empty()
            && self.inmates.is_empty()
            && self.fifos.is_empty()
            && self.snapshots.len() == 1
    }
}

#[test]
fn a_thousand_containers_leave_nothing() {
    let daemon = Daemon::start(Server::Davit);
    daemon.import_image(Client::Ctr16);
    fates::prepare(&daemon);
    fates::meet(&daemon, 18); // whatever is made once, is made now
    wait_for("nothing of it is left", 60, || Leftovers::of(&daemon).is_nothing().then_some(()));
    let before = Leftovers::of(&daemon);
    let open = open_files(daemon.pid()).len();

    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..IN_FLIGHT {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= CONTAINERS {
                        break;
                    }
                    fates::meet(&daemon, number);
                }
            });
        }
    });

    fates::sweep(&daemon);
    // Shims end, and directories go, a moment later than what they are for.
    let deadline = Instant::now() + Duration::from_secs(60);
    while Leftovers::of(&daemon) != before && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(Leftovers::of(&daemon), before);
    for list in [&["task", "ls", "-q"][..], &["container", "ls", "-q"], &["snapshot", "ls"]] {
        let listed = daemon.ctr_ok(Client::Ctr16, list);
        assert!(!listed.lines().any(|line| line.starts_with('c')), "{list:?}: {listed}");
    }
    // Readers of the index and connections of clients may stay for a while.
    let back = || open_files(daemon.pid()).len() <= open + 24;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !back() {
        let now = open_files(daemon.pid());
        assert!(Instant::now() < deadline, "{open} before, now {}: {now:#?}", now.len());
        thread::sleep(Duration::from_millis(100));
    }
}
