//! Archives that lack something, and several that come in at once.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use davit_integration::layout::Layout;
use davit_integration::registry::Registry;
use davit_integration::{Daemon, Server, layout, must, wait_for};
use serde_json::{Value, json};

use crate::archives::text;
use crate::seat::Seat;
use crate::tiny::{CONFIG, MANIFEST, Shelf, Tiny, digest, imported, untold};

const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
/// So many imports begin at once.
const AT_ONCE: usize = 8;

fn linux() -> Value {
    json!({"os": "linux", "architecture": "amd64"})
}

/// An image with these layers, without a platform beside it.
fn image(tiny: &Tiny, platform: Value, layers: &[Value]) -> Value {
    let mut config = platform;
    let diff_ids: Vec<String> = layers.iter().map(digest).collect();
    config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
    let config = tiny.put(CONFIG, config.to_string().as_bytes());
    tiny.document(MANIFEST, json!({"config": config, "layers": layers}))
}

/// An archive of a layout that has not got one of its blobs.
fn archive_without(layout: &Layout, blob: &str, to: &Path) {
    let file = layout.file(blob);
    let bytes = fs::read(&file).expect("it is there");
    fs::remove_file(&file).expect("the directory is writable");
    layout.archive(to);
    fs::write(&file, bytes).expect("the directory is writable");
}

