//! What containerd keeps in its plugins' tables and this daemon has too.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::document::Section;
use super::error::ConfigError;
use super::go_duration;
use super::images::{CriImages, ImageVerifier, Transfer, directories};

/// The plugins' tables, by their names in version 3.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plugins {
    /// Metadata.
    #[serde(rename = "io.containerd.metadata.v1.bolt")]
    pub bolt: Bolt,
    /// When garbage is collected.
    #[serde(rename = "io.containerd.gc.v1.scheduler")]
    pub gc: Gc,
    /// What the CRI plugin would do with images.
    #[serde(rename = "io.containerd.cri.v1.images")]
    pub cri_images: CriImages,
    /// Who may refuse an image.
    #[serde(rename = "io.containerd.image-verifier.v1.bindir")]
    pub image_verifier: ImageVerifier,
    /// The restart monitor.
    #[serde(rename = "io.containerd.monitor.container.v1.restart")]
    pub restart: Monitor,
    /// Unpacking and comparing.
    #[serde(rename = "io.containerd.service.v1.diff-service")]
    pub diff: Differs,
    /// The differ `walking`.
    #[serde(rename = "io.containerd.differ.v1.walking")]
    pub walking: Walking,
    /// How shims are launched.
    #[serde(rename = "io.containerd.shim.v1.manager")]
    pub shim: ShimLauncher,
    /// The snapshotter `btrfs`.
    #[serde(rename = "io.containerd.snapshotter.v1.btrfs")]
    pub btrfs: Btrfs,
    /// The snapshotter `erofs`.
    #[serde(rename = "io.containerd.snapshotter.v1.erofs")]
    pub erofs: Erofs,
    /// The snapshotter `native`.
    #[serde(rename = "io.containerd.snapshotter.v1.native")]
    pub native: Native,
    /// The snapshotter `overlayfs`.
    #[serde(rename = "io.containerd.snapshotter.v1.overlayfs")]
    pub overlayfs: Overlayfs,
    /// Transfers.
    #[serde(rename = "io.containerd.transfer.v1.local")]
    pub transfer: Transfer,
}

/// Metadata.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bolt {
    /// `shared`: content of one namespace can be had in another by those who
    /// know its digest. `isolated`: only by those who have sent it.
    pub content_sharing_policy: String,
}

impl Default for Bolt {
    fn default() -> Self {
        Self { content_sharing_policy: "shared".into() }
    }
}

/// When garbage is collected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gc {
    /// The largest part of the time that collecting may take, up to a half.
    pub pause_threshold: f64,
    /// After how many deletions; 0 for never because of them.
    pub deletion_threshold: u64,
    /// After how many changes; 0 for never because of them.
    pub mutation_threshold: u64,
    /// How long after the moment that it is found to be time.
    #[serde(serialize_with = "go_duration")]
    pub schedule_delay: Duration,
    /// How long after the daemon's start.
    #[serde(serialize_with = "go_duration")]
    pub startup_delay: Duration,
}

impl Default for Gc {
    fn default() -> Self {
        Self {
            pause_threshold: 0.02,
            deletion_threshold: 0,
            mutation_threshold: 100,
            schedule_delay: Duration::ZERO,
            startup_delay: Duration::from_millis(100),
        }
    }
}

/// The restart monitor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Monitor {
    /// How long it waits between two looks at the containers.
    #[serde(serialize_with = "go_duration")]
    pub interval: Duration,
}

impl Default for Monitor {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10) }
    }
}

/// Unpacking and comparing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Differs {
    /// Who does it, in the order in which they are asked: `walking`, or a
    /// differ among the proxies.
    pub default: Vec<String>,
    /// Bring every unpacked layer to the disk before saying so.
    pub sync_fs: bool,
}

impl Default for Differs {
    fn default() -> Self {
        Self { default: vec!["walking".into()], sync_fs: false }
    }
}

/// The differ `walking`: what a layer may unpack to. 0 is for no limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Walking {
    /// Bytes of its archive.
    pub max_unpacked_bytes: u64,
    /// Bytes for each compressed one, in layers of more than a gigabyte.
    pub max_unpack_ratio: u64,
    /// Files and directories.
    pub max_unpacked_entries: u64,
}

impl Default for Walking {
    fn default() -> Self {
        let limits = davit_diff::Limits::default();
        Self {
            max_unpacked_bytes: limits.uncompressed_bytes,
            max_unpack_ratio: limits.ratio,
            max_unpacked_entries: limits.entries,
        }
    }
}

