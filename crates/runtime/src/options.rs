//! What the caller says: how the daemon is set up, and what a task is to be.

use std::path::PathBuf;
use std::time::Duration;

use davit_types::{Any, Mount};

use crate::Scratch;

/// How the daemon is set up, as far as tasks are concerned.
#[derive(Clone, Debug)]
pub struct Config {
    /// Holds `<namespace>/<id>`, the bundles:
    /// `<state>/io.containerd.runtime.v2.task`.
    pub state: PathBuf,
    /// Holds `<namespace>/<id>`, the working directories:
    /// `<root>/io.containerd.runtime.v2.task`.
    pub root: PathBuf,
    /// Where shims are told to bind their sockets: there already, closed to
    /// others, and short enough for the path of a socket.
    pub sockets: PathBuf,
    /// Where runc and its like keep `<namespace>/<id>`, unless a client says
    /// otherwise.
    pub runtime_root: PathBuf,
    /// The path of the gRPC socket, for shims.
    pub grpc_address: String,
    /// The path of the ttrpc socket, for shims to publish events to.
    pub ttrpc_address: String,
    /// The program that shims may run as `<it> --address A publish --topic T
    /// --namespace N`: the daemon's own.
    pub publish_binary: PathBuf,
    /// What is added to the environment of shims: `KEY=value`.
    pub shim_env: Vec<String>,
    /// Whether shims are started with `-debug`.
    pub debug: bool,
    /// How long things may take.
    pub limits: Limits,
}

/// How long things may take. The defaults are containerd's where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A shim's `start`, until it has answered with its address. containerd
    /// waits for ever; 60 seconds here.
    pub shim_start: Duration,
    /// A shim's answer when the daemon finds it again
    /// (`io.containerd.timeout.shim.load`): 5 seconds.
    pub shim_load: Duration,
    /// A shim's `delete`, and a rollback
    /// (`io.containerd.timeout.shim.cleanup`): 5 seconds.
    pub shim_cleanup: Duration,
    /// A shim's Shutdown, until it has gone
    /// (`io.containerd.timeout.shim.shutdown`): 3 seconds.
    pub shim_shutdown: Duration,
    /// The state of one task, when asked for in a list
    /// (`io.containerd.timeout.task.state`): 2 seconds.
    pub task_state: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            shim_start: Duration::from_secs(60),
            shim_load: Duration::from_secs(5),
            shim_cleanup: Duration::from_secs(5),
            shim_shutdown: Duration::from_secs(3),
            task_state: Duration::from_secs(2),
        }
    }
}

/// Where a process's streams go: a FIFO's path, or a URI with the scheme
/// `fifo`, `file` or `binary`; empty for nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Read by the process.
    pub stdin: String,
    /// Written by the process.
    pub stdout: String,
    /// Written by the process.
    pub stderr: String,
    /// Whether all three are one terminal.
    pub terminal: bool,
}

/// What a task is restored from.
#[derive(Debug, Default)]
pub enum Checkpoint {
    /// Nothing: it begins at its beginning.
    #[default]
    None,
    /// A directory that somebody else keeps.
    Path(String),
    /// A directory that goes with the task.
    Owned(Scratch),
}

/// What a task is to be.
#[derive(Debug, Default)]
pub struct CreateOptions {
    /// The OCI runtime specification, as JSON, unchanged; some sandboxes have
    /// none.
    pub spec: Option<Any>,
    /// What makes up the root filesystem; none when the bundle's spec names
    /// its own.
    pub rootfs: Vec<Mount>,
    /// The init's streams.
    pub stdio: Stdio,
    /// What it is restored from.
    pub checkpoint: Checkpoint,
    /// `io.containerd.runc.v2`, or the absolute path of a shim binary.
    pub runtime: String,
    /// The container's runtime options.
    pub runtime_options: Option<Any>,
    /// Options for this task alone. Where they are set, the container's are
    /// not used.
    pub task_options: Option<Any>,
    /// The sandbox that the task goes into, whose shim runs already.
    pub sandbox: Option<Sandbox>,
}

impl CreateOptions {
    /// The options that the shim is given: the task's, where they are set.
    pub(crate) fn for_shim(&self) -> Option<&Any> {
        let set = |options: &&Any| !options.value.is_empty();
        self.task_options.as_ref().filter(set).or(self.runtime_options.as_ref())
    }
}

/// A sandbox, and where its shim listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// `<protocol>+<address>`, as in `ttrpc+unix:///run/…`; empty where the
    /// sandbox is a task of this daemon by the same id.
    pub address: String,
    /// The version of the task API at that address.
    pub version: u32,
}

/// An additional process.
#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    /// The OCI specification of the process (`runtime-spec/specs-go.Process`),
    /// as JSON, unchanged.
    pub spec: Option<Any>,
    /// Its streams.
    pub stdio: Stdio,
}
