//! What every backend promises, as checks that any implementation can run.
//! They need root, and mount what the backend hands out.
//!
//! ```no_run
//! use davit_snapshots::{Native, conformance};
//! conformance::run("/var/tmp/check".as_ref(), |dir| Box::new(Native::open(dir).unwrap()));
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use davit_sys::mount::{mount_all, unmount_recursive};
use davit_types::Labels;

use crate::SnapshotKind::{Active, View};
use crate::{Backend, Error, LABEL_GID_MAPPING, LABEL_UID_MAPPING, SnapshotId, SnapshotKind};

/// One promise: its name, and the check of it on an empty backend. The path
/// is an empty directory to mount on. A broken promise panics.
pub type Check = (&'static str, fn(&dyn Backend, &Path));

/// All promises.
pub const CHECKS: &[Check] = &[
    ("an empty snapshot can be written and seen again", empty_snapshot),
    ("a child sees its parents and changes none", layers),
    ("deletions hide what parents have", deletions),
    ("a view cannot be written", views),
    ("metadata comes through", metadata),
    ("usage counts what a snapshot adds", usage),
    ("removal frees the id and the space", removal),
    ("cleanup removes remains alone", cleanup),
    ("a failed create leaves nothing", failed_create),
    ("owners are mapped as the labels say", mapped_owners),
    ("a layer is put on its parent when it is committed", late_parents),
    ("many layers can be mounted", many_layers),
];

/// Runs all checks below `scratch`, each on a backend of its own.
///
/// # Panics
/// When a promise is broken, naming it.
pub fn run(scratch: &Path, open: impl Fn(&Path) -> Box<dyn Backend>) {
    for (number, (name, check)) in CHECKS.iter().enumerate() {
        let dir = scratch.join(format!("check-{number}"));
        let target = dir.join("mnt");
        done(fs::create_dir_all(&target), name);
        let backend = open(&dir.join("backend"));
        log::info!(check = *name; "check a backend");
        check(backend.as_ref(), &target);
        drop(backend);
        // To its next process, all that is there is remains.
        made(open(&dir.join("backend")).cleanup(&[]), "clean remains up");
        done(fs::remove_dir_all(&dir), name);
    }
}

fn done<T>(result: io::Result<T>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error}"),
    }
}

fn made<T>(result: Result<T, Error>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error:?}"),
    }
}

/// A snapshot, mounted until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(
        backend: &dyn Backend,
        target: &Path,
        (id, kind): (SnapshotId, SnapshotKind),
        parents: &[SnapshotId],
    ) -> Self {
        let mounts = made(backend.mounts(id, kind, parents, &Labels::new()), "mounts");
        if let Err(error) = mount_all(&mounts, target) {
            panic!("mount {mounts:?}: {error:?}");
        }
        Self(target.to_owned())
    }

    fn write(&self, name: &str, text: &str) {
        done(fs::write(self.0.join(name), text), name);
    }

    fn read(&self, name: &str) -> Option<String> {
        match fs::read_to_string(self.0.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            result => Some(done(result, name)),
        }
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let list = done(fs::read_dir(self.0.join(dir)), dir);
        let mut names: Vec<_> =
            list.map(|entry| done(entry, dir).file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let result = unmount_recursive(&self.0, false);
        if !std::thread::panicking()
            && let Err(error) = result
        {
            panic!("unmount {}: {error:?}", self.0.display());
        }
    }
}

fn create(backend: &dyn Backend, id: SnapshotId, kind: SnapshotKind, parents: &[SnapshotId]) {
    made(backend.create(id, kind, parents, &Labels::new()), "create");
}

/// Makes a committed snapshot with what `fill` writes.
fn commit(
    backend: &dyn Backend,
    target: &Path,
    id: SnapshotId,
    parents: &[SnapshotId],
    fill: impl FnOnce(&Mounted),
) {
    create(backend, id, Active, parents);
    fill(&Mounted::new(backend, target, (id, Active), parents));
    made(backend.commit(id), "commit");
}

