//! What containerd's configuration says about images on their way: transfers,
//! where registries are, who may refuse an image (containerd 2.2,
//! `plugins/transfer`, `plugins/imageverifier`, `internal/cri/config`).

use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use davit_distribution::verify::Verifiers;
use davit_types::Platform;
use serde::Serialize;

use super::document::Section;
use super::error::ConfigError;
use super::go_duration;

/// More pieces at a time, or of a length, than this are a mistake.
const MAX_COUNT: i64 = i32::MAX as i64;

/// Transfers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Transfer {
    /// Blobs that are fetched at a time, over all pulls; 0 for no limit.
    pub max_concurrent_downloads: usize,
    /// Large layers are fetched in pieces of so many bytes, several at a time;
    /// 0 for whole.
    pub concurrent_layer_fetch_buffer: u64,
    /// Blobs that are sent at a time, over all pushes; 0 for no limit.
    pub max_concurrent_uploaded_layers: usize,
    /// Layers that are unpacked at a time, over all pulls, and as many that
    /// are still arriving; 0 for as many as there are processors.
    pub max_concurrent_unpacks: usize,
    /// Unpack only what `unpack_config` names a platform for.
    pub check_platform_supported: bool,
    /// Directories of hosts files, separated by colons.
    pub config_path: String,
    /// Where which images are unpacked; with nothing said, this machine's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpack_config: Option<Vec<Unpack>>,
}

/// Where images of a platform are unpacked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unpack {
    /// The platform, as `linux/arm64`.
    #[serde(serialize_with = "in_full")]
    pub platform: Platform,
    /// The snapshotter.
    pub snapshotter: String,
    /// The differ; any that suits where none is named.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub differ: String,
}

impl Default for Transfer {
    fn default() -> Self {
        Self {
            max_concurrent_downloads: 3,
            concurrent_layer_fetch_buffer: 0,
            max_concurrent_uploaded_layers: 3,
            max_concurrent_unpacks: 0,
            check_platform_supported: false,
            config_path: String::new(),
            unpack_config: None,
        }
    }
}

impl Transfer {
    /// Layers that are unpacked at a time, and that are still arriving.
    pub fn unpacks_at_once(&self) -> usize {
        match self.max_concurrent_unpacks {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            limit => limit,
        }
    }

    pub(super) fn apply(&mut self, section: &mut Section<'_>) -> Result<(), ConfigError> {
        for (key, count) in [
            ("max_concurrent_downloads", &mut self.max_concurrent_downloads),
            ("max_concurrent_uploaded_layers", &mut self.max_concurrent_uploaded_layers),
            ("max_concurrent_unpacks", &mut self.max_concurrent_unpacks),
        ] {
            if let Some(number) = section.integer(key, 0, MAX_COUNT)? {
                *count = number as usize;
            }
        }
        if let Some(size) = section.integer("concurrent_layer_fetch_buffer", 0, MAX_COUNT)? {
            self.concurrent_layer_fetch_buffer = size as u64;
        }
        if let Some(flag) = section.boolean("check_platform_supported")? {
            self.check_platform_supported = flag;
        }
        if let Some(path) = section.string("config_path")? {
            self.config_path = path;
        }
        if let Some(entries) = section.tables("unpack_config")? {
            let unpacks = entries.into_iter().map(Unpack::read).collect::<Result<_, _>>()?;
            self.unpack_config = Some(unpacks);
        }
        Ok(())
    }

    /// Where which images are unpacked, the best place first.
    pub fn unpacks(&self) -> Vec<Unpack> {
        let here = || Unpack {
            platform: Platform::host(),
            snapshotter: "overlayfs".into(),
            differ: "walking".into(),
        };
        self.unpack_config.clone().unwrap_or_else(|| vec![here()])
    }
}

impl Unpack {
    fn read(mut section: Section<'_>) -> Result<Self, ConfigError> {
        let mut missing = |key: &str| {
            let text = section.string(key)?;
            text.ok_or_else(|| section.invalid(key, "must be specified"))
        };
        let (platform, snapshotter) = (missing("platform")?, missing("snapshotter")?);
        let platform = Platform::parse(&platform)
            .map_err(|error| section.invalid("platform", &error.to_string()))?;
        let differ = section.string("differ")?.unwrap_or_default();
        // Whether a place may be missing is for places that we do not have.
        section.take("optional");
        match section.unknown() {
            Some(key) => Err(section.invalid(&key, "no such setting")),
            None => Ok(Self { platform, snapshotter, differ }),
        }
    }
}

/// What the CRI plugin says about images. There is no CRI here, but its
/// registries are this machine's.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CriImages {
    /// Where registries are.
    pub registry: CriRegistry,
}

/// Where the CRI plugin finds registries.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CriRegistry {
    /// Directories of hosts files, separated by colons.
    pub config_path: String,
}

impl CriImages {
    /// Takes what applies to us. `false` when there was nothing.
    pub(super) fn apply(&mut self, section: &mut Section<'_>) -> Result<bool, ConfigError> {
        let Some(mut registry) = section.section("registry")? else { return Ok(false) };
        let Some(path) = registry.string("config_path")? else { return Ok(false) };
        self.registry.config_path = path;
        Ok(true)
    }
}

/// Programs that say whether an image may be pulled.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageVerifier {
    /// Where they are.
    pub bin_dir: PathBuf,
    /// How many of them are asked; below 0 for all.
    pub max_verifiers: i64,
    /// How long each may take.
    #[serde(serialize_with = "go_duration")]
    pub per_verifier_timeout: Duration,
}

impl Default for ImageVerifier {
    fn default() -> Self {
        Self {
            bin_dir: "/opt/containerd/image-verifier/bin".into(),
            max_verifiers: 10,
            per_verifier_timeout: Duration::from_secs(10),
        }
    }
}

impl ImageVerifier {
    /// Whom to ask.
    pub fn verifiers(&self) -> Verifiers {
        Verifiers {
            directory: self.bin_dir.clone(),
            limit: usize::try_from(self.max_verifiers).ok(),
            timeout: self.per_verifier_timeout,
        }
    }

    pub(super) fn apply(&mut self, section: &mut Section<'_>) -> Result<(), ConfigError> {
        if let Some(path) = section.string("bin_dir")? {
            self.bin_dir = path.into();
        }
        if let Some(count) = section.integer("max_verifiers", -1, MAX_COUNT)? {
            self.max_verifiers = count;
        }
        if let Some(length) = section.duration("per_verifier_timeout")? {
            self.per_verifier_timeout = length;
        }
        Ok(())
    }
}

/// The directories in a list that is separated by colons.
pub(super) fn directories(list: &str) -> Vec<PathBuf> {
    std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty()).collect()
}

fn in_full<S: serde::Serializer>(platform: &Platform, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&platform.to_full_string())
}
