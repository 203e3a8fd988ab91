//! `davit`, the command line for people, on davitd, with real containers.

#[path = "cli/json.rs"]
mod json;
#[path = "cli/life.rs"]
mod life;
#[path = "cli/seat.rs"]
mod seat;
#[path = "cli/terminal.rs"]
mod terminal;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use davit_integration::leftovers::{cgroups_with, kept};
use davit_integration::{Client, Daemon, Server, describe, image, must, peers, wait_for};
use nix::sys::signal::Signal;
use seat::{IMAGE, Seat, end, signal, with_input};
use serde_json::Value;

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
        (&["--cap-add", "nosuchcap"], "nosuchcap"),
        (&["--env-file", "/no/such/env"], "/no/such/env"),
        (&["--workdir", "relative"], "relative"),
        (&["--memory", "1"], ""),
    ];
    for (options, text) in table {
        let words = [&["run", "--rm", "--name", "same"], *options, &[IMAGE, "true"]].concat();
        let mut command = seat.davit(&words);
        let output = command.output().expect("davit can be started");
        let told = describe(&command, &output);
        assert_eq!(output.status.code(), Some(125), "{told}");
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

    let pipeline = |script: &str| {
        let davit = peers::ours("davit");
        let line = format!("{} run --rm {IMAGE} {script} | head -n 1", davit.display());
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(line).env("DAVIT_ADDRESS", seat.daemon.socket());
        shell.env("CONTAINERD_NAMESPACE", seat.daemon.namespace()).output().expect("sh")
    };
    // Who stops reading does not hold the container up,
    let output = pipeline("sh -c 'seq 1 200000; echo done >&2'");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("done"));
    // and who writes on and on is ended.
    assert_eq!(String::from_utf8_lossy(&pipeline("yes").stdout), "y\n");
    seat.ok(&["rm", "-f", "box"]);
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

    assert_eq!(
        seat.json(&["run", "-d", "--name", "a", IMAGE, "sleep", "1000"])[0]["container"],
        "a"
    );
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
fn the_address_has_a_short_form() {
    let daemon = Daemon::start(Server::Davit);
    let socket = daemon.socket().to_string_lossy().into_owned();
    let mut command = daemon.davit(&["-a", &socket, "ps", "-a"]);
    must(command.env("DAVIT_ADDRESS", "/no/such/socket"));
}

#[test]
fn an_import_that_is_interrupted_leaves_nothing() {
    let daemon = Daemon::start(Server::Davit);
    let archive = daemon.path("image.tar");
    image::write_archive(&archive).expect("the directory is writable");
    let bytes = fs::read(&archive).expect("it was written");
    let mut command = daemon.davit(&["import", "-"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("davit");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(&bytes[..bytes.len() / 2]).expect("it is read");
    wait_for("a lease", 20, || {
        (!daemon.ctr_ok(Client::Ctr16, &["leases", "ls", "-q"]).is_empty()).then_some(())
    });
    signal(child.id().try_into().expect("a pid fits"), Signal::SIGINT);
    let output = child.wait_with_output().expect("it was started");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*err), (Some(130), "davit: interrupted\n"));
    assert_eq!(daemon.ctr_ok(Client::Ctr16, &["leases", "ls", "-q"]), "");
    assert_eq!(must(&mut daemon.davit(&["images", "-q"])), "");
}

