//! The backends, against the conformance suite and against what containerd's
//! snapshotters hand out.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use davit_snapshots::SnapshotKind::{Active, View};
use davit_snapshots::{
    Backend, Erofs, ErofsConfig, LABEL_GID_MAPPING, LABEL_UID_MAPPING, Native, Overlay,
    OverlayConfig, conformance,
};
use davit_types::{ErrorKind, Kind, Labels, Mount};

fn overlay(root: &Path) -> Overlay {
    Overlay::open(root, OverlayConfig::default()).unwrap()
}

#[test]
fn overlayfs_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    conformance::run(dir.path(), |root| Box::new(overlay(root)));
}

#[test]
fn native_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    conformance::run(dir.path(), |root| Box::new(Native::open(root).unwrap()));
}

/// `type source options`, with the backend's directory as `R`.
fn text(mounts: &[Mount], root: &Path) -> String {
    let [mount] = mounts else { panic!("{mounts:?}") };
    format!("{} {} {}", mount.kind, mount.source, mount.options.join(","))
        .replace(root.to_str().unwrap(), "R")
}

#[test]
fn overlay_mounts_are_containerds() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        OverlayConfig { mount_options: vec!["volatile".into()], ..OverlayConfig::default() };
    let overlay = Overlay::open(dir.path(), config).unwrap();
    let index =
        if Path::new("/sys/module/overlay/parameters/index").exists() { ",index=off" } else { "" };
    for (id, kind, parents, expected) in [
        (1, Active, &[][..], "bind R/snapshots/1/fs rw,rbind".to_owned()),
        (1, View, &[], "bind R/snapshots/1/fs ro,rbind".to_owned()),
        (2, View, &[1], "bind R/snapshots/1/fs ro,rbind".to_owned()),
        (
            2,
            Active,
            &[1],
            format!(
                "overlay overlay workdir=R/snapshots/2/work,upperdir=R/snapshots/2/fs,\
                 lowerdir=R/snapshots/1/fs,volatile{index}"
            ),
        ),
        (
            3,
            View,
            &[2, 1],
            format!("overlay overlay lowerdir=R/snapshots/2/fs:R/snapshots/1/fs,volatile{index}"),
        ),
    ] {
        let mounts = overlay.mounts(id, kind, parents, &Labels::new()).unwrap();
        assert_eq!(text(&mounts, dir.path()), expected);
    }
}

#[test]
fn native_mounts_are_containerds() {
    let dir = tempfile::tempdir().unwrap();
    let native = Native::open(dir.path()).unwrap();
    for (id, kind, parents, expected) in [
        (1, Active, &[][..], "bind R/snapshots/1 rbind,rw"),
        (1, View, &[], "bind R/snapshots/1 rbind,ro"),
        (2, View, &[1], "bind R/snapshots/1 rbind,ro"),
        (3, Active, &[2, 1], "bind R/snapshots/3 rbind,rw"),
    ] {
        let mounts = native.mounts(id, kind, parents, &Labels::new()).unwrap();
        assert_eq!(text(&mounts, dir.path()), expected);
    }
}

fn mapped(uids: &str, gids: &str) -> Labels {
    Labels::from([
        (LABEL_UID_MAPPING.to_owned(), uids.to_owned()),
        (LABEL_GID_MAPPING.to_owned(), gids.to_owned()),
    ])
}

#[test]
fn a_mapped_snapshot_belongs_to_the_containers_root() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = overlay(dir.path());
    let labels = mapped("0:70000:65536", "0:80000:65536");
    overlay.create(1, Active, &[], &labels).unwrap();
    overlay.create(2, Active, &[1], &Labels::new()).unwrap();
    for id in ["1", "2"] {
        let fs = fs::metadata(dir.path().join("snapshots").join(id).join("fs")).unwrap();
        assert_eq!((fs.uid(), fs.gid()), (70_000, 80_000), "snapshot {id}");
    }
    let mounts = overlay.mounts(2, Active, &[1], &labels).unwrap();
    let capable = overlay.capabilities().contains(&"remap-ids");
    let options = &mounts[0].options[..2];
    assert_eq!(options == ["uidmap=0:70000:65536", "gidmap=0:80000:65536"], capable);
    assert!(overlay.capabilities().contains(&"only-remap-ids"));

    let error = overlay.create(3, Active, &[], &mapped("0:x:1", "0:0:1")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(!dir.path().join("snapshots/3").exists());
}

