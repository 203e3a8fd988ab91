//! The life of containers and execs, method by method, event by event.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod runc_harness;

use std::process::Command;

use davit_protocols::ttrpc::{events, options, process, task};
use protobuf::Message;
use protobuf::well_known_types::empty::Empty;
use runc_harness::{Daemon, Heard, any, exec, has, is_alive, must, unique, wait_for};

with_each_runtime! {
    a_container_lives_and_dies, an_exec_lives_and_dies, early_exits_are_told_once_and_in_order,
    states_forbid_what_they_forbid, pause_and_resume, a_created_container_is_deleted,
    the_rest_dies_with_an_init_that_shares_pids, bad_input_is_refused_and_leaves_nothing,
    many_execs_at_once, create_is_answered_again, failing_execs_leave_nothing,
    repeated_calls_get_one_answer,
}

/// `Create, Start, State, Pids, Kill, Wait, Delete, Connect, Shutdown`.
fn a_container_lives_and_dies(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    let pid = shim.create(&bundle.create(runtime)).unwrap();
    let state = shim.state(&bundle.id, "").unwrap();
    assert_eq!((state.pid, state.status), (pid, process::Status::CREATED.into()));
    assert_eq!(state.bundle, bundle.path.to_str().unwrap());
    assert_eq!(state.exited_at.seconds, -62_135_596_800, "Go's zero time");

    assert_eq!(shim.start(&bundle.id, "").unwrap(), pid);
    let state = shim.state(&bundle.id, "").unwrap();
    assert_eq!((state.id.as_str(), state.pid), (bundle.id.as_str(), pid));
    assert_eq!(state.status, process::Status::RUNNING.into());
    let connected: task::ConnectResponse = shim
        .call("Connect", &task::ConnectRequest { id: bundle.id.clone(), ..Default::default() })
        .unwrap();
    assert_eq!((connected.shim_pid, connected.task_pid), (shim.pid, pid));
    let pids: task::PidsResponse = shim
        .call("Pids", &task::PidsRequest { id: bundle.id.clone(), ..Default::default() })
        .unwrap();
    assert_eq!(pids.processes.iter().map(|p| p.pid).collect::<Vec<_>>(), [pid]);

    // A shim with a container stays.
    shim.shutdown(&bundle.id).unwrap();
    shim.kill(&bundle.id, "", 9, false).unwrap();
    let waited = shim.wait(&bundle.id, "").unwrap();
    assert_eq!(waited.exit_status, 137);
    let state = shim.state(&bundle.id, "").unwrap();
    assert_eq!((state.exit_status, state.status), (137, process::Status::STOPPED.into()));
    assert!(bundle.path.join("exit.json").is_file());
    let again = shim.kill(&bundle.id, "", 9, false).unwrap_err();
    assert_eq!(again, "NotFound: process already finished: not found");
    let deleted = shim.delete(&bundle.id, "").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    assert_eq!(deleted.exited_at, waited.exited_at);
    assert!(!bundle.path.join("exit.json").exists());
    let gone = shim.state(&bundle.id, "").unwrap_err();
    assert_eq!(gone, "NotFound: container not created: not found");

    shim.shutdown(&bundle.id).unwrap();
    wait_for("the shim's end", || (!is_alive(shim.pid)).then_some(()));
    assert!(!shim.socket.exists(), "the socket is removed");
    daemon.expect_topics(&["create", "start", "exit", "delete"]);
    check_events(&daemon, &bundle, pid, &waited);
}

fn check_events(
    daemon: &Daemon,
    bundle: &runc_harness::Bundle,
    pid: u32,
    waited: &task::WaitResponse,
) {
    let heard = daemon.events();
    let created: events::TaskCreate = heard[0].message();
    assert_eq!((created.container_id.as_str(), created.pid), (bundle.id.as_str(), pid));
    assert_eq!(created.bundle, bundle.path.to_str().unwrap());
    assert!(created.io.is_some());
    let started: events::TaskStart = heard[1].message();
    assert_eq!((started.container_id.as_str(), started.pid), (bundle.id.as_str(), pid));
    let exited: events::TaskExit = heard[2].message();
    assert_eq!((exited.container_id.as_str(), exited.id.as_str()), (&*bundle.id, &*bundle.id));
    assert_eq!((exited.pid, exited.exit_status), (pid, 137));
    assert_eq!(exited.exited_at, waited.exited_at);
    let deleted: events::TaskDelete = heard[3].message();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    assert_eq!(deleted.exited_at, waited.exited_at);
    assert!(heard.iter().all(|event| event.type_url.starts_with("containerd.events.Task")));
}

