//! What is left over: mounts, processes, cgroups, sockets, open descriptors.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::wait_for;

/// Every process with its working directory.
pub fn working_directories() -> Vec<(i32, PathBuf)> {
    processes()
        .filter_map(|pid| Some((pid, fs::read_link(format!("/proc/{pid}/cwd")).ok()?)))
        .collect()
}

fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Mount points below `directory`, in the order they were made.
pub fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|p| p.starts_with(directory))
        .collect()
}

/// The shims that serve a daemon's containers: processes whose program is a
/// shim and whose command line names the daemon's socket.
pub fn shims_of(daemon: &crate::Daemon) -> Vec<i32> {
    let socket = daemon.socket().to_string_lossy().into_owned();
    processes()
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            let program = line.split('\0').next().unwrap_or_default();
            program.contains("containerd-shim-") && line.contains(&socket)
        })
        .collect()
}

/// The command lines of all processes that have `needle` in theirs.
pub fn processes_with(needle: &str) -> Vec<String> {
    let own = std::process::id() as i32;
    processes()
        .filter(|pid| *pid != own)
        .filter_map(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(needle))
        .collect()
}

/// The running processes that a process has started itself and that have
/// `needle` in their command lines.
pub fn children_with(parent: u32, needle: &str) -> Vec<u32> {
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the program's name, which may have anything in it: the state
        // and the parent.
        let words = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' '));
        words.and_then(|mut words| words.nth(1)) == Some(&parent.to_string())
    };
    // Those that have ended, and not been waited for, have no command line.
    let is_wanted = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(needle)
    };
    processes().filter(is_child).filter(is_wanted).map(i32::unsigned_abs).collect()
}

/// Directories of the cgroup hierarchies whose path has `needle` in it.
pub fn cgroups_with(needle: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
            let path = entry.path();
            if path.to_string_lossy().contains(needle) {
                found.insert(path.clone());
            }
            open.push(path);
        }
    }
    found
}

/// The processes in cgroups whose path begins with a directory of that name.
pub fn processes_in_cgroups(name: &str) -> Vec<i32> {
    let inside = |line: &str| {
        let path = line.rsplit(':').next().unwrap_or_default();
        path.split('/').nth(1) == Some(name)
    };
    processes()
        .filter(|pid| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            groups.lines().any(inside)
        })
        .collect()
}

/// FIFOs in a directory or below it; mounts are not looked into.
pub fn fifos_below(directory: &Path) -> BTreeSet<PathBuf> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let (mut found, mut open) = (BTreeSet::new(), vec![directory.to_owned()]);
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_fifo() {
                found.insert(entry.path());
            } else if kind.is_dir() && device(&entry.path()) == device(&directory) {
                open.push(entry.path());
            }
        }
    }
    found
}

/// What a process has open, by what each descriptor refers to.
pub fn open_files(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    links.map(|link| link.to_string_lossy().into_owned()).collect()
}

/// Names in a directory, empty where there is none.
pub fn names_in(directory: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(directory) else { return BTreeSet::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Waits until a directory is empty, as that of snapshots is a moment after the
/// last one's record has gone.
///
/// # Panics
/// When that takes longer.
pub fn becomes_empty(directory: &Path, seconds: u64) {
    let what = format!("{} becomes empty", directory.display());
    wait_for(&what, seconds, || (fs::read_dir(directory).ok()?.count() == 0).then_some(()));
}

/// What a davitd has of images on its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Digests of blobs.
    pub blobs: BTreeSet<String>,
    /// Directories of blobs on the way.
    pub ingests: BTreeSet<String>,
    /// Directories of overlayfs' snapshots.
    pub snapshots: BTreeSet<String>,
    /// All else below the root directory, three levels deep, but for the index
    /// and the namespaces of tasks.
    pub others: BTreeSet<PathBuf>,
}

/// Looks at the root directory of a davitd.
pub fn kept(daemon: &crate::Daemon) -> Kept {
    let root = daemon.path("root");
    let mut kept = Kept::default();
    let blobs = Path::new("io.containerd.content.v1.content/blobs/sha256");
    let ingests = Path::new("io.containerd.content.v1.content/ingest");
    let snapshots = Path::new("io.containerd.snapshotter.v1.overlayfs/snapshots");
    kept.blobs = names_in(&root.join(blobs)).iter().map(|hex| format!("sha256:{hex}")).collect();
    kept.ingests = names_in(&root.join(ingests));
    kept.snapshots = names_in(&root.join(snapshots));
    let mut open = vec![(root.clone(), 0)];
    while let Some((directory, depth)) = open.pop() {
        for name in names_in(&directory) {
            let path = directory.join(&name);
            let told = path.strip_prefix(&root).expect("it is below the root").to_owned();
            let tasks = told.starts_with("io.containerd.runtime.v2.task");
            let listed = [blobs, ingests, snapshots].contains(&told.as_path());
            if name.starts_with("index.db") || tasks || listed {
                continue;
            }
            if depth < 2 && path.is_dir() {
                open.push((path, depth + 1));
            }
            kept.others.insert(told);
        }
    }
    kept
}