fn empty_snapshot(backend: &dyn Backend, target: &Path) {
    create(backend, 1, Active, &[]);
    let mounted = Mounted::new(backend, target, (1, Active), &[]);
    assert!(mounted.names("").is_empty());
    assert_eq!(done(fs::metadata(target), "stat").permissions().mode() & 0o7777, 0o755);
    mounted.write("file", "text");
    drop(mounted);
    let again = Mounted::new(backend, target, (1, Active), &[]);
    assert_eq!(again.read("file").as_deref(), Some("text"));
}

fn layers(backend: &dyn Backend, target: &Path) {
    commit(backend, target, 1, &[], |m| {
        m.write("below", "1");
        m.write("changed", "1");
    });
    commit(backend, target, 2, &[1], |m| m.write("changed", "2"));
    create(backend, 3, Active, &[2, 1]);
    let m = Mounted::new(backend, target, (3, Active), &[2, 1]);
    assert_eq!((m.read("below"), m.read("changed")), (Some("1".into()), Some("2".into())));
    m.write("changed", "3");
    m.write("added", "3");
    drop(m);
    for (id, parents, expected) in [(4, &[1][..], "1"), (5, &[2, 1], "2")] {
        create(backend, id, Active, parents);
        let m = Mounted::new(backend, target, (id, Active), parents);
        assert_eq!(m.read("changed").as_deref(), Some(expected));
        assert_eq!(m.names(""), ["below", "changed"]);
    }
}

fn deletions(backend: &dyn Backend, target: &Path) {
    commit(backend, target, 1, &[], |m| {
        done(fs::create_dir_all(m.0.join("dir/sub")), "mkdir");
        done(fs::create_dir_all(m.0.join("again")), "mkdir");
        m.write("dir/sub/old", "1");
        m.write("again/old", "1");
        m.write("gone", "1");
        m.write("becomes-dir", "1");
    });
    commit(backend, target, 2, &[1], |m| {
        done(fs::remove_file(m.0.join("gone")), "remove");
        done(fs::remove_dir_all(m.0.join("dir")), "remove");
        done(fs::remove_dir_all(m.0.join("again")), "remove");
        done(fs::create_dir(m.0.join("again")), "mkdir");
        m.write("again/new", "2");
        done(fs::remove_file(m.0.join("becomes-dir")), "remove");
        done(fs::create_dir(m.0.join("becomes-dir")), "mkdir");
    });
    create(backend, 3, View, &[2, 1]);
    let m = Mounted::new(backend, target, (3, View), &[2, 1]);
    assert_eq!(m.names(""), ["again", "becomes-dir"]);
    assert_eq!(m.names("again"), ["new"]);
    assert!(m.names("becomes-dir").is_empty());
}

fn views(backend: &dyn Backend, target: &Path) {
    commit(backend, target, 1, &[], |m| m.write("file", "1"));
    commit(backend, target, 2, &[1], |m| m.write("other", "2"));
    for (id, parents) in [(3, &[][..]), (4, &[1]), (5, &[2, 1])] {
        create(backend, id, View, parents);
        let m = Mounted::new(backend, target, (id, View), parents);
        let error = fs::write(m.0.join("file"), "x").map_err(|error| error.kind());
        assert_eq!(error, Err(io::ErrorKind::ReadOnlyFilesystem), "view of {parents:?}");
        assert_eq!(m.names("").len(), parents.len());
        drop(m);
        made(backend.remove(id), "remove a view");
    }
}

