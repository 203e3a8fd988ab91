//! What davitd writes, skopeo, umoci, crane and containerd read, and the
//! other way around; digests stay what they were.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use davit_integration::docker::{Docker, Version};
use davit_integration::layout::{self, CHECK, CHECK_FILES, Layout, Recipe};
use davit_integration::registry::Registry;
use davit_integration::{Client, Daemon, Server, must};

const CTR: Client = Client::Ctr21;
const NAME: &str = "registry.test/some/image:1";

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Exports all of an image and unpacks the archive into a layout.
fn exported(daemon: &Daemon, name: &str) -> PathBuf {
    let archive = daemon.path("exported.tar");
    let words = ["image", "export", "--all-platforms", &text(&archive), name];
    daemon.export(daemon.ctr(CTR).args(words), &archive);
    let layout = daemon.path("exported");
    let _ = fs::remove_dir_all(&layout);
    fs::create_dir(&layout).expect("the directory is writable");
    must(Command::new("tar").arg("-C").arg(&layout).arg("-xf").arg(&archive));
    layout
}

/// davitd with the image of a recipe in it, imported from an archive.
fn imported(recipe: &Recipe) -> (Daemon, Layout) {
    let daemon = Daemon::start(Server::Davit);
    let layout = Layout::of(recipe);
    let archive = daemon.path("image.tar");
    layout.archive(&archive);
    let words = ["image", "import", "--all-platforms", "--no-unpack", &text(&archive)];
    daemon.ctr_ok(CTR, &words);
    assert_eq!(digest(&daemon, &recipe.reference()), layout.digest());
    (daemon, layout)
}

/// The digest that `ctr image ls` shows.
fn digest(daemon: &Daemon, name: &str) -> String {
    let list = daemon.ctr_ok(CTR, &["image", "ls", &format!("name=={name}")]);
    let words = list.lines().nth(1).expect("it is there").split_whitespace();
    words.clone().find(|word| word.starts_with("sha256:")).expect("a digest").to_owned()
}

fn runs_whole(daemon: &Daemon, name: &str) {
    let words = [&["run", "--rm", name, "check"], CHECK].concat();
    assert_eq!(daemon.ctr_ok(CTR, &words), "whole\n");
}

#[test]
fn exports_are_read_by_all() {
    for recipe in [&layout::INDEX, &layout::SMALL, &layout::DOCKER] {
        let (daemon, layout) = imported(recipe);
        let out = exported(&daemon, &recipe.reference());
        let again = Layout::open(&out);
        assert_eq!(again.digest(), layout.digest());
        assert_eq!(again.all(), layout.all());
        for blob in again.all() {
            assert_eq!(format!("sha256:{}", layout::sha256(&again.file(&blob))), blob);
        }
        skopeo_reads(&daemon, &layout, &daemon.path("exported.tar"));
        crane_reads(&layout, &out);
        containerd_reads(&layout, &recipe.reference(), &daemon.path("exported.tar"));
    }
}

/// The manifest for this machine has the same digest for skopeo, which also
/// copies it, every blob verified.
fn skopeo_reads(daemon: &Daemon, layout: &Layout, archive: &Path) {
    let source = format!("oci-archive:{}", archive.display());
    let copy = daemon.path("copied");
    let _ = fs::remove_dir_all(&copy);
    must(
        Command::new("skopeo")
            .args(["copy", "-q", "--preserve-digests", &source])
            .arg(format!("dir:{}", copy.display())),
    );
    let manifest = layout::sha256(&copy.join("manifest.json"));
    assert_eq!(format!("sha256:{manifest}"), layout.manifest("amd64").0);
}

/// crane pushes what was exported; the registry has the digests we had.
fn crane_reads(layout: &Layout, exported: &Path) {
    let registry = Registry::start();
    let name = registry.reference("exported:1");
    must(registry.crane().args(["push", "--insecure"]).arg(exported).arg(&name));
    for blob in layout.all() {
        assert!(registry.blob(blob.trim_start_matches("sha256:")).exists(), "{blob}");
    }
    let (expected, _) = layout.manifest("amd64");
    let words = ["digest", "--insecure", "--platform", "linux/amd64", &name];
    assert_eq!(must(registry.crane().args(words)).trim(), expected);
}

/// containerd imports the archive and runs it.
fn containerd_reads(layout: &Layout, name: &str, archive: &Path) {
    let other = Daemon::start(Server::Containerd21);
    other.ctr_ok(CTR, &["image", "import", &text(archive)]);
    assert_eq!(digest(&other, name), layout.digest());
    runs_whole(&other, name);
    let content = other.ctr_ok(CTR, &["content", "ls", "-q"]);
    assert!(layout.content("amd64").iter().all(|digest| content.contains(digest.as_str())));
}

/// A docker of Debian 12 with images of its own, on containerd.
fn docker() -> Docker {
    Docker::start(Version::V20, Daemon::start(Server::Containerd16), "runc")
}

fn docker_runs_whole(docker: &Docker, name: &str) {
    let words = [&["run", "--rm", "--network=none", name], CHECK_FILES].concat();
    assert_eq!(docker.ok(&words), "whole\n");
}

