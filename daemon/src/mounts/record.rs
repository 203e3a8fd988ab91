//! Activations on disk: `<targets>/<number>/activation.json` beside the mount
//! points `<targets>/<number>/<n>`.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io::ErrorKind as Io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use davit_types::{Labels, Mount, Namespace};
use serde::{Deserialize, Serialize};

use super::error::MountError;
use super::{Activation, ActiveMount, Key};

const FILE: &str = "activation.json";
const NEW_FILE: &str = "activation.json.new";

#[derive(Serialize, Deserialize)]
struct Record {
    namespace: String,
    name: String,
    active: Vec<ActiveRecord>,
    system: Vec<MountRecord>,
    labels: Labels,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ActiveRecord {
    mount: MountRecord,
    mount_point: PathBuf,
    mounted_at: SystemTime,
}

#[derive(Serialize, Deserialize)]
struct MountRecord {
    kind: String,
    source: String,
    target: String,
    options: Vec<String>,
}

impl From<&Mount> for MountRecord {
    fn from(mount: &Mount) -> Self {
        let Mount { kind, source, target, options } = mount.clone();
        Self { kind, source, target, options }
    }
}

impl From<MountRecord> for Mount {
    fn from(record: MountRecord) -> Self {
        let MountRecord { kind, source, target, options } = record;
        Self { kind, source, target, options }
    }
}

/// Makes the directory of a new activation: the lowest number that is free
/// above all that are there.
pub fn fresh_directory(targets: &Path) -> Result<PathBuf, MountError> {
    let highest = numbers(targets)?.into_iter().max().unwrap_or(0);
    for number in highest + 1.. {
        let directory = targets.join(number.to_string());
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() == Io::AlreadyExists => {}
            made => {
                made.map_err(MountError::io("make directory", &directory))?;
                return Ok(directory);
            }
        }
    }
    unreachable!("there are more numbers than directories")
}

/// Puts the record in place.
pub fn save(
    directory: &Path,
    namespace: &Namespace,
    activation: &Activation,
) -> Result<(), MountError> {
    let record = Record {
        namespace: namespace.to_string(),
        name: activation.name.clone(),
        active: activation.active.iter().map(active_record).collect(),
        system: activation.system.iter().map(MountRecord::from).collect(),
        labels: activation.labels.clone(),
        lease: activation.lease.clone(),
    };
    let text = serde_json::to_vec(&record)
        .map_err(|error| MountError::io("describe", directory)(error.into()))?;
    let (new, path) = (directory.join(NEW_FILE), directory.join(FILE));
    std::fs::write(&new, text).map_err(MountError::io("write", &new))?;
    std::fs::rename(&new, &path).map_err(MountError::io("put in place", path))
}

fn active_record(active: &ActiveMount) -> ActiveRecord {
    let ActiveMount { mount, mount_point, mounted_at } = active;
    let mount = MountRecord::from(mount);
    ActiveRecord { mount, mount_point: mount_point.clone(), mounted_at: *mounted_at }
}

/// Unmounts and forgets an activation. What stays mounted keeps its record.
pub fn remove(directory: &Path, activation: &Activation) -> Result<(), MountError> {
    let mut failures = Vec::new();
    for active in activation.active.iter().rev() {
        if let Err(error) = davit_sys::mount::unmount(&active.mount_point, false) {
            failures.push(format!("{}: {error}", active.mount_point.display()));
        }
    }
    if !failures.is_empty() {
        return Err(MountError::Unmount(failures.join("; ")));
    }
    remove_directory(directory)
}

/// Removes what is left of an activation that did not come about, or whose
/// mounts have gone.
pub fn undo(directory: &Path) {
    let undone = davit_sys::mount::unmount_recursive(directory, true)
        .map_err(|error| error.to_string())
        .and_then(|()| remove_directory(directory).map_err(|error| error.to_string()));
    if let Err(error) = undone {
        log::error!(directory:% = directory.display(), error; "mounts are left over");
    }
}

/// Removes the record and the empty mount points, and nothing that is in a
/// mount: a directory that is not empty stays, and is reported.
fn remove_directory(directory: &Path) -> Result<(), MountError> {
    let entries = std::fs::read_dir(directory).map_err(MountError::io("list", directory))?;
    // The record last: as long as it is there, the rest can be found.
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort_by_key(|path| path.ends_with(FILE));
    for path in paths {
        let is_directory = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        let removed =
            if is_directory { std::fs::remove_dir(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(MountError::io("remove", path))?;
    }
    std::fs::remove_dir(directory).map_err(MountError::io("remove", directory))
}

/// Reads every activation whose mounts are all there; undoes the rest.
pub fn load(targets: &Path) -> Result<Vec<(Key, PathBuf, Activation)>, MountError> {
    let mounts = davit_sys::mount::mountinfo::read().map_err(MountError::Mounted)?;
    let mounted: BTreeSet<PathBuf> = mounts.into_iter().map(|mount| mount.mount_point).collect();
    let mut found = Vec::new();
    for number in numbers(targets)? {
        let directory = targets.join(number.to_string());
        match read(&directory) {
            Some((key, activation))
                if activation.active.iter().all(|a| mounted.contains(&a.mount_point)) =>
            {
                found.push((key, directory, activation));
            }
            _ => undo(&directory),
        }
    }
    Ok(found)
}

fn read(directory: &Path) -> Option<(Key, Activation)> {
    let record: Record = serde_json::from_slice(&std::fs::read(directory.join(FILE)).ok()?).ok()?;
    let active = record.active.into_iter().map(|active| ActiveMount {
        mount: active.mount.into(),
        mount_point: active.mount_point,
        mounted_at: active.mounted_at,
    });
    let activation = Activation {
        name: record.name.clone(),
        active: active.collect(),
        system: record.system.into_iter().map(Mount::from).collect(),
        labels: record.labels,
        lease: record.lease,
    };
    Some(((Namespace::new(record.namespace).ok()?, record.name), activation))
}

fn numbers(targets: &Path) -> Result<Vec<u64>, MountError> {
    let entries = std::fs::read_dir(targets).map_err(MountError::io("list", targets))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| name.to_str()?.parse().ok()).collect())
}