fn metadata(backend: &dyn Backend, target: &Path) {
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    commit(backend, target, 1, &[], |m| {
        m.write("file", "text");
        let path = m.0.join("file");
        done(chown(&path, Some(1234), Some(5678)), "chown");
        done(fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)), "chmod");
        done(write_xattr(&path, "user.colour", b"blue"), "setxattr");
        done(fs::hard_link(&path, m.0.join("same")), "link");
        done(symlink("file", m.0.join("link")), "symlink");
        done(lchown(m.0.join("link"), Some(1), Some(2)), "lchown");
        done(fs::create_dir(m.0.join("dir")), "mkdir");
        done(fs::set_permissions(m.0.join("dir"), fs::Permissions::from_mode(0o1777)), "chmod");
        done(make_fifo(&m.0.join("fifo")), "mkfifo");
        let sparse = done(fs::File::create(m.0.join("sparse")), "create");
        done(sparse.set_len(1 << 30), "truncate");
        for name in ["file", "dir"] {
            let file = done(fs::File::open(m.0.join(name)), "open");
            done(file.set_modified(old), "utimes");
        }
    });
    create(backend, 2, Active, &[1]);
    let m = Mounted::new(backend, target, (2, Active), &[1]);
    let stat = |name: &str| done(fs::symlink_metadata(m.0.join(name)), name);
    let file = stat("file");
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (1234, 5678, 0o6755));
    assert_eq!((file.nlink(), file.ino()), (2, stat("same").ino()));
    assert_eq!(done(file.modified(), "mtime"), old);
    assert_eq!(done(read_xattr(&m.0.join("file"), "user.colour"), "getxattr"), b"blue");
    assert_eq!((stat("link").uid(), stat("link").gid()), (1, 2));
    assert_eq!(done(fs::read_link(m.0.join("link")), "readlink"), Path::new("file"));
    assert_eq!(stat("dir").mode() & 0o7777, 0o1777);
    assert_eq!(done(stat("dir").modified(), "mtime"), old);
    assert!(stat("fifo").file_type().is_fifo());
    assert_eq!(stat("sparse").len(), 1 << 30);
    drop(m);
    for id in [1, 2] {
        assert!(made(backend.usage(id), "usage").size < 1 << 22, "a hole was filled");
    }
}

fn usage(backend: &dyn Backend, target: &Path) {
    create(backend, 1, Active, &[]);
    let empty = made(backend.usage(1), "usage");
    assert!(empty.inodes >= 1, "{empty:?}");
    {
        let m = Mounted::new(backend, target, (1, Active), &[]);
        // No part of it is like another, or it might be kept once.
        m.write("file", &(0..1 << 17).map(|number| format!("{number:08}")).collect::<String>());
        done(fs::hard_link(m.0.join("file"), m.0.join("same")), "link");
        done(fs::File::open(m.0.join("file")).and_then(|file| file.sync_all()), "sync");
    }
    let full = made(backend.usage(1), "usage");
    assert_eq!(full.inodes, empty.inodes + 1);
    assert!((1 << 20..3 << 19).contains(&(full.size - empty.size)), "{empty:?} {full:?}");
    // A backend may store what is committed in another way.
    let committed = made(backend.commit(1), "commit");
    assert_eq!(made(backend.usage(1), "usage"), committed);
    assert!((1 << 20..3 << 19).contains(&committed.size), "{committed:?}");
    create(backend, 2, Active, &[1]);
    assert!(made(backend.usage(2), "usage").inodes <= full.inodes, "a parent was counted twice");
}

fn removal(backend: &dyn Backend, target: &Path) {
    commit(backend, target, 1, &[], |m| m.write("file", "1"));
    create(backend, 2, Active, &[1]);
    made(backend.remove(2), "remove");
    made(backend.remove(2), "remove what is gone");
    made(backend.remove(1), "remove");
    assert!(backend.usage(1).is_err(), "a removed snapshot is still there");
    create(backend, 1, Active, &[]);
    assert!(Mounted::new(backend, target, (1, Active), &[]).names("").is_empty());
}

fn cleanup(backend: &dyn Backend, target: &Path) {
    for id in [1, 2, 3] {
        create(backend, id, Active, &[]);
        Mounted::new(backend, target, (id, Active), &[]).write("file", "x");
    }
    // All are of this process, and the index may just be writing them down.
    made(backend.cleanup(&[]), "cleanup");
    for id in [1, 2, 3] {
        made(backend.usage(id), "a snapshot of this process went");
    }
    made(backend.cleanup(&[1, 2, 3]), "cleanup");
    made(backend.cleanup(&[1, 3]), "cleanup");
    assert!(backend.usage(2).is_err(), "what the index had and has no longer is left");
    for id in [1, 3] {
        let m = Mounted::new(backend, target, (id, Active), &[]);
        assert_eq!(m.read("file").as_deref(), Some("x"));
    }
}

