//! Images and artifacts of a few bytes each, made by hand as OCI layouts, and
//! what a daemon has of them in the end.

use std::fs;
use std::process::Command;

use davit_integration::layout::Layout;
use davit_integration::{Client, Daemon, image, must};
use davit_types::{Algorithm, Digest};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layout in the making.
pub struct Tiny(TempDir);

impl Tiny {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let of = |name: &str| directory.path().join(name);
        fs::create_dir_all(of("blobs/sha256")).expect("the directory is writable");
        fs::write(of("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("it is writable");
        Self(directory)
    }

    /// Keeps a blob; its descriptor.
    pub fn put(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of_sum(Algorithm::Sha256, &Sha256::digest(bytes)).to_string();
        let file = self.0.path().join("blobs").join(digest.replace(':', "/"));
        fs::write(file, bytes).expect("the directory is writable");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Keeps a manifest or an index; its descriptor.
    pub fn document(&self, media_type: &str, mut document: Value) -> Value {
        document["schemaVersion"] = json!(2);
        document["mediaType"] = json!(media_type);
        self.put(media_type, document.to_string().as_bytes())
    }

    /// Keeps an index; its descriptor.
    pub fn index(&self, entries: &[Value]) -> Value {
        self.document(INDEX, json!({"manifests": entries}))
    }

    /// Keeps a layer with one file that has `text` in it; its descriptor.
    pub fn layer(&self, text: &str) -> Value {
        let mut archive = tar::Builder::new(Vec::new());
        let head = image::header("file", tar::EntryType::Regular, 0o644, text.len() as u64);
        archive.append(&head, text.as_bytes()).expect("memory is writable");
        self.put(LAYER, &archive.into_inner().expect("memory is writable"))
    }

    /// Keeps an image for a platform, of one layer; the entry of an index.
    pub fn image(&self, platform: &Value, text: &str) -> Value {
        let layer = self.layer(text);
        let mut config = platform.clone();
        config["rootfs"] = json!({"type": "layers", "diff_ids": [layer["digest"]]});
        config["history"] = json!([{"created_by": text}]);
        let config = self.put(CONFIG, config.to_string().as_bytes());
        let mut entry = self.document(MANIFEST, json!({"config": config, "layers": [layer]}));
        entry["platform"] = platform.clone();
        entry
    }

    /// The layout with `target` as its one image, called `name` in archives.
    pub fn finish(&self, mut target: Value, name: &str) -> Layout {
        target["annotations"] = json!({"io.containerd.image.name": name});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [target]});
        let file = self.0.path().join("index.json");
        fs::write(file, index.to_string()).expect("the directory is writable");
        Layout::open(self.0.path())
    }
}

/// The digest in a descriptor.
pub fn digest(descriptor: &Value) -> String {
    descriptor["digest"].as_str().expect("a descriptor has a digest").to_owned()
}

/// An entry of an index that does not say what it is for.
pub fn untold(mut entry: Value) -> Value {
    entry.as_object_mut().expect("an object").remove("platform");
    entry
}

/// A daemon's namespace, in which a client begins with nothing.
pub struct Shelf<'a> {
    pub daemon: &'a Daemon,
    pub client: Client,
    pub name: String,
}

/// All that a client sees of a pull or an import.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// The exit code, and the last line of stderr where it is not 0.
    pub told: String,
    /// The digests of all blobs that are there then, sorted.
    pub content: Vec<String>,
    /// The list of images.
    pub images: String,
}

impl Outcome {
    pub fn is_fine(&self) -> bool {
        self.told == "0"
    }
}

impl<'a> Shelf<'a> {
    /// One for `ctr` 2.1.
    pub fn new(daemon: &'a Daemon, name: &str) -> Self {
        Self { daemon, client: Client::Ctr21, name: name.to_owned() }
    }

    /// `ctr` there.
    pub fn ctr(&self, words: &[&str]) -> Command {
        let mut command = self.daemon.ctr(self.client);
        command.env("CONTAINERD_NAMESPACE", &self.name).args(words);
        command
    }

    /// How `ctr` ends.
    pub fn told(&self, words: &[&str]) -> String {
        let output = self.ctr(words).output().expect("ctr can be started");
        if output.status.success() {
            return "0".to_owned();
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        format!("{:?} {}", output.status.code(), stderr.lines().last().unwrap_or_default())
    }

    /// Does something with `ctr`, and looks what there is then.
    pub fn outcome(&self, words: &[&str]) -> Outcome {
        let told = self.told(words);
        Outcome { told, content: self.content(), images: self.images() }
    }

    /// Exports an image to a file of the daemon's; its path.
    pub fn exported(&self, flags: &[&str], name: &str, to: &str) -> String {
        let path = self.daemon.path(to);
        let file = path.to_string_lossy().into_owned();
        let words = [&["image", "export"], flags, &[&file, name]].concat();
        self.daemon.export(&mut self.ctr(&words), &path);
        file
    }

    /// The digests of all blobs that are there, sorted.
    pub fn content(&self) -> Vec<String> {
        let list = must(&mut self.ctr(&["content", "ls", "-q"]));
        let mut all: Vec<String> = list.lines().map(str::to_owned).collect();
        all.sort();
        all
    }

    /// The list of images.
    pub fn images(&self) -> String {
        let list = must(&mut self.ctr(&["image", "ls"]));
        let even = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n";
        list.lines().map(even).collect()
    }
}

/// What can be compared of an archive: the names of its files, sorted, and its
/// `index.json`.
pub fn archived(file: &str) -> (Vec<String>, Value) {
    let list = must(Command::new("tar").args(["-tf", file]));
    let mut names: Vec<String> = list.lines().map(str::to_owned).collect();
    names.sort();
    let index = must(Command::new("tar").args(["-xOf", file, "index.json"]));
    (names, serde_json::from_str(&index).expect("JSON"))
}

/// Imports an archive in both places, which must end in the same images; what
/// there is then in the second.
///
/// What containerd has not labelled it may have collected by then, so its
/// content cannot be compared.
pub fn imported(places: [Shelf; 2], words: &[&str]) -> Outcome {
    let [theirs, ours] = places.map(|place| place.outcome(&[&["image", "import"], words].concat()));
    assert!(theirs.is_fine(), "{words:?}: {theirs:#?}");
    let seen = |outcome: &Outcome| (outcome.told.clone(), outcome.images.clone());
    assert_eq!(seen(&theirs), seen(&ours), "{words:?}: containerd, davitd");
    ours
}
