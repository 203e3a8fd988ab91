//! The daemon goes and comes back; shims die; nothing is lost, told twice or
//! left over.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::SystemTime;

use common::{
    Front, GO_SHIM, World, eventually, exec_options, id, own_shim, patient, with_daemons,
};
use davit_events::Exchange;
use davit_protocols::convert::grpc::{pack, timestamp};
use davit_protocols::event_field;
use davit_protocols::grpc::containerd::events::TaskExit;
use davit_runtime::{CreateOptions, Status, Tasks};
use davit_types::{Envelope, ErrorKind, ExecId, Kind as _, Namespace};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
    a_running_container_is_found_again;
    a_shim_that_is_not_understood_is_left_alone;
    an_exit_while_the_daemon_was_away_is_there;
    a_shim_that_died_while_the_daemon_was_away_is_cleaned_up;
    a_killed_shim_is_cleaned_up_once;
    an_exit_is_not_told_again_when_the_shim_dies;
    waiting_and_deleting_survive_the_shims_death;
    a_stuck_shim_holds_up_nobody;
    a_shim_without_a_task_is_sent_away;
    a_late_exit_of_an_earlier_task_is_not_this_ones;
    an_exit_is_not_told_again_when_it_came_before_its_task;
}

fn signal(pid: u32, signal: Signal) {
    log::debug!("{signal} to {pid}");
    kill(Pid::from_raw(pid as i32), signal).unwrap();
}

/// Whether a process has ended, although nobody may have collected it.
fn is_dead(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z"))
}

fn count(world: &World, topic: &str) -> usize {
    world.topics().iter().filter(|told| *told == topic).count()
}

async fn a_running_container_is_found_again(shim: &Path) {
    let mut world = World::new(shim).await;
    let (output, stdio) = world.output("out");
    let script = "trap 'echo bye; exit 6' TERM; echo hello; while :; do sleep 0.05; done";
    let pid = world.create("c1", CreateOptions { stdio, ..world.options(script) }).await;
    world.tasks().start(&world.namespace, &id("c1"), None, patient()).await.unwrap();
    eventually("output", || fs::read(&output).is_ok_and(|text| text == b"hello\n")).await;
    world.stop().await;
    world.start().await;
    let (tasks, ns, c1) = (world.tasks(), &world.namespace, id("c1"));
    let state = tasks.state(ns, &c1, None, patient()).await.unwrap();
    assert_eq!((state.status, state.pid), (Status::Running, pid));
    let exec = ExecId::new("e1").unwrap();
    tasks.exec(ns, &c1, &exec, exec_options("exit 2"), patient()).await.unwrap();
    tasks.start(ns, &c1, Some(&exec), patient()).await.unwrap();
    assert_eq!(tasks.wait(ns, &c1, Some(&exec), patient()).await.unwrap().status, 2);
    tasks.delete_exec(ns, &c1, &exec, patient()).await.unwrap();
    tasks.kill(ns, &c1, None, 15, false, patient()).await.unwrap();
    assert_eq!(tasks.wait(ns, &c1, None, patient()).await.unwrap().status, 6);
    eventually("the last output", || fs::read(&output).unwrap() == b"hello\nbye\n").await;
    assert_eq!(tasks.delete(ns, &c1, patient()).await.unwrap().status, 6);
    eventually("the exit event", || world.exits().contains(&("c1".into(), 6))).await;
    world.check_empty().await;
}

/// As after a downgrade: what a later version wrote is not understood.
async fn a_shim_that_is_not_understood_is_left_alone(shim: &Path) {
    let mut world = World::new(shim).await;
    let pid = world.run("c1", "exec sleep 1000").await;
    world.stop().await;
    let path = world.bundle("c1").join("bootstrap.json");
    let kept = fs::read_to_string(&path).unwrap();
    let (before, after) = kept.split_once("\"version\":").unwrap();
    fs::write(&path, format!("{before}\"version\":9{}", &after[1..])).unwrap();
    world.start().await;
    assert!(!world.tasks().contains(&world.namespace, &id("c1")));
    assert!(!is_dead(pid));
    world.stop().await;
    fs::write(&path, kept).unwrap();
    world.start().await;
    let (tasks, ns, c1) = (world.tasks(), &world.namespace, id("c1"));
    tasks.kill(ns, &c1, None, 9, false, patient()).await.unwrap();
    assert_eq!(tasks.wait(ns, &c1, None, patient()).await.unwrap().status, 137);
    tasks.delete(ns, &c1, patient()).await.unwrap();
    world.check_empty().await;
}

