//! The times of directories, which their entries would change: they are set
//! last of all.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;

use rustix::fs::Timestamps;
use rustix::io::Errno;

use crate::root::{Root, components, join};
use crate::{Error, attributes};

/// The most bytes that they may take in memory: with names of a hundred bytes
/// some 1,600,000 directories.
const BYTES_MAX: usize = 256 << 20;

/// What a directory takes beside its name.
const BYTES_EACH: usize = size_of::<(Vec<u8>, (u64, Timestamps))>();

#[derive(Debug, Default)]
pub(super) struct DirectoryTimes {
    /// By the path, with the place in the archive's order: two paths can lead
    /// to one directory, and the later one counts.
    times: HashMap<Vec<u8>, (u64, Timestamps)>,
    next: u64,
    bytes: usize,
}

impl DirectoryTimes {
    /// Says what the directory at `path` is to have, in place of what was said
    /// before.
    pub fn insert(&mut self, path: &[CString], times: Timestamps) {
        let path = join(path);
        let bytes = path.len() + BYTES_EACH;
        if self.times.insert(path, (self.next, times)).is_none() {
            self.bytes += bytes;
        }
        self.next += 1;
    }

    /// An error when there are too many to remember.
    pub fn check(&self) -> Result<(), Error> {
        if self.bytes <= BYTES_MAX {
            return Ok(());
        }
        let what = "bytes of names and times of directories";
        Err(Error::Limit { what, limit: BYTES_MAX as u64 })
    }

    /// Sets them.
    pub fn finish(self, root: &Root) -> Result<(), Error> {
        let mut times: Vec<_> = self.times.into_iter().collect();
        times.sort_unstable_by_key(|(_, (order, _))| *order);
        for (path, (_, times)) in times {
            set(root, &path, &times).map_err(|source| Error::Entry {
                entry: String::from_utf8_lossy(&path).into_owned(),
                operation: "utimensat",
                source,
            })?;
        }
        Ok(())
    }
}

fn set(root: &Root, path: &[u8], times: &Timestamps) -> io::Result<()> {
    let path = components(path).ok_or(Errno::INVAL)?;
    match root.open_dir(&path) {
        Ok(dir) => Ok(attributes::set_times(&dir, times)?),
        // Replaced by a later entry of the same name.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::Timespec;

    use super::*;

    fn times(seconds: i64) -> Timestamps {
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        Timestamps { last_access: time, last_modification: time }
    }

    #[test]
    fn a_directory_said_again_takes_no_more_memory() {
        let deep = components("a/".repeat(2047).as_bytes()).unwrap();
        let mut directories = DirectoryTimes::default();
        for seconds in 0..100 {
            directories.insert(&deep, times(seconds));
        }
        assert_eq!(directories.times.len(), 1);
        assert!(directories.bytes < 5000, "{}", directories.bytes);
        assert_eq!(directories.times[&join(&deep)].1.last_modification.tv_sec, 99);
    }

    #[test]
    fn directories_that_would_fill_the_memory_are_refused() {
        let mut directories = DirectoryTimes { bytes: BYTES_MAX - 1000, ..Default::default() };
        for number in 0..7 {
            directories.check().unwrap();
            directories.insert(&components(format!("{number:099}").as_bytes()).unwrap(), times(0));
        }
        assert!(matches!(directories.check(), Err(Error::Limit { .. })));
    }
}
