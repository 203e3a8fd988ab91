//! Several tasks in one shim: what becomes of one is no matter of the others.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{
    GO_SHIM, World, eventually, exec_options, id, own_shim, patient, processes_in, with_daemons,
};
use davit_protocols::ttrpc::client::Client;
use davit_protocols::ttrpc::server::Metadata;
use davit_protocols::ttrpc::task::DeleteRequest;
use davit_runtime::{CreateOptions, Status};
use davit_types::{ErrorKind, ExecId, Kind as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protobuf::Message as _;

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
    };
}

with_each_shim! {
    the_first_may_go_before_the_others;
    the_death_of_a_shim_ends_all_its_tasks;
    all_are_found_again;
    all_are_cleaned_up_after_a_shim_that_died_meanwhile;
    a_create_that_fails_harms_nobody;
    a_bundle_that_is_left_of_the_first_harms_nobody;
}

const ANNOTATIONS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// What a container in a group is made of.
fn grouped(world: &World, annotation: &str, program: &str) -> CreateOptions {
    let mut options = world.options("exec sleep 1000");
    let spec = options.spec.as_mut().unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&spec.value).unwrap();
    json["annotations"] = serde_json::json!({annotation: format!("pod-{}", world.namespace)});
    json["process"]["args"][0] = program.into();
    spec.value = json.to_string().into_bytes();
    options
}

async fn run(world: &World, name: &str, annotation: &str) -> u32 {
    let pid = world.create(name, grouped(world, annotation, "/bin/sh")).await;
    world.tasks().start(&world.namespace, &id(name), None, patient()).await.unwrap();
    pid
}

/// The shim that both are in.
fn shim_of(world: &World, first: &str, others: &[&str]) -> u32 {
    for other in others {
        assert!(processes_in(&world.bundle(other)).is_empty(), "{other} has a shim of its own");
    }
    world.shim_pid(first)
}

async fn is_well(world: &World, name: &str, pid: u32) {
    let (tasks, ns, name) = (world.tasks(), &world.namespace, id(name));
    let state = tasks.state(ns, &name, None, patient()).await.unwrap();
    assert_eq!((state.status, state.pid), (Status::Running, pid));
    let exec = ExecId::new("e1").unwrap();
    tasks.exec(ns, &name, &exec, exec_options("exit 5"), patient()).await.unwrap();
    tasks.start(ns, &name, Some(&exec), patient()).await.unwrap();
    assert_eq!(tasks.wait(ns, &name, Some(&exec), patient()).await.unwrap().status, 5);
    tasks.delete_exec(ns, &name, &exec, patient()).await.unwrap();
}

async fn end(world: &World, name: &str) {
    let (tasks, ns, name) = (world.tasks(), &world.namespace, id(name));
    tasks.kill(ns, &name, None, 9, false, patient()).await.unwrap();
    assert_eq!(tasks.wait(ns, &name, None, patient()).await.unwrap().status, 137);
    assert_eq!(tasks.delete(ns, &name, patient()).await.unwrap().status, 137);
    eventually("the end of the bundle", || !world.bundle(name.as_str()).exists()).await;
}

/// The shim goes on in a working directory that is no more.
async fn the_first_may_go_before_the_others(shim: &Path) {
    for annotation in ANNOTATIONS {
        let mut world = World::new(shim).await;
        run(&world, "c1", annotation).await;
        let second = run(&world, "c2", annotation).await;
        let shim = shim_of(&world, "c1", &["c2"]);
        end(&world, "c1").await;
        is_well(&world, "c2", second).await;
        // One more joins, and the daemon comes back to what is left.
        let third = run(&world, "c3", annotation).await;
        assert!(processes_in(&world.bundle("c3")).is_empty(), "it has a shim of its own");
        world.stop().await;
        world.start().await;
        is_well(&world, "c2", second).await;
        is_well(&world, "c3", third).await;
        // The first name is free, and not bound to the group.
        let other = world.run("c1", "exec sleep 1000").await;
        assert_ne!(world.shim_pid("c1"), shim);
        end(&world, "c2").await;
        end(&world, "c3").await;
        is_well(&world, "c1", other).await;
        end(&world, "c1").await;
        world.check_empty().await;
    }
}

