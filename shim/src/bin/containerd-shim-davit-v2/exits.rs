//! Exit records: how a process ended, in the bundle.
//!
//! Invariant: a record is complete under its name before anybody is told of
//! the exit, and only Delete removes it. A record is written beside its name
//! and renamed, so a reader (the `delete` command, after this process has
//! died) sees all of it or nothing.
//!
//! There is no fsync. A record has to outlive this process and the daemon,
//! and the page cache does; it has no meaning after the kernel has stopped,
//! because no container outlives that, and bundles are on a tmpfs anyway.
//!
//! The form is that of containerd 2.3's `exit.json`
//! (`cmd/containerd-shim-runc-v2/runc/util.go`): `Timestamp`, `Pid`,
//! `Status`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use davit_shim::Exit;
use serde::{Deserialize, Serialize};

use crate::rfc3339;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Record {
    timestamp: String,
    pid: u32,
    status: u32,
}

/// Where the record of a process is; `exec` is empty for the init.
fn path(bundle: &Path, exec: &str) -> PathBuf {
    if exec.is_empty() {
        bundle.join("exit.json")
    } else {
        bundle.join(format!("{exec}.exit.json"))
    }
}

/// Puts `exit` on disk.
///
/// # Errors
/// Those of the file system: the bundle is gone, or full.
pub fn record(bundle: &Path, exec: &str, exit: &Exit) -> io::Result<()> {
    let path = path(bundle, exec);
    let record = Record { timestamp: rfc3339::format(exit.at), pid: exit.pid, status: exit.status };
    let mut unnamed = path.clone();
    unnamed.set_extension("json.tmp");
    std::fs::write(&unnamed, serde_json::to_vec(&record)?)?;
    std::fs::rename(&unnamed, &path)
}

/// The recorded exit; `None` when there is none, or none that can be read.
pub fn recorded(bundle: &Path, exec: &str) -> Option<Exit> {
    let text = std::fs::read(path(bundle, exec)).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    let at: SystemTime = rfc3339::parse(&record.timestamp)?;
    Some(Exit { pid: record.pid, status: record.status, signal: 0, at })
}

/// Removes a record. That there is none is no error.
pub fn forget(bundle: &Path, exec: &str) {
    let _ = std::fs::remove_file(path(bundle, exec));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_record_comes_back_to_the_nanosecond() {
        let bundle = tempfile::tempdir().unwrap();
        let at = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        let exit = Exit { pid: 7, status: 137, signal: 0, at };
        assert_eq!(recorded(bundle.path(), ""), None);
        record(bundle.path(), "", &exit).unwrap();
        record(bundle.path(), "e.1", &Exit { pid: 8, status: 0, signal: 0, at }).unwrap();
        assert_eq!(recorded(bundle.path(), ""), Some(exit));
        assert_eq!(recorded(bundle.path(), "e.1").unwrap().pid, 8);
        forget(bundle.path(), "");
        assert_eq!(recorded(bundle.path(), ""), None);
        assert_eq!(recorded(bundle.path(), "e.1").unwrap().pid, 8);
        let left = std::fs::read_dir(bundle.path()).unwrap().count();
        assert_eq!(left, 1, "no temporary file stays");
    }

    #[test]
    fn a_damaged_record_is_none() {
        let bundle = tempfile::tempdir().unwrap();
        for text in ["", "{", r#"{"Timestamp":"never","Pid":1,"Status":0}"#] {
            std::fs::write(bundle.path().join("exit.json"), text).unwrap();
            assert_eq!(recorded(bundle.path(), ""), None, "{text}");
        }
    }
}
