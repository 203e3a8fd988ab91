//! Putting the daemon together: every part by its constructor, in the order
//! in which they need each other, from one [`Config`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use davit_content::LocalStore;
use davit_diff::{StreamProcessor, StreamProcessors};
use davit_distribution::registry::{Ranges, Registry, Settings};
use davit_events::Exchange;
use davit_index::{Collector, ContentStore, Index, Sharing, Snapshotter};
use davit_runtime::{Limits, Tasks};
use davit_snapshots::{Backend, Btrfs, Erofs, ErofsConfig, Native, Overlay, OverlayConfig};
use davit_types::Kind;

use crate::config::{Config, DEFAULT_STATE};
use crate::error::Error;
use crate::lock::{Claim, claim, make_directory};
use crate::mounts::Mounts;
use crate::plugins::{self, Plugin};
use crate::proxy::{Differs, Proxies};
use crate::pull::Images;
use crate::services::diff::{Diff, DiffConfig};
use crate::services::introspection::{pidns, uuid};

/// Others have no business in what survives a reboot.
const ROOT_MODE: u32 = 0o700;
/// Containers with mapped ids go through to their own root filesystem, and
/// see nothing on the way.
const STATE_MODE: u32 = 0o711;

/// The smallest pieces that large layers are fetched in, in bytes; smaller
/// ones mean whole, as with containerd.
const SMALLEST_PIECE: u64 = 512;

/// The name of the plugin that bundles and working directories are kept
/// under.
const TASK_PLUGIN: &str = "io.containerd.runtime.v2.task";

/// Within the state directory, the one for shims' sockets.
const SOCKETS: &str = "s";
/// How long shims' sockets are named, in bytes: a SHA-256 in hexadecimal.
const SOCKET_NAME: usize = 64;
/// How long a socket's path may be, in bytes, as containerd counts it.
const SOCKET_PATH: usize = 106;

/// The daemon, wired and not yet serving.
pub struct App {
    /// What it was built from.
    pub config: Config,
    /// What introspection tells of.
    pub plugins: Vec<Plugin>,
    /// Who it is.
    pub uuid: String,
    /// Where it is.
    pub pidns: u64,
    /// Where all events go through.
    pub events: Arc<Exchange>,
    /// Everything that is known.
    pub index: Arc<Index>,
    /// Blobs.
    pub content: Arc<ContentStore>,
    /// Snapshots, by the name of the snapshotter.
    pub snapshotters: BTreeMap<String, Arc<Snapshotter>>,
    /// Layers, by our own differ.
    pub diff: Diff,
    /// Layers, by all differs that are configured.
    pub differs: Differs,
    /// What runs in other processes.
    pub proxies: Proxies,
    /// What pulls and pushes share.
    pub images: Images,
    /// What speaks with registries.
    pub registry: Registry,
    /// Removes what nothing holds.
    pub collector: Arc<Collector>,
    /// What was mounted for clients.
    pub mounts: Arc<Mounts>,
    /// What runs.
    pub tasks: Tasks,
    /// Why nobody else uses root and state.
    pub claims: [Claim; 2],
}

