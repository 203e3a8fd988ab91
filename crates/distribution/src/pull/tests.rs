//! Pulls from a registry in memory into a store of files.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use davit_types::{Algorithm, Descriptor, Digest, ErrorKind, Kind, Labels, Platform};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Bytes that a download hands out at once.
const PIECE: usize = 10_000;

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::of_sum(Algorithm::Sha256, &Sha256::digest(bytes))
}

fn blob(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: digest_of(bytes),
        size: bytes.len() as u64,
        annotations: Labels::new(),
    }
}

fn wire(blob: &Descriptor) -> Value {
    json!({"mediaType": blob.media_type, "digest": blob.digest.as_str(), "size": blob.size})
}

/// A registry.
#[derive(Default)]
struct Memory {
    blobs: Mutex<HashMap<Digest, Bytes>>,
    /// What was asked for: digest and offset.
    asked: Mutex<Vec<(Digest, u64)>>,
    /// Layers that break before their last piece.
    breaks: AtomicUsize,
    /// Downloads go on when there are permits.
    gate: Option<Arc<Semaphore>>,
    distrusted: AtomicUsize,
}

impl Memory {
    fn put(&self, media_type: &str, bytes: impl Into<Bytes>) -> Descriptor {
        let bytes = bytes.into();
        let descriptor = blob(media_type, &bytes);
        self.blobs.lock().unwrap().insert(descriptor.digest.clone(), bytes);
        descriptor
    }

    fn put_json(&self, media_type: &str, document: &Value) -> Descriptor {
        self.put(media_type, document.to_string().into_bytes())
    }

    /// A manifest with layers of these sizes.
    fn image(&self, name: &str, sizes: &[usize]) -> (Descriptor, Vec<Descriptor>) {
        let config = self.put_json(CONFIG, &json!({"architecture": name, "os": "linux"}));
        let layer = |(number, size): (usize, &usize)| {
            let seed = name.bytes().fold(number, |sum, byte| sum * 31 + usize::from(byte));
            let bytes: Vec<u8> = (0..*size).map(|n| (n * 7 + seed % 251) as u8).collect();
            self.put(LAYER, bytes)
        };
        let layers: Vec<Descriptor> = sizes.iter().enumerate().map(layer).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": wire(&config),
            "layers": layers.iter().map(wire).collect::<Vec<_>>(),
        });
        (self.put_json(MANIFEST, &manifest), layers)
    }

    /// An index of images for these architectures, and each one's layer.
    fn index(&self, architectures: &[&str]) -> (Descriptor, HashMap<String, Digest>) {
        let mut layers = HashMap::new();
        let entry = |name: &&str| {
            let (manifest, of_image) = self.image(name, &[500]);
            layers.insert((*name).to_owned(), of_image[0].digest.clone());
            let mut entry = wire(&manifest);
            entry["platform"] = json!({"os": "linux", "architecture": name});
            entry
        };
        let manifests: Vec<Value> = architectures.iter().map(entry).collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        (self.put_json(INDEX, &index), layers)
    }

    fn asked_for(&self, digest: &Digest) -> Vec<u64> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(asked, _)| asked == digest).map(|(_, from)| *from).collect()
    }

    fn find(&self, wanted: &Descriptor) -> Result<Bytes, Failure> {
        let blobs = self.blobs.lock().unwrap();
        let found = blobs.get(&wanted.digest).cloned();
        found.ok_or_else(|| Failure::new(ErrorKind::NotFound, format!("{}", wanted.digest)))
    }
}

impl Remote for Memory {
    fn document<'a>(
        &'a self,
        wanted: &'a Descriptor,
        _limit: u64,
    ) -> Pending<'a, Result<Bytes, Failure>> {
        self.asked.lock().unwrap().push((wanted.digest.clone(), 0));
        Box::pin(std::future::ready(self.find(wanted)))
    }

    fn download<'a>(
        &'a self,
        entry: &'a Entry,
        from: u64,
    ) -> Pending<'a, Result<Box<dyn Download>, Failure>> {
        self.asked.lock().unwrap().push((entry.blob.digest.clone(), from));
        let count = |n: usize| n.checked_sub(usize::from(entry.blob.media_type == LAYER));
        let before = self.breaks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
        let breaks = entry.blob.media_type == LAYER && before.is_ok();
        let found = self.find(&entry.blob).map(|bytes| {
            let rest = bytes.slice(from as usize..);
            let gate = self.gate.clone();
            Box::new(Pieces { rest, breaks, gate }) as Box<dyn Download>
        });
        Box::pin(std::future::ready(found))
    }

    fn distrust(&self, sources: &[String]) {
        self.distrusted.fetch_add(sources.len(), Ordering::Relaxed);
    }
}