/// The daemon unpacks a layer that they share for all of them at a time.
#[test]
fn imports_at_once_share_their_layers() {
    let daemon = Daemon::start(Server::Davit);
    let shared = "shared".repeat(8 << 20);
    let files: Vec<String> = (0..AT_ONCE)
        .map(|number| {
            let tiny = Tiny::new();
            let layers = [tiny.layer(&shared), tiny.layer(&format!("{number}"))];
            let target = image(&tiny, linux(), &layers);
            let file = daemon.path(&format!("{number}.tar"));
            tiny.finish(target, &format!("registry.test/image:{number}")).archive(&file);
            text(&file)
        })
        .collect();
    let shelf = Shelf::new(&daemon, "at-once");
    let told: Vec<String> = thread::scope(|scope| {
        let shelf = &shelf;
        let import = |file| scope.spawn(move || shelf.told(&["image", "import", file]));
        let all: Vec<_> = files.iter().map(String::as_str).map(import).collect();
        all.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    assert_eq!(told, ["0"; AT_ONCE]);
    let list = must(&mut shelf.ctr(&["snapshot", "ls"]));
    let committed = list.lines().filter(|line| line.contains("Committed")).count();
    assert_eq!((committed, list.lines().count()), (AT_ONCE + 1, AT_ONCE + 2), "{list}");
}

/// What somebody else is writing holds up nobody, whatever it is called.
#[test]
fn a_document_that_another_writes_is_written() {
    let (tiny, daemon) = (Tiny::new(), Daemon::start(Server::Davit));
    let layout = tiny.finish(tiny.image(&linux(), "written"), "registry.test/image:1");
    let file = daemon.path("image.tar");
    layout.archive(&file);
    let shelf = Shelf::new(&daemon, "another");
    let index = layout::sha256(&layout.path().join("index.json"));
    let mut other = shelf.ctr(&["content", "ingest", &format!("write-sha256:{index}")]);
    let mut other = other.stdin(Stdio::piped()).spawn().expect("ctr can be started");
    wait_for("the ingest", 20, || {
        must(&mut shelf.ctr(&["content", "active"])).contains(&index).then_some(())
    });
    let words = ["image", "import", "--index-name", "registry.test/whole:1", &text(&file)];
    let told = shelf.told(&words);
    other.kill().expect("it runs");
    other.wait().expect("it was started");
    assert_eq!(told, "0");
}

/// The index leads to an image for this machine, too, and that stayed behind.
#[test]
fn an_archive_may_lack_the_image_for_this_machine() {
    let (tiny, registry, seat) = (Tiny::new(), Registry::start(), Seat::new());
    let arm64 = json!({"os": "linux", "architecture": "arm64"});
    let index = tiny.index(&[tiny.image(&linux(), "ours"), tiny.image(&arm64, "theirs")]);
    let name = tiny.finish(index, "partial").push(&registry, "partial:1");
    let file = text(&seat.daemon.path("partial.tar"));
    seat.ok(&["pull", "--platform", "linux/arm64", &name]);
    seat.ok(&["export", "--platform", "linux/arm64", "-o", &file, &name]);
    seat.ok(&["rmi", &name]);
    for flags in [&[][..], &["--no-unpack"]] {
        assert_eq!(seat.ok(&[&["import"], flags, &[&file]].concat()), format!("{name}\n"));
    }
    seat.fails(&["run", "--rm", &name], "not complete");
    let others = Seat::new();
    assert_eq!(Shelf::new(&others.daemon, "daemon").told(&["image", "import", &file]), "0");
}

/// Those who write archives may leave out what they must not give away.
#[test]
fn layers_that_may_not_be_distributed_may_lack() {
    let tiny = Tiny::new();
    let windows = json!({"os": "windows", "architecture": "amd64"});
    let foreign = tiny.put(FOREIGN, b"not to be given away");
    let mut beside = image(&tiny, windows.clone(), std::slice::from_ref(&foreign));
    beside["platform"] = windows;
    let index = tiny.index(&[tiny.image(&linux(), "given away"), beside]);
    let layout = tiny.finish(index, "registry.test/image:1");
    let daemons = [Server::Containerd21, Server::Davit].map(Daemon::start);
    let file = daemons[1].path("without.tar");
    archive_without(&layout, &digest(&foreign), &file);
    let places = daemons.each_ref().map(|daemon| Shelf::new(daemon, "without"));
    let read = imported(places, &[&text(&file)]);
    assert_eq!(read.content.len() + 1, layout.all().len(), "{read:#?}");

    // `ctr` makes such an archive, too.
    let (full, again) = (daemons[1].path("full.tar"), "again.tar");
    layout.archive(&full);
    let shelf = Shelf::new(&daemons[1], "full");
    assert_eq!(shelf.told(&["image", "import", &text(&full)]), "0");
    let flags = ["--all-platforms", "--skip-non-distributable"];
    let file = shelf.exported(&flags, "registry.test/image:1", again);
    assert_eq!(Seat::new().ok(&["import", &file]), "registry.test/image:1\n");
}

/// A layer that is here already need not come again; one that is not makes no
/// image.
#[test]
fn other_layers_may_lack_where_they_are_already() {
    let tiny = Tiny::new();
    let (layers, seat) = ([tiny.layer("below"), tiny.layer("above")], Seat::new());
    let layout = tiny.finish(untold(image(&tiny, linux(), &layers)), "registry.test/image:1");
    let base = Tiny::new();
    let base = base.finish(image(&base, linux(), &[base.layer("below")]), "registry.test/base:1");
    let (file, base_file) = (seat.daemon.path("image.tar"), seat.daemon.path("base.tar"));
    let lacking = digest(&layers[0]);
    archive_without(&layout, &lacking, &file);
    base.archive(&base_file);
    let (file, base_file) = (text(&file), text(&base_file));
    seat.fails(&["import", &file], &lacking);
    assert_eq!(seat.ok(&["images", "--quiet"]), "");
    seat.ok(&["import", &base_file]);
    assert_eq!(seat.ok(&["import", &file]), "registry.test/image:1\n");
    // Collected is what no image has.
    seat.ok(&["rmi", "registry.test/base:1"]);
    let out = text(&seat.daemon.path("out.tar"));
    seat.ok(&["export", "-o", &out, "registry.test/image:1"]);

    let daemons = [Server::Containerd21, Server::Davit].map(Daemon::start);
    let shelves = || daemons.each_ref().map(|daemon| Shelf::new(daemon, "there"));
    imported(shelves(), &[&base_file]);
    imported(shelves(), &[&file]);
}
