//! Room on the disk for letting go of things when the disk is full: to
//! remove what takes the room, the index has to write that it did.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Bytes that are kept: what a few batches of a collection write.
const SIZE: u64 = 1 << 20;
/// With less than this left on the disk, they are given up.
const LOW: u64 = 256 << 10;
/// Only with this much left on the disk are they taken.
const PLENTY: u64 = 2 * SIZE;

/// A file of no use but its size, beside the index.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    dir: PathBuf,
}

impl Reserve {
    /// For the index at `index`; nothing is done yet.
    pub(crate) fn beside(index: &Path) -> Self {
        let mut path = index.as_os_str().to_owned();
        path.push("-reserve");
        let dir = index.parent().filter(|dir| !dir.as_os_str().is_empty());
        Self { path: path.into(), dir: dir.unwrap_or(Path::new(".")).to_owned() }
    }

    /// Takes the room, if there is plenty and it was not taken before.
    pub(crate) fn keep(&self) {
        let is_kept = fs::metadata(&self.path).is_ok_and(|meta| meta.len() == SIZE);
        if is_kept || self.left().is_none_or(|left| left < PLENTY) {
            return;
        }
        if let Err(error) = self.take() {
            log::warn!(path:% = self.path.display(), error:%; "no room is kept for a full disk");
            let _ = fs::remove_file(&self.path);
        }
    }

    fn take(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(true).write(true).mode(0o600).open(&self.path)?;
        Ok(fallocate(&file, FallocateFlags::empty(), 0, SIZE)?)
    }

    /// Gives the room up, if the disk is full.
    pub(crate) fn give_up_when_full(&self) {
        if self.left().is_some_and(|left| left < LOW) && fs::remove_file(&self.path).is_ok() {
            log::warn!(path:% = self.path.display(); "the disk is full; what was kept is used now");
        }
    }

    fn left(&self) -> Option<u64> {
        let disk = statvfs(&self.dir).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_kept_once_and_not_given_up_without_need() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::beside(&dir.path().join("index.db"));
        reserve.keep();
        let file = dir.path().join("index.db-reserve");
        let first = fs::metadata(&file).unwrap();
        assert_eq!(first.len(), SIZE);
        reserve.keep();
        reserve.give_up_when_full();
        let second = fs::metadata(&file).unwrap();
        assert_eq!(first.modified().unwrap(), second.modified().unwrap());
    }
}
