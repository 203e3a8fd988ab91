//! The directory of a task, and the files in it that say how to find its shim
//! again.
//!
//! Layout (containerd, `core/runtime/v2/bundle.go`): `<state>/<namespace>/<id>`
//! with `config.json`, `rootfs/` and `work`, a link to `<root>/<namespace>/<id>`.
//! A bundle appears and disappears whole: it is made and removed under a
//! hidden name, which no id can have.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use davit_types::{Any, ContainerId, Kind as _, Namespace};

use crate::{Config, Error};

/// The bundle's owner alone.
const PRIVATE: u32 = 0o700;
/// Others may pass, and see nothing.
const PASSABLE: u32 = 0o711;
/// The container's remapped root may pass.
const GROUP_PASSABLE: u32 = 0o710;

/// The type of an OCI runtime spec, as Go clients name it.
const SPEC_TYPE: &str = "opencontainers/runtime-spec/1/Spec";

/// Where a task's bundle is; it need not exist.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    pub path: PathBuf,
    pub work: PathBuf,
}

impl Bundle {
    /// Where the bundle of `id` belongs.
    pub fn locate(config: &Config, namespace: &Namespace, id: &ContainerId) -> Self {
        Self {
            path: config.state.join(namespace.as_str()).join(id.as_str()),
            work: config.root.join(namespace.as_str()).join(id.as_str()),
        }
    }

    /// Makes both directories, as a whole or not at all. What an earlier task
    /// of this id left behind must have been removed.
    pub fn create(&self, spec: Option<&Any>) -> Result<(), Error> {
        let hidden = hidden_name(&self.path);
        let made = self.build(&hidden, spec).and_then(|()| {
            fs::rename(&hidden, &self.path).map_err(|source| failed("create", &self.path, source))
        });
        if made.is_err() {
            for path in [&hidden, &self.work] {
                if let Err(error) = remove_tree(path) {
                    log::warn!(path:? = path, error:% = error; "cannot remove what was made");
                }
            }
        }
        made
    }

    fn build(&self, hidden: &Path, spec: Option<&Any>) -> Result<(), Error> {
        make_directory(parent(&self.path), PASSABLE, true)?;
        make_directory(parent(&self.work), PASSABLE, true)?;
        remove_tree(&self.work).map_err(|source| failed("remove", &self.work, source))?;
        make_directory(hidden, PRIVATE, false)?;
        if let Some(gid) = remapped_gid(spec)? {
            std::os::unix::fs::chown(hidden, None, Some(gid))
                .and_then(|()| fs::set_permissions(hidden, Permissions::from_mode(GROUP_PASSABLE)))
                .map_err(|source| failed("open to the container's root", hidden, source))?;
        }
        make_directory(&hidden.join("rootfs"), PASSABLE, false)?;
        make_directory(&self.work, PASSABLE, false)?;
        let link = hidden.join("work");
        symlink(&self.work, &link).map_err(|source| failed("link", &link, source))?;
        if let Some(spec) = spec.filter(|spec| !spec.value.is_empty()) {
            let path = hidden.join("config.json");
            write_new(&path, &spec.value, 0o644)
                .map_err(|source| failed("write bundle spec", &path, source))?;
        }
        Ok(())
    }

    /// Removes both directories. Unmounts what is left on the root filesystem
    /// first, and stops when it cannot, so that nothing of a container's data
    /// is ever deleted here.
    pub fn remove(&self) -> Result<(), Error> {
        let rootfs = self.path.join("rootfs");
        unmount(&rootfs)?;
        match fs::remove_dir(&rootfs) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove bundle rootfs", &rootfs, error));
            }
            _ => {}
        }
        let state = vanish(&self.path);
        let work = vanish(&self.work);
        state.and(work)
    }

    /// Reads one of the bundle's small files; `None` where it is missing,
    /// empty, or cannot be read.
    pub fn read(&self, name: &str) -> Option<String> {
        self.look(name).ok().flatten()
    }

    /// Reads one of the bundle's small files; `None` where it is missing or
    /// empty.
    pub fn look(&self, name: &str) -> Result<Option<String>, Error> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path, error)),
        }
    }

    /// Writes one of the bundle's small files, as a whole or not at all.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let path = self.path.join(name);
        let hidden = hidden_name(&path);
        write_new(&hidden, content, 0o600)
            .and_then(|()| fs::rename(&hidden, &path))
            .map_err(|source| failed("write", &path, source))
    }
}

/// Removes a directory that no id can have and that an interrupted create or
/// remove left behind.
pub(crate) fn remove_hidden(path: &Path) -> Result<(), Error> {
    unmount(&path.join("rootfs"))?;
    remove_tree(path).map_err(|source| failed("remove", path, source))
}

fn unmount(path: &Path) -> Result<(), Error> {
    davit_sys::mount::unmount_recursive(path, false).or_else(|busy| {
        log::warn!(path:? = path, error:% = busy.full_message(); "rootfs is busy; detaching it");
        davit_sys::mount::unmount_recursive(path, true).map_err(|error| Error::Io {
            operation: "unmount rootfs",
            path: path.to_owned(),
            source: io::Error::other(error.full_message()),
        })
    })
}

/// Renames a directory out of the way and then deletes it.
fn vanish(path: &Path) -> Result<(), Error> {
    match hide(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path, error)),
        Ok(hidden) => remove_tree(&hidden).map_err(|source| failed("remove", &hidden, source)),
    }
}

