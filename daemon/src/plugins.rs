//! containerd's plugins, as far as this daemon has them, for clients that
//! look for one by type and id before they use it. There is no registry: this
//! table is told, the wiring is in [`crate::app`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use davit_types::Platform;

use crate::config::{Config, ProxyPlugin};

/// A plugin as introspection tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// `io.containerd.snapshotter.v1`.
    pub kind: &'static str,
    /// `overlayfs`.
    pub id: String,
    /// The types of what containerd builds it on.
    pub requires: &'static [&'static str],
    /// What it is said to run on, where it says so.
    pub platform: Option<Platform>,
    /// What it tells clients: `root`.
    pub exports: BTreeMap<String, String>,
    /// What it can do: `remap-ids`.
    pub capabilities: Vec<String>,
    /// Why it did not start.
    pub failure: Option<String>,
}

impl Plugin {
    /// The name that configurations use: `type.id`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.kind, self.id)
    }
}

const CONTENT: &str = "io.containerd.content.v1";
const DIFF: &str = "io.containerd.differ.v1";
const EVENT: &str = "io.containerd.event.v1";
const GC: &str = "io.containerd.gc.v1";
const GRPC: &str = "io.containerd.grpc.v1";
const IMAGE_VERIFIER: &str = "io.containerd.image-verifier.v1";
const LEASE: &str = "io.containerd.lease.v1";
const METADATA: &str = "io.containerd.metadata.v1";
const MOUNT: &str = "io.containerd.mount-manager.v1";
const MOUNT_HANDLER: &str = "io.containerd.mount-handler.v1";
const RESTART: &str = "io.containerd.monitor.container.v1";
const RUNTIME: &str = "io.containerd.runtime.v2";
const SERVICE: &str = "io.containerd.service.v1";
const SHIM: &str = "io.containerd.shim.v1";
const SNAPSHOT: &str = "io.containerd.snapshotter.v1";
const STREAMING: &str = "io.containerd.streaming.v1";
const TRANSFER: &str = "io.containerd.transfer.v1";
const WARNING: &str = "io.containerd.warning.v1";

/// What the restart monitor understands.
const RESTART_POLICIES: [&str; 4] = ["no", "always", "on-failure", "unless-stopped"];

/// Type, id, requirements, and whether it names a platform; containerd 2.2's,
/// in the order in which it would start them.
const TABLE: [(&str, &str, &[&str], bool); 42] = [
    (CONTENT, "content", &[], false),
    (SNAPSHOT, "btrfs", &[], true),
    (SNAPSHOT, "erofs", &[], true),
    (SNAPSHOT, "native", &[], true),
    (SNAPSHOT, "overlayfs", &[], true),
    (EVENT, "exchange", &[], false),
    (METADATA, "bolt", &[CONTENT, EVENT, SNAPSHOT], false),
    (GC, "scheduler", &[METADATA], false),
    (LEASE, "manager", &[METADATA], false),
    (MOUNT_HANDLER, "erofs", &[], true),
    (MOUNT, "bolt", &[METADATA, MOUNT_HANDLER], false),
    (DIFF, "walking", &[METADATA, MOUNT], true),
    (SHIM, "manager", &[EVENT, METADATA], false),
    (RUNTIME, "task", &[SHIM], true),
    (WARNING, "deprecations", &[], false),
    (SERVICE, "containers-service", &[METADATA], false),
    (SERVICE, "content-service", &[METADATA], false),
    (SERVICE, "diff-service", &[DIFF], false),
    (SERVICE, "images-service", &[METADATA, WARNING], false),
    (SERVICE, "introspection-service", &[WARNING], false),
    (SERVICE, "namespaces-service", &[METADATA], false),
    (SERVICE, "snapshots-service", &[METADATA], false),
    (SERVICE, "tasks-service", &[RUNTIME, METADATA, EVENT], false),
    (STREAMING, "manager", &[METADATA], false),
    (IMAGE_VERIFIER, "bindir", &[], false),
    (TRANSFER, "local", &[LEASE, METADATA, DIFF, IMAGE_VERIFIER], false),
    (RESTART, "restart", &[EVENT, SERVICE], false),
    (GRPC, "containers", &[SERVICE], false),
    (GRPC, "content", &[SERVICE], false),
    (GRPC, "diff", &[SERVICE], false),
    (GRPC, "events", &[EVENT], false),
    (GRPC, "healthcheck", &[SERVICE], false),
    (GRPC, "images", &[SERVICE], false),
    (GRPC, "introspection", &[SERVICE], false),
    (GRPC, "leases", &[LEASE], false),
    (GRPC, "mounts", &[MOUNT], false),
    (GRPC, "namespaces", &[SERVICE], false),
    (GRPC, "snapshots", &[SERVICE], false),
    (GRPC, "streaming", &[STREAMING], false),
    (GRPC, "tasks", &[SERVICE], false),
    (GRPC, "transfer", &[TRANSFER, STREAMING], false),
    (GRPC, "version", &[SERVICE], false),
];

