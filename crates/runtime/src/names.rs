//! From a runtime's name to the binary of its shim.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::tasks::blocking;

/// The shim binary of `runtime`: an absolute path, or a name like
/// `io.containerd.runc.v2`, whose last two parts make up
/// `containerd-shim-runc-v2`, looked for on PATH and then beside the daemon's
/// own program (containerd, `ShimManager.resolveRuntimePath`; other than
/// there, the working directory is not searched). It may be on a server that
/// does not answer, which keeps nobody else waiting.
pub(crate) async fn resolve(runtime: &str) -> Result<PathBuf, Error> {
    let runtime = runtime.to_owned();
    blocking(move || resolve_here(&runtime)).await
}

fn resolve_here(runtime: &str) -> Result<PathBuf, Error> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> =
        std::env::split_paths(&search).filter(|directory| directory.is_absolute()).collect();
    let own = std::env::current_exe().ok();
    directories.extend(own.as_deref().and_then(Path::parent).map(Path::to_owned));
    resolve_in(runtime, &directories)
}

fn resolve_in(runtime: &str, directories: &[PathBuf]) -> Result<PathBuf, Error> {
    if runtime.is_empty() {
        return Err(Error::Runtime("no runtime name".into()));
    }
    if runtime.starts_with('/') {
        return match std::fs::metadata(runtime) {
            Ok(_) => Ok(runtime.into()),
            Err(error) => Err(Error::Runtime(format!(
                "invalid custom binary path: stat {runtime}: {}",
                words(&error)
            ))),
        };
    }
    let name = binary_name(runtime).ok_or_else(|| {
        Error::Runtime(format!(
            "invalid runtime name {runtime}, correct runtime name should be either format like \
             `io.containerd.runc.v2` or a full path to the binary"
        ))
    })?;
    directories
        .iter()
        .map(|directory| directory.join(&name))
        .find(|path| is_program(path))
        .ok_or_else(|| {
            Error::Runtime(format!(
                "runtime {runtime:?} binary not installed {name:?}: file does not exist"
            ))
        })
}

/// `containerd-shim-<name>-<version>`, from a name of at least two parts and
/// no slash.
pub(crate) fn binary_name(runtime: &str) -> Option<String> {
    let parts: Vec<&str> = runtime.split('.').collect();
    match parts.as_slice() {
        _ if runtime.contains('/') || runtime.starts_with('.') => None,
        [.., name, version] => Some(format!("containerd-shim-{name}-{version}")),
        _ => None,
    }
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The system's words as Go prints them, without `(os error 2)`.
pub(crate) fn words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".into(),
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    #[test]
    fn a_name_is_looked_for_in_order() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directories = [first.path().to_owned(), second.path().to_owned()];
        let path = second.path().join("containerd-shim-runc-v2");
        std::fs::write(&path, "").unwrap();
        let missing = resolve_in("io.containerd.runc.v2", &directories).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "runtime \"io.containerd.runc.v2\" binary not installed \
             \"containerd-shim-runc-v2\": file does not exist"
        );
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(resolve_in("io.containerd.runc.v2", &directories).unwrap(), path);
        assert_eq!(resolve_in("runc.v2", &directories).unwrap(), path);
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(resolve_in(path, &[]).unwrap(), file.path());
        let missing = resolve_in("/nowhere/shim", &[]).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "invalid custom binary path: stat /nowhere/shim: no such file or directory"
        );
    }

    #[test]
    fn other_names_are_refused() {
        assert_eq!(resolve_in("", &[]).unwrap_err().to_string(), "no runtime name");
        for name in ["runc", "../runc.v2", "a/b.c", ".v2"] {
            let error = resolve_in(name, &[]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("invalid runtime name {name}, correct")), "{error}");
        }
    }
}
