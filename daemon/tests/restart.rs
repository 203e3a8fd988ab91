//! The restart monitor, by Debian's client and Debian's shim.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Daemon, Home, image, wait_for};

const STATUS: &str = "containerd.io/restart.status";

/// A daemon that looks after its containers often.
fn start(home: &Home) -> Daemon<'_> {
    let config = "version = 3\n\
        [plugins.'io.containerd.monitor.container.v1.restart']\n\
        interval = '100ms'\n";
    std::fs::write(home.path("config.toml"), config).unwrap();
    let daemon = home.start_with(home.command().arg("--config").arg(home.path("config.toml")));
    let archive = home.path("image.tar");
    image::write(&archive);
    daemon.ctr(&["image", "import", archive.to_str().unwrap()]);
    daemon
}

fn status(daemon: &Daemon<'_>, id: &str) -> Option<String> {
    let list = daemon.ctr(&["task", "ls"]);
    let line = list.lines().find(|line| line.starts_with(id))?;
    line.split_whitespace().nth(2).map(str::to_owned)
}

#[test]
fn a_container_is_kept_running_until_its_label_says_otherwise() {
    let home = Home::new();
    let daemon = start(&home);
    let id = format!("daemon-restart-{}", std::process::id());
    let log = home.path("output");
    let uri = format!("containerd.io/restart.loguri=file://{}", log.display());
    let script = "echo again; sleep 0.1; exit 1";
    // The monitor is not to be faster than the client with the first task.
    daemon.ctr(&["run", "-d", "--label", &uri, image::NAME, &id, "sh", "-c", script]);
    daemon.ctr(&["container", "label", &id, &format!("{STATUS}=running")]);
    wait_for("the container runs three times", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        (text.lines().filter(|line| *line == "again").count() >= 3).then_some(())
    });
    let info = daemon.ctr(&["container", "info", &id]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let count = info["Labels"]["containerd.io/restart.count"].as_str().unwrap();
    assert!(count.parse::<u32>().unwrap() >= 3);

    daemon.ctr(&["container", "label", &id, &format!("{STATUS}=")]);
    wait_for("the container stays stopped", || {
        let before = std::fs::read_to_string(&log).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(500));
        let after = std::fs::read_to_string(&log).unwrap();
        (before == after && status(&daemon, &id).as_deref() == Some("STOPPED")).then_some(())
    });
    daemon.ctr(&["task", "rm", &id]);
    daemon.ctr(&["container", "rm", &id]);
}

#[test]
fn a_container_is_stopped_when_its_label_wants_that() {
    let home = Home::new();
    let daemon = start(&home);
    let id = format!("daemon-stop-{}", std::process::id());
    daemon.ctr(&["run", "-d", image::NAME, &id, "sleep", "1000"]);
    assert_eq!(status(&daemon, &id).as_deref(), Some("RUNNING"));
    daemon.ctr(&["container", "label", &id, &format!("{STATUS}=stopped")]);
    wait_for("the task goes", || status(&daemon, &id).is_none().then_some(()));
    daemon.ctr(&["container", "rm", &id]);
}
