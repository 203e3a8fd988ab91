//! `davit export`, read by others.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use davit_integration::docker::{Docker, Version};
use davit_integration::layout::{self, Layout, Recipe};
use davit_integration::registry::Registry;
use davit_integration::{Client, Daemon, Server, must};

use crate::seat::Seat;

const CTR: Client = Client::Ctr21;

/// davitd with all of an image in it, pulled; its name.
fn pulled(recipe: &Recipe) -> (Seat, Registry, Layout, String) {
    let (seat, registry, layout) = (Seat::new(), Registry::start(), Layout::of(recipe));
    let name = layout.push(&registry, "some/image:1");
    seat.ok(&["pull", "--all-platforms", "--no-unpack", &name]);
    (seat, registry, layout, name)
}

pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Imports an archive with `davit` on another daemon, from a pipe as well,
/// and runs the image.
fn davit_reads(archive: &Path, name: &str) {
    for compressor in [None, Some("gzip"), Some("zstd")] {
        let other = Seat::new();
        match compressor {
            None => must(other.davit(&["import", "-"]).stdin(File::open(archive).expect("a file"))),
            Some(program) => {
                let mut packing = Command::new(program)
                    .arg("-c")
                    .arg(archive)
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .expect("it is installed");
                let pipe = packing.stdout.take().expect("piped");
                let printed = must(other.davit(&["import", "-"]).stdin(pipe));
                assert!(packing.wait().expect("it was started").success());
                printed
            }
        };
        other.runs_whole(name);
    }
}

/// skopeo copies an image of the archive, every blob verified; its digest.
fn skopeo_reads(seat: &Seat, archive: &Path) -> String {
    let copy = seat.daemon.path("copied");
    let _ = fs::remove_dir_all(&copy);
    must(
        Command::new("skopeo")
            .args(["copy", "-q", "--preserve-digests"])
            .arg(format!("oci-archive:{}", archive.display()))
            .arg(format!("dir:{}", copy.display())),
    );
    format!("sha256:{}", layout::sha256(&copy.join("manifest.json")))
}

#[test]
fn one_image_to_a_file_and_to_a_pipe() {
    let (seat, _registry, layout, name) = pulled(&layout::SMALL);
    let (file, piped) = (seat.daemon.path("file.tar"), seat.daemon.path("piped.tar"));
    assert_eq!(seat.ok(&["export", "--output", &text(&file), &name]), format!("{name}\n"));
    let out = File::create(&piped).expect("the directory is writable");
    let exported = seat.davit(&["export", &name]).stdout(out).status();
    assert!(exported.expect("davit can be started").success());
    assert!(fs::read(&file).expect("it was written") == fs::read(&piped).expect("it was written"));
    assert_eq!(skopeo_reads(&seat, &file), layout.manifest("amd64").0);
    davit_reads(&file, &name);
    for server in [Server::Containerd16, Server::Containerd21] {
        let other = Daemon::start(server);
        other.ctr_ok(CTR, &["image", "import", "--local", &text(&file)]);
        let words = [&["run", "--rm", &name, "check"], layout::CHECK].concat();
        assert_eq!(other.ctr_ok(CTR, &words), "whole\n", "{server:?}");
    }
}

#[test]
fn docker_loads_what_was_exported() {
    let (seat, _registry, _layout, name) = pulled(&layout::GZIP);
    let file = seat.daemon.path("file.tar");
    seat.ok(&["export", "-o", &text(&file), &name]);
    for version in [Version::V20, Version::V28] {
        let docker = Docker::start(version, Daemon::start(Server::Davit), "runc");
        docker.ok(&["load", "-i", &text(&file)]);
        let check = layout::CHECK_FILES;
        let words = [&["run", "--rm", "--network=none", &name], check].concat();
        assert_eq!(docker.ok(&words), "whole\n", "{version:?}");
    }
}

#[test]
fn platforms_are_those_that_were_asked_for() {
    let (seat, _registry, layout, name) = pulled(&layout::PLATFORMS);
    let file = seat.daemon.path("file.tar");
    let holds = |digest: &str| {
        let names = must(Command::new("tar").arg("-tf").arg(&file));
        names.contains(digest.trim_start_matches("sha256:"))
    };
    let (ours, other) = (layout.layers("amd64"), layout.layers("arm64"));
    for (words, amd64, arm64) in [
        (&["--all-platforms"][..], true, true),
        (&[][..], true, false),
        (&["--platform", "linux/arm64"][..], false, true),
        (&["--platform", "linux/arm64", "--platform", "linux/amd64"][..], true, true),
    ] {
        seat.ok(&[&["export", "-o", &text(&file)], words, &[&name]].concat());
        // The first one is another on every platform.
        assert_eq!(holds(&ours[0]), amd64, "{words:?}");
        assert_eq!(holds(&other[0]), arm64, "{words:?}");
    }
    assert_eq!(skopeo_reads(&seat, &file), layout.manifest("amd64").0);
    davit_reads(&file, &name);
}

#[test]
fn several_images_and_what_is_not_there() {
    let (seat, registry, _layout, one) = pulled(&layout::SMALL);
    let two = Layout::of(&layout::GZIP).push(&registry, "other/image:2");
    seat.ok(&["pull", &two]);
    let file = seat.daemon.path("file.tar");
    seat.ok(&["export", "-o", &text(&file), &one, &two]);
    let other = Seat::new();
    let printed = other.ok(&["import", &text(&file)]);
    assert!(printed.contains(&one) && printed.contains(&two), "{printed}");
    other.runs_whole(&one);
    other.runs_whole(&two);
    let before = fs::read(&file).expect("it was written");
    seat.fails(&["export", "-o", &text(&file), &one, "none:1"], "none:1");
    assert!(fs::read(&file).expect("it is there") == before, "a failure spoils no file");
    seat.fails(&["export", "-o", "/no/such/directory/x", &one], "/no/such/directory");
    let left: Vec<_> = davit_integration::leftovers::names_in(file.parent().expect("it has one"))
        .into_iter()
        .filter(|name| name.starts_with(".davit-export"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
