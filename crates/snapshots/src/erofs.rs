//! Snapshots by EROFS: a committed layer is one read-only image in a file,
//! `snapshots/<id>/layer.erofs`, what is being written is
//! `snapshots/<id>/{fs,work}` as with overlayfs. Mounts are those of
//! containerd 2.1's erofs snapshotter (`plugins/snapshots/erofs`).
//!
//! A layer is mounted once, over the empty directory `fs` of its snapshot,
//! when somebody first needs it, and serves all that stand on it. So what is
//! handed out is a plain overlay that every client can mount.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use davit_sys::integrity;
use davit_sys::mount::{mount as make_mount, unmount_all};
use davit_types::{Labels, Mount};

use crate::dirs::{Dirs, make_dir};
use crate::mkfs::Mkfs;
use crate::overlay::{deletion_marks, make_layer, mapping_options, mount, owner_of, path_text};
use crate::{Backend, DeletionMarks, Error, SnapshotId, SnapshotKind, Usage, probe, tree};

/// What `statfs` says of an EROFS.
const MAGIC: u64 = 0xE0F5_E1E2;

/// How EROFS snapshots are made; the names are those of containerd's
/// configuration (`plugins."io.containerd.snapshotter.v1.erofs"`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErofsConfig {
    /// `ovl_mount_options`: further options for every overlay mount.
    pub mount_options: Vec<String>,
    /// `enable_fsverity`: let the kernel check every byte of a layer that is
    /// read.
    pub fsverity: bool,
    /// `set_immutable`: protect layers from being changed or removed by
    /// accident, even by root.
    pub immutable: bool,
}

/// The backend `erofs`.
#[derive(Debug)]
pub struct Erofs {
    dirs: Dirs,
    config: ErofsConfig,
    mkfs: Mkfs,
    /// Whether mounts can map owners.
    remaps: bool,
    /// Of several who need a layer at once, one mounts it.
    mounting: Mutex<()>,
}

impl Erofs {
    /// Opens the backend below `root`, which is made when it is missing.
    ///
    /// # Errors
    /// [`Error::Skipped`] where the kernel knows no EROFS or there is no
    /// `mkfs.erofs`; [`Error::Unsupported`] where no overlay can be mounted,
    /// or files cannot be checked although they are to be.
    pub fn open(root: &Path, config: ErofsConfig) -> Result<Self, Error> {
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !known.lines().any(|line| line.split('\t').nth(1) == Some("erofs")) {
            let words = "EROFS unsupported, please `modprobe erofs`";
            return Err(Error::Skipped(words.to_owned()));
        }
        let mkfs = Mkfs::find()?;
        make_dir(root)?;
        let features = probe::overlay(root)?;
        if config.fsverity {
            probe::fsverity(root)?;
        }
        let dirs = Dirs::with_preparation(root, release)?;
        let remaps = features.idmapped;
        Ok(Self { dirs, config, mkfs, remaps, mounting: Mutex::default() })
    }

    /// What the snapshotter says of itself in containerd's introspection
    /// service: `remap-ids` when it can map owners by itself.
    pub fn capabilities(&self) -> Vec<&'static str> {
        self.remaps.then_some("remap-ids").into_iter().collect()
    }

    fn fs(&self, id: SnapshotId) -> PathBuf {
        self.dirs.path(id).join("fs")
    }

    fn layer(&self, id: SnapshotId) -> PathBuf {
        self.dirs.path(id).join("layer.erofs")
    }

    /// Where the committed layer `id` is mounted; mounts it if need be.
    fn mounted(&self, id: SnapshotId) -> Result<PathBuf, Error> {
        let (target, layer) = (self.fs(id), self.layer(id));
        let _turn = self.mounting.lock().unwrap_or_else(PoisonError::into_inner);
        if is_erofs(&target) {
            return Ok(target);
        }
        self.check(&layer)?;
        // A crash may have come before this.
        self.committed(id)?;
        let mut image = mount("erofs", path_text(&layer)?, vec!["ro".to_owned()]);
        // Since Linux 6.12 a file needs no loop device.
        let mut made = make_mount(&image, &target);
        if made.as_ref().is_err_and(wants_a_device) {
            image.options.push("loop".to_owned());
            made = make_mount(&image, &target);
        }
        made.map_err(|source| Error::Mount { path: target.clone(), source })?;
        Ok(target)
    }

    /// That a layer is checked by the kernel, if all are to be.
    fn check(&self, layer: &Path) -> Result<(), Error> {
        let file = File::open(layer).map_err(Error::io("open", layer))?;
        if !self.config.fsverity {
            return Ok(());
        }
        match integrity::verity_digest(&file).map_err(Error::io("check", layer))? {
            Some(_) => Ok(()),
            None => Err(Error::Unsupported {
                path: layer.to_owned(),
                why: "fsverity is not enabled on this layer".to_owned(),
            }),
        }
    }

    /// Makes the layer of what was written.
    fn convert(&self, id: SnapshotId) -> Result<(), Error> {
        let (layer, source) = (self.layer(id), self.fs(id));
        let part = self.dirs.path(id).join("layer.new");
        self.mkfs.run(&source, &part)?;
        let file = File::open(&part).map_err(Error::io("open", &part))?;
        file.sync_all().map_err(Error::io("sync", &part))?;
        if self.config.fsverity {
            integrity::enable_verity(&file).map_err(Error::io("enable fsverity of", &part))?;
        }
        fs::rename(&part, &layer).map_err(Error::io("rename", &layer))?;
        // Whoever is told of the layer finds it after a loss of power.
        let dir = self.dirs.path(id);
        for dir in [dir.as_path(), dir.parent().unwrap_or(&dir)] {
            let synced = File::open(dir).and_then(|dir| dir.sync_all());
            synced.map_err(Error::io("sync", dir))?;
        }
        Ok(())
    }

    fn protect(&self, id: SnapshotId) {
        let layer = self.layer(id);
        let protected = File::open(&layer).and_then(|file| integrity::set_immutable(&file, true));
        if let Err(error) = protected {
            log::warn!(path:% = layer.display(), error:%; "cannot make a layer immutable");
        }
    }

    /// Empties the directory that the layer was made of, unless the layer is
    /// mounted there already.
    fn empty(&self, id: SnapshotId) -> Result<(), Error> {
        let path = self.fs(id);
        let dir = File::open(&path).map_err(Error::io("open", &path))?;
        if is_in_erofs(&dir) {
            return Ok(());
        }
        for (name, _) in tree::names(&dir).map_err(Error::io("list", &path))? {
            tree::remove_any(&dir, &name).map_err(Error::io("empty", &path))?;
        }
        Ok(())
    }
}

