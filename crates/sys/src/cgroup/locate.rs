//! Which groups there are: from a process, from a path.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::Cgroup;
use crate::mount::mountinfo::{self, MountPoint};
use crate::{Error, Result};

/// The group a process is in.
///
/// # Errors
/// `NotFound` when there is no such process.
pub fn of_pid(pid: u32) -> Result<Cgroup> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = std::fs::read_to_string(&path).map_err(|e| Error::path("read", &path, e))?;
    let hierarchies = Hierarchies::find()?;
    hierarchies.group(&text).ok_or_else(|| Error::Malformed { path, reason: format!("{text:?}") })
}

/// The group of this path below every hierarchy's mount point.
///
/// # Errors
/// `NotFound` when no hierarchy has it.
pub fn at(path: &Path) -> Result<Cgroup> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let group = match Hierarchies::find()? {
        Hierarchies::V2(point) => Some(Cgroup::V2(point.dir.join(relative))).filter(exists),
        Hierarchies::V1(points) => {
            let dirs = points.into_iter().map(|(name, point)| (name, point.dir.join(relative)));
            let dirs: BTreeMap<_, _> = dirs.filter(|(_, dir)| dir.is_dir()).collect();
            Some(Cgroup::V1(dirs)).filter(exists)
        }
    };
    let not_found = || io::Error::from_raw_os_error(libc::ENOENT);
    group.ok_or_else(|| Error::path("find control group", path, not_found()))
}

fn exists(group: &Cgroup) -> bool {
    match group {
        Cgroup::V1(dirs) => !dirs.is_empty(),
        Cgroup::V2(dir) => dir.is_dir(),
    }
}

pub(super) fn add_process(group: &Cgroup, pid: u32) -> Result<()> {
    for dir in dirs(group) {
        let path = dir.join("cgroup.procs");
        std::fs::write(&path, pid.to_string()).map_err(|e| Error::path("write", path, e))?;
    }
    Ok(())
}

pub(super) fn processes(group: &Cgroup) -> Result<Vec<u32>> {
    let dir = match group {
        Cgroup::V2(dir) => Some(dir),
        // All hierarchies have the same processes; these are the ones that
        // runtimes always use.
        Cgroup::V1(dirs) => {
            let usual = ["devices", "pids", "memory"].into_iter().find_map(|name| dirs.get(name));
            usual.or_else(|| dirs.values().next())
        }
    };
    let mut pids = Vec::new();
    if let Some(dir) = dir {
        collect(dir, &mut pids)?;
    }
    Ok(pids)
}

/// The processes of a directory and those below. Groups below can go at any
/// moment.
fn collect(dir: &Path, pids: &mut Vec<u32>) -> Result<()> {
    let path = dir.join("cgroup.procs");
    let text = match std::fs::read_to_string(&path) {
        // A threaded group's processes are its parent's.
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => String::new(),
        result => result.map_err(|e| Error::path("read", path, e))?,
    };
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    let entries = std::fs::read_dir(dir).map_err(|e| Error::path("read", dir, e))?;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            match collect(&entry.path(), pids) {
                Err(e) if matches!(e.errno(), Some(libc::ENOENT | libc::ENODEV)) => {}
                result => result?,
            }
        }
    }
    Ok(())
}

fn dirs(group: &Cgroup) -> Vec<&PathBuf> {
    match group {
        // Controllers that are mounted together have one directory.
        Cgroup::V1(dirs) => {
            let mut dirs: Vec<_> = dirs.values().collect();
            dirs.sort();
            dirs.dedup();
            dirs
        }
        Cgroup::V2(dir) => vec![dir],
    }
}

/// Where hierarchies are mounted. Where version 1 has controllers, that is
/// what counts.
#[derive(Debug)]
enum Hierarchies {
    V1(BTreeMap<String, Point>),
    V2(Point),
}

/// A mounted hierarchy, or part of one.
#[derive(Debug)]
struct Point {
    dir: PathBuf,
    /// The group that is seen at `dir`; `/` outside of containers.
    root: PathBuf,
}

impl Hierarchies {
    fn find() -> Result<Self> {
        Self::from_mounts(mountinfo::read()?)
            .ok_or(Error::Unsupported("no control group hierarchy is mounted"))
    }