/// The plugins of a daemon with this configuration, in order. `failures` are
/// those that did not start (`type.id`), with the reason; `capabilities` what
/// some of them found out about themselves.
pub fn list(
    config: &Config,
    failures: &BTreeMap<String, String>,
    capabilities: &BTreeMap<String, Vec<String>>,
) -> Vec<Plugin> {
    TABLE
        .iter()
        .map(|&(kind, id, requires, on_platform)| {
            let name = format!("{kind}.{id}");
            let exports = exports(config, kind, id);
            let capabilities = match kind {
                RESTART => RESTART_POLICIES.map(str::to_owned).into(),
                _ => capabilities.get(&name).cloned().unwrap_or_default(),
            };
            let failure = failures.get(&name).cloned();
            let (id, platform) = (id.to_owned(), on_platform.then(Platform::host));
            Plugin { kind, id, requires, platform, exports, capabilities, failure }
        })
        .chain(config.proxy_plugins.iter().filter_map(|(name, proxy)| proxied(name, proxy)))
        .filter(|plugin| config.enabled(&plugin.name()))
        .collect()
}

/// A plugin that runs elsewhere; what it is said to be is all that is known of
/// it before it is called.
fn proxied(name: &str, proxy: &ProxyPlugin) -> Option<Plugin> {
    let kind = [CONTENT, SNAPSHOT, DIFF].into_iter().find(|kind| *kind == proxy.plugin_type())?;
    let platform = match proxy.platform.as_str() {
        "" => Some(Platform::host()),
        // One that cannot be read was refused with the configuration.
        text => Platform::parse(text).ok(),
    };
    let mut exports = proxy.exports.clone();
    exports.insert("address".to_owned(), proxy.address.clone());
    let capabilities = proxy.capabilities.clone();
    let id = name.to_owned();
    Some(Plugin { kind, id, requires: &[], platform, exports, capabilities, failure: None })
}

fn exports(config: &Config, kind: &str, id: &str) -> BTreeMap<String, String> {
    let root = |path: &Path| vec![("root", path.display().to_string())];
    let exports = match (kind, id) {
        (CONTENT, _) => root(&content_root(config)),
        (SNAPSHOT, "btrfs") => root(&config.plugins.btrfs.root_path),
        (SNAPSHOT, "erofs") => root(&config.plugins.erofs.root_path),
        (SNAPSHOT, "native") => root(&config.plugins.native.root_path),
        (SNAPSHOT, _) => root(&config.plugins.overlayfs.root_path),
        (METADATA, _) => vec![
            ("path", index_path(config).display().to_string()),
            ("policy", config.plugins.bolt.content_sharing_policy.clone()),
        ],
        _ => Vec::new(),
    };
    exports.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Where the content store is.
pub fn content_root(config: &Config) -> PathBuf {
    config.root.join("io.containerd.content.v1.content")
}

/// Where the index is.
pub fn index_path(config: &Config) -> PathBuf {
    config.root.join("index.db")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disabled_plugins_are_not_there_and_failed_ones_say_why() {
        let mut config = Config::default();
        config.disabled_plugins = vec!["io.containerd.grpc.v1.tasks".into()];
        let failures = BTreeMap::from([(
            "io.containerd.snapshotter.v1.overlayfs".to_owned(),
            "no overlay here".to_owned(),
        )]);
        let plugins = list(&config, &failures, &BTreeMap::new());
        assert_eq!(plugins.len(), TABLE.len() - 1);
        let named = |name: &str| plugins.iter().find(|plugin| plugin.name() == name);
        assert_eq!(named("io.containerd.grpc.v1.tasks"), None);
        let overlayfs = named("io.containerd.snapshotter.v1.overlayfs").unwrap();
        assert_eq!(overlayfs.failure.as_deref(), Some("no overlay here"));
        assert!(overlayfs.exports.contains_key("root"));
    }

    #[test]
    fn what_is_required_exists() {
        let kinds: Vec<&str> = TABLE.iter().map(|entry| entry.0).collect();
        for (kind, id, requires, _) in TABLE {
            assert!(requires.iter().all(|required| kinds.contains(required)), "{kind}.{id}");
        }
    }
}
