//! The runtime binary of one container, and what its failures are called
//! (containerd, `process/{init,utils}.go`).

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use davit_shim::{Failure, Reaper};
use davit_types::ErrorKind;
use runc_client::{Error, Runc};

use crate::options::Options;
use crate::words;

/// Sets up the client of the runtime for a container.
pub fn client(namespace: &str, bundle: &Path, options: &Options, reaper: &Reaper) -> Runc {
    let mut runc = Runc::new(options.binary())
        .root(options.state_root(namespace))
        .systemd_cgroup(options.systemd_cgroup)
        .working_dir(bundle)
        .temp_dir(bundle)
        .spawner(Arc::new(reaper.clone()));
    if let Some(path) = path_with(&options.criu_path) {
        runc = runc.env("PATH", path);
    }
    runc
}

/// `PATH` with the directory of `program` before all others: how runtimes
/// find CRIU. `None` when no program is given.
fn path_with(program: &str) -> Option<OsString> {
    let dir: PathBuf = Path::new(program).parent().filter(|dir| dir.is_absolute())?.into();
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(dir).chain(std::env::split_paths(&path))).ok()
}

/// Words for a call of which the runtime has said nothing, because it was not
/// there or died; the Go shim names the log in which it has looked.
pub fn failed_silently(what: &str, bundle: &Path, binary: &str, error: &Error) -> Option<Failure> {
    let reason = match error {
        Error::BinaryNotFound { source, .. } => not_run(binary, source),
        _ => {
            let failure = error.failure().filter(|failure| failure.messages.is_empty())?;
            let ending = failure.status.to_string().replace("exit status:", "exit status");
            format!("{binary} did not terminate successfully: {ending}")
        }
    };
    let log = bundle.join("log.json");
    let text = format!(
        "{what}: unable to retrieve OCI runtime error (open {}: no such file or directory): {reason}",
        log.display()
    );
    Some(Failure::new(ErrorKind::Unknown, text))
}

/// Go's words for a program that cannot be run.
fn not_run(binary: &str, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound && !binary.contains('/') {
        return format!("exec: \"{binary}\": executable file not found in $PATH");
    }
    format!("fork/exec {binary}: {}", words::of(error))
}

/// Words for a failed call: `OCI runtime create failed: …`, of kind unknown,
/// as the Go shim has them. Of what the runtime said, its last word.
pub fn failed(what: &str, error: &Error) -> Failure {
    let text = match (error.failure().and_then(runc_client::Failure::last_message), error) {
        (Some(message), _) => format!("{what}: {message}"),
        (None, Error::BinaryNotFound { binary, source }) => {
            format!("{what}: {}", not_run(&binary.to_string_lossy(), source))
        }
        _ => format!("{what}: {}", with_sources(error)),
    };
    Failure::new(ErrorKind::Unknown, text)
}

/// Words for a failed Kill; clients match them.
pub fn failed_kill(error: &Error) -> Failure {
    let text = with_sources(error);
    let gone = ["process already finished", "container not running", "no such process"];
    let lower = text.to_lowercase();
    if matches!(error, Error::NotRunning(_)) || gone.iter().any(|words| lower.contains(words)) {
        Failure::not_found("process already finished")
    } else if is_not_found(error) {
        Failure::not_found("no such container")
    } else {
        Failure::new(ErrorKind::Unknown, format!("unknown error after kill: {text}"))
    }
}

/// Whether the runtime does not know the container (any more).
pub fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::NotFound(_))
        || error.failure().is_some_and(|failure| failure.message().contains("does not exist"))
}

fn with_sources(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
