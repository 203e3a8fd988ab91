//! Checkpoint and restore. CRIU depends on the kernel: where its own check
//! fails, what is tested is that its failure is told and changes nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod runc_harness;

use std::path::Path;
use std::process::Command;

use davit_protocols::ttrpc::{events, options, process, task};
use protobuf::MessageField;
use protobuf::well_known_types::empty::Empty;
use runc_harness::{Bundle, Called, Daemon, Shim, any, exec, wait_for};

fn criu_works() -> bool {
    Command::new("criu").arg("check").output().is_ok_and(|output| output.status.success())
}

fn checkpoint(shim: &Shim<'_>, bundle: &Bundle, path: &Path, exit: bool) -> Called<Empty> {
    let wanted = options::CheckpointOptions { exit, ..Default::default() };
    let request = task::CheckpointTaskRequest {
        id: bundle.id.clone(),
        path: path.to_str().unwrap().into(),
        options: MessageField::some(any("containerd.runc.v1.CheckpointOptions", &wanted)),
        ..Default::default()
    };
    shim.call("Checkpoint", &request)
}

#[test]
fn a_container_is_saved_and_restored() {
    let daemon = Daemon::new();
    let image = daemon.dir.path().join("image");
    let script = "n=0; while :; do n=$((n+1)); echo $n > /dev/null; sleep 0.1; done";
    let bundle = daemon.bundle(&["sh", "-c", script]);
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create("runc"));
    if !criu_works() {
        let refusal = checkpoint(&shim, &bundle, &image, true).unwrap_err();
        assert!(refusal.starts_with("Unknown: "), "{refusal}");
        let log = bundle.path.join("criu-dump.log");
        assert!(refusal.ends_with(&format!("path= {}", log.display())), "{refusal}");
        assert_eq!(shim.state(&bundle.id, "").unwrap().status, process::Status::RUNNING.into());
        assert!(!bundle.path.join("work/criu-work").exists());
        shim.end(&bundle.id);
        daemon.expect_topics(&["create", "start", "exit", "delete"]);
        return;
    }
    checkpoint(&shim, &bundle, &image, true).unwrap();
    shim.wait(&bundle.id, "").unwrap();
    shim.delete(&bundle.id, "").unwrap();
    let saved: events::TaskCheckpointed = wait_for("the event", || {
        let heard = daemon.events();
        heard.iter().find(|e| e.topic == "/tasks/checkpointed").map(|e| e.message())
    });
    assert_eq!(saved.checkpoint, image.to_str().unwrap());

    let request = task::CreateTaskRequest {
        checkpoint: image.to_str().unwrap().into(),
        ..bundle.create("runc")
    };
    assert_eq!(shim.create(&request).unwrap(), 0, "there is no process before Start");
    let pid = shim.start(&bundle.id, "").unwrap();
    assert!(runc_harness::is_alive(pid));
    shim.end(&bundle.id);
}

/// A container to be restored, before it is and when that fails.
#[test]
fn a_restore_that_fails_can_be_deleted() {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    let out = runc_harness::fifo(&daemon, "out");
    let request = task::CreateTaskRequest {
        checkpoint: daemon.dir.path().join("no-image").to_str().unwrap().into(),
        stdout: out.to_str().unwrap().into(),
        ..bundle.create("runc")
    };
    assert_eq!(shim.create(&request).unwrap(), 0);
    let state = shim.state(&bundle.id, "").unwrap();
    assert_eq!((state.pid, state.status), (0, process::Status::CREATED.into()));
    let refusal = shim.exec(&exec(&bundle.id, "e", &["true"])).unwrap_err();
    assert_eq!(refusal, "Unknown: cannot exec in a created state");
    let refusal = checkpoint(&shim, &bundle, Path::new("/x"), false).unwrap_err();
    assert_eq!(refusal, "Unknown: cannot checkpoint a task in created state");
    let refusal = shim.kill(&bundle.id, "", 9, false).unwrap_err();
    assert_eq!(refusal, "NotFound: no such container: not found");
    let refusal = shim.start(&bundle.id, "").unwrap_err();
    assert!(refusal.starts_with("Unknown: OCI runtime restore failed: "), "{refusal}");
    let deleted = shim.delete(&bundle.id, "").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (0, 0));
    daemon.expect_topics(&["create", "delete"]);
    let left = shim.descriptors();
    assert!(!left.values().any(|target| target.contains("/out-")), "{left:?}");
}
