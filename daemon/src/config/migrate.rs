//! Older versions of the format.
//!
//! Version 1 has short plugin names, version 2 full ones, version 3 renames
//! some of them and splits the table of the CRI plugin in two (containerd 2,
//! `cmd/containerd/server/config` and `internal/cri/config/config_migration`).

use std::path::Path;

use toml::{Table, Value};

use super::error::ConfigError;
use super::{VERSION, apply, document::Document, imports};

const CRI: &str = "io.containerd.grpc.v1.cri";
const CRI_IMAGES: &str = "io.containerd.cri.v1.images";
const CRI_RUNTIME: &str = "io.containerd.cri.v1.runtime";

/// Short names of version 1.
const SHORT: [(&str, &str); 16] = [
    ("cri", CRI),
    ("cgroups", "io.containerd.monitor.v1.cgroups"),
    ("linux", "io.containerd.runtime.v1.linux"),
    ("scheduler", "io.containerd.gc.v1.scheduler"),
    ("bolt", "io.containerd.metadata.v1.bolt"),
    ("task", "io.containerd.runtime.v2.task"),
    ("opt", "io.containerd.internal.v1.opt"),
    ("restart", "io.containerd.internal.v1.restart"),
    ("tracing", "io.containerd.internal.v1.tracing"),
    ("otlp", "io.containerd.tracing.processor.v1.otlp"),
    ("aufs", "io.containerd.snapshotter.v1.aufs"),
    ("btrfs", "io.containerd.snapshotter.v1.btrfs"),
    ("devmapper", "io.containerd.snapshotter.v1.devmapper"),
    ("native", "io.containerd.snapshotter.v1.native"),
    ("overlayfs", "io.containerd.snapshotter.v1.overlayfs"),
    ("zfs", "io.containerd.snapshotter.v1.zfs"),
];

/// Names of version 2 that are others in version 3.
const RENAMED: [(&str, &str); 2] = [
    ("io.containerd.internal.v1.restart", "io.containerd.monitor.container.v1.restart"),
    ("io.containerd.monitor.v1.cgroups", "io.containerd.monitor.task.v1.cgroups"),
];

/// What the image half of the CRI plugin takes over in version 3.
const OF_IMAGES: [&str; 6] = [
    "image_decryption",
    "image_pull_progress_timeout",
    "image_pull_with_sync_fs",
    "max_concurrent_downloads",
    "registry",
    "stats_collect_period",
];

/// What the image half takes over from the table `containerd`.
const OF_IMAGES_IN_CONTAINERD: [&str; 3] =
    ["disable_snapshot_annotations", "discard_unpacked_layers", "snapshotter"];

/// What stays in the table of the CRI plugin itself.
const OF_STREAMING: [&str; 7] = [
    "disable_tcp_service",
    "enable_tls_streaming",
    "stream_idle_timeout",
    "stream_server_address",
    "stream_server_port",
    "streaming_connection_idle_timeout",
    "x509_key_pair_streaming",
];

/// The name in version 3 of the plugin that is called `name` in `version`.
pub fn plugin_name(version: i64, name: &str) -> String {
    let mut name = name.to_owned();
    if version < 2 && !name.contains('.') {
        name = match SHORT.iter().find(|(short, _)| *short == name) {
            Some((_, full)) => (*full).to_owned(),
            None if name.ends_with("-service") => format!("io.containerd.service.v1.{name}"),
            None => format!("io.containerd.grpc.v1.{name}"),
        };
    }
    if version < 3
        && let Some((_, current)) = RENAMED.iter().find(|(old, _)| *old == name)
    {
        name = (*current).to_owned();
    }
    name
}

/// The file at `path`, in version 3. Everything in it is kept, whether it
/// applies to this daemon or not; comments are lost.
///
/// # Errors
/// It cannot be read or is wrong.
pub fn migrate(path: &Path) -> Result<String, ConfigError> {
    let text = imports::read(path)?;
    let document = Document::parse(path, &text)?;
    let version = apply::version(&document)?;
    apply::apply(&document, &mut super::Config::default(), &mut Vec::new())?;
    let mut table: Table =
        text.parse().map_err(|error: toml::de::Error| ConfigError::Invalid(error.to_string()))?;
    if version < VERSION {
        to_version_3(&mut table, version);
    }
    Ok(toml::to_string(&table).expect("what was parsed can be written"))
}

fn to_version_3(table: &mut Table, version: i64) {
    table.insert("version".into(), Value::Integer(VERSION));
    for key in ["disabled_plugins", "required_plugins"] {
        if let Some(Value::Array(names)) = table.get_mut(key) {
            for name in names {
                if let Value::String(text) = name {
                    *text = plugin_name(version, text);
                }
            }
        }
    }
    if let Some(Value::Table(plugins)) = table.get_mut("plugins") {
        let old = std::mem::take(plugins);
        for (name, value) in old {
            plugins.insert(plugin_name(version, &name), value);
        }
        split_cri(plugins);
    }
}

fn split_cri(plugins: &mut Table) {
    let Some(Value::Table(mut cri)) = plugins.remove(CRI) else { return };
    let mut images = take(&mut cri, &OF_IMAGES);
    let streaming = take(&mut cri, &OF_STREAMING);
    if let Some(image) = cri.remove("sandbox_image") {
        let pinned = Table::from_iter([("sandbox".to_owned(), image)]);
        images.insert("pinned_images".into(), Value::Table(pinned));
    }
    if let Some(Value::Table(containerd)) = cri.get_mut("containerd") {
        images.extend(take(containerd, &OF_IMAGES_IN_CONTAINERD));
    }
    for (name, table) in [(CRI, streaming), (CRI_IMAGES, images), (CRI_RUNTIME, cri)] {
        if !table.is_empty() {
            plugins.insert(name.into(), Value::Table(table));
        }
    }
}

fn take(from: &mut Table, keys: &[&str]) -> Table {
    keys.iter().filter_map(|key| Some(((*key).to_owned(), from.remove(*key)?))).collect()
}
