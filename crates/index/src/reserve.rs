//! Room on the disk for letting go of things when the disk is full: to
//! remove what takes the room, the index has to write that it did.
//!
//! There are two kinds, for neither is enough. A file of no use is removed when
//! the disk is full; whoever else is writing then may be faster than the index.
//! Room at the end of the index's log is nobody else's; what the index is told
//! meanwhile may use it up. (The database itself must not be opened here: to
//! close it again would end the locks that SQLite holds on it.)

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::index::{beside, log_of};

/// Bytes that are kept in each place: what a few batches of a collection write.
const SIZE: u64 = 1 << 20;
/// With less than this left on the disk, they are given up.
const LOW: u64 = 256 << 10;
/// Only with this much left on the disk are they taken.
const PLENTY: u64 = 2 * SIZE;
/// What a file's metadata counts its size on the disk in.
const BLOCK: u64 = 512;

/// A file of no use but its size, beside the index, and the room in the index's
/// log.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    log: PathBuf,
    dir: PathBuf,
}

impl Reserve {
    /// For the index at `index`; nothing is done yet.
    pub(crate) fn beside(index: &Path) -> Self {
        let dir = index.parent().filter(|dir| !dir.as_os_str().is_empty());
        Self {
            path: beside(index, "-reserve"),
            log: log_of(index),
            dir: dir.unwrap_or(Path::new(".")).to_owned(),
        }
    }

    /// Takes the room, if there is plenty and it was not taken before.
    pub(crate) fn keep(&self) {
        self.keep_in_log();
        let is_kept = fs::metadata(&self.path).is_ok_and(|meta| meta.len() == SIZE);
        if is_kept || !self.has_plenty() {
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

    /// Takes room behind the end of the log.
    fn keep_in_log(&self) {
        let extend = || -> io::Result<()> {
            let file = File::options().write(true).open(&self.log)?;
            let meta = file.metadata()?;
            let is_kept = meta.blocks() * BLOCK >= meta.len() + SIZE / 2;
            if is_kept || !self.has_plenty() {
                return Ok(());
            }
            Ok(fallocate(&file, FallocateFlags::KEEP_SIZE, 0, meta.len() + SIZE)?)
        };
        match extend() {
            // There is no log before the first change.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                log::warn!(path:% = self.log.display(), error:%; "no room is kept in it");
            }
            Ok(()) => {}
        }
    }

    /// Gives the room up, if the disk is full; whether it is.
    pub(crate) fn give_up_when_full(&self) -> bool {
        let is_full = self.left().is_some_and(|left| left < LOW);
        if is_full && fs::remove_file(&self.path).is_ok() {
            log::warn!(path:% = self.path.display(); "the disk is full; what was kept is used now");
        }
        is_full
    }

    fn has_plenty(&self) -> bool {
        self.left().is_some_and(|left| left >= PLENTY)
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
        assert!(!reserve.give_up_when_full());
        let second = fs::metadata(&file).unwrap();
        assert_eq!(first.modified().unwrap(), second.modified().unwrap());
    }

    #[test]
    fn the_log_has_room_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("index.db-wal");
        fs::write(&log, "something").unwrap();
        Reserve::beside(&dir.path().join("index.db")).keep();
        let meta = fs::metadata(&log).unwrap();
        assert_eq!(meta.len(), 9);
        assert!(meta.blocks() * BLOCK >= SIZE);
    }
}
