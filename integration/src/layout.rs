//! Images of several layers and platforms, made of this machine's files, as
//! OCI layouts in directories. Each is made once and kept in `target/images`.
//!
//! Every image checks itself: its last layer brings along [`CHECK`], a list of
//! the digests of all files that the container must see.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::registry::Registry;
use crate::{image, must, peers};

/// What a container of such an image runs to find out whether it is whole.
/// It prints `whole`.
pub const CHECK: &[&str] = &[
    "sh",
    "-c",
    "busybox sha256sum -c -s /list && test ! -e /data/gone \
    && test /data/file -ef /data/hard && test \"$(readlink /data/link)\" = file \
    && test \"$(stat -c %a.%u.%g /data/kept)\" = 1751.7.8 && echo whole",
];

/// The same for stores in which a directory has no attributes but those that
/// the topmost layer with something in it gives it: docker's own, and stargz's.
pub const CHECK_FILES: &[&str] = &[
    "sh",
    "-c",
    "busybox sha256sum -c -s /list && test ! -e /data/gone \
    && test /data/file -ef /data/hard && test \"$(readlink /data/link)\" = file && echo whole",
];

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// `gzip`.
    Gzip,
    /// `zstd`.
    Zstd,
}

/// Whose media types an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// The OCI's.
    Oci,
    /// Docker's schema 2.
    Docker,
}

/// What an image is made of.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The last word of its name.
    pub name: &'static str,
    /// How many layers it has, and how each is compressed: the first is
    /// busybox, one of files follows for each further word.
    pub layers: &'static [Compression],
    /// Bytes of files in a layer, uncompressed, more or less.
    pub layer_size: u64,
    /// Architectures; an index is made for more than one.
    pub architectures: &'static [&'static str],
    /// Whether BuildKit's attestation manifests stand beside the images, as
    /// far as bytes go.
    pub attestation: bool,
    /// Media types.
    pub flavour: Flavour,
}

use Compression::{Gzip, None as Plain, Zstd};

/// One platform, four layers, every compression.
pub const SMALL: Recipe = Recipe {
    name: "small",
    layers: &[Gzip, Gzip, Zstd, Plain],
    layer_size: 600_000,
    architectures: &["amd64"],
    attestation: false,
    flavour: Flavour::Oci,
};

/// Two platforms.
pub const PLATFORMS: Recipe = Recipe {
    name: "platforms",
    layers: &[Gzip, Gzip, Zstd],
    architectures: &["amd64", "arm64"],
    ..SMALL
};

/// Two platforms with attestations.
pub const INDEX: Recipe = Recipe { name: "index", attestation: true, ..PLATFORMS };

/// Docker's media types, two platforms.
pub const DOCKER: Recipe = Recipe {
    name: "docker",
    layers: &[Gzip, Gzip, Gzip],
    architectures: &["amd64", "arm64"],
    flavour: Flavour::Docker,
    ..SMALL
};

/// One platform, gzip alone: for those who know no more.
pub const GZIP: Recipe = Recipe { name: "gzip", layers: &[Gzip, Gzip, Gzip], ..SMALL };

/// Ten layers of some megabytes each.
pub const LARGE: Recipe = Recipe {
    name: "large",
    layers: &[Gzip, Gzip, Gzip, Zstd, Gzip, Gzip, Zstd, Gzip, Gzip, Gzip],
    layer_size: 12_000_000,
    ..SMALL
};

impl Recipe {
    /// The name that archives give it.
    pub fn reference(&self) -> String {
        format!("registry.test/davit/{}:1", self.name)
    }

    /// What it is kept as: another one when the recipe or this file changes.
    fn key(&self) -> String {
        let digest = Sha256::digest(format!("{self:?}{}", include_str!("layout.rs")));
        let hex: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{hex}", self.name)
    }
}

/// An image in a layout directory.
#[derive(Clone, Debug)]
pub struct Layout {
    path: PathBuf,
    target: Value,
}

impl Layout {
    /// The image of a recipe, made now unless it has been before.
    pub fn of(recipe: &Recipe) -> Self {
        let kept = peers::workspace().join("target/images");
        let path = kept.join(recipe.key());
        if !path.exists() {
            fs::create_dir_all(&kept).expect("target/ is writable");
            let new = tempfile::tempdir_in(&kept).expect("target/ is writable");
            Maker { recipe, path: new.path().to_owned() }.make().expect("an image can be made");
            let new = new.keep();
            // Somebody else may have been faster.
            if fs::rename(&new, &path).is_err() {
                let _ = fs::remove_dir_all(&new);
            }
        }
        Self::open(&path)
    }

