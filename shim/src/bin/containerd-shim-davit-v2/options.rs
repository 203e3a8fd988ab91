//! How the runtime is to be used: the options that come with Create, and
//! their copy in the bundle, for the `delete` command after this process's
//! death.
//!
//! Two messages are understood: `containerd.runc.v1.Options`, which clients
//! attach to the runtime `io.containerd.runc.v2`, and
//! `runtimeoptions.v1.Options`, whose body is TOML with the names of the
//! former's Go fields (`SystemdCgroup = true`), which is what a CRI
//! configuration becomes for a runtime of any other name.

use std::io;
use std::path::{Path, PathBuf};

use davit_protocols::ttrpc::{options as runc, runtimeoptions};
use davit_shim::Failure;
use davit_types::{Any, ErrorKind};
use protobuf::Message;
use serde::{Deserialize, Serialize};

/// Below which each namespace has its own directory of runtime state, unless
/// the options say otherwise (containerd: `process.RuncRoot`).
const DEFAULT_ROOT: &str = "/run/containerd/runc";
/// The copy in the bundle; names and omissions are those of Go's JSON.
const COPY: &str = "options.json";
/// The runtime's name alone, as containerd before 1.6 looked for it.
const RUNTIME: &str = "runtime";
/// The runtime when none is named.
const DEFAULT_RUNTIME: &str = "runc";
/// How long a `runtimeoptions` file may be, in bytes.
const CONFIG_LIMIT: u64 = 1 << 20;

/// The options of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Do not use `pivot_root`.
    #[serde(skip_serializing_if = "is_default")]
    pub no_pivot_root: bool,
    /// Keep the caller's session keyring.
    #[serde(skip_serializing_if = "is_default")]
    pub no_new_keyring: bool,
    /// The cgroup that the shim itself is put into (done at its start).
    #[serde(skip_serializing_if = "is_default")]
    pub shim_cgroup: String,
    /// Who owns the container's standard streams.
    #[serde(skip_serializing_if = "is_default")]
    pub io_uid: u32,
    /// Which group owns them.
    #[serde(skip_serializing_if = "is_default")]
    pub io_gid: u32,
    /// The runtime: a name or a path; `runc` when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub binary_name: String,
    /// Where the runtime keeps its state, without the namespace.
    #[serde(skip_serializing_if = "is_default")]
    pub root: String,
    /// The `criu` program (containerd 1.6 and older).
    #[serde(skip_serializing_if = "is_default")]
    pub criu_path: String,
    /// Let systemd make the cgroup.
    #[serde(skip_serializing_if = "is_default")]
    pub systemd_cgroup: bool,
    /// Where checkpoints go; used by the daemon.
    #[serde(skip_serializing_if = "is_default")]
    pub criu_image_path: String,
    /// Where CRIU works; `work` in the bundle when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub criu_work_path: String,
    /// Where the task service of a sandbox listens; used by the daemon.
    #[serde(skip_serializing_if = "is_default")]
    pub task_api_address: String,
    /// Which version it speaks.
    #[serde(skip_serializing_if = "is_default")]
    pub task_api_version: u32,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The names that a TOML body uses: those of the Go fields.
#[derive(Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[derive(Default)]
struct TomlOptions {
    no_pivot_root: bool,
    no_new_keyring: bool,
    shim_cgroup: String,
    io_uid: u32,
    io_gid: u32,
    binary_name: String,
    root: String,
    criu_path: String,
    systemd_cgroup: bool,
    criu_image_path: String,
    criu_work_path: String,
    #[serde(alias = "TaskAPIAddress")]
    task_api_address: String,
    #[serde(alias = "TaskAPIVersion")]
    task_api_version: u32,
}