async fn an_exit_while_the_daemon_was_away_is_there(shim: &Path) {
    let mut world = World::new(shim).await;
    let go = world.directory.path().join("image/go");
    let pid = world.run("c1", "while ! [ -e /go ]; do sleep 0.05; done; exit 9").await;
    world.stop().await;
    fs::write(go, "").unwrap();
    eventually("the exit", || is_dead(pid)).await;
    world.start().await;
    let (tasks, ns, c1) = (world.tasks(), &world.namespace, id("c1"));
    let state = tasks.state(ns, &c1, None, patient()).await.unwrap();
    assert_eq!((state.status, state.exit_status), (Status::Stopped, 9));
    assert_eq!(tasks.wait(ns, &c1, None, patient()).await.unwrap().status, 9);
    eventually("the exit event", || !world.exits().is_empty()).await;
    assert_eq!(tasks.delete(ns, &c1, patient()).await.unwrap().status, 9);
    eventually("the delete event", || count(&world, "/tasks/delete") == 1).await;
    assert_eq!(world.exits(), [("c1".to_owned(), 9)]);
    world.check_empty().await;
}

async fn a_shim_that_died_while_the_daemon_was_away_is_cleaned_up(shim: &Path) {
    let mut world = World::new(shim).await;
    world.run("c1", "sleep 1000").await;
    world.run("c2", "sleep 1000").await;
    let pid = world.shim_pid("c1");
    world.stop().await;
    signal(pid, Signal::SIGKILL);
    eventually("the shim's end", || common::processes_in(&world.bundle("c1")).is_empty()).await;
    world.start().await;
    let (tasks, ns) = (world.tasks(), &world.namespace);
    let missing = tasks.state(ns, &id("c1"), None, patient()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    eventually("the delete event", || count(&world, "/tasks/delete") == 1).await;
    assert_eq!(world.exits(), [("c1".to_owned(), 137)]);
    let state = tasks.state(ns, &id("c2"), None, patient()).await.unwrap();
    assert_eq!(state.status, Status::Running);
    tasks.kill(ns, &id("c2"), None, 9, false, patient()).await.unwrap();
    tasks.wait(ns, &id("c2"), None, patient()).await.unwrap();
    tasks.delete(ns, &id("c2"), patient()).await.unwrap();
    world.check_empty().await;
}

async fn a_killed_shim_is_cleaned_up_once(shim: &Path) {
    let world = World::new(shim).await;
    let pid = world.run("c1", "sleep 1000").await;
    signal(world.shim_pid("c1"), Signal::SIGKILL);
    eventually("the end of the task", || !world.tasks().contains(&world.namespace, &id("c1")))
        .await;
    eventually("the delete event", || count(&world, "/tasks/delete") == 1).await;
    assert_eq!(world.exits(), [("c1".to_owned(), 137)]);
    assert!(is_dead(pid), "the container goes on");
    // The id is free again.
    world.run("c1", "exit 1").await;
    world.tasks().wait(&world.namespace, &id("c1"), None, patient()).await.unwrap();
    world.tasks().delete(&world.namespace, &id("c1"), patient()).await.unwrap();
    eventually("the second exit", || world.exits().len() == 2).await;
    assert_eq!(count(&world, "/tasks/exit"), 2);
    world.check_empty().await;
}

async fn an_exit_is_not_told_again_when_the_shim_dies(shim: &Path) {
    let world = World::new(shim).await;
    world.run("c1", "exit 5").await;
    eventually("the exit event", || world.exits() == [("c1".to_owned(), 5)]).await;
    signal(world.shim_pid("c1"), Signal::SIGKILL);
    eventually("the delete event", || count(&world, "/tasks/delete") == 1).await;
    assert_eq!(world.exits(), [("c1".to_owned(), 5)]);
    world.check_empty().await;
}

async fn waiting_and_deleting_survive_the_shims_death(shim: &Path) {
    let world = World::new(shim).await;
    let (tasks, ns, c1) = (world.tasks(), &world.namespace, id("c1"));
    world.run("c1", "sleep 1000").await;
    let shim = world.shim_pid("c1");
    let waiting = {
        let (tasks, ns, c1) = (tasks.clone(), ns.clone(), c1.clone());
        tokio::spawn(async move { tasks.wait(&ns, &c1, None, patient()).await })
    };
    signal(shim, Signal::SIGSTOP);
    let status = format!("/proc/{shim}/status");
    let is_stopped = || fs::read_to_string(&status).unwrap().contains("State:\tT");
    eventually("the shim's stop", is_stopped).await;
    let deleting = {
        let (tasks, ns, c1) = (tasks.clone(), ns.clone(), c1.clone());
        tokio::spawn(async move { tasks.delete(&ns, &c1, patient()).await })
    };
    signal(shim, Signal::SIGKILL);
    assert_eq!(waiting.await.unwrap().unwrap().status, 137);
    match deleting.await.unwrap() {
        Ok(exit) => assert_eq!(exit.status, 137),
        // The clean-up was faster than the Delete.
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}"),
    }
    eventually("the delete event", || count(&world, "/tasks/delete") == 1).await;
    assert_eq!(world.exits(), [("c1".to_owned(), 137)]);
    world.check_empty().await;
}

