//! A disk that a pull fills.

use davit_integration::daemon::Shim;
use davit_integration::fault_proxy::Fault;
use davit_integration::layout::{self, Layout};
use davit_integration::registry::Registry;
use davit_integration::{Daemon, Server, must};

use crate::seat::Seat;

#[test]
fn a_full_disk_ends_a_pull_and_nothing_is_left() {
    for size in ["size=3m", "size=9m", "size=24m"] {
        let daemon = Daemon::on_disks(Server::Davit, Shim::Ours, &[("root", size)]);
        let seat = Seat::with(daemon, Registry::start(), &layout::LARGE, |_| Fault::None);
        seat.fails("no space left");
        seat.nothing_left();
        // What fits can still be pulled.
        if size == "size=24m" {
            Layout::of(&layout::SMALL).push(&seat.registry, "small:1");
            let small = format!("{}/small:1", seat.proxy.host());
            must(&mut seat.pull(&[&small]));
            seat.removes(&small);
        }
    }
}
