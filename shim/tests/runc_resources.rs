//! Resources and root filesystems: OOM, statistics, limits, mounts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod runc_harness;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use davit_protocols::ttrpc::metrics::{v1, v2};
use davit_protocols::ttrpc::{events, task, types};
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use protobuf::{Message, MessageField};
use runc_harness::{Daemon, SHIM, answer, exec, fifo, install, rootfs, unique};

with_each_runtime! {
    out_of_memory_is_told_before_the_exit, statistics_are_packed, limits_change,
    the_root_is_mounted_and_unmounted, option_lists_longer_than_a_page, mounts_that_fail,
    more_files_than_the_limit_of_services,
}

const MEMORY: u64 = 16 << 20;

fn limit_memory(config: &mut serde_json::Value) {
    config["linux"]["resources"]["memory"] = serde_json::json!({"limit": MEMORY, "swap": MEMORY});
}

fn out_of_memory_is_told_before_the_exit(runtime: &str) {
    // `tail` keeps a line of any length.
    let eat = "exec tail -c 100000000 /dev/zero";
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sh", "-c", eat]).with(limit_memory);
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create(runtime));
    assert_eq!(shim.wait(&bundle.id, "").unwrap().exit_status, 137);
    shim.delete(&bundle.id, "").unwrap();
    let exit = daemon.exit_of(&bundle.id);
    assert_eq!(exit.exit_status, 137);
    let topics = daemon.topics();
    let position = |topic: &str| topics.iter().position(|t| t == topic);
    assert!(position("oom") < position("exit"), "{topics:?}");
    let last = topics.iter().rposition(|topic| topic == "oom");
    assert!(last.is_some() && last < position("exit"), "{topics:?}");
    let oom: events::TaskOOM = daemon.events()[last.unwrap()].message();
    assert_eq!(oom.container_id, bundle.id);

    // A process that is not the init: the container goes on.
    let bundle = daemon.bundle(&["sleep", "1000"]).with(limit_memory);
    shim.run(&bundle.create(runtime));
    shim.exec(&exec(&bundle.id, "e", &["sh", "-c", eat])).unwrap();
    shim.start(&bundle.id, "e").unwrap();
    assert_eq!(shim.wait(&bundle.id, "e").unwrap().exit_status, 137);
    runc_harness::wait_for("the event", || {
        let heard = daemon.events();
        let ooms = heard.iter().filter(|event| event.topic == "/tasks/oom");
        ooms.map(|event| event.message::<events::TaskOOM>().container_id)
            .any(|id| id == bundle.id)
            .then_some(())
    });
    shim.end(&bundle.id);
}

fn stats(shim: &runc_harness::Shim<'_>, id: &str) -> (u64, u64, u64) {
    let request = task::StatsRequest { id: id.into(), ..Default::default() };
    let response: task::StatsResponse = shim.call("Stats", &request).unwrap();
    let any = response.stats.unwrap();
    match any.type_url.as_str() {
        "io.containerd.cgroups.v1.Metrics" => {
            let metrics = v1::Metrics::parse_from_bytes(&any.value).unwrap();
            let memory = &metrics.memory.usage;
            (metrics.pids.current, memory.limit, metrics.cpu.usage.total)
        }
        "io.containerd.cgroups.v2.Metrics" => {
            let metrics = v2::Metrics::parse_from_bytes(&any.value).unwrap();
            (metrics.pids.current, metrics.memory.usage_limit, metrics.cpu.usage_usec)
        }
        other => panic!("{other}"),
    }
}

fn statistics_are_packed(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sh", "-c", "sleep 1000; true"]).with(limit_memory);
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create(runtime));
    let (pids, limit, cpu) = runc_harness::wait_for("both processes", || {
        let stats = stats(&shim, &bundle.id);
        (stats.0 == 2).then_some(stats)
    });
    assert_eq!((pids, limit), (2, MEMORY));
    assert!(cpu > 0);
    shim.end(&bundle.id);
}

fn limits_change(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]).with(limit_memory);
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create(runtime));
    let update = |resources: &str| {
        let request = task::UpdateTaskRequest {
            id: bundle.id.clone(),
            resources: MessageField::some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
                value: resources.as_bytes().to_vec(),
                ..Default::default()
            }),
            ..Default::default()
        };
        shim.call::<_, Empty>("Update", &request)
    };
    let more = 2 * MEMORY;
    update(&format!(r#"{{"memory":{{"limit":{more},"swap":{more}}}}}"#)).unwrap();
    assert_eq!(stats(&shim, &bundle.id).1, more);
    let refusal = update("no json").unwrap_err();
    assert!(refusal.starts_with("Unknown"), "{refusal}");
    shim.end(&bundle.id);
    let refusal = update("{}").unwrap_err();
    assert_eq!(refusal, "NotFound: container not created: not found");
}

fn mounts_below(path: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains(path.to_str().unwrap())).count()
}

