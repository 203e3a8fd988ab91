//! Several containers in one shim.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod runc_harness;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use davit_protocols::ttrpc::task;
use runc_harness::{
    Bundle, Daemon, LIMIT, SHIM, answer, exec, install, is_alive, unique, wait_for,
};

with_each_runtime! {
    one_shim_serves_a_pod, a_slow_create_delays_nobody, nothing_grows,
}

fn grouped(daemon: &Daemon, args: &[&str], annotation: &str, group: &str) -> Bundle {
    daemon.bundle(args).with(|config| {
        config["annotations"] = serde_json::json!({annotation: group});
    })
}

fn one_shim_serves_a_pod(runtime: &str) {
    for annotation in ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"] {
        let daemon = Daemon::new();
        let group = unique("pod");
        let first = grouped(&daemon, &["sleep", "1000"], annotation, &group);
        let mut shim = daemon.start(&first);
        let second = grouped(&daemon, &["sh", "-c", "exit 6"], annotation, &group);
        let output = daemon.shim_command(SHIM, &second, "start").stdin(Stdio::null()).output();
        let address = answer(&output.unwrap());
        assert_eq!(address, format!("unix://{}", shim.socket.display()));
        shim.run(&first.create(runtime));
        shim.run(&second.create(runtime));
        assert_eq!(shim.wait(&second.id, "").unwrap().exit_status, 6);
        shim.delete(&second.id, "").unwrap();
        shim.shutdown(&second.id).unwrap();
        assert!(shim.state(&first.id, "").is_ok(), "the first goes on");
        shim.end(&first.id);
        shim.shutdown(&first.id).unwrap();
        wait_for("the shim's end", || (!is_alive(shim.pid)).then_some(()));
    }
}

/// A runtime that takes its time over the container `slow`.
fn slow_runtime(daemon: &Daemon, runtime: &str, gate: &Path) -> String {
    let path = daemon.dir.path().join("slow-runtime");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *create*) while ! [ -e {} ]; do sleep 0.05; done;; esac\n\
         exec {runtime} \"$@\"\n",
        gate.display()
    );
    install(&path, script);
    path.to_str().unwrap().into()
}

fn a_slow_create_delays_nobody(runtime: &str) {
    let daemon = Daemon::new();
    let annotation = "io.containerd.runc.v2.group";
    let group = unique("pod");
    let quick = grouped(&daemon, &["sleep", "1000"], annotation, &group);
    let slow = grouped(&daemon, &["sleep", "1000"], annotation, &group);
    let mut shim = daemon.start(&quick);
    shim.run(&quick.create(runtime));
    let gate = daemon.dir.path().join("gate");
    let request = slow.create(&slow_runtime(&daemon, runtime, &gate));
    std::thread::scope(|scope| {
        let shim = &shim;
        let create =
            scope.spawn(|| -> task::CreateTaskResponse { shim.call("Create", &request).unwrap() });
        wait_for("the slow create", || (!shim.children().is_empty()).then_some(()));
        let begun = Instant::now();
        // A whole exec, and the state of the quick one, while the other waits.
        shim.exec(&exec(&quick.id, "e", &["true"])).unwrap();
        shim.start(&quick.id, "e").unwrap();
        assert_eq!(shim.wait(&quick.id, "e").unwrap().exit_status, 0);
        shim.delete(&quick.id, "e").unwrap();
        shim.state(&quick.id, "").unwrap();
        assert!(!create.is_finished(), "the other was still waiting after {:?}", begun.elapsed());
        // A Delete of the slow one waits for its Create, and then works.
        let delete = scope.spawn(|| shim.delete(&slow.id, ""));
        assert!(!delete.is_finished());
        fs::write(&gate, "").unwrap();
        let pid = create.join().unwrap().pid;
        assert_eq!(delete.join().unwrap().unwrap().pid, pid);
    });
    shim.end(&quick.id);
}

/// The kilobytes of a process that are its own.
fn memory(pid: u32) -> usize {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    // Not "private": pages of a program that was just built count there.
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// As many execs as the machine can take: a kilobyte that each leaves behind
/// would show.
#[test]
fn thousands_of_execs_leave_nothing() {
    const AT_ONCE: usize = 8;
    let daemon = Daemon::new();
    let keeper = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&keeper);
    // The faster runtime.
    assert!(runc_harness::has("crun"), "crun is needed");
    shim.run(&keeper.create("crun"));
    let one = |id: &str| {
        shim.exec(&exec(&keeper.id, id, &["true"])).unwrap();
        shim.start(&keeper.id, id).unwrap();
        assert_eq!(shim.wait(&keeper.id, id).unwrap().exit_status, 0);
        shim.delete(&keeper.id, id).unwrap();
    };
    let many = |count: usize| {
        std::thread::scope(|scope| {
            for worker in 0..AT_ONCE {
                let one = &one;
                scope.spawn(move || {
                    (0..count / AT_ONCE).for_each(|n| one(&format!("e{worker}-{n}")));
                });
            }
        });
    };
    many(200);
    let (descriptors, before) = (shim.descriptors(), memory(shim.pid));
    many(2000);
    // Events may have queued up meanwhile.
    let mut heard = 0;
    while heard < 2200 {
        heard = wait_for("more exits to be told", || {
            let topics = daemon.topics();
            let exits = topics.iter().filter(|topic| *topic == "exit").count();
            (exits > heard).then_some(exits)
        });
    }
    let deadline = Instant::now() + LIMIT;
    while shim.descriptors().len() > descriptors.len() {
        let now = shim.descriptors();
        assert!(Instant::now() < deadline, "before: {descriptors:?}\nnow: {now:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(shim.children().len(), 1, "{:?}", shim.children());
    let after = memory(shim.pid);
    assert!(after <= before + 1000, "{before} kB before, {after} kB after");
    shim.end(&keeper.id);
}

/// Containers and execs come and go; descriptors, children and memory do not
/// grow with their number.
fn nothing_grows(runtime: &str) {
    let daemon = Daemon::new();
    let keeper = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&keeper);
    shim.run(&keeper.create(runtime));
    let round = |shim: &mut runc_harness::Shim<'_>, rounds: usize| {
        for _ in 0..rounds {
            let bundle = daemon.bundle(&["true"]);
            shim.run(&bundle.create(runtime));
            shim.wait(&bundle.id, "").unwrap();
            shim.delete(&bundle.id, "").unwrap();
            shim.exec(&exec(&keeper.id, "e", &["true"])).unwrap();
            shim.start(&keeper.id, "e").unwrap();
            shim.wait(&keeper.id, "e").unwrap();
            shim.delete(&keeper.id, "e").unwrap();
        }
    };
    round(&mut shim, 10);
    let (descriptors, before) = (shim.descriptors().len(), memory(shim.pid));
    round(&mut shim, 40);
    wait_for("the end of the descriptors", || {
        (shim.descriptors().len() <= descriptors).then_some(())
    });
    assert_eq!(shim.children().len(), 1, "{:?}", shim.children());
    let after = memory(shim.pid);
    assert!(after <= before + 128, "{before} kB before, {after} kB after");
    let left: Vec<_> = fs::read_dir(&keeper.path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("e.") || name.contains("tmp") || name.contains("runc-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    shim.end(&keeper.id);
}
