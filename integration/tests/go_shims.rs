//! davitd with the Go shims of Debian 12 and of forky, beside the containerd
//! that each belongs to: any v2 shim works under it. What they do while the
//! daemon is away is in `restart.rs`.

use davit_integration::daemon::Shim;
use davit_integration::scenarios::{self, Seat, compare};
use davit_integration::{Client, Daemon, Server};

fn same(client: Client, shim: Shim, scenario: fn(&Seat) -> String) {
    let seat = |daemon| Seat { daemon, client, runtime: None };
    let theirs = || {
        let daemon = Daemon::start(Server::reference_of(client));
        assert_eq!(daemon.shim(), shim);
        seat(daemon)
    };
    compare(scenario, theirs, &seat(Daemon::with_shim(Server::Davit, shim)));
}

macro_rules! go16 { ($($name:ident),+ $(,)?) => {
    $(#[test] fn $name() {
        super::same(super::Client::Ctr16, super::Shim::Go16, super::scenarios::$name);
    })+
} }

macro_rules! go21 { ($($name:ident),+ $(,)?) => {
    $(#[test] fn $name() {
        super::same(super::Client::Ctr21, super::Shim::Go21, super::scenarios::$name);
    })+
} }

mod debian12 {
    davit_integration::task_scenarios!(go16);
}

mod forky {
    davit_integration::task_scenarios!(go21);
    davit_integration::new_task_scenarios!(go21);
}