    fn from_mounts(mounts: Vec<MountPoint>) -> Option<Self> {
        let mut v1 = BTreeMap::new();
        let mut v2 = None;
        for mount in mounts {
            let point = || Point { dir: mount.mount_point.clone(), root: mount.root.clone() };
            if mount.kind == "cgroup2" {
                v2.get_or_insert_with(point);
            } else if mount.kind == "cgroup" {
                for name in mount.super_options.split(',').filter_map(controller) {
                    v1.entry(name.to_owned()).or_insert_with(point);
                }
            }
        }
        match v1.keys().any(|name| name != "systemd") {
            true => Some(Self::V1(v1)),
            false => v2.map(Self::V2),
        }
    }

    /// The group that a `/proc/PID/cgroup` names.
    fn group(&self, text: &str) -> Option<Cgroup> {
        let lines = text.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_id, names, path) = (fields.next()?, fields.next()?, fields.next()?);
            Some((names, Path::new(path)))
        });
        match self {
            Self::V2(point) => lines
                .filter(|(names, _)| names.is_empty())
                .map(|(_, path)| Cgroup::V2(point.dir_of(path)))
                .next(),
            Self::V1(points) => {
                let mut dirs = BTreeMap::new();
                for (names, path) in lines {
                    for name in names.split(',').filter_map(controller) {
                        if let Some(point) = points.get(name) {
                            dirs.insert(name.to_owned(), point.dir_of(path));
                        }
                    }
                }
                (!dirs.is_empty()).then_some(Cgroup::V1(dirs))
            }
        }
    }
}

impl Point {
    fn dir_of(&self, group: &Path) -> PathBuf {
        let relative = group.strip_prefix(&self.root).or_else(|_| group.strip_prefix("/"));
        match relative.unwrap_or(group) {
            empty if empty.as_os_str().is_empty() => self.dir.clone(),
            relative => self.dir.join(relative),
        }
    }
}

/// A controller's name, or that of the one named hierarchy runtimes use,
/// among a mount's options.
fn controller(option: &str) -> Option<&str> {
    match option {
        "" | "rw" | "ro" | "xattr" | "clone_children" | "noprefix" | "cpuset_v2_mode" => None,
        "name=systemd" => Some("systemd"),
        named if named.contains('=') => None,
        name => Some(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(lines: &[&str]) -> Vec<MountPoint> {
        lines.iter().map(|line| mountinfo::parse(line.as_bytes()).unwrap()).collect()
    }

    const MEMORY: &str = "1 0 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
    const CPU: &str = "2 0 0:2 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct";
    const SYSTEMD: &str =
        "3 0 0:3 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd";
    const UNIFIED: &str = "4 0 0:4 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
    const PART: &str = "4 0 0:4 /pod/a /sys/fs/cgroup rw - cgroup2 cgroup2 rw";

    #[test]
    fn hybrid_hierarchies_are_version_1() {
        let found = Hierarchies::from_mounts(mounts(&[UNIFIED, MEMORY, CPU, SYSTEMD])).unwrap();
        let group = found.group("3:memory:/default/a\n2:cpu,cpuacct:/x\n1:name=systemd:/\n0::/\n");
        let Some(Cgroup::V1(dirs)) = group else { panic!("{group:?}") };
        assert_eq!(dirs["memory"], Path::new("/sys/fs/cgroup/memory/default/a"));
        assert_eq!(dirs["cpuacct"], Path::new("/sys/fs/cgroup/cpu,cpuacct/x"));
        assert_eq!(dirs["systemd"], Path::new("/sys/fs/cgroup/systemd"));
    }

    #[test]
    fn unified_hierarchies_are_version_2() {
        let group = |mount, text: &str| {
            Hierarchies::from_mounts(mounts(&[mount, SYSTEMD])).unwrap().group(text)
        };
        let expected = |path: &str| Some(Cgroup::V2(path.into()));
        assert_eq!(group(UNIFIED, "0::/a/b c\n"), expected("/sys/fs/cgroup/a/b c"));
        assert_eq!(group(PART, "0::/pod/a/b\n"), expected("/sys/fs/cgroup/b"));
        assert_eq!(group(PART, "0::/pod/a\n"), expected("/sys/fs/cgroup"));
        assert_eq!(group(UNIFIED, "nonsense"), None);
        assert!(Hierarchies::from_mounts(Vec::new()).is_none());
    }

    #[test]
    fn this_process_is_somewhere() {
        let group = of_pid(std::process::id()).unwrap();
        assert!(exists(&group));
        assert!(group.processes().unwrap().contains(&std::process::id()));
        assert_eq!(
            davit_types::Kind::kind(&of_pid(u32::MAX >> 1).unwrap_err()),
            davit_types::ErrorKind::NotFound
        );
        assert!(at(Path::new("/davit-no-such-group")).is_err());
    }
}
