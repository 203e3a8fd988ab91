//! The btrfs backend, on a file system of its own in a file.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use davit_snapshots::SnapshotKind::{Active, View};
use davit_snapshots::{Backend, Btrfs, conformance};
use davit_sys::mount::{mount_all, unmount_all};
use davit_types::{Labels, Mount};
use tempfile::TempDir;

/// An empty btrfs, mounted until it is dropped.
struct Disk(TempDir);

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        let made = Command::new("mkfs.btrfs").arg("-q").arg(&image).output();
        let made = made.expect("mkfs.btrfs of btrfs-progs is needed");
        assert!(made.status.success(), "{made:?}");
        let target = dir.path().join("disk");
        fs::create_dir(&target).unwrap();
        let image = Mount {
            kind: "btrfs".into(),
            source: image.to_str().unwrap().into(),
            target: String::new(),
            options: vec!["loop".into()],
        };
        davit_sys::mount::mount(&image, &target).unwrap();
        Self(dir)
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount_all(&self.path(), true).unwrap();
    }
}

fn subvolumes(path: &Path) -> usize {
    let listed = Command::new("btrfs").args(["subvolume", "list"]).arg(path).output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    String::from_utf8(listed.stdout).unwrap().lines().count()
}

fn mounted<T>(backend: &Btrfs, id: u64, target: &Path, work: impl FnOnce(&Path) -> T) -> T {
    let mounts = backend.mounts(id, Active, &[], &Labels::new()).unwrap();
    mount_all(&mounts, target).unwrap();
    let done = work(target);
    unmount_all(target, false).unwrap();
    done
}

#[test]
fn btrfs_keeps_its_promises() {
    let disk = Disk::new();
    conformance::run(&disk.path(), |root| Box::new(Btrfs::open(root).unwrap()));
    assert_eq!(subvolumes(&disk.path()), 0, "nothing is left");
}

#[test]
fn mounts_are_containerds() {
    let disk = Disk::new();
    let backend = Btrfs::open(&disk.path().join("root")).unwrap();
    backend.create(1, Active, &[], &Labels::new()).unwrap();
    backend.commit(1).unwrap();
    backend.create(2, View, &[1], &Labels::new()).unwrap();
    let mounts = backend.mounts(2, View, &[1], &Labels::new()).unwrap();
    let [mount] = mounts.as_slice() else { panic!("{mounts:?}") };
    assert_eq!(mount.kind, "btrfs");
    assert!(mount.source.starts_with("/dev/loop"), "{mount:?}");
    let [number, access] = mount.options.as_slice() else { panic!("{mount:?}") };
    assert!(number.strip_prefix("subvolid=").unwrap().parse::<u64>().unwrap() > 256);
    assert_eq!(access, "ro");
}

#[test]
fn only_what_differs_from_the_parent_is_counted() {
    let disk = Disk::new();
    let backend = Btrfs::open(&disk.path().join("root")).unwrap();
    let target = disk.0.path().join("target");
    fs::create_dir(&target).unwrap();
    backend.create(1, Active, &[], &Labels::new()).unwrap();
    mounted(&backend, 1, &target, |root| {
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/kept"), vec![1; 4 << 20]).unwrap();
        fs::write(root.join("dir/changed"), "1").unwrap();
    });
    let below = backend.commit(1).unwrap();
    assert!(below.size >= 4 << 20, "{below:?}");
    backend.create(2, Active, &[1], &Labels::new()).unwrap();
    assert_eq!(backend.usage(2).unwrap().inodes, 0);
    mounted(&backend, 2, &target, |root| {
        fs::write(root.join("dir/new"), vec![1; 1 << 20]).unwrap();
        fs::write(root.join("dir/changed"), "22").unwrap();
        rustix::fs::sync();
    });
    let usage = backend.commit(2).unwrap();
    // The directory, whose time has changed, and two files.
    assert_eq!(usage.inodes, 3, "{usage:?}");
    assert!((1 << 20..2 << 20).contains(&usage.size), "{usage:?}");
    assert_eq!(backend.usage(2).unwrap(), usage, "commits change no figures");
}

#[test]
fn what_is_committed_cannot_be_written_any_more() {
    let disk = Disk::new();
    let backend = Btrfs::open(&disk.path().join("root")).unwrap();
    backend.create(1, Active, &[], &Labels::new()).unwrap();
    backend.commit(1).unwrap();
    let inside = disk.path().join("root/snapshots/1/fs/file");
    let error = fs::write(inside, "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn subvolumes_in_a_snapshot_go_with_it() {
    let disk = Disk::new();
    let root = disk.path().join("root");
    let backend = Btrfs::open(&root).unwrap();
    backend.create(1, Active, &[], &Labels::new()).unwrap();
    let inside = root.join("snapshots/1/fs");
    fs::create_dir_all(inside.join("var/lib")).unwrap();
    let make = |args: &[&str], paths: &[&str]| {
        let paths = paths.iter().map(|path| inside.join(path));
        let made = Command::new("btrfs").args(args).args(paths).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    };
    make(&["subvolume", "create"], &["var/lib/a"]);
    fs::create_dir(inside.join("var/lib/a/deep")).unwrap();
    make(&["subvolume", "create"], &["var/lib/a/deep/b"]);
    fs::write(inside.join("var/lib/a/deep/b/file"), "x").unwrap();
    make(&["subvolume", "snapshot", "-r"], &["var/lib/a/deep/b", "var/lib/a/read-only"]);
    fs::set_permissions(inside.join("var"), fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(subvolumes(&disk.path()), 4);
    backend.remove(1).unwrap();
    assert_eq!(subvolumes(&disk.path()), 0);
    assert_eq!(fs::read_dir(root.join("snapshots")).unwrap().count(), 0);
}

#[test]
#[ignore = "run by the next one, with a limit"]
fn remove_a_subvolume_far_below() {
    let disk = Disk::new();
    let root = disk.path().join("root");
    let backend = Btrfs::open(&root).unwrap();
    backend.create(1, Active, &[], &Labels::new()).unwrap();
    let subvolume = |path: &Path| {
        let made = Command::new("btrfs").args(["subvolume", "create"]).arg(path).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    };
    let mut inside = root.join("snapshots/1/fs/outer");
    subvolume(&inside);
    for level in 0..500 {
        inside.push("d");
        fs::create_dir_all(inside.join("x")).unwrap();
        if level % 100 == 99 {
            inside.push("s");
            subvolume(&inside);
        }
    }
    assert_eq!(subvolumes(&disk.path()), 7);
    backend.remove(1).unwrap();
    assert_eq!(subvolumes(&disk.path()), 0);
}

#[test]
fn depth_costs_no_file_descriptors() {
    let mut limited = Command::new("prlimit");
    limited.arg("--nofile=200").arg(std::env::current_exe().unwrap());
    let ended = limited.args(["--ignored", "--exact", "remove_a_subvolume_far_below"]).output();
    let ended = ended.unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn remains_of_an_earlier_process_are_cleaned_up() {
    let disk = Disk::new();
    let root = disk.path().join("root");
    let earlier = Btrfs::open(&root).unwrap();
    for id in [1, 2] {
        earlier.create(id, Active, &[], &Labels::new()).unwrap();
    }
    earlier.commit(2).unwrap();
    Btrfs::open(&root).unwrap().cleanup(&[1]).unwrap();
    assert_eq!(subvolumes(&disk.path()), 1);
    assert!(root.join("snapshots/1/fs").exists());
}
