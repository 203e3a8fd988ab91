//! Images from registries and to them. Every scenario has registries of its
//! own.

use std::fs;
use std::path::Path;

use super::Seat;
use crate::fault_proxy::{Fault, FaultProxy, dead_host};
use crate::layout::{self, CHECK, Layout, Recipe};
use crate::registry::{Auth, Registry, Transport, USER};
use crate::{Client, describe};

/// `ctr image pull|push` with the flag that says who does it.
fn line<'a>(seat: &Seat, verb: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    let local: &[&str] = if seat.client == Client::Ctr21Local { &["--local"] } else { &[] };
    [&["image", verb], local, words].concat()
}

/// A pull or push that must work. What is printed on the way is progress.
fn done(seat: &Seat, verb: &str, words: &[&str]) {
    seat.ok(&line(seat, verb, words));
}

/// A pull or push that must fail; its last words.
fn fails(seat: &Seat, verb: &str, words: &[&str]) -> String {
    let mut command = seat.command(&line(seat, verb, words));
    let output = command.output().expect("ctr can be started");
    assert!(!output.status.success(), "{}", describe(&command, &output));
    let stderr = seat.normalise(&output.stderr);
    let last = stderr.lines().last().unwrap_or_default();
    // Which of several blobs it is that fails is left to chance.
    let (last, _) = last.split_once("/blobs/sha256:").unwrap_or((last, ""));
    format!("{verb} {}\n{last}\n", words.join(" "))
}

/// A pull or push that works with one client and fails with another: whether
/// it did.
fn tried(seat: &Seat, verb: &str, words: &[&str]) -> String {
    let output = seat.command(&line(seat, verb, words)).output().expect("ctr can be started");
    format!("{verb} {}: {}\n", words.join(" "), output.status.success())
}

/// All that can be seen of the images in the store.
fn store(seat: &Seat) -> String {
    seat.any(&["image", "ls"])
        + &seat.any(&["image", "check"])
        + &seat.any(&["content", "ls"])
        + &seat.any(&["content", "active"])
        + &seat.any(&["snapshot", "ls"])
        + &seat.any(&["leases", "ls", "-q"])
}

/// The words of a container that looks whether its image is whole.
fn check(seat: &Seat, reference: &str, id: &str) -> String {
    let words = [&["run", "--rm", reference, id], CHECK].concat();
    seat.any(&words)
}

/// Takes out what differs between two registries that hold the same.
fn without(text: String, registries: &[&str]) -> String {
    registries
        .iter()
        .enumerate()
        .fold(text, |text, (number, host)| text.replace(host, &format!("REGISTRY-{number}")))
}

/// A plain registry with one image, pulled with `flags`; what there is then.
fn pulled(seat: &Seat, recipe: &Recipe, flags: &[&str]) -> String {
    let registry = Registry::start();
    let reference = Layout::of(recipe).push(&registry, "some/image:1");
    let mut text = String::new();
    done(seat, "pull", &[&["--plain-http"], flags, &[&reference]].concat());
    text += &store(seat);
    text += &check(seat, &reference, "run");
    without(text, &[&registry.host()])
}

/// One platform, every compression.
pub fn pull_one_platform(seat: &Seat) -> String {
    pulled(seat, &layout::SMALL, &[])
}

/// This machine's platform out of an index.
pub fn pull_an_index(seat: &Seat) -> String {
    pulled(seat, &layout::INDEX, &[])
}

/// An index with all that is in it.
pub fn pull_all_platforms(seat: &Seat) -> String {
    pulled(seat, &layout::PLATFORMS, &["--all-platforms"])
}

/// Docker's media types.
pub fn pull_of_docker(seat: &Seat) -> String {
    pulled(seat, &layout::DOCKER, &["--platform", "linux/amd64"])
}

/// For a snapshotter that is not the default, and one that is not there.
pub fn pull_for_snapshotters(seat: &Seat) -> String {
    let registry = Registry::start();
    let reference = Layout::of(&layout::SMALL).push(&registry, "some/image:1");
    let mut text = String::new();
    for name in ["native", "nonsense"] {
        text += &tried(seat, "pull", &["--plain-http", "--snapshotter", name, &reference]);
        text += &seat.any(&["snapshot", "--snapshotter", name, "ls"]);
        text += &store(seat);
    }
    without(text, &[&registry.host()])
}

/// By digest, by two names, and once more.
pub fn pull_again(seat: &Seat) -> String {
    let registry = Registry::start();
    let layout = Layout::of(&layout::INDEX);
    let one = layout.push(&registry, "some/image:1");
    let two = layout.push(&registry, "other/image:2");
    let exact = format!("{}@{}", registry.reference("some/image"), layout.digest());
    let other = Layout::of(&layout::SMALL);
    let mut text = String::new();
    for reference in [&one, &two, &exact, &one] {
        done(seat, "pull", &["--plain-http", reference]);
        text += &seat.any(&["image", "ls"]);
    }
    text += &store(seat);
    // The tag moves on.
    other.push(&registry, "some/image:1");
    done(seat, "pull", &["--plain-http", &one]);
    text += &store(seat);
    for name in [&one, &two, &exact] {
        seat.ok(&["image", "rm", "--sync", name]);
    }
    text += &store(seat);
    without(text, &[&registry.host()])
}