/// As under `nohup`.
#[test]
fn a_hang_up_that_is_ignored_ends_nothing() {
    let daemon = Daemon::start(Server::Davit);
    let archive = daemon.path("image.tar");
    image::write_archive(&archive).expect("the directory is writable");
    let bytes = fs::read(&archive).expect("it was written");
    let davit = daemon.davit(&["import", "-"]);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
    command.arg(davit.get_program()).args(davit.get_args());
    command.envs(davit.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("sh");
    let mut stdin = child.stdin.take().expect("piped");
    let (first, second) = bytes.split_at(bytes.len() / 2);
    stdin.write_all(first).expect("it is read");
    wait_for("a lease", 20, || {
        (!daemon.ctr_ok(Client::Ctr16, &["leases", "ls", "-q"]).is_empty()).then_some(())
    });
    let pid = child.id().try_into().expect("a pid fits");
    signal(pid, Signal::SIGHUP);
    let ended = stdin.write_all(second);
    drop(stdin);
    let (code, out, err) = end(child);
    ended.expect(&err);
    assert_eq!((code, out), (Some(0), format!("{}\n", image::NAME)), "{err}");
}

/// Nobody is left to end its lease, which ends by itself, within a day as with
/// `ctr`; until then another import finds what is there.
#[test]
fn an_import_that_is_killed_leaves_what_ends_by_itself() {
    let daemon = Daemon::start(Server::Davit);
    let ctr = |words: &[&str]| daemon.ctr_ok(Client::Ctr16, words);
    let empty = kept(&daemon);
    let archive = daemon.path("image.tar");
    image::write_archive(&archive).expect("the directory is writable");
    let bytes = fs::read(&archive).expect("it was written");
    let mut command = daemon.davit(&["import", "-"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("davit");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(&bytes[..bytes.len() - 2048]).expect("it is read");
    wait_for("something is there", 20, || (!kept(&daemon).blobs.is_empty()).then_some(()));
    child.kill().expect("it runs");
    child.wait().expect("it was started");
    let lease = ctr(&["leases", "ls", "-q"]).trim_end().to_owned();
    let table = ctr(&["leases", "ls"]);
    let (_, expires) = table.split_once("containerd.io/gc.expire=").expect(&table);
    let expires = expires.split_whitespace().next().unwrap_or_default();
    let date = must(Command::new("date").args(["+%s", "-d", expires]));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let left = date.trim_end().parse::<u64>().expect("seconds").checked_sub(now.as_secs());
    assert!(left.is_some_and(|left| (1..=24 * 3600).contains(&left)), "{table}");

    // Another import makes it whole, and ends no lease but its own.
    must(&mut daemon.davit(&["import", &archive.to_string_lossy()]));
    assert_eq!(ctr(&["leases", "ls", "-q"]).trim_end(), lease);
    must(&mut daemon.davit(&["rmi", image::NAME]));
    ctr(&["leases", "rm", "--sync", &lease]);
    wait_for("nothing is left", 20, || (kept(&daemon) == empty).then_some(()));
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
    must(&mut daemon.davit(&["import", &archive.to_string_lossy()]));
    let words = ["run", "--rm", "--runtime", "io.containerd.runc.v2", IMAGE, "echo", "hello"];
    assert_eq!(must(&mut daemon.davit(&words)), "hello\n");
    assert_eq!(must(&mut daemon.davit(&["ps", "-aq"])), "");
}

#[test]
fn a_namespace_names_its_runtime() {
    let seat = Seat::new();
    let runtime = |name: &str| {
        let label = format!("containerd.io/defaults/runtime={name}");
        let words = ["namespace", "label", &seat.daemon.namespace(), &label];
        seat.daemon.ctr_ok(Client::Ctr16, &words);
    };
    runtime("io.containerd.nothing.v7");
    seat.fails(&["run", "--rm", IMAGE, "true"], 125, "io.containerd.nothing.v7");
    runtime("io.containerd.davit.v2");
    seat.ok(&["run", "-d", "--name", "labelled", IMAGE, "sleep", "1000"]);
    let info = seat.daemon.ctr_ok(Client::Ctr16, &["container", "info", "labelled"]);
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["Runtime"]["Name"], "io.containerd.davit.v2");
    // What is asked for goes before what the namespace has.
    let words = ["run", "--rm", "--runtime", "io.containerd.runc.v2", IMAGE, "echo", "other"];
    assert_eq!(seat.ok(&words), "other\n");
    seat.ok(&["rm", "-f", "labelled"]);
    seat.nothing_left();
}
