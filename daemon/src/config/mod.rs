//! What the daemon runs with: containerd's `config.toml`, versions 1 to 4,
//! read into one typed [`Config`].
//!
//! What applies to this daemon is applied; what does not is named in a
//! warning; what is wrong is refused with file and line. Nothing is guessed
//! and nothing falls back in silence. What [`Config::to_toml`] prints is what
//! runs.
//!
//! Inherited from containerd 2 (`cmd/containerd/server/config`): names,
//! versions, imports, and that merging a later file adds to lists and
//! overrides the rest, except with nothing.

mod apply;
mod document;
mod error;
pub mod images;
mod imports;
mod migrate;
mod plugins;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use davit_types::duration;
use serde::Serialize;

pub use error::ConfigError;
pub use images::{CriImages, CriRegistry, ImageVerifier, Transfer, Unpack};
pub use migrate::migrate;
pub use plugins::{
    Bolt, Btrfs, Differs, Erofs, Gc, Monitor, Native, Overlayfs, Plugins, ShimLauncher, Walking,
};

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/davit/config.toml";
/// Where the state is when nobody says otherwise.
pub const DEFAULT_STATE: &str = "/run/davit";
/// The version of the format that is written.
pub const VERSION: i64 = 3;
/// The latest version of the format that is read.
pub const LATEST_VERSION: i64 = 4;

/// Bytes of one gRPC message (containerd, `defaults`).
const MAX_MESSAGE_SIZE: usize = 16 << 20;

/// Everything that can be set. Serialises as a file of version [`VERSION`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    version: i64,
    /// Where what must survive a reboot is kept.
    pub root: PathBuf,
    /// Where what must not survive a reboot is kept.
    pub state: PathBuf,
    /// For the daemon's own process, -1000 to 1000; 0 leaves it alone.
    pub oom_score: i32,
    /// Plugins, by `type.id`, that are not served.
    pub disabled_plugins: Vec<String>,
    /// Plugins, by `type.id`, without which the daemon does not start.
    pub required_plugins: Vec<String>,
    /// The files that were read besides the first, as patterns.
    pub imports: Vec<String>,
    /// The gRPC socket.
    pub grpc: Grpc,
    /// The ttrpc socket.
    pub ttrpc: Socket,
    /// Logging.
    pub debug: Debug,
    /// Limits of time.
    pub timeouts: Timeouts,
    /// What containerd keeps in plugins.
    pub plugins: Plugins,
    /// Parts that run in other processes, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub proxy_plugins: BTreeMap<String, ProxyPlugin>,
    /// Programs that convert layers, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stream_processors: BTreeMap<String, StreamProcessor>,
}

/// The gRPC socket.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Grpc {
    /// Its path.
    pub address: PathBuf,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Bytes of a message that is received.
    pub max_recv_message_size: usize,
    /// Bytes of a message that is sent.
    pub max_send_message_size: usize,
}

/// The ttrpc socket.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Socket {
    /// Its path; empty for the gRPC socket's with `.ttrpc` behind.
    pub address: PathBuf,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Debug {
    /// `trace`, `debug`, `info`, `warn`, `error`, `fatal` or `panic`.
    pub level: String,
    /// `text` or `json`.
    pub format: String,
}

/// Limits of time that other processes are given.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timeouts {
    /// A shim's `delete`, and a rollback.
    #[serde(rename = "io.containerd.timeout.shim.cleanup", serialize_with = "go_duration")]
    pub shim_cleanup: Duration,
    /// A shim's answer when the daemon finds it again.
    #[serde(rename = "io.containerd.timeout.shim.load", serialize_with = "go_duration")]
    pub shim_load: Duration,
    /// A shim's end after it was told to.
    #[serde(rename = "io.containerd.timeout.shim.shutdown", serialize_with = "go_duration")]
    pub shim_shutdown: Duration,
    /// One task's state, when all are asked for.
    #[serde(rename = "io.containerd.timeout.task.state", serialize_with = "go_duration")]
    pub task_state: Duration,
}

/// A part that runs in another process.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ProxyPlugin {
    /// `snapshot`, `content`, `diff` or `sandbox`; also as the plugin's type
    /// (`io.containerd.snapshotter.v1`), of which this is made.
    #[serde(rename = "type")]
    pub kind: String,
    /// The path of its socket.
    pub address: String,
    /// What it can run, in the form `linux/amd64`; empty for this machine's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// What it tells clients: `root`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exports: BTreeMap<String, String>,
    /// What it can do: `remap-ids`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
}

impl ProxyPlugin {
    /// The type of the plugin that it is: `io.containerd.snapshotter.v1`.
    pub fn plugin_type(&self) -> &'static str {
        let found = PROXY_TYPES.iter().find(|(kind, _)| *kind == self.kind);
        found.map_or("", |(_, plugin)| plugin)
    }
}

/// What can run in another process: containerd's word, and the plugin's type.
const PROXY_TYPES: [(&str, &str); 4] = [
    ("snapshot", "io.containerd.snapshotter.v1"),
    ("content", "io.containerd.content.v1"),
    ("diff", "io.containerd.differ.v1"),
    ("sandbox", "io.containerd.sandbox.controller.v1"),
];

/// Our own content store.
const CONTENT_STORE: &str = "io.containerd.content.v1.content";