impl Options {
    /// Reads what a client attached; no message, or an empty one, is no
    /// option set.
    ///
    /// # Errors
    /// A message of another type, or one that cannot be read.
    pub fn from_any(any: Option<&Any>) -> Result<Self, Failure> {
        let Some(any) = any.filter(|any| !any.value.is_empty()) else {
            return Ok(Self::default());
        };
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "containerd.runc.v1.Options" => Self::from_runc(&any.value),
            "runtimeoptions.v1.Options" => Self::from_runtimeoptions(&any.value),
            _ => {
                let text = format!("type with url {}: not found", any.type_url);
                Err(Failure::new(ErrorKind::Unknown, text))
            }
        }
    }

    fn from_runc(bytes: &[u8]) -> Result<Self, Failure> {
        let message = runc::Options::parse_from_bytes(bytes)
            .map_err(|error| Failure::invalid(format!("runc options: {error}")))?;
        let criu_path = removed_text_field(&message, 8);
        Ok(Self {
            no_pivot_root: message.no_pivot_root,
            no_new_keyring: message.no_new_keyring,
            shim_cgroup: message.shim_cgroup,
            io_uid: message.io_uid,
            io_gid: message.io_gid,
            binary_name: message.binary_name,
            root: message.root,
            criu_path,
            systemd_cgroup: message.systemd_cgroup,
            criu_image_path: message.criu_image_path,
            criu_work_path: message.criu_work_path,
            task_api_address: message.task_api_address,
            task_api_version: message.task_api_version,
        })
    }

    fn from_runtimeoptions(bytes: &[u8]) -> Result<Self, Failure> {
        let message = runtimeoptions::Options::parse_from_bytes(bytes)
            .map_err(|error| Failure::invalid(format!("runtime options: {error}")))?;
        let body = if message.config_body.is_empty() && !message.config_path.is_empty() {
            read_config(Path::new(&message.config_path))
                .map_err(|e| Failure::io(format!("read {}", message.config_path), &e))?
        } else {
            message.config_body
        };
        let text = std::str::from_utf8(&body)
            .map_err(|error| Failure::invalid(format!("runtime options: {error}")))?;
        let read: TomlOptions = toml::from_str(text)
            .map_err(|error| Failure::invalid(format!("runtime options: {}", error.message())))?;
        Ok(read.into())
    }

    /// Writes the copy into the bundle.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, bundle: &Path) -> io::Result<()> {
        std::fs::write(bundle.join(COPY), serde_json::to_vec(self)?)?;
        std::fs::write(bundle.join(RUNTIME), &self.binary_name)
    }

    /// Reads the copy from a bundle, whoever wrote it; where only the
    /// runtime's name is there, that.
    pub fn load(bundle: &Path) -> Self {
        let copy = std::fs::read(bundle.join(COPY)).ok();
        copy.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_else(|| Self {
            binary_name: std::fs::read_to_string(bundle.join(RUNTIME)).unwrap_or_default(),
            ..Self::default()
        })
    }

    /// The runtime to call.
    pub fn binary(&self) -> &str {
        if self.binary_name.is_empty() { DEFAULT_RUNTIME } else { &self.binary_name }
    }

    /// Where the runtime keeps the state of a namespace's containers.
    pub fn state_root(&self, namespace: &str) -> PathBuf {
        let root = if self.root.is_empty() { DEFAULT_ROOT } else { &self.root };
        Path::new(root).join(namespace)
    }
}

/// A field that the current definition has dropped, from the bytes kept as
/// unknown.
fn removed_text_field(message: &impl Message, number: u32) -> String {
    match message.special_fields().unknown_fields().get(number) {
        Some(protobuf::UnknownValueRef::LengthDelimited(bytes)) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        _ => String::new(),
    }
}

fn read_config(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut body = Vec::new();
    std::fs::File::open(path)?.take(CONFIG_LIMIT).read_to_end(&mut body)?;
    Ok(body)
}