fn is_erofs(path: &Path) -> bool {
    File::open(path).is_ok_and(|dir| is_in_erofs(&dir))
}

fn is_in_erofs(dir: &File) -> bool {
    // The type is as wide as the machine's words, the number is not.
    rustix::fs::fstatfs(dir).is_ok_and(|stat| stat.f_type as u64 & 0xFFFF_FFFF == MAGIC)
}

fn wants_a_device(error: &davit_sys::Error) -> bool {
    let code = rustix::io::Errno::NOTBLK.raw_os_error();
    matches!(error, davit_sys::Error::Path { source, .. } if source.raw_os_error() == Some(code))
}

/// Unmounts the layer in a snapshot's directory, and lets it be removed.
fn release(dir: &Path) -> std::io::Result<()> {
    let target = dir.join("fs");
    if is_erofs(&target) {
        unmount_all(&target, true).map_err(std::io::Error::other)?;
    }
    for name in ["layer.erofs", "layer.new"] {
        if let Ok(file) = File::open(dir.join(name))
            && let Err(error) = integrity::set_immutable(&file, false)
        {
            log::debug!(path:% = dir.display(), error:%; "a layer has no such flag");
        }
    }
    Ok(())
}

impl Backend for Erofs {
    fn name(&self) -> &'static str {
        "erofs"
    }

    fn create(
        &self,
        id: SnapshotId,
        kind: SnapshotKind,
        parents: &[SnapshotId],
        labels: &Labels,
    ) -> Result<(), Error> {
        let parent = parents.first().map(|&parent| self.fs(parent));
        let owner = owner_of(labels, parent.as_deref())?;
        self.dirs.create(id, |part| make_layer(part, kind, owner))
    }

    /// Mounts the layers below, if need be.
    fn mounts(
        &self,
        id: SnapshotId,
        kind: SnapshotKind,
        parents: &[SnapshotId],
        labels: &Labels,
    ) -> Result<Vec<Mount>, Error> {
        let mut options = mapping_options(self.remaps, labels);
        let writable = kind == SnapshotKind::Active;
        if parents.is_empty() {
            let access = if writable { "rw" } else { "ro" };
            options.extend([access.to_owned(), "rbind".to_owned()]);
            return Ok(vec![mount("bind", path_text(&self.fs(id))?, options)]);
        }
        if let ([parent], false) = (parents, writable) {
            let layer = self.layer(*parent);
            self.check(&layer)?;
            options.extend(["ro".to_owned(), "loop".to_owned()]);
            return Ok(vec![mount("erofs", path_text(&layer)?, options)]);
        }
        if writable {
            let work = path_text(&self.dirs.path(id).join("work"))?;
            options.push(format!("workdir={work}"));
            options.push(format!("upperdir={}", path_text(&self.fs(id))?));
        }
        let lower: Result<Vec<_>, Error> =
            parents.iter().map(|&parent| path_text(&self.mounted(parent)?)).collect();
        options.push(format!("lowerdir={}", lower?.join(":")));
        options.extend(self.config.mount_options.iter().cloned());
        Ok(vec![mount("overlay", "overlay".to_owned(), options)])
    }

    fn usage(&self, id: SnapshotId) -> Result<Usage, Error> {
        let layer = self.layer(id);
        match fs::symlink_metadata(&layer) {
            Ok(meta) => Ok(Usage { inodes: 1, size: meta.blocks() * 512 }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let path = self.fs(id);
                tree::usage(&path).map_err(Error::io("measure", &path))
            }
            Err(error) => Err(Error::io("stat", &layer)(error)),
        }
    }

    fn commit(&self, id: SnapshotId) -> Result<Usage, Error> {
        self.convert(id)?;
        self.usage(id)
    }

    fn committed(&self, id: SnapshotId) -> Result<(), Error> {
        if self.config.immutable {
            self.protect(id);
        }
        self.empty(id)
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

    fn independent_layers(&self) -> Option<DeletionMarks> {
        Some(deletion_marks(&self.config.mount_options))
    }
}