/// Names, platforms and registries that do not exist.
pub fn pull_what_is_not_there(seat: &Seat) -> String {
    let registry = Registry::start();
    let reference = Layout::of(&layout::PLATFORMS).push(&registry, "some/image:1");
    let dead = dead_host();
    let mut text = String::new();
    let at = |name: &str| registry.reference(name);
    let nothing = format!("{}@sha256:{}", at("some/image"), "0".repeat(64));
    for name in [&at("some/image:2"), &at("no/image:1"), &nothing] {
        text += &fails(seat, "pull", &["--plain-http", name]);
    }
    // containerd's transfer service is content with a platform that is not
    // there; ours is not.
    if seat.client != Client::Ctr21 {
        let words = ["--plain-http", "--platform", "linux/riscv64", &reference];
        text += &fails(seat, "pull", &words);
    }
    let gone = fails(seat, "pull", &["--plain-http", &format!("{dead}/some/image:1")]);
    assert!(gone.contains("refused"), "{gone}");
    text += &store(seat);
    without(text, &[&registry.host()])
}

/// An image goes up under another name and comes back.
pub fn push_and_pull_back(seat: &Seat) -> String {
    let registry = Registry::start();
    let layout = Layout::of(&layout::SMALL);
    let reference = layout.push(&registry, "some/image:1");
    done(seat, "pull", &["--plain-http", &reference]);
    let other = registry.reference("an/other:2");
    seat.ok(&["image", "tag", &reference, &other]);
    done(seat, "push", &["--plain-http", &other]);
    let third = registry.reference("third:3");
    done(seat, "push", &["--plain-http", &third, &reference]);
    for name in ["an/other:2", "third:3"] {
        assert_eq!(registry.digest(name), layout.digest());
    }
    seat.ok(&["image", "rm", "--sync", &reference, &other]);
    done(seat, "pull", &["--plain-http", &other]);
    let mut text = store(seat) + &check(seat, &other, "back");
    text += &fails(seat, "push", &["--plain-http", &registry.reference("no/such:1")]);
    without(text, &[&registry.host()])
}

/// A repository takes what it can from another one of its registry.
pub fn push_what_another_repository_has(seat: &Seat) -> String {
    let registry = Registry::start();
    let layout = Layout::of(&layout::SMALL);
    layout.push(&registry, "team/one:1");
    let proxy = FaultProxy::start(registry.address(), |_| Fault::None);
    let at = |name: &str| format!("{}/{name}", proxy.host());
    let (one, two) = (at("team/one:1"), at("team/two:1"));
    done(seat, "pull", &["--plain-http", &one]);
    seat.ok(&["image", "tag", &one, &two]);
    done(seat, "push", &["--plain-http", &two]);
    assert_eq!(registry.digest("team/two:1"), layout.digest());
    assert!(proxy.mounted().len() >= layout.layers("amd64").len(), "{:#?}", proxy.seen());
    assert!(proxy.uploads().is_empty(), "{:#?}", proxy.uploads());
    format!("mounted: {:#?}\n", proxy.mounted())
}

/// All platforms go up.
pub fn push_an_index(seat: &Seat) -> String {
    let (registry, other) = (Registry::start(), Registry::start());
    let layout = Layout::of(&layout::INDEX);
    let reference = layout.push(&registry, "some/image:1");
    // A pull would try to unpack the attestations.
    seat.ok(&["content", "fetch", "--plain-http", "--all-platforms", &reference]);
    let whole = other.reference("whole:1");
    done(seat, "push", &["--plain-http", &whole, &reference]);
    assert_eq!(other.digest("whole:1"), layout.digest());
    for digest in layout.all() {
        let hex = digest.trim_start_matches("sha256:");
        assert!(other.blob(hex).exists(), "{digest} was not pushed");
    }
    without(store(seat), &[&registry.host(), &other.host()])
}

/// One platform of an index goes up alone.
pub fn push_one_platform(seat: &Seat) -> String {
    let (registry, other) = (Registry::start(), Registry::start());
    let layout = Layout::of(&layout::PLATFORMS);
    let reference = layout.push(&registry, "some/image:1");
    done(seat, "pull", &["--plain-http", "--all-platforms", &reference]);
    let part = other.reference("part:1");
    let only = ["--plain-http", "--platform", "linux/arm64", &part, &reference];
    // containerd's transfer service sends the whole index after it, which
    // this registry refuses.
    let text = if seat.client == Client::Ctr21 {
        tried(seat, "push", &only)
    } else {
        done(seat, "push", &only);
        assert_eq!(other.digest("part:1"), layout.manifest("arm64").0);
        String::new()
    };
    without(text + &store(seat), &[&registry.host(), &other.host()])
}

