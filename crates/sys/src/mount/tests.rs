//! Real mounts, each test in a mount namespace of its own: a thread's, so
//! that nothing is left when it ends.

use std::fs;
use std::os::unix::fs::MetadataExt;

use davit_types::Kind as _;

use super::*;

fn apart(test: impl FnOnce(&Path) + Send) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            use nix::sched::{CloneFlags, unshare};
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).unwrap();
            call("", "", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "", Path::new("/")).unwrap();
            test(path);
        });
    });
}

fn make(kind: &str, source: &Path, options: &[&str]) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.to_string_lossy().into_owned(),
        target: String::new(),
        options: options.iter().map(|o| o.to_string()).collect(),
    }
}

fn count_at(path: &Path) -> usize {
    mountinfo::read().unwrap().iter().filter(|m| m.mount_point == path).count()
}

fn dirs<const N: usize>(root: &Path, names: [&str; N]) -> [PathBuf; N] {
    names.map(|name| {
        let dir = root.join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    })
}

#[test]
fn read_only_binds_and_propagation() {
    apart(|root| {
        let [source, target] = dirs(root, ["source", "target"]);
        fs::write(source.join("file"), "1").unwrap();
        mount(&make("bind", &source, &["rbind", "ro", "rprivate"]), &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "1");
        let refused = fs::write(target.join("file"), "2").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        fs::write(source.join("file"), "3").unwrap();
        mount(&make("bind", &source, &["bind", "X-containerd.mkdir.path=/x"]), &target).unwrap();
        assert_eq!(count_at(&target), 2);
        unmount_all(&target, false).unwrap();
        assert_eq!(count_at(&target), 0);
        unmount_all(&root.join("nothing"), false).unwrap();
    });
}

#[test]
fn failures_leave_nothing_and_name_the_target() {
    apart(|root| {
        let [target] = dirs(root, ["target"]);
        let error = mount(&make("bind", &root.join("nope"), &["bind"]), &target).unwrap_err();
        assert!(error.to_string().contains(target.to_str().unwrap()), "{error}");
        let good = make("tmpfs", Path::new("tmpfs"), &["size=1m"]);
        let bad = make("tmpfs", Path::new("tmpfs"), &["nonsense=1"]);
        mount_all(&[good.clone(), bad], &target).unwrap_err();
        assert_eq!(count_at(&target), 0);
        let alone = make("bind", root, &["bind", "uidmap=0:1:1"]);
        assert!(matches!(mount(&alone, &target), Err(Error::MountOption { .. })));
        mount(&good, &target).unwrap();
        let [inner] = dirs(&target, ["inner"]);
        mount(&good, &inner).unwrap();
        let _open = fs::File::create(inner.join("file")).unwrap();
        assert_eq!(unmount(&inner, false).unwrap_err().errno(), Some(libc::EBUSY));
        unmount_recursive(&target, true).unwrap();
        assert_eq!(count_at(&inner) + count_at(&target), 0);
    });
}

#[test]
fn targets_below_do_not_leave_the_root() {
    apart(|root| {
        let [outside, target] = dirs(root, ["outside", "target"]);
        dirs(&target, ["etc"]);
        std::os::unix::fs::symlink("/etc", target.join("link")).unwrap();
        std::os::unix::fs::symlink(&outside, target.join("out")).unwrap();
        let mut tmpfs = make("tmpfs", Path::new("tmpfs"), &[]);
        tmpfs.target = "link".into();
        mount(&tmpfs, &target).unwrap();
        assert_eq!(count_at(&target.join("etc")), 1);
        tmpfs.target = "out".into();
        mount(&tmpfs, &target).unwrap_err();
        tmpfs.target = "../outside".into();
        mount(&tmpfs, &target).unwrap_err();
        assert_eq!(count_at(&outside), 0);
    });
}

