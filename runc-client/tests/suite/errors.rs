//! Failures, each with its kind and its words, and what is left after them.

use std::time::Duration;

use runc_client::{CreateOptions, Error, ErrorKind, ExecOptions, Result, RunOptions, Status};
use serde_json::json;

use crate::common::{
    Bed, DEADLINE, cgroups_of, process_json, process_state, processes_with, until,
};

/// Asserts the kind of a failure and that it has words.
#[track_caller]
fn fails<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.failure().is_none_or(|failure| !failure.messages.is_empty()), "{error:?}");
    error
}

pub async fn what_does_not_exist(bed: &Bed) {
    let runc = &bed.runc;
    let id = "nonexistent";
    fails(runc.state(id).await, ErrorKind::NotFound);
    fails(runc.start(id).await, ErrorKind::NotFound);
    fails(runc.kill(id, 9, false).await, ErrorKind::NotFound);
    fails(runc.delete(id, false).await, ErrorKind::NotFound);
    fails(runc.pause(id).await, ErrorKind::NotFound);
    fails(runc.resume(id).await, ErrorKind::NotFound);
    fails(runc.ps(id).await, ErrorKind::NotFound);
    let process = process_json(&["true"]);
    fails(runc.exec(id, &process, ExecOptions::default()).await, ErrorKind::NotFound);
    let detached = ExecOptions { detach: true, ..Default::default() };
    fails(runc.exec(id, &process, detached).await, ErrorKind::NotFound);
    if !bed.is("runsc") {
        fails(runc.update(id, b"{\"memory\":{\"limit\":100000000}}").await, ErrorKind::NotFound);
    }
    runc.delete(id, true).await.unwrap();
}

pub async fn what_exists(bed: &Bed) {
    let id = bed.id();
    let bundle = bed.bundle(&id, &["sleep", "1000"]);
    bed.runc.create(&id, &bundle, Default::default()).await.unwrap();
    let pid = bed.runc.state(&id).await.unwrap().pid;
    let again = bed.runc.create(&id, &bundle, CreateOptions::default()).await;
    let error = fails(again, ErrorKind::AlreadyExists);
    assert!(matches!(error, Error::AlreadyExists(_)));
    if bed.is("runsc") {
        // Its second create takes the first container away, not the sandbox.
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        return;
    }
    let options = RunOptions { detach: true, ..Default::default() };
    fails(bed.runc.run(&id, &bundle, options).await, ErrorKind::AlreadyExists);
    let foreground = bed.runc.run(&id, &bundle, RunOptions::default()).await;
    fails(foreground, ErrorKind::AlreadyExists);
    assert_eq!(bed.runc.state(&id).await.unwrap().status, Status::Created);
}

pub async fn wrong_states(bed: &Bed) {
    let id = bed.running().await;
    let process = process_json(&["true"]);
    fails(bed.runc.start(&id).await, ErrorKind::NotRunning);
    fails(bed.runc.delete(&id, false).await, ErrorKind::NotRunning);
    if !bed.is("crun") {
        fails(bed.runc.resume(&id).await, ErrorKind::NotRunning);
    }
    bed.runc.pause(&id).await.unwrap();
    fails(bed.runc.exec(&id, &process, ExecOptions::default()).await, ErrorKind::NotRunning);
    bed.runc.resume(&id).await.unwrap();
    bed.runc.kill(&id, 9, false).await.unwrap();
    bed.until(&id, Status::Stopped).await;
    fails(bed.runc.exec(&id, &process, ExecOptions::default()).await, ErrorKind::NotRunning);
    fails(bed.runc.start(&id).await, ErrorKind::NotRunning);
    if !bed.is("runsc") {
        let error = fails(bed.runc.kill(&id, 9, false).await, ErrorKind::NotRunning);
        assert!(matches!(error, Error::NotRunning(_)));
        fails(bed.runc.pause(&id).await, ErrorKind::NotRunning);
    }
    bed.delete(&id).await;
}

pub async fn wrong_arguments(bed: &Bed) {
    let bundle = bed.bundle("bad", &["true"]);
    for id in ["", "-f", "--all", "a/b", "../a", "..", &"x".repeat(2000)] {
        let error = bed.runc.create(id, &bundle, CreateOptions::default()).await;
        fails(error, ErrorKind::InvalidArgument);
        fails(bed.runc.delete(id, true).await, ErrorKind::InvalidArgument);
    }
    if bed.is("runc") {
        let created = bed.runc.create("a b", &bundle, CreateOptions::default()).await;
        fails(created, ErrorKind::InvalidArgument);
    }
    let id = bed.running().await;
    fails(bed.runc.kill(&id, -1, false).await, ErrorKind::InvalidArgument);
    if !bed.is("runsc") {
        fails(bed.runc.kill(&id, 7777, false).await, ErrorKind::InvalidArgument);
        fails(bed.runc.update(&id, b"{").await, ErrorKind::InvalidArgument);
    }
    fails(bed.runc.exec(&id, b"{", Default::default()).await, ErrorKind::InvalidArgument);
    assert_eq!(bed.runc.state(&id).await.unwrap().status, Status::Running);
    bed.remove(&id).await;
}

