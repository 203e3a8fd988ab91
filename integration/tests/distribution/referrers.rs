//! Artifacts with a subject, in a registry that keeps no lists of referrers
//! itself: Debian's `docker-registry`. The list is read by `crane`.

use std::fs;
use std::path::Path;

use davit_integration::layout::{self, Layout, sha256};
use davit_integration::registry::Registry;
use davit_integration::{Client, must};
use serde_json::{Value, json};

use crate::seat::Seat;

const CTR: Client = Client::Ctr21;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A layout of one artifact about `subject`, as an archive that is called
/// `name`; the artifact's digest and size.
fn artifact(to: &Path, name: &str, subject: (&str, u64), kind: Option<&str>) -> (String, u64) {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let blobs = directory.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("the directory is writable");
    let put = |bytes: &[u8]| {
        let new = directory.path().join("new");
        fs::write(&new, bytes).expect("the directory is writable");
        let hex = sha256(&new);
        fs::rename(&new, blobs.join(&hex)).expect("the directory is writable");
        (format!("sha256:{hex}"), bytes.len() as u64)
    };
    let (config, config_size) = put(b"{}");
    let (layer, layer_size) = put(format!("of {name}").as_bytes());
    let config_type = kind.map_or("application/vnd.davit.test.config", |_| EMPTY);
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": config_type, "digest": config, "size": config_size},
        "layers": [{"mediaType": "text/plain", "digest": layer, "size": layer_size}],
        "subject": {"mediaType": MANIFEST, "digest": subject.0, "size": subject.1},
        "annotations": {"test.davit.name": name},
    });
    if let Some(kind) = kind {
        manifest["artifactType"] = kind.into();
    }
    let (digest, size) = put(manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{
        "mediaType": MANIFEST, "digest": digest, "size": size,
        "annotations": {"io.containerd.image.name": name},
    }]});
    fs::write(directory.path().join("index.json"), index.to_string()).expect("it is writable");
    fs::write(directory.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
        .expect("it is writable");
    must(
        std::process::Command::new("tar")
            .arg("-C")
            .arg(directory.path())
            .arg("-cf")
            .arg(to)
            .arg("."),
    );
    (digest, size)
}

/// The list under the tag of a digest, as crane reads it.
fn list(registry: &Registry, repository: &str, digest: &str) -> Value {
    let tag = digest.replace(':', "-");
    let name = registry.reference(&format!("{repository}:{tag}"));
    let text = must(registry.crane().args(["manifest", "--insecure", &name]));
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn artifacts_get_into_the_list_of_their_subject_once() {
    let (seat, registry) = (Seat::new(), Registry::start());
    let layout = Layout::of(&layout::SMALL);
    layout.push(&registry, "some/image:1");
    let subject = layout.digest().to_owned();
    let size = fs::metadata(layout.file(&subject)).expect("it was made").len();
    let mut expected = Vec::new();
    for (number, kind) in
        [Some("application/vnd.test.sbom"), None, Some("test/signature")].into_iter().enumerate()
    {
        let name = format!("registry.test/artifact:{number}");
        let archive = seat.daemon.path(&format!("artifact{number}.tar"));
        let (digest, length) = artifact(&archive, &name, (&subject, size), kind);
        let words = ["image", "import", "--no-unpack", "--all-platforms"];
        let file = archive.to_string_lossy().into_owned();
        seat.daemon.ctr_ok(CTR, &[&words[..], &[&file]].concat());
        expected.push(json!({
            "mediaType": MANIFEST, "digest": digest, "size": length,
            "artifactType": kind.unwrap_or("application/vnd.davit.test.config"),
            "annotations": {"test.davit.name": name},
        }));
        // With a tag, again, and without one.
        for to in ["some/image:artifact", "some/image:artifact", "some/image:other"] {
            seat.ok(&["push", &name, &registry.reference(to)]);
            let found = list(&registry, "some/image", &subject);
            assert_eq!((&found["schemaVersion"], &found["mediaType"]), (&json!(2), &json!(INDEX)));
            assert_eq!(found["manifests"], json!(expected), "after {to}");
        }
    }
    // davit and containerd pull the image as before.
    let name = registry.reference("some/image:1");
    seat.ok(&["pull", &name]);
    seat.runs_whole(&name);
}

#[test]
fn pushes_at_the_same_time_lose_nothing() {
    let (seat, registry) = (Seat::new(), Registry::start());
    let layout = Layout::of(&layout::SMALL);
    layout.push(&registry, "some/image:1");
    let subject = layout.digest().to_owned();
    let size = fs::metadata(layout.file(&subject)).expect("it was made").len();
    let names: Vec<String> = (0..8).map(|n| format!("registry.test/artifact:{n}")).collect();
    let mut digests: Vec<String> = Vec::new();
    for name in &names {
        let archive = seat.daemon.path("artifact.tar");
        digests.push(artifact(&archive, name, (&subject, size), Some("test/a")).0);
        let file = archive.to_string_lossy().into_owned();
        seat.daemon.ctr_ok(CTR, &["image", "import", "--no-unpack", "--all-platforms", &file]);
    }
    let pushes: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let to = registry.reference(&format!("some/image:a{number}"));
            seat.davit(&["push", name, &to]).spawn().expect("davit can be started")
        })
        .collect();
    for mut push in pushes {
        assert!(push.wait().expect("it was started").success());
    }
    let found = list(&registry, "some/image", &subject);
    let entries = found["manifests"].as_array().expect("a list").iter();
    let mut listed: Vec<String> =
        entries.map(|entry| entry["digest"].as_str().expect("a digest").to_owned()).collect();
    listed.sort();
    digests.sort();
    assert_eq!(listed, digests);
}

#[test]
fn what_is_no_list_is_left_alone_and_named() {
    let (seat, registry) = (Seat::new(), Registry::start());
    let layout = Layout::of(&layout::SMALL);
    let subject = layout.digest().to_owned();
    let size = fs::metadata(layout.file(&subject)).expect("it was made").len();
    // Somebody uses the tag for an image.
    let tag = format!("some/image:{}", subject.replace(':', "-"));
    layout.push(&registry, &tag);
    let archive = seat.daemon.path("artifact.tar");
    artifact(&archive, "registry.test/artifact:1", (&subject, size), None);
    let file = archive.to_string_lossy().into_owned();
    seat.daemon.ctr_ok(CTR, &["image", "import", "--no-unpack", "--all-platforms", &file]);
    let words = ["push", "registry.test/artifact:1", &registry.reference("some/image:2")];
    seat.fails(&words, &format!("add to the list of what refers to {subject}"));
    assert_eq!(registry.digest(&tag), subject);
}
