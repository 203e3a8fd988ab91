//! Terminals and signals, on both sides, and a daemon that goes away.

use std::fs;
use std::path::Path;

use davit_integration::pty::OnTerminal;
use davit_integration::{Daemon, image, wait_for};
use nix::sys::signal::Signal;

use crate::seat::{IMAGE, Seat, end, signal};

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
fn an_execs_terminal_follows_in_size_and_is_left_by_keys() {
    let seat = Seat::new();
    seat.ok(&["run", "-d", "--name", "host", IMAGE, "sleep", "1000"]);
    let exec = seat.davit(&["exec", "-it", "host", "sh"]);
    let mut terminal = OnTerminal::start(&exec, 93, 41);
    terminal.expect("# ");
    assert!(!terminal.is_cooked(), "raw while the program has it");
    terminal.type_in("stty size\n");
    terminal.expect("41 93");
    terminal.resize(77, 33);
    wait_for("the new size", 30, || {
        terminal.type_in("stty size\n");
        terminal.text().contains("33 77").then_some(())
    });
    terminal.type_in("exit 23\n");
    assert_eq!(terminal.wait().code(), Some(23));
    assert!(terminal.is_cooked(), "given back as it was");

    for (keys, typed) in [(None, "\x10\x11"), (Some("ctrl-x,q"), "\x18q")] {
        let options = keys.map_or(vec![], |keys| vec!["--detach-keys", keys]);
        let words = [&["exec", "-it"], &options[..], &["host", "sh"]].concat();
        let mut terminal = OnTerminal::start(&seat.davit(&words), 80, 24);
        terminal.expect("# ");
        terminal.type_in("echo $((40 + 2)); exec sleep 999\n");
        terminal.expect("42");
        terminal.type_in(typed);
        assert_eq!(terminal.wait().code(), Some(0));
        assert!(terminal.is_cooked());
        let left = |text: &str| text.lines().filter(|line| line.contains("sleep 999")).count();
        assert_eq!(left(&seat.ok(&["exec", "host", "ps"])), 1, "it goes on without us");
        // The first process of a namespace is deaf to its own.
        seat.ok(&["exec", "host", "sh", "-c", "kill -9 $(pidof sleep)"]);
        wait_for("it ends", 20, || (left(&seat.ok(&["exec", "host", "ps"])) == 0).then_some(()));
    }
    seat.ok(&["rm", "-f", "host"]);
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
