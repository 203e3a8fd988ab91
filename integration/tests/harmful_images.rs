//! Images that are whole and mean harm: by their labels, their users, their
//! volumes.

#![allow(clippy::unwrap_used)]

#[path = "cli/seat.rs"]
#[allow(dead_code, reason = "this test uses its part")]
mod seat;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use davit_integration::image::{self, append_busybox, header};
use davit_integration::{Client, install, layout, wait_for};
use seat::Seat;
use serde_json::{Value, json};
use tar::EntryType;

const NAME: &str = "registry.test/davit/hostile:1";

/// A further entry of the image's layer: where, what, and its bytes or target.
type Further<'a> = (&'a str, EntryType, Vec<u8>);

/// What `docker save` would write of busybox with a configuration and further
/// entries.
fn write_archive(path: &Path, config: Value, further: &[Further]) {
    let directory = tempfile::tempdir().unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    append_busybox(&mut layer).unwrap();
    for (name, kind, bytes) in further {
        match kind {
            EntryType::Symlink => {
                let mut entry = header(name, *kind, 0o777, 0);
                let target = std::str::from_utf8(bytes).unwrap();
                layer.append_link(&mut entry, name, target).unwrap();
            }
            _ => {
                let entry = header(name, *kind, 0o644, bytes.len() as u64);
                layer.append(&entry, &bytes[..]).unwrap();
            }
        }
    }
    let layer = layer.into_inner().unwrap();
    fs::write(directory.path().join("layer"), &layer).unwrap();
    let diff_id = format!("sha256:{}", layout::sha256(&directory.path().join("layer")));
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(fs::File::create(path).unwrap());
    let texts = [("config.json", config.to_string()), ("manifest.json", manifest.to_string())];
    let texts = texts.map(|(name, text)| (name, text.into_bytes()));
    for (name, bytes) in texts.into_iter().chain([("layer.tar", layer)]) {
        let entry = header(name, EntryType::Regular, 0o644, bytes.len() as u64);
        archive.append(&entry, &bytes[..]).unwrap();
    }
    archive.finish().unwrap();
}

/// A daemon with such an image.
fn seat(config: Value, further: &[Further]) -> Seat {
    let seat = Seat::new();
    let archive = seat.daemon.path("hostile.tar");
    write_archive(&archive, config, further);
    assert_eq!(seat.ok(&["import", &archive.to_string_lossy()]), format!("{NAME}\n"));
    seat
}

#[test]
fn an_image_names_no_program_of_the_host() {
    let logger = tempfile::tempdir().unwrap();
    let (program, ran) = (logger.path().join("logger"), logger.path().join("ran"));
    let script = format!("#!/bin/sh\ntouch {}\ncat >/dev/null\n", ran.display());
    install(&program, &script);
    std::os::unix::fs::chown(&program, Some(0), Some(0)).unwrap();
    let labels = [
        ("containerd.io/restart.status", "running".to_owned()),
        ("containerd.io/restart.loguri", format!("binary://{}", program.display())),
    ];
    let of_image = json!({"Cmd": ["/bin/true"], "Labels": BTreeMap::from(labels.clone())});
    let seat = seat(of_image, &[]);
    for client in [Client::Ctr16, Client::Ctr21] {
        let name = format!("box-{client:?}").to_lowercase();
        seat.daemon.ctr_ok(client, &["run", "-d", NAME, &name]);
        // The older ctr copies all labels of the image to the container.
        let info = seat.daemon.ctr_ok(client, &["container", "info", &name]);
        assert_eq!(info.contains("restart.loguri"), client == Client::Ctr16, "{info}");
    }
    seat.ok(&["run", "-d", "--name", "box-davit", NAME]);
    wait_for("the monitor has refused", 30, || {
        let refused =
            |line: &str| line.contains("box-ctr16") && line.contains("brings labels for restarts");
        seat.daemon.log().lines().any(refused).then_some(())
    });
    for name in ["box-ctr16", "box-ctr21", "box-davit"] {
        seat.wait_status(name, "exited");
    }
    assert!(!ran.exists(), "a program of the host was run");

    // The same labels from whoever makes the container do what they say.
    let labels = labels.map(|(key, value)| format!("{key}={value}"));
    let [status, uri] = &labels;
    let words = ["run", "-d", "--label", status, "--label", uri, image::NAME, "box-own", "true"];
    seat.daemon.ctr_ok(Client::Ctr16, &words);
    wait_for("the logger was run", 30, || ran.exists().then_some(()));
}

#[test]
fn users_out_of_range_are_refused() {
    for user in ["4294967296", "2147483648", "-1", "0:4294967296", "99999999999999999999"] {
        let seat = seat(json!({"Cmd": ["/bin/id"], "User": user}), &[]);
        let said = user.rsplit(':').next().unwrap();
        seat.fails(&["run", "--rm", NAME], 125, said);
        seat.nothing_left();
    }
}

#[test]
fn lists_of_users_have_a_limit() {
    let huge = || b"web:x:33:34::/:/bin/sh\n".repeat(200_000);
    for name in ["etc/passwd", "etc/group"] {
        let seat =
            seat(json!({"Cmd": ["/bin/id"], "User": "web"}), &[(name, EntryType::Regular, huge())]);
        seat.fails(&["run", "--rm", NAME], 125, &format!("the image's /{name}"));
        seat.nothing_left();
        assert!(seat.ok(&["run", "--rm", "-u", "", NAME, "id", "-u"]).starts_with('0'));
    }
}

#[test]
fn volumes_of_an_image_take_nothing_from_the_host() {
    let secret = tempfile::tempdir().unwrap();
    fs::write(secret.path().join("secret"), "the host's").unwrap();
    let up = format!("/../../../..{}", secret.path().display());
    let volumes = json!({"/etc": {}, "/data": {}, up.clone(): {}, "../..": {}});
    let there = secret.path().display().to_string();
    let config = json!({"Cmd": ["/bin/sh"], "Volumes": volumes});
    let seat = seat(config, &[("data", EntryType::Symlink, there.clone().into())]);
    let script = format!("cat {there}/secret /data/secret {up}/secret; mount");
    let mut seen = vec![seat.ok(&["run", "--rm", NAME, "sh", "-c", &script])];
    for client in [Client::Ctr16, Client::Ctr21] {
        let words = ["run", "--rm", NAME, "box", "sh", "-c", &script];
        seen.push(seat.daemon.ctr_ok(client, &words));
    }
    for seen in seen {
        assert!(seen.contains("overlay on / "), "{seen}");
        assert!(!seen.contains("the host's") && !seen.contains(" on /data"), "{seen}");
        let below = format!(" on {there}");
        assert!(!seen.contains(&below), "{seen}");
    }
    assert_eq!(fs::read_dir(secret.path()).unwrap().count(), 1);
}
