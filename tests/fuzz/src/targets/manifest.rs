//! Manifests, indexes and configurations, as a registry sends them.

use davit_distribution::manifest::{Document, ImageConfig};
use davit_types::platform::Matcher;

use super::list;

const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Nothing that refers to anything is an index and a manifest.
pub fn run(data: &[u8]) {
    let _ = ImageConfig::parse(data);
    let parse = |media_type: &&str| Document::parse(media_type, data);
    let indexes: Vec<_> = INDEXES.iter().map(parse).collect();
    let manifests: Vec<_> = MANIFESTS.iter().map(parse).collect();
    for document in indexes.iter().flatten() {
        let Document::Index(index) = document else { panic!("an index: {document:?}") };
        assert!(manifests.iter().all(Result::is_err), "{document:?}");
        let all = index.candidates(&Matcher::all());
        assert_eq!(all.len(), index.manifests.len());
        let ours = index.candidates(&Matcher::host());
        let silent = |entry: &&&_| entry_is_silent(entry);
        assert!(ours.iter().skip_while(|entry| !silent(entry)).all(|entry| silent(&entry)));
    }
    for document in manifests.iter().flatten() {
        assert!(matches!(document, Document::Manifest(_)), "{document:?}");
        assert!(document.entries().count() > 0);
    }
}

/// Whether an entry does not say what it runs on.
fn entry_is_silent(entry: &davit_distribution::manifest::Entry) -> bool {
    entry.platform.is_none()
}

/// One of each.
pub fn seeds() -> Vec<Vec<u8>> {
    const BLOB: &str = "{\"mediaType\":\"a/b\",\"digest\":\"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\",\"size\":3,\"data\":\"YWJj\",\"urls\":[\"u\"],\"annotations\":{\"k\":\"v\"},\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"}}";
    let mut seeds = list([
        b"{\"fsLayers\":[],\"schemaVersion\":1}",
        b"{\"os\":\"linux\",\"architecture\":\"arm64\",\"os.features\":[\"a\"],\"rootfs\":{\"diff_ids\":[\"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"]}}",
    ]);
    seeds.push(format!("{{\"manifests\":[{BLOB},{BLOB}],\"subject\":{BLOB}}}").into());
    seeds.push(format!("{{\"config\":{BLOB},\"layers\":[{BLOB}],\"artifactType\":\"x\"}}").into());
    seeds.push(format!("{{\"config\":{BLOB},\"layers\":[],\"manifests\":[{BLOB}]}}").into());
    seeds
}
