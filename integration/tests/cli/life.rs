//! Containers from their start to their end.

use std::fs;

use davit_integration::leftovers::processes_with;
use davit_integration::{image, wait_for};

use crate::seat::{IMAGE, Seat};

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
    seat.exits(&["exec", "web", "sh", "-c", "exit 9"], 9);
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
    seat.fails(&["exec", "web", "true"], 125, "cannot exec in a stopped state");
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
    seat.exits(&["run", "--name", "twice", IMAGE, "sh", "-c", script], 3);
    assert_eq!(seat.json(&["ps", "-a"])[0]["exitCode"], 3);
    seat.exits(&["start", "--attach", "twice"], 4);
    assert_eq!(seat.json(&["ps", "-a"])[0]["exitCode"], 4);
    seat.ok(&["rm", "twice"]);
    seat.nothing_left();
}
