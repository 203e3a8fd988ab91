//! What all backends that keep directories share: one directory per id, which
//! appears whole or not at all and disappears at once.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::{Error, SnapshotId, tree};

/// The directory `snapshots` of a backend.
///
/// `<id>` is a snapshot, `new-<id>` one that is being made, `rm-<id>-<n>` one
/// that is being removed.
#[derive(Debug)]
pub(crate) struct Dirs {
    path: PathBuf,
    /// Made by this process and not yet known to be in the index: cleanup
    /// must not take them for remains.
    fresh: Mutex<HashSet<SnapshotId>>,
    removals: AtomicU64,
    prepare: Preparation,
}

/// What must be done to a directory before it can be removed as any other.
pub(crate) type Preparation = fn(&Path) -> io::Result<()>;

impl Dirs {
    pub fn open(root: &Path) -> Result<Self, Error> {
        Self::with_preparation(root, |_| Ok(()))
    }

    pub fn with_preparation(root: &Path, prepare: Preparation) -> Result<Self, Error> {
        let path = root.join("snapshots");
        make_dir(&path)?;
        Ok(Self { path, fresh: Mutex::default(), removals: AtomicU64::new(0), prepare })
    }

    pub fn path(&self, id: SnapshotId) -> PathBuf {
        self.path.join(id.to_string())
    }

    /// Makes the directory of `id`: `fill` gets a new one with the mode 0700,
    /// which gets its name when it is filled.
    pub fn create(
        &self,
        id: SnapshotId,
        fill: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.fresh().insert(id);
        let part = self.path.join(format!("new-{id}"));
        let result = self.create_at(&part, id, fill);
        if result.is_err() {
            if let Err(error) = self.erase(&part) {
                log::warn!(path:% = part.display(), error:% = error; "remove a failed snapshot");
            }
            self.fresh().remove(&id);
        }
        result
    }

    fn create_at(
        &self,
        part: &Path,
        id: SnapshotId,
        fill: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.erase(part)?;
        DirBuilder::new().mode(0o700).create(part).map_err(Error::io("mkdir", part))?;
        fill(part)?;
        let path = self.path(id);
        // An id is never given out twice, so what has its name is a remnant;
        // an empty one would be replaced by the rename, a full one not.
        if path.exists() {
            self.discard(id)?;
        }
        fs::rename(part, &path).map_err(Error::io("rename", &path))
    }

    /// Takes the directory's name away; `None` when there was none.
    pub fn retire(&self, id: SnapshotId) -> Result<Option<PathBuf>, Error> {
        self.fresh().remove(&id);
        self.rename_away(id)
    }

    fn rename_away(&self, id: SnapshotId) -> Result<Option<PathBuf>, Error> {
        let path = self.path(id);
        loop {
            let number = self.removals.fetch_add(1, Ordering::Relaxed);
            let away = self.path.join(format!("rm-{id}-{number}"));
            match fs::rename(&path, &away) {
                Ok(()) => return Ok(Some(away)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                // Left over by an earlier process that counted as far.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                Err(error) => return Err(Error::io("rename", &path)(error)),
            }
        }
    }

    fn discard(&self, id: SnapshotId) -> Result<(), Error> {
        match self.rename_away(id)? {
            Some(path) => self.erase(&path),
            None => Ok(()),
        }
    }

    /// Removes one of our directories. What is still mounted inside is
    /// detached first, never deleted.
    pub fn erase(&self, path: &Path) -> Result<(), Error> {
        let Some(name) =
            path.file_name().and_then(|name| CString::new(name.as_encoded_bytes()).ok())
        else {
            return Ok(());
        };
        (self.prepare)(path).map_err(Error::io("remove", path))?;
        let parent = File::open(&self.path).map_err(Error::io("open", &self.path))?;
        let busy = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::CrossesDevices | io::ErrorKind::ResourceBusy)
        };
        match tree::remove(&parent, &name) {
            Err(error) if busy(&error) => {
                log::warn!(path:% = path.display(); "detach what is mounted in a removed snapshot");
                davit_sys::mount::unmount_recursive(path, true)
                    .map_err(|error| Error::Mount { path: path.to_owned(), source: error })?;
                tree::remove(&parent, &name).map_err(Error::io("remove", path))
            }
            result => result.map_err(Error::io("remove", path)),
        }
    }

    /// Removes what is neither in `live` nor being made now.
    pub fn cleanup(&self, live: &[SnapshotId]) -> Result<(), Error> {
        let live: HashSet<SnapshotId> = live.iter().copied().collect();
        // Confirmed by the index: no longer in need of protection.
        self.fresh().retain(|id| !live.contains(id));
        let mut first = None;
        for entry in fs::read_dir(&self.path).map_err(Error::io("list", &self.path))? {
            let path = entry.map_err(Error::io("list", &self.path))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if self.is_in_use(&name, &live) {
                continue;
            }
            if let Err(error) = self.erase(&path) {
                log::warn!(path:% = path.display(), error:% = error; "remove a left-over snapshot");
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }

    fn is_in_use(&self, name: &str, live: &HashSet<SnapshotId>) -> bool {
        let id = name.strip_prefix("new-").unwrap_or(name).parse::<SnapshotId>();
        match id {
            Ok(id) if self.fresh().contains(&id) => true,
            Ok(id) => live.contains(&id) && !name.starts_with("new-"),
            // Not ours to remove, unless it says so itself.
            Err(_) => !name.starts_with("rm-") && !name.starts_with("new-"),
        }
    }

    fn fresh(&self) -> std::sync::MutexGuard<'_, HashSet<SnapshotId>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes `path` and what is missing above it, for the owner alone.
pub(crate) fn make_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("mkdir", path))
}

/// Makes one directory with exactly this mode, whatever the umask.
pub(crate) fn make_dir_with_mode(path: &Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(Error::io("mkdir", path))
}