/// `Exec, Start, State, Pids, Kill, Wait, Delete` of an exec.
fn an_exec_lives_and_dies(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create(runtime));
    let id = &bundle.id;
    shim.exec(&exec(id, "e1", &["sleep", "1000"])).unwrap();
    let twice = shim.exec(&exec(id, "e1", &["true"])).unwrap_err();
    assert_eq!(twice, "AlreadyExists: id e1: already exists");
    assert_eq!(shim.state(id, "e1").unwrap().status, process::Status::CREATED.into());
    let early = shim.kill(id, "e1", 15, false).unwrap_err();
    assert_eq!(early, "FailedPrecondition: process not created: failed precondition");

    let pid = shim.start(id, "e1").unwrap();
    let state = shim.state(id, "e1").unwrap();
    assert_eq!((state.id.as_str(), state.pid), ("e1", pid));
    assert_eq!(state.status, process::Status::RUNNING.into());
    let pids: task::PidsResponse =
        shim.call("Pids", &task::PidsRequest { id: id.clone(), ..Default::default() }).unwrap();
    let info = pids.processes.iter().find(|p| p.pid == pid).unwrap().info.clone().unwrap();
    assert_eq!(info.type_url, "containerd.runc.v1.ProcessDetails");
    let details = options::ProcessDetails::parse_from_bytes(&info.value).unwrap();
    assert_eq!(details.exec_id, "e1");

    let running = shim.delete(id, "e1").unwrap_err();
    assert_eq!(running, "Unknown: cannot delete a running process");
    shim.kill(id, "e1", 15, false).unwrap();
    assert_eq!(shim.wait(id, "e1").unwrap().exit_status, 143);
    assert!(bundle.path.join("e1.exit.json").is_file());
    let finished = shim.kill(id, "e1", 15, false).unwrap_err();
    assert_eq!(finished, "NotFound: process already finished: not found");
    assert_eq!(shim.delete(id, "e1").unwrap().exit_status, 143);
    assert!(!bundle.path.join("e1.exit.json").exists());
    assert!(!bundle.path.join("e1.pid").exists());
    let gone = shim.state(id, "e1").unwrap_err();
    assert_eq!(gone, "NotFound: process does not exist e1: not found");
    // The id is free again.
    shim.exec(&exec(id, "e1", &["sh", "-c", "exit 3"])).unwrap();
    shim.start(id, "e1").unwrap();
    assert_eq!(shim.wait(id, "e1").unwrap().exit_status, 3);
    shim.end(id);
    daemon.expect_topics(&[
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit",
        "exec-added",
        "exec-started",
        "exit",
        "exit",
        "delete",
    ]);
    let started: events::TaskExecStarted = daemon.events()[3].message();
    assert_eq!((started.exec_id.as_str(), started.pid), ("e1", pid));
}

/// Processes that are gone before anybody could look: start first, exit
/// after, one of each.
fn early_exits_are_told_once_and_in_order(runtime: &str) {
    let daemon = Daemon::new();
    let keeper = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&keeper);
    shim.run(&keeper.create(runtime));
    for count in 0..10 {
        let bundle = daemon.bundle(&["true"]);
        shim.run(&bundle.create(runtime));
        let name = format!("e{count}");
        shim.exec(&exec(&keeper.id, &name, &["sh", "-c", "exit 5"])).unwrap();
        shim.start(&keeper.id, &name).unwrap();
        assert_eq!(shim.wait(&bundle.id, "").unwrap().exit_status, 0);
        assert_eq!(shim.wait(&keeper.id, &name).unwrap().exit_status, 5);
        shim.delete(&bundle.id, "").unwrap();
        shim.delete(&keeper.id, &name).unwrap();
    }
    shim.end(&keeper.id);
    let heard = wait_for("all events", || {
        let events = daemon.events();
        (events.len() == 10 * 4 + 10 * 3 + 4).then_some(events)
    });
    let position = |topic: &str, matches: &dyn Fn(&Heard) -> bool| {
        let all: Vec<usize> = (0..heard.len())
            .filter(|index| heard[*index].topic == topic && matches(&heard[*index]))
            .collect();
        assert_eq!(all.len(), 1, "{topic}");
        all[0]
    };
    for count in 0..10 {
        let name = format!("e{count}");
        let started = position("/tasks/exec-started", &|event| {
            event.message::<events::TaskExecStarted>().exec_id == name
        });
        let exited =
            position("/tasks/exit", &|event| event.message::<events::TaskExit>().id == name);
        assert!(started < exited, "{name}: {started} {exited}");
    }
    for event in heard.iter().filter(|event| event.topic == "/tasks/start") {
        let id = event.message::<events::TaskStart>().container_id;
        let started = position("/tasks/start", &|event| {
            event.message::<events::TaskStart>().container_id == id
        });
        let exited = position("/tasks/exit", &|event| event.message::<events::TaskExit>().id == id);
        assert!(started < exited, "{id}: {started} {exited}");
    }
}

