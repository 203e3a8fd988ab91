//! What the runtime answers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};

/// A container's state, as `state` and `list` print it (OCI runtime
/// specification, "State", plus what runc adds).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[non_exhaustive]
pub struct State {
    /// Version of the specification.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// The init process in the caller's pid namespace; 0 when it has exited.
    pub pid: u32,
    /// What the container is doing.
    pub status: Status,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// The root file system's directory, where the runtime tells.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339.
    pub created: String,
    /// User who created it; empty where the runtime does not tell.
    pub owner: String,
    /// Annotations of its specification.
    pub annotations: HashMap<String, String>,
}

/// What a container is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// Being created.
    Creating,
    /// Created, its process not started.
    Created,
    /// Running.
    Running,
    /// Paused.
    Paused,
    /// Its process has exited.
    #[default]
    Stopped,
    /// Another word of the runtime's.
    #[serde(untagged)]
    Other(String),
}

/// Output of `ps` as a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessTable {
    /// The columns' titles.
    pub titles: Vec<String>,
    /// One row a process, one cell a title; the last cell may hold spaces.
    pub rows: Vec<Vec<String>>,
}

/// What `--version` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Version {
    /// Name of the runtime, the first word.
    pub name: String,
    /// Version of the runtime.
    pub version: String,
    /// Commit it was built from, if it tells.
    pub commit: Option<String>,
    /// Version of the runtime specification, if it tells.
    pub spec: Option<String>,
    /// The whole output.
    pub text: String,
}

/// What `features` prints (OCI runtime specification, "Features Structure").
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Features {
    /// Oldest version of the specification that is understood.
    pub oci_version_min: String,
    /// Newest version of the specification that is understood.
    pub oci_version_max: String,
    /// Hooks that are run.
    pub hooks: Vec<String>,
    /// Mount options that are known.
    pub mount_options: Vec<String>,
    /// Annotations by which a runtime tells more (versions, CRIU support).
    pub annotations: HashMap<String, String>,
    /// The Linux part, as it stands.
    pub linux: serde_json::Value,
    /// The whole answer, unchanged.
    #[serde(skip)]
    pub json: Vec<u8>,
}

/// Reads a pid file that a call has written.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Parse`] when it holds no pid.
pub fn read_pid_file(path: &Path) -> Result<u32> {
    let text = std::fs::read(path)
        .map_err(|error| Error::io(format!("read pid file {}", path.display()), error))?;
    let pid = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    pid.filter(|pid| *pid > 0).ok_or_else(|| Error::parse("pid file", &text, None))
}