#[test]
fn directories_are_closed_and_the_root_filesystem_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("overlay");
    overlay(&root).create(1, Active, &[], &Labels::new()).unwrap();
    let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("snapshots"), mode("snapshots/1")), (0o700, 0o700, 0o700));
    assert_eq!((mode("snapshots/1/fs"), mode("snapshots/1/work")), (0o755, 0o711));
    let left: Vec<_> =
        fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["snapshots"], "the probe is gone");
}

#[test]
fn remains_of_an_earlier_process_are_cleaned_up() {
    let dir = tempfile::tempdir().unwrap();
    let earlier = overlay(dir.path());
    earlier.create(1, Active, &[], &Labels::new()).unwrap();
    earlier.create(2, Active, &[], &Labels::new()).unwrap();
    let snapshots = dir.path().join("snapshots");
    for name in ["new-7", "rm-1-0", "rm-9-3/fs/deep"] {
        fs::create_dir_all(snapshots.join(name)).unwrap();
    }
    fs::create_dir(snapshots.join("somebody-elses")).unwrap();
    let later = overlay(dir.path());
    later.cleanup(&[2]).unwrap();
    let mut left: Vec<_> =
        fs::read_dir(&snapshots).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["2", "somebody-elses"]);
}

#[test]
fn what_is_mounted_in_a_snapshot_survives_its_removal() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = overlay(&dir.path().join("overlay"));
    overlay.create(1, Active, &[], &Labels::new()).unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("precious"), "x").unwrap();
    let inside = dir.path().join("overlay/snapshots/1/fs/data");
    fs::create_dir(&inside).unwrap();
    let bind = Mount {
        kind: "bind".into(),
        source: data.to_str().unwrap().into(),
        target: String::new(),
        options: vec!["rbind".into()],
    };
    davit_sys::mount::mount(&bind, &inside).unwrap();
    overlay.remove(1).unwrap();
    assert_eq!(fs::read_to_string(data.join("precious")).unwrap(), "x");
    assert_eq!(fs::read_dir(dir.path().join("overlay/snapshots")).unwrap().count(), 0);
}

/// Waits until nothing is in the directory.
fn wait_until_empty(dir: &Path) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while fs::read_dir(dir).unwrap().count() > 0 {
        assert!(std::time::Instant::now() < deadline, "{} is not empty", dir.display());
        std::thread::yield_now();
    }
}

#[test]
fn asynchronous_removal_takes_the_name_at_once_and_the_files_soon() {
    let dir = tempfile::tempdir().unwrap();
    let config = OverlayConfig { async_remove: true, ..OverlayConfig::default() };
    let overlay = Overlay::open(dir.path(), config.clone()).unwrap();
    let snapshots = dir.path().join("snapshots");
    for round in 0..2 {
        for id in 1..=50 {
            overlay.create(id, Active, &[], &Labels::new()).unwrap();
            fs::write(snapshots.join(format!("{id}/fs/file")), format!("{round}")).unwrap();
        }
        for id in 1..=50 {
            overlay.remove(id).unwrap();
            assert!(!snapshots.join(id.to_string()).exists());
        }
        wait_until_empty(&snapshots);
    }
}

#[test]
fn what_the_background_did_not_get_to_is_left_to_cleanup() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("snapshots/rm-1-0/fs/deep")).unwrap();
    let config = OverlayConfig { async_remove: true, ..OverlayConfig::default() };
    Overlay::open(dir.path(), config).unwrap().cleanup(&[]).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 0);
}

