//! A whole store in a directory of its own.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part, and ends at a failure")]

use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use davit_content::LocalStore;
use davit_index::{
    Collector, Container, ContentInfo, ContentStore, Error, Garbage, Image, Index, Lease, LeaseId,
    Runtime, Sharing, Sizes, Snapshotter, WriterRequest, image_target,
};
use davit_snapshots::Native;
use davit_types::{Any, Digest, Kind, Labels, Namespace};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub struct Stores {
    pub dir: TempDir,
    pub index: Arc<Index>,
    pub local: Arc<LocalStore>,
    pub content: Arc<ContentStore>,
    pub snapshots: Arc<Snapshotter>,
    pub collector: Collector,
}

pub fn stores() -> Stores {
    open(tempfile::tempdir().unwrap(), Sharing::Shared)
}

pub fn open(dir: TempDir, sharing: Sharing) -> Stores {
    let index = Arc::new(Index::open(&dir.path().join("index.db")).unwrap());
    let local = Arc::new(LocalStore::open(&dir.path().join("content")).unwrap());
    let content = Arc::new(ContentStore::new(index.clone(), local.clone(), sharing));
    let snapshots = Arc::new(native(dir.path(), &index));
    let collector = Collector::new(index.clone(), content.clone(), vec![snapshots.clone()]);
    Stores { dir, index, local, content, snapshots, collector }
}

pub fn native(dir: &Path, index: &Arc<Index>) -> Snapshotter {
    let backend = Native::open(&dir.join("native")).unwrap();
    Snapshotter::new(index.clone(), Arc::new(backend))
}

/// Closes all and opens it again, as a restart does.
pub fn reopen(stores: Stores) -> Stores {
    let Stores { dir, index, local, content, snapshots, collector } = stores;
    drop((index, local, content, snapshots, collector));
    open(dir, Sharing::Shared)
}

impl Stores {
    /// Collects; what went, sorted.
    pub fn collect(&self) -> Vec<Garbage> {
        let mut gone = Vec::new();
        self.collector.collect(Sizes::Measured, &mut |garbage| gone.push(garbage)).unwrap();
        gone.sort();
        gone
    }

    /// What a collection would remove, sorted.
    pub fn garbage(&self) -> Vec<Garbage> {
        let mut found = Vec::new();
        let all = &mut |garbage| {
            found.push(garbage);
            true
        };
        self.collector.garbage(all).unwrap();
        found.sort();
        found
    }

    /// The numbers of the snapshot directories on disk.
    pub fn directories(&self) -> Vec<String> {
        let listed = std::fs::read_dir(self.dir.path().join("native/snapshots")).unwrap();
        let mut names: Vec<String> = listed
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
            .collect();
        names.sort();
        names
    }

    /// Writes a blob as a client does that knows what it writes.
    pub fn put(
        &self,
        namespace: &Namespace,
        data: &[u8],
        labels: &[(&str, &str)],
        lease: Option<&LeaseId>,
    ) -> Result<ContentInfo, Error> {
        let digest = digest(data);
        let request = WriterRequest {
            reference: format!("put-{digest}"),
            total: data.len() as u64,
            expected: Some(digest.clone()),
        };
        let mut writer = self.content.writer(namespace, request, lease)?;
        if writer.offset() == 0 {
            writer.write(data)?;
        }
        writer.commit(data.len() as u64, Some(&digest), &map(labels))
    }

    pub fn lease(&self, namespace: &Namespace, id: &str, labels: &[(&str, &str)]) -> Lease {
        self.index.leases().create(namespace, &LeaseId::new(id), &map(labels)).unwrap()
    }
}

pub fn ns(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

pub fn map(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub fn digest(data: &[u8]) -> Digest {
    let hex: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}").parse().unwrap()
}

pub fn any(text: &str) -> Any {
    Any { type_url: format!("types/{text}"), value: text.as_bytes().to_vec() }
}

pub fn container(id: &str) -> Container {
    Container {
        id: id.to_owned(),
        labels: map(&[("name", id)]),
        image: "docker.io/library/busybox:latest".to_owned(),
        runtime: Runtime {
            name: "io.containerd.runc.v2".to_owned(),
            options: Some(any("options")),
        },
        spec: Some(any("spec")),
        snapshotter: "native".to_owned(),
        snapshot_key: id.to_owned(),
        created_at: UNIX_EPOCH,
        updated_at: UNIX_EPOCH,
        extensions: [("some.extension".to_owned(), any("extension"))].into(),
        sandbox_id: "pod".to_owned(),
    }
}

pub fn image(name: &str, target: &Digest) -> Image {
    let media_type = "application/vnd.oci.image.manifest.v1+json".to_owned();
    Image {
        name: name.to_owned(),
        labels: map(&[("name", name)]),
        target: image_target(media_type, target.as_str(), 7, map(&[("a", "b")])).unwrap(),
        created_at: UNIX_EPOCH,
        updated_at: UNIX_EPOCH,
    }
}

/// The whole message of a failure.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.unwrap_err();
    let message = error.full_message();
    let kind = error.kind().to_string();
    // Where containerd's message names its kind, it is the kind we answer.
    let named = ["not found", "already exists", "failed precondition", "invalid argument"];
    if let Some(named) = named.into_iter().find(|named| message.ends_with(named)) {
        assert_eq!(named, kind, "{message}");
    }
    message
}
