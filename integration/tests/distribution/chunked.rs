//! Layers of zstd in pieces, with a table of contents behind what can be
//! decompressed (`zstd:chunked`), as skopeo writes them: those who know nothing
//! of the table skip it.

use std::fs;
use std::process::Command;

use davit_integration::layout::{self, CHECK, Layout};
use davit_integration::registry::Registry;
use davit_integration::{Client, Daemon, Server, must};
use serde_json::Value;

use crate::seat::Seat;
use crate::tiny::digest;

/// The first bytes of a frame that is to be skipped.
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

/// What older and newer writers call the place of the table.
const POSITIONS: [&str; 2] = [
    "io.containers.zstd-chunked.manifest-position",
    "io.github.containers.zstd-chunked.manifest-position",
];

/// A registry with an image that skopeo has compressed anew.
struct Place {
    registry: Registry,
    manifest: Value,
}

impl Place {
    fn new() -> Self {
        let registry = Registry::start();
        let from = format!("oci:{}", Layout::of(&layout::GZIP).path().display());
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "-q", "--dest-tls-verify=false"]);
        skopeo.args(["--dest-compress-format", "zstd:chunked", &from]);
        must(skopeo.arg(format!("docker://{}", registry.reference("some/image:1"))));
        let name = registry.reference("some/image:1");
        let manifest = must(registry.crane().args(["manifest", "--insecure", &name]));
        let manifest = serde_json::from_str(&manifest).expect("JSON");
        Self { registry, manifest }
    }

    fn name(&self) -> String {
        self.registry.reference("some/image:1")
    }

    fn layers(&self) -> &[Value] {
        self.manifest["layers"].as_array().expect("a list of layers")
    }

    /// The layers are what this is about: each has a table, in a frame that is
    /// to be skipped, and another such frame in the end.
    fn is_chunked(&self) {
        assert_eq!(self.layers().len(), layout::GZIP.layers.len());
        for layer in self.layers() {
            assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
            let position = POSITIONS.iter().find_map(|name| layer["annotations"][name].as_str());
            let position = position.unwrap_or_else(|| panic!("no table: {layer}"));
            let start: usize = position.split(':').next().expect("a place").parse().expect("one");
            let hex = digest(layer).replace("sha256:", "");
            let bytes = fs::read(self.registry.blob(&hex)).expect("it was pushed");
            assert_eq!(bytes[start - 8..][..4], SKIPPABLE, "{layer}");
            let frames = bytes.windows(4).filter(|four| *four == SKIPPABLE).count();
            assert!(frames >= 2, "{frames} frames to be skipped");
        }
    }

    /// Every blob of the image is in the daemon's store as it is in the
    /// registry.
    fn is_kept_by(&self, daemon: &Daemon) {
        for blob in self.layers().iter().chain([&self.manifest["config"]]) {
            let (digest, copy) = (digest(blob), daemon.path("blob"));
            let file = fs::File::create(&copy).expect("the directory is writable");
            let got =
                daemon.ctr(Client::Ctr21).args(["content", "get", &digest]).stdout(file).status();
            assert!(got.expect("ctr can be started").success(), "{digest}");
            assert_eq!(format!("sha256:{}", layout::sha256(&copy)), digest);
        }
    }
}

/// davitd with the image, pulled by a client.
fn pulled_by(client: Client, place: &Place) -> Daemon {
    let daemon = Daemon::start(Server::Davit);
    let name = place.name();
    let local: &[&str] = if client == Client::Ctr21Local { &["--local"] } else { &[] };
    daemon.ctr_ok(client, &[&["image", "pull", "--plain-http"], local, &[&name]].concat());
    let words = [&["run", "--rm", &name, "check"], CHECK].concat();
    assert_eq!(daemon.ctr_ok(client, &words), "whole\n", "{client:?}");
    daemon
}

#[test]
fn images_in_pieces_are_whole_for_all_clients() {
    let place = Place::new();
    place.is_chunked();
    for client in [Client::Ctr16, Client::Ctr21, Client::Ctr21Local] {
        place.is_kept_by(&pulled_by(client, &place));
    }
    let seat = Seat::new();
    let (name, copy) = (place.name(), place.registry.reference("copy:1"));
    seat.ok(&["pull", &name]);
    seat.runs_whole(&name);
    place.is_kept_by(&seat.daemon);
    seat.ok(&["push", &name, &copy]);
    assert_eq!(place.registry.digest("copy:1"), place.registry.digest("some/image:1"));
}