async fn a_stuck_shim_holds_up_nobody(shim: &Path) {
    let mut world = World::new(shim).await;
    // They bind the shim that is well, too.
    world.config.limits.task_state = std::time::Duration::from_secs(2);
    world.config.limits.shim_load = std::time::Duration::from_secs(2);
    world.run("stuck", "sleep 1000").await;
    world.run("c1", "sleep 1000").await;
    let stuck = world.shim_pid("stuck");
    signal(stuck, Signal::SIGSTOP);
    world.stop().await;
    world.start().await;
    let (tasks, ns) = (world.tasks(), &world.namespace);
    let listed = tasks.list(ns, patient()).await;
    let states: Vec<_> = listed.iter().map(|state| (state.id.as_str(), state.status)).collect();
    assert_eq!(states, [("c1", Status::Running), ("stuck", Status::Unknown)]);
    tasks.kill(ns, &id("c1"), None, 9, false, patient()).await.unwrap();
    tasks.wait(ns, &id("c1"), None, patient()).await.unwrap();
    tasks.delete(ns, &id("c1"), patient()).await.unwrap();
    signal(stuck, Signal::SIGCONT);
    tasks.kill(ns, &id("stuck"), None, 9, false, patient()).await.unwrap();
    assert_eq!(tasks.wait(ns, &id("stuck"), None, patient()).await.unwrap().status, 137);
    tasks.delete(ns, &id("stuck"), patient()).await.unwrap();
    world.check_empty().await;
}

