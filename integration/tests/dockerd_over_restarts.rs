//! dockerd on a davitd that goes away, politely or not, and comes back: it
//! holds the same connections, finds its containers again by reconnecting,
//! and is itself never restarted.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use davit_integration::daemon::{Daemon, Server};
use davit_integration::docker::{Docker, Version};
use davit_integration::pty::OnTerminal;
use davit_integration::{image, wait_for};
use nix::sys::signal::{SIGKILL, kill};
use nix::unistd::Pid;

#[test]
fn docker20_over_a_restart() {
    goes_on(Version::V20, Daemon::stop);
}

#[test]
fn docker20_over_a_killed_daemon() {
    goes_on(Version::V20, Daemon::kill);
}

#[test]
fn docker28_over_a_restart() {
    goes_on(Version::V28, Daemon::stop);
}

#[test]
fn docker28_over_a_killed_daemon() {
    goes_on(Version::V28, Daemon::kill);
}

/// `docker run` without a network.
fn run<'a>(flags: &[&'a str], words: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--network=none"], flags, &[image::NAME], words].concat()
}

/// The numbers of the lines that a follower of the logs has seen.
fn lines(log: &Path) -> Vec<u32> {
    let text = fs::read_to_string(log).expect("the follower's output is a file");
    // The last line may be half there.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| line.parse().expect("a number")).collect()
}

fn more_lines(log: &Path) {
    let before = lines(log).len();
    wait_for("the logs go on", 30, || (lines(log).len() > before + 5).then_some(()));
}

/// Follows a container's logs into a file.
fn follow(docker: &Docker, name: &str) -> (Child, PathBuf) {
    let path = docker.daemon.path("followed");
    let file = File::create(&path).expect("the directory is writable");
    let mut command = docker.command(&["logs", "-f", name]);
    (command.stdout(file).stderr(Stdio::null()).spawn().expect("docker can be started"), path)
}

fn pid_of(docker: &Docker, name: &str) -> i32 {
    docker.inspect(name, "{{.State.Pid}}").parse().expect("a pid")
}

fn state(docker: &Docker, name: &str) -> String {
    docker.inspect(name, "{{.State.Status}} {{.State.ExitCode}}")
}

fn goes_on(version: Version, end: fn(&mut Daemon)) {
    let mut docker = Docker::start(version, Daemon::start(Server::Davit), "runc");
    docker.load_image();
    let gate = docker.daemon.path("gate");
    fs::create_dir(&gate).expect("a new directory");
    let volume = format!("{}:/gate", gate.display());

    let count = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done";
    docker.ok(&run(&["-d", "--name", "talker"], &["sh", "-c", count]));
    let wait = "while [ ! -e /gate/open ]; do sleep 0.05; done; exit 7";
    docker.ok(&run(&["-d", "--name", "short", "-v", &volume], &["sh", "-c", wait]));
    docker.ok(&run(&["-d", "--name", "again", "--restart=always"], &["sleep", "1000"]));
    let ask = "while read x; do echo got $x; [ $x = end ] && exit 9; done";
    let session = run(&["--rm", "-it", "--name", "session"], &["sh", "-c", ask]);
    let mut session = OnTerminal::start(&docker.command(&session), 80, 24);
    session.type_in("before\n");
    session.expect("got before");
    let (mut follower, log) = follow(&docker, "talker");
    more_lines(&log);
    let (short, talker) = (pid_of(&docker, "short"), pid_of(&docker, "talker"));

    end(&mut docker.daemon);
    more_lines(&log);
    session.type_in("meanwhile\n");
    session.expect("got meanwhile");
    fs::write(gate.join("open"), "").expect("the directory is writable");
    let gone = format!("/proc/{short}");
    wait_for("the short one ends", 20, || (!Path::new(&gone).exists()).then_some(()));
    docker.daemon.launch();

    wait_for("the exit is told", 60, || (state(&docker, "short") == "exited 7").then_some(()));
    let list = docker.ok(&["ps", "--format", "{{.Names}}"]);
    let mut names: Vec<&str> = list.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["again", "session", "talker"]);
    assert_eq!(pid_of(&docker, "talker"), talker);
    assert_eq!(docker.ok(&["exec", "talker", "echo", "still here"]), "still here\n");
    more_lines(&log);
    session.type_in("after\n");
    session.expect("got after");
    session.type_in("end\n");
    assert_eq!(session.wait().code(), Some(9));

    let first = pid_of(&docker, "again");
    kill(Pid::from_raw(first), SIGKILL).expect("it runs");
    wait_for("it is started again", 60, || {
        let pid = pid_of(&docker, "again");
        (pid != 0 && pid != first && state(&docker, "again").starts_with("running")).then_some(())
    });
    docker.ok(&["rm", "-f", "talker", "again", "short"]);
    wait_for("the follower ends", 30, || follower.try_wait().expect("our child"));
    let all = lines(&log);
    assert!(all.is_sorted() && all[0] == 1 && all.len() == all[all.len() - 1] as usize, "{all:?}");
}
