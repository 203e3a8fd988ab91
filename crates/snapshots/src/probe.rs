//! What the kernel and the file system below a directory can do.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use davit_sys::mount::{mount, unmount};
use davit_types::Mount;
use rustix::fs::FileType;

use crate::dirs::make_dir;
use crate::{Error, tree};

/// What overlays on a directory can be mounted with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// Attributes of overlays must be kept in `user.overlay.*`.
    pub userxattr: bool,
    /// The option `index` exists, and is to be turned off.
    pub index: bool,
    /// Owners can be mapped.
    pub idmapped: bool,
}

/// Removed with all that is mounted in it when the probe ends, however it
/// ends.
struct Scratch {
    path: PathBuf,
    mounts: Cell<u32>,
}

impl Scratch {
    fn new(root: &Path) -> Result<Self, Error> {
        let path = root.join(format!("probe-{}", std::process::id()));
        for name in ["lower1", "lower2", "merged"] {
            make_dir(&path.join(name))?;
        }
        Ok(Self { path, mounts: Cell::new(0) })
    }

    fn path(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// Mounts an overlay of this directory with `options`, and unmounts it:
    /// as a volatile one if it can be, because the unmounting of another
    /// brings all that the file system has not written yet to the disk.
    fn mounts(&self, options: &[&str]) -> Result<(), Error> {
        let volatile: Vec<&str> = options.iter().copied().chain(["volatile"]).collect();
        self.mounts_with(&volatile).or_else(|_| self.mounts_with(options))
    }

    fn mounts_with(&self, options: &[&str]) -> Result<(), Error> {
        let number = self.mounts.replace(self.mounts.get() + 1);
        let [upper, work] = ["upper", "work"].map(|name| format!("{name}-{number}"));
        make_dir(&self.path.join(&upper))?;
        make_dir(&self.path.join(&work))?;
        let mut all = vec![
            format!("lowerdir={}:{}", self.path("lower2"), self.path("lower1")),
            format!("upperdir={}", self.path(&upper)),
            format!("workdir={}", self.path(&work)),
        ];
        all.extend(options.iter().map(|&option| option.to_owned()));
        let overlay = Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options: all,
        };
        let target = self.path.join("merged");
        let failed = |source| Error::Mount { path: target.clone(), source };
        mount(&overlay, &target).map_err(failed)?;
        unmount(&target, true).map_err(failed)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            log::warn!(path:% = self.path.display(), error:% = error; "remove a probe");
        }
    }
}

/// Finds out by trying. An overlay that cannot be mounted at all is
/// [`Error::Unsupported`].
pub(crate) fn overlay(root: &Path) -> Result<Features, Error> {
    let unsupported = |why: String| Error::Unsupported { path: root.to_owned(), why };
    let text = root.to_str().ok_or_else(|| unsupported("the path is not UTF-8".to_owned()))?;
    if let Some(bad) = text.chars().find(|c| matches!(c, ':' | ',' | '\\')) {
        return Err(unsupported(format!("an overlay's path cannot have {bad:?} in it")));
    }
    let device = fs::metadata(root).map_err(Error::io("stat", root))?.dev();
    if let Some(known) = known().get(&device) {
        return Ok(*known);
    }
    let scratch = Scratch::new(root)?;
    if !supports_d_type(&scratch.path)? {
        return Err(unsupported(
            "the file system does not support d_type. If the backing filesystem is xfs, please \
             reformat with ftype=1 to enable d_type support"
                .to_owned(),
        ));
    }
    let userxattr = in_user_namespace();
    let options: &[&str] = if userxattr { &["userxattr"] } else { &[] };
    scratch.mounts(options).map_err(|error| {
        use davit_types::Kind;
        unsupported(format!("overlay cannot be mounted here: {}", error.full_message()))
    })?;
    let mapped = ["uidmap=0:65536:1", "gidmap=0:65536:1"];
    let features = Features {
        userxattr,
        index: Path::new("/sys/module/overlay/parameters/index").exists(),
        idmapped: scratch.mounts(&mapped).is_ok(),
    };
    known().insert(device, features);
    Ok(features)
}

/// What was found out of each file system, by its device number: every
/// unmounting makes the kernel wait for all its processors, and two
/// snapshotters want to know the same.
fn known() -> MutexGuard<'static, BTreeMap<u64, Features>> {
    static KNOWN: Mutex<BTreeMap<u64, Features>> = Mutex::new(BTreeMap::new());
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Finds out by trying whether the kernel can check the files below `root`.
pub(crate) fn fsverity(root: &Path) -> Result<(), Error> {
    let path = root.join(format!("probe-{}", std::process::id()));
    let made = fs::write(&path, "x").and_then(|()| fs::File::open(&path));
    let tried = made.and_then(|file| davit_sys::integrity::enable_verity(&file));
    let removed = fs::remove_file(&path);
    tried.map_err(|error| Error::Unsupported {
        path: root.to_owned(),
        why: format!("fsverity is not supported on this filesystem: {error}"),
    })?;
    removed.map_err(Error::io("remove", &path))
}

/// Whether directories say what their entries are; overlayfs hides its
/// whiteouts by that.
fn supports_d_type(dir: &Path) -> Result<bool, Error> {
    let open = fs::File::open(dir).map_err(Error::io("open", dir))?;
    let entries = tree::names(&open).map_err(Error::io("list", dir))?;
    Ok(entries.iter().all(|(_, kind)| *kind == FileType::Directory))
}

/// Whether ids are mapped for us (containerd, `pkg/userns`).
fn in_user_namespace() -> bool {
    let Ok(map) = fs::read_to_string("/proc/self/uid_map") else { return false };
    let numbers: Vec<&str> = map.split_ascii_whitespace().collect();
    numbers != ["0", "0", "4294967295"]
}
