//! Which images of an index come along for the platforms that were asked for:
//! those that come to containerd, for every client of ours.

use std::collections::BTreeMap;
use std::thread;

use davit_integration::registry::Registry;
use davit_integration::{Client, Daemon, Server, must};
use serde_json::{Value, json};

use crate::archives::text;
use crate::seat::Seat;
use crate::tiny::{Outcome, Shelf, Tiny, archived, digest, imported, untold};

/// Each platform once.
const MANY: &[&str] = &[
    "linux/arm/v5",
    "linux/arm/v6",
    "linux/arm/v7",
    "linux/arm64",
    "linux/amd64",
    "linux/amd64/v2",
    "linux/amd64/v3",
    "linux/386",
    "windows/amd64/10.0.17763.1",
    "windows/amd64/10.0.20348.2",
];

/// Without what most machines are.
const FEW: &[&str] = &["linux/arm/v6", "linux/arm64/v8", "linux/amd64/v2", "linux/386"];

/// The same platform by two names.
const TWICE: &[&str] = &["linux/arm64/v8", "linux/arm64", "linux/amd64/v1", "linux/amd64"];

/// An index, the platforms that are asked for, and those whose images come:
/// none where there is nothing for them.
type Case = (&'static str, &'static [&'static str], &'static [&'static str]);

const CASES: &[Case] = &[
    ("many", &[], &["linux/amd64"]),
    ("many", &["linux/arm"], &["linux/arm/v7"]),
    ("many", &["linux/arm/v5"], &["linux/arm/v5"]),
    ("many", &["linux/arm/v6"], &["linux/arm/v6"]),
    ("many", &["linux/arm/v7"], &["linux/arm/v7"]),
    ("many", &["linux/arm/v8"], &[]),
    ("many", &["linux/arm64"], &["linux/arm64"]),
    ("many", &["linux/arm64/v8"], &["linux/arm64"]),
    ("many", &["linux/amd64"], &["linux/amd64"]),
    ("many", &["linux/amd64/v2"], &["linux/amd64/v2"]),
    ("many", &["linux/amd64/v3"], &["linux/amd64/v3"]),
    ("many", &["linux/386"], &["linux/386"]),
    ("many", &["windows/amd64"], &["windows/amd64/10.0.17763.1", "windows/amd64/10.0.20348.2"]),
    ("many", &["windows(10.0.17763)/amd64"], &["windows/amd64/10.0.17763.1"]),
    ("many", &["windows(10.0.26100)/amd64"], &["windows/amd64/10.0.20348.2"]),
    ("many", &["linux/386", "linux/arm/v6"], &["linux/386", "linux/arm/v6"]),
    ("many", &["linux/riscv64"], &[]),
    ("few", &[], &[]),
    ("few", &["linux/arm/v7"], &[]),
    ("few", &["arm64"], &["linux/arm64/v8"]),
    ("few", &["linux/arm64/v8"], &["linux/arm64/v8"]),
    ("twice", &["linux"], &["linux/amd64", "linux/amd64/v1"]),
    ("twice", &["linux/arm64"], &["linux/arm64", "linux/arm64/v8"]),
];

/// What is no platform.
const MALFORMED: &[&str] =
    &["linux/arm/v6/x", "nonsense", "linux/*", "li(nux/amd64", "linux/", "windows(%zz)/amd64"];

/// The indexes in a registry.
struct Place {
    registry: Registry,
    /// Which platform's a layer is.
    layers: BTreeMap<String, &'static str>,
}

impl Place {
    fn new() -> Self {
        let mut place = Self { registry: Registry::start(), layers: BTreeMap::new() };
        for (name, platforms) in [("many", MANY), ("few", FEW), ("twice", TWICE)] {
            place.push(name, platforms);
        }
        place
    }

    fn push(&mut self, name: &str, platforms: &[&'static str]) {
        let tiny = Tiny::new();
        let image =
            |platform: &&str| tiny.image(&described(platform), &format!("{name} {platform}"));
        let entries: Vec<Value> = platforms.iter().map(image).collect();
        let layout = tiny.finish(tiny.index(&entries), name);
        layout.push(&self.registry, &format!("{name}:1"));
        for (entry, platform) in entries.iter().zip(platforms) {
            let manifest = layout.json(&digest(entry));
            self.layers.insert(digest(&manifest["layers"][0]), platform);
        }
    }

    fn name(&self, index: &str) -> String {
        self.registry.reference(&format!("{index}:1"))
    }

    /// The platforms that there are layers for, sorted.
    fn held(&self, content: &[String]) -> Vec<&str> {
        let mut held: Vec<&str> =
            content.iter().filter_map(|digest| self.layers.get(digest).copied()).collect();
        held.sort_unstable();
        held
    }

    /// What a client's pull comes to in each case.
    fn pulled(&self, daemon: &Daemon, client: Client, cases: &[Case]) -> Vec<Outcome> {
        let one = |(number, (index, asked, _)): (usize, &Case)| {
            let shelf = Shelf { daemon, client, name: format!("case-{number}") };
            let (flags, name) = (flags(asked), self.name(index));
            shelf.outcome(&[&["image", "pull", "--plain-http"], &flags[..], &[&name]].concat())
        };
        cases.iter().enumerate().map(one).collect()
    }

    /// The same by `davit`.
    fn pulled_by_davit(&self, seat: &Seat, cases: &[Case]) -> Vec<Outcome> {
        let one = |(number, (index, asked, _)): (usize, &Case)| {
            let shelf = Shelf::new(&seat.daemon, &format!("case-{number}"));
            let (flags, image) = (flags(asked), self.name(index));
            let mut command = seat.davit(&[&["pull"], &flags[..], &[&image]].concat());
            let output = command.env("CONTAINERD_NAMESPACE", &shelf.name).output();
            let status = output.expect("davit can be started").status;
            let told = status.code().unwrap_or(-1).to_string();
            Outcome { told, content: shelf.content(), images: shelf.images() }
        };
        cases.iter().enumerate().map(one).collect()
    }
}

/// An index's words for a platform.
fn described(platform: &str) -> Value {
    let parts: Vec<&str> = platform.split('/').collect();
    let mut described = json!({"os": parts[0], "architecture": parts[1]});
    if let Some(last) = parts.get(2) {
        let field = if parts[0] == "windows" { "os.version" } else { "variant" };
        described[field] = json!(last);
    }
    described
}

fn flags<'a>(platforms: &[&'a str]) -> Vec<&'a str> {
    platforms.iter().flat_map(|platform| ["--platform", platform]).collect()
}

#[test]
fn what_comes_along_is_what_comes_to_containerd() {
    let place = Place::new();
    let (theirs, ours, seat) =
        (Daemon::start(Server::Containerd21), Daemon::start(Server::Davit), Seat::new());
    let (expected, got, davit) = thread::scope(|scope| {
        let expected = scope.spawn(|| place.pulled(&theirs, Client::Ctr21, CASES));
        let got = scope.spawn(|| place.pulled(&ours, Client::Ctr21, CASES));
        let davit = place.pulled_by_davit(&seat, CASES);
        (expected.join().expect("no panic"), got.join().expect("no panic"), davit)
    });
    for (number, case) in CASES.iter().enumerate() {
        let (expected, got, davit) = (&expected[number], &got[number], &davit[number]);
        assert_eq!(place.held(&expected.content), case.2, "{case:?}: {expected:#?}");
        assert!(expected.is_fine(), "{case:?}: {expected:#?}");
        if case.2.is_empty() {
            is_refused(case, got, davit);
            continue;
        }
        assert_eq!(expected, got, "{case:?}: containerd, davitd");
        assert_eq!(got, davit, "{case:?}: by ctr, by davit");
    }
}

/// containerd names an image that has nothing for the platform; davitd does
/// not.
fn is_refused(case: &Case, got: &Outcome, davit: &Outcome) {
    assert_eq!(got.told, "Some(1) ctr: no match for platform in manifest: not found", "{case:?}");
    assert_eq!(davit.told, "125", "{case:?}");
    for outcome in [got, davit] {
        assert_eq!(outcome.images.lines().count(), 1, "{case:?}: {outcome:#?}");
    }
}

/// Clients that choose by themselves find the same here as in containerd.
#[test]
fn older_clients_choose_the_same() {
    let place = Place::new();
    let cases: &[Case] = &[
        ("many", &["linux/arm"], &["linux/arm/v7"]),
        ("many", &["linux/amd64/v3"], &["linux/amd64/v3"]),
        ("few", &["linux/arm64"], &["linux/arm64/v8"]),
        ("few", &["linux/386", "linux/arm/v6"], &["linux/386", "linux/arm/v6"]),
        ("few", &["linux/riscv64"], &[]),
    ];
    let [expected, got] = [Server::Containerd16, Server::Davit].map(|server| {
        let daemon = Daemon::start(server);
        place.pulled(&daemon, Client::Ctr16, cases)
    });
    for (number, case) in cases.iter().enumerate() {
        assert_eq!(place.held(&expected[number].content), case.2, "{case:?}");
        assert_eq!(expected[number].is_fine(), !case.2.is_empty(), "{case:?}");
        assert_eq!(expected[number], got[number], "{case:?}: containerd, davitd");
    }
}

#[test]
fn what_is_no_platform_is_refused_in_containerds_words() {
    let place = Place::new();
    let (theirs, seat) = (Daemon::start(Server::Containerd21), Seat::new());
    let shelf = Shelf::new(&theirs, "malformed");
    for platform in MALFORMED {
        let name = place.name("many");
        let told = shelf.told(&["image", "pull", "--platform", platform, &name]);
        let (_, words) = told.split_once(&format!("invalid platform {platform}: ")).expect(&told);
        seat.fails(&["pull", "--platform", platform, &name], words);
    }
    assert_eq!(must(&mut seat.davit(&["images", "--quiet"])), "");
}

/// Archives of some platforms are those that containerd writes, and are read
/// alike.
#[test]
fn archives_hold_what_containerds_hold() {
    let place = Place::new();
    let daemons = [Server::Containerd21, Server::Davit].map(Daemon::start);
    let name = place.name("many");
    for daemon in &daemons {
        let words = ["image", "pull", "--plain-http", "--all-platforms", &name];
        assert_eq!(Shelf::new(daemon, "from").told(&words), "0");
    }
    let (v3, windows) = ("linux/amd64/v3", ["windows/amd64/10.0.17763.1", MANY[9]]);
    let cases: [(&[&str], &[&str]); 4] = [
        (&[], &["linux/amd64"]),
        (&["linux/arm/v6"], &["linux/arm/v6"]),
        (&["linux/386", v3], &["linux/386", v3]),
        (&["windows/amd64"], &windows),
    ];
    for (number, (asked, held)) in cases.into_iter().enumerate() {
        let to = format!("{number}.tar");
        let [theirs, ours] = daemons
            .each_ref()
            .map(|daemon| Shelf::new(daemon, "from").exported(&flags(asked), &name, &to));
        assert_eq!(archived(&theirs), archived(&ours), "{asked:?}: containerd, davitd");
        // Of several platforms, containerd loses some.
        if asked.len() < 2 {
            let places =
                daemons.each_ref().map(|daemon| Shelf::new(daemon, &format!("to-{number}")));
            let read = imported(places, &[&flags(asked)[..], &[&ours]].concat());
            assert_eq!(place.held(&read.content), held, "{asked:?}");
        }
    }
    let [theirs, ours] = daemons.each_ref().map(|daemon| {
        let file = text(&daemon.path("none.tar"));
        let words = ["image", "export", "--platform", "linux/riscv64", &file, &name];
        Shelf::new(daemon, "from").told(&words)
    });
    assert!(theirs.contains("no manifest found for platform"), "{theirs}");
    assert_eq!(theirs, ours);
}

/// An image for other machines is kept, as containerd keeps it, though nothing
/// of it is unpacked.
#[test]
fn an_archive_may_be_for_other_machines() {
    let daemons = [Server::Containerd21, Server::Davit].map(Daemon::start);
    let arm64: &[&str] = &["--platform", "linux/arm64"];
    let cases: [(&str, Make, &[&[&str]]); 4] = [
        ("told", alone, &[arm64]),
        ("untold", |tiny| untold(alone(tiny)), &[&[], arm64]),
        ("index", |tiny| tiny.index(&[alone(tiny)]), &[&[], arm64, &["--all-platforms"]]),
        ("untold-index", |tiny| tiny.index(&[untold(alone(tiny))]), &[&[], arm64]),
    ];
    for (kind, make, all_flags) in cases {
        let tiny = Tiny::new();
        let layout = tiny.finish(make(&tiny), "registry.test/some/image:1");
        let file = daemons[1].path("alone.tar");
        layout.archive(&file);
        for (number, flags) in all_flags.iter().enumerate() {
            let name = format!("{kind}-{number}");
            let places = daemons.each_ref().map(|daemon| Shelf::new(daemon, &name));
            let read = imported(places, &[*flags, &[&text(&file)]].concat());
            assert!(read.images.contains("linux/arm64"), "{kind} {flags:?}: {read:#?}");
            assert_eq!(read.content, layout.all(), "{kind} {flags:?}");
        }
    }
}

/// Makes what an archive is for.
type Make = fn(&Tiny) -> Value;

fn alone(tiny: &Tiny) -> Value {
    tiny.image(&described("linux/arm64"), "alone")
}
