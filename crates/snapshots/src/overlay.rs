//! Snapshots by overlayfs: `snapshots/<id>/{fs,work}`. Mounts and modes are
//! those of containerd's overlay snapshotter (`plugins/snapshots/overlay`).

use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use davit_types::{Labels, Mount};

use crate::dirs::{Dirs, make_dir, make_dir_with_mode};
use crate::eraser::Eraser;
use crate::probe::{self, Features};
use crate::{
    Backend, DeletionMarks, Error, LABEL_GID_MAPPING, LABEL_UID_MAPPING, SnapshotId, SnapshotKind,
    Usage, idmap, tree,
};

/// The label that tells a client where a snapshot's changes are.
const LABEL_UPPERDIR: &str = "containerd.io/snapshot/overlay.upperdir";

/// How overlay snapshots are made; the names are those of containerd's
/// configuration (`plugins."io.containerd.snapshotter.v1.overlayfs"`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverlayConfig {
    /// `mount_options`: further options for every overlay mount, such as
    /// `volatile`.
    pub mount_options: Vec<String>,
    /// `upperdir_label`: tell clients where a snapshot's changes are.
    pub upperdir_label: bool,
    /// `slow_chown`: let clients chown a root filesystem where the kernel
    /// cannot map owners. They learn it from the capabilities.
    pub slow_chown: bool,
    /// The opposite of `sync_remove`: a removed snapshot's files go in the
    /// background.
    pub async_remove: bool,
}

/// The backend `overlayfs`.
#[derive(Debug)]
pub struct Overlay {
    dirs: Arc<Dirs>,
    eraser: Eraser,
    config: OverlayConfig,
    /// Whether mounts can map owners (`uidmap=`, `gidmap=`).
    remaps: bool,
    /// What every overlay mount gets, the configured ones first.
    options: Vec<String>,
}

impl Overlay {
    /// Opens the backend below `root`, which is made when it is missing, and
    /// tries out whether an overlay can be mounted on it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when none can, with the reason.
    pub fn open(root: &Path, config: OverlayConfig) -> Result<Self, Error> {
        make_dir(root)?;
        let features = probe::overlay(root)?;
        Ok(Self {
            dirs: Arc::new(Dirs::open(root)?),
            eraser: Eraser::default(),
            options: mount_options(&config, features),
            remaps: features.idmapped,
            config,
        })
    }

    /// What the snapshotter says of itself in containerd's introspection
    /// service: `remap-ids` when it can map owners by itself,
    /// `only-remap-ids` when clients must not chown instead.
    pub fn capabilities(&self) -> Vec<&'static str> {
        let mut capabilities = Vec::new();
        if self.remaps {
            capabilities.push("remap-ids");
        }
        if !self.config.slow_chown {
            capabilities.push("only-remap-ids");
        }
        capabilities
    }

    fn upper(&self, id: SnapshotId) -> PathBuf {
        self.dirs.path(id).join("fs")
    }
}

/// Fills the directory of a snapshot that is one layer of an overlay: `fs`, and
/// `work` where it is to be written to.
pub(crate) fn make_layer(
    part: &Path,
    kind: SnapshotKind,
    owner: Option<(u32, u32)>,
) -> Result<(), Error> {
    let upper = part.join("fs");
    make_dir_with_mode(&upper, 0o755)?;
    if kind == SnapshotKind::Active {
        make_dir_with_mode(&part.join("work"), 0o711)?;
    }
    match owner {
        Some((uid, gid)) => {
            lchown(&upper, Some(uid), Some(gid)).map_err(Error::io("chown", &upper))
        }
        None => Ok(()),
    }
}

/// Whom the root directory of a snapshot belongs to: root of the container,
/// or else whomever the parent's directory belongs to.
pub(crate) fn owner_of(
    labels: &Labels,
    parent: Option<&Path>,
) -> Result<Option<(u32, u32)>, Error> {
    if let Some(owner) = idmap::root_of(labels)? {
        return Ok(Some(owner));
    }
    let Some(path) = parent else { return Ok(None) };
    let meta = fs::symlink_metadata(path).map_err(Error::io("stat parent", path))?;
    Ok(Some((meta.uid(), meta.gid())))
}

