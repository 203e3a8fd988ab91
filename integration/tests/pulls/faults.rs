//! Connections that break, servers that are dead, lie or have enough.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use davit_integration::fault_proxy::{Asked, BlackHole, Fault, FaultProxy, dead_host, resets};
use davit_integration::registry::{Auth, Registry, Transport, USER};
use davit_integration::scenarios::write_hosts;
use davit_integration::{Daemon, Server, layout, must};

use crate::seat::Seat;

fn none(_: &Asked) -> Fault {
    Fault::None
}

/// At most 5 % of the image's blobs were fetched twice.
fn hardly_anything_twice(seat: &Seat, proxies: &[&FaultProxy]) {
    let carried: u64 = proxies.iter().map(|proxy| proxy.carried()).sum();
    let needed = seat.layout.transfer_size("amd64");
    assert!(carried >= needed, "{carried} bytes of {needed}: the proxy was not in the way");
    assert!(carried - needed < needed / 20, "{carried} bytes for {needed}");
}

#[test]
fn resets_and_a_dead_mirror() {
    for seed in [1, 2] {
        let seat = Seat::new(&layout::LARGE, resets(30, 4 << 20, seed));
        let (hole, dead) = (BlackHole::open(), dead_host());
        let mirror = |host: &str| {
            format!("[host.\"http://{host}\"]\ncapabilities = [\"pull\", \"resolve\"]\n")
        };
        let toml = format!(
            "server = \"http://{}\"\n{}{}",
            seat.proxy.host(),
            mirror(&dead),
            mirror(&hole.host()),
        );
        let hosts = seat.daemon.path("hosts");
        write_hosts(&hosts, "registry.test", &toml);
        let reference = "registry.test/some/image:1";
        must(&mut seat.pull(&["--hosts-dir", &hosts.to_string_lossy(), reference]));
        let broken = seat.proxy.seen().iter().filter(|s| s.fault != Fault::None).count();
        assert!(broken > 3, "{broken} connections were reset");
        hardly_anything_twice(&seat, &[&seat.proxy]);
        seat.is_whole(reference);
        seat.removes(reference);
    }
}

/// Large layers in pieces of a megabyte, several at a time.
#[test]
fn resets_of_parallel_ranges() {
    let config = "[plugins.\"io.containerd.transfer.v1.local\"]\n\
                  concurrent_layer_fetch_buffer = 1048576\n";
    let daemon = Daemon::with_config(Server::Davit, config);
    let seat = Seat::with(daemon, Registry::start(), &layout::LARGE, resets(20, 1 << 20, 5));
    seat.pulls();
    let pieces = seat.proxy.blobs().iter().filter(|seen| seen.asked.range.is_some()).count();
    assert!(pieces > 20, "{pieces} pieces");
    hardly_anything_twice(&seat, &[&seat.proxy]);
    seat.is_whole(&seat.reference);
}

#[test]
fn ends_in_the_midst_are_gone_on_from() {
    // No answer brings more than this, so every blob takes many.
    let seat = Seat::new(&layout::SMALL, |asked| match asked.is_blob() {
        true => Fault::EndAfter(200_000),
        false => Fault::None,
    });
    seat.pulls();
    let ranged = seat.proxy.blobs().iter().filter(|seen| seen.asked.range.is_some()).count();
    assert!(ranged >= 6, "{ranged} requests for the rest of a blob");
    hardly_anything_twice(&seat, &[&seat.proxy]);
    seat.is_whole(&seat.reference);
}

#[test]
fn a_mirror_that_breaks_off_hands_over() {
    let seat = Seat::new(&layout::LARGE, none);
    let mirror = FaultProxy::start(seat.registry.address(), |asked| match asked.is_blob() {
        true if asked.times == 0 => Fault::EndAfter(1_000_000),
        true => Fault::Answer(503, Vec::new()),
        false => Fault::None,
    });
    let toml = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        seat.proxy.host(),
        mirror.host()
    );
    let hosts = seat.daemon.path("hosts");
    write_hosts(&hosts, "registry.test", &toml);
    let reference = "registry.test/some/image:1";
    must(&mut seat.pull(&["--hosts-dir", &hosts.to_string_lossy(), reference]));
    assert!(seat.proxy.carried() > 0 && mirror.carried() > 0);
    hardly_anything_twice(&seat, &[&seat.proxy, &mirror]);
    seat.is_whole(reference);
}