impl Walking {
    /// The limits that it sets.
    pub fn limits(&self) -> davit_diff::Limits {
        davit_diff::Limits {
            uncompressed_bytes: self.max_unpacked_bytes,
            ratio: self.max_unpack_ratio,
            entries: self.max_unpacked_entries,
            ..davit_diff::Limits::default()
        }
    }

    fn apply(&mut self, section: &mut Section<'_>) -> Result<(), ConfigError> {
        for (key, limit) in [
            ("max_unpacked_bytes", &mut self.max_unpacked_bytes),
            ("max_unpack_ratio", &mut self.max_unpack_ratio),
            ("max_unpacked_entries", &mut self.max_unpacked_entries),
        ] {
            if let Some(number) = section.integer(key, 0, i64::MAX)? {
                *limit = number as u64;
            }
        }
        Ok(())
    }
}

/// How shims are launched.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ShimLauncher {
    /// What is added to their environment, `KEY=value`.
    pub env: Vec<String>,
}

/// The snapshotter `native`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Native {
    /// Where its directories are; `io.containerd.snapshotter.v1.native` below
    /// the root by default.
    pub root_path: PathBuf,
}

/// The snapshotter `overlayfs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Overlayfs {
    /// Where its directories are; `io.containerd.snapshotter.v1.overlayfs`
    /// below the root by default.
    pub root_path: PathBuf,
    /// Tell clients where a snapshot's changes are, by a label.
    pub upperdir_label: bool,
    /// Accept snapshots with mapped ids although the kernel cannot map
    /// mounts.
    pub slow_chown: bool,
    /// What is added to the options of every mount.
    pub mount_options: Vec<String>,
    /// Answer to a removal when the files are gone. Otherwise they go in the
    /// background.
    pub sync_remove: bool,
}

/// The snapshotter `btrfs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Btrfs {
    /// Where its subvolumes are; `io.containerd.snapshotter.v1.btrfs` below
    /// the root by default.
    pub root_path: PathBuf,
}

/// The snapshotter `erofs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Erofs {
    /// Where its layers are; `io.containerd.snapshotter.v1.erofs` below the
    /// root by default.
    pub root_path: PathBuf,
    /// What is added to the options of every overlay mount.
    pub ovl_mount_options: Vec<String>,
    /// Let the kernel check every byte of a layer that is read.
    pub enable_fsverity: bool,
    /// Protect layers from being changed or removed by accident.
    pub set_immutable: bool,
}