    /// The one image of a layout directory.
    ///
    /// # Panics
    /// When it does not name exactly one.
    pub fn open(path: &Path) -> Self {
        let index = read_json(&path.join("index.json"));
        let entries = index["manifests"].as_array().expect("a list of manifests");
        assert_eq!(entries.len(), 1, "{index}");
        Self { path: path.to_owned(), target: entries[0].clone() }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The digest of the image's manifest or index.
    pub fn digest(&self) -> &str {
        self.target["digest"].as_str().expect("a descriptor has a digest")
    }

    /// A document or blob of it, as JSON.
    pub fn json(&self, digest: &str) -> Value {
        read_json(&self.file(digest))
    }

    /// The file of a blob.
    pub fn file(&self, digest: &str) -> PathBuf {
        self.path.join("blobs").join(digest.replace(':', "/"))
    }

    /// The manifest for an architecture, with its digest.
    ///
    /// # Panics
    /// When there is none.
    pub fn manifest(&self, architecture: &str) -> (String, Value) {
        let target = self.json(self.digest());
        let Some(entries) = target["manifests"].as_array() else {
            return (self.digest().to_owned(), target);
        };
        let found = entries.iter().find(|e| e["platform"]["architecture"] == architecture);
        let digest = found.and_then(|entry| entry["digest"].as_str()).expect("such a platform");
        (digest.to_owned(), self.json(digest))
    }

    /// The digests of the layers for an architecture, lowest first.
    pub fn layers(&self, architecture: &str) -> Vec<String> {
        let (_, manifest) = self.manifest(architecture);
        let layers = manifest["layers"].as_array().expect("a list of layers");
        layers.iter().map(|layer| layer["digest"].as_str().expect("a digest").into()).collect()
    }

    /// The digests that a pull for one architecture keeps: the target, the
    /// manifest, its configuration and its layers; sorted.
    pub fn content(&self, architecture: &str) -> Vec<String> {
        let (digest, manifest) = self.manifest(architecture);
        let config = manifest["config"]["digest"].as_str().expect("a digest").to_owned();
        let mut all = vec![self.digest().to_owned(), digest, config];
        all.extend(self.layers(architecture));
        all.sort();
        all.dedup();
        all
    }

    /// The digests of all blobs, sorted.
    pub fn all(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path.join("blobs/sha256")).expect("a layout has blobs");
        let names = entries.map(|entry| entry.expect("readable").file_name());
        let mut all: Vec<_> =
            names.map(|name| format!("sha256:{}", name.to_string_lossy())).collect();
        all.sort();
        all
    }

    /// Bytes of the layers for an architecture, as they are transferred.
    pub fn transfer_size(&self, architecture: &str) -> u64 {
        let size = |digest: &String| fs::metadata(self.file(digest)).expect("it is there").len();
        self.layers(architecture).iter().map(size).sum()
    }

    /// Pushes it, all of it, with `crane`; the reference.
    pub fn push(&self, registry: &Registry, name: &str) -> String {
        let reference = registry.reference(name);
        must(registry.crane().args(["push", "--insecure"]).arg(&self.path).arg(&reference));
        reference
    }

    /// Writes it as one archive.
    pub fn archive(&self, to: &Path) {
        must(Command::new("tar").arg("-C").arg(&self.path).arg("-cf").arg(to).arg("."));
    }
}

fn read_json(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Makes one image.
struct Maker<'a> {
    recipe: &'a Recipe,
    path: PathBuf,
}

/// A layer that has been written.
struct Layer {
    descriptor: Value,
    diff_id: String,
}