pub async fn wrong_programs(bed: &Bed) {
    let id = bed.running().await;
    // runsc detaches first and tells nobody.
    let modes: &[bool] = if bed.is("runsc") { &[false] } else { &[false, true] };
    for &detach in modes {
        let options = ExecOptions { detach, ..Default::default() };
        let exec = bed.runc.exec(&id, &process_json(&["nosuch"]), options).await;
        let error = fails(exec, ErrorKind::CommandNotFound);
        assert!(error.to_string().contains("nosuch"), "{error}");
    }
    bed.remove(&id).await;
    if bed.is("runsc") {
        return; // It starts programs after the container.
    }
    for program in ["nosuch", "/bin/nosuch"] {
        let id = bed.id();
        let bundle = bed.bundle(&id, &[program]);
        let created = bed.runc.create(&id, &bundle, CreateOptions::default()).await;
        let run = bed.runc.run(&id, &bundle, RunOptions::default()).await;
        if bed.is("crun") && created.is_ok() {
            continue; // Later versions look for a path when the container starts.
        }
        fails(created, ErrorKind::CommandNotFound);
        fails(run, ErrorKind::CommandNotFound);
        until("nothing is left of it", || cgroups_of(&id).is_empty()).await;
    }
}

pub async fn broken_bundles(bed: &Bed) {
    let id = bed.id();
    let bundle = bed.bundle(&id, &["true"]);
    std::fs::write(bundle.join("config.json"), "{").unwrap();
    let created = bed.runc.create(&id, &bundle, CreateOptions::default()).await;
    let error = created.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    std::fs::remove_file(bundle.join("config.json")).unwrap();
    let created = bed.runc.create(&id, &bundle, CreateOptions::default()).await;
    let error = created.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert_eq!(bed.runc.state(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
}

pub async fn a_missing_bundle_is_told_without_stderr(bed: &Bed) {
    let id = bed.id();
    let created = bed.runc.create(&id, &bed.path("none"), CreateOptions::default()).await;
    fails(created, ErrorKind::InvalidArgument);
}

/// A bundle whose creation takes for ever, and a word that is found in the
/// command line of the hook that does.
fn slow_bundle(bed: &Bed, id: &str) -> (std::path::PathBuf, String) {
    // An argument that nobody else has.
    let seconds = format!("{}{}", std::process::id(), id.rsplit('-').next().unwrap());
    let mut config = bed.config(id, &["sleep", "1000"]);
    let hook = json!([{"path": "/bin/sleep", "args": ["sleep", seconds]}]);
    config["hooks"] = json!({"createRuntime": hook});
    (bed.bundle_of(id, config), format!("sleep\0{seconds}\0"))
}

pub async fn out_of_time_leaves_nothing(bed: &Bed) {
    if bed.is("runsc") {
        return; // It has no such hooks.
    }
    let id = bed.id();
    let (bundle, hook) = slow_bundle(bed, &id);
    let limited = bed.runc.clone().timeout(Duration::from_millis(500));
    let created = limited.create(&id, &bundle, CreateOptions::default()).await;
    fails(created, ErrorKind::Timeout);
    assert_eq!(bed.runc.state(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
    until("nothing runs", || nothing_runs(&id, &hook)).await;
    until("its cgroups are gone", || cgroups_of(&id).is_empty()).await;
    assert!(bed.runc.list().await.unwrap().is_empty());

    // The same id can be used at once, and a container that somebody else
    // made is not deleted.
    let bundle = bed.bundle(&id, &["sleep", "1000"]);
    bed.runc.create(&id, &bundle, CreateOptions::default()).await.unwrap();
    let hurried = bed.runc.clone().timeout(Duration::ZERO);
    fails(hurried.create(&id, &bundle, CreateOptions::default()).await, ErrorKind::Timeout);
    assert_eq!(bed.runc.state(&id).await.unwrap().status, Status::Created);
}

pub async fn cancelling_kills_and_reaps(bed: &Bed) {
    if bed.is("runsc") {
        return;
    }
    let id = bed.id();
    let (bundle, hook) = slow_bundle(bed, &id);
    let create = bed.runc.create(&id, &bundle, CreateOptions::default());
    let mut create = Box::pin(create);
    let started = until("the hook runs", || !processes_with(&hook).is_empty());
    tokio::select! {
        created = &mut create => panic!("{created:?}"),
        () = started => {}
    }
    let runtimes = processes_with(&id);
    assert!(!runtimes.is_empty());
    drop(create);
    until("the runtime is reaped", || {
        runtimes.iter().all(|pid| process_state(*pid).is_none()) && processes_with(&id).is_empty()
    })
    .await;
    bed.runc.delete(&id, true).await.unwrap();
    assert_eq!(bed.runc.state(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(bed.runc.list().await.unwrap().is_empty());
    until("nothing runs", || nothing_runs(&id, &hook)).await;
    until("its cgroups are gone", || cgroups_of(&id).is_empty()).await;
    assert!(
        std::fs::read_dir(bed.path("tmp")).unwrap().next().is_none(),
        "temporary files are gone"
    );
}

fn nothing_runs(id: &str, hook: &str) -> bool {
    processes_with(id).is_empty() && processes_with(hook).is_empty()
}

pub async fn a_cancelled_exec_leaves_no_process(bed: &Bed) {
    let id = bed.running().await;
    let process = process_json(&["sleep", "1002"]);
    let exec = bed.runc.exec(&id, &process, ExecOptions::default());
    let running = async {
        while bed.runc.ps(&id).await.unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        exit = exec => panic!("{exit:?}"),
        () = running => {}
    }
    let start = std::time::Instant::now();
    let calls_exec = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("\0exec\0")
    };
    until("the runtime is gone", || !processes_with(&id).iter().any(calls_exec)).await;
    // A runtime that detaches from its processes, as runsc does, cannot be
    // helped: they are not its children.
    while !bed.is("runsc") && bed.runc.ps(&id).await.unwrap().len() > 1 {
        assert!(start.elapsed() < DEADLINE, "the process runs on");
    }
    bed.remove(&id).await;
}