impl App {
    /// Builds every part. Blocks; nothing is served yet.
    ///
    /// # Errors
    /// Another daemon uses the directories; a part does not start; a plugin
    /// that is required is disabled, failed, or is not ours.
    pub fn build(config: Config) -> Result<Self, Error> {
        let claims =
            [claim("root", &config.root, ROOT_MODE)?, claim("state", &config.state, STATE_MODE)?];
        let events = Arc::new(Exchange::new(davit_protocols::event_field));
        let index = Index::open(&plugins::index_path(&config));
        let index = Arc::new(index.map_err(Error::part("open the index"))?);
        let proxies = Proxies::new(&config, &index).map_err(Error::part("set proxies up"))?;
        let content = Arc::new(content(&config, &index, &proxies)?);
        let Backends { opened, failures, capabilities } = backends(&config);
        let snapshotters: BTreeMap<String, Arc<Snapshotter>> = opened
            .into_iter()
            .map(|backend| {
                let name = backend.name().to_owned();
                (name, Arc::new(Snapshotter::new(Arc::clone(&index), backend)))
            })
            .collect();
        let collector = Arc::new(Collector::new(
            Arc::clone(&index),
            Arc::clone(&content),
            snapshotters.values().cloned().collect(),
        ));
        let diff = diff(&config, &content, &events)?;
        let differs = Differs::new(&config.plugins.diff.default, &diff, &proxies);
        let differs = differs.map_err(Error::Input)?;
        let images = Images::new(
            Arc::clone(&index),
            Arc::clone(&content),
            snapshotters.clone(),
            diff.clone(),
            Arc::clone(&events),
            &config.plugins.transfer,
        );
        let registry = Registry::new(registry_settings(&config));
        let mounts_state = config.state.join("io.containerd.mount-manager.v1.bolt");
        let mounts = Mounts::open(&mounts_state, &config.root);
        let mounts = Arc::new(mounts.map_err(Error::part("find mounts again"))?);
        let tasks = Tasks::new(task_config(&config)?, Arc::clone(&events))
            .map_err(Error::part("prepare for tasks"))?;
        let plugins = plugins::list(&config, &failures, &capabilities);
        check_required(&config, &plugins)?;
        let uuid = uuid(&config.root.join("io.containerd.grpc.v1.introspection"))?;
        let pidns = pidns()?;
        Ok(Self {
            config,
            plugins,
            uuid,
            pidns,
            events,
            index,
            content,
            snapshotters,
            diff,
            differs,
            proxies,
            images,
            registry,
            collector,
            mounts,
            tasks,
            claims,
        })
    }
}

fn registry_settings(config: &Config) -> Settings {
    let size = config.plugins.transfer.concurrent_layer_fetch_buffer;
    let ranges = (size > SMALLEST_PIECE).then(|| Ranges { size, ..Ranges::default() });
    Settings { ranges, ..Settings::default() }
}

fn content(config: &Config, index: &Arc<Index>, proxies: &Proxies) -> Result<ContentStore, Error> {
    let backend: Arc<dyn davit_content::Backend> = match &proxies.content {
        Some(proxied) => Arc::new(proxied.clone()),
        None => {
            let local = LocalStore::open(&plugins::content_root(config));
            Arc::new(local.map_err(Error::part("open the content store"))?)
        }
    };
    let sharing = match config.plugins.bolt.content_sharing_policy.as_str() {
        "isolated" => Sharing::Isolated,
        _ => Sharing::Shared,
    };
    Ok(ContentStore::new(Arc::clone(index), backend, sharing))
}

/// Workers mount over a directory that nobody else looks into.
fn diff(
    config: &Config,
    content: &Arc<ContentStore>,
    events: &Arc<Exchange>,
) -> Result<Diff, Error> {
    let scratch = config.state.join("io.containerd.differ.v1.walking");
    let processors = config.stream_processors.iter();
    let settings = DiffConfig {
        scratch: scratch.clone(),
        processors: StreamProcessors::new(processors.map(stream_processor).collect()),
        limits: config.plugins.walking.limits(),
        sync: config.plugins.diff.sync_fs,
    };
    Diff::new(Arc::clone(content), Arc::clone(events), settings)
        .map_err(Error::io("prepare", scratch))
}

fn stream_processor((id, one): (&String, &crate::config::StreamProcessor)) -> StreamProcessor {
    StreamProcessor {
        id: id.clone(),
        accepts: one.accepts.clone(),
        returns: one.returns.clone(),
        path: one.path.clone().into(),
        args: one.args.clone(),
        env: one.env.clone(),
    }
}

struct Backends {
    opened: Vec<Arc<dyn Backend>>,
    /// By plugin.
    failures: BTreeMap<String, String>,
    /// By plugin.
    capabilities: BTreeMap<String, Vec<String>>,
}

