//! The few things the shim itself reads from a container's `config.json` and
//! from the specification of an exec; everything else is the runtime's.

use std::path::Path;

use davit_shim::Failure;
use davit_types::ErrorKind;
use serde::Deserialize;

#[derive(Deserialize)]
struct Spec {
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

/// Whether the container's other processes outlive its init: true unless it
/// has a pid namespace of its own, which the kernel empties. A configuration
/// that cannot be read counts as shared, as in the Go shim
/// (`runc.ShouldKillAllOnExit`).
pub fn shares_pid_namespace(bundle: &Path) -> bool {
    let spec: Option<Spec> = std::fs::read(bundle.join("config.json"))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    let Some(spec) = spec else { return true };
    let namespaces = spec.linux.map(|linux| linux.namespaces).unwrap_or_default();
    !namespaces.iter().any(|ns| ns.kind == "pid" && ns.path.is_empty())
}

/// The OCI `Process` of an exec with `terminal` as the call has it, whatever
/// the client's JSON says.
///
/// # Errors
/// When the JSON is no object.
pub fn exec_process(json: &[u8], terminal: bool) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: String| Failure::new(ErrorKind::Unknown, error);
    let mut process: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(json).map_err(|error| unreadable(format!("exec spec: {error}")))?;
    process.insert("terminal".to_owned(), terminal.into());
    serde_json::to_vec(&process).map_err(|error| unreadable(format!("exec spec: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pid_namespace_of_its_own_is_not_shared() {
        let bundle = tempfile::tempdir().unwrap();
        for (text, shared) in [
            (r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"pid"}]}}"#, false),
            (r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#, true),
            (r#"{"linux":{"namespaces":[{"type":"mount"}]}}"#, true),
            (r#"{"linux":{}}"#, true),
            ("{}", true),
            ("broken", true),
        ] {
            std::fs::write(bundle.path().join("config.json"), text).unwrap();
            assert_eq!(shares_pid_namespace(bundle.path()), shared, "{text}");
        }
        std::fs::remove_file(bundle.path().join("config.json")).unwrap();
        assert!(shares_pid_namespace(bundle.path()));
    }

    #[test]
    fn the_call_decides_about_the_terminal() {
        let json = br#"{"args":["sh"],"terminal":false,"x":{"y":[1]}}"#;
        let process = exec_process(json, true).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&process).unwrap();
        assert_eq!(value["terminal"], true);
        assert_eq!(value["x"]["y"][0], 1);
        for broken in ["", "[]", "null", "{"] {
            assert!(exec_process(broken.as_bytes(), false).is_err(), "{broken}");
        }
    }
}
