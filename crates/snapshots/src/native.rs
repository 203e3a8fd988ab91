//! Snapshots by copying: `snapshots/<id>`. Works everywhere; takes no more
//! space than an overlay where the file system can share blocks (containerd,
//! `plugins/snapshots/native`).

use std::path::Path;

use davit_types::{Labels, Mount};

use crate::dirs::{Dirs, make_dir};
use crate::overlay::{mount, path_text};
use crate::{Backend, Error, SnapshotId, SnapshotKind, Usage, copy, tree};

/// The backend `native`.
#[derive(Debug)]
pub struct Native {
    dirs: Dirs,
}

impl Native {
    /// Opens the backend below `root`, which is made when it is missing.
    pub fn open(root: &Path) -> Result<Self, Error> {
        make_dir(root)?;
        Ok(Self { dirs: Dirs::open(root)? })
    }
}

impl Backend for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn create(
        &self,
        id: SnapshotId,
        kind: SnapshotKind,
        parents: &[SnapshotId],
        _labels: &Labels,
    ) -> Result<(), Error> {
        match parents.first() {
            // A view shows its parent's own directory.
            Some(_) if kind == SnapshotKind::View => Ok(()),
            Some(&parent) => {
                let source = self.dirs.path(parent);
                self.dirs.create(id, |part| {
                    copy::tree(&source, part).map_err(Error::io("copy", &source))
                })
            }
            None => self.dirs.create(id, |part| {
                use std::os::unix::fs::PermissionsExt;
                std::fs::set_permissions(part, std::fs::Permissions::from_mode(0o755))
                    .map_err(Error::io("chmod", part))
            }),
        }
    }

    fn mounts(
        &self,
        id: SnapshotId,
        kind: SnapshotKind,
        parents: &[SnapshotId],
        _labels: &Labels,
    ) -> Result<Vec<Mount>, Error> {
        let shown = match parents.first() {
            Some(&parent) if kind == SnapshotKind::View => parent,
            _ => id,
        };
        let access = if kind == SnapshotKind::View { "ro" } else { "rw" };
        let options = vec!["rbind".to_owned(), access.to_owned()];
        Ok(vec![mount("bind", path_text(&self.dirs.path(shown))?, options)])
    }

    fn usage(&self, id: SnapshotId) -> Result<Usage, Error> {
        let path = self.dirs.path(id);
        tree::usage(&path).map_err(Error::io("measure", &path))
    }

    fn commit(&self, id: SnapshotId) -> Result<Usage, Error> {
        self.usage(id)
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
