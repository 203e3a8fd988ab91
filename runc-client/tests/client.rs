//! What the client makes of a runtime that behaves badly: scripts that take
//! the runtime's place, where no real runtime can be brought to do it.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{DEADLINE, process_json, process_state, until};
use runc_client::{DeathSignal, Error, ErrorKind, ExecOptions, RunOptions, Runc};
use tempfile::TempDir;

/// A runtime that runs `script`; `$log` is its log file.
fn script(script: &str) -> (Runc, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runtime");
    let log = "while [ $# -gt 0 ]; do [ \"$1\" = --log ] && log=$2; shift; done";
    let text = dir.path().join("text");
    fs::write(&text, format!("#!/bin/sh\ncd {}\n{log}\n{script}\n", dir.path().display())).unwrap();
    // By a process of its own: what a test beside us forks meanwhile would
    // have the program open for writing, and nobody could run it.
    let mut install = std::process::Command::new("install");
    assert!(install.args(["-m", "755"]).args([&text, &path]).status().unwrap().success());
    (Runc::new(path).timeout(DEADLINE), dir)
}

async fn pid_in(file: PathBuf) -> u32 {
    let read = || fs::read_to_string(&file).ok()?.trim().parse::<u32>().ok();
    until("the pid is written", || read().is_some()).await;
    read().unwrap()
}

#[tokio::test]
async fn missing_runtimes_are_told() {
    let error = Runc::new("no-such-runtime").version().await.unwrap_err();
    assert!(matches!(error, Error::BinaryNotFound { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::BinaryNotFound);
    assert_eq!(error.to_string(), "cannot run no-such-runtime");
    for path in ["/nonexistent/runc", "/etc/passwd", "/etc"] {
        let error = Runc::new(path).state("a").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BinaryNotFound, "{path}: {error}");
    }
    let error = Runc::new("runc").working_dir("/nonexistent").version().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("working directory /nonexistent"), "{error}");
    let runc = Runc::new("runc").temp_dir("/nonexistent");
    let error = runc.exec("a", b"{}", ExecOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[tokio::test]
async fn inherited_pipes_hold_nobody_up() {
    let (runc, dir) = script("echo '{\"id\":\"a\"}'; sleep 1000 & echo $! > pid");
    let start = Instant::now();
    assert_eq!(runc.state("a").await.unwrap().id, "a");
    assert!(start.elapsed() < DEADLINE);
    let pid = pid_in(dir.path().join("pid")).await;
    assert!(process_state(pid).is_some(), "it still holds the pipes");
    kill(pid);
}

#[tokio::test]
async fn floods_are_bounded_and_the_end_is_kept() {
    let flood =
        "i=0; while [ $i -lt 20000 ]; do echo \"a line of no use to anybody $i\"; i=$((i+1)); done";
    let (runc, _dir) = script(&format!("({flood}; echo 'container does not exist') >&2; exit 1"));
    let error = runc.state("a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().len() < 512 * 1024);
    let failure = error.failure().unwrap();
    assert_eq!(failure.last_message(), Some("container does not exist"));
    assert_eq!(failure.status.code(), Some(1));

    let entry = r#"{"level":"error","msg":"container with given ID already exists"}"#;
    let (runc, dir) = script(&format!("({flood}; echo '{entry}') >> $log; exit 1"));
    let run = runc.run("a", dir.path(), RunOptions::default()).await;
    assert!(matches!(run, Err(Error::AlreadyExists(_))), "{run:?}");
}

#[tokio::test]
async fn a_container_s_exit_is_no_failure() {
    let (runc, dir) = script("exit 130");
    assert_eq!(runc.run("a", dir.path(), RunOptions::default()).await.unwrap(), 130);
    let detached = RunOptions { detach: true, ..Default::default() };
    let error = runc.run("a", dir.path(), detached).await.unwrap_err();
    assert_eq!(error.to_string(), "run: the runtime ended with exit status: 130");
    let (runc, _dir) = script("kill -SEGV $$");
    let error = runc.ps("a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(error.to_string().contains("signal: 11"), "{error}");
}

#[tokio::test]
async fn nonsense_is_told() {
    let (runc, _dir) = script("echo what; exit 0");
    for error in [
        runc.state("a").await.unwrap_err(),
        runc.list().await.unwrap_err(),
        runc.ps("a").await.unwrap_err(),
        runc.version().await.unwrap_err(),
        runc.features().await.unwrap_err(),
        runc.stats("a").await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Parse { .. }), "{error}");
        assert!(error.to_string().contains("what"), "{error}");
    }
    let mut events = runc.events("a", Duration::from_secs(1)).unwrap();
    assert!(matches!(events.next().await, Some(Err(Error::Parse { .. }))));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_runtime_that_hangs_is_killed_with_its_children() {
    // Its child ignores what can be ignored; it does not end with the child.
    let (runc, dir) = script("sleep 1000 & echo $! > child; echo $$ > pid; wait; exec sleep 1000");
    let runc = runc.timeout(Duration::from_secs(3));
    let error = runc.start("a").await.unwrap_err();
    assert!(matches!(error, Error::Timeout { operation: "start", .. }), "{error}");
    let pid = pid_in(dir.path().join("pid")).await;
    let child = pid_in(dir.path().join("child")).await;
    assert_eq!(process_state(pid), None, "reaped when the call returns");
    until("its child is gone", || matches!(process_state(child), None | Some('Z'))).await;
}

#[tokio::test]
async fn a_dropped_call_is_killed_and_reaped() {
    let (runc, dir) = script("echo $$ > pid; exec sleep 1000");
    let process = process_json(&["true"]);
    let exec = runc.exec("a", &process, ExecOptions::default());
    tokio::select! {
        exit = exec => panic!("{exit:?}"),
        pid = pid_in(dir.path().join("pid")) => assert!(process_state(pid).is_some()),
    }
    let pid = pid_in(dir.path().join("pid")).await;
    until("it is reaped", || process_state(pid).is_none()).await;

    fs::remove_file(dir.path().join("pid")).unwrap();
    let events = runc.events("a", Duration::from_secs(1)).unwrap();
    let pid = pid_in(dir.path().join("pid")).await;
    drop(events);
    until("it is reaped", || process_state(pid).is_none()).await;
}

#[tokio::test]
async fn a_runtime_dies_with_the_thread_that_started_it() {
    let (runc, dir) = script("echo $$ > pid; exec sleep 1000");
    let runc = runc.parent_death_signal(DeathSignal::Kill);
    let file = dir.path().join("pid");
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut call = Box::pin(async move { runc.start("a").await });
        let pid = runtime.block_on(async {
            tokio::select! {
                started = &mut call => panic!("{started:?}"),
                pid = pid_in(file) => pid,
            }
        });
        // Neither is dropped: only the thread ends.
        std::mem::forget((call, runtime));
        pid
    });
    let pid = tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
    until("it is dead", || matches!(process_state(pid), None | Some('Z'))).await;
}

#[tokio::test]
async fn the_runtime_gets_the_callers_environment_and_directory() {
    let (runc, dir) =
        script("printf '%s %s %s' \"$GREETING\" \"$PWD\" \"${LISTEN_FDS-none}\" > out");
    let runc = runc.env("GREETING", "hello").working_dir("/");
    runc.start("a").await.unwrap();
    let out = fs::read_to_string(dir.path().join("out")).unwrap();
    let canonical = fs::canonicalize(dir.path()).unwrap();
    assert_eq!(out, format!("hello {} none", canonical.display()));
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