/// As after a crash between a shim's start and its Create: the bundle says
/// where the shim is, and the shim knows of no container.
async fn a_shim_without_a_task_is_sent_away(shim: &Path) {
    let mut world = World::new(shim).await;
    let bundle = world.bundle("c1");
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    let options = world.options("true");
    fs::write(bundle.join("config.json"), options.spec.unwrap().value).unwrap();
    let log = bundle.join("log");
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _reader = fs::OpenOptions::new().read(true).write(true).open(&log).unwrap();
    fs::write(bundle.join("shim-binary-path"), shim.to_str().unwrap()).unwrap();
    let mut command = std::process::Command::new(shim);
    command.current_dir(&bundle).args(["-namespace", world.namespace.as_str()]);
    command.args(["-address", &world.config.grpc_address, "-publish-binary", "/bin/false"]);
    command.args(["-id", "c1", "start"]);
    command.env("TTRPC_ADDRESS", &world.config.ttrpc_address);
    let answer = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(answer.status.success());
    fs::write(bundle.join("address"), answer.stdout.trim_ascii()).unwrap();
    world.shim_pid("c1");
    world.stop().await;
    world.start().await;
    assert!(!world.tasks().contains(&world.namespace, &id("c1")));
    assert_eq!(world.exits(), []);
    // What a bundle of a dead daemon leaves half made or half removed.
    world.stop().await;
    let remains = world.bundle(".c2.1.2").join("rootfs");
    fs::create_dir_all(remains).unwrap();
    let work = world.config.root.join(world.namespace.as_str()).join("c3");
    fs::create_dir_all(work).unwrap();
    world.start().await;
    world.check_empty().await;
}

fn exit_of_c1(namespace: &Namespace, exit: TaskExit) -> Envelope {
    let event = pack(&TaskExit { container_id: "c1".into(), id: "c1".into(), ..exit });
    let topic = "/tasks/exit".into();
    Envelope { timestamp: SystemTime::now(), namespace: namespace.clone(), topic, event }
}

/// As when the daemon was away for long: the shim of an earlier task is not
/// done with telling its exit when another has the id.
async fn a_late_exit_of_an_earlier_task_is_not_this_ones(shim: &Path) {
    let world = World::new(shim).await;
    let (tasks, ns, c1) = (world.tasks(), &world.namespace, id("c1"));
    let pid = world.run("c1", "exec sleep 1000").await;
    let exit = |pid| exit_of_c1(ns, TaskExit { pid, ..Default::default() });
    assert!(tasks.observe(&exit(pid + 1)).await);
    assert!(!world.bundle("c1").join("told-exit.json").exists(), "it was kept as this one's");
    tasks.kill(ns, &c1, None, 9, false, patient()).await.unwrap();
    eventually("the exit event", || world.exits() == [("c1".to_owned(), 137)]).await;
    assert!(tasks.observe(&exit(pid + 1)).await);
    assert!(!tasks.observe(&exit(pid)).await, "it was told");
    tasks.delete(ns, &c1, patient()).await.unwrap();
    world.check_empty().await;
}

/// The shim tells it again as soon as the daemon listens, which is before it
/// has looked for its tasks.
async fn an_exit_is_not_told_again_when_it_came_before_its_task(shim: &Path) {
    let mut world = World::new(shim).await;
    let (go, ns, c1) = (world.directory.path().join("image/go"), world.namespace.clone(), id("c1"));
    let pid = world.run("c1", "while ! [ -e /go ]; do sleep 0.05; done; exit 9").await;
    world.stop().await;
    fs::write(go, "").unwrap();
    eventually("the exit", || is_dead(pid)).await;
    world.start().await;
    let state = world.tasks().state(&ns, &c1, None, patient()).await.unwrap();
    world.stop().await;
    // It may have been told to this one: the next is not to know.
    let kept = world.bundle("c1").join("told-exit.json");
    let _ = fs::remove_file(&kept);
    let exchange = Arc::new(Exchange::new(event_field));
    let mut told = exchange.subscribe(&[]).unwrap();
    let tasks = Tasks::new(world.config.clone(), exchange).unwrap();
    let exited_at = state.exited_at.map(timestamp);
    let exit = TaskExit { pid, exit_status: 9, exited_at, ..Default::default() };
    let event = exit_of_c1(&ns, exit);
    assert!(tasks.observe(&event).await);
    tasks.load().await;
    eventually("the note that it was told", || kept.exists()).await;
    assert!(!tasks.observe(&event).await, "it was told");
    tasks.delete(&ns, &c1, patient()).await.unwrap();
    tasks.settled().await;
    assert!(futures::poll!(pin!(told.next())).is_pending(), "the daemon told it, too");
    world.check_empty().await;
}