/// Renames a directory out of the way; answers its new path.
pub(crate) fn hide(path: &Path) -> io::Result<PathBuf> {
    let hidden = hidden_name(path);
    fs::rename(path, &hidden)?;
    Ok(hidden)
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// A sibling of `path` that is no id and that nobody else uses.
pub(crate) fn hidden_name(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}.{number}", std::process::id()))
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Makes a directory with exactly `mode`, whatever the umask is; one that is
/// there already is left as it is where `existing` allows it.
pub(crate) fn make_directory(path: &Path, mode: u32, existing: bool) -> Result<(), Error> {
    let missing = !path.exists();
    if missing || !existing {
        DirBuilder::new()
            .recursive(existing)
            .mode(mode)
            .create(path)
            .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
            .map_err(|source| failed("create", path, source))?;
    }
    Ok(())
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { operation, path: path.to_owned(), source }
}

#[derive(serde::Deserialize)]
struct SpecWithMappings {
    linux: Option<LinuxMappings>,
}

#[derive(serde::Deserialize)]
struct LinuxMappings {
    #[serde(rename = "gidMappings", default)]
    gid_mappings: Option<Vec<GidMapping>>,
}

#[derive(serde::Deserialize)]
struct GidMapping {
    #[serde(rename = "containerID")]
    container_id: u32,
    #[serde(rename = "hostID")]
    host_id: u32,
}

/// The host's id of the container's root group, where the spec maps it to
/// another than root.
fn remapped_gid(spec: Option<&Any>) -> Result<Option<u32>, Error> {
    let Some(spec) = spec.filter(|spec| spec.type_url.ends_with(SPEC_TYPE)) else {
        return Ok(None);
    };
    if spec.value.is_empty() {
        return Err(Error::Binary("unexpected end of JSON input".into()));
    }
    let spec: SpecWithMappings =
        serde_json::from_slice(&spec.value).map_err(|error| Error::Shim {
            kind: davit_types::ErrorKind::InvalidArgument,
            message: format!("cannot read the container's spec: {error}: invalid argument"),
        })?;
    let mappings = spec.linux.and_then(|linux| linux.gid_mappings).unwrap_or_default();
    let root = mappings.into_iter().find(|mapping| mapping.container_id == 0);
    Ok(root.map(|mapping| mapping.host_id).filter(|gid| *gid != 0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn bundle(root: &Path) -> Bundle {
        Bundle { path: root.join("state/ns/c1"), work: root.join("root/ns/c1") }
    }

    fn spec(json: &str) -> Any {
        Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
            value: json.as_bytes().to_vec(),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn is_laid_out_as_containerds_and_removed_without_a_trace() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = bundle(directory.path());
        bundle.create(Some(&spec("{\"ociVersion\":\"1.0.2\"}"))).unwrap();
        assert_eq!(mode(&directory.path().join("state/ns")), 0o711);
        assert_eq!(mode(&bundle.path), 0o700);
        assert_eq!(mode(&bundle.path.join("rootfs")), 0o711);
        assert_eq!(mode(&bundle.work), 0o711);
        assert_eq!(fs::read_link(bundle.path.join("work")).unwrap(), bundle.work);
        assert_eq!(bundle.read("config.json").unwrap(), "{\"ociVersion\":\"1.0.2\"}");
        bundle.remove().unwrap();
        assert_eq!(fs::read_dir(directory.path().join("state/ns")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(directory.path().join("root/ns")).unwrap().count(), 0);
        bundle.remove().unwrap();
    }

    #[test]
    fn a_remapped_root_may_pass() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = bundle(directory.path());
        let json = r#"{"linux":{"gidMappings":[{"containerID":5,"hostID":1,"size":1},
            {"containerID":0,"hostID":100000,"size":65536}]}}"#;
        bundle.create(Some(&spec(json))).unwrap();
        assert_eq!(mode(&bundle.path), 0o710);
        assert_eq!(fs::metadata(&bundle.path).unwrap().gid(), 100_000);
    }

    #[test]
    fn a_broken_spec_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = bundle(directory.path());
        let error = bundle.create(Some(&spec("{"))).unwrap_err();
        assert_eq!(error.kind(), davit_types::ErrorKind::InvalidArgument);
        assert_eq!(fs::read_dir(directory.path().join("state/ns")).unwrap().count(), 0);
        assert!(!bundle.work.exists());
    }

    #[test]
    fn what_fails_half_way_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = bundle(directory.path());
        fs::create_dir_all(directory.path().join("root")).unwrap();
        fs::write(directory.path().join("root/ns"), "a file").unwrap();
        bundle.create(Some(&spec("{}"))).unwrap_err();
        assert_eq!(fs::read_dir(directory.path().join("state/ns")).unwrap().count(), 0);
    }

    #[test]
    fn data_below_rootfs_is_never_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = bundle(directory.path());
        bundle.create(None).unwrap();
        let file = bundle.path.join("rootfs/precious");
        fs::write(&file, "x").unwrap();
        bundle.remove().unwrap_err();
        assert!(file.exists());
    }

    #[test]
    fn small_files_are_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = bundle(directory.path());
        bundle.create(None).unwrap();
        assert_eq!(bundle.read("address"), None);
        bundle.write("address", b"one").unwrap();
        bundle.write("address", b"two").unwrap();
        assert_eq!(bundle.read("address").unwrap(), "two");
        assert_eq!(mode(&bundle.path.join("address")), 0o600);
    }
}
