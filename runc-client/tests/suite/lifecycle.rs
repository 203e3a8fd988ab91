//! Operations that change a container.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use runc_client::{
    CheckpointOptions, CreateOptions, ErrorKind, ExecOptions, RestoreOptions, RunOptions,
    SealedCopy, Status, read_pid_file,
};
use serde_json::json;

use crate::common::{Bed, cgroups_of, process_json, process_state, processes_with, until};

pub async fn from_create_to_delete(bed: &Bed) {
    let id = bed.id();
    let bundle = bed.bundle(&id, &["sleep", "1000"]);
    let pid_file = bed.path("pid");
    let options = CreateOptions { pid_file: Some(pid_file.clone()), ..Default::default() };
    bed.runc.create(&id, &bundle, options).await.unwrap();
    let state = bed.runc.state(&id).await.unwrap();
    assert_eq!((&state.id, &state.status), (&id, &Status::Created));
    assert_eq!(state.bundle, bundle);
    assert_eq!(state.pid, read_pid_file(&pid_file).unwrap());
    assert!(state.created_at().is_some() || bed.is("runsc"), "{}", state.created);
    bed.runc.start(&id).await.unwrap();
    assert_eq!(bed.runc.state(&id).await.unwrap().status, Status::Running);
    bed.runc.kill(&id, 28, false).await.unwrap(); // SIGWINCH, which does nothing.
    bed.runc.kill(&id, 9, true).await.unwrap();
    bed.until(&id, Status::Stopped).await;
    bed.delete(&id).await;
    let error = bed.runc.state(&id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    until("its cgroups are gone", || cgroups_of(&id).is_empty()).await;
    assert!(fs::read_dir(bed.path("tmp")).unwrap().next().is_none(), "temporary files are gone");
}

pub async fn a_created_container_can_be_deleted(bed: &Bed) {
    let id = bed.id();
    let bundle = bed.bundle(&id, &["sleep", "1000"]);
    bed.runc.create(&id, &bundle, Default::default()).await.unwrap();
    let pid = bed.runc.state(&id).await.unwrap().pid;
    bed.runc.delete(&id, true).await.unwrap();
    assert_eq!(bed.runc.state(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
    until("its process is gone", || matches!(process_state(pid), None | Some('Z'))).await;
    bed.runc.delete(&id, true).await.unwrap();
}

pub async fn a_sealed_copy_is_run_in_place(bed: &Bed) {
    if bed.is("runsc") {
        return; // It makes no copies of itself.
    }
    let copy = SealedCopy::of(bed.runc.binary(), u64::MAX).unwrap().unwrap();
    let ours = File::from(copy.as_fd().try_clone_to_owned().unwrap()).metadata().unwrap().ino();
    let runc = bed.runc.clone().sealed_copy(Arc::new(copy));
    let id = bed.id();
    let bundle = bed.bundle(&id, &["sleep", "1000"]);
    runc.create(&id, &bundle, Default::default()).await.unwrap();
    let pid = runc.state(&id).await.unwrap().pid;
    let waiting = fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino();
    assert_eq!(waiting, ours, "the copy waits for the start");
    runc.start(&id).await.unwrap();
    let process = process_json(&["sh", "-c", "exit 5"]);
    assert_eq!(runc.exec(&id, &process, ExecOptions::default()).await.unwrap(), 5);
    runc.kill(&id, 9, true).await.unwrap();
    bed.until(&id, Status::Stopped).await;
    runc.delete(&id, false).await.unwrap();
    assert_eq!(runc.state(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
}

pub async fn run_returns_the_exit_code(bed: &Bed) {
    for (args, code) in [(["sh", "-c", "exit 7"], 7), (["sh", "-c", "true"], 0)] {
        let id = bed.id();
        let bundle = bed.bundle(&id, &args);
        let exit = bed.runc.run(&id, &bundle, RunOptions::default()).await.unwrap();
        assert_eq!(exit, code);
        assert_eq!(bed.runc.state(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

pub async fn run_detached(bed: &Bed) {
    let id = bed.id();
    let bundle = bed.bundle(&id, &["sleep", "1000"]);
    let options = RunOptions { detach: true, ..Default::default() };
    assert_eq!(bed.runc.run(&id, &bundle, options).await.unwrap(), 0);
    assert_eq!(bed.runc.state(&id).await.unwrap().status, Status::Running);
    bed.remove(&id).await;
}

pub async fn exec_returns_the_exit_code(bed: &Bed) {
    let id = bed.running().await;
    for (script, code) in [("exit 3", 3), ("true", 0), ("kill -9 $$", 137)] {
        let process = process_json(&["sh", "-c", script]);
        let exit = bed.runc.exec(&id, &process, ExecOptions::default()).await.unwrap();
        assert_eq!(exit, code, "{script}");
    }
    assert!(fs::read_dir(bed.path("tmp")).unwrap().next().is_none(), "temporary files are gone");
    bed.remove(&id).await;
}

pub async fn exec_detached_writes_its_pid(bed: &Bed) {
    let id = bed.running().await;
    let pid_file = bed.path("exec-pid");
    let options =
        ExecOptions { detach: true, pid_file: Some(pid_file.clone()), ..Default::default() };
    let process = process_json(&["sleep", "1001"]);
    assert_eq!(bed.runc.exec(&id, &process, options).await.unwrap(), 0);
    let pid = read_pid_file(&pid_file).unwrap();
    if !bed.is("runsc") {
        assert!(bed.runc.ps(&id).await.unwrap().contains(&pid));
    }
    bed.remove(&id).await;
}

pub async fn pause_and_resume(bed: &Bed) {
    let id = bed.running().await;
    bed.runc.pause(&id).await.unwrap();
    assert_eq!(bed.runc.state(&id).await.unwrap().status, Status::Paused);
    bed.runc.resume(&id).await.unwrap();
    assert_eq!(bed.runc.state(&id).await.unwrap().status, Status::Running);
    bed.remove(&id).await;
}

pub async fn update_changes_limits(bed: &Bed) {
    const LIMIT: u64 = 64 << 20;
    let id = bed.running().await;
    let resources = json!({"memory": {"limit": LIMIT}}).to_string();
    let updated = bed.runc.update(&id, resources.as_bytes()).await;
    if bed.is("runsc") {
        assert_eq!(updated.unwrap_err().kind(), ErrorKind::Unsupported);
    } else {
        updated.unwrap();
        let files = cgroups_of(&id).into_iter().flat_map(|dir| {
            ["memory.limit_in_bytes", "memory.max"].map(|name| fs::read_to_string(dir.join(name)))
        });
        let limits: Vec<_> = files.flatten().collect();
        assert_eq!(limits, [format!("{LIMIT}\n")]);
    }
    bed.remove(&id).await;
}

/// With the newer CRIU, and where this host's own works; elsewhere the failure
/// has its kind.
pub async fn checkpoint_and_restore(bed: &Bed) {
    let id = bed.id();
    let mut config = bed.config(&id, &["sleep", "1000"]);
    // CRIU makes directories there.
    config["root"]["readonly"] = false.into();
    let bundle = bed.bundle_of(&id, config);
    bed.runc.create(&id, &bundle, Default::default()).await.unwrap();
    bed.runc.start(&id).await.unwrap();
    let images = bed.path("images");
    fs::create_dir(&images).unwrap();
    let options = CheckpointOptions { image_path: Some(images.clone()), ..Default::default() };
    let saved = bed.runc.checkpoint(&id, options).await;
    let lacks_criu = bed.is("crun")
        && !bed.is_newer
        && saved.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unsupported);
    if lacks_criu {
        let restored = bed.runc.restore("x", &bed.path("."), restore_options(&images)).await;
        let error = restored.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        return bed.remove(&id).await;
    }
    if !bed.is("runsc") && !bed.is_newer && !criu_works() {
        let error = saved.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
        assert!(error.to_string().to_lowercase().contains("criu"), "{error}");
        return bed.remove(&id).await;
    }
    saved.unwrap();
    if bed.is("runsc") {
        bed.until(&id, Status::Stopped).await;
        bed.runc.delete(&id, true).await.unwrap();
    }
    // The others have deleted what they saved.
    assert_eq!(bed.runc.state(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(bed.runc.restore(&id, &bundle, restore_options(&images)).await.unwrap(), 0);
    bed.until(&id, Status::Running).await;
    if !bed.is("runsc") {
        assert!(!processes_with("sleep\x001000").is_empty());
    }
    bed.remove(&id).await;
}

fn restore_options(images: &std::path::Path) -> RestoreOptions {
    RestoreOptions { image_path: Some(images.to_owned()), detach: true, ..Default::default() }
}

fn criu_works() -> bool {
    std::process::Command::new("criu").arg("check").output().is_ok_and(|run| run.status.success())
}