fn states_forbid_what_they_forbid(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    let id = &bundle.id;
    let unknown = "NotFound: container not created: not found";
    assert_eq!(shim.start(id, "").unwrap_err(), unknown);
    assert_eq!(shim.wait(id, "").unwrap_err(), unknown);
    assert_eq!(shim.kill(id, "", 9, false).unwrap_err(), unknown);
    assert_eq!(shim.delete(id, "").unwrap_err(), unknown);
    shim.create(&bundle.create(runtime)).unwrap();
    let refused = |result: Result<(), String>| result.unwrap_err();
    assert_eq!(refused(shim.pause(id, true)), "Unknown: cannot pause task in created state");
    assert_eq!(refused(shim.pause(id, false)), "Unknown: cannot resume task in created state");
    shim.start(id, "").unwrap();
    assert_eq!(shim.start(id, "").unwrap_err(), "Unknown: cannot start a running process");
    assert_eq!(shim.delete(id, "").unwrap_err(), "Unknown: cannot delete a running process");
    assert_eq!(refused(shim.pause(id, false)), "Unknown: cannot resume a running process");
    let none = "NotFound: process does not exist nope: not found";
    assert_eq!(shim.start(id, "nope").unwrap_err(), none);
    assert_eq!(shim.wait(id, "nope").unwrap_err(), none);
    shim.exec(&exec(id, "late", &["true"])).unwrap();
    shim.kill(id, "", 9, false).unwrap();
    shim.wait(id, "").unwrap();
    let late = shim.start(id, "late").unwrap_err();
    let text = format!("container {id} init process is not running: failed precondition");
    assert_eq!(late, format!("FailedPrecondition: {text}"));
    let stopped = shim.exec(&exec(id, "later", &["true"])).unwrap_err();
    assert_eq!(stopped, "Unknown: cannot exec in a stopped state");
    assert_eq!(refused(shim.pause(id, true)), "Unknown: cannot pause a stopped container");
    assert_eq!(shim.start(id, "").unwrap_err(), "Unknown: cannot start a stopped process");
    shim.delete(id, "").unwrap();
}

fn pause_and_resume(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create(runtime));
    let id = &bundle.id;
    shim.exec(&exec(id, "e", &["sleep", "1000"])).unwrap();
    shim.start(id, "e").unwrap();
    shim.pause(id, true).unwrap();
    for process in ["", "e"] {
        assert_eq!(shim.state(id, process).unwrap().status, process::Status::PAUSED.into());
    }
    let refused = shim.exec(&exec(id, "f", &["true"])).unwrap_err();
    assert_eq!(refused, "Unknown: cannot exec in a paused state");
    shim.pause(id, false).unwrap();
    assert_eq!(shim.state(id, "e").unwrap().status, process::Status::RUNNING.into());
    shim.pause(id, true).unwrap();
    // What is frozen can be killed.
    shim.kill(id, "", 9, false).unwrap();
    assert_eq!(shim.wait(id, "").unwrap().exit_status, 137);
    assert_eq!(daemon.exit_of("e").exit_status, 137);
    shim.delete(id, "").unwrap();
    daemon.expect_topics(&[
        "create",
        "start",
        "exec-added",
        "exec-started",
        "paused",
        "resumed",
        "paused",
        "exit",
        "exit",
        "delete",
    ]);
    let last: events::TaskExit = daemon.events()[8].message();
    assert_eq!(last.id, *id, "the init's exit comes last");
}

/// Deleting what was never started ends it, and says so.
fn a_created_container_is_deleted(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    let pid = shim.create(&bundle.create(runtime)).unwrap();
    let deleted = shim.delete(&bundle.id, "").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    assert!(!is_alive(pid));
    daemon.expect_topics(&["create", "exit", "delete"]);
    let listed = must(Command::new(runtime).args([
        "--root",
        &format!("/run/containerd/runc/{}", daemon.namespace),
        "list",
        "-q",
    ]));
    assert_eq!(listed.trim(), "");
}

