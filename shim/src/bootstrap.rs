//! How a daemon starts a shim, in three dialects.
//!
//! | caller | what it sends on stdin | what it wants on stdout | told by |
//! |---|---|---|---|
//! | containerd 1.6 | options as `Any`, or nothing | the bare address | no `MAX_SHIM_VERSION` |
//! | 1.7, 2.0 to 2.2 | the same | JSON `{version, address, protocol}` | `MAX_SHIM_VERSION` |
//! | from 2.3 | `BootstrapParams` | `BootstrapResult` | the message names the same id and namespace as the flags |
//!
//! Containerd 1.6 fails on anything but the bare address, 1.7 on a version
//! above the one it announced (`core/runtime/v2/shim.go`,
//! `parseStartResponse`; `pkg/shim/compat.go`). Everything here is total:
//! bytes of any kind give a value or an error.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use davit_protocols::ttrpc::bootstrap::{BootstrapParams, BootstrapResult};
use davit_types::Any;
use protobuf::Message;
use protobuf::well_known_types::any::Any as WireAny;
use serde::Deserialize;

use crate::Failure;

/// The most that is read from stdin, in bytes; the Go library's limit.
pub const STDIN_MAX: u64 = 10 << 20;

/// The largest `config.json` that is looked at, in bytes.
pub const CONFIG_MAX: u64 = 32 << 20;

/// The newest version of the task API that we serve.
pub const TASK_VERSION: i32 = 3;

/// The annotations by which containers are grouped into one shim; the first
/// that is present counts.
pub const GROUP_ANNOTATIONS: [&str; 2] =
    ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// The words of a log level in `BootstrapParams`: this and below is debug.
const LOG_LEVEL_DEBUG: i32 = -4;

/// In which form the caller wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The address and nothing else.
    Address,
    /// JSON, naming at most this version.
    Json {
        /// 2 or [`TASK_VERSION`].
        version: i32,
    },
    /// The message `BootstrapResult`.
    Protobuf,
}

/// What a caller sent along with `start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartRequest {
    /// The form of the answer.
    pub dialect: Dialect,
    /// The runtime's options, as the client packed them.
    pub options: Option<Any>,
    /// Where sockets are to be, when the caller says so.
    pub socket_dir: Option<PathBuf>,
    /// The daemon's ttrpc socket, when the message names it.
    pub ttrpc_address: Option<String>,
    /// The daemon's gRPC socket, when the message names it.
    pub grpc_address: Option<String>,
    /// Whether the message asks for debug logs.
    pub debug: bool,
}

/// Understands what came on stdin. `max_version` is the content of
/// `MAX_SHIM_VERSION`, if that is set; `id` and `namespace` are the flags'.
pub fn parse_start(
    stdin: &[u8],
    id: &str,
    namespace: &str,
    max_version: Option<&str>,
) -> StartRequest {
    // Options packed into an `Any` decode as BootstrapParams, too: the fields
    // have the same numbers. Only the names in it tell the two apart.
    let params = BootstrapParams::parse_from_bytes(stdin).ok();
    match params
        .filter(|p| !p.instance_id.is_empty() && p.instance_id == id && p.namespace == namespace)
    {
        Some(params) => from_params(params),
        None => StartRequest {
            dialect: legacy_dialect(max_version),
            options: parse_options(stdin),
            socket_dir: None,
            ttrpc_address: None,
            grpc_address: None,
            debug: false,
        },
    }
}

fn legacy_dialect(max_version: Option<&str>) -> Dialect {
    match max_version.map(|text| text.trim().parse::<i32>()) {
        Some(Ok(version)) if version >= 2 => Dialect::Json { version: version.min(TASK_VERSION) },
        _ => Dialect::Address,
    }
}

fn from_params(params: BootstrapParams) -> StartRequest {
    let text = |text: String| (!text.is_empty()).then_some(text);
    let mut extensions: Vec<Any> =
        params.extensions.into_iter().filter_map(|e| e.value.into_option()).map(any).collect();
    let options = extensions.iter().position(|e| e.type_url.ends_with(".Options"));
    StartRequest {
        dialect: Dialect::Protobuf,
        options: options.map(|index| extensions.swap_remove(index)),
        socket_dir: params.socket_dir.and_then(text).map(PathBuf::from),
        ttrpc_address: text(params.containerd_ttrpc_address),
        grpc_address: text(params.containerd_grpc_address),
        debug: params.log_level.value() <= LOG_LEVEL_DEBUG,
    }
}

/// Understands the options that `start` (in the older dialects) and `-info`
/// get on stdin. `None`: nothing was sent, or nothing that is an `Any`.
pub fn parse_options(stdin: &[u8]) -> Option<Any> {
    let options = any(WireAny::parse_from_bytes(stdin).ok()?);
    (!options.type_url.is_empty()).then_some(options)
}

fn any(wire: WireAny) -> Any {
    let bare = wire.type_url.strip_prefix("type.googleapis.com/").unwrap_or(&wire.type_url);
    Any { type_url: bare.to_owned(), value: wire.value }
}

/// Packs an `Any` for the wire.
pub fn wire_any(any: Any) -> WireAny {
    WireAny { type_url: any.type_url, value: any.value, ..WireAny::default() }
}

