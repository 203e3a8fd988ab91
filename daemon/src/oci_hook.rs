//! `davitd oci-hook`: becomes a program whose arguments and environment were
//! filled in with what the OCI runtime says of the container on stdin
//! (containerd, `cmd/containerd/command/oci-hook.go`).

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::error::Error;
use crate::template::{Argument, TemplateError, render};

/// Bytes of a container's state on stdin, and of its specification.
const MAX_SIZE: u64 = 16 << 20;

/// What a runtime writes to a hook (OCI runtime specification, "State").
#[derive(Debug, Deserialize)]
struct State {
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    pid: i64,
    bundle: PathBuf,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
struct Spec {
    #[serde(default)]
    root: Root,
}

#[derive(Debug, Default, Deserialize)]
struct Root {
    #[serde(default)]
    path: PathBuf,
}

/// Reads the state from stdin and becomes `program`. Comes back only with a
/// failure.
pub fn run(program: &[String]) -> Error {
    match prepare(program, std::io::stdin()) {
        Ok(mut command) => Error::io("run", command.get_program().to_owned())(command.exec()),
        Err(error) => error,
    }
}

/// `program`, filled in with the state that `input` holds and the specification
/// in the bundle which that names.
///
/// # Errors
/// No program, a state or a specification that cannot be read, or a template
/// that is none.
pub fn prepare(program: &[String], input: impl Read) -> Result<Command, Error> {
    if program.is_empty() {
        return Err(Error::Input("oci-hook: no program to run".to_owned()));
    }
    let state: State = parse("the container's state", input)?;
    let path = state.bundle.join("config.json");
    let file = std::fs::File::open(&path).map_err(Error::io("open", &path))?;
    let spec: Spec = parse("config.json", file)?;
    // An absolute root stays what it is.
    let rootfs = state.bundle.join(&spec.root.path);
    let fill = |text: &str| {
        render(text, |name, arguments| value(&state, &rootfs, name, arguments))
            .map_err(|error| Error::Input(format!("oci-hook: {text:?}: {error}")))
    };
    let mut filled = program.iter().map(|argument| fill(argument));
    let mut command = Command::new(filled.next().expect("a program was asked for")?);
    for argument in filled {
        command.arg(argument?);
    }
    for (key, setting) in std::env::vars_os() {
        // What is no text has no template in it.
        if let Some(text) = setting.to_str() {
            command.env(key, fill(text)?);
        }
    }
    Ok(command)
}

fn parse<T: for<'de> Deserialize<'de>>(what: &str, input: impl Read) -> Result<T, Error> {
    serde_json::from_reader(input.take(MAX_SIZE))
        .map_err(|error| Error::Input(format!("oci-hook: {what}: {error}")))
}

fn value(
    state: &State,
    rootfs: &Path,
    name: &str,
    arguments: &[Argument],
) -> Result<String, TemplateError> {
    Ok(match (name, arguments) {
        ("id", []) => state.id.clone(),
        ("bundle", []) => state.bundle.display().to_string(),
        ("rootfs", []) => rootfs.display().to_string(),
        ("pid", []) => state.pid.to_string(),
        ("status", []) => state.status.clone(),
        ("annotation", [Argument::Text(key)]) => {
            state.annotations.get(key).cloned().unwrap_or_default()
        }
        _ => return Err(TemplateError::Unknown(name.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), r#"{"root":{"path":"rootfs"}}"#).unwrap();
        let state = serde_json::json!({
            "ociVersion": "1.0.2", "id": "c1", "status": "created", "pid": 42,
            "bundle": dir.path(), "annotations": {"a b": "x"},
        });
        (dir, state.to_string())
    }

    fn program(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn fills_in_what_the_runtime_says() {
        let (dir, state) = bundle();
        let words =
            program(&["/bin/{{id}}", "{{pid}}:{{status}}", "{{rootfs}}", "{{annotation \"a b\"}}"]);
        let command = prepare(&words, state.as_bytes()).unwrap();
        assert_eq!(command.get_program(), "/bin/c1");
        let arguments: Vec<_> = command.get_args().collect();
        let rootfs = dir.path().join("rootfs");
        assert_eq!(arguments, ["42:created", rootfs.to_str().unwrap(), "x"]);
    }

    #[test]
    fn refuses_what_it_cannot_fill_in() {
        let (_dir, state) = bundle();
        for (words, input) in [
            (&[][..], state.as_str()),
            (&["/bin/x"], "no state"),
            (&["{{nothing}}"], &state),
            (&["/bin/x"], r#"{"id":"a","bundle":"/nonexistent"}"#),
        ] {
            assert!(prepare(&program(words), input.as_bytes()).is_err(), "{words:?}");
        }
    }
}