#[test]
fn an_unusable_directory_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let error = Overlay::open(&dir.path().join("a:b"), OverlayConfig::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented);
    assert!(error.to_string().ends_with("an overlay's path cannot have ':' in it"), "{error}");

    // An overlay cannot be the upper layer of an overlay.
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| {
        fs::create_dir(dir.path().join(name)).unwrap();
        dir.path().join(name).display().to_string()
    });
    let mount = Mount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            format!("lowerdir={lower}"),
            format!("upperdir={upper}"),
            format!("workdir={work}"),
        ],
    };
    davit_sys::mount::mount(&mount, merged.as_ref()).unwrap();
    let result = Overlay::open(&Path::new(&merged).join("root"), OverlayConfig::default());
    davit_sys::mount::unmount_all(merged.as_ref(), true).unwrap();
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented, "{error}");
    assert!(error.to_string().contains("overlay cannot be mounted here"), "{error}");
}

#[test]
fn the_upper_directory_is_told_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let config = OverlayConfig { upperdir_label: true, ..OverlayConfig::default() };
    let with = Overlay::open(dir.path(), config).unwrap().labels(5);
    let expected = dir.path().join("snapshots/5/fs").display().to_string();
    assert_eq!(with["containerd.io/snapshot/overlay.upperdir"], expected);
    assert!(overlay(dir.path()).labels(5).is_empty());
}

fn erofs(root: &Path, config: ErofsConfig) -> Erofs {
    Erofs::open(root, config).unwrap()
}

#[test]
fn erofs_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    conformance::run(dir.path(), |root| Box::new(erofs(root, ErofsConfig::default())));
}

/// `mkfs.erofs` keeps data in /tmp on its way.
#[test]
fn erofs_layers_can_be_on_another_filesystem_than_tmp() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("disk");
    fs::create_dir(&root).unwrap();
    let mount = |words: &[&str]| {
        let status = std::process::Command::new(words[0]).args(&words[1..]).arg(&root).status();
        assert!(status.unwrap().success(), "{words:?}");
    };
    mount(&["mount", "-t", "tmpfs", "tmpfs"]);
    let made = std::panic::catch_unwind(|| {
        let erofs = erofs(&root, ErofsConfig::default());
        erofs.create(1, Active, &[], &Labels::new()).unwrap();
        fs::write(root.join("snapshots/1/fs/file"), [7; 100_000]).unwrap();
        erofs.commit(1).unwrap();
        erofs.create(2, Active, &[1], &Labels::new()).unwrap();
        erofs.mounts(2, Active, &[1], &Labels::new()).unwrap();
        assert_eq!(fs::read(root.join("snapshots/1/fs/file")).unwrap(), [7; 100_000]);
        erofs.remove(2).unwrap();
        erofs.remove(1).unwrap();
    });
    mount(&["umount", "--lazy"]);
    made.unwrap();
}

#[test]
fn erofs_mounts_are_containerds() {
    let dir = tempfile::tempdir().unwrap();
    let config = ErofsConfig { mount_options: vec!["index=off".into()], ..Default::default() };
    let erofs = erofs(dir.path(), config);
    for id in [1, 2] {
        let parents: &[u64] = if id == 1 { &[] } else { &[1] };
        erofs.create(id, Active, parents, &Labels::new()).unwrap();
        erofs.commit(id).unwrap();
    }
    for (id, kind, parents, expected) in [
        (3, Active, &[][..], "bind R/snapshots/3/fs rw,rbind"),
        (3, View, &[], "bind R/snapshots/3/fs ro,rbind"),
        (3, View, &[1], "erofs R/snapshots/1/layer.erofs ro,loop"),
        (
            3,
            Active,
            &[1],
            "overlay overlay workdir=R/snapshots/3/work,upperdir=R/snapshots/3/fs,\
             lowerdir=R/snapshots/1/fs,index=off",
        ),
        (3, View, &[2, 1], "overlay overlay lowerdir=R/snapshots/2/fs:R/snapshots/1/fs,index=off"),
    ] {
        let mounts = erofs.mounts(id, kind, parents, &Labels::new()).unwrap();
        assert_eq!(text(&mounts, dir.path()), expected);
    }
    erofs.remove(2).unwrap();
    erofs.remove(1).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 0);
}

