//! Standard streams that CRIU cannot know: the container writes to the
//! client's FIFO or file itself, which is on a mount that it does not see. CRIU
//! saves such a file as an external one, by the numbers of its mount and inode,
//! and when it restores puts a descriptor of the new container in its place
//! (criu(8), `--external` and `--inherit-fd`).
//!
//! The runtime has no options for this, so CRIU is told by the configuration
//! file that `CRIU_CONFIG_FILE` names.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use runc_client::Runc;
use serde::{Deserialize, Serialize};

/// Beside CRIU's images: which streams were saved as external files.
const RECORD: &str = "davit-streams.json";
/// More than this is no record of ours, in bytes.
const RECORD_LIMIT: u64 = 4096;
const CONFIG: &str = "criu.conf";
const VARIABLE: &str = "CRIU_CONFIG_FILE";

/// A stream that was saved as an external file. A checkpoint may come from
/// anywhere: nothing but numbers is taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// Which standard stream it is, 0 to 2.
    fd: u8,
    mount: u32,
    inode: u64,
}

impl External {
    fn dump_line(self) -> String {
        format!("external file[{:x}:{:x}]\n", self.mount, self.inode)
    }

    fn restore_line(self) -> String {
        format!("inherit-fd fd[{}]:file[{:x}:{:x}]\n", self.fd, self.mount, self.inode)
    }
}

/// The standard streams of a process that are on mounts which it does not see.
///
/// # Errors
/// When the process is gone.
pub fn external_streams(pid: u32) -> io::Result<Vec<External>> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let visible: HashSet<u32> = fs::read_to_string(process.join("mountinfo"))?
        .lines()
        .filter_map(|line| line.split(' ').next()?.parse().ok())
        .collect();
    let mut found: Vec<External> = Vec::new();
    for fd in 0..3u8 {
        let link = process.join(format!("fd/{fd}"));
        // Closed, or no file of a file system: pipes and sockets are CRIU's business.
        let Ok(target) = fs::read_link(&link) else { continue };
        if !target.is_absolute() {
            continue;
        }
        let inode = fs::metadata(&link)?.ino();
        let info = fs::read_to_string(process.join(format!("fdinfo/{fd}")))?;
        let Some(mount) = mount_id(&info).filter(|mount| !visible.contains(mount)) else {
            continue;
        };
        if !found.iter().any(|known| (known.mount, known.inode) == (mount, inode)) {
            found.push(External { fd, mount, inode });
        }
    }
    Ok(found)
}

fn mount_id(fdinfo: &str) -> Option<u32> {
    fdinfo.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// `runtime` with CRIU told to save `streams` as external files; what it was
/// told goes beside the images.
///
/// # Errors
/// When a file cannot be written.
pub fn to_save(
    runtime: &Runc,
    bundle: &Path,
    image: &Path,
    streams: &[External],
) -> io::Result<Runc> {
    if streams.is_empty() {
        return Ok(runtime.clone());
    }
    // The runtime makes it too, but only when it runs.
    DirBuilder::new().recursive(true).mode(0o700).create(image)?;
    fs::write(image.join(RECORD), serde_json::to_vec(streams)?)?;
    with_config(runtime, bundle, streams.iter().map(|stream| stream.dump_line()))
}

/// `runtime` with CRIU told to put the new container's streams in the place of
/// those in the checkpoint `image`.
///
/// # Errors
/// A record that is none, or a file that cannot be written.
pub fn to_restore(runtime: &Runc, bundle: &Path, image: &Path) -> io::Result<Runc> {
    let record = image.join(RECORD);
    match fs::symlink_metadata(&record) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(runtime.clone()),
        Err(error) => return Err(error),
        Ok(meta) if meta.is_file() && meta.len() <= RECORD_LIMIT => {}
        Ok(_) => return Err(io::Error::other(format!("{RECORD} is no record of streams"))),
    }
    let streams: Vec<External> = serde_json::from_slice(&fs::read(&record)?)?;
    if streams.iter().any(|stream| stream.fd > 2) {
        return Err(io::Error::other(format!("{RECORD} is about other than standard streams")));
    }
    with_config(runtime, bundle, streams.iter().map(|stream| stream.restore_line()))
}

fn with_config(
    runtime: &Runc,
    bundle: &Path,
    lines: impl Iterator<Item = String>,
) -> io::Result<Runc> {
    let path = bundle.join(CONFIG);
    fs::write(&path, lines.collect::<String>())?;
    Ok(runtime.clone().env(VARIABLE, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(runtime: &Runc, bundle: &Path) -> Option<String> {
        let told = format!("{runtime:?}").contains(VARIABLE);
        told.then(|| fs::read_to_string(bundle.join(CONFIG)).unwrap())
    }

    #[test]
    fn what_was_saved_as_external_is_replaced() {
        let (bundle, image) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (bundle, image) = (bundle.path(), image.path());
        let runtime = Runc::new("runc");
        let streams = [
            External { fd: 0, mount: 21, inode: 0xabc },
            External { fd: 1, mount: 21, inode: 0xabd },
        ];
        let saving = to_save(&runtime, bundle, image, &streams).unwrap();
        let told = "external file[15:abc]\nexternal file[15:abd]\n";
        assert_eq!(config(&saving, bundle).as_deref(), Some(told));
        let restoring = to_restore(&runtime, bundle, image).unwrap();
        let told = "inherit-fd fd[0]:file[15:abc]\ninherit-fd fd[1]:file[15:abd]\n";
        assert_eq!(config(&restoring, bundle).as_deref(), Some(told));
    }

    #[test]
    fn without_external_streams_nothing_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runc::new("runc");
        let saving = to_save(&runtime, dir.path(), dir.path(), &[]).unwrap();
        let restoring = to_restore(&runtime, dir.path(), dir.path()).unwrap();
        assert_eq!((config(&saving, dir.path()), config(&restoring, dir.path())), (None, None));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_strangers_record_is_no_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join(RECORD);
        let refused = || to_restore(&Runc::new("runc"), dir.path(), dir.path()).unwrap_err();
        for text in [
            r#"[{"fd": 3, "mount": 1, "inode": 1}]"#,
            r#"[{"fd": "0]\nexec-cmd", "mount": 1, "inode": 1}]"#,
            "action-script /bin/sh",
        ] {
            fs::write(&record, text).unwrap();
            refused();
        }
        fs::write(&record, " ".repeat(5000)).unwrap();
        assert!(refused().to_string().contains("no record"));
        fs::remove_file(&record).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &record).unwrap();
        assert!(refused().to_string().contains("no record"));
        assert!(!dir.path().join(CONFIG).exists());
    }

    #[test]
    fn a_process_in_our_own_mounts_has_none() {
        assert_eq!(external_streams(std::process::id()).unwrap(), []);
    }
}
