//! The daemon goes away, politely or not, and comes back: containers run on,
//! their output too, and an exit that happened meanwhile is there.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use davit_integration::daemon::Shim;
use davit_integration::pty::OnTerminal;
use davit_integration::{Client, Daemon, Server, image, leftovers, wait_for};
use nix::sys::signal::{SIGKILL, kill};
use nix::unistd::Pid;

const CTR: Client = Client::Ctr16;

fn with_image(shim: Shim, state: &str) -> Daemon {
    let daemon = Daemon::with_state(Server::Davit, shim, state);
    daemon.import_image(CTR);
    daemon
}

fn status(daemon: &Daemon, id: &str) -> String {
    let list = daemon.ctr_ok(CTR, &["task", "ls"]);
    let line = list.lines().find(|line| line.split_whitespace().next() == Some(id));
    line.and_then(|line| line.split_whitespace().last()).unwrap_or("none").to_owned()
}

fn wait_status(daemon: &Daemon, id: &str, wanted: &str) {
    wait_for(&format!("{id} is {wanted}"), 20, || (status(daemon, id) == wanted).then_some(()));
}

/// Ends every shim of the daemon with SIGKILL.
fn kill_shims(daemon: &Daemon) {
    let shims = leftovers::shims_of(daemon);
    assert!(!shims.is_empty(), "no shim runs");
    for pid in shims {
        kill(Pid::from_raw(pid), SIGKILL).expect("it runs");
    }
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// A container that writes a line ten times a second to a file of ours.
fn talker(daemon: &Daemon) -> std::path::PathBuf {
    let log = daemon.path("talk");
    let uri = format!("file://{}", log.display());
    let script = "while :; do echo line; sleep 0.1; done";
    daemon
        .ctr_ok(CTR, &["run", "-d", "--log-uri", &uri, image::NAME, "talker", "sh", "-c", script]);
    wait_for("the first lines", 20, || (lines(&log) > 3).then_some(()));
    log
}

fn survives(mut daemon: Daemon, end: fn(&mut Daemon)) {
    let log = talker(&daemon);
    let tasks = |daemon: &Daemon| daemon.ctr_ok(CTR, &["task", "ls"]);
    let before = tasks(&daemon);
    end(&mut daemon);
    let count = lines(&log);
    wait_for("output goes on without a daemon", 20, || (lines(&log) > count + 3).then_some(()));
    daemon.launch();
    assert_eq!(tasks(&daemon), before, "same tasks, same pids");
    let count = lines(&log);
    wait_for("output goes on", 20, || (lines(&log) > count + 3).then_some(()));
    let exec = ["task", "exec", "--exec-id", "after", "talker", "echo", "still here"];
    assert_eq!(daemon.ctr_ok(CTR, &exec), "still here\n");
    daemon.ctr_ok(CTR, &["task", "kill", "-s", "KILL", "talker"]);
    wait_status(&daemon, "talker", "STOPPED");
}

#[test]
fn a_container_survives_a_restart() {
    survives(with_image(Shim::Ours, "state"), Daemon::stop);
}

#[test]
fn a_container_survives_a_killed_daemon() {
    survives(with_image(Shim::Ours, "state"), Daemon::kill);
}

#[test]
fn the_go_shim_of_debian_12_survives_too() {
    survives(with_image(Shim::Go16, "state"), Daemon::kill);
}

#[test]
fn the_go_shim_of_forky_survives_too() {
    survives(with_image(Shim::Go21, "state"), Daemon::kill);
}

#[test]
fn a_deep_state_directory_changes_nothing() {
    let deep = format!("state/{}", ["deep-directory"; 14].join("/"));
    survives(with_image(Shim::Ours, &deep), Daemon::kill);
}

fn exit_meanwhile_is_kept(shim: Shim) {
    let mut daemon = with_image(shim, "state");
    let gate = daemon.path("gate");
    fs::create_dir(&gate).expect("a new directory");
    let mount = format!("type=bind,src={},dst=/tmp,options=bind", gate.display());
    let script = "while [ ! -e /tmp/open ]; do sleep 0.05; done; touch /tmp/gone; exit 7";
    daemon.ctr_ok(CTR, &["run", "-d", "--mount", &mount, image::NAME, "short", "sh", "-c", script]);
    daemon.kill();
    fs::write(gate.join("open"), "").expect("the directory is writable");
    wait_for("the container ends", 20, || gate.join("gone").exists().then_some(()));
    sleep(Duration::from_millis(300)); // nobody can tell us when it has left the process table
    daemon.launch();
    wait_status(&daemon, "short", "STOPPED");
    let output = daemon.ctr(CTR).args(["task", "rm", "short"]).output().expect("ctr");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("exit code 7"), "{stderr}");
    daemon.ctr_ok(CTR, &["container", "rm", "short"]);
}

#[test]
fn an_exit_without_a_daemon_is_kept() {
    exit_meanwhile_is_kept(Shim::Ours);
}

#[test]
fn an_exit_under_the_go_shim_of_debian_12_is_kept() {
    exit_meanwhile_is_kept(Shim::Go16);
}

#[test]
fn an_exit_under_the_go_shim_of_forky_is_kept() {
    exit_meanwhile_is_kept(Shim::Go21);
}

