//! Archives of images: `index.json`, `manifest.json` and what they refer to.

use std::io::Read;

use davit_client::archive::Contents;
use davit_diff::tar::{Header, Writer};
use davit_distribution::manifest::{Document, MAX_DOCUMENT};
use davit_types::{Algorithm, Digest};
use sha2::{Digest as _, Sha256};

use super::{list, tar};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// More than a compressed input of a test becomes.
const STORED_MAX: u64 = 64 << 20;

/// What is kept is no more than what came, and every file is what its path
/// says. Once more with checksums that fit, and as one of the two documents.
pub fn run(data: &[u8]) {
    check(data);
    check(&tar::signed(data));
    for name in ["index.json", "manifest.json"] {
        let archive = archive(&[(name, data)]);
        let contents = Contents::read(&archive[..], store).expect("an archive of one file");
        let _ = contents.saved();
        if let Some(index) = &contents.index {
            let _ = Document::parse(INDEX, index);
        }
    }
}

fn check(data: &[u8]) {
    let mut stored = 0;
    let contents = Contents::read(data, |path: &str, size, data: &mut dyn Read| {
        assert!(!path.starts_with("./"), "{path}");
        let digest = store(path, size, &mut data.take(STORED_MAX))?;
        stored += 1;
        Ok(digest)
    });
    let Ok(contents) = contents else { return };
    assert!(contents.files.len() <= stored + 4, "four files are not stored");
    let kept = [&contents.index, &contents.manifest].into_iter().flatten();
    assert!(kept.map(|bytes| bytes.len() as u64).all(|size| size <= MAX_DOCUMENT));
    for (path, file) in &contents.files {
        if let Some(hex) = path.strip_prefix("blobs/sha256/") {
            assert_eq!(file.digest.hex(), hex);
        }
    }
    for image in contents.saved().ok().flatten().unwrap_or_default() {
        let _ = contents.file(&image.config);
    }
}

fn store(_: &str, _: u64, data: &mut dyn Read) -> Result<Digest, davit_client::Error> {
    let mut bytes = Vec::new();
    // A stream that breaks is found by who reads on.
    let _ = data.read_to_end(&mut bytes);
    Ok(Digest::of_sum(Algorithm::Sha256, &Sha256::digest(&bytes)))
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (name, bytes) in files {
        let empty = Header::empty(name.as_bytes().to_vec());
        let header = Header { size: bytes.len() as u64, ..empty };
        writer.start(&header).expect("memory takes it");
        writer.write(bytes).expect("memory takes it");
    }
    writer.finish().expect("memory takes it")
}

/// One of each.
pub fn seeds() -> Vec<Vec<u8>> {
    let layer = "blobs/sha256/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let saved: &[u8] = br#"[{"Config":"c.json","RepoTags":["a:b"],"Layers":["l.tar"]}]"#;
    let index: &[u8] = br#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","size":3,"annotations":{"org.opencontainers.image.ref.name":"x"}}]}"#;
    let layout = archive(&[("oci-layout", b"{}"), ("index.json", index), (layer, b"abc")]);
    let docker = archive(&[("c.json", b"{}"), ("l.tar", b"abc"), ("manifest.json", saved)]);
    let packed = zstd::encode_all(&docker[..], 1).expect("packed in memory");
    let mut seeds = list([saved, index]);
    seeds.extend([layout, docker, packed]);
    seeds
}