impl Plugins {
    /// Takes what `section`, the table `plugins.<name>`, says. `name` is a
    /// plugin's name in any version of the format. `false` when there is no
    /// such plugin here.
    pub(super) fn apply(
        &mut self,
        name: &str,
        section: &mut Section<'_>,
    ) -> Result<bool, ConfigError> {
        match name {
            "io.containerd.metadata.v1.bolt" => self.bolt.apply(section)?,
            "io.containerd.gc.v1.scheduler" => self.gc.apply(section)?,
            "io.containerd.monitor.container.v1.restart" => {
                if let Some(interval) = section.duration("interval")? {
                    self.restart.interval = interval;
                }
            }
            "io.containerd.shim.v1.manager" => self.shim.apply(section)?,
            "io.containerd.runtime.v2.task" => self.apply_task(section)?,
            "io.containerd.service.v1.diff-service" => self.diff.apply(section)?,
            "io.containerd.differ.v1.walking" => self.walking.apply(section)?,
            "io.containerd.snapshotter.v1.btrfs" => {
                if let Some(path) = section.string("root_path")? {
                    self.btrfs.root_path = path.into();
                }
            }
            "io.containerd.snapshotter.v1.erofs" => self.erofs.apply(section)?,
            "io.containerd.snapshotter.v1.native" => {
                if let Some(path) = section.string("root_path")? {
                    self.native.root_path = path.into();
                }
            }
            "io.containerd.snapshotter.v1.overlayfs" => self.overlayfs.apply(section)?,
            "io.containerd.transfer.v1.local" => self.transfer.apply(section)?,
            "io.containerd.image-verifier.v1.bindir" => self.image_verifier.apply(section)?,
            // Named as a whole in a warning unless some of it is used.
            "io.containerd.cri.v1.images" | "io.containerd.grpc.v1.cri" => {
                return self.cri_images.apply(section);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Where hosts files are: where transfers are told to look, or where the
    /// CRI plugin is.
    pub fn registry_directories(&self) -> Vec<PathBuf> {
        let own = directories(&self.transfer.config_path);
        if own.is_empty() { directories(&self.cri_images.registry.config_path) } else { own }
    }

    /// The table of containerd's task plugin: the platform is this machine's,
    /// and core scheduling is asked of shims by a variable.
    fn apply_task(&mut self, section: &mut Section<'_>) -> Result<(), ConfigError> {
        let here = ["linux/amd64", "linux/arm64", "linux/arm64/v8"];
        for platform in section.strings("platforms")? {
            if !here.contains(&platform.as_str()) {
                let reason = format!("{platform:?} is not a platform of this daemon");
                return Err(section.invalid("platforms", &reason));
            }
        }
        if section.boolean("sched_core")? == Some(true) {
            self.shim.env.push("SCHED_CORE=1".into());
        }
        Ok(())
    }

    pub(super) fn complete(&mut self, root: &Path) {
        for (path, name) in [
            (&mut self.btrfs.root_path, "io.containerd.snapshotter.v1.btrfs"),
            (&mut self.erofs.root_path, "io.containerd.snapshotter.v1.erofs"),
            (&mut self.native.root_path, "io.containerd.snapshotter.v1.native"),
            (&mut self.overlayfs.root_path, "io.containerd.snapshotter.v1.overlayfs"),
        ] {
            if path.as_os_str().is_empty() {
                *path = root.join(name);
            }
        }
    }
}

impl Bolt {
    fn apply(&mut self, section: &mut Section<'_>) -> Result<(), ConfigError> {
        let choices = ["shared", "isolated"];
        if let Some(policy) = section.choice("content_sharing_policy", &choices)? {
            self.content_sharing_policy = policy;
        }
        Ok(())
    }
}

impl Gc {
    fn apply(&mut self, section: &mut Section<'_>) -> Result<(), ConfigError> {
        if let Some(part) = section.float("pause_threshold", 0.0, 0.5)? {
            self.pause_threshold = part;
        }
        for (key, threshold) in [
            ("deletion_threshold", &mut self.deletion_threshold),
            ("mutation_threshold", &mut self.mutation_threshold),
        ] {
            if let Some(count) = section.integer(key, 0, i64::MAX)? {
                *threshold = count as u64;
            }
        }
        for (key, delay) in [
            ("schedule_delay", &mut self.schedule_delay),
            ("startup_delay", &mut self.startup_delay),
        ] {
            if let Some(length) = section.duration(key)? {
                *delay = length;
            }
        }
        Ok(())
    }
}

impl Differs {
    fn apply(&mut self, section: &mut Section<'_>) -> Result<(), ConfigError> {
        let differs = section.strings("default")?;
        if !differs.is_empty() {
            self.default = differs;
        }
        if let Some(flag) = section.boolean("sync_fs")? {
            self.sync_fs |= flag;
        }
        Ok(())
    }
}

impl ShimLauncher {
    fn apply(&mut self, section: &mut Section<'_>) -> Result<(), ConfigError> {
        for variable in section.strings("env")? {
            if !variable.contains('=') {
                return Err(section.invalid("env", &format!("{variable:?} is not KEY=value")));
            }
            if !self.env.contains(&variable) {
                self.env.push(variable);
            }
        }
        Ok(())
    }
}

impl Overlayfs {
    fn apply(&mut self, section: &mut Section<'_>) -> Result<(), ConfigError> {
        if let Some(path) = section.string("root_path")? {
            self.root_path = path.into();
        }
        if let Some(flag) = section.boolean("upperdir_label")? {
            self.upperdir_label |= flag;
        }
        if let Some(flag) = section.boolean("slow_chown")? {
            self.slow_chown |= flag;
        }
        if let Some(flag) = section.boolean("sync_remove")? {
            self.sync_remove |= flag;
        }
        for option in section.strings("mount_options")? {
            if !self.mount_options.contains(&option) {
                self.mount_options.push(option);
            }
        }
        Ok(())
    }
}

impl Erofs {
    fn apply(&mut self, section: &mut Section<'_>) -> Result<(), ConfigError> {
        if let Some(path) = section.string("root_path")? {
            self.root_path = path.into();
        }
        for option in section.strings("ovl_mount_options")? {
            if !self.ovl_mount_options.contains(&option) {
                self.ovl_mount_options.push(option);
            }
        }
        for (key, setting) in [
            ("enable_fsverity", &mut self.enable_fsverity),
            ("set_immutable", &mut self.set_immutable),
        ] {
            if let Some(flag) = section.boolean(key)? {
                *setting |= flag;
            }
        }
        if section.string("default_size")?.is_some_and(|size| size != "0") {
            let reason = "writable layers of a fixed size are not there yet";
            return Err(section.invalid("default_size", reason));
        }
        Ok(())
    }
}
