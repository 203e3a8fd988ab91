//! `davit`, the command line for people, on davitd, with real containers.

#[path = "cli/pty.rs"]
mod pty;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use davit_integration::leftovers::{cgroups_with, mounts_below, processes_with, shims_of};
use davit_integration::{Client, Daemon, Server, describe, image, must, peers, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pty::OnTerminal;
use serde_json::Value;

/// A short name of the image.
const IMAGE: &str = "busybox:1";

/// `davit` on a daemon of its own, with the image in it.
struct Seat {
    daemon: Daemon,
}

impl Seat {
    fn new() -> Self {
        let seat = Self { daemon: Daemon::start(Server::Davit) };
        let archive = seat.daemon.path("image.tar");
        image::write_archive(&archive).expect("the directory is writable");
        assert_eq!(seat.ok(&["import", &archive.to_string_lossy()]), format!("{}\n", image::NAME));
        seat
    }

    fn davit(&self, words: &[&str]) -> Command {
        davit_on(&self.daemon, words)
    }

    fn ok(&self, words: &[&str]) -> String {
        must(&mut self.davit(words))
    }

    fn json(&self, words: &[&str]) -> Value {
        let text = self.ok(&[&["--format", "json"], words].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Fails with `code` and says `text`.
    fn fails(&self, words: &[&str], code: i32, text: &str) {
        let mut command = self.davit(words);
        let output = command.output().expect("davit can be started");
        let told = describe(&command, &output);
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(text), "{text:?}\n{told}");
    }

    fn status(&self, name: &str) -> String {
        let list = self.json(&["ps", "--all"]);
        let rows = list.as_array().expect("a list");
        let row = rows.iter().find(|row| row["name"] == name);
        row.map_or_else(|| "gone".to_owned(), |row| row["status"].as_str().unwrap().to_owned())
    }

    fn wait_status(&self, name: &str, status: &str) {
        wait_for(&format!("{name} is {status}"), 30, || {
            (self.status(name) == status).then_some(())
        });
    }

    fn spawn(&self, words: &[&str]) -> Child {
        let mut command = self.davit(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("davit can be started")
    }

    /// Nothing is left of any container.
    fn nothing_left(&self) {
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

fn davit_on(daemon: &Daemon, words: &[&str]) -> Command {
    let mut command = Command::new(peers::ours("davit"));
    command.env("DAVIT_ADDRESS", daemon.socket());
    command.env("CONTAINERD_NAMESPACE", daemon.namespace());
    command.args(words).stdin(Stdio::null());
    command
}

fn with_input(mut command: Command, input: &[u8]) -> Output {
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

fn end(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().expect("it was started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("the process runs");
}

#[test]
fn images_come_get_names_and_go() {
    let seat = Seat::new();
    let list = seat.json(&["images"]);
    assert_eq!(list[0]["name"], image::NAME);
    assert!(list[0]["size"].as_i64().unwrap() > 100_000, "{list}");
    let table = seat.ok(&["images"]);
    assert!(table.starts_with("NAME ") && table.contains(image::NAME), "{table}");

    seat.ok(&["tag", IMAGE, "mine:2"]);
    assert_eq!(seat.ok(&["images", "-q"]), format!("mine:2\n{}\n", image::NAME));
    assert_eq!(seat.json(&["inspect", "mine:2"])[0]["config"]["config"]["Cmd"][0], "/bin/sh");
    seat.ok(&["rmi", "mine:2"]);
    seat.fails(&["rmi", "mine:2"], 125, "no image is called mine:2");

    // The same from a pipe, compressed.
    let archive = seat.daemon.path("image.tar");
    must(Command::new("gzip").arg("-k").arg(&archive));
    let bytes = fs::read(archive.with_extension("tar.gz")).expect("gzip wrote it");
    seat.ok(&["rmi", image::NAME]);
    let output = with_input(seat.davit(&["import", "-"]), &bytes);
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}\n", image::NAME));
    assert_eq!(seat.ok(&["run", "--rm", IMAGE, "echo", "again"]), "again\n");
}

#[test]
fn what_is_no_image_is_refused() {
    let seat = Seat::new();
    seat.fails(&["import", "/no/such/file"], 125, "/no/such/file");
    seat.fails(&["import", "/bin/busybox"], 125, "archive");
    let bytes = fs::read(seat.daemon.path("image.tar")).expect("it was written");
    let output = with_input(seat.davit(&["import", "-"]), &bytes[..bytes.len() / 2]);
    assert_eq!(output.status.code(), Some(125));
    seat.fails(&["run", "bussybox:1", "true"], 125, "did you mean registry.test/davit/busybox:1?");
    seat.fails(&["run", "nothing-like-it", "true"], 125, "davit import");
    assert_eq!(seat.daemon.ctr_ok(Client::Ctr16, &["leases", "ls", "-q"]), "");
}

#[test]
fn exit_codes_are_the_containers_own() {
    let seat = Seat::new();
    let run = |script: &str| {
        let mut command = seat.davit(&["run", "--rm", IMAGE, "sh", "-c", script]);
        command.output().expect("davit can be started").status.code()
    };
    assert_eq!(run("exit 0"), Some(0));
    assert_eq!(run("exit 42"), Some(42));
    assert_eq!(run("exit 255"), Some(255));
    let killed = seat.spawn(&["run", "--rm", "--name", "killed", IMAGE, "sleep", "1000"]);
    seat.wait_status("killed", "running");
    seat.ok(&["kill", "killed"]);
    assert_eq!(end(killed).0, Some(137));
    seat.fails(&["run", "--rm", IMAGE, "no-such-program"], 127, "no-such-program");
    seat.fails(&["run", "--rm", IMAGE, "/etc/passwd"], 126, "/etc/passwd");
    seat.fails(&["run", "--no-such-option", IMAGE], 125, "--no-such-option");
    for runtime in ["runc", "crun"] {
        let words = ["run", "--rm", "--runtime-binary", runtime, IMAGE];
        seat.fails(&[&words[..], &["no-such-program"]].concat(), 127, "no-such-program");
    }
    seat.nothing_left();
}

#[test]
fn what_fails_on_the_way_leaves_nothing() {
    let seat = Seat::new();
    let table: &[(&[&str], &str)] = &[
        (&["--runtime", "io.containerd.nosuch.v9"], "io.containerd.nosuch.v9"),
        (&["--runtime-binary", "/no/such/runtime"], "/no/such/runtime"),
        (&["--snapshotter", "nosuch"], "nosuch"),
        (&["--user", "stranger"], "stranger"),
        (&["--user", "4294967296"], "4294967296"),
        (&["--mount", "type=nosuchfs,dst=/mnt"], ""),
        (&["--volume", "/no/such/dir:/mnt"], "/no/such/dir"),
        (&["--cap-add", "nosuchcap"], ""),
        (&["--env-file", "/no/such/env"], "/no/such/env"),
        (&["--workdir", "relative"], "relative"),
        (&["--memory", "1"], ""),
    ];
    for (options, text) in table {
        let words = [&["run", "--rm", "--name", "same"], *options, &[IMAGE, "true"]].concat();
        let mut command = seat.davit(&words);
        let output = command.output().expect("davit can be started");
        let told = describe(&command, &output);
        if options[0] != "--cap-add" {
            assert_eq!(output.status.code(), Some(125), "{told}");
        }
        assert!(told.contains(text), "{told}");
    }
    seat.nothing_left();
}

#[test]
fn streams_go_through_whole_and_apart() {
    let seat = Seat::new();
    let script = "echo out; echo err >&2";
    let (code, out, err) = end(seat.spawn(&["run", "--rm", IMAGE, "sh", "-c", script]));
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "out\n", "err\n"));

    let input: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let output = with_input(seat.davit(&["run", "--rm", "-i", IMAGE, "cat"]), &input);
    assert!(output.status.success() && output.stdout == input, "{} bytes", output.stdout.len());

    seat.ok(&["run", "-d", "--name", "box", IMAGE, "sleep", "1000"]);
    let output = with_input(seat.davit(&["exec", "-i", "box", "cat"]), &input);
    assert!(output.status.success() && output.stdout == input, "{} bytes", output.stdout.len());

    // Who stops reading does not hold the container up.
    let line = "run --rm busybox:1 sh -c 'seq 1 200000; echo done >&2' | head -n 1";
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{} {line}", peers::ours("davit").display()));
    shell.env("DAVIT_ADDRESS", seat.daemon.socket());
    shell.env("CONTAINERD_NAMESPACE", seat.daemon.namespace());
    let output = shell.output().expect("sh");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("done"));
    seat.ok(&["rm", "-f", "box"]);
    seat.nothing_left();
}

#[test]
fn a_container_in_the_background_lives_its_life() {
    let seat = Seat::new();
    let log = seat.daemon.path("its log");
    let log = log.to_string_lossy();
    let script = "trap 'exit 7' TERM; echo begun; while :; do sleep 0.05; done";
    let words = ["run", "-d", "--name", "web", "--log-file", &log, IMAGE, "sh", "-c", script];
    assert_eq!(seat.ok(&words), "web\n");
    wait_for("the log", 20, || {
        (fs::read_to_string(&*log).unwrap_or_default() == "begun\n").then_some(())
    });
    seat.fails(&["run", "--name", "web", IMAGE], 125, "the name web is in use");
    seat.fails(&["rm", "web"], 125, "stop it first");
    seat.fails(&["start", "web"], 125, "running already");
    seat.fails(&["stop", "wbe"], 125, "did you mean web?");

    assert!(seat.ok(&["exec", "web", "ps"]).contains("sleep"));
    let exec = ["exec", "-e", "A=b", "-w", "/tmp", "-u", "nobody", "web", "sh", "-c"];
    let text = seat.ok(&[&exec[..], &["echo $A $PWD $(id -u); exit 0"]].concat());
    assert_eq!(text, "b /tmp 65534\n");
    seat.fails(&["exec", "web", "sh", "-c", "exit 9"], 9, "");
    seat.fails(&["exec", "web", "no-such-program"], 127, "no-such-program");
    seat.ok(&["exec", "-d", "web", "touch", "/tmp/made"]);
    wait_for("the exec", 20, || {
        seat.davit(&["exec", "web", "test", "-e", "/tmp/made"])
            .status()
            .ok()?
            .success()
            .then_some(())
    });

    let row = &seat.json(&["ps"])[0];
    assert_eq!((&row["status"], &row["image"]), (&"running".into(), &image::NAME.into()));
    assert_eq!(seat.ok(&["stop", "web"]), "web\n");
    assert_eq!(seat.json(&["ps", "-a"])[0]["exitCode"], 7);
    assert_eq!(seat.ok(&["ps", "-q"]), "");
    assert_eq!(seat.ok(&["start", "web"]), "web\n");
    seat.wait_status("web", "running");
    seat.ok(&["kill", "-s", "KILL", "web"]);
    seat.wait_status("web", "exited");
    assert_eq!(seat.json(&["ps", "-a"])[0]["exitCode"], 137);
    seat.fails(&["exec", "web", "true"], 125, "");
    seat.ok(&["rm", "web"]);
    seat.nothing_left();
}

#[test]
fn who_does_not_end_is_killed() {
    let seat = Seat::new();
    seat.ok(&["run", "-d", "--name", "deaf", IMAGE, "sleep", "1000"]);
    seat.ok(&["stop", "-t", "0", "deaf"]);
    assert_eq!(seat.json(&["ps", "-a"])[0]["exitCode"], 137);
    seat.ok(&["start", "deaf"]);
    seat.ok(&["rm", "--force", "deaf"]);
    seat.nothing_left();
}

#[test]
fn one_in_the_background_is_removed_at_its_end() {
    let seat = Seat::new();
    let name = seat.ok(&["run", "-d", "--rm", IMAGE, "sleep", "1000"]);
    let name = name.trim();
    assert_eq!(seat.status(name), "running");
    seat.ok(&["kill", name]);
    seat.wait_status(name, "gone");
    let socket = seat.daemon.socket();
    wait_for("the davit in the background ends", 20, || {
        let line = format!("--address {}", socket.display());
        let left = processes_with(&line);
        left.iter().all(|line| !line.contains(" attend ")).then_some(())
    });
    seat.nothing_left();
}

#[test]
fn one_that_stays_keeps_what_it_wrote_and_its_code() {
    let seat = Seat::new();
    let script = "test -e /kept && exit 4; touch /kept; exit 3";
    seat.fails(&["run", "--name", "twice", IMAGE, "sh", "-c", script], 3, "");
    assert_eq!(seat.json(&["ps", "-a"])[0]["exitCode"], 3);
    seat.fails(&["start", "--attach", "twice"], 4, "");
    assert_eq!(seat.json(&["ps", "-a"])[0]["exitCode"], 4);
    seat.ok(&["rm", "twice"]);
    seat.nothing_left();
}

#[test]
fn options_do_what_they_say() {
    let seat = Seat::new();
    let run = |options: &[&str], script: &str| {
        seat.ok(&[&["run", "--rm"], options, &[IMAGE, "sh", "-c", script]].concat())
    };
    let env = seat.daemon.path("env");
    fs::write(&env, "# ours\nA=1\nB=two words\n").expect("the directory is writable");
    let env = env.to_string_lossy().into_owned();
    assert_eq!(run(&["--env-file", &env, "-e", "A=3"], "echo $A $B"), "3 two words\n");
    assert_eq!(run(&["-w", "/tmp", "-u", "nobody"], "pwd; id -u; id -g"), "/tmp\n65534\n65534\n");
    assert_eq!(run(&["--name", "its-name"], "hostname"), "its-name\n");
    assert_eq!(run(&["--hostname", "other"], "hostname"), "other\n");
    assert_eq!(run(&["--read-only"], "touch /x 2>/dev/null || echo no"), "no\n");
    assert_eq!(
        run(&["--cap-drop", "all"], "grep CapEff /proc/self/status"),
        "CapEff:\t0000000000000000\n"
    );
    let caps = run(&["--cap-drop", "ALL", "--cap-add", "kill"], "grep CapBnd /proc/self/status");
    assert_eq!(caps, "CapBnd:\t0000000000000020\n");
    let net = |options: &[&str]| run(options, "readlink /proc/self/ns/net");
    let host = fs::read_link("/proc/self/ns/net").expect("/proc is mounted");
    assert_eq!(net(&["--net-host"]).trim(), host.to_string_lossy());
    assert_ne!(net(&[]).trim(), host.to_string_lossy());

    let shared = seat.daemon.path("shared");
    fs::create_dir(&shared).expect("the directory is writable");
    let volume = format!("{}:/mnt", shared.display());
    run(&["-v", &volume], "echo there > /mnt/file");
    assert_eq!(fs::read_to_string(shared.join("file")).expect("written"), "there\n");
    assert_eq!(
        run(&["-v", &format!("{volume}:ro")], "touch /mnt/x 2>/dev/null || echo no"),
        "no\n"
    );
    let tmpfs = "type=tmpfs,dst=/mnt,options=size=64k";
    assert!(run(&["--mount", tmpfs], "df -k /mnt").contains(" 64 "));

    let words = ["run", "--rm", "--entrypoint", "echo", IMAGE, "an", "argument"];
    assert_eq!(seat.ok(&words), "an argument\n");
    let limits =
        ["run", "-d", "--name", "small", "-m", "64m", "--cpus", "0.5", "--pids-limit", "20"];
    seat.ok(&[&limits[..], &["--label", "a=b", IMAGE, "sleep", "1000"]].concat());
    let small = &seat.json(&["inspect", "small"])[0];
    assert_eq!(small["labels"]["a"], "b");
    let group = cgroups_with(&format!("{}/small", seat.daemon.namespace()));
    let value = |names: [&str; 2]| {
        let read =
            |name: &str| group.iter().find_map(|dir| fs::read_to_string(dir.join(name)).ok());
        names.into_iter().find_map(read).unwrap_or_default().trim().to_owned()
    };
    assert_eq!(value(["memory.limit_in_bytes", "memory.max"]), (64 << 20).to_string());
    assert_eq!(value(["pids.max", "pids.max"]), "20");
    assert!(["50000", "50000 100000"].contains(&&*value(["cpu.cfs_quota_us", "cpu.max"])));
    seat.ok(&["rm", "-f", "small"]);
}

#[test]
fn the_terminal_is_passed_through_and_given_back() {
    let seat = Seat::new();
    let run = seat.davit(&["run", "--rm", "-it", "--name", "tty", IMAGE, "sh"]);
    let mut terminal = OnTerminal::start(&run, 93, 41);
    terminal.expect("# ");
    assert!(!terminal.is_cooked(), "raw while the container has it");
    terminal.type_in("stty size\n");
    terminal.expect("41 93");
    terminal.resize(77, 33);
    // The new size arrives some time after it was made.
    wait_for("the new size", 30, || {
        terminal.type_in("stty size\n");
        terminal.text().contains("33 77").then_some(())
    });
    terminal.type_in("sleep 1000\n");
    wait_for("it sleeps", 30, || {
        seat.ok(&["exec", "tty", "ps"]).contains("sleep 1000").then_some(())
    });
    terminal.type_in("\x03"); // ctrl-c goes to the container
    terminal.type_in("exit 21\n");
    assert_eq!(terminal.wait().code(), Some(21));
    assert!(terminal.is_cooked(), "given back as it was");
    seat.nothing_left();
}

#[test]
fn detach_keys_leave_it_running() {
    let seat = Seat::new();
    let run = seat.davit(&["run", "--rm", "-it", "--name", "left", IMAGE, "sh"]);
    let mut terminal = OnTerminal::start(&run, 80, 24);
    terminal.expect("# ");
    terminal.type_in("while :; do echo 0123456789; done\n");
    terminal.expect("0123456789");
    let streams = seat.json(&["inspect", "left"])[0]["task"]["stdout"].as_str().unwrap().to_owned();
    let streams = Path::new(&streams).parent().expect("a file in a directory").to_owned();
    terminal.type_in("\x10\x11");
    assert_eq!(terminal.wait().code(), Some(0));
    assert!(terminal.is_cooked());
    assert_eq!(seat.status("left"), "running");
    assert!(streams.exists(), "somebody goes on reading");
    // It is not held up by output that nobody sees.
    seat.ok(&["exec", "left", "true"]);
    seat.ok(&["kill", "left"]);
    seat.wait_status("left", "gone");
    wait_for("the FIFOs are removed", 20, || (!streams.exists()).then_some(()));

    let keys = ["run", "--rm", "-it", "--name", "own", "--detach-keys", "ctrl-x", IMAGE, "cat"];
    let mut terminal = OnTerminal::start(&seat.davit(&keys), 80, 24);
    terminal.type_in("\x10\x11line\n");
    terminal.expect("line");
    terminal.type_in("\x18");
    assert_eq!(terminal.wait().code(), Some(0));
    seat.ok(&["kill", "own"]);
    seat.wait_status("own", "gone");
    seat.nothing_left();
}

#[test]
fn a_terminal_is_wanted_where_there_is_none() {
    let seat = Seat::new();
    seat.fails(&["run", "--rm", "-it", IMAGE, "true"], 125, "terminal");
    seat.nothing_left();
}

#[test]
fn a_signal_restores_the_terminal() {
    let seat = Seat::new();
    let script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let run = seat.davit(&["run", "--rm", "-it", IMAGE, "sh", "-c", script]);
    let mut terminal = OnTerminal::start(&run, 80, 24);
    terminal.expect("ready");
    wait_for("raw mode", 20, || (!terminal.is_cooked()).then_some(()));
    signal(terminal.pid(), Signal::SIGTERM);
    assert_eq!(terminal.wait().code(), Some(5));
    assert!(terminal.is_cooked());
    seat.nothing_left();
}

#[test]
fn tables_fit_the_terminal() {
    let seat = Seat::new();
    let words = ["run", "-d", "--name", "long", IMAGE, "sleep", "1000"];
    seat.ok(&words);
    let mut terminal = OnTerminal::start(&seat.davit(&["ps"]), 60, 24);
    assert_eq!(terminal.wait().code(), Some(0));
    terminal.expect("long");
    let text = terminal.text();
    assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
    assert!(seat.ok(&["ps"]).contains(image::NAME), "nothing is cut without a terminal");
}

#[test]
fn signals_go_to_the_container() {
    let seat = Seat::new();
    for (number, name, code) in
        [(Signal::SIGTERM, "TERM", 11), (Signal::SIGINT, "INT", 12), (Signal::SIGUSR1, "USR1", 13)]
    {
        let gate = seat.daemon.path(name);
        fs::create_dir(&gate).expect("the directory is writable");
        let volume = format!("{}:/mnt", gate.display());
        let script =
            format!("trap 'exit {code}' {name}; touch /mnt/x; while :; do sleep 0.05; done");
        let child = seat.spawn(&["run", "--rm", "-v", &volume, IMAGE, "sh", "-c", &script]);
        wait_for("it runs", 30, || gate.join("x").exists().then_some(()));
        signal(child.id().try_into().expect("a pid fits"), number);
        assert_eq!(end(child).0, Some(code));
    }
    seat.nothing_left();
}

#[test]
fn a_daemon_that_restarts_is_waited_for() {
    let mut seat = Seat::new();
    let gate = seat.daemon.path("gate");
    fs::create_dir(&gate).expect("the directory is writable");
    let volume = format!("{}:/mnt", gate.display());
    let script = "touch /mnt/runs; while [ ! -e /mnt/go ]; do sleep 0.05; done; echo end; exit 6";
    for stop in [Daemon::stop as fn(&mut Daemon), Daemon::kill] {
        for name in ["runs", "go"] {
            let _ = fs::remove_file(gate.join(name));
        }
        let child = seat.spawn(&["run", "--rm", "-v", &volume, IMAGE, "sh", "-c", script]);
        wait_for("it runs", 30, || gate.join("runs").exists().then_some(()));
        stop(&mut seat.daemon);
        fs::write(gate.join("go"), "").expect("the directory is writable");
        seat.daemon.launch();
        let (code, out, err) = end(child);
        assert_eq!((code, out.as_str()), (Some(6), "end\n"), "{err}");
    }
    seat.nothing_left();
}

#[test]
fn everything_is_told_as_json() {
    let seat = Seat::new();
    let mut child = seat.spawn(&["events", "--format", "json", "--filter", "topic~=^/tasks/"]);
    let reader = std::io::BufReader::new(child.stdout.take().expect("piped"));
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufRead::lines(reader).map_while(Result::ok) {
            let event: Value = serde_json::from_str(&line).expect("a line is an object");
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    // Events from before the subscription do not come.
    let exit = wait_for("an exit", 60, || {
        seat.ok(&["run", "--rm", "--name", "seen", IMAGE, "true"]);
        receiver.try_iter().find(|event| event["topic"] == "/tasks/exit")
    });
    assert_eq!(exit["event"]["container_id"], "seen");
    assert_eq!(exit["namespace"], *seat.daemon.namespace());
    let _ = child.kill();
    let _ = child.wait();

    assert_eq!(seat.json(&["run", "-d", "--name", "a", IMAGE, "sleep", "9"])[0]["container"], "a");
    let inspected = seat.json(&["inspect", "a", IMAGE]);
    assert_eq!(inspected[0]["spec"]["process"]["args"][0], "sleep");
    assert_eq!(inspected[0]["task"]["status"], "running");
    assert_eq!(inspected[1]["name"], image::NAME);
    seat.fails(&["inspect", "a", "b"], 125, "neither a container nor an image is called b");
    let info = seat.json(&["info"]);
    assert_eq!((&info["containers"], &info["pid"]), (&1.into(), &seat.daemon.pid().into()));
    assert!(seat.ok(&["info"]).contains("overlayfs"));
    assert!(seat.json(&["version"])["server"]["version"].is_string());
    assert_eq!(seat.json(&["rm", "-f", "a"])[0]["container"], "a");
    assert_eq!(seat.json(&["ps", "-a"]), Value::Array(Vec::new()));
}

#[test]
fn a_daemon_that_is_away_is_named() {
    let mut command = Command::new(peers::ours("davit"));
    let output = command.args(["-a", "/no/such/socket", "ps"]).output().expect("davit");
    let told = describe(&command, &output);
    assert_eq!(output.status.code(), Some(125), "{told}");
    assert!(told.contains("cannot reach davitd at /no/such/socket: is it running?"), "{told}");
}

#[test]
fn namespaces_choose_their_defaults() {
    let seat = Seat::new();
    let label = "containerd.io/defaults/snapshotter=native";
    seat.daemon.ctr_ok(Client::Ctr16, &["namespace", "label", &seat.daemon.namespace(), label]);
    seat.ok(&["run", "-d", "--name", "plain", IMAGE, "sleep", "1000"]);
    assert_eq!(seat.json(&["inspect", "plain"])[0]["snapshotter"], "native");
    seat.ok(&["rm", "-f", "plain"]);
    seat.nothing_left();
}

#[test]
fn containerd_is_served_too() {
    let daemon = Daemon::start(Server::Containerd16);
    let archive = daemon.path("image.tar");
    image::write_archive(&archive).expect("the directory is writable");
    must(&mut davit_on(&daemon, &["import", &archive.to_string_lossy()]));
    let words = ["run", "--rm", "--runtime", "io.containerd.runc.v2", IMAGE, "echo", "hello"];
    assert_eq!(must(&mut davit_on(&daemon, &words)), "hello\n");
    assert_eq!(must(&mut davit_on(&daemon, &["ps", "-aq"])), "");
}