#[test]
fn shim_and_daemon_killed_together_lose_no_exit() {
    let mut daemon = with_image(Shim::Ours, "state");
    daemon.ctr_ok(CTR, &["run", "-d", image::NAME, "seven", "sh", "-c", "exit 7"]);
    wait_status(&daemon, "seven", "STOPPED");
    daemon.kill();
    kill_shims(&daemon);
    daemon.launch();
    wait_for("the dead shim's task is cleaned up", 20, || {
        (status(&daemon, "seven") == "none").then_some(())
    });
    daemon.ctr_ok(CTR, &["container", "rm", "seven"]);
    wait_for("nothing is mounted", 20, || {
        leftovers::mounts_below(&daemon.path("")).is_empty().then_some(())
    });
}

fn a_killed_shim_is_cleaned_up_after(shim: Shim) {
    let daemon = with_image(shim, "state");
    daemon.ctr_ok(CTR, &["run", "-d", image::NAME, "orphan", "sleep", "1000"]);
    kill_shims(&daemon);
    wait_for("the task is gone", 20, || (status(&daemon, "orphan") == "none").then_some(()));
    daemon.ctr_ok(CTR, &["container", "rm", "orphan"]);
    wait_for("nothing is mounted", 20, || {
        leftovers::mounts_below(&daemon.path("")).is_empty().then_some(())
    });
    // The name can be used again at once.
    let again = ["run", "--rm", image::NAME, "orphan", "echo", "again"];
    assert_eq!(daemon.ctr_ok(CTR, &again), "again\n");
}

#[test]
fn a_killed_shim_of_ours_is_cleaned_up_after() {
    a_killed_shim_is_cleaned_up_after(Shim::Ours);
}

#[test]
fn a_killed_go_shim_of_debian_12_is_cleaned_up_after() {
    a_killed_shim_is_cleaned_up_after(Shim::Go16);
}

#[test]
fn a_killed_go_shim_of_forky_is_cleaned_up_after() {
    a_killed_shim_is_cleaned_up_after(Shim::Go21);
}

/// A container's terminal goes on, and `ctr` can take it. (One that has it
/// gives up with its daemon, and takes the FIFOs away.)
fn a_terminal_is_attached_to_after(end: fn(&mut Daemon)) {
    let mut daemon = with_image(Shim::Ours, "state");
    let on_terminal = |daemon: &Daemon, words: &[&str]| {
        let mut command = daemon.ctr(CTR);
        command.args(words);
        OnTerminal::start(&command, 80, 24)
    };
    let ask = "while read x; do echo got $x; [ $x = end ] && exit 9; done";
    let run = ["run", "-d", "--tty", image::NAME, "session", "sh", "-c", ask];
    let mut started = on_terminal(&daemon, &run);
    assert!(started.wait().success(), "{}", started.text());
    end(&mut daemon);
    daemon.launch();
    assert_eq!(status(&daemon, "session"), "RUNNING");
    let mut session = on_terminal(&daemon, &["task", "attach", "session"]);
    session.type_in("after\n");
    session.expect("got after");
    session.type_in("end\n");
    assert_eq!(session.wait().code(), Some(9), "{}", session.text());
}

#[test]
fn a_terminal_survives_a_restart() {
    a_terminal_is_attached_to_after(Daemon::stop);
}

#[test]
fn a_terminal_survives_a_killed_daemon() {
    a_terminal_is_attached_to_after(Daemon::kill);
}

/// An earlier davitd left sockets and the runtime's state to what shims do of
/// themselves: a place that containerds share. Its tasks live on.
#[test]
fn tasks_of_an_earlier_version_are_found_and_cleaned_up_after() {
    let shared = Path::new("/run/containerd");
    let tables = "[plugins.\"io.containerd.shim.v1.manager\"]\n\
                  env = [\"SHIM_SOCKET_DIR=/run/containerd/s\"]\n";
    let mut daemon = Daemon::with_config(Server::Davit, tables);
    daemon.import_image(CTR);
    let root = shared.join("runc");
    let words = ["run", "-d", "--runc-root", root.to_str().expect("it is UTF-8"), image::NAME];
    daemon.ctr_ok(Client::Ctr21, &[&words[..], &["old", "sleep", "1000"]].concat());
    let bundle = daemon.path("state/io.containerd.runtime.v2.task").join(daemon.namespace());
    let bundle = bundle.join("old");
    let options = fs::read_to_string(bundle.join("options.json")).expect("the shim writes it");
    let earlier = options.replace(&format!("\"root\":{root:?}"), "\"root\":\"\"");
    assert_ne!(earlier, options);
    fs::write(bundle.join("options.json"), earlier).expect("root may write it");
    let address = fs::read_to_string(bundle.join("address")).expect("the shim writes it");
    assert!(address.starts_with("unix:///run/containerd/s/"), "{address}");

    daemon.kill();
    let config = fs::read_to_string(daemon.path("config.toml")).expect("it is there");
    fs::write(daemon.path("config.toml"), config.replace(tables, "")).expect("it is writable");
    daemon.launch();
    let exec = ["task", "exec", "--exec-id", "after", "old", "echo", "still here"];
    assert_eq!(daemon.ctr_ok(CTR, &exec), "still here\n");
    kill_shims(&daemon);
    wait_for("the task is gone", 20, || (status(&daemon, "old") == "none").then_some(()));
    let state = root.join(daemon.namespace());
    let socket = Path::new(address.trim_start_matches("unix://"));
    wait_for("runtime and socket are cleaned up", 20, || {
        (!state.join("old").exists() && !socket.exists()).then_some(())
    });
    daemon.ctr_ok(CTR, &["container", "rm", "old"]);
    let _ = fs::remove_dir(state);
}