struct Pieces {
    rest: Bytes,
    breaks: bool,
    gate: Option<Arc<Semaphore>>,
}

impl Download for Pieces {
    fn next(&mut self) -> Pending<'_, Result<Option<Bytes>, Failure>> {
        Box::pin(async {
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            let piece = self.rest.split_to(self.rest.len().min(PIECE));
            if self.breaks && self.rest.is_empty() {
                return Err(Failure::new(ErrorKind::Unavailable, "the connection broke"));
            }
            Ok(Some(piece))
        })
    }

    fn sources(&self) -> &[String] {
        std::slice::from_ref(SOURCE.get_or_init(|| "memory".to_owned()))
    }
}

static SOURCE: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// A store of files in a directory.
#[derive(Clone)]
struct Files(Arc<Inner>);

struct Inner {
    directory: tempfile::TempDir,
    labels: Mutex<HashMap<Digest, Labels>>,
    /// References of ingests that are open.
    open: Mutex<HashSet<String>>,
    /// Bytes that fit.
    room: Mutex<u64>,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (labels, open) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { directory, labels, open, room: Mutex::new(u64::MAX) }))
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.0.directory.path().join(digest.hex())
    }

    fn ingest_path(&self, reference: &str) -> PathBuf {
        self.0.directory.path().join(format!("ingest-{}", reference.replace(':', "-")))
    }

    fn has(&self, digest: &Digest) -> bool {
        self.blob(digest).exists()
    }

    fn ingests(&self) -> usize {
        let list = std::fs::read_dir(self.0.directory.path()).unwrap().flatten();
        list.filter(|entry| entry.file_name().to_string_lossy().starts_with("ingest-")).count()
    }

    fn labels_of(&self, digest: &Digest) -> Labels {
        self.0.labels.lock().unwrap().get(digest).cloned().unwrap_or_default()
    }
}

struct OneIngest {
    files: Files,
    reference: String,
    path: PathBuf,
    file: File,
    offset: u64,
}

impl Store for Files {
    fn ingest(
        &self,
        reference: &str,
        blob: &Descriptor,
    ) -> Result<Option<Box<dyn Ingest>>, Failure> {
        if self.has(&blob.digest) {
            return Ok(None);
        }
        if !self.0.open.lock().unwrap().insert(reference.to_owned()) {
            return Err(Failure::new(ErrorKind::Unavailable, format!("{reference} is locked")));
        }
        let path = self.ingest_path(reference);
        let file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let offset = file.metadata().unwrap().len();
        let (files, reference) = (self.clone(), reference.to_owned());
        Ok(Some(Box::new(OneIngest { files, reference, path, file, offset })))
    }

    fn open(&self, digest: &Digest) -> Result<File, Failure> {
        File::open(self.blob(digest)).map_err(|error| Failure::io("open", &error))
    }

    fn labels(&self, digest: &Digest) -> Result<Labels, Failure> {
        Ok(self.labels_of(digest))
    }

    fn label(&self, digest: &Digest, labels: &Labels) -> Result<(), Failure> {
        let mut all = self.0.labels.lock().unwrap();
        all.entry(digest.clone()).or_default().extend(labels.clone());
        Ok(())
    }
}

impl Ingest for OneIngest {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut room = self.files.0.room.lock().unwrap();
        let left = room.checked_sub(bytes.len() as u64);
        *room = left.ok_or_else(|| Failure::new(ErrorKind::ResourceExhausted, "disk full"))?;
        self.file.write_all(bytes).unwrap();
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn file(&self) -> Result<Option<File>, Failure> {
        File::open(&self.path).map(Some).map_err(|error| Failure::io("open", &error))
    }

    fn commit(self: Box<Self>, size: u64, digest: &Digest) -> Result<(), Failure> {
        let bytes = std::fs::read(&self.path).unwrap();
        if bytes.len() as u64 != size || digest_of(&bytes) != *digest {
            std::fs::remove_file(&self.path).unwrap();
            let text = format!("unexpected commit digest {}, expected {digest}", digest_of(&bytes));
            return Err(Failure::new(ErrorKind::FailedPrecondition, text));
        }
        std::fs::rename(&self.path, self.files.blob(digest)).unwrap();
        Ok(())
    }
}

impl Drop for OneIngest {
    fn drop(&mut self) {
        self.files.0.open.lock().unwrap().remove(&self.reference);
    }
}

