//! Indexes and manifests: what they refer to (containerd,
//! `core/images/image.go`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use davit_types::{Descriptor, Labels, Platform};
use serde::Deserialize;

use super::Error;
use super::names::{is_index, is_manifest};

/// What a document may refer to at most.
const CHILDREN_MAX: usize = 10_000;

/// What a document refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Where it is.
    pub blob: Descriptor,
    /// What it is for, when an index says so.
    pub platform: Option<Platform>,
    /// The blob itself, when it came along.
    data: Option<Vec<u8>>,
}

impl Child {
    /// What nothing refers to.
    pub(super) fn root(blob: Descriptor) -> Self {
        Self { blob, platform: None, data: None }
    }

    /// The blob itself, when it came along in its descriptor. Not checked.
    pub(super) fn data(&self) -> Option<&[u8]> {
        self.data.as_deref()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    media_type: Option<String>,
    config: Option<Entry>,
    layers: Option<Vec<Entry>>,
    manifests: Option<Vec<Entry>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    media_type: Option<String>,
    digest: Option<String>,
    size: i64,
    annotations: Option<Labels>,
    platform: Option<EntryPlatform>,
    data: Option<String>,
}

#[derive(Deserialize)]
struct EntryPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    #[serde(rename = "os.features")]
    os_features: Option<Vec<String>>,
}

/// What an index or a manifest refers to, in its order: the configuration
/// before the layers. Other blobs refer to nothing.
///
/// # Errors
/// [`Error::Document`] for what is no such document, or is one of the other
/// kind.
pub fn children(blob: &Descriptor, bytes: &[u8]) -> Result<Vec<Child>, Error> {
    let (index, manifest) = (is_index(&blob.media_type), is_manifest(&blob.media_type));
    if !index && !manifest {
        return Ok(Vec::new());
    }
    let invalid = |reason: String| Error::Document { digest: blob.digest.clone(), reason };
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    let media_type = document.media_type.as_deref().unwrap_or_default();
    let said = &blob.media_type;
    if document.fs_layers.is_some() {
        return Err(invalid("media-type: schema 1 not supported".into()));
    }
    if manifest && (document.manifests.is_some() || is_index(media_type)) {
        return Err(invalid(format!("media-type: expected manifest but found index ({said})")));
    }
    if index && (document.config.is_some() || document.layers.is_some() || is_manifest(media_type))
    {
        return Err(invalid(format!("media-type: expected index but found manifest ({said})")));
    }
    if manifest && document.config.is_none() {
        return Err(invalid("a manifest without a config".into()));
    }
    let entries = document.config.into_iter();
    let entries = entries.chain(document.layers.into_iter().flatten());
    let entries: Vec<_> = entries.chain(document.manifests.into_iter().flatten()).collect();
    if entries.len() > CHILDREN_MAX {
        return Err(invalid(format!("it refers to more than {CHILDREN_MAX} blobs")));
    }
    entries.into_iter().map(|entry| entry.into_child().map_err(&invalid)).collect()
}

impl Entry {
    fn into_child(self) -> Result<Child, String> {
        let digest = self.digest.unwrap_or_default();
        let size = u64::try_from(self.size)
            .map_err(|_| format!("{digest:?} has a size of {} bytes", self.size))?;
        let digest = digest.parse().map_err(|error| format!("{digest:?}: {error}"))?;
        let platform = self.platform.map(|platform| Platform {
            os: platform.os,
            architecture: platform.architecture,
            variant: platform.variant.unwrap_or_default(),
            os_version: platform.os_version.unwrap_or_default(),
            os_features: platform.os_features.unwrap_or_default(),
        });
        let media_type = self.media_type.unwrap_or_default();
        let annotations = self.annotations.unwrap_or_default();
        // What is no base64 is fetched like any other blob.
        let data = self.data.and_then(|data| STANDARD.decode(data).ok());
        Ok(Child { blob: Descriptor { media_type, digest, size, annotations }, platform, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    fn read(media_type: &str, text: &str) -> Result<Vec<Child>, String> {
        let digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        let blob = Descriptor {
            media_type: media_type.into(),
            digest,
            size: 1,
            annotations: Labels::new(),
        };
        children(&blob, text.as_bytes()).map_err(|error| error.to_string())
    }

    fn entry(size: i64) -> String {
        format!(r#"{{"mediaType": "a/b", "digest": "sha256:{}", "size": {size}}}"#, "b".repeat(64))
    }

    #[test]
    fn configuration_first_then_layers() {
        let text = format!(r#"{{"layers": [{}, {}], "config": {}}}"#, entry(2), entry(3), entry(1));
        let sizes: Vec<u64> =
            read(MANIFEST, &text).unwrap().iter().map(|child| child.blob.size).collect();
        assert_eq!(sizes, [1, 2, 3]);
    }

    #[test]
    fn platforms_and_data_come_along() {
        let text = format!(
            r#"{{"manifests": [{{"mediaType": "{MANIFEST}", "digest": "sha256:{}", "size": 3,
            "data": "YWJj", "platform": {{"os": "linux", "architecture": "arm", "variant": "v7"}}}}]}}"#,
            "c".repeat(64)
        );
        let list = read(INDEX, &text).unwrap();
        assert_eq!(list[0].platform, Some(Platform::new("linux", "arm", "v7")));
        assert_eq!(list[0].data(), Some(b"abc".as_slice()));
    }

    #[test]
    fn documents_of_another_kind_are_refused() {
        let manifest = format!(r#"{{"config": {}}}"#, entry(1));
        let index = format!(r#"{{"manifests": [{}]}}"#, entry(1));
        for (media_type, text, says) in [
            (INDEX, manifest.as_str(), "expected index but found manifest"),
            (MANIFEST, index.as_str(), "expected manifest but found index"),
            (MANIFEST, r#"{"fsLayers": []}"#, "schema 1"),
            (MANIFEST, "{}", "without a config"),
            (MANIFEST, "[", "EOF"),
            (MANIFEST, &format!(r#"{{"config": {}}}"#, entry(-1)), "a size of -1 bytes"),
            (MANIFEST, r#"{"config": {"digest": "md5:0", "size": 1}}"#, "md5:0"),
        ] {
            let error = read(media_type, text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