/// Opens the snapshotters' backends. One that does not work here (a file
/// system that overlays cannot lie on) is told of and done without.
fn backends(config: &Config) -> Backends {
    let mut found =
        Backends { opened: Vec::new(), failures: BTreeMap::new(), capabilities: BTreeMap::new() };
    let plugins = &config.plugins;
    found.add(config, "btrfs", || Ok((Btrfs::open(&plugins.btrfs.root_path)?, Vec::new())));
    found.add(config, "erofs", || {
        let settings = &plugins.erofs;
        let options = ErofsConfig {
            mount_options: settings.ovl_mount_options.clone(),
            fsverity: settings.enable_fsverity,
            immutable: settings.set_immutable,
        };
        let backend = Erofs::open(&settings.root_path, options)?;
        let capabilities = backend.capabilities();
        Ok((backend, capabilities))
    });
    found.add(config, "overlayfs", || {
        let settings = &plugins.overlayfs;
        let options = OverlayConfig {
            mount_options: settings.mount_options.clone(),
            upperdir_label: settings.upperdir_label,
            slow_chown: settings.slow_chown,
            async_remove: !settings.sync_remove,
        };
        let backend = Overlay::open(&settings.root_path, options)?;
        let capabilities = backend.capabilities();
        Ok((backend, capabilities))
    });
    found.add(config, "native", || Ok((Native::open(&plugins.native.root_path)?, Vec::new())));
    found
}

impl Backends {
    /// Takes a backend in, with its capabilities, unless it is disabled.
    fn add<B: Backend + 'static>(
        &mut self,
        config: &Config,
        name: &str,
        open: impl FnOnce() -> Result<(B, Vec<&'static str>), davit_snapshots::Error>,
    ) {
        let plugin = format!("io.containerd.snapshotter.v1.{name}");
        if !config.enabled(&plugin) {
            return;
        }
        match open() {
            Ok((backend, capabilities)) => {
                let capabilities = capabilities.into_iter().map(str::to_owned).collect();
                self.capabilities.insert(plugin, capabilities);
                self.opened.push(Arc::new(backend));
            }
            Err(error) => {
                let (plugin, reason) = (plugin, error.full_message());
                if matches!(error, davit_snapshots::Error::Skipped(_)) {
                    log::info!(plugin, reason = reason.as_str(); "a snapshotter is not for here");
                } else {
                    log::warn!(plugin, error = reason.as_str(); "a snapshotter does not work here");
                }
                self.failures.insert(plugin, reason);
            }
        }
    }
}

fn task_config(config: &Config) -> Result<davit_runtime::Config, Error> {
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let timeouts = &config.timeouts;
    Ok(davit_runtime::Config {
        state: config.state.join(TASK_PLUGIN),
        root: config.root.join(TASK_PLUGIN),
        sockets: socket_directory(config)?,
        runtime_root: config.state.join("runc"),
        grpc_address: text(&config.grpc.address),
        ttrpc_address: text(&config.ttrpc.address),
        publish_binary: std::env::current_exe().map_err(Error::io("find", "our own program"))?,
        shim_env: config.plugins.shim.env.clone(),
        debug: matches!(config.debug.level.as_str(), "debug" | "trace"),
        limits: Limits {
            shim_load: unless_zero(timeouts.shim_load, Limits::default().shim_load),
            shim_cleanup: unless_zero(timeouts.shim_cleanup, Limits::default().shim_cleanup),
            shim_shutdown: unless_zero(timeouts.shim_shutdown, Limits::default().shim_shutdown),
            task_state: unless_zero(timeouts.task_state, Limits::default().task_state),
            ..Limits::default()
        },
    })
}

/// Where shims' sockets go: below the state directory, or where a socket's path
/// is short enough. Their names differ between daemons.
fn socket_directory(config: &Config) -> Result<PathBuf, Error> {
    let own = config.state.join(SOCKETS);
    if own.as_os_str().len() + "/".len() + SOCKET_NAME <= SOCKET_PATH {
        make_directory(&own, ROOT_MODE)?;
        return Ok(own);
    }
    let short = Path::new(DEFAULT_STATE);
    make_directory(short, STATE_MODE)?;
    make_directory(&short.join(SOCKETS), ROOT_MODE)?;
    Ok(short.join(SOCKETS))
}

/// No wait is without a limit.
fn unless_zero(length: Duration, default: Duration) -> Duration {
    if length.is_zero() { default } else { length }
}

fn check_required(config: &Config, plugins: &[Plugin]) -> Result<(), Error> {
    for required in &config.required_plugins {
        let reason = match plugins.iter().find(|plugin| plugin.name() == *required) {
            None => "is not included",
            Some(Plugin { failure: Some(_), .. }) => "did not start",
            Some(_) => continue,
        };
        return Err(Error::Input(format!("required plugin {required} {reason}")));
    }
    Ok(())
}
