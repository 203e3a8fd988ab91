//! containerd 1.6 and 2.1 with our shim, installed under the Go shim's name,
//! beside the same containerd with its own.

use davit_integration::daemon::Shim;
use davit_integration::scenarios::{self, Seat, compare};
use davit_integration::{Client, Daemon, Runtime, Server, image};

fn same(client: Client, runtime: Runtime, scenario: fn(&Seat) -> String) {
    let server = Server::reference_of(client);
    let seat = |daemon| Seat { daemon, client, runtime: Some(runtime) };
    let theirs = seat(Daemon::start(server));
    compare(scenario, &theirs, &seat(Daemon::with_shim(server, Shim::Ours)));
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
}

mod containerd21_with_crun {
    davit_integration::task_scenarios!(containerd21_crun);
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