async fn cleaned_up(world: &World) {
    let (tasks, ns) = (world.tasks(), &world.namespace);
    eventually("both exits", || world.exits().len() == 2).await;
    let mut exits = world.exits();
    exits.sort();
    assert_eq!(exits, [("c1".to_owned(), 137), ("c2".to_owned(), 137)]);
    eventually("both deletions", || {
        world.topics().iter().filter(|topic| *topic == "/tasks/delete").count() == 2
    })
    .await;
    for name in ["c1", "c2"] {
        let missing = tasks.state(ns, &id(name), None, patient()).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
    // Both names, and the group, can be used again.
    for name in ["c1", "c2"] {
        let pid = run(world, name, ANNOTATIONS[0]).await;
        is_well(world, name, pid).await;
    }
    shim_of(world, "c1", &["c2"]);
    end(world, "c1").await;
    end(world, "c2").await;
    world.check_empty().await;
}

async fn the_death_of_a_shim_ends_all_its_tasks(shim: &Path) {
    let world = World::new(shim).await;
    run(&world, "c1", ANNOTATIONS[0]).await;
    run(&world, "c2", ANNOTATIONS[0]).await;
    let shim = shim_of(&world, "c1", &["c2"]);
    kill(Pid::from_raw(shim as i32), Signal::SIGKILL).unwrap();
    cleaned_up(&world).await;
}

async fn all_are_found_again(shim: &Path) {
    let mut world = World::new(shim).await;
    let first = run(&world, "c1", ANNOTATIONS[0]).await;
    let second = run(&world, "c2", ANNOTATIONS[0]).await;
    shim_of(&world, "c1", &["c2"]);
    world.stop().await;
    world.start().await;
    is_well(&world, "c1", first).await;
    is_well(&world, "c2", second).await;
    end(&world, "c2").await;
    is_well(&world, "c1", first).await;
    end(&world, "c1").await;
    world.check_empty().await;
}

async fn all_are_cleaned_up_after_a_shim_that_died_meanwhile(shim: &Path) {
    let mut world = World::new(shim).await;
    run(&world, "c1", ANNOTATIONS[0]).await;
    run(&world, "c2", ANNOTATIONS[0]).await;
    let shim = shim_of(&world, "c1", &["c2"]);
    world.stop().await;
    kill(Pid::from_raw(shim as i32), Signal::SIGKILL).unwrap();
    eventually("the shim's end", || processes_in(&world.bundle("c1")).is_empty()).await;
    world.start().await;
    cleaned_up(&world).await;
}

async fn a_create_that_fails_harms_nobody(shim: &Path) {
    let world = World::new(shim).await;
    let (tasks, ns) = (world.tasks(), &world.namespace);
    let first = run(&world, "c1", ANNOTATIONS[0]).await;
    let broken = grouped(&world, ANNOTATIONS[0], "/bin/nothing");
    let error = tasks.create(ns, &id("c2"), broken, patient()).await.unwrap_err();
    let words = error.full_message();
    assert!(words.contains("/bin/nothing") && !words.contains("clean-up failed"), "{words}");
    assert!(!world.bundle("c2").exists());
    is_well(&world, "c1", first).await;
    let mut unmountable = grouped(&world, ANNOTATIONS[0], "/bin/sh");
    unmountable.rootfs[0].source = "/nowhere".into();
    tasks.create(ns, &id("c2"), unmountable, patient()).await.unwrap_err();
    let second = run(&world, "c2", ANNOTATIONS[0]).await;
    shim_of(&world, "c1", &["c2"]);
    is_well(&world, "c1", first).await;
    is_well(&world, "c2", second).await;
    end(&world, "c1").await;
    end(&world, "c2").await;
    world.check_empty().await;
}

/// Ends a task as a daemon does that dies before it removes the bundle.
async fn end_by_half(world: &World, name: &str) {
    let (tasks, ns) = (world.tasks(), &world.namespace);
    tasks.kill(ns, &id(name), None, 9, false, patient()).await.unwrap();
    assert_eq!(tasks.wait(ns, &id(name), None, patient()).await.unwrap().status, 137);
    let text = fs::read(world.bundle(name).join("bootstrap.json")).unwrap();
    let kept: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let socket = kept["address"].as_str().unwrap().trim_start_matches("unix://");
    let (client, connection) = Client::over(tokio::net::UnixStream::connect(socket).await.unwrap());
    tokio::spawn(connection);
    let metadata = Metadata(vec![("containerd-namespace-ttrpc".into(), ns.to_string())]);
    let request = DeleteRequest { id: name.into(), ..Default::default() };
    let payload = request.write_to_bytes().unwrap();
    let service = "containerd.task.v2.Task";
    client.call_bytes(service, "Delete", payload, &metadata, None).await.unwrap();
}

/// The shim works in it.
async fn a_bundle_that_is_left_of_the_first_harms_nobody(shim: &Path) {
    for is_found_by_load in [true, false] {
        let mut world = World::new(shim).await;
        run(&world, "c1", ANNOTATIONS[0]).await;
        let second = run(&world, "c2", ANNOTATIONS[0]).await;
        shim_of(&world, "c1", &["c2"]);
        end_by_half(&world, "c1").await;
        world.stop().await;
        let (bundle, aside) = (world.bundle("c1"), world.directory.path().join("aside"));
        if is_found_by_load {
            world.start().await;
            eventually("the end of the bundle", || !bundle.exists()).await;
        } else {
            fs::rename(&bundle, &aside).unwrap();
            world.start().await;
            fs::rename(&aside, &bundle).unwrap();
        }
        is_well(&world, "c2", second).await;
        let first = run(&world, "c1", ANNOTATIONS[0]).await;
        is_well(&world, "c1", first).await;
        is_well(&world, "c2", second).await;
        end(&world, "c1").await;
        end(&world, "c2").await;
        world.check_empty().await;
    }
}

/// Debian's shim does nothing else meanwhile.
#[test]
fn a_create_that_hangs_ends_no_shim_of_others() {
    with_daemons(async {
        let mut world = World::new(&own_shim()).await;
        world.config.limits.shim_cleanup = Duration::from_millis(500);
        world.config.limits.shim_shutdown = Duration::from_millis(300);
        world.stop().await;
        world.start().await;
        let (tasks, ns) = (world.tasks(), &world.namespace);
        let hangs = world.directory.path().join("hangs");
        let mut options = grouped(&world, ANNOTATIONS[0], "/bin/sh");
        let spec = options.spec.as_mut().unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&spec.value).unwrap();
        let script = format!("echo >{}; exec sleep 3", hangs.display());
        json["hooks"]["createRuntime"] =
            serde_json::json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
        spec.value = json.to_string().into_bytes();
        let creating = {
            let (tasks, ns) = (tasks.clone(), ns.clone());
            tokio::spawn(async move { tasks.create(&ns, &id("c1"), options, patient()).await })
        };
        eventually("the hook", || hangs.exists()).await;
        let second = run(&world, "c2", ANNOTATIONS[0]).await;
        let is_shim = |pid: &u32| {
            fs::read_link(format!("/proc/{pid}/exe"))
                .is_ok_and(|exe| exe.file_name() == own_shim().file_name())
        };
        let shim = processes_in(&world.bundle("c1")).into_iter().find(is_shim).unwrap();
        let shim = Pid::from_raw(shim as i32);
        kill(shim, Signal::SIGSTOP).unwrap();
        creating.abort();
        eventually("the end of the bundle", || !world.bundle("c1").exists()).await;
        kill(shim, Signal::SIGCONT).unwrap();
        is_well(&world, "c2", second).await;
        end(&world, "c2").await;
    });
}