#[test]
fn a_mirror_that_says_nothing_costs_seconds() {
    let seat = Seat::new(&layout::SMALL, none);
    let mirror = FaultProxy::start(seat.registry.address(), |_| Fault::Stall);
    let toml = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        seat.proxy.host(),
        mirror.host()
    );
    let hosts = seat.daemon.path("hosts");
    write_hosts(&hosts, "registry.test", &toml);
    let reference = "registry.test/some/image:1";
    must(&mut seat.pull(&["--hosts-dir", &hosts.to_string_lossy(), reference]));
    // Who has been found silent is not asked for every blob again.
    assert!(mirror.seen().len() <= 3, "{:#?}", mirror.seen());
    seat.is_whole(reference);
}

/// A mirror at 20 KiB/s would need four minutes for each layer.
#[test]
fn a_slow_mirror_costs_seconds() {
    let seat = Seat::new(&layout::LARGE, none);
    let mirror = FaultProxy::start(seat.registry.address(), |asked| match asked.is_blob() {
        true => Fault::Slow(20 << 10),
        false => Fault::None,
    });
    let toml = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        seat.proxy.host(),
        mirror.host()
    );
    let hosts = seat.daemon.path("hosts");
    write_hosts(&hosts, "registry.test", &toml);
    let reference = "registry.test/some/image:1";
    let begun = Instant::now();
    must(&mut seat.pull(&["--hosts-dir", &hosts.to_string_lossy(), reference]));
    assert!(begun.elapsed() < Duration::from_secs(180), "{:?}", begun.elapsed());
    let needed = seat.layout.transfer_size("amd64");
    assert!(mirror.carried() > 0, "it was never asked");
    assert!(mirror.carried() < needed / 5, "{} of {needed} bytes", mirror.carried());
    hardly_anything_twice(&seat, &[&seat.proxy, &mirror]);
    seat.is_whole(reference);
}

#[test]
fn wrong_bytes_are_refused() {
    let seat = Seat::new(&layout::SMALL, none);
    let layer = seat.layout.layers("amd64")[1].clone();
    let (manifest, document) = seat.layout.manifest("amd64");
    let config = document["config"]["digest"].as_str().expect("a digest").to_owned();
    for digest in [layer, config, manifest] {
        let flipped = digest.clone();
        seat.proxy.rule(move |asked| match asked.target.contains(&flipped) {
            true => Fault::Flip(100),
            false => Fault::None,
        });
        // The name is resolved by the manifest's own digest.
        let exact = format!("{}/some/image@{}", seat.proxy.host(), seat.layout.digest());
        let mut command = seat.pull(&[&exact]);
        let output = command.output().expect("ctr can be started");
        let told = davit_integration::describe(&command, &output);
        assert!(!output.status.success() && told.contains(&digest), "{digest}\n{told}");
        seat.nothing_left();
    }
    seat.proxy.rule(none);
    seat.pulls();
    seat.is_whole(&seat.reference);
}

#[test]
fn a_blob_that_is_too_short_is_refused() {
    let seat = Seat::new(&layout::SMALL, none);
    let layer = seat.layout.layers("amd64")[1].clone();
    let hex = layer.trim_start_matches("sha256:").to_owned();
    let kept = std::fs::read(seat.registry.blob(&hex)).expect("it was pushed");
    std::fs::write(seat.registry.blob(&hex), &kept[..kept.len() / 2]).expect("it is a file");
    seat.fails(&hex);
    // Longer than it says is as bad.
    std::fs::write(seat.registry.blob(&hex), [&kept[..], b"more"].concat()).expect("it is a file");
    seat.fails(&hex);
    seat.nothing_left();
    std::fs::write(seat.registry.blob(&hex), kept).expect("it is a file");
    seat.pulls();
    seat.is_whole(&seat.reference);
}

