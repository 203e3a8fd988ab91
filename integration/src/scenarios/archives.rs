//! Images into archives and out of them.

use std::fs::{self, File};
use std::io::Read;
use std::process::Command;

use serde_json::Value;

use super::Seat;
use crate::layout::{self, CHECK, Layout};
use crate::registry::Registry;
use crate::{image, must};

/// All that an archive says, apart from its blobs' bytes.
fn told(path: &std::path::Path) -> String {
    let mut archive = tar::Archive::new(File::open(path).expect("the archive is there"));
    let mut text = String::new();
    for entry in archive.entries().expect("a tar archive") {
        let mut entry = entry.expect("a whole entry");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        let mode = entry.header().mode().expect("a mode");
        text += &format!("{path} {mode:o} {:?}", entry.header().entry_type());
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("all bytes of an entry");
        text += &match path.starts_with("blobs/") {
            true => format!(" {}\n", bytes.len()),
            // Members in the order of their names.
            false => format!(" {}\n", serde_json::from_slice::<Value>(&bytes).expect("JSON")),
        };
    }
    text
}

/// An image goes out and comes back.
pub fn image_export_and_import(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    let path = seat.daemon.path("exported.tar");
    let file = path.to_string_lossy().into_owned();
    let other = "docker.io/library/other:2";
    seat.ok(&["image", "tag", image::NAME, other]);
    let export = |words: &[&str]| seat.daemon.export(&mut seat.command(words), &path);
    export(&["image", "export", &file, image::NAME, other]);
    let mut out = told(&path);
    seat.ok(&["image", "rm", image::NAME, other]);
    seat.ok(&["image", "import", &file]);
    out += &seat.any(&["image", "ls"]);
    out += &seat.any(&["image", "check"]);
    out += &seat.any(&seat.run(&["--rm"], "back", &["echo", "it runs"]));
    export(&["image", "export", "--skip-manifest-json", &file, image::NAME]);
    out += &told(&path);
    let missing = seat.command(&["image", "export", &file, "registry.test/none:1"]).output();
    assert!(!missing.expect("ctr can be started").status.success(), "exported what is not there");
    out
}

/// Archives in docker's own format: what skopeo writes, with links to its
/// layers, and what crane writes, with layers compressed.
pub fn image_import_of_docker(seat: &Seat) -> String {
    let registry = Registry::start();
    let layout = Layout::of(&layout::GZIP);
    let source = layout.push(&registry, "gzip:1");
    let crane = seat.daemon.path("crane.tar");
    must(registry.crane().args(["pull", "--insecure", &source]).arg(&crane));
    let skopeo = seat.daemon.path("skopeo.tar");
    must(
        Command::new("skopeo")
            .args(["copy", "-q", &format!("oci:{}", layout.path().display())])
            .arg(format!("docker-archive:{}:registry.test/skopeo:1", skopeo.display())),
    );
    let mut out = String::new();
    for (archive, name) in [(crane, source.as_str()), (skopeo, "registry.test/skopeo:1")] {
        seat.ok(&["image", "import", &archive.to_string_lossy()]);
        out += &seat.any(&["image", "ls"]);
        out += &seat.any(&["image", "check"]);
        out += &seat.any(&[&["run", "--rm", name, "check"], CHECK].concat());
        seat.ok(&["image", "rm", "--sync", name]);
    }
    out.replace(&registry.host(), "REGISTRY")
}

/// The names that import makes, and whether it unpacks.
pub fn image_import_names(seat: &Seat) -> String {
    let path = seat.daemon.path("image.tar");
    image::write_archive(&path).expect("an archive can be written");
    let file = path.to_string_lossy().into_owned();
    let mut out = String::new();
    for flags in [
        &["--no-unpack"][..],
        &["--base-name", "registry.test/davit/busybox"],
        &["--base-name", "registry.test/other"],
        &["--base-name", "registry.test/other", "--digests"],
        &["--index-name", "registry.test/davit/index:1"],
    ] {
        let words = [&["image", "import"], flags, &[&file]].concat();
        let output = seat.command(&words).output().expect("ctr can be started");
        out += &format!("{flags:?}: {}\n", output.status.success());
        // Of an image without a name nothing is held.
        seat.collect();
        out += &seat.any(&["image", "ls"]);
        out += &seat.any(&["snapshot", "ls"]);
        for name in seat.ok(&["image", "ls", "-q"]).lines() {
            seat.ok(&["image", "rm", "--sync", name]);
        }
    }
    fs::write(&path, "no archive").expect("a file can be written");
    let broken = seat.command(&["image", "import", &file]).output();
    assert!(!broken.expect("ctr can be started").status.success(), "imported what is no archive");
    out + &seat.any(&["image", "ls"]) + &seat.any(&["content", "ls", "-q"])
}
