//! What is no image, or not only one: artifacts, and indexes in which they
//! stand beside an image.

use std::thread;

use davit_integration::registry::Registry;
use davit_integration::{Client, Daemon, Server};
use serde_json::{Value, json};

use crate::seat::Seat;
use crate::tiny::{CONFIG, MANIFEST, Outcome, Shelf, Tiny, archived, imported, untold};

const CTR: Client = Client::Ctr21;
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// The OCI's own way to say that there is nothing but a text.
fn text(tiny: &Tiny) -> Value {
    let layers = json!([tiny.put("text/plain", b"a text\n")]);
    let config = tiny.put(EMPTY, b"{}");
    let kind = "application/vnd.test.text";
    tiny.document(MANIFEST, json!({"artifactType": kind, "config": config, "layers": layers}))
}

/// The same about an image that is not there.
fn about(tiny: &Tiny) -> Value {
    let subject = Tiny::new().put(MANIFEST, b"elsewhere");
    let (config, layers) = (tiny.put(EMPTY, b"{}"), [tiny.put(EMPTY, b"{}")]);
    let kind = "application/vnd.test.signature";
    tiny.document(
        MANIFEST,
        json!({"artifactType": kind, "config": config, "layers": layers, "subject": subject,
            "annotations": {"test.davit.signature": "valid"}}),
    )
}