/// The options by which a mount maps owners, where it can.
pub(crate) fn mapping_options(remaps: bool, labels: &Labels) -> Vec<String> {
    if !remaps {
        return Vec::new();
    }
    [("uidmap", LABEL_UID_MAPPING), ("gidmap", LABEL_GID_MAPPING)]
        .into_iter()
        .filter_map(|(option, label)| Some(format!("{option}={}", labels.get(label)?)))
        .collect()
}

fn mount_options(config: &OverlayConfig, features: Features) -> Vec<String> {
    let mut options = config.mount_options.clone();
    let has = |options: &[String], name: &str| {
        options.iter().any(|option| option.split('=').next() == Some(name))
    };
    if features.userxattr && !has(&options, "userxattr") {
        options.push("userxattr".to_owned());
    }
    if features.index && !has(&options, "index") {
        options.push("index=off".to_owned());
    }
    options
}

impl Backend for Overlay {
    fn name(&self) -> &'static str {
        "overlayfs"
    }

    fn create(
        &self,
        id: SnapshotId,
        kind: SnapshotKind,
        parents: &[SnapshotId],
        labels: &Labels,
    ) -> Result<(), Error> {
        let parent = parents.first().map(|&parent| self.upper(parent));
        let owner = owner_of(labels, parent.as_deref())?;
        self.dirs.create(id, |part| make_layer(part, kind, owner))
    }

    fn mounts(
        &self,
        id: SnapshotId,
        kind: SnapshotKind,
        parents: &[SnapshotId],
        labels: &Labels,
    ) -> Result<Vec<Mount>, Error> {
        let mut options = mapping_options(self.remaps, labels);
        let writable = kind == SnapshotKind::Active;
        // An overlay needs two layers; fewer are bound.
        let single = match parents {
            [] => Some(id),
            [parent] if !writable => Some(*parent),
            _ => None,
        };
        if let Some(layer) = single {
            let access = if kind == SnapshotKind::View || layer != id { "ro" } else { "rw" };
            options.extend([access.to_owned(), "rbind".to_owned()]);
            return Ok(vec![mount("bind", path_text(&self.upper(layer))?, options)]);
        }
        if writable {
            let work = path_text(&self.dirs.path(id).join("work"))?;
            options.push(format!("workdir={work}"));
            options.push(format!("upperdir={}", path_text(&self.upper(id))?));
        }
        let lower: Result<Vec<_>, _> =
            parents.iter().map(|&parent| path_text(&self.upper(parent))).collect();
        options.push(format!("lowerdir={}", lower?.join(":")));
        options.extend(self.options.iter().cloned());
        Ok(vec![mount("overlay", "overlay".to_owned(), options)])
    }

    fn usage(&self, id: SnapshotId) -> Result<Usage, Error> {
        let upper = self.upper(id);
        tree::usage(&upper).map_err(Error::io("measure", &upper))
    }

    fn commit(&self, id: SnapshotId) -> Result<Usage, Error> {
        self.usage(id)
    }

    fn remove(&self, id: SnapshotId) -> Result<(), Error> {
        match self.dirs.retire(id)? {
            Some(path) if self.config.async_remove => self.eraser.erase(&self.dirs, path),
            Some(path) => self.dirs.erase(&path),
            None => Ok(()),
        }
    }

    fn cleanup(&self, live: &[SnapshotId]) -> Result<(), Error> {
        self.dirs.cleanup(live)
    }

    fn independent_layers(&self) -> Option<DeletionMarks> {
        Some(deletion_marks(&self.options))
    }

    fn labels(&self, id: SnapshotId) -> Labels {
        if !self.config.upperdir_label {
            return Labels::new();
        }
        Labels::from([(LABEL_UPPERDIR.to_owned(), self.upper(id).display().to_string())])
    }
}

/// How deletions are marked in overlays that are mounted with `options`.
pub(crate) fn deletion_marks(options: &[String]) -> DeletionMarks {
    match options.iter().any(|option| option == "userxattr") {
        true => DeletionMarks::User,
        false => DeletionMarks::Trusted,
    }
}

pub(crate) fn mount(kind: &str, source: String, options: Vec<String>) -> Mount {
    Mount { kind: kind.to_owned(), source, target: String::new(), options }
}

/// A path as a mount's text. Backends refuse directories that are not UTF-8
/// or have `:` or `,` in them when they are opened.
pub(crate) fn path_text(path: &Path) -> Result<String, Error> {
    path.to_str().map(str::to_owned).ok_or_else(|| Error::Unsupported {
        path: path.to_owned(),
        why: "the path is not UTF-8".to_owned(),
    })
}