fn pull(remote: &Arc<Memory>, store: &Files, wanted: Wanted) -> Pull {
    Pull {
        remote: Arc::<Memory>::clone(remote),
        store: Arc::new(store.clone()),
        observer: Arc::new(Nobody),
        shared: Shared { downloads: Some(Arc::new(Semaphore::new(3))), fetches: Turns::default() },
        unpack: None,
        reference: Reference::parse("registry.test:5000/team/app:1").unwrap(),
        wanted,
    }
}

fn platforms(list: &[&str]) -> Vec<Platform> {
    list.iter().map(|name| Platform::new("linux", name, "")).collect()
}

#[tokio::test]
async fn an_image_is_fetched_and_labelled() {
    let (remote, store) = (Arc::new(Memory::default()), Files::new());
    let (root, layers) = remote.image("amd64", &[25_000, 400_000]);
    pull(&remote, &store, Wanted::default()).run(&root, "app").await.unwrap();
    assert!(layers.iter().all(|layer| store.has(&layer.digest)));
    assert_eq!(store.ingests(), 0);
    let labels = store.labels_of(&root.digest);
    assert_eq!(labels["containerd.io/gc.ref.content.l.1"], layers[1].digest.as_str());
    assert!(labels.contains_key("containerd.io/gc.ref.content.config"));
    for digest in [&root.digest, &layers[0].digest] {
        let labels = store.labels_of(digest);
        assert_eq!(labels["containerd.io/distribution.source.registry.test"], "team/app");
    }
    // Again: nothing is asked for.
    let before = remote.asked.lock().unwrap().len();
    pull(&remote, &store, Wanted::default()).run(&root, "app").await.unwrap();
    assert_eq!(remote.asked.lock().unwrap().len(), before);
}

#[tokio::test]
async fn platforms_say_what_is_fetched() {
    let all = ["amd64", "arm64", "s390x"];
    for (wanted, layers, manifests) in [
        (Wanted::default(), 3, 3),
        (Wanted { platforms: platforms(&["arm64"]), ..Wanted::default() }, 1, 1),
        (
            Wanted { platforms: platforms(&["arm64"]), all_metadata: true, ..Wanted::default() },
            1,
            3,
        ),
        (
            Wanted {
                platforms: platforms(&["s390x", "amd64"]),
                manifest_limit: 1,
                ..Wanted::default()
            },
            1,
            1,
        ),
    ] {
        let (remote, store) = (Arc::new(Memory::default()), Files::new());
        let (root, of_images) = remote.index(&all);
        pull(&remote, &store, wanted.clone()).run(&root, "app").await.unwrap();
        let fetched = of_images.values().filter(|layer| store.has(layer)).count();
        assert_eq!(fetched, layers, "{wanted:?}");
        let labels = store.labels_of(&root.digest);
        let referred = labels.keys().filter(|key| key.contains("gc.ref.content.m.")).count();
        assert_eq!(referred, 3, "all are labelled, whatever is fetched");
        let asked = remote.asked.lock().unwrap().len();
        // The index, manifests with their configurations, and layers.
        assert_eq!(asked, 1 + 2 * manifests + layers, "{wanted:?}");
        if wanted.manifest_limit == 1 {
            assert!(store.has(&of_images["s390x"]), "the best is the first asked for");
        }
    }
}

#[tokio::test]
async fn no_manifest_for_the_platform_is_not_found() {
    let (remote, store) = (Arc::new(Memory::default()), Files::new());
    let (root, _) = remote.index(&["amd64"]);
    for (manifest_limit, all_metadata) in [(1, false), (0, true)] {
        let platforms = platforms(&["riscv64"]);
        let wanted = Wanted { platforms, all_metadata, manifest_limit };
        let error = pull(&remote, &store, wanted).run(&root, "app").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), "no match for platform in manifest: not found");
    }
}

#[tokio::test]
async fn a_broken_pull_is_gone_on_with() {
    let (remote, store) = (Arc::new(Memory::default()), Files::new());
    let (root, layers) = remote.image("amd64", &[25_000]);
    let whole = pull(&remote, &store, Wanted::default());
    remote.breaks.store(1, Ordering::Relaxed);
    let error = whole.run(&root, "app").await.unwrap_err();
    assert_eq!(error.to_string(), "the connection broke");
    whole.run(&root, "app").await.unwrap();
    assert_eq!(remote.asked_for(&layers[0].digest), [0, 20_000]);
    assert!(store.has(&layers[0].digest));
}