#[test]
fn who_has_enough_is_asked_later() {
    let later = |seconds: &str| vec![("Retry-After".to_owned(), seconds.to_owned())];
    let seat = Seat::new(&layout::SMALL, move |asked| match asked.times {
        0 => Fault::Answer(429, later("1")),
        1 if asked.is_blob() => Fault::Answer(503, Vec::new()),
        _ => Fault::None,
    });
    seat.pulls();
    let mut statuses = BTreeMap::<u16, usize>::new();
    for seen in seat.proxy.seen() {
        *statuses.entry(seen.status).or_default() += 1;
    }
    assert!(statuses[&429] >= 6 && statuses[&503] >= 4, "{statuses:?}");
    // Patience, not insistence: hardly more answers than there had to be.
    assert!(seat.proxy.seen().len() <= 24, "{:#?}", seat.proxy.seen());
    seat.is_whole(&seat.reference);
}

#[test]
fn who_never_has_time_is_given_up() {
    let seat = Seat::new(&layout::SMALL, |asked| match asked.is_blob() {
        true => Fault::Answer(429, vec![("Retry-After".into(), "86400".into())]),
        false => Fault::None,
    });
    seat.fails("429");
    seat.nothing_left();
    seat.proxy.rule(|_| Fault::Answer(404, Vec::new()));
    seat.fails("not found");
    seat.proxy.rule(|_| Fault::Answer(403, Vec::new()));
    seat.fails("403");
    seat.nothing_left();
}

#[test]
fn passwords_do_not_follow_redirects() {
    let registry = Registry::with(Transport::Plain, Auth::Basic);
    let daemon = Daemon::start(Server::Davit);
    let seat = Seat::with(daemon, registry, &layout::SMALL, none);
    let open = Registry::beside(&seat.registry, Transport::Plain, Auth::None);
    let other = FaultProxy::start(open.address(), none);
    // The same machine by another name is another host.
    let port = other.host().rsplit(':').next().expect("a port").to_owned();
    seat.proxy.rule(move |asked| match asked.is_blob() {
        true => Fault::Redirect(format!("http://localhost:{port}")),
        false => Fault::None,
    });
    let user = format!("{}:{}", USER.0, USER.1);
    must(&mut seat.pull(&["--user", &user, &seat.reference]));
    assert!(seat.proxy.seen().iter().any(|seen| seen.asked.authorization.is_some()));
    assert!(other.blobs().len() >= 4, "{:#?}", other.seen());
    for seen in other.seen() {
        assert_eq!(seen.asked.authorization, None, "{seen:#?}");
    }
    seat.is_whole(&seat.reference);
}

#[test]
fn redirects_end_somewhere() {
    let seat = Seat::new(&layout::SMALL, none);
    let back = format!("http://{}", seat.proxy.host());
    seat.proxy.rule(move |asked| match asked.is_blob() {
        true => Fault::Redirect(back.clone()),
        false => Fault::None,
    });
    seat.fails("redirect");
    assert!(seat.proxy.seen().len() < 300, "{} requests", seat.proxy.seen().len());
    seat.nothing_left();
}

#[test]
fn pushes_survive_resets() {
    let seat = Seat::new(&layout::SMALL, none);
    seat.pulls();
    seat.proxy.rule(resets(20, 1, 3));
    let other = format!("{}/other:1", seat.proxy.host());
    let mut push = seat.daemon.ctr(crate::seat::CTR);
    push.args(["image", "push", "--plain-http", &other, &seat.reference]);
    must(&mut push);
    assert_eq!(seat.registry.digest("other:1"), seat.layout.digest());
    assert!(seat.proxy.seen().iter().any(|seen| seen.fault != Fault::None));
}