fn the_rest_dies_with_an_init_that_shares_pids(runtime: &str) {
    let daemon = Daemon::new();
    let script = "sleep 1000 & sleep 1001; true";
    let bundle = daemon.bundle(&["sh", "-c", script]).with_host_pids();
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create(runtime));
    let id = &bundle.id;
    shim.exec(&exec(id, "e", &["sleep", "1002"])).unwrap();
    shim.start(id, "e").unwrap();
    let all = wait_for("all processes", || {
        let request = task::PidsRequest { id: id.clone(), ..Default::default() };
        let pids: task::PidsResponse = shim.call("Pids", &request).unwrap();
        (pids.processes.len() == 4).then_some(pids.processes)
    });
    shim.kill(id, "", 9, false).unwrap();
    assert_eq!(shim.wait(id, "").unwrap().exit_status, 137);
    for process in all {
        wait_for("the end of what is left", || (!is_alive(process.pid)).then_some(()));
    }
    daemon.expect_topics(&["create", "start", "exec-added", "exec-started", "exit", "exit"]);
    let last: events::TaskExit = daemon.events()[5].message();
    assert_eq!(last.id, *id, "the init's exit comes last");
    shim.delete(id, "").unwrap();
}

fn bad_input_is_refused_and_leaves_nothing(runtime: &str) {
    let daemon = Daemon::new();
    let keeper = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&keeper);
    let before = shim.descriptors();
    for id in ["", "..", "a/b", &"x".repeat(77)] {
        let mut request = keeper.create(runtime);
        request.id = id.into();
        let refusal = shim.create(&request).unwrap_err();
        assert!(refusal.starts_with("InvalidArgument: identifier"), "{id}: {refusal}");
    }
    let mut request = keeper.create(runtime);
    request.bundle = "/no/such/bundle".into();
    assert!(shim.create(&request).unwrap_err().contains("no such file"), "bundle");
    let refusal = shim.create(&keeper.create("/no/such/runtime")).unwrap_err();
    assert!(refusal.starts_with("Unknown: OCI runtime create failed: "), "{refusal}");
    assert!(refusal.contains("/no/such/runtime"), "{refusal}");
    let mut request = keeper.create(runtime);
    request.stdout = "gopher://x".into();
    let refusal = shim.create(&request).unwrap_err();
    assert_eq!(refusal, "Unknown: failed to create init process I/O: unknown STDIO scheme gopher");
    let mut request = keeper.create(runtime);
    request.options = Some(any(
        "some.other.Options",
        &task::WaitRequest { id: "x".into(), ..Default::default() },
    ))
    .into();
    let refusal = shim.create(&request).unwrap_err();
    assert_eq!(refusal, "Unknown: type with url some.other.Options: not found");
    let missing = daemon.bundle(&["/no/such/program"]);
    let refusal = match shim.create(&missing.create(runtime)) {
        // crun looks for the program only when it is started.
        Ok(_) => shim.start(&missing.id, "").unwrap_err(),
        Err(refusal) => refusal,
    };
    assert!(refusal.starts_with("Unknown: OCI runtime"), "{refusal}");
    assert!(refusal.contains("/no/such/program"), "{refusal}");
    let broken = daemon.bundle(&["true"]).with(|config| config["root"]["path"] = "/no/root".into());
    let refusal = shim.create(&broken.create(runtime)).unwrap_err();
    assert!(refusal.starts_with("Unknown: OCI runtime create failed: "), "{refusal}");
    let _ = shim.delete(&missing.id, "");

    // The id that all of this was about is free.
    shim.run(&keeper.create(runtime));
    let refusal = shim.exec(&exec(&keeper.id, "../e", &["true"])).unwrap_err();
    assert!(refusal.starts_with("InvalidArgument: identifier"), "{refusal}");
    let mut request = exec(&keeper.id, "e", &["true"]);
    request.spec.as_mut().unwrap().value = b"[]".to_vec();
    assert!(shim.exec(&request).unwrap_err().starts_with("Unknown: exec spec"));
    shim.end(&keeper.id);
    let after = wait_for("the end of the descriptors", || {
        let after = shim.descriptors();
        (after.len() <= before.len() + 1).then_some(after)
    });
    // The connection to the daemon may be open still.
    assert!(after.len() <= before.len() + 1, "{before:?} {after:?}");
    assert!(shim.children().is_empty(), "{:?}", shim.children());
}

fn many_execs_at_once(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create(runtime));
    let before = shim.descriptors().len();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (shim, bundle) = (&shim, &bundle);
            scope.spawn(move || {
                for count in 0..5 {
                    let (name, status) = (format!("e{thread}-{count}"), thread * 10 + count);
                    let script = format!("exit {status}");
                    shim.exec(&exec(&bundle.id, &name, &["sh", "-c", &script])).unwrap();
                    shim.start(&bundle.id, &name).unwrap();
                    assert_eq!(shim.wait(&bundle.id, &name).unwrap().exit_status, status);
                    assert_eq!(shim.delete(&bundle.id, &name).unwrap().exit_status, status);
                }
            });
        }
    });
    wait_for("the end of the descriptors", || (shim.descriptors().len() <= before).then_some(()));
    shim.end(&bundle.id);
    assert!(shim.children().is_empty(), "{:?}", shim.children());
}