impl From<TomlOptions> for Options {
    fn from(read: TomlOptions) -> Self {
        Self {
            no_pivot_root: read.no_pivot_root,
            no_new_keyring: read.no_new_keyring,
            shim_cgroup: read.shim_cgroup,
            io_uid: read.io_uid,
            io_gid: read.io_gid,
            binary_name: read.binary_name,
            root: read.root,
            criu_path: read.criu_path,
            systemd_cgroup: read.systemd_cgroup,
            criu_image_path: read.criu_image_path,
            criu_work_path: read.criu_work_path,
            task_api_address: read.task_api_address,
            task_api_version: read.task_api_version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any { type_url: type_url.to_owned(), value }
    }

    #[test]
    fn reads_runc_options_with_and_without_prefix() {
        let message = runc::Options {
            binary_name: "crun".into(),
            systemd_cgroup: true,
            io_uid: 7,
            ..Default::default()
        };
        let mut bytes = message.write_to_bytes().unwrap();
        // Field 8, a text: "/x", as containerd 1.6's clients may send it.
        bytes.extend([8 << 3 | 2, 2, b'/', b'x']);
        for prefix in ["", "type.googleapis.com/"] {
            let url = format!("{prefix}containerd.runc.v1.Options");
            let options = Options::from_any(Some(&any(&url, bytes.clone()))).unwrap();
            assert_eq!(options.binary(), "crun");
            assert_eq!((options.systemd_cgroup, options.io_uid), (true, 7));
            assert_eq!(options.criu_path, "/x");
        }
    }

    #[test]
    fn reads_a_toml_body_or_file() {
        let text = "BinaryName = \"/usr/bin/crun\"\nSystemdCgroup = true\nIoUid = 3\nOther = 1\n";
        let body =
            runtimeoptions::Options { config_body: text.as_bytes().to_vec(), ..Default::default() };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let path = runtimeoptions::Options {
            config_path: file.path().to_str().unwrap().into(),
            ..Default::default()
        };
        for message in [body, path] {
            let bytes = message.write_to_bytes().unwrap();
            let options =
                Options::from_any(Some(&any("runtimeoptions.v1.Options", bytes))).unwrap();
            assert_eq!(options.binary(), "/usr/bin/crun");
            assert_eq!((options.systemd_cgroup, options.io_uid), (true, 3));
        }
    }

    #[test]
    fn refuses_other_messages_and_broken_ones() {
        let other = any("containerd.events.TaskExit", vec![1]);
        let refusal = Options::from_any(Some(&other)).unwrap_err();
        assert_eq!(refusal.to_string(), "type with url containerd.events.TaskExit: not found");
        let broken = any("containerd.runc.v1.Options", vec![0xff]);
        assert_eq!(
            Options::from_any(Some(&broken)).unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
        let body = runtimeoptions::Options { config_body: b"= 1".to_vec(), ..Default::default() };
        let broken = any("runtimeoptions.v1.Options", body.write_to_bytes().unwrap());
        assert_eq!(
            Options::from_any(Some(&broken)).unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
    }

    #[test]
    fn the_copy_has_gos_form() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(Options::load(bundle.path()), Options::default());
        let options =
            Options { binary_name: "crun".into(), systemd_cgroup: true, ..Default::default() };
        options.save(bundle.path()).unwrap();
        let text = std::fs::read_to_string(bundle.path().join("options.json")).unwrap();
        assert_eq!(text, r#"{"binary_name":"crun","systemd_cgroup":true}"#);
        assert_eq!(Options::load(bundle.path()), options);
        std::fs::remove_file(bundle.path().join("options.json")).unwrap();
        assert_eq!(Options::load(bundle.path()).binary(), "crun");
    }

    #[test]
    fn the_state_is_below_the_namespace() {
        let mut options = Options::default();
        assert_eq!(options.state_root("k8s.io"), Path::new("/run/containerd/runc/k8s.io"));
        options.root = "/run/x".into();
        assert_eq!(options.state_root("moby"), Path::new("/run/x/moby"));
    }
}
