//! containerd 1.6 and 2.1 with our shim, installed under the Go shim's name,
//! beside the same containerd with its own.

use std::fs;

use davit_integration::daemon::Shim;
use davit_integration::scenarios::{self, Seat, compare};
use davit_integration::{Client, Daemon, Runtime, Server, image, install, wait_for};

fn same(client: Client, runtime: Runtime, scenario: fn(&Seat) -> String) {
    let server = Server::reference_of(client);
    let seat = |daemon| Seat { daemon, client, runtime: Some(runtime) };
    let theirs = || seat(Daemon::start(server));
    compare(scenario, theirs, &seat(Daemon::with_shim(server, Shim::Ours)));
}

macro_rules! containerd16_runc { ($($name:ident),+ $(,)?) => {
    $(#[test] fn $name() {
        super::same(super::Client::Ctr16, super::Runtime::Runc, super::scenarios::$name);
    })+
} }

macro_rules! containerd16_crun { ($($name:ident),+ $(,)?) => {
    $(#[test] fn $name() {
        super::same(super::Client::Ctr16, super::Runtime::Crun, super::scenarios::$name);
    })+
} }

macro_rules! containerd21_runc { ($($name:ident),+ $(,)?) => {
    $(#[test] fn $name() {
        super::same(super::Client::Ctr21, super::Runtime::NewRunc, super::scenarios::$name);
    })+
} }

macro_rules! containerd21_crun { ($($name:ident),+ $(,)?) => {
    $(#[test] fn $name() {
        super::same(super::Client::Ctr21, super::Runtime::NewCrun, super::scenarios::$name);
    })+
} }

mod containerd16_with_runc {
    davit_integration::task_scenarios!(containerd16_runc);
}

mod containerd16_with_crun {
    davit_integration::task_scenarios!(containerd16_crun);
}

mod containerd21_with_runc {
    davit_integration::task_scenarios!(containerd21_runc);
    davit_integration::new_task_scenarios!(containerd21_runc);
}

mod containerd21_with_crun {
    davit_integration::task_scenarios!(containerd21_crun);
    davit_integration::new_task_scenarios!(containerd21_crun);
}

fn by_its_own_name(server: Server, client: Client) {
    let daemon = Daemon::start(server);
    daemon.import_image(client);
    let words =
        ["run", "--rm", "--runtime", "io.containerd.davit.v2", image::NAME, "own", "echo", "ran"];
    assert_eq!(daemon.ctr_ok(client, &words), "ran\n");
}

#[test]
fn containerd16_finds_it_by_its_own_name() {
    by_its_own_name(Server::Containerd16, Client::Ctr16);
}

#[test]
fn containerd21_finds_it_by_its_own_name() {
    by_its_own_name(Server::Containerd21, Client::Ctr21);
}

/// A wrapper that keeps the daemon's ttrpc socket from the shim: events go by
/// the daemon's `publish` command then.
fn events_by_command(server: Server, client: Client) {
    let daemon = Daemon::with_shim(server, Shim::Ours);
    daemon.import_image(client);
    let wrapper = daemon.path("bin/containerd-shim-mute-v1");
    let shim = daemon.path("bin/containerd-shim-runc-v2");
    let script = format!("#!/bin/sh\nunset TTRPC_ADDRESS\nexec {} \"$@\"\n", shim.display());
    install(&wrapper, &script);
    let log = daemon.path("events");
    let file = fs::File::create(&log).expect("our directory");
    let mut listener =
        daemon.ctr(client).arg("events").stdout(file).spawn().expect("ctr can be started");
    wait_for("the listener hears something", 20, || {
        daemon.ctr_ok(client, &["namespace", "label", &daemon.namespace(), "probe=1"]);
        (fs::metadata(&log).ok()?.len() > 0).then_some(())
    });
    let runtime = ["--runtime", "io.containerd.mute.v1"];
    let run = [&["run", "-d"], &runtime[..], &[image::NAME, "mute", "sh", "-c", "exit 7"]].concat();
    daemon.ctr_ok(client, &run);
    let topics = || -> Vec<String> {
        let text = fs::read_to_string(&log).expect("the listener writes it");
        let words =
            text.lines().filter_map(|line| line.split(' ').find(|w| w.starts_with("/tasks")));
        words.map(str::to_owned).collect()
    };
    wait_for("the exit", 30, || (topics().len() >= 3).then_some(()));
    daemon.ctr(client).args(["task", "rm", "mute"]).output().expect("ctr can be started");
    wait_for("the deletion", 30, || (topics().len() >= 4).then_some(()));
    assert_eq!(topics(), ["create", "start", "exit", "delete"].map(|t| format!("/tasks/{t}")));
    let _ = listener.kill();
    let _ = listener.wait();
}

#[test]
fn containerd16_hears_events_by_its_command() {
    events_by_command(Server::Containerd16, Client::Ctr16);
}

#[test]
fn containerd21_hears_events_by_its_command() {
    events_by_command(Server::Containerd21, Client::Ctr21);
}

#[test]
fn davitd_hears_events_by_its_command() {
    events_by_command(Server::Davit, Client::Ctr21);
}