#[test]
fn dockers_own_store_and_davitd_read_each_others_archives() {
    let docker = docker();
    for recipe in [&layout::GZIP, &layout::DOCKER] {
        let (daemon, layout) = imported(recipe);
        let name = recipe.reference();
        let archive = daemon.path("for-docker.tar");
        let words = ["image", "export", &text(&archive), &name];
        daemon.export(daemon.ctr(CTR).args(words), &archive);
        docker.ok(&["load", "-i", &text(&archive)]);
        docker_runs_whole(&docker, &name);
        let (_, manifest) = layout.manifest("amd64");
        let config = manifest["config"]["digest"].as_str().expect("a digest");
        assert_eq!(docker.inspect(&name, "{{.Id}}"), config, "it is the very same image");

        // Two names and shared layers, as docker writes them.
        let second = format!("{name}-second");
        docker.ok(&["tag", &name, &second]);
        let saved = docker.daemon.path("saved.tar");
        docker.ok(&["save", "-o", &text(&saved), &name, &second]);
        let other = Daemon::start(Server::Davit);
        other.ctr_ok(CTR, &["image", "import", &text(&saved)]);
        assert_eq!(digest(&other, &name), digest(&other, &second));
        runs_whole(&other, &name);
        let content = other.ctr_ok(CTR, &["content", "ls", "-q"]);
        assert!(content.contains(config), "its configuration has the same digest");
        docker.ok(&["rmi", &name, &second]);
    }
}

#[test]
fn archives_of_containerd_are_imported() {
    for (client, server) in
        [(Client::Ctr16, Server::Containerd16), (Client::Ctr21, Server::Containerd21)]
    {
        let theirs = Daemon::start(server);
        let layout = Layout::of(&layout::INDEX);
        let (archive, name) = (theirs.path("image.tar"), layout::INDEX.reference());
        layout.archive(&archive);
        theirs.ctr_ok(client, &["image", "import", "--all-platforms", &text(&archive)]);
        let exported = theirs.path("exported.tar");
        let words = ["image", "export", "--all-platforms", &text(&exported), &name];
        theirs.export(theirs.ctr(client).args(words), &exported);
        let ours = Daemon::start(Server::Davit);
        ours.ctr_ok(CTR, &["image", "import", "--all-platforms", &text(&exported)]);
        assert_eq!(digest(&ours, &name), layout.digest());
        runs_whole(&ours, &name);
        let content = ours.ctr_ok(CTR, &["content", "ls", "-q"]);
        assert!(layout.all().iter().all(|digest| content.contains(digest.as_str())));
    }
}

#[test]
fn archives_of_skopeo_are_imported() {
    let layout = Layout::of(&layout::SMALL);
    let docker = Layout::of(&layout::DOCKER);
    for (kind, source) in [("oci-archive", &layout), ("docker-archive", &docker)] {
        let daemon = Daemon::start(Server::Davit);
        let archive = daemon.path("skopeo.tar");
        let target = format!("{kind}:{}:{NAME}", archive.display());
        let from = format!("oci:{}", source.path().display());
        must(Command::new("skopeo").args(["copy", "-q", &from, &target]));
        daemon.ctr_ok(CTR, &["image", "import", &text(&archive)]);
        runs_whole(&daemon, NAME);
    }
}

#[test]
fn umoci_changes_what_was_exported() {
    let (daemon, _) = imported(&layout::GZIP);
    let out = exported(&daemon, &layout::GZIP.reference());
    let image = |tag: &str| format!("{}:{tag}", out.display());
    let bundle = daemon.path("bundle");
    let rootfs = bundle.join("rootfs");
    must(Command::new("umoci").args(["unpack", "--image", &image("1")]).arg(&bundle));
    assert!(rootfs.join("list").exists() && !rootfs.join("data/gone").exists());
    fs::write(rootfs.join("added"), "by umoci\n").expect("the directory is writable");
    fs::remove_file(rootfs.join("bin/yes")).expect("it is there");
    must(Command::new("umoci").args(["repack", "--image", &image("2")]).arg(&bundle));
    must(Command::new("umoci").args(["rm", "--image", &image("1")]));

    let archive = daemon.path("umoci.tar");
    Layout::open(&out).archive(&archive);
    // umoci leaves the annotation with the full name alone.
    let (name, before) = (layout::GZIP.reference(), digest(&daemon, &layout::GZIP.reference()));
    daemon.ctr_ok(CTR, &["image", "import", &text(&archive)]);
    assert_ne!(digest(&daemon, &name), before);
    runs_whole(&daemon, &name);
    let words = ["run", "--rm", &name, "b", "sh", "-c", "cat /added; test ! -e /bin/yes"];
    assert_eq!(daemon.ctr_ok(CTR, &words), "by umoci\n");
}

#[test]
fn archives_of_crane_are_imported() {
    let registry = Registry::start();
    let pulled = |recipe: &Recipe, format: &str, to: &Path| {
        let name = Layout::of(recipe).push(&registry, &format!("{}:1", recipe.name));
        let words = ["pull", "--insecure", "--platform", "linux/amd64", "--format", format, &name];
        must(registry.crane().args(words).arg(to));
        name
    };
    let daemon = Daemon::start(Server::Davit);
    let (tarball, directory) = (daemon.path("crane.tar"), daemon.path("crane"));
    let name = pulled(&layout::GZIP, "tarball", &tarball);
    daemon.ctr_ok(CTR, &["image", "import", &text(&tarball)]);
    runs_whole(&daemon, &name);

    pulled(&layout::SMALL, "oci", &directory);
    let layout = Layout::open(&directory);
    assert_eq!(layout.digest(), Layout::of(&layout::SMALL).digest());
    layout.archive(&tarball);
    daemon.ctr_ok(CTR, &["image", "import", "--index-name", NAME, &text(&tarball)]);
    runs_whole(&daemon, NAME);
}