#[tokio::test]
async fn what_was_left_damaged_is_fetched_anew() {
    let (remote, store) = (Arc::new(Memory::default()), Files::new());
    let (root, layers) = remote.image("amd64", &[25_000]);
    let left = store.ingest_path(&names::reference(&layers[0]));
    std::fs::write(left, [0; 15_000]).unwrap();
    pull(&remote, &store, Wanted::default()).run(&root, "app").await.unwrap();
    assert_eq!(remote.asked_for(&layers[0].digest), [15_000, 0]);
    assert!(store.has(&layers[0].digest));
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_their_source_distrusted() {
    let (remote, store) = (Arc::new(Memory::default()), Files::new());
    let (root, layers) = remote.image("amd64", &[25_000]);
    remote.blobs.lock().unwrap().insert(layers[0].digest.clone(), vec![9; 25_000].into());
    let error = pull(&remote, &store, Wanted::default()).run(&root, "app").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    let text = error.full_message();
    assert!(text.starts_with("failed commit on ref \"layer-sha256:"), "{text}");
    assert!(text.contains("unexpected commit digest"), "{text}");
    assert!(remote.distrusted.load(Ordering::Relaxed) > 0);
    assert_eq!(store.ingests(), 0, "going on with it would come to the same");
}

#[tokio::test]
async fn a_missing_layer_and_a_full_disk_end_the_pull() {
    let (remote, store) = (Arc::new(Memory::default()), Files::new());
    let (root, layers) = remote.image("amd64", &[25_000, 2_000_000]);
    *store.0.room.lock().unwrap() = 1_000_000;
    let whole = pull(&remote, &store, Wanted::default());
    let error = whole.run(&root, "app").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    let whole = pull(&remote, &Files::new(), Wanted::default());
    remote.blobs.lock().unwrap().remove(&layers[0].digest);
    let error = whole.run(&root, "app").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(layers[0].digest.as_str()), "{error}");
}

#[tokio::test]
async fn blobs_that_many_pulls_want_are_fetched_once() {
    let (remote, store) = (Arc::new(Memory::default()), Files::new());
    let (root, layers) = remote.image("amd64", &[25_000, 25_000]);
    let first = pull(&remote, &store, Wanted::default());
    let with = |other: &Pull| Pull {
        shared: other.shared.clone(),
        ..pull(&remote, &store, Wanted::default())
    };
    let (second, third) = (with(&first), with(&first));
    let (a, b, c) =
        tokio::join!(first.run(&root, "a"), second.run(&root, "b"), third.run(&root, "c"));
    assert!(a.is_ok() && b.is_ok() && c.is_ok(), "{a:?} {b:?} {c:?}");
    assert_eq!(remote.asked_for(&layers[0].digest), [0]);
    assert_eq!(remote.asked_for(&root.digest), [0]);
}

#[tokio::test]
async fn who_waits_takes_over_from_one_that_is_given_up() {
    let gate = Arc::new(Semaphore::new(1));
    let remote = Arc::new(Memory { gate: Some(Arc::clone(&gate)), ..Memory::default() });
    let store = Files::new();
    let bytes: Vec<u8> = (0..3 * PIECE).map(|n| n as u8).collect();
    let root = remote.put(LAYER, bytes);
    let first = pull(&remote, &store, Wanted::default());
    let second = Pull { shared: first.shared.clone(), ..pull(&remote, &store, Wanted::default()) };
    let left = store.ingest_path(&names::reference(&root));
    {
        // Until the first piece is on disk and the gate is shut.
        let stored = async {
            while std::fs::metadata(&left).map_or(0, |meta| meta.len()) < PIECE as u64 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            result = first.run(&root, "a") => panic!("through a shut gate: {result:?}"),
            () = stored => {}
        }
    }
    gate.add_permits(100);
    second.run(&root, "b").await.unwrap();
    assert_eq!(remote.asked_for(&root.digest), [0, PIECE as u64]);
    assert!(store.has(&root.digest));
}

/// Takes note of what it gets to unpack, and fetches it.
#[derive(Default)]
struct Taker(Mutex<Vec<(usize, Vec<u8>)>>);

impl Unpack for Taker {
    fn unpack<'a>(&'a self, layers: &'a Layers<'a>) -> Pending<'a, Result<(), Error>> {
        Box::pin(async move {
            self.0.lock().unwrap().push((layers.blobs().len(), layers.document.clone()));
            let (arrival, mut arriving) = arrival();
            let reading = async {
                let file = arriving.begun().await?;
                let (offset, _) = arriving.more(0).await?;
                assert!(offset > 0 && file.metadata().unwrap().len() >= offset);
                let (all, whole) = arriving.more(u64::MAX).await?;
                assert!(whole && all == file.metadata().unwrap().len());
                Ok::<_, Error>(())
            };
            tokio::try_join!(layers.fetch(0, arrival), reading)?;
            layers.fetch_all().await
        })
    }
}