impl Maker<'_> {
    fn make(&self) -> io::Result<()> {
        fs::create_dir_all(self.path.join("blobs/sha256"))?;
        fs::write(self.path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let shared = self.file_layers()?;
        let mut entries = Vec::new();
        for architecture in self.recipe.architectures {
            entries.push(self.image(architecture, &shared)?);
        }
        if self.recipe.attestation {
            for place in 0..entries.len() {
                let of = entries[place]["digest"].clone();
                entries.push(self.attestation(&of)?);
            }
        }
        let mut target = match entries.len() {
            1 => entries.remove(0),
            _ => self.document(
                self.media("image.index.v1+json", "distribution.manifest.list.v2+json"),
                json!({"schemaVersion": 2, "manifests": entries}),
            )?,
        };
        target["annotations"] = json!({
            "org.opencontainers.image.ref.name": "1",
            "io.containerd.image.name": self.recipe.reference(),
        });
        let index = json!({"schemaVersion": 2, "manifests": [target]});
        fs::write(self.path.join("index.json"), index.to_string())
    }

    fn media(&self, oci: &str, docker: &str) -> String {
        match self.recipe.flavour {
            Flavour::Oci => format!("application/vnd.oci.{oci}"),
            Flavour::Docker => format!("application/vnd.docker.{docker}"),
        }
    }

    /// Writes a document that names its own media type; its descriptor.
    fn document(&self, media_type: String, mut document: Value) -> io::Result<Value> {
        if document.get("schemaVersion").is_some() {
            document["mediaType"] = json!(media_type);
        }
        let text = document.to_string();
        let digest = self.keep_bytes(text.as_bytes())?;
        Ok(json!({"mediaType": media_type, "digest": digest, "size": text.len()}))
    }

    fn keep_bytes(&self, bytes: &[u8]) -> io::Result<String> {
        let new = self.path.join("new");
        fs::write(&new, bytes)?;
        self.keep(&new)
    }

    /// Makes a file a blob; its digest.
    fn keep(&self, file: &Path) -> io::Result<String> {
        let digest = sha256(file);
        fs::rename(file, self.path.join("blobs/sha256").join(&digest))?;
        Ok(format!("sha256:{digest}"))
    }

    /// One platform's manifest; its descriptor.
    fn image(&self, architecture: &str, shared: &[Layer]) -> io::Result<Value> {
        let bare = self.path.join("layer");
        let mut archive = tar::Builder::new(File::create(&bare)?);
        image::append_busybox(&mut archive)?;
        let name = format!("etc/{architecture}");
        archive.append(&image::header(&name, tar::EntryType::Regular, 0o644, 0), io::empty())?;
        archive.finish()?;
        let first = self.layer(&bare, self.recipe.layers[0])?;
        let layers: Vec<&Layer> = std::iter::once(&first).chain(shared).collect();
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = self.document(
            self.media("image.config.v1+json", "container.image.v1+json"),
            json!({
                "architecture": architecture, "os": "linux", "created": "2023-11-14T22:13:20Z",
                "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "WorkingDir": "/"},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
                "history": vec![json!({"created_by": "davit"}); layers.len()],
            }),
        )?;
        let descriptors: Vec<&Value> = layers.iter().map(|layer| &layer.descriptor).collect();
        let mut entry = self.document(
            self.media("image.manifest.v1+json", "distribution.manifest.v2+json"),
            json!({"schemaVersion": 2, "config": config, "layers": descriptors}),
        )?;
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        Ok(entry)
    }

    /// What BuildKit puts beside an image: a manifest for no platform.
    fn attestation(&self, of: &Value) -> io::Result<Value> {
        let statement = self.document(
            "application/vnd.in-toto+json".into(),
            json!({"_type": "https://in-toto.io/Statement/v0.1", "subject": [{"name": of}]}),
        )?;
        let diff_id = statement["digest"].clone();
        let config = self.document(
            self.media("image.config.v1+json", "container.image.v1+json"),
            json!({
                "architecture": "unknown", "os": "unknown",
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            }),
        )?;
        let mut entry = self.document(
            self.media("image.manifest.v1+json", "distribution.manifest.v2+json"),
            json!({"schemaVersion": 2, "config": config, "layers": [statement]}),
        )?;
        entry["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        entry["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": of,
        });
        Ok(entry)
    }

    /// Compresses a layer's archive and keeps it.
    fn layer(&self, bare: &Path, compression: Compression) -> io::Result<Layer> {
        let diff_id = format!("sha256:{}", sha256(bare));
        let packed = self.path.join("packed");
        let (words, oci, docker): (&[&str], _, _) = match compression {
            Plain => (&["cat"], "tar", "tar"),
            Gzip => (&["gzip", "-n", "-6"], "tar+gzip", "tar.gzip"),
            Zstd => (&["zstd", "-q", "-3"], "tar+zstd", "tar.zstd"),
        };
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(File::open(bare)?).stdout(File::create(&packed)?);
        must(command.stderr(Stdio::piped()));
        fs::remove_file(bare)?;
        let size = fs::metadata(&packed)?.len();
        let media_type =
            self.media(&format!("image.layer.v1.{oci}"), &format!("image.rootfs.diff.{docker}"));
        let digest = self.keep(&packed)?;
        Ok(Layer {
            descriptor: json!({"mediaType": media_type, "digest": digest, "size": size}),
            diff_id,
        })
    }

    /// The layers above busybox. Each hides what the one below says of it.
    fn file_layers(&self) -> io::Result<Vec<Layer>> {
        let compressions = &self.recipe.layers[1..];
        let mut files = system_files().into_iter();
        let mut listed = String::new();
        let mut layers = Vec::new();
        for (number, compression) in compressions.iter().enumerate() {
            let bare = self.path.join("layer");
            let mut archive = tar::Builder::new(File::create(&bare)?);
            append_turn(&mut archive, number)?;
            let mut size = 0;
            while size < self.recipe.layer_size {
                let Some(file) = files.next() else { break };
                let name = format!("data{}", file.display());
                archive.append_path_with_name(&file, &name)?;
                listed += &format!("{}  /{name}\n", sha256(&file));
                size += fs::metadata(&file)?.len();
            }
            if number + 1 == compressions.len() {
                let entry =
                    image::header("list", tar::EntryType::Regular, 0o644, listed.len() as u64);
                archive.append(&entry, listed.as_bytes())?;
            }
            archive.into_inner()?.flush()?;
            layers.push(self.layer(&bare, *compression)?);
        }
        Ok(layers)
    }
}