/// A registry that wants a password.
pub fn push_by_name_and_password(seat: &Seat) -> String {
    let registry = Registry::with(Transport::Plain, Auth::Basic);
    let layout = Layout::of(&layout::SMALL);
    let reference = layout.push(&registry, "some/image:1");
    let user = format!("{}:{}", USER.0, USER.1);
    done(seat, "pull", &["--plain-http", "--user", &user, &reference]);
    let other = registry.reference("other:1");
    done(seat, "push", &["--plain-http", "--user", &user, &other, &reference]);
    assert_eq!(registry.digest("other:1"), layout.digest());
    let wrong = format!("{}:wrong", USER.0);
    let mut text = store(seat);
    for login in [&[][..], &["--user", &wrong]] {
        text += &fails(seat, "pull", &[&["--plain-http"], login, &[&other]].concat());
        text += &fails(seat, "push", &[&["--plain-http"], login, &[&other, &reference]].concat());
    }
    without(text, &[&registry.host()])
}

/// A registry that sends to a token server.
pub fn pull_by_token(seat: &Seat) -> String {
    let registry = Registry::with(Transport::Plain, Auth::Token);
    let layout = Layout::of(&layout::SMALL);
    let public = layout.push(&registry, "public/image:1");
    let private = layout.push(&registry, "private/image:1");
    let user = format!("{}:{}", USER.0, USER.1);
    done(seat, "pull", &["--plain-http", &public]);
    done(seat, "pull", &["--plain-http", "--user", &user, &private]);
    let other = registry.reference("other:1");
    done(seat, "push", &["--plain-http", "--user", &user, &other, &private]);
    assert_eq!(registry.digest("other:1"), layout.digest());
    let mut text = store(seat);
    text += &fails(seat, "pull", &["--plain-http", &private]);
    without(text, &[&registry.host()])
}

/// Writes a `hosts.toml` for `host` below `directory`.
pub fn write_hosts(directory: &Path, host: &str, text: &str) {
    let directory = directory.join(host);
    fs::create_dir_all(&directory).expect("the directory is writable");
    fs::write(directory.join("hosts.toml"), text).expect("the directory is writable");
}

/// A registry with a certificate of an authority that only `hosts.toml` knows,
/// and one that wants to see ours.
pub fn pull_by_tls(seat: &Seat) -> String {
    let plain = Registry::start();
    Layout::of(&layout::SMALL).push(&plain, "some/image:1");
    let hosts = seat.daemon.path("hosts");
    let reference = "registry.test/some/image:1";
    let words = ["--hosts-dir", hosts.to_str().expect("a path is text"), reference];
    let mut text = String::new();
    for transport in [Transport::Tls, Transport::MutualTls] {
        let registry = Registry::beside(&plain, transport, Auth::None);
        let authority = registry.authority.as_ref().expect("it has one");
        let server = format!("[host.{:?}]\n", registry.url());
        let ca = format!("ca = {:?}\n", authority.file("ca.pem"));
        let pair = [authority.file("client.pem"), authority.file("client.key")];
        let client = format!("client = [{pair:?}]\n");
        let (wrong, right) = match transport {
            Transport::MutualTls => (format!("{server}{ca}"), format!("{server}{ca}{client}")),
            _ => (server.clone(), format!("{server}{ca}")),
        };
        write_hosts(&hosts, "registry.test", &wrong);
        let told = fails(seat, "pull", &words);
        assert!(told.to_lowercase().contains("certificate"), "{told}");
        write_hosts(&hosts, "registry.test", &right);
        done(seat, "pull", &words);
        text += &store(seat);
        seat.ok(&["image", "rm", "--sync", reference]);
    }
    write_hosts(&hosts, "registry.test", "ca = 7\n");
    // containerd's transfer service goes on without a file that it cannot read.
    let told = fails(seat, "pull", &words).replace(&*hosts.to_string_lossy(), "HOSTS");
    text + if seat.client == Client::Ctr21 { "" } else { &told }
}

/// `hosts.toml` with a mirror that is dead, one that lacks the image, and one
/// below a path of its own.
pub fn pull_from_mirrors(seat: &Seat) -> String {
    let (mirror, empty) = (Registry::start(), Registry::start());
    Layout::of(&layout::SMALL).push(&mirror, "some/image:1");
    let hosts = seat.daemon.path("hosts");
    let toml = format!(
        "server = \"http://{}\"\n\
         [host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n\
         [host.\"{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n\
         [host.\"{}/v2\"]\ncapabilities = [\"pull\", \"resolve\"]\noverride_path = true\n",
        dead_host(),
        dead_host(),
        empty.url(),
        mirror.url(),
    );
    write_hosts(&hosts, "registry.test", &toml);
    let reference = "registry.test/some/image:1";
    done(seat, "pull", &["--hosts-dir", hosts.to_str().expect("a path is text"), reference]);
    store(seat) + &check(seat, reference, "run")
}
