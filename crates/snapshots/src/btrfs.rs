//! Snapshots by btrfs: `snapshots/<id>/fs` is a subvolume, read-only for
//! views and once it is committed, and `snapshots/<id>/parent` a link to the
//! one that it was made from. Mounts are those of containerd's btrfs
//! snapshotter (`plugins/snapshots/btrfs`).

use std::ffi::CStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use davit_sys::btrfs;
use davit_sys::mount::mountinfo;
use davit_types::{Labels, Mount};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::dirs::{Dirs, make_dir};
use crate::overlay::mount;
use crate::{Backend, Error, SnapshotId, SnapshotKind, Usage, subvolumes, tree};

const SUBVOLUME: &CStr = c"fs";
/// What will be `fs` when it is whole.
const COMMITTED: &CStr = c"committed";

/// The backend `btrfs`.
#[derive(Debug)]
pub struct Btrfs {
    dirs: Dirs,
    /// What the file system is on: `/dev/sdb1`.
    device: String,
}

impl Btrfs {
    /// Opens the backend below `root`, which is made when it is missing.
    ///
    /// # Errors
    /// [`Error::Skipped`] when that is on another file system.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let device = device_of(root)?;
        make_dir(root)?;
        Ok(Self { dirs: Dirs::with_preparation(root, subvolumes::remove_those_in)?, device })
    }

    fn subvolume(&self, id: SnapshotId) -> PathBuf {
        self.dirs.path(id).join("fs")
    }
}

/// What the btrfs is on that `root` lies on, or will.
fn device_of(root: &Path) -> Result<String, Error> {
    let mut existing = root;
    let real = loop {
        match fs::canonicalize(existing) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                existing = existing.parent().unwrap_or(Path::new("/"));
            }
            result => break result.map_err(Error::io("look at", existing))?,
        }
    };
    let mounts =
        mountinfo::read().map_err(|source| Error::Mount { path: root.to_owned(), source })?;
    let below = mounts.into_iter().filter(|mount| real.starts_with(&mount.mount_point));
    // Of several on one another, the last is what is seen.
    let seen = below.max_by_key(|mount| mount.mount_point.as_os_str().len());
    let (kind, device) = seen.map(|mount| (mount.kind, mount.source)).unwrap_or_default();
    if kind == "btrfs" {
        return Ok(device);
    }
    Err(Error::Skipped(format!(
        "path {} ({kind}) must be a btrfs filesystem to be used with the btrfs snapshotter",
        root.display()
    )))
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(Error::io("open", path))
}

impl Backend for Btrfs {
    fn name(&self) -> &'static str {
        "btrfs"
    }

    fn create(
        &self,
        id: SnapshotId,
        kind: SnapshotKind,
        parents: &[SnapshotId],
        _labels: &Labels,
    ) -> Result<(), Error> {
        let source = parents.first().map(|&parent| self.subvolume(parent));
        let source = source.map(|path| open(&path).map(|file| (file, path))).transpose()?;
        self.dirs.create(id, |part| {
            let place = open(part)?;
            let Some((source, path)) = &source else {
                btrfs::create_subvolume(&place, SUBVOLUME)
                    .map_err(Error::io("make a subvolume in", part))?;
                let made = part.join("fs");
                return fs::set_permissions(&made, Permissions::from_mode(0o755))
                    .map_err(Error::io("chmod", &made));
            };
            let read_only = kind == SnapshotKind::View;
            btrfs::snapshot(source, &place, SUBVOLUME, read_only)
                .map_err(Error::io("make a snapshot of", path))?;
            symlink(path, part.join("parent")).map_err(Error::io("link", part))
        })
    }

    fn mounts(
        &self,
        id: SnapshotId,
        kind: SnapshotKind,
        _parents: &[SnapshotId],
        _labels: &Labels,
    ) -> Result<Vec<Mount>, Error> {
        let path = self.subvolume(id);
        let number = btrfs::subvolume_id(open(&path)?).map_err(Error::io("look at", &path))?;
        let mut options = vec![format!("subvolid={number}")];
        if kind != SnapshotKind::Active {
            options.push("ro".to_owned());
        }
        Ok(vec![mount("btrfs", self.device.clone(), options)])
    }

    /// What differs from the parent, as containerd measures it: by looking
    /// at every file. Quota groups would know bytes, but not inodes, and lose
    /// count of what is shared later.
    fn usage(&self, id: SnapshotId) -> Result<Usage, Error> {
        let path = self.subvolume(id);
        let parent = match fs::read_link(self.dirs.path(id).join("parent")) {
            Ok(parent) => Some(parent),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        tree::added(parent.as_deref(), &path).map_err(Error::io("measure", &path))
    }

    /// As containerd: a read-only snapshot takes the place of the subvolume,
    /// which whoever has it still mounted goes on writing to in vain.
    fn commit(&self, id: SnapshotId) -> Result<Usage, Error> {
        let usage = self.usage(id)?;
        let (path, dir) = (self.subvolume(id), self.dirs.path(id));
        let place = open(&dir)?;
        let failed = || Error::io::<io::Error>("commit", &path);
        // What an earlier attempt has left.
        subvolumes::remove(&place, COMMITTED).map_err(failed())?;
        btrfs::snapshot(open(&path)?, &place, COMMITTED, true).map_err(failed())?;
        renameat_with(CWD, dir.join("committed"), CWD, &path, RenameFlags::EXCHANGE)
            .map_err(|error| failed()(error.into()))?;
        if let Err(error) = subvolumes::remove(&place, COMMITTED) {
            log::warn!(path:% = path.display(), error:%; "what was committed stays beside it");
        }
        Ok(usage)
    }

    fn remove(&self, id: SnapshotId) -> Result<(), Error> {
        match self.dirs.retire(id)? {
            Some(path) => self.dirs.erase(&path),
            None => Ok(()),
        }
    }

    fn cleanup(&self, live: &[SnapshotId]) -> Result<(), Error> {
        self.dirs.cleanup(live)
    }
}

/// Whether an inode of this number is a subvolume's root, on btrfs.
pub(crate) fn is_root(inode: u64) -> bool {
    inode == btrfs::ROOT_INODE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_system_is_skipped_with_the_reason_and_left_alone() {
        let root = Path::new("/proc/sys/nowhere");
        let error = Btrfs::open(root).unwrap_err();
        assert_eq!(
            error.to_string(),
            "path /proc/sys/nowhere (proc) must be a btrfs filesystem to be used with the btrfs \
             snapshotter: skip plugin"
        );
    }
}
