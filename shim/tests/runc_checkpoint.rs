//! Checkpoint and restore, by the CRIU of the tree of newer peers: that of
//! this machine may be older than its kernel.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod runc_harness;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use davit_protocols::ttrpc::{events, options, process, task};
use protobuf::MessageField;
use protobuf::well_known_types::empty::Empty;
use runc_harness::{
    Bundle, Called, Daemon, Reader, SHIM, Shim, answer, any, exec, fifo, forky, install, wait_for,
    write, writer,
};

/// Runs each function with every runtime that knows CRIU.
macro_rules! with_each_runtime_and_criu {
    ($($name:ident),* $(,)?) => {
        mod runc { $(#[test] fn $name() { super::$name("/usr/sbin/runc"); })* }
        mod newer_runc { $(#[test] fn $name() { super::$name(&super::newer("runc")); })* }
        mod newer_crun { $(#[test] fn $name() { super::$name(&super::newer("crun")); })* }
    };
}

with_each_runtime_and_criu! {
    a_container_is_saved_and_goes_on_where_it_was, a_container_with_a_terminal_is_restored,
}

fn newer(runtime: &str) -> String {
    text(&forky(runtime))
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().into()
}

/// A shim whose runtimes find the `criu` in a directory.
fn start<'a>(daemon: &'a Daemon, bundle: &Bundle, criu: &Path) -> Shim<'a> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::iter::once(criu.to_owned()).chain(std::env::split_paths(&path));
    let mut command = daemon.shim_command(SHIM, bundle, "start");
    command.env("PATH", std::env::join_paths(directories).unwrap()).stdin(Stdio::null());
    daemon.connect(&answer(&command.output().unwrap()), bundle)
}

fn new_criu() -> PathBuf {
    forky("criu").parent().unwrap().into()
}

/// Daemons make this one beside every bundle.
fn with_work(bundle: Bundle) -> Bundle {
    fs::create_dir(bundle.path.join("work")).unwrap();
    bundle
}

fn directory(daemon: &Daemon, name: &str) -> PathBuf {
    let path = daemon.dir.path().join(name);
    fs::create_dir(&path).unwrap();
    path
}

fn checkpoint(
    shim: &Shim<'_>,
    bundle: &Bundle,
    path: &Path,
    wanted: &options::CheckpointOptions,
) -> Called<()> {
    let request = task::CheckpointTaskRequest {
        id: bundle.id.clone(),
        path: text(path),
        options: MessageField::some(any("containerd.runc.v1.CheckpointOptions", wanted)),
        ..Default::default()
    };
    shim.call("Checkpoint", &request).map(|_: Empty| ())
}

/// The numbers in a container's output.
fn numbers(output: &str) -> Vec<u32> {
    output.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

fn a_container_is_saved_and_goes_on_where_it_was(runtime: &str) {
    let daemon = Daemon::new();
    let (image, saving) = (directory(&daemon, "image"), daemon.dir.path().join("saving"));
    // Counts in its memory, and tells it to a FIFO that it does not see.
    let script = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done";
    let bundle = daemon.bundle(&["sh", "-c", script]);
    let mut shim = start(&daemon, &bundle, &new_criu());
    let out = fifo(&daemon, "out");
    let mut reader = Reader::open(&out);
    shim.run(&task::CreateTaskRequest { stdout: text(&out), ..bundle.create(runtime) });
    reader.until("3\n");
    let wanted =
        options::CheckpointOptions { exit: true, work_path: text(&saving), ..Default::default() };
    checkpoint(&shim, &bundle, &image, &wanted).unwrap();
    assert!(saving.join("dump.log").exists(), "CRIU works elsewhere");
    shim.wait(&bundle.id, "").unwrap();
    shim.delete(&bundle.id, "").unwrap();
    let last = *numbers(&reader.read_to_end()).last().unwrap();
    let saved: events::TaskCheckpointed = wait_for("the event", || {
        let heard = daemon.events();
        heard.iter().find(|e| e.topic == "/tasks/checkpointed").map(|e| e.message())
    });
    assert_eq!(saved.checkpoint, text(&image));

    let (again, restoring) = (fifo(&daemon, "again"), directory(&daemon, "restoring"));
    let wanted = options::Options {
        binary_name: runtime.into(),
        criu_work_path: text(&restoring),
        ..Default::default()
    };
    let request = task::CreateTaskRequest {
        checkpoint: text(&image),
        stdout: text(&again),
        options: MessageField::some(any("containerd.runc.v1.Options", &wanted)),
        ..bundle.create(runtime)
    };
    let mut reader = Reader::open(&again);
    assert_eq!(shim.create(&request).unwrap(), 0, "there is no process before Start");
    let pid = shim.start(&bundle.id, "").unwrap();
    assert!(runc_harness::is_alive(pid));
    let first = numbers(&reader.until("\n"))[0];
    assert_eq!(first, last + 1, "no number is lost or told twice");
    assert!(restoring.join("restore.log").exists(), "CRIU works elsewhere");
    shim.end(&bundle.id);
}

fn a_container_with_a_terminal_is_restored(runtime: &str) {
    let daemon = Daemon::new();
    let image = directory(&daemon, "image");
    let script = "n=0; while read x; do n=$((n+1)); echo $x $n; done";
    let bundle = with_work(daemon.bundle(&["sh", "-c", script]))
        .with(|config| config["process"]["terminal"] = true.into());
    let mut shim = start(&daemon, &bundle, &new_criu());
    let streams = |request: task::CreateTaskRequest| {
        let (stdin, stdout) = (fifo(&daemon, "in"), fifo(&daemon, "out"));
        let reader = Reader::open(&stdout);
        let (request_in, request_out) = (text(&stdin), text(&stdout));
        let request = task::CreateTaskRequest {
            stdin: request_in,
            stdout: request_out,
            terminal: true,
            ..request
        };
        (request, stdin, reader)
    };
    let (request, stdin, mut reader) = streams(bundle.create(runtime));
    shim.run(&request);
    let client = writer(&stdin);
    write(&client, "before\r");
    reader.until("before 1\r\n");
    let wanted = options::CheckpointOptions { exit: true, terminal: true, ..Default::default() };
    checkpoint(&shim, &bundle, &image, &wanted).unwrap();
    shim.wait(&bundle.id, "").unwrap();
    shim.delete(&bundle.id, "").unwrap();

    let request = task::CreateTaskRequest { checkpoint: text(&image), ..bundle.create(runtime) };
    let (request, stdin, mut reader) = streams(request);
    assert_eq!(shim.create(&request).unwrap(), 0);
    shim.start(&bundle.id, "").unwrap();
    let client = writer(&stdin);
    write(&client, "after\r");
    reader.until("after 2\r\n");
    shim.end(&bundle.id);
}

/// A program in a directory of its own.
fn program(daemon: &Daemon, name: &str, script: &str) -> PathBuf {
    let path = directory(daemon, &format!("for-{name}")).join(name);
    install(&path, script);
    path
}

#[test]
fn a_criu_that_fails_changes_nothing() {
    let daemon = Daemon::new();
    let image = directory(&daemon, "image");
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let criu = program(&daemon, "criu", "#!/bin/sh\nexit 1\n");
    let mut shim = start(&daemon, &bundle, criu.parent().unwrap());
    shim.run(&bundle.create("runc"));
    let wanted = options::CheckpointOptions { exit: true, ..Default::default() };
    let refusal = checkpoint(&shim, &bundle, &image, &wanted).unwrap_err();
    assert!(refusal.starts_with("Unknown: "), "{refusal}");
    let log = bundle.path.join("criu-dump.log");
    assert!(refusal.ends_with(&format!("path= {}", log.display())), "{refusal}");
    assert_eq!(shim.state(&bundle.id, "").unwrap().status, process::Status::RUNNING.into());
    assert!(!bundle.path.join("work/criu-work").exists());
    shim.end(&bundle.id);
    daemon.expect_topics(&["create", "start", "exit", "delete"]);
}

/// The runtime makes the directory of the images; the shim writes there before.
#[test]
fn a_directory_for_the_images_is_made() {
    let daemon = Daemon::new();
    let image = daemon.dir.path().join("not/yet");
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let criu = program(&daemon, "criu", "#!/bin/sh\nexit 1\n");
    let mut shim = start(&daemon, &bundle, criu.parent().unwrap());
    let out = fifo(&daemon, "out");
    let _reader = Reader::open(&out);
    shim.run(&task::CreateTaskRequest { stdout: text(&out), ..bundle.create("runc") });
    let refusal = checkpoint(&shim, &bundle, &image, &Default::default()).unwrap_err();
    let log = bundle.path.join("criu-dump.log");
    assert!(refusal.ends_with(&format!("path= {}", log.display())), "CRIU is run: {refusal}");
    assert!(image.join("davit-streams.json").is_file());
    assert_eq!(fs::metadata(&image).unwrap().permissions().mode() & 0o7777, 0o700);
    shim.end(&bundle.id);
}

/// Restores by running afresh; what `lost` names is kept from the runtime.
fn restoring_runtime(daemon: &Daemon, lost: &str) -> String {
    let script = format!(
        r#"#!/bin/sh
left=$#
while [ "$left" -gt 0 ]; do
  a=$1; shift; left=$((left - 1))
  [ -z "$skip" ] || {{ skip=; continue; }}
  case $a in
    restore) set -- "$@" run ;;
    --image-path|--work-path|--manage-cgroups-mode{lost}) skip=1 ;;
    *) set -- "$@" "$a" ;;
  esac
done
exec runc "$@"
"#
    );
    text(&program(daemon, "restoring-runtime", &script))
}

/// What the runtime has restored, and the shim cannot take over, is gone.
#[test]
fn a_restored_container_that_cannot_be_had_is_not_left() {
    let cases =
        [("", "/no/such/fifo", "no such file"), ("|--pid-file", "", "failed to retrieve OCI")];
    for (lost, stdout, words) in cases {
        let daemon = Daemon::new();
        let bundle = daemon
            .bundle(&["sleep", "1000"])
            .with(|config| config["process"]["terminal"] = true.into());
        let mut shim = daemon.start(&bundle);
        let request = task::CreateTaskRequest {
            checkpoint: text(&directory(&daemon, "image")),
            terminal: true,
            stdout: stdout.into(),
            ..bundle.create(&restoring_runtime(&daemon, lost))
        };
        assert_eq!(shim.create(&request).unwrap(), 0);
        let refusal = shim.start(&bundle.id, "").unwrap_err();
        assert!(refusal.contains(words), "{refusal}");
        assert!(shim.children().is_empty(), "{:?}", shim.children());
        let deleted = shim.delete(&bundle.id, "").unwrap();
        assert_eq!((deleted.pid, deleted.exit_status), (0, 0));
        daemon.expect_topics(&["create", "delete"]);
    }
}

/// A container to be restored, before it is and when that fails.
#[test]
fn a_restore_that_fails_can_be_deleted() {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    let out = fifo(&daemon, "out");
    let request = task::CreateTaskRequest {
        checkpoint: text(&daemon.dir.path().join("no-image")),
        stdout: text(&out),
        ..bundle.create("runc")
    };
    assert_eq!(shim.create(&request).unwrap(), 0);
    let state = shim.state(&bundle.id, "").unwrap();
    assert_eq!((state.pid, state.status), (0, process::Status::CREATED.into()));
    let refusal = shim.exec(&exec(&bundle.id, "e", &["true"])).unwrap_err();
    assert_eq!(refusal, "Unknown: cannot exec in a created state");
    let refusal = checkpoint(&shim, &bundle, Path::new("/x"), &Default::default()).unwrap_err();
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