#[test]
fn immutable_layers_can_be_removed_by_their_snapshotter_alone() {
    let dir = tempfile::tempdir().unwrap();
    let erofs = erofs(dir.path(), ErofsConfig { immutable: true, ..Default::default() });
    erofs.create(1, Active, &[], &Labels::new()).unwrap();
    fs::write(dir.path().join("snapshots/1/fs/file"), "x").unwrap();
    let usage = erofs.commit(1).unwrap();
    assert_eq!(usage.inodes, 1);
    assert_eq!(erofs.commit(1).unwrap(), usage, "nothing has changed");
    erofs.committed(1).unwrap();
    let layer = dir.path().join("snapshots/1/layer.erofs");
    // On tmpfs there is no such flag.
    let protected = fs::OpenOptions::new().write(true).open(&layer).is_err();
    assert!(protected || rustix::fs::statfs(&layer).unwrap().f_type == 0x0102_1994);
    erofs.remove(1).unwrap();
    assert!(!layer.exists());
}

#[test]
fn a_layer_that_was_not_wanted_is_made_anew_of_all_that_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let erofs = erofs(dir.path(), ErofsConfig::default());
    let inside = dir.path().join("snapshots/1/fs");
    erofs.create(1, Active, &[], &Labels::new()).unwrap();
    fs::write(inside.join("before"), "1").unwrap();
    erofs.commit(1).unwrap();
    // The index had no place for it, and somebody goes on writing.
    assert_eq!(fs::read_to_string(inside.join("before")).unwrap(), "1");
    fs::write(inside.join("after"), "2").unwrap();
    erofs.commit(1).unwrap();
    erofs.committed(1).unwrap();
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 0, "the layer alone is kept");
    erofs.create(2, Active, &[1], &Labels::new()).unwrap();
    erofs.mounts(2, Active, &[1], &Labels::new()).unwrap();
    assert_eq!(fs::read_to_string(inside.join("before")).unwrap(), "1");
    assert_eq!(fs::read_to_string(inside.join("after")).unwrap(), "2");
    erofs.committed(1).unwrap();
    for id in [2, 1] {
        erofs.remove(id).unwrap();
    }
}

#[test]
fn what_a_crash_has_left_of_a_commit_goes_when_the_layer_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let erofs = erofs(dir.path(), ErofsConfig::default());
    let inside = dir.path().join("snapshots/1/fs");
    erofs.create(1, Active, &[], &Labels::new()).unwrap();
    fs::write(inside.join("file"), "1").unwrap();
    erofs.commit(1).unwrap();
    // The index has it, and nobody lived to say so.
    erofs.create(2, Active, &[1], &Labels::new()).unwrap();
    erofs.mounts(2, Active, &[1], &Labels::new()).unwrap();
    assert_eq!(fs::read_to_string(inside.join("file")).unwrap(), "1");
    assert!(std::process::Command::new("umount").arg(&inside).status().unwrap().success());
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 0, "the layer alone is kept");
    for id in [2, 1] {
        erofs.remove(id).unwrap();
    }
}

#[test]
fn files_that_cannot_be_checked_are_refused_when_they_are_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let config = ErofsConfig { fsverity: true, ..Default::default() };
    match Erofs::open(dir.path(), config) {
        Err(error) => {
            assert!(error.to_string().contains("fsverity is not supported"), "{error}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "the probe is gone");
        }
        Ok(erofs) => {
            erofs.create(1, Active, &[], &Labels::new()).unwrap();
            erofs.commit(1).unwrap();
            let layer = fs::File::open(dir.path().join("snapshots/1/layer.erofs")).unwrap();
            assert!(davit_sys::integrity::verity_digest(&layer).unwrap().is_some());
        }
    }
}