/// What is special in a layer: links, what replaces the lower layer's, what
/// removes it.
fn append_turn(archive: &mut tar::Builder<File>, number: usize) -> io::Result<()> {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let text = format!("layer {number}\n");
    archive.append(&image::header("data/", Directory, 0o755, 0), io::empty())?;
    let entry = image::header("data/file", Regular, 0o640, text.len() as u64);
    archive.append(&entry, text.as_bytes())?;
    for (name, kind) in [("data/link", Symlink), ("data/hard", Link)] {
        let mut entry = image::header(name, kind, 0o777, 0);
        entry.set_link_name(if kind == Link { "data/file" } else { "file" })?;
        entry.set_cksum();
        archive.append(&entry, io::empty())?;
    }
    // Said once what it is; only implied further up.
    if number == 0 {
        let mut kept = image::header("data/kept/", Directory, 0o1751, 0);
        kept.set_uid(7);
        kept.set_gid(8);
        kept.set_cksum();
        archive.append(&kept, io::empty())?;
    }
    let name = format!("data/kept/{number}");
    archive.append(&image::header(&name, Regular, 0o600, 0), io::empty())?;
    // Comes and goes, layer by layer, and is gone in the end.
    let gone = if number == 0 { "data/gone" } else { "data/.wh.gone" };
    archive.append(&image::header(gone, Regular, 0o644, 0), io::empty())
}

/// Regular files of this machine that do not change while tests run, always
/// in the same order.
fn system_files() -> Vec<PathBuf> {
    let mut command = Command::new("find");
    command.args(["/usr/share/perl", "/usr/lib/python3", "/usr/lib/x86_64-linux-gnu", "/usr/bin"]);
    command.args(["-xdev", "-type", "f", "-links", "1", "-size", "-12M", "-print"]);
    // A directory that is not there is no loss.
    let output = command.output().expect("find is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let plain = |path: &&str| !path.contains([' ', '\\']) && path.len() < 90;
    let mut files: Vec<PathBuf> = text.lines().filter(plain).map(PathBuf::from).collect();
    files.sort();
    files
}

/// The digest of a file, in hexadecimal; by a program, since ours is slow
/// where tests are not optimised.
pub fn sha256(file: &Path) -> String {
    let text = must(Command::new("sha256sum").arg(file));
    text.split(' ').next().expect("a digest").trim_start_matches('\\').to_owned()
}
