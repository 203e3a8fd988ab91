//! Pulls and pushes through a proxy. Registries are at 0.0.0.0, which reaches
//! this machine and is no loopback address: those are never proxied.

use std::fs;
use std::path::PathBuf;

use davit_integration::layout::{self, Layout};
use davit_integration::proxy::{self, Proxy};
use davit_integration::registry::{Auth, Registry, Transport};
use davit_integration::scenarios::write_hosts;
use davit_integration::{Daemon, Server};

use crate::seat::Seat;

const NAME: &str = "registry.test/some/image:1";

/// A daemon with these variables, and where it is told of hosts.
fn seat(variables: &[(&str, &str)]) -> (Seat, PathBuf) {
    let seat = Seat::on(Daemon::with_environment(Server::Davit, variables));
    let hosts = seat.daemon.path("hosts");
    fs::create_dir(&hosts).expect("the directory is writable");
    (seat, hosts)
}

/// Says that `registry.test` is `registry`, and where.
fn point_to(hosts: &std::path::Path, registry: &Registry) -> String {
    let scheme = if registry.authority.is_some() { "https" } else { "http" };
    let place = format!("0.0.0.0:{}", registry.address().port());
    // On a host in the clear, settings of TLS would mean that it is tried.
    let verify = if scheme == "https" { "skip_verify = true\n" } else { "" };
    let toml = format!("server = \"{scheme}://{place}\"\n{verify}");
    write_hosts(hosts, "registry.test", &toml);
    place
}

/// Pulls, runs and pushes.
fn works(seat: &Seat, hosts: &std::path::Path, copy: &str) {
    let hosts = hosts.to_string_lossy().into_owned();
    seat.ok(&["pull", "--hosts-dir", &hosts, NAME]);
    seat.runs_whole(NAME);
    seat.ok(&["push", "--hosts-dir", &hosts, NAME, &format!("registry.test/{copy}")]);
    seat.ok(&["rmi", NAME]);
}

#[test]
fn plain_requests_go_through_the_proxy_and_others_in_a_tunnel() {
    let layout = Layout::of(&layout::SMALL);
    let plain = Registry::start();
    layout.push(&plain, "some/image:1");
    let tls = Registry::beside(&plain, Transport::Tls, Auth::None);
    for (variable, registry, copy) in
        [("HTTP_PROXY", &plain, "plain:1"), ("HTTPS_PROXY", &tls, "tls:1")]
    {
        let through = Proxy::start(true);
        let url = through.url(Some(proxy::USER.1));
        let (seat, hosts) = seat(&[(variable, &url)]);
        let place = point_to(&hosts, registry);
        works(&seat, &hosts, copy);
        assert_eq!(plain.digest(copy), layout.digest());
        let requests = through.requests();
        let expected = match variable {
            "HTTP_PROXY" => format!("GET http://{place}/v2/some/image/blobs/"),
            _ => format!("CONNECT {place} "),
        };
        assert!(requests.iter().any(|line| line.contains(&expected)), "{requests:#?}");
        let both = |line: &String| line.contains("): CONNECT ") == (variable == "HTTPS_PROXY");
        assert!(requests.iter().all(both), "{requests:#?}");
    }
}

#[test]
fn no_proxy_is_honoured_and_so_is_the_scheme() {
    let plain = Registry::start();
    Layout::of(&layout::SMALL).push(&plain, "some/image:1");
    let through = Proxy::start(false);
    let url = through.url(None);
    for variables in [
        [("HTTP_PROXY", url.as_str()), ("NO_PROXY", "other.test,0.0.0.0")],
        [("HTTP_PROXY", url.as_str()), ("no_proxy", "0.0.0.0/8")],
        [("http_proxy", url.as_str()), ("NO_PROXY", "*")],
        [("HTTPS_PROXY", url.as_str()), ("NO_PROXY", "")],
    ] {
        let (seat, hosts) = seat(&variables);
        point_to(&hosts, &plain);
        works(&seat, &hosts, "copy:1");
        assert!(through.requests().is_empty(), "{variables:?}: {:#?}", through.requests());
    }
    // The same daemon that goes to one registry by itself asks the proxy for
    // another.
    let (seat, hosts) = seat(&[("HTTP_PROXY", &url), ("NO_PROXY", "registry.test")]);
    point_to(&hosts, &plain);
    works(&seat, &hosts, "copy:1");
    assert!(!through.requests().is_empty());
}

#[test]
fn a_proxy_that_refuses_or_is_not_there_is_named() {
    let plain = Registry::start();
    Layout::of(&layout::SMALL).push(&plain, "some/image:1");
    let tls = Registry::beside(&plain, Transport::Tls, Auth::None);
    let through = Proxy::start(true);
    let wrong = through.url(Some("wrong"));
    // tinyproxy says 401, which in the clear can be the registry's as well.
    for (variable, registry, words) in
        [("HTTP_PROXY", &plain, "authorization failed"), ("HTTPS_PROXY", &tls, "401")]
    {
        let expected = words;
        let (seat, hosts) = seat(&[(variable, &wrong)]);
        point_to(&hosts, registry);
        let hosts = hosts.to_string_lossy().into_owned();
        let words = ["pull", "--hosts-dir", &hosts, NAME];
        seat.fails(&words, expected);
        let output = seat.davit(&words).output().expect("davit can be started");
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &seat.daemon.log();
        assert!(!text.contains("wrong@") && !text.contains(":wrong"), "{text}");
    }
    drop(through);
    let (seat, hosts) = seat(&[("HTTP_PROXY", "http://127.0.0.1:1")]);
    point_to(&hosts, &plain);
    seat.fails(&["pull", "--hosts-dir", &hosts.to_string_lossy(), NAME], "127.0.0.1:1");
}