/// A program that converts a layer while it is unpacked.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StreamProcessor {
    /// The media types that it reads.
    pub accepts: Vec<String>,
    /// The media type that it writes.
    pub returns: String,
    /// The program.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment, `KEY=value`.
    pub env: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: VERSION,
            root: "/var/lib/davit".into(),
            state: DEFAULT_STATE.into(),
            oom_score: 0,
            disabled_plugins: Vec::new(),
            required_plugins: Vec::new(),
            imports: Vec::new(),
            grpc: Grpc {
                address: "/run/davit/davit.sock".into(),
                uid: 0,
                gid: 0,
                max_recv_message_size: MAX_MESSAGE_SIZE,
                max_send_message_size: MAX_MESSAGE_SIZE,
            },
            ttrpc: Socket { address: PathBuf::new(), uid: 0, gid: 0 },
            debug: Debug { level: "info".into(), format: "text".into() },
            timeouts: Timeouts {
                shim_cleanup: Duration::from_secs(5),
                shim_load: Duration::from_secs(5),
                shim_shutdown: Duration::from_secs(3),
                task_state: Duration::from_secs(2),
            },
            plugins: Plugins::default(),
            proxy_plugins: BTreeMap::new(),
            stream_processors: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reads the file at `path` and those it imports over the defaults.
    /// Answers with what to warn of, a line each.
    ///
    /// # Errors
    /// The first thing that is wrong, or a file that cannot be read.
    pub fn load(path: &Path) -> Result<(Self, Vec<String>), ConfigError> {
        imports::load(path)
    }

    /// Puts what the command line says over what the files say.
    ///
    /// # Errors
    /// The log level is none.
    pub fn override_with(&mut self, args: &crate::args::Args) -> Result<(), ConfigError> {
        for (path, flag) in [
            (&mut self.root, &args.root),
            (&mut self.state, &args.state),
            (&mut self.grpc.address, &args.address),
        ] {
            if let Some(flag) = flag {
                *path = flag.clone();
            }
        }
        if let Some(level) = &args.log_level {
            if !apply::LEVELS.contains(&level.as_str()) {
                let levels = apply::LEVELS.join(", ");
                let words = format!("--log-level: {level:?} is not one of {levels}");
                return Err(ConfigError::Invalid(words));
            }
            self.debug.level.clone_from(level);
        }
        Ok(())
    }

    /// Brings the settings that depend on others, or on where the daemon is
    /// started, into their final form. To be called once, after the command
    /// line was applied.
    ///
    /// # Errors
    /// A path is empty, or two are the same that must not be.
    pub fn complete(&mut self) -> Result<(), ConfigError> {
        for (what, path) in [
            ("root", &mut self.root),
            ("state", &mut self.state),
            ("grpc address", &mut self.grpc.address),
        ] {
            *path = absolute(what, path)?;
        }
        if self.root == self.state {
            return Err(ConfigError::Invalid("root and state must be different paths".into()));
        }
        if self.ttrpc.address.as_os_str().is_empty() {
            let mut address = self.grpc.address.clone().into_os_string();
            address.push(".ttrpc");
            self.ttrpc.address = address.into();
        }
        self.ttrpc.address = absolute("ttrpc address", &self.ttrpc.address)?;
        if self.ttrpc.address == self.grpc.address {
            return Err(ConfigError::Invalid("the two sockets must have different paths".into()));
        }
        self.plugins.complete(&self.root);
        self.check_differs()?;
        self.check_content()
    }

    /// The content stores in other processes that are not disabled.
    pub fn proxied_content(&self) -> impl Iterator<Item = String> {
        let proxies = self.proxy_plugins.iter().filter(|(_, proxy)| proxy.kind == "content");
        let names = proxies.map(|(name, proxy)| format!("{}.{name}", proxy.plugin_type()));
        names.filter(move |name| self.enabled(name))
    }

    /// As with containerd, whose index takes the only one that there is.
    fn check_content(&self) -> Result<(), ConfigError> {
        let own = Some(CONTENT_STORE.to_owned()).filter(|own| self.enabled(own));
        let stores: Vec<String> = own.into_iter().chain(self.proxied_content()).collect();
        match stores.len() {
            0 => Err(ConfigError::Invalid(format!(
                "disabled_plugins: without {CONTENT_STORE} there is no content store; \
                 proxy_plugins can name another"
            ))),
            1 => Ok(()),
            _ => Err(ConfigError::Invalid(format!(
                "there can be one content store alone: {} are enabled; disabled_plugins turns \
                 those off that are not to be used",
                stores.join(" and ")
            ))),
        }
    }

    fn check_differs(&self) -> Result<(), ConfigError> {
        let known = |name: &&String| {
            let proxied = self.proxy_plugins.get(*name).is_some_and(|proxy| proxy.kind == "diff");
            *name == "walking" || proxied
        };
        match self.plugins.diff.default.iter().find(|name| !known(name)) {
            None => Ok(()),
            Some(name) => Err(ConfigError::Invalid(format!(
                "plugins.\"io.containerd.service.v1.diff-service\".default: no differ {name:?}; \
                 there is \"walking\", and what proxy_plugins names"
            ))),
        }
    }

    /// The file that says the same.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration has only strings as keys")
    }

    /// Whether the plugin `id` (`type.id`) is to be served.
    pub fn enabled(&self, id: &str) -> bool {
        !self.disabled_plugins.iter().any(|disabled| disabled == id)
    }
}

fn absolute(what: &str, path: &Path) -> Result<PathBuf, ConfigError> {
    if path.as_os_str().is_empty() {
        return Err(ConfigError::Invalid(format!("{what} must be specified")));
    }
    std::path::absolute(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

fn go_duration<S: serde::Serializer>(length: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&duration::format(*length))
}
