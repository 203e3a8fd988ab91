//! An ingest's directory and the small files in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::{Error, IngestStatus, timestamp};

/// Makes `path` and what is missing above it, for the owner alone.
pub(crate) fn make_dir(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("mkdir", path))
}

/// Brings a directory's entries to the disk.
pub(crate) fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", path))
}

/// One ingest's directory: `ingest/<sha256 of ref>`.
#[derive(Clone, Debug)]
pub(crate) struct Ingest {
    pub path: PathBuf,
}

impl Ingest {
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Fills the directory of a new ingest. What was in it is lost.
    pub fn begin(&self, reference: &str, total: u64, now: SystemTime) -> Result<(), Error> {
        make_dir(&self.path)?;
        self.put("ref", reference)?;
        self.put("startedat", &timestamp::to_rfc3339(now))?;
        self.put("updatedat", &timestamp::to_rfc3339(now))?;
        if total > 0 {
            self.put("total", &total.to_string())?;
        }
        self.open_data().and_then(|file| file.set_len(0)).map_err(Error::io("create", &self.data()))
    }

    /// Opens the bytes for writing; the position is at their start.
    pub fn open_data(&self) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.data())
    }

    /// Says when bytes last came.
    pub fn set_updated_at(&self, time: SystemTime) -> Result<(), Error> {
        self.put("updatedat", &timestamp::to_rfc3339(time))
    }

    /// Where the ingest stands. `None` when there is none, or when it is
    /// going away at this moment.
    pub fn status(&self) -> Result<Option<IngestStatus>, Error> {
        let Some(meta) = present(fs::metadata(self.data()), "stat", &self.data())? else {
            return Ok(None);
        };
        let (Some(reference), Some(started_at), Some(updated_at)) =
            (self.get("ref")?, self.get_time("startedat")?, self.get_time("updatedat")?)
        else {
            return Ok(None);
        };
        let total = self.get("total")?.and_then(|text| text.parse().ok()).unwrap_or(0);
        let modified = meta.modified().map_err(Error::io("stat", &self.data()))?;
        Ok(Some(IngestStatus {
            reference,
            offset: meta.len(),
            total,
            expected: None,
            started_at,
            updated_at: updated_at.max(modified),
        }))
    }

    /// Removes all of it; it is gone by name at once, even if removing the
    /// files fails half-way. False when there is none.
    pub fn remove(&self) -> Result<bool, Error> {
        let away = self.path.with_extension(format!("{}.tmp", unique()));
        if present(fs::rename(&self.path, &away), "rename", &self.path)?.is_none() {
            return Ok(false);
        }
        fs::remove_dir_all(&away).map_err(Error::io("remove", &away))?;
        Ok(true)
    }

    /// Writes one small file so that it is whole at any moment.
    fn put(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.path.join(name);
        let part = self.path.join(format!("{name}.tmp"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(&part)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&part, &path))
            .map_err(Error::io("write", &path))
    }

    fn get(&self, name: &str) -> Result<Option<String>, Error> {
        let path = self.path.join(name);
        let bytes = present(fs::read(&path), "read", &path)?;
        let text = bytes.map(String::from_utf8).transpose();
        text.map_err(|error| Error::Damaged { path, what: error.to_string() })
    }

    fn get_time(&self, name: &str) -> Result<Option<SystemTime>, Error> {
        let Some(text) = self.get(name)? else { return Ok(None) };
        match timestamp::from_rfc3339(&text) {
            Some(time) => Ok(Some(time)),
            None => Err(Error::Damaged {
                path: self.path.join(name),
                what: format!("could not parse timestamp {text:?}"),
            }),
        }
    }
}

/// `None` in place of the error that something is not there.
fn present<T>(
    result: io::Result<T>,
    operation: &'static str,
    path: &Path,
) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(operation, path)(error)),
    }
}

/// A name that no other call of this process returns.
fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{nanos:x}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
