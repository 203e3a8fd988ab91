//! A davitd beside a containerd: the same namespace and the same id in both,
//! and neither touches what is the other's.

use std::fs;
use std::path::{Path, PathBuf};

use davit_integration::daemon::Shim;
use davit_integration::{Client, Daemon, Server, image, leftovers, must, wait_for};
use nix::sys::signal::{SIGKILL, kill};
use nix::unistd::Pid;

const ID: &str = "twin";

/// `ctr` on one of the two, in the namespace that both use.
fn ctr(daemon: &Daemon, namespace: &str, words: &[&str]) -> String {
    must(daemon.ctr(Client::Ctr16).env("CONTAINERD_NAMESPACE", namespace).args(words))
}

/// Starts the container; clients name cgroups, so these are told apart.
fn run(daemon: &Daemon, namespace: &str) {
    let archive = daemon.path("image.tar");
    image::write_archive(&archive).expect("an archive can be written");
    ctr(daemon, namespace, &["image", "import", archive.to_str().expect("it is UTF-8")]);
    let group = format!("/{}/{ID}", daemon.namespace());
    let words = ["run", "-d", "--cgroup", &group, image::NAME, ID, "sleep", "1000"];
    ctr(daemon, namespace, &words);
}

/// The address of the container's shim, as the daemon keeps it.
fn address(daemon: &Daemon, state: &str, namespace: &str) -> PathBuf {
    let tasks = daemon.path(state).join("io.containerd.runtime.v2.task");
    let text = fs::read_to_string(tasks.join(namespace).join(ID).join("bootstrap.json"));
    let kept: serde_json::Value =
        serde_json::from_str(&text.expect("the task has a bundle")).expect("it is JSON");
    let address = kept["address"].as_str().expect("it has an address");
    address.strip_prefix("unix://").expect("it is a socket").into()
}

fn answers(daemon: &Daemon, namespace: &str) {
    let words = ["task", "exec", "--exec-id", "e", ID, "echo", "here"];
    assert_eq!(ctr(daemon, namespace, &words), "here\n", "{:?}", daemon.server());
}

fn twins(davit: Shim, containerd: Server) {
    let ours = Daemon::with_shim(Server::Davit, davit);
    let theirs = Daemon::start(containerd);
    let namespace = &theirs.namespace();
    for daemon in [&theirs, &ours] {
        run(daemon, namespace);
    }
    let (own, shared) = (ours.path("state/runc"), Path::new("/run/containerd/runc"));
    for root in [own.as_path(), shared] {
        assert!(root.join(namespace).join(ID).exists(), "{}", root.display());
    }
    if davit == Shim::Ours {
        assert!(address(&ours, "state", namespace).starts_with(ours.path("state/s")));
    }
    answers(&ours, namespace);
    answers(&theirs, namespace);

    // Cleaning up after a dead shim deletes the container of one daemon alone.
    for pid in leftovers::shims_of(&ours) {
        kill(Pid::from_raw(pid), SIGKILL).expect("it runs");
    }
    wait_for("davitd cleans up", 20, || (!own.join(namespace).join(ID).exists()).then_some(()));
    wait_for("the task is gone", 20, || {
        ctr(&ours, namespace, &["task", "ls", "-q"]).is_empty().then_some(())
    });
    answers(&theirs, namespace);
    ctr(&ours, namespace, &["container", "rm", ID]);
    let group = format!("/{}/{ID}", ours.namespace());
    ctr(&ours, namespace, &["run", "-d", "--cgroup", &group, image::NAME, ID, "sleep", "1000"]);

    // The reverse.
    ctr(&theirs, namespace, &["task", "rm", "-f", ID]);
    assert!(!shared.join(namespace).join(ID).exists());
    answers(&ours, namespace);
    ctr(&ours, namespace, &["task", "rm", "-f", ID]);
    let _ = fs::remove_dir(shared.join(namespace));
}

#[test]
fn twins_of_our_shim_live_beside_containerd_16() {
    twins(Shim::Ours, Server::Containerd16);
}

#[test]
fn twins_of_our_shim_live_beside_containerd_21() {
    twins(Shim::Ours, Server::Containerd21);
}

#[test]
fn twins_of_the_go_shims_live_beside_containerd() {
    twins(Shim::Go16, Server::Containerd16);
    twins(Shim::Go21, Server::Containerd21);
}

/// A state directory in which no socket has room: it goes elsewhere, and still
/// not where containerd's go.
#[test]
fn a_deep_state_directory_has_its_sockets_elsewhere() {
    let state = format!("{}/state", "deep/".repeat(30));
    let daemon = Daemon::with_state(Server::Davit, Shim::Ours, &state);
    let namespace = daemon.namespace();
    run(&daemon, &namespace);
    let socket = address(&daemon, &state, &namespace);
    assert!(socket.starts_with("/run/davit/s"), "{}", socket.display());
    assert!(daemon.path(&state).join("runc").join(&namespace).join(ID).exists());
    answers(&daemon, &namespace);
    ctr(&daemon, &namespace, &["task", "rm", "-f", ID]);
    wait_for("the socket goes", 20, || (!socket.exists()).then_some(()));
    assert!(!Path::new("/run/containerd/runc").join(&namespace).exists());
}

/// A bundle that somebody has removed: what cleans up looks in the daemon's
/// own state, not in the one that containerds share.
#[test]
fn the_twin_of_a_lost_bundle_is_left_alone() {
    let ours = Daemon::start(Server::Davit);
    let theirs = Daemon::start(Server::Containerd21);
    let namespace = &theirs.namespace();
    for daemon in [&theirs, &ours] {
        run(daemon, namespace);
    }
    let bundle = ours.path("state/io.containerd.runtime.v2.task").join(namespace).join(ID);
    leftovers::mounts_below(&bundle).iter().for_each(|at| {
        nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH).expect("root may unmount");
    });
    fs::remove_dir_all(&bundle).expect("root may remove it");
    for pid in leftovers::shims_of(&ours) {
        kill(Pid::from_raw(pid), SIGKILL).expect("it runs");
    }
    let state = ours.path("state/runc").join(namespace).join(ID);
    wait_for("davitd cleans up", 20, || (!state.exists()).then_some(()));
    wait_for("nothing is left of the bundle", 20, || (!bundle.exists()).then_some(()));
    answers(&theirs, namespace);
    ctr(&theirs, namespace, &["task", "rm", "-f", ID]);
    let _ = fs::remove_dir(Path::new("/run/containerd/runc").join(namespace));
}
