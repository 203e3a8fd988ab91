//! The JSON of documents, read as Go's readers read it where that is no
//! danger: `null` is nothing, unknown keys are passed over.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use davit_types::{Descriptor, Labels, Platform};
use serde::Deserialize;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};

use super::{Entry, Error, Extras, ImageConfig, Index, List, MAX_ENTRIES, Manifest};

/// The keys of documents that mean something to somebody.
const KEYS: [&str; 9] = [
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "fsLayers",
    "subject",
    "annotations",
];

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Document {
    pub media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Blob>,
    layers: Option<List<Blob>>,
    manifests: Option<List<Blob>>,
    subject: Option<Blob>,
    annotations: Option<Labels>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Blob {
    media_type: Option<String>,
    digest: Option<String>,
    size: Option<i64>,
    annotations: Option<Labels>,
    platform: Option<Runs>,
    artifact_type: Option<String>,
    urls: Option<List<String>>,
    data: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Runs {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    #[serde(rename = "os.features")]
    os_features: Option<List<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Config {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    #[serde(rename = "os.features")]
    os_features: Option<List<String>>,
    rootfs: Option<Layers>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Layers {
    diff_ids: Option<List<String>>,
}

/// The keys of the object in `bytes`.
///
/// # Errors
/// It is no object, or a key that means something is there twice, or in
/// another case.
pub fn keys(bytes: &[u8]) -> Result<BTreeSet<String>, Error> {
    struct Keys;
    impl<'de> Visitor<'de> for Keys {
        type Value = Result<BTreeSet<String>, Error>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an index or a manifest")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut keys = Ok(BTreeSet::new());
            while let Some((key, IgnoredAny)) = map.next_entry::<String, _>()? {
                let known = KEYS.iter().any(|known| known.eq_ignore_ascii_case(&key));
                if let (true, Ok(found)) = (known, &mut keys)
                    && (!KEYS.contains(&key.as_str()) || !found.insert(key.clone()))
                {
                    keys = Err(Error::Ambiguous(key));
                }
            }
            Ok(keys)
        }
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let found = reader.deserialize_map(Keys)?;
    reader.end()?;
    found
}

impl Document {
    pub fn into_index(self) -> Result<super::Document, Error> {
        let list = self.manifests.unwrap_or_default();
        let manifests = entries(list)?;
        let extras = extras(self.artifact_type, self.subject, self.annotations)?;
        Ok(super::Document::Index(Index { manifests, extras }))
    }

    pub fn into_manifest(self) -> Result<super::Document, Error> {
        let config =
            self.config.ok_or_else(|| Error::Invalid("a manifest without a config".into()));
        let config = Box::new(config?.into_entry()?);
        let layers = entries(self.layers.unwrap_or_default())?;
        let extras = extras(self.artifact_type, self.subject, self.annotations)?;
        Ok(super::Document::Manifest(Manifest { config, layers, extras }))
    }
}

fn extras(
    artifact_type: Option<String>,
    subject: Option<Blob>,
    annotations: Option<Labels>,
) -> Result<Extras, Error> {
    let subject = subject.map(Blob::into_entry).transpose()?.map(Box::new);
    let artifact_type = artifact_type.filter(|text| !text.is_empty());
    Ok(Extras { artifact_type, subject, annotations: annotations.unwrap_or_default() })
}

fn entries(List(list): List<Blob>) -> Result<Vec<Entry>, Error> {
    if list.len() > MAX_ENTRIES {
        return Err(Error::Invalid(format!("it refers to more than {MAX_ENTRIES} blobs")));
    }
    list.into_iter().map(Blob::into_entry).collect()
}

impl Blob {
    fn into_entry(self) -> Result<Entry, Error> {
        let digest = self.digest.unwrap_or_default();
        let wrong = |reason: String| Error::Descriptor { digest: digest.clone(), reason };
        let size = self.size.unwrap_or_default();
        let size = u64::try_from(size).map_err(|_| wrong(format!("a size of {size} bytes")))?;
        let data = self.data.map(|data| STANDARD.decode(data));
        let data = data.transpose().map_err(|error| wrong(format!("its data: {error}")))?;
        let blob = Descriptor {
            media_type: self.media_type.unwrap_or_default(),
            digest: digest.parse().map_err(|_| wrong("no digest".into()))?,
            size,
            annotations: self.annotations.unwrap_or_default(),
        };
        Ok(Entry {
            blob,
            platform: self.platform.map(Runs::into_platform),
            artifact_type: self.artifact_type.filter(|text| !text.is_empty()),
            urls: self.urls.unwrap_or_default().0,
            // As containerd: what is not of the size that is promised is not
            // looked at.
            data: data.filter(|data| data.len() as u64 == size),
        })
    }
}

impl Runs {
    fn into_platform(self) -> Platform {
        Platform {
            os: self.os.unwrap_or_default(),
            architecture: self.architecture.unwrap_or_default(),
            variant: self.variant.unwrap_or_default(),
            os_version: self.os_version.unwrap_or_default(),
            os_features: self.os_features.unwrap_or_default().0,
        }
    }
}

impl Config {
    pub fn into_config(self) -> Result<ImageConfig, Error> {
        let Self { os, architecture, variant, os_version, os_features, rootfs } = self;
        let List(diff_ids) = rootfs.and_then(|layers| layers.diff_ids).unwrap_or_default();
        let parsed = diff_ids.into_iter().map(|digest| {
            let reason = "no diff ID".to_owned();
            digest.parse().map_err(|_| Error::Descriptor { digest, reason })
        });
        let diff_ids: Vec<_> = parsed.collect::<Result<_, _>>()?;
        if diff_ids.len() > MAX_ENTRIES {
            return Err(Error::Invalid(format!("more than {MAX_ENTRIES} diff IDs")));
        }
        let runs = Runs { os, architecture, variant, os_version, os_features };
        Ok(ImageConfig { platform: runs.into_platform().normalized(), diff_ids })
    }
}