/// The answer to `start`.
pub fn answer(dialect: Dialect, address: &str) -> Vec<u8> {
    match dialect {
        Dialect::Address => address.as_bytes().to_vec(),
        Dialect::Json { version } => {
            serde_json::json!({"version": version, "address": address, "protocol": "ttrpc"})
                .to_string()
                .into_bytes()
        }
        Dialect::Protobuf => {
            let mut result = BootstrapResult::new();
            result.version = TASK_VERSION;
            result.address = address.to_owned();
            result.protocol = "ttrpc".to_owned();
            result.write_to_bytes().unwrap_or_default()
        }
    }
}

/// The annotations of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations(pub HashMap<String, String>);

impl Annotations {
    /// Reads them from a bundle's `config.json`; everything else in it is
    /// skipped, unseen.
    ///
    /// # Errors
    /// When the file is missing, too long or no JSON.
    pub fn read(bundle: &Path) -> Result<Self, Failure> {
        let path = bundle.join("config.json");
        let failed = |e: std::io::Error| Failure::io(format!("open {}", path.display()), &e);
        let length = std::fs::metadata(&path).map_err(failed)?.len();
        if length > CONFIG_MAX {
            return Err(Failure::invalid(format!(
                "{}: longer than {CONFIG_MAX} bytes",
                path.display()
            )));
        }
        Self::parse(&std::fs::read(&path).map_err(failed)?)
            .map_err(|e| Failure::invalid(format!("parse {}: {e}", path.display())))
    }

    /// Takes them from the bytes of a `config.json`.
    ///
    /// # Errors
    /// When it is no JSON object, or the annotations are no strings.
    pub fn parse(config: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Spec {
            #[serde(default)]
            annotations: Option<HashMap<String, String>>,
        }
        serde_json::from_slice::<Spec>(config)
            .map(|spec| Self(spec.annotations.unwrap_or_default()))
    }

    /// The group they put the container into.
    pub fn group(&self) -> Option<&str> {
        GROUP_ANNOTATIONS.iter().find_map(|key| self.0.get(*key)).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Vec<u8> {
        let any = WireAny {
            type_url: "containerd.runc.v1.Options".into(),
            value: vec![8, 1],
            ..WireAny::default()
        };
        any.write_to_bytes().unwrap()
    }

    #[test]
    fn options_are_not_mistaken_for_bootstrap_params() {
        let start = parse_start(&options(), "a", "default", None);
        assert_eq!(start.dialect, Dialect::Address);
        assert_eq!(start.options.unwrap().type_url, "containerd.runc.v1.Options");
        let start = parse_start(b"", "", "", Some("2"));
        assert_eq!(start.dialect, Dialect::Json { version: 2 });
        assert_eq!(start.options, None);
    }

    #[test]
    fn versions_are_bounded_by_both_sides() {
        let dialect = |max| parse_start(b"", "a", "n", max).dialect;
        assert_eq!(dialect(Some("3")), Dialect::Json { version: 3 });
        assert_eq!(dialect(Some("9")), Dialect::Json { version: 3 });
        assert_eq!(dialect(Some("1")), Dialect::Address);
        assert_eq!(dialect(Some("many")), Dialect::Address);
    }

    #[test]
    fn bootstrap_params_are_recognised_by_their_names() {
        let mut params = BootstrapParams::new();
        params.instance_id = "a".into();
        params.namespace = "n".into();
        params.socket_dir = Some("/run/x/s".into());
        params.containerd_ttrpc_address = "/run/x.ttrpc".into();
        let mut extension = davit_protocols::ttrpc::bootstrap::Extension::new();
        extension.value = Some(WireAny::parse_from_bytes(&options()).unwrap()).into();
        params.extensions.push(extension);
        let bytes = params.write_to_bytes().unwrap();

        let start = parse_start(&bytes, "a", "n", Some("2"));
        assert_eq!(start.dialect, Dialect::Protobuf);
        assert_eq!(start.socket_dir, Some("/run/x/s".into()));
        assert_eq!(start.ttrpc_address.as_deref(), Some("/run/x.ttrpc"));
        assert_eq!(start.options.unwrap().value, [8, 1]);
        assert_eq!(parse_start(&bytes, "b", "n", None).dialect, Dialect::Address);
    }

    #[test]
    fn answers_read_as_their_callers_read_them() {
        assert_eq!(answer(Dialect::Address, "unix:///s/1"), b"unix:///s/1");
        let json: serde_json::Value =
            serde_json::from_slice(&answer(Dialect::Json { version: 2 }, "unix:///s/1")).unwrap();
        assert_eq!(json["version"], 2);
        assert_eq!(json["address"], "unix:///s/1");
        assert_eq!(json["protocol"], "ttrpc");
        let result =
            BootstrapResult::parse_from_bytes(&answer(Dialect::Protobuf, "unix:///s/1")).unwrap();
        assert_eq!((result.version, result.address.as_str()), (3, "unix:///s/1"));
    }

    #[test]
    fn groups_come_from_annotations() {
        let parse = |text: &str| Annotations::parse(text.as_bytes());
        assert_eq!(parse("{}").unwrap().group(), None);
        assert_eq!(parse(r#"{"annotations":null}"#).unwrap().group(), None);
        let both = r#"{"process":{"args":[1]},"annotations":{"io.kubernetes.cri.sandbox-id":"p","io.containerd.runc.v2.group":"g"}}"#;
        assert_eq!(parse(both).unwrap().group(), Some("g"));
        assert!(parse("nonsense").is_err());
        assert!(parse(r#"{"annotations":{"a":1}}"#).is_err());
    }
}
