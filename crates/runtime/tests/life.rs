//! The life of tasks, with real shims and real runc.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::{
    Front, GO_SHIM, World, eventually, exec_options, id, install, own_shim, patient,
    runtime_options, with_daemons,
};
use davit_runtime::{CreateOptions, Status};
use davit_types::{ErrorKind, ExecId, Kind as _, Labels};

/// The same test with Debian's shim, with ours, and by gRPC.
macro_rules! with_each_shim {
    ($($name:ident;)*) => {
        mod debian {
            $(#[test]
            fn $name() {
                super::with_daemons(super::$name(super::GO_SHIM.as_ref()));
            })*
        }
        mod own {
            $(#[test]
            fn $name() {
                super::with_daemons(super::$name(&super::own_shim()));
            })*
        }
        mod grpc {
            $(#[test]
            fn $name() {
                let front = super::Front::new();
                super::with_daemons(super::$name(&front.path));
            })*
        }
    };
}

with_each_shim! {
    a_whole_life;
    an_exec_has_a_life_of_its_own;
    an_early_exit_is_told_in_order;
    twenty_at_once;
    what_cannot_be_run_leaves_nothing;
    a_taken_id_is_refused;
    a_caller_who_leaves_undoes_a_create;
    a_running_task_is_not_deleted;
}

async fn a_whole_life(shim: &Path) {
    let world = World::new(shim).await;
    let (tasks, ns, c1) = (world.tasks(), &world.namespace, id("c1"));
    let (output, stdio) = world.output("out");
    let script = "echo hello; trap 'exit 7' TERM; while :; do sleep 0.05; done";
    let pid = world.create("c1", CreateOptions { stdio, ..world.options(script) }).await;
    assert!(pid > 0);
    let state = tasks.state(ns, &c1, None, patient()).await.unwrap();
    assert_eq!((state.status, state.pid, state.id.as_str()), (Status::Created, pid, "c1"));
    assert_eq!(tasks.start(ns, &c1, None, patient()).await.unwrap(), pid);
    eventually("output", || std::fs::read(&output).is_ok_and(|text| text == b"hello\n")).await;

    let listed = tasks.list(ns, patient()).await;
    assert_eq!((listed.len(), listed[0].status), (1, Status::Running));
    let processes = tasks.processes(ns, &c1, patient()).await.unwrap();
    assert!(processes.iter().any(|process| process.pid == pid));
    let stats = tasks.stats(ns, &c1, patient()).await.unwrap().unwrap();
    assert!(stats.type_url.contains("cgroups.v"), "{}", stats.type_url);
    tasks.pause(ns, &c1, patient()).await.unwrap();
    let state = tasks.state(ns, &c1, None, patient()).await.unwrap();
    assert_eq!(state.status, Status::Paused);
    tasks.resume(ns, &c1, patient()).await.unwrap();
    let resources = davit_types::Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
        value: br#"{"pids":{"limit":50}}"#.to_vec(),
    };
    tasks.update(ns, &c1, Some(resources), &Labels::new(), patient()).await.unwrap();
    tasks.close_stdin(ns, &c1, None, patient()).await.unwrap();

    let wait = tasks.wait(ns, &c1, None, patient());
    let (exit, killed) = tokio::join!(wait, tasks.kill(ns, &c1, None, 15, false, patient()));
    killed.unwrap();
    assert_eq!(exit.unwrap().status, 7);
    let exit = tasks.delete(ns, &c1, patient()).await.unwrap();
    assert_eq!((exit.status, exit.pid), (7, pid));
    assert!(exit.at.is_some());
    assert!(tasks.list(ns, patient()).await.is_empty());
    let missing = tasks.state(ns, &c1, None, patient()).await.unwrap_err();
    assert_eq!(
        (missing.kind(), missing.full_message().as_str()),
        (ErrorKind::NotFound, "task c1 not found")
    );
    eventually("the last event", || world.topics().contains(&"/tasks/delete".into())).await;
    let topics = world.topics();
    let order = ["create", "start", "paused", "resumed", "exit", "delete"];
    assert_eq!(topics, order.map(|topic| format!("/tasks/{topic}")));
    world.check_empty().await;
}