fn failed_create(backend: &dyn Backend, target: &Path) {
    assert!(backend.create(2, Active, &[1], &Labels::new()).is_err(), "a parent that is missing");
    assert!(backend.usage(2).is_err());
    create(backend, 2, Active, &[]);
    assert!(Mounted::new(backend, target, (2, Active), &[]).names("").is_empty());
}

/// A backend may leave mappings alone; half of one it may not.
fn mapped_owners(backend: &dyn Backend, target: &Path) {
    let mapping = |uids: &str| {
        Labels::from([
            (LABEL_UID_MAPPING.to_owned(), uids.to_owned()),
            (LABEL_GID_MAPPING.to_owned(), "0:80000:65536".to_owned()),
        ])
    };
    let labels = mapping("0:70000:65536");
    made(backend.create(1, Active, &[], &labels), "create");
    let mounts = made(backend.mounts(1, Active, &[], &Labels::new()), "mounts");
    done(mount_all(&mounts, target).map_err(io::Error::other), "mount");
    let owner = |path: &Path| {
        let meta = done(fs::metadata(path), "stat");
        (meta.uid(), meta.gid())
    };
    let first = Mounted(target.to_owned());
    let mapped = owner(target);
    // Seen through a mount that maps, whoever has no number there is nobody.
    let (outside, nobody) = ((70_000, 80_000), (65_534, 65_534));
    assert!([(0, 0), outside, nobody].contains(&mapped), "{mapped:?}");
    let mapped = if mapped == nobody { outside } else { mapped };
    drop(first);
    made(backend.commit(1), "commit");
    create(backend, 2, Active, &[1]);
    let second = Mounted::new(backend, target, (2, Active), &[1]);
    assert_eq!(owner(target), mapped, "a child has another owner");
    drop(second);
    let wrong = backend.create(3, Active, &[], &mapping("0:x:1"));
    assert_eq!(wrong.is_err(), mapped != (0, 0), "half a mapping was taken for one");
    assert_eq!(backend.usage(3).is_ok(), wrong.is_ok(), "a refusal left something");
    for key in backend.labels(2).keys() {
        assert!(key.starts_with("containerd.io/snapshot/"), "{key}");
    }
}

fn late_parents(backend: &dyn Backend, target: &Path) {
    commit(backend, target, 1, &[], |m| m.write("below", "1"));
    commit(backend, target, 2, &[], |m| m.write("above", "2"));
    create(backend, 3, View, &[2, 1]);
    let m = Mounted::new(backend, target, (3, View), &[2, 1]);
    assert_eq!(m.read("above").as_deref(), Some("2"));
    if backend.independent_layers().is_none() {
        return;
    }
    assert_eq!(m.names(""), ["above", "below"]);
    drop(m);
    // It can be written to on its parent before it is put there.
    create(backend, 4, Active, &[]);
    let m = Mounted::new(backend, target, (4, Active), &[2, 1]);
    m.write("late", "4");
    done(fs::remove_file(m.0.join("below")), "remove");
    drop(m);
    made(backend.commit(4), "commit");
    create(backend, 5, View, &[4, 2, 1]);
    let m = Mounted::new(backend, target, (5, View), &[4, 2, 1]);
    assert_eq!(m.names(""), ["above", "late"]);
}

fn many_layers(backend: &dyn Backend, target: &Path) {
    const LAYERS: SnapshotId = 100;
    let mut parents: Vec<SnapshotId> = Vec::new();
    for id in 1..=LAYERS {
        create(backend, id, Active, &parents);
        // Written to directly: mounting a hundred times is slow.
        if id % 25 == 0 {
            let m = Mounted::new(backend, target, (id, Active), &parents);
            m.write(&format!("file-{id}"), "x");
        }
        made(backend.commit(id), "commit");
        parents.insert(0, id);
    }
    create(backend, LAYERS + 1, Active, &parents);
    let m = Mounted::new(backend, target, (LAYERS + 1, Active), &parents);
    assert_eq!(m.names(""), ["file-100", "file-25", "file-50", "file-75"]);
    m.write("file", "x");
}

fn write_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty())?)
}

fn read_xattr(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::getxattr(path, name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}

fn make_fifo(path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    Ok(mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0)?)
}