fn mount(kind: &str, source: &str, options: &[&str]) -> types::Mount {
    types::Mount {
        type_: kind.into(),
        source: source.into(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Default::default()
    }
}

fn the_root_is_mounted_and_unmounted(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon
        .bundle(&["sh", "-c", "echo new > /made && cat /made && test -e /bin/cat"])
        .with(|config| config["root"]["path"] = "rootfs".into());
    let mut shim = daemon.start(&bundle);
    // Overlays do not lie on every file system that tests may have.
    let layers = daemon.dir.path().join("layers");
    fs::create_dir(&layers).unwrap();
    let tmpfs =
        davit_types::Mount { kind: "tmpfs".into(), source: "tmpfs".into(), ..Default::default() };
    davit_sys::mount::mount(&tmpfs, &layers).unwrap();
    for dir in ["upper", "work"] {
        fs::create_dir(layers.join(dir)).unwrap();
    }
    let mut request = bundle.create(runtime);
    request.rootfs = vec![mount(
        "overlay",
        "overlay",
        &[
            &format!("lowerdir={}", rootfs().display()),
            &format!("upperdir={}", layers.join("upper").display()),
            &format!("workdir={}", layers.join("work").display()),
            "X-containerd.note=ignored",
        ],
    )];
    shim.run(&request);
    assert_eq!(shim.wait(&bundle.id, "").unwrap().exit_status, 0);
    assert_eq!(mounts_below(&bundle.path), 1);
    shim.delete(&bundle.id, "").unwrap();
    assert_eq!(mounts_below(&bundle.path), 0);
    assert_eq!(fs::read_to_string(layers.join("upper/made")).unwrap(), "new\n");
    daemon.expect_topics(&["create", "start", "exit", "delete"]);
    let created: events::TaskCreate = daemon.events()[0].message();
    assert_eq!(created.rootfs, request.rootfs);
    davit_sys::mount::unmount(&layers, true).unwrap();
}

fn option_lists_longer_than_a_page(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon
        .bundle(&["cat", "/from-0", "/from-59"])
        .with(|config| config["root"]["path"] = "rootfs".into());
    let mut shim = daemon.start(&bundle);
    let deep = daemon.dir.path().join("a-directory-with-a-name-that-is-rather-long".repeat(2));
    let mut layers = vec![rootfs().display().to_string()];
    for layer in 0..60 {
        let dir = deep.join(format!("layer-{layer}"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("from-{layer}")), "x").unwrap();
        layers.push(dir.display().to_string());
    }
    let option = format!("lowerdir={}", layers.join(":"));
    assert!(option.len() > 4096);
    let mut request = bundle.create(runtime);
    request.rootfs = vec![mount("overlay", "overlay", &[&option])];
    shim.run(&request);
    assert_eq!(shim.wait(&bundle.id, "").unwrap().exit_status, 0);
    shim.delete(&bundle.id, "").unwrap();
    assert_eq!(mounts_below(&bundle.path), 0);
}

fn mounts_that_fail(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["true"]);
    let mut shim = daemon.start(&bundle);
    let mut request = bundle.create(runtime);
    let good = mount("bind", rootfs().to_str().unwrap(), &["rbind", "ro"]);
    let bad = mount("bind", &unique("/no/such/source"), &["rbind"]);
    request.rootfs = vec![good.clone(), bad];
    let refusal = shim.create(&request).unwrap_err();
    assert!(refusal.contains("failed to mount rootfs component: "), "{refusal}");
    assert_eq!(mounts_below(&bundle.path), 0);
    // The runtime fails after the mounts were made.
    let mut request = bundle.create("/no/such/runtime");
    request.rootfs = vec![good];
    shim.create(&request).unwrap_err();
    assert_eq!(mounts_below(&bundle.path), 0);
    assert_eq!(daemon.topics(), Vec::<String>::new());
}

/// The shim's own limit is the hard one; runtimes get what it was started
/// with, because containers may inherit it.
fn more_files_than_the_limit_of_services(runtime: &str) {
    const LIMIT: usize = 64;
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let start = daemon.shim_command(SHIM, &bundle, "start");
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("ulimit -Sn {LIMIT}; exec \"$0\" \"$@\""), SHIM]);
    limited.args(start.get_args()).current_dir(&bundle.path).stdin(Stdio::null());
    for (name, value) in start.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let mut shim = daemon.connect(&answer(&limited.output().unwrap()), &bundle);
    let (wrapper, seen) = (daemon.dir.path().join("wrapper"), daemon.dir.path().join("seen"));
    let script = format!("#!/bin/sh\nulimit -Sn >> {}\nexec {runtime} \"$@\"\n", seen.display());
    install(&wrapper, script);
    shim.run(&bundle.create(wrapper.to_str().unwrap()));
    let address = |name| fifo(&daemon, name).to_str().unwrap().to_owned();
    for count in 0..LIMIT / 3 + 4 {
        let id = format!("e{count}");
        let mut request = exec(&bundle.id, &id, &["sleep", "1000"]);
        (request.stdin, request.stdout, request.stderr) =
            (address("in"), address("out"), address("err"));
        shim.exec(&request).unwrap();
        shim.start(&bundle.id, &id).unwrap();
    }
    assert!(shim.descriptors().len() > LIMIT);
    shim.end(&bundle.id);
    let seen = fs::read_to_string(seen).unwrap();
    assert!(seen.lines().count() > LIMIT / 3);
    assert!(seen.lines().all(|line| line == LIMIT.to_string()), "{seen}");
}
