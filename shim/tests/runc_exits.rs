//! What outlives the shim: exit records, and the command `delete`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod runc_harness;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use davit_protocols::ttrpc::{options, task, types};
use protobuf::{Message, MessageField};
use runc_harness::{Bundle, Daemon, SHIM, any, exec, is_alive, must, rootfs, unique, wait_for};

with_each_runtime! {
    a_recorded_exit_survives_the_shim, a_running_container_is_killed_and_cleaned_up,
    options_survive_the_shim, a_half_made_container_is_cleaned_up,
    an_exec_exit_is_recorded, the_rest_of_a_shared_pid_namespace_is_killed,
}

/// Runs the command `delete`.
fn delete(daemon: &Daemon, bundle: &Bundle) -> task::DeleteResponse {
    let output = daemon.shim_command(SHIM, bundle, "delete").stdin(Stdio::null()).output();
    let output = output.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    task::DeleteResponse::parse_from_bytes(&output.stdout).unwrap()
}

fn listed(runtime: &str, root: &Path) -> String {
    must(Command::new(runtime).arg("--root").arg(root).args(["list", "-q"])).trim().to_owned()
}

fn default_root(daemon: &Daemon) -> std::path::PathBuf {
    Path::new("/run/containerd/runc").join(&daemon.namespace)
}

fn mounts_below(path: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = path.to_str().unwrap();
    table.lines().filter(|line| line.contains(path)).map(str::to_owned).collect()
}

/// A read-write root that is a mount, as snapshotters ask for.
fn bind_rootfs() -> types::Mount {
    types::Mount {
        type_: "bind".into(),
        source: rootfs().to_str().unwrap().into(),
        options: vec!["rbind".into(), "rw".into()],
        ..Default::default()
    }
}

fn a_recorded_exit_survives_the_shim(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sh", "-c", "exit 42"]);
    let mut shim = daemon.start(&bundle);
    let pid = shim.run(&bundle.create(runtime));
    let waited = shim.wait(&bundle.id, "").unwrap();
    assert_eq!(waited.exit_status, 42);
    let text = fs::read_to_string(bundle.path.join("exit.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&record["Pid"], &record["Status"]), (&pid.into(), &42.into()));
    shim.sigkill();
    let deleted = delete(&daemon, &bundle);
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 42));
    assert_eq!(deleted.exited_at, waited.exited_at);
    assert_eq!(listed(runtime, &default_root(&daemon)), "");
    assert!(!shim.socket.exists(), "the socket is removed");
}

fn a_running_container_is_killed_and_cleaned_up(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]).with(|config| {
        config["root"]["path"] = "rootfs".into();
    });
    let mut shim = daemon.start(&bundle);
    let mut request = bundle.create(runtime);
    request.rootfs = vec![bind_rootfs()];
    let pid = shim.run(&request);
    assert_eq!(mounts_below(&bundle.path).len(), 1);
    shim.sigkill();
    assert!(is_alive(pid), "a container goes on without its shim");
    let deleted = delete(&daemon, &bundle);
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    assert!(deleted.exited_at.seconds > 0);
    wait_for("the container's end", || (!is_alive(pid)).then_some(()));
    assert!(mounts_below(&bundle.path).is_empty(), "{:?}", mounts_below(&bundle.path));
    assert_eq!(listed(runtime, &default_root(&daemon)), "");
    // It can be called again, as whoever was interrupted does.
    assert_eq!(delete(&daemon, &bundle).exit_status, 137);
}

/// Root and the runtime are as they were at Create, whatever the default is.
fn options_survive_the_shim(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    let root = daemon.dir.path().join("other-root");
    let wanted = options::Options {
        binary_name: runtime.into(),
        root: root.to_str().unwrap().into(),
        no_new_keyring: true,
        ..Default::default()
    };
    let mut request = bundle.create(runtime);
    request.options = MessageField::some(any("containerd.runc.v1.Options", &wanted));
    let pid = shim.run(&request);
    let text = fs::read_to_string(bundle.path.join("options.json")).unwrap();
    let copy: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(copy["binary_name"], runtime);
    assert_eq!(copy["no_new_keyring"], true);
    assert_eq!(fs::read_to_string(bundle.path.join("runtime")).unwrap(), runtime);
    let root = root.join(&daemon.namespace);
    assert_eq!(listed(runtime, &root), bundle.id);
    shim.sigkill();
    assert_eq!(delete(&daemon, &bundle).exit_status, 137);
    wait_for("the container's end", || (!is_alive(pid)).then_some(()));
    assert_eq!(listed(runtime, &root), "");
}

/// A shim that died during Create, or before it.
fn a_half_made_container_is_cleaned_up(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    assert_eq!(delete(&daemon, &bundle).exit_status, 137);
    let mut shim = daemon.start(&bundle);
    let pid = shim.create(&bundle.create(runtime)).unwrap();
    shim.sigkill();
    assert_eq!(delete(&daemon, &bundle).pid, pid);
    wait_for("the container's end", || (!is_alive(pid)).then_some(()));
    assert_eq!(listed(runtime, &default_root(&daemon)), "");
    // A bundle that is gone altogether.
    let elsewhere = Bundle { id: unique("gone"), path: daemon.dir.path().into(), ..bundle };
    assert_eq!(delete(&daemon, &elsewhere).exit_status, 137);
}

fn an_exec_exit_is_recorded(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create(runtime));
    shim.exec(&exec(&bundle.id, "e", &["sh", "-c", "kill -TERM $$"])).unwrap();
    let pid = shim.start(&bundle.id, "e").unwrap();
    assert_eq!(shim.wait(&bundle.id, "e").unwrap().exit_status, 143);
    let text = fs::read_to_string(bundle.path.join("e.exit.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&record["Pid"], &record["Status"]), (&pid.into(), &143.into()));
    shim.end(&bundle.id);
    assert!(!bundle.path.join("e.exit.json").exists(), "deleted with the container");
}

fn the_rest_of_a_shared_pid_namespace_is_killed(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sh", "-c", "sleep 1000 & sleep 1001; true"]).with_host_pids();
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create(runtime));
    let request = task::PidsRequest { id: bundle.id.clone(), ..Default::default() };
    let pids = wait_for("all processes", || {
        let pids: task::PidsResponse = shim.call("Pids", &request).unwrap();
        (pids.processes.len() == 3).then_some(pids.processes)
    });
    shim.sigkill();
    assert_eq!(delete(&daemon, &bundle).exit_status, 137);
    for process in pids {
        wait_for("the end of what is left", || (!is_alive(process.pid)).then_some(()));
    }
}

/// The shim dies of nothing that is sent to it while it has a container.
#[test]
fn a_polite_signal_does_not_end_a_shim_with_a_container() {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create("runc"));
    for signal in ["TERM", "INT", "HUP", "PIPE"] {
        must(Command::new("kill").args([&format!("-{signal}"), &shim.pid.to_string()]));
    }
    assert!(shim.state(&bundle.id, "").is_ok());
    shim.end(&bundle.id);
}
