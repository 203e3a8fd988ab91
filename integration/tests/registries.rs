//! Pulls and pushes by `ctr` on `davitd`, beside the containerd that each
//! `ctr` belongs to: the same words must have the same outcome, whether `ctr`
//! speaks with the registry itself or has the daemon do it.

use davit_integration::scenarios::{self, Seat, compare};
use davit_integration::{Client, Daemon, Server};

fn same(client: Client, scenario: fn(&Seat) -> String) {
    let seat = |server| Seat { daemon: Daemon::start(server), client, runtime: None };
    compare(scenario, || seat(Server::reference_of(client)), &seat(Server::Davit));
}

macro_rules! with_ctr16 { ($($name:ident),+ $(,)?) => {
    $(#[test] fn $name() { super::same(super::Client::Ctr16, super::scenarios::$name); })+
} }

macro_rules! with_ctr21 { ($($name:ident),+ $(,)?) => {
    $(#[test] fn $name() { super::same(super::Client::Ctr21Local, super::scenarios::$name); })+
} }

macro_rules! by_transfer { ($($name:ident),+ $(,)?) => {
    $(#[test] fn $name() { super::same(super::Client::Ctr21, super::scenarios::$name); })+
} }

mod ctr16 {
    davit_integration::registry_scenarios!(with_ctr16);
    with_ctr16!(pull_for_snapshotters, push_one_platform);
}

mod ctr21 {
    davit_integration::registry_scenarios!(with_ctr21);
    with_ctr21!(pull_for_snapshotters, push_one_platform);
}

mod transfer {
    davit_integration::registry_scenarios!(by_transfer);
    by_transfer!(push_one_platform);
}
