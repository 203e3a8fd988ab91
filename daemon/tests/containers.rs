//! Real containers, by Debian's client and Debian's shim.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Daemon, Home, image, wait_for};

fn import(daemon: &Daemon<'_>) {
    let archive = daemon.home.path("image.tar");
    image::write(&archive);
    daemon.ctr(&["image", "import", archive.to_str().unwrap()]);
}

/// Ids are unique on the machine: cgroups are named after them.
fn id(name: &str) -> String {
    format!("daemon-{name}-{}", std::process::id())
}

fn snapshot_count(daemon: &Daemon<'_>) -> usize {
    daemon.ctr(&["snapshot", "ls"]).lines().count() - 1
}

#[test]
fn an_image_is_imported_once_and_for_one_namespace() {
    let home = Home::new();
    let daemon = home.start();
    import(&daemon);
    import(&daemon);
    assert!(daemon.ctr(&["image", "ls", "-q"]).contains(image::NAME));
    // Layer, configuration, manifest and index.
    assert_eq!(daemon.ctr(&["content", "ls", "-q"]).lines().count(), 4);
    assert_eq!(snapshot_count(&daemon), 1);
    assert_eq!(daemon.ctr(&["-n", "other", "image", "ls", "-q"]), "");
    assert_eq!(daemon.ctr(&["-n", "other", "content", "ls", "-q"]), "");
    daemon.ctr(&["image", "rm", "--sync", image::NAME]);
    assert_eq!(daemon.ctr(&["content", "ls", "-q"]), "");
    assert_eq!(snapshot_count(&daemon), 0);
}

#[test]
fn a_container_runs_and_nothing_is_left() {
    let home = Home::new();
    let daemon = home.start();
    import(&daemon);
    let id = id("run");
    assert_eq!(daemon.ctr(&["run", "--rm", image::NAME, &id, "echo", "hello"]), "hello\n");
    let output = daemon.try_ctr(&["run", "--rm", image::NAME, &id, "sh", "-c", "exit 3"]);
    assert_eq!(output.status.code(), Some(3));
    let output = daemon.try_ctr(&["run", "--rm", image::NAME, &id, "/no/such/program"]);
    assert!(!output.status.success());
    assert_eq!(daemon.ctr(&["container", "ls", "-q"]), "");
    assert_eq!(daemon.ctr(&["task", "ls", "-q"]), "");
    assert_eq!(snapshot_count(&daemon), 1);
    let bundles = home.path("state/io.containerd.runtime.v2.task/default");
    let left = std::fs::read_dir(bundles).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

#[test]
fn a_container_outlives_the_daemon_and_its_exit_is_kept() {
    let home = Home::new();
    let daemon = home.start();
    import(&daemon);
    let (stays, ends) = (id("stays"), id("ends"));
    let go = home.path("go");
    let mount = format!("type=bind,src={},dst=/tmp,options=rbind:ro", home.dir.path().display());
    let wait = "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 7";
    daemon.ctr(&["run", "-d", image::NAME, &stays, "sleep", "1000"]);
    daemon.ctr(&["run", "-d", "--mount", &mount, image::NAME, &ends, "sh", "-c", wait]);
    let pid_of = |daemon: &Daemon<'_>, id: &str| -> u32 {
        let list = daemon.ctr(&["task", "ls"]);
        let line = list.lines().find(|line| line.starts_with(id)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let pid = pid_of(&daemon, &ends);
    daemon.kill();

    std::fs::write(&go, "").unwrap();
    wait_for("the process ends without a daemon", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (status.is_empty() || status.contains(") Z ")).then_some(())
    });
    let daemon = home.start();
    let list = daemon.ctr(&["task", "ls"]);
    let state = |id: &str| list.lines().find(|line| line.starts_with(id)).unwrap().to_owned();
    assert!(state(&stays).ends_with("RUNNING"), "{list}");
    assert!(state(&ends).ends_with("STOPPED"), "{list}");
    let said = daemon.try_ctr(&["task", "rm", &ends]);
    let words = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(words.contains("non-zero exit code 7"), "{words}");
    assert_eq!(daemon.ctr(&["task", "exec", "--exec-id", "e", &stays, "echo", "on"]), "on\n");
    daemon.ctr(&["task", "kill", "-s", "SIGKILL", &stays]);
    wait_for("it is stopped", || daemon.ctr(&["task", "ls"]).contains("STOPPED").then_some(()));
    daemon.try_ctr(&["task", "rm", &stays]);
    daemon.ctr(&["container", "rm", &stays, &ends]);
    assert_eq!(snapshot_count(&daemon), 1);
}

#[test]
fn containers_are_kept_in_the_state_that_their_labels_ask_for() {
    let home = Home::new();
    let config = home.path("config.toml");
    let text = "version = 3\n[plugins.'io.containerd.monitor.container.v1.restart']\n\
                interval = \"50ms\"\n";
    std::fs::write(&config, text).unwrap();
    let daemon = home.start_with(home.command().arg("-c").arg(&config));
    import(&daemon);
    let (always, limited) = (id("always"), id("limited"));
    let status = "containerd.io/restart.status=running";
    let log = home.path("out");
    let uri = format!("containerd.io/restart.loguri=file://{}", log.display());
    // Labelled when it runs, or the monitor would be faster than the client.
    let run = |id: &str, labels: &[&str], script: &str| {
        daemon.ctr(&["run", "-d", image::NAME, id, "sh", "-c", script]);
        daemon.ctr(&[&["container", "label", id], labels].concat());
    };
    run(&always, &[status, &uri], "echo up; sleep 1000");
    let policy = "containerd.io/restart.policy=on-failure:2";
    run(&limited, &[status, policy], "exit 1");
    let count = |id: &str| {
        let info = daemon.ctr(&["container", "info", id]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let count = info["Labels"]["containerd.io/restart.count"].as_str().unwrap_or("0");
        count.parse::<u32>().unwrap()
    };
    wait_for("the failing one is started twice", || (count(&limited) == 2).then_some(()));
    for round in 1..=2 {
        daemon.ctr(&["task", "kill", "-s", "SIGKILL", &always]);
        wait_for("the killed one is started again", || (count(&always) == round).then_some(()));
        wait_for("it writes to where its label says", || {
            let lines = std::fs::read_to_string(&log).unwrap_or_default().lines().count();
            (lines as u32 >= round).then_some(())
        });
    }
    daemon.ctr(&["container", "label", &always, "containerd.io/restart.status=stopped"]);
    let gone = || !daemon.ctr(&["task", "ls", "-q"]).contains(&always);
    wait_for("it is stopped", || gone().then_some(()));
    assert_eq!(count(&limited), 2);
}
