//! Pulls that are cut off by the end of the daemon or the client; and several
//! at once.

use std::time::{Duration, Instant};

use davit_integration::fault_proxy::{Asked, Fault};
use davit_integration::{layout, wait_for};

use crate::seat::Seat;

/// So slow that a pull can be met in the midst.
fn slowly(asked: &Asked) -> Fault {
    if asked.is_blob() { Fault::Slow(4 << 20) } else { Fault::None }
}

/// A pull was gone on with that was cut off in its second half: at most a
/// quarter of the image came twice. That much may have been on its way and lost,
/// a window of 1 MiB for each of three downloads and what the kernel holds for
/// each; who begins anew fetches half of it again.
fn went_on(seat: &Seat) {
    let (carried, needed) = (seat.proxy.carried(), seat.layout.transfer_size("amd64"));
    assert!(carried < needed + needed / 4, "{carried} bytes for {needed}");
}

#[test]
fn two_at_once_fetch_each_blob_once() {
    let seat = Seat::new(&layout::GZIP, slowly);
    let other = format!("{}/other/image:1", seat.proxy.host());
    seat.layout.push(&seat.registry, "other/image:1");
    let mut pulls = vec![seat.starts(), seat.starts()];
    let mut command = seat.pull(&[&other]);
    command.stdout(std::process::Stdio::null());
    pulls.push(command.spawn().expect("ctr can be started"));
    for mut pull in pulls {
        assert!(pull.wait().expect("it was started").success());
    }
    for digest in seat.layout.content("amd64") {
        let of = seat.proxy.seen();
        let fetched = of.iter().filter(|seen| {
            seen.asked.method == "GET" && seen.asked.target.ends_with(&digest) && seen.carried > 0
        });
        assert_eq!(fetched.count(), 1, "{digest}: {of:#?}");
    }
    seat.is_whole(&seat.reference);
    seat.is_whole(&other);
    seat.daemon.ctr_ok(crate::seat::CTR, &["image", "rm", &other]);
    seat.is_whole(&seat.reference);
    seat.removes(&seat.reference);
}

#[test]
fn a_client_that_goes_away_leaves_what_can_be_gone_on_with() {
    let seat = Seat::new(&layout::LARGE, slowly);
    let needed = seat.layout.transfer_size("amd64");
    let mut pull = seat.starts();
    wait_for("half of it has come", 60, || (seat.proxy.carried() > needed / 2).then_some(()));
    pull.kill().expect("it runs");
    pull.wait().expect("it was started");
    seat.proxy.rule(|_| Fault::None);
    seat.pulls();
    went_on(&seat);
    seat.leases_expire();
    seat.is_whole(&seat.reference);
    seat.removes(&seat.reference);
    // And without another pull nothing is left.
    seat.proxy.forget();
    seat.proxy.rule(slowly);
    let mut pull = seat.starts();
    wait_for("a part has come", 30, || (seat.proxy.carried() > 3_000_000).then_some(()));
    pull.kill().expect("it runs");
    pull.wait().expect("it was started");
    wait_for("the daemon has given up", 20, || {
        let before = seat.proxy.carried();
        std::thread::sleep(Duration::from_millis(200));
        (before == seat.proxy.carried()).then_some(())
    });
    seat.nothing_left();
}

#[test]
fn a_pull_is_gone_on_with_after_a_kill() {
    let mut seat = Seat::new(&layout::LARGE, slowly);
    let needed = seat.layout.transfer_size("amd64");
    let mut pull = seat.starts();
    wait_for("half of it has come", 60, || (seat.proxy.carried() > needed / 2).then_some(()));
    seat.daemon.kill();
    let _ = pull.wait();
    seat.daemon.launch();
    seat.proxy.rule(|_| Fault::None);
    seat.pulls();
    went_on(&seat);
    seat.leases_expire();
    seat.is_whole(&seat.reference);
    seat.removes(&seat.reference);
}

/// Kills the daemon at so many moments (`DAVIT_KILLS`, 20 by default), spread
/// over the time that a pull takes.
#[test]
fn a_kill_at_any_moment_does_no_harm() {
    let kills = std::env::var("DAVIT_KILLS").map_or(20, |text| text.parse().expect("a number"));
    let mut seat = Seat::new(&layout::SMALL, |_| Fault::None);
    // Any one may be slowed down by what this machine does besides.
    let mut times = [(); 3].map(|()| {
        let begun = Instant::now();
        seat.pulls();
        let time = begun.elapsed();
        seat.is_whole(&seat.reference);
        seat.removes(&seat.reference);
        time
    });
    times.sort_unstable();
    let whole = times[1];
    let mut cut_off = 0;
    for number in 0..kills {
        let mut pull = seat.starts();
        std::thread::sleep(whole.mul_f64(1.2 * f64::from(number) / f64::from(kills)));
        seat.daemon.kill();
        let ended = pull.wait().expect("it was started");
        cut_off += u32::from(!ended.success());
        seat.daemon.launch();
        seat.pulls();
        seat.leases_expire();
        seat.collects();
        seat.is_whole(&seat.reference);
        seat.removes(&seat.reference);
    }
    assert!(cut_off > kills / 4, "{cut_off} of {kills} pulls were cut off");
}
