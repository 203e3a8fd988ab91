//! `davit` on a daemon of its own.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use davit_integration::leftovers::{cgroups_with, mounts_below, shims_of};
use davit_integration::{Client, Daemon, Server, describe, image, must, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A short name of the image.
pub const IMAGE: &str = "busybox:1";

/// `davit` on a daemon of its own, with the image in it.
pub struct Seat {
    pub daemon: Daemon,
}

impl Seat {
    pub fn new() -> Self {
        let seat = Self { daemon: Daemon::start(Server::Davit) };
        let archive = seat.daemon.path("image.tar");
        image::write_archive(&archive).expect("the directory is writable");
        assert_eq!(seat.ok(&["import", &archive.to_string_lossy()]), format!("{}\n", image::NAME));
        seat
    }

    pub fn davit(&self, words: &[&str]) -> Command {
        self.daemon.davit(words)
    }

    pub fn ok(&self, words: &[&str]) -> String {
        must(&mut self.davit(words))
    }

    pub fn json(&self, words: &[&str]) -> Value {
        let text = self.ok(&[&["--format", "json"], words].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Fails with `code` and says `text`.
    pub fn fails(&self, words: &[&str], code: i32, text: &str) {
        let mut command = self.davit(words);
        let output = command.output().expect("davit can be started");
        let told = describe(&command, &output);
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(text), "{text:?}\n{told}");
    }

    /// Ends with the code of the process in the container, and has nothing to
    /// say about that.
    pub fn exits(&self, words: &[&str], code: i32) {
        let mut command = self.davit(words);
        let output = command.output().expect("davit can be started");
        let told = describe(&command, &output);
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(output.stderr.is_empty(), "{told}");
    }

    pub fn status(&self, name: &str) -> String {
        let list = self.json(&["ps", "--all"]);
        let rows = list.as_array().expect("a list");
        let row = rows.iter().find(|row| row["name"] == name);
        row.map_or_else(
            || "gone".to_owned(),
            |row| row["status"].as_str().expect("a word").to_owned(),
        )
    }

    pub fn wait_status(&self, name: &str, status: &str) {
        wait_for(&format!("{name} is {status}"), 30, || {
            (self.status(name) == status).then_some(())
        });
    }

    pub fn spawn(&self, words: &[&str]) -> Child {
        let mut command = self.davit(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("davit can be started")
    }

    /// Nothing is left of any container.
    pub fn nothing_left(&self) {
        assert_eq!(self.ok(&["ps", "--all", "--quiet"]), "");
        let snapshots = self.daemon.ctr_ok(Client::Ctr16, &["snapshot", "ls"]);
        let active: Vec<&str> = snapshots.lines().filter(|line| line.ends_with("Active")).collect();
        assert!(active.is_empty(), "{active:?}");
        wait_for("no shim, no mount, no cgroup is left", 20, || {
            let clean = shims_of(&self.daemon).is_empty()
                && mounts_below(&self.daemon.path("state")).is_empty()
                && cgroups_with(&self.daemon.namespace()).len() <= cgroup_parents(&self.daemon);
            clean.then_some(())
        });
    }
}

/// The cgroups of the namespace itself, which runc leaves as the parents of
/// its containers'.
fn cgroup_parents(daemon: &Daemon) -> usize {
    let all = cgroups_with(&daemon.namespace());
    all.iter().filter(|path| path.ends_with(daemon.namespace())).count()
}

pub fn with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("davit can be started");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("it was started");
    // Somebody who does not read all of its input may close it.
    let _ = writer.join().expect("writing does not panic");
    output
}

pub fn end(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().expect("it was started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

pub fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("the process runs");
}