/// As it was done before: a type of its own for the configuration.
fn foreign(tiny: &Tiny) -> Value {
    let config = tiny.put("application/vnd.test.config.v1+json", br#"{"a": 1}"#);
    let layers = ["one", "two"].map(|text| tiny.put("application/vnd.test.blob", text.as_bytes()));
    tiny.document(MANIFEST, json!({"config": config, "layers": layers}))
}

/// No layers.
fn bare(tiny: &Tiny) -> Value {
    let config = tiny.put("application/vnd.test.config.v1+json", br#"{"b": 2}"#);
    tiny.document(MANIFEST, json!({"config": config, "layers": []}))
}

/// A configuration as images have it, and no layer that is one.
fn half(tiny: &Tiny) -> Value {
    let config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": []}});
    let config = tiny.put(CONFIG, config.to_string().as_bytes());
    let layers = [tiny.put("application/vnd.test.blob", b"three")];
    tiny.document(MANIFEST, json!({"config": config, "layers": layers}))
}

/// A layer as images have it, and a configuration that is none.
fn other_half(tiny: &Tiny) -> Value {
    let config = tiny.put("application/vnd.test.config.v1+json", br#"{"c": 3}"#);
    let layers = [tiny.layer("other half")];
    tiny.document(MANIFEST, json!({"config": config, "layers": layers}))
}

/// What builders put beside an image.
fn statement(tiny: &Tiny, of: &Value) -> Value {
    let layer = tiny.put(IN_TOTO, br#"{"_type": "https://in-toto.io/Statement/v0.1"}"#);
    let config = json!({"os": "unknown", "architecture": "unknown",
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}});
    let config = tiny.put(CONFIG, config.to_string().as_bytes());
    let mut entry = tiny.document(MANIFEST, json!({"config": config, "layers": [layer]}));
    entry["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    entry["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": of["digest"],
    });
    entry
}

/// An image with a statement and a text beside it.
fn mixed(tiny: &Tiny) -> Value {
    let image = tiny.image(&json!({"os": "linux", "architecture": "amd64"}), "mixed");
    let statement = statement(tiny, &image);
    let mut text = text(tiny);
    text["artifactType"] = json!("application/vnd.test.text");
    tiny.index(&[image, statement, text])
}

/// An index of artifacts alone.
fn collection(tiny: &Tiny) -> Value {
    let entries = [text(tiny), foreign(tiny)];
    tiny.index(&entries)
}

type Make = fn(&Tiny) -> Value;

const ALL: [(&str, Make); 8] = [
    ("text", text),
    ("about", about),
    ("foreign", foreign),
    ("bare", bare),
    ("half", half),
    ("other-half", other_half),
    ("mixed", mixed),
    ("collection", collection),
];

/// All of them in a registry.
struct Place {
    registry: Registry,
    made: Vec<Made>,
}

/// One of them, as `NAME:1`.
struct Made {
    name: &'static str,
    digest: String,
    /// The digests of all blobs of it, sorted.
    all: Vec<String>,
}

impl Place {
    fn new() -> Self {
        let registry = Registry::start();
        let make = |(name, make): (&'static str, Make)| {
            let tiny = Tiny::new();
            let layout = tiny.finish(make(&tiny), name);
            layout.push(&registry, &format!("{name}:1"));
            Made { name, digest: layout.digest().to_owned(), all: layout.all() }
        };
        let made = ALL.into_iter().map(make).collect();
        Self { registry, made }
    }

    fn name(&self, made: &Made) -> String {
        self.registry.reference(&format!("{}:1", made.name))
    }

    /// What pulls of them come to.
    fn pulled(&self, daemon: &Daemon, flags: &[&str]) -> Vec<Outcome> {
        let one = |made: &Made| {
            let words = ["image", "pull", "--plain-http"];
            let shelf = Shelf::new(daemon, &format!("{}{}", made.name, flags.len()));
            shelf.outcome(&[&words, flags, &[&self.name(made)]].concat())
        };
        self.made.iter().map(one).collect()
    }
}

/// Does the same with both daemons at once.
fn both<T: Send>(daemons: &[Daemon; 2], work: impl Fn(&Daemon) -> T + Sync) -> [T; 2] {
    thread::scope(|scope| {
        let theirs = scope.spawn(|| work(&daemons[0]));
        let ours = work(&daemons[1]);
        [theirs.join().expect("no panic"), ours]
    })
}

fn daemons() -> [Daemon; 2] {
    [Server::Containerd21, Server::Davit].map(Daemon::start)
}

#[test]
fn pulls_bring_what_they_bring_to_containerd() {
    let (place, daemons) = (Place::new(), daemons());
    let [theirs, ours] = both(&daemons, |daemon| place.pulled(daemon, &[]));
    for (number, made) in place.made.iter().enumerate() {
        let (expected, got) = (&theirs[number], &ours[number]);
        assert!(expected.is_fine() && expected.images.contains(&made.digest), "{expected:#?}");
        if made.name == "other-half" {
            // containerd keeps a layer back for who unpacks it, and nobody does.
            assert_eq!(expected.content.len() + 1, got.content.len());
            assert_eq!((&expected.told, &expected.images), (&got.told, &got.images));
        } else {
            assert_eq!(expected, got, "{}: containerd, davitd", made.name);
        }
        // Of a statement for no platform, its layer is left out.
        let left_out = usize::from(made.name == "mixed");
        assert_eq!(got.content.len() + left_out, made.all.len(), "{}", made.name);
        assert!(got.content.iter().all(|digest| made.all.contains(digest)), "{}", made.name);
    }
}

#[test]
fn all_of_them_are_pushed_and_exported_as_they_were() {
    let (place, daemons) = (Place::new(), daemons());
    let [theirs, ours] = both(&daemons, |daemon| place.pulled(daemon, &["--all-platforms"]));
    assert_eq!(theirs, ours, "containerd, davitd");
    for made in &place.made {
        let copy = format!("copy/{}:1", made.name);
        let (from, to) = (place.name(made), place.registry.reference(&copy));
        let words = ["image", "push", "--plain-http", &to, &from];
        assert_eq!(Shelf::new(&daemons[1], &format!("{}1", made.name)).told(&words), "0");
        assert_eq!(place.registry.digest(&copy), made.digest);
        let [theirs, ours] = both(&daemons, |daemon| {
            let (shelf, file) =
                (Shelf::new(daemon, &format!("{}1", made.name)), format!("{}.tar", made.name));
            shelf.exported(&["--all-platforms"], &from, &file)
        });
        assert_eq!(archived(&theirs), archived(&ours), "{}: containerd, davitd", made.name);
        let again = format!("{}-again", made.name);
        let read = imported(daemons.each_ref().map(|daemon| Shelf::new(daemon, &again)), &[&ours]);
        assert!(read.images.contains(&made.digest), "{read:#?}");
        assert_eq!(read.content, made.all, "{}", made.name);
    }
}

/// `davit` unpacks what can be, and is content with what cannot.
#[test]
fn davit_takes_them_all() {
    let (place, seat) = (Place::new(), Seat::new());
    let file = seat.daemon.path("archive.tar").to_string_lossy().into_owned();
    for made in &place.made {
        let name = place.name(made);
        let of_mine = || {
            let list = seat.ok(&["images"]);
            assert!(!list.contains("incomplete"), "{list}");
            list.lines().filter(|line| line.contains(&name)).count()
        };
        seat.ok(&["pull", "--all-platforms", &name]);
        seat.ok(&["export", "--all-platforms", "-o", &file, &name]);
        seat.ok(&["rmi", &name]);
        assert_eq!(of_mine(), 0);
        assert_eq!(seat.ok(&["import", &file]), format!("{name}\n"));
        assert_eq!(of_mine(), 1);
        let copy = format!("davit/{}:1", made.name);
        seat.ok(&["push", &name, &place.registry.reference(&copy)]);
        assert_eq!(place.registry.digest(&copy), made.digest);
    }
}

/// Neither says what it runs on; the image's configuration does.
#[test]
fn davit_finds_an_image_behind_an_artifact() {
    let (tiny, registry, seat) = (Tiny::new(), Registry::start(), Seat::new());
    let image = untold(tiny.image(&json!({"os": "linux", "architecture": "amd64"}), "behind"));
    let layout = tiny.finish(tiny.index(&[text(&tiny), image]), "behind");
    let name = layout.push(&registry, "behind:1");
    seat.ok(&["pull", &name]);
    let snapshots = seat.daemon.ctr_ok(CTR, &["snapshot", "ls"]);
    assert_eq!(snapshots.lines().count(), 2, "a line for the image's layer in\n{snapshots}");
    let list = seat.ok(&["images", "--format", "json"]);
    let list: Value = serde_json::from_str(&list).expect("JSON");
    assert!(list[0]["size"].as_u64().is_some_and(|size| size > 0), "{list}");
}