async fn an_exec_has_a_life_of_its_own(shim: &Path) {
    let world = World::new(shim).await;
    let (tasks, ns, c1) = (world.tasks(), &world.namespace, id("c1"));
    let exec = ExecId::new("e1").unwrap();
    world.run("c1", "sleep 1000").await;
    tasks.exec(ns, &c1, &exec, exec_options("exit 5"), patient()).await.unwrap();
    let again = tasks.exec(ns, &c1, &exec, exec_options("exit 5"), patient()).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    let pid = tasks.start(ns, &c1, Some(&exec), patient()).await.unwrap();
    assert!(pid > 0);
    let exit = tasks.wait(ns, &c1, Some(&exec), patient()).await.unwrap();
    assert_eq!(exit.status, 5);
    let state = tasks.state(ns, &c1, Some(&exec), patient()).await.unwrap();
    assert_eq!((state.status, state.exit_status, state.id.as_str()), (Status::Stopped, 5, "e1"));
    assert_eq!(tasks.delete_exec(ns, &c1, &exec, patient()).await.unwrap().status, 5);
    let missing = tasks.state(ns, &c1, Some(&exec), patient()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    tasks.kill(ns, &c1, None, 9, true, patient()).await.unwrap();
    assert_eq!(tasks.wait(ns, &c1, None, patient()).await.unwrap().status, 137);
    tasks.delete(ns, &c1, patient()).await.unwrap();
    eventually("both exits", || world.exits().len() == 2).await;
    assert_eq!(world.exits(), [("e1".to_owned(), 5), ("c1".to_owned(), 137)]);
    world.check_empty().await;
}

async fn an_early_exit_is_told_in_order(shim: &Path) {
    let world = World::new(shim).await;
    for round in 0..5 {
        let name = format!("c{round}");
        world.run(&name, "exit 3").await;
        let exit = world.tasks().wait(&world.namespace, &id(&name), None, patient()).await;
        assert_eq!(exit.unwrap().status, 3);
        let exit = world.tasks().delete(&world.namespace, &id(&name), patient()).await;
        assert_eq!(exit.unwrap().status, 3);
    }
    let order = ["create", "start", "exit", "delete"].map(|topic| format!("/tasks/{topic}"));
    eventually("all events", || world.topics().len() >= 20).await;
    let topics = world.topics();
    assert!(topics.chunks(4).all(|chunk| chunk == order), "{topics:?}");
    world.check_empty().await;
}

async fn twenty_at_once(shim: &Path) {
    let world = World::new(shim).await;
    let one = |number: u32| {
        let world = &world;
        async move {
            let name = format!("c{number}");
            world.run(&name, &format!("exit {number}")).await;
            let exit = world.tasks().wait(&world.namespace, &id(&name), None, patient()).await;
            assert_eq!(exit.unwrap().status, number);
            let exit = world.tasks().delete(&world.namespace, &id(&name), patient()).await;
            assert_eq!(exit.unwrap().status, number);
        }
    };
    futures::future::join_all((0..20).map(one)).await;
    eventually("all exits", || world.exits().len() == 20).await;
    world.check_empty().await;
}

async fn what_cannot_be_run_leaves_nothing(shim: &Path) {
    let world = World::new(shim).await;
    let (tasks, ns) = (world.tasks(), &world.namespace);
    let mut options = world.options("true");
    let spec = options.spec.as_mut().unwrap();
    let text = String::from_utf8(spec.value.clone()).unwrap().replace("/bin/sh", "/bin/nothing");
    spec.value = text.into_bytes();
    let error = tasks.create(ns, &id("c1"), options, patient()).await.unwrap_err();
    let words = error.full_message();
    assert!(words.starts_with("failed to create shim task: "), "{words}");
    assert!(words.contains("/bin/nothing"), "{words}");
    assert!(!words.contains("clean-up failed"), "{words}");

    let mut options = world.options("true");
    options.rootfs[0].source = "/nowhere".into();
    let error = tasks.create(ns, &id("c1"), options, patient()).await.unwrap_err();
    let words = error.full_message().to_lowercase();
    assert!(words.contains("no such file or directory"), "{words}");

    world.run("c1", "true").await;
    tasks.wait(ns, &id("c1"), None, patient()).await.unwrap();
    tasks.delete(ns, &id("c1"), patient()).await.unwrap();
    world.check_empty().await;
}

async fn a_taken_id_is_refused(shim: &Path) {
    let world = World::new(shim).await;
    let (tasks, ns, c1) = (world.tasks(), &world.namespace, id("c1"));
    world.run("c1", "sleep 1000").await;
    let error = tasks.create(ns, &c1, world.options("true"), patient()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.full_message().as_str()),
        (ErrorKind::AlreadyExists, "task c1: already exists")
    );
    tasks.kill(ns, &c1, None, 9, false, patient()).await.unwrap();
    tasks.wait(ns, &c1, None, patient()).await.unwrap();
    let gone = tasks.kill(ns, &c1, None, 9, false, patient()).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone:?}");
    assert!(gone.full_message().contains("process already finished"), "{gone:?}");
    tasks.delete(ns, &c1, patient()).await.unwrap();
    world.check_empty().await;
}