#[tokio::test]
async fn layers_of_images_are_left_to_who_unpacks_them() {
    let (remote, store) = (Arc::new(Memory::default()), Files::new());
    let (root, layers) = remote.image("amd64", &[250_000, 10]);
    let taker = Arc::new(Taker::default());
    let mut whole = pull(&remote, &store, Wanted::default());
    whole.unpack = Some(Arc::<Taker>::clone(&taker));
    whole.run(&root, "app").await.unwrap();
    let taken = taker.0.lock().unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].0, 2);
    assert!(String::from_utf8_lossy(&taken[0].1).contains("amd64"));
    assert!(layers.iter().all(|layer| store.has(&layer.digest)));
}

#[tokio::test]
async fn artifacts_are_fetched_although_somebody_unpacks() {
    let (remote, store) = (Arc::new(Memory::default()), Files::new());
    let config = remote.put_json("application/vnd.example.config+json", &json!({"a": 1}));
    let layer = remote.put(LAYER, vec![3; 100]);
    let other = remote.put("text/plain", vec![4; 100]);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": wire(&config),
        "layers": [wire(&layer), wire(&other)],
    });
    let root = remote.put_json(MANIFEST, &manifest);
    let taker = Arc::new(Taker::default());
    let mut whole = pull(&remote, &store, Wanted::default());
    whole.unpack = Some(Arc::<Taker>::clone(&taker));
    whole.run(&root, "artifact").await.unwrap();
    assert!(taker.0.lock().unwrap().is_empty(), "it is no image");
    assert!([config, layer, other].iter().all(|blob| store.has(&blob.digest)));
}

#[tokio::test]
async fn indexes_without_end_are_refused() {
    let (remote, store) = (Arc::new(Memory::default()), Files::new());
    let (mut root, _) = remote.index(&["amd64"]);
    for _ in 0..=DEPTH_MAX {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [wire(&root)]});
        root = remote.put_json(INDEX, &index);
    }
    let error = pull(&remote, &store, Wanted::default()).run(&root, "app").await.unwrap_err();
    assert!(error.full_message().contains("nested more than"), "{}", error.full_message());
}

#[tokio::test]
async fn indexes_that_explode_are_walked_once() {
    let (remote, store) = (Arc::new(Memory::default()), Files::new());
    let (leaf, layers) = remote.image("amd64", &[500]);
    let mut root = leaf.clone();
    // A thousand to the power of seven manifests.
    for _ in 1..DEPTH_MAX {
        let list = vec![wire(&root); 1000];
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": list});
        root = remote.put_json(INDEX, &index);
    }
    pull(&remote, &store, Wanted::default()).run(&root, "app").await.unwrap();
    assert!(store.has(&layers[0].digest));
    assert_eq!(remote.asked_for(&leaf.digest).len(), 1);
}

#[tokio::test]
async fn images_without_end_are_refused() {
    // No layer ever comes.
    let gate = Some(Arc::new(Semaphore::new(0)));
    let (remote, store) = (Arc::new(Memory { gate, ..Memory::default() }), Files::new());
    let layer = wire(&remote.put(LAYER, vec![7; 500]));
    let index = |number: usize| {
        let list = vec![layer.clone(); manifest::MAX_ENTRIES];
        let annotations = json!({"number": number.to_string()});
        let index = json!({"schemaVersion": 2, "manifests": list, "annotations": annotations});
        wire(&remote.put_json(INDEX, &index))
    };
    let indexes: Vec<Value> = (0..=NODES_MAX / manifest::MAX_ENTRIES).map(index).collect();
    let root = remote.put_json(INDEX, &json!({"schemaVersion": 2, "manifests": indexes}));
    let error = pull(&remote, &store, Wanted::default()).run(&root, "app").await.unwrap_err();
    let text = error.full_message();
    assert!(text.contains("the image refers to more than 100000 blobs"), "{text}");
}

#[tokio::test]
async fn nonsense_is_refused() {
    let (remote, store) = (Arc::new(Memory::default()), Files::new());
    let whole = pull(&remote, &store, Wanted::default());
    let mut empty = blob(LAYER, b"");
    let error = whole.run(&empty, "app").await.unwrap_err();
    assert!(error.to_string().contains("content size of zero"), "{error}");
    empty.media_type = names::SCHEMA_1[0].into();
    let error = whole.run(&empty, "app").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "schema 1 image manifests are no longer supported: invalid argument"
    );
    let root = remote.put(MANIFEST, b"no json".to_vec());
    let error = whole.run(&root, "app").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains(root.digest.as_str()), "{error}");
}