/// A Create whose answer was lost can be made again; another one of the same
/// id cannot.
fn create_is_answered_again(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    let request = bundle.create(runtime);
    let pids: Vec<u32> = std::thread::scope(|scope| {
        let create = || {
            let call = |shim: &runc_harness::Shim<'_>| {
                shim.call("Create", &request).map(|r: task::CreateTaskResponse| r.pid).unwrap()
            };
            call(&shim)
        };
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(create)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    assert_eq!(shim.create(&request).unwrap(), pids[0]);
    let mut other = request.clone();
    other.stdout = "/dev/null".into();
    let refusal = shim.create(&other).unwrap_err();
    assert_eq!(refusal, format!("AlreadyExists: task {}: already exists", bundle.id));
    shim.start(&bundle.id, "").unwrap();
    assert!(shim.create(&request).unwrap_err().starts_with("AlreadyExists"));
    shim.end(&bundle.id);
    daemon.expect_topics(&["create", "start", "exit", "delete"]);
}

/// Calls that are repeated while the first is under way get its answer.
fn repeated_calls_get_one_answer(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    let pid = shim.create(&bundle.create(runtime)).unwrap();
    let id = bundle.id.as_str();
    let started: Vec<Result<u32, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| shim.start(id, ""))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for result in &started {
        match result {
            Ok(answer) => assert_eq!(*answer, pid),
            // Came when it was over.
            Err(refusal) => assert_eq!(refusal, "Unknown: cannot start a running process"),
        }
    }
    assert!(started.iter().any(Result::is_ok));
    shim.kill(id, "", 9, false).unwrap();
    shim.wait(id, "").unwrap();
    let deleted: Vec<Result<u32, String>> = std::thread::scope(|scope| {
        let delete = || shim.delete(id, "").map(|response| response.exit_status);
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(delete)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for result in &deleted {
        match result {
            Ok(status) => assert_eq!(*status, 137),
            Err(refusal) => assert_eq!(refusal, "NotFound: container not created: not found"),
        }
    }
    assert!(deleted.iter().any(Result::is_ok));
    daemon.expect_topics(&["create", "start", "exit", "delete"]);
}

fn failing_execs_leave_nothing(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create(runtime));
    let before = shim.descriptors().len();
    let id = &bundle.id;
    shim.exec(&exec(id, "e", &["/no/such/program"])).unwrap();
    let refusal = shim.start(id, "e").unwrap_err();
    assert!(refusal.starts_with("Unknown: OCI runtime exec failed: "), "{refusal}");
    assert!(refusal.contains("/no/such/program"), "{refusal}");
    // Whoever waits is not left waiting, and it can be tried again.
    shim.wait(id, "e").unwrap();
    assert!(shim.start(id, "e").unwrap_err().contains("/no/such/program"));
    shim.delete(id, "e").unwrap();
    let missing = unique("/no/such/fifo");
    let mut request = exec(id, "f", &["true"]);
    request.stdout = missing;
    shim.exec(&request).unwrap();
    assert!(shim.start(id, "f").unwrap_err().contains("no such file"));
    shim.delete(id, "f").unwrap();
    wait_for("the end of the descriptors", || (shim.descriptors().len() <= before).then_some(()));
    shim.kill(id, "", 9, false).unwrap();
    assert_eq!(shim.wait(id, "").unwrap().exit_status, 137, "nothing is waited for");
    shim.delete(id, "").unwrap();
    daemon.expect_topics(&["create", "start", "exec-added", "exec-added", "exit", "delete"]);
}

/// Unknown methods and services, which callers downgrade on; both versions
/// of the service.
#[test]
fn both_versions_are_served_and_no_more() {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["true"]);
    let shim = daemon.start(&bundle);
    let request = task::ConnectRequest { id: bundle.id.clone(), ..Default::default() };
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        let connected: task::ConnectResponse =
            shim.call_service(service, "Connect", &request).unwrap();
        assert_eq!(connected.shim_pid, shim.pid);
    }
    for (service, method) in
        [("containerd.task.v2.Task", "Nope"), ("containerd.task.v4.Task", "Connect")]
    {
        let refusal = shim.call_service::<_, Empty>(service, method, &request).unwrap_err();
        assert!(refusal.starts_with("Unimplemented"), "{refusal}");
    }
    assert!(has("runc"));
}