/// An overlay of that many layers, each with one file, below a directory of
/// that depth.
fn overlay(root: &Path, layers: usize, name: usize) {
    let base = root.join("d".repeat(name));
    let [upper, work, target] = dirs(&base, ["upper", "work", "target"]);
    let lower: Vec<String> = (0..layers)
        .map(|i| {
            let dir = base.join(format!("snapshots/{i}/fs"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(format!("f{i}")), "").unwrap();
            dir.to_string_lossy().into_owned()
        })
        .collect();
    let options = [
        format!("lowerdir={}", lower.join(":")),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    mount(&make("overlay", Path::new("overlay"), &options), &target).unwrap();
    assert_eq!(fs::read_dir(&target).unwrap().count(), layers);
    fs::write(target.join("new"), "x").unwrap();
    assert!(upper.join("new").exists());
    unmount_all(&target, false).unwrap();
    assert_eq!(count_at(&target), 0);
}

#[test]
fn overlays_of_any_length() {
    apart(|root| overlay(root, 2, 10));
    // Longer than a page: layer by layer.
    apart(|root| overlay(root, 200, 60));
    // Paths too long for that: relative to what they share.
    apart(|root| overlay(root, 50, 240));
}

#[test]
fn overlays_from_a_common_directory() {
    apart(|root| {
        let [a, b, upper, work, target] = dirs(root, ["l/a", "l/b", "upper", "work", "target"]);
        fs::write(a.join("one"), "").unwrap();
        fs::write(b.join("two"), "").unwrap();
        let data = [
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
            format!("lowerdir={}:{}", a.display(), b.display()),
        ];
        let before = std::env::current_dir().unwrap();
        overlay::mount_relative(&data, &target).unwrap();
        assert!(target.join("one").exists() && target.join("two").exists());
        assert_eq!(std::env::current_dir().unwrap(), before);
        unmount(&target, false).unwrap();
    });
}

#[test]
fn mapped_owners() {
    apart(|root| {
        let [source, target] = dirs(root, ["source", "target"]);
        let maps = ["bind", "uidmap=0:100000:65536", "gidmap=0:200000:65536"];
        mount(&make("bind", &source, &maps), &target).unwrap();
        let seen = fs::metadata(&target).unwrap();
        assert_eq!((seen.uid(), seen.gid()), (100_000, 200_000));
        unmount_all(&target, false).unwrap();

        let [lower, upper, work] = dirs(root, ["lower", "upper", "work"]);
        fs::write(lower.join("file"), "").unwrap();
        let options = [
            format!("lowerdir={}", lower.display()),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
            "uidmap=0:100000:65536".into(),
            "gidmap=0:200000:65536".into(),
        ];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        mount(&make("overlay", Path::new("overlay"), &options), &target).unwrap();
        let seen = fs::metadata(target.join("file")).unwrap();
        assert_eq!((seen.uid(), seen.gid()), (100_000, 200_000));
        unmount(&target, false).unwrap();
    });
}

#[test]
fn loop_devices_go_with_their_mounts() {
    apart(|root| {
        let [target] = dirs(root, ["target"]);
        let image = root.join("image");
        fs::File::create(&image).unwrap().set_len(4 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status().unwrap();
        assert!(made.success());
        mount(&make("ext4", &image, &["loop", "ro"]), &target).unwrap();
        assert!(target.join("lost+found").exists());
        let mounts = mountinfo::read().unwrap();
        let device = &mounts.iter().find(|m| m.mount_point == target).unwrap().source;
        let backing = format!("/sys/block/{}/loop/backing_file", &device[5..]);
        let holds_ours = || {
            fs::read_to_string(&backing).is_ok_and(|text| text.trim() == image.to_string_lossy())
        };
        assert!(holds_ours());
        unmount(&target, false).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while holds_ours() {
            assert!(std::time::Instant::now() < deadline, "the device is still attached");
            std::thread::yield_now();
        }
    });
}

#[test]
fn an_overlay_goes_at_once_and_is_let_go_of_later() {
    apart(|root| {
        let [lower, upper, work, target, other] =
            dirs(root, ["lower", "upper", "work", "target", "other"]);
        let paths = [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)];
        let mut options = paths.map(|(name, path)| format!("{name}={}", path.display())).to_vec();
        // An upper directory can have one user only.
        options.push("index=on".into());
        let overlay = Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options,
        };
        mount(&overlay, &target).unwrap();
        fs::create_dir(target.join("below")).unwrap();
        mount(&make("tmpfs", Path::new("tmpfs"), &[]), &target.join("below")).unwrap();
        let lingering = unmount_early(&target).unwrap();
        assert_eq!(count_at(&target) + count_at(&target.join("below")), 0);
        let refused = mount(&overlay, &other).unwrap_err();
        assert!(refused.full_message().contains("busy"), "{}", refused.full_message());
        drop(lingering);
        mount(&overlay, &other).unwrap();
        assert!(other.join("below").is_dir());
        drop(unmount_early(&other).unwrap());
        drop(unmount_early(&root.join("nothing")).unwrap());
    });
}