async fn a_caller_who_leaves_undoes_a_create(shim: &Path) {
    let world = World::new(shim).await;
    let (tasks, ns, c1) = (world.tasks(), &world.namespace, id("c1"));
    // Given up at different moments, and tried again at once.
    for milliseconds in [0, 2, 10, 30, 60, 90] {
        let options = world.options("sleep 1000");
        let create = tasks.create(ns, &c1, options, patient());
        let limit = std::time::Duration::from_millis(milliseconds);
        if tokio::time::timeout(limit, create).await.is_ok() {
            tasks.kill(ns, &c1, None, 9, false, patient()).await.unwrap();
            tasks.wait(ns, &c1, None, patient()).await.unwrap();
            tasks.delete(ns, &c1, patient()).await.unwrap();
        }
    }
    world.run("c1", "exit 4").await;
    assert_eq!(tasks.wait(ns, &c1, None, patient()).await.unwrap().status, 4);
    tasks.delete(ns, &c1, patient()).await.unwrap();
    world.check_empty().await;
}

async fn a_running_task_is_not_deleted(shim: &Path) {
    let world = World::new(shim).await;
    let (tasks, ns, c1) = (world.tasks(), &world.namespace, id("c1"));
    world.run("c1", "sleep 1000").await;
    let error = tasks.delete(ns, &c1, patient()).await.unwrap_err();
    // Debian's shim gives no kind here; newer ones FailedPrecondition.
    assert_ne!(error.kind(), ErrorKind::NotFound);
    assert!(error.full_message().starts_with("failed to delete task: "), "{error:?}");
    let state = tasks.state(ns, &c1, None, patient()).await.unwrap();
    assert_eq!(state.status, Status::Running);
    tasks.kill(ns, &c1, None, 9, false, patient()).await.unwrap();
    tasks.wait(ns, &c1, None, patient()).await.unwrap();
    tasks.delete(ns, &c1, patient()).await.unwrap();
    world.check_empty().await;
}

/// The file that a process runs.
fn program(pid: u32) -> u64 {
    fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino()
}

#[test]
fn crun_is_run_from_memory_until_its_file_changes() {
    with_daemons(async {
        let world = World::new(&own_shim()).await;
        let (tasks, ns) = (world.tasks(), &world.namespace);
        let directory = world.directory.path();
        let (crun, log) = (directory.join("crun"), directory.join("calls"));
        install(&crun, fs::read("/usr/bin/crun").unwrap());
        let create = async |name: &str| {
            let task_options = Some(runtime_options(crun.to_str().unwrap()));
            let options = CreateOptions { task_options, ..world.options("exit 6") };
            // Until it is started, it is crun that waits.
            program(world.create(name, options).await)
        };
        let (first, second) = (create("c1").await, create("c2").await);
        assert_eq!(first, second, "one copy serves all");
        assert_ne!(first, fs::metadata(&crun).unwrap().ino());

        let other = directory.join("other");
        let script = format!("#!/bin/sh\necho \"$*\" >>{}\nexec crun \"$@\"\n", log.display());
        install(&other, script);
        fs::rename(&other, &crun).unwrap();
        assert_eq!(create("c3").await, fs::metadata("/usr/bin/crun").unwrap().ino());
        for name in ["c1", "c2", "c3"] {
            tasks.start(ns, &id(name), None, patient()).await.unwrap();
            assert_eq!(tasks.wait(ns, &id(name), None, patient()).await.unwrap().status, 6);
            tasks.delete(ns, &id(name), patient()).await.unwrap();
            let calls = fs::read_to_string(&log).unwrap();
            assert!(calls.contains(&format!(" start {name}")), "{calls}");
            assert!(calls.contains(&format!(" delete {name}")), "{calls}");
        }
        world.check_empty().await;
    });
}
