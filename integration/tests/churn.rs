//! A thousand containers, fifty at a time, some failing at each stage: the
//! right exit code for every one, and nothing left when they are gone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use davit_integration::leftovers::{
    cgroups_with, mounts_below, names_in, open_files, processes_with,
};
use davit_integration::{Client, Daemon, Server, image, wait_for};

const CONTAINERS: usize = 1000;
const IN_FLIGHT: usize = 50;

/// What a container is made to do, and how that must end.
struct Fate {
    flags: &'static [&'static str],
    words: Vec<String>,
    /// The exit code of `ctr`; a text that its stderr holds.
    ends: (i32, &'static str),
}

fn fate(number: usize) -> Fate {
    let words = |list: &[&str]| list.iter().map(|word| word.to_string()).collect();
    let code = number % 200 + 1;
    match number % 10 {
        0 => {
            Fate { flags: &[], words: words(&["/no/such/program"]), ends: (1, "/no/such/program") }
        }
        1 => Fate {
            flags: &["--runc-binary", "/no/such/runtime"],
            words: words(&["true"]),
            ends: (1, "/no/such/runtime"),
        },
        2 => Fate {
            flags: &["--runtime", "io.containerd.nosuch.v9"],
            words: words(&["true"]),
            ends: (1, "io.containerd.nosuch.v9"),
        },
        3 => Fate {
            flags: &["--mount", "type=bind,src=/no/such/dir,dst=/mnt,options=bind"],
            words: words(&["true"]),
            ends: (1, "/no/such/dir"),
        },
        4 => Fate {
            flags: &[],
            words: words(&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]),
            ends: (137, ""),
        },
        5 => Fate {
            flags: &["--runc-binary", "/usr/bin/crun"],
            words: words(&["false"]),
            ends: (1, ""),
        },
        _ => Fate {
            flags: &[],
            words: words(&["sh", "-c", &format!("exit {code}")]),
            ends: (code as i32, ""),
        },
    }
}

fn run(daemon: &Daemon, number: usize) {
    let fate = fate(number);
    let mut command = daemon.ctr(Client::Ctr16);
    command.args(["run", "--rm"]).args(fate.flags).arg(image::NAME);
    let output: Output = command.arg(format!("c{number}")).args(&fate.words).output().expect("ctr");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let (code, text) = fate.ends;
    assert_eq!(output.status.code(), Some(code), "container {number}: {stderr}");
    assert!(stderr.contains(text), "container {number}: {stderr}");
}

/// Everything that a container could leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Leftovers {
    mounts: Vec<PathBuf>,
    cgroups: BTreeSet<PathBuf>,
    processes: Vec<String>,
    bundles: BTreeSet<String>,
    work: BTreeSet<String>,
    snapshots: BTreeSet<String>,
    runtime_state: BTreeSet<String>,
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
            bundles: below("state"),
            work: below("root"),
            snapshots: names_in(
                &daemon.path("root/io.containerd.snapshotter.v1.overlayfs/snapshots"),
            ),
            runtime_state: names_in(&Path::new("/run/containerd/runc").join(&namespace)),
        }
    }
}

#[test]
fn a_thousand_containers_leave_nothing() {
    let daemon = Daemon::start(Server::Davit);
    daemon.import_image(Client::Ctr16);
    run(&daemon, 4); // whatever is made once, is made now
    let before = Leftovers::of(&daemon);
    let sockets = names_in(Path::new("/run/containerd/s"));
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
                    run(&daemon, number);
                }
            });
        }
    });

    wait_for("the last shims end", 20, || {
        (Leftovers::of(&daemon).processes == before.processes).then_some(())
    });
    assert_eq!(Leftovers::of(&daemon), before);
    for list in [&["task", "ls", "-q"][..], &["container", "ls", "-q"], &["snapshot", "ls"]] {
        let listed = daemon.ctr_ok(Client::Ctr16, list);
        assert!(!listed.lines().any(|line| line.starts_with('c')), "{list:?}: {listed}");
    }
    let new: Vec<_> =
        names_in(Path::new("/run/containerd/s")).difference(&sockets).cloned().collect();
    let ours: Vec<_> = new.iter().filter(|name| is_dead(name)).collect();
    assert!(ours.is_empty(), "sockets of dead shims: {ours:?}");
    // Readers of the index and connections of clients may stay for a while.
    let back = || open_files(daemon.pid()).len() <= open + 24;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !back() {
        let now = open_files(daemon.pid());
        assert!(std::time::Instant::now() < deadline, "{open} before, now {}: {now:#?}", now.len());
        thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Whether nobody listens on a shim's socket; those of other tests live.
fn is_dead(name: &str) -> bool {
    let path = Path::new("/run/containerd/s").join(name);
    path.exists() && std::os::unix::net::UnixStream::connect(path).is_err()
}
