//! Debian's `ctr` 1.6 and forky's 2.1 on `davitd`, beside the containerd that
//! each belongs to: the same words must have the same outcome.

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
    $(#[test] fn $name() { super::same(super::Client::Ctr21, super::scenarios::$name); })+
} }

mod ctr16 {
    davit_integration::record_scenarios!(with_ctr16);
    davit_integration::task_scenarios!(with_ctr16);
}

mod ctr21 {
    davit_integration::record_scenarios!(with_ctr21);
    davit_integration::task_scenarios!(with_ctr21);
    davit_integration::new_task_scenarios!(with_ctr21);
}
