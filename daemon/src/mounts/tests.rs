use std::fs;
use std::sync::Arc;

use davit_types::Kind;

use super::*;

struct Fixture {
    dir: tempfile::TempDir,
    namespace: Namespace,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), namespace: Namespace::new("test").unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn open(&self) -> Mounts {
        let root = self.dir.path().join("root");
        fs::create_dir_all(&root).unwrap();
        Mounts::open(&self.dir.path().join("state"), &root).unwrap()
    }

    fn leftovers(&self) -> usize {
        fs::read_dir(self.dir.path().join("state/t")).unwrap().count()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = davit_sys::mount::unmount_recursive(self.dir.path(), true);
    }
}

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        kind: kind.to_owned(),
        source: source.to_owned(),
        target: String::new(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

fn request(name: &str, mounts: Vec<Mount>) -> Request {
    Request { name: name.to_owned(), mounts, ..Request::default() }
}

#[test]
fn what_the_client_can_mount_itself_is_left_to_it() {
    let fixture = Fixture::new();
    let plain = vec![mount("bind", "/", &["rbind"]), mount("overlay", "overlay", &[])];
    let error = fixture.open().activate(&fixture.namespace, request("a", plain)).unwrap_err();
    assert_eq!(error.kind(), davit_types::ErrorKind::Unimplemented);
    assert_eq!(error.to_string(), "not implemented");
    assert_eq!(fixture.leftovers(), 0);
}

#[test]
fn mounts_before_a_template_are_made_and_filled_in_and_survive_a_restart() {
    let fixture = Fixture::new();
    let mounts = fixture.open();
    let wanted = vec![
        mount("tmpfs", "tmpfs", &["size=1m"]),
        mount("tmpfs", "tmpfs", &["size=1m"]),
        mount("format/overlay", "overlay", &["lowerdir={{ overlay 1 0 }}"]),
    ];
    let mut wanted = request("layers", wanted);
    wanted.labels.insert("k".into(), "v".into());
    wanted.lease = Some("l1".into());
    let made = mounts.activate(&fixture.namespace, wanted.clone()).unwrap();
    let points: Vec<&Path> = made.active.iter().map(|a| a.mount_point.as_path()).collect();
    assert_eq!(points.len(), 2);
    let lower = format!("lowerdir={}:{}", points[1].display(), points[0].display());
    assert_eq!(made.system, [mount("overlay", "overlay", &[&lower])]);
    fs::write(points[0].join("here"), "x").unwrap();

    let error = mounts.activate(&fixture.namespace, wanted).unwrap_err().to_string();
    assert_eq!(error, "mount \"layers\": already exists");
    let other = Namespace::new("other").unwrap();
    let error = mounts.info(&other, "layers").unwrap_err().to_string();
    assert_eq!(error, "mount \"layers\" not found");

    drop(mounts);
    let mounts = fixture.open();
    assert_eq!(mounts.info(&fixture.namespace, "layers").unwrap(), made);
    assert_eq!(mounts.list(&fixture.namespace), std::slice::from_ref(&made));
    assert!(points[0].join("here").exists());

    mounts.deactivate(&fixture.namespace, "layers").unwrap();
    assert_eq!(fixture.leftovers(), 0);
    assert!(matches!(
        mounts.deactivate(&fixture.namespace, "layers"),
        Err(MountError::NotFound(_))
    ));
}

#[test]
fn temporary_mounts_leave_a_bind_of_the_last() {
    let fixture = Fixture::new();
    let mounts = fixture.open();
    let mut wanted = request("t", vec![mount("tmpfs", "tmpfs", &[])]);
    wanted.temporary = true;
    let made = mounts.activate(&fixture.namespace, wanted).unwrap();
    let point = made.active[0].mount_point.display().to_string();
    assert_eq!(made.system, [mount("bind", &point, &["rbind"])]);
    mounts.deactivate(&fixture.namespace, "t").unwrap();
}

#[test]
fn a_failure_leaves_nothing_mounted_and_the_name_free() {
    let fixture = Fixture::new();
    let mounts = fixture.open();
    let bad = vec![
        mount("tmpfs", "tmpfs", &[]),
        mount("no-such-filesystem", "x", &[]),
        mount("format/overlay", "overlay", &[]),
    ];
    let error = mounts.activate(&fixture.namespace, request("a", bad)).unwrap_err();
    assert!(error.to_string().starts_with("mount failed no-such-filesystem at "), "{error}");
    assert_eq!(fixture.leftovers(), 0);
    let good = vec![mount("tmpfs", "tmpfs", &[]), mount("format/overlay", "overlay", &[])];
    mounts.activate(&fixture.namespace, request("a", good)).unwrap();
    mounts.deactivate(&fixture.namespace, "a").unwrap();
}

#[test]
fn what_is_in_use_stays_known() {
    let fixture = Fixture::new();
    let mounts = fixture.open();
    let wanted = vec![mount("tmpfs", "tmpfs", &[]), mount("format/bind", "{{ mount 0 }}", &[])];
    let made = mounts.activate(&fixture.namespace, request("busy", wanted)).unwrap();
    let user = fs::File::create(made.active[0].mount_point.join("open")).unwrap();
    assert!(matches!(mounts.deactivate(&fixture.namespace, "busy"), Err(MountError::Unmount(_))));
    assert_eq!(mounts.info(&fixture.namespace, "busy").unwrap(), made);
    drop(user);
    mounts.deactivate(&fixture.namespace, "busy").unwrap();
    assert_eq!(fixture.leftovers(), 0);
}

#[test]
fn what_was_cut_off_is_undone_at_the_next_start() {
    let fixture = Fixture::new();
    let mounts = fixture.open();
    let wanted = vec![mount("tmpfs", "tmpfs", &[]), mount("format/bind", "{{ mount 0 }}", &[])];
    let made = mounts.activate(&fixture.namespace, request("a", wanted.clone())).unwrap();
    let gone = mounts.activate(&fixture.namespace, request("b", wanted)).unwrap();
    let directory = made.active[0].mount_point.parent().unwrap();
    fs::remove_file(directory.join("activation.json")).unwrap();
    davit_sys::mount::unmount(&gone.active[0].mount_point, false).unwrap();
    drop(mounts);
    let mounts = fixture.open();
    assert_eq!(mounts.list(&fixture.namespace), []);
    assert_eq!(fixture.leftovers(), 0);
}

#[test]
fn directories_are_made_inside_the_roots_alone() {
    let fixture = Fixture::new();
    let mounts = fixture.open();
    std::os::unix::fs::symlink("/", fixture.path("root/out")).unwrap();
    let wanted = |option: String| {
        request("d", vec![mount("mkdir/overlay", "overlay", &["index=off", &option])])
    };
    let at =
        |name: &str, rest: &str| format!("X-containerd.mkdir.path={}{rest}", fixture.path(name));
    let made = mounts.activate(&fixture.namespace, wanted(at("root/up", ":751"))).unwrap();
    assert_eq!(made.system, [mount("overlay", "overlay", &["index=off"])]);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(fixture.path("root/up")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o7777, 0o751);
    mounts.deactivate(&fixture.namespace, "d").unwrap();
    for (option, expected) in [
        (at("root/out/tmp/davit-escape", ""), "open the parent of"),
        (at("elsewhere", ""), "no root "),
        (at("root/../x", ""), "is no path below"),
        (at("root/up", ":700"), "chmod not supported yet for mkdir handler: not implemented"),
        (at("root/new", ":9"), "invalid mode 9"),
        (at("root/new", ":700:1"), "invalid mkdir option"),
        (at("root/new", ":700:x:1"), "invalid uid \"x\": invalid argument"),
        ("X-containerd.mkdir.what=1".to_owned(), "invalid mkdir option"),
    ] {
        let error = mounts.activate(&fixture.namespace, wanted(option.clone())).unwrap_err();
        assert!(error.to_string().contains(expected), "{option}: {error}");
    }
    assert!(!Path::new("/tmp/davit-escape").exists());
    assert!(!Path::new(&fixture.path("root/new")).exists());
    assert_eq!(fixture.leftovers(), 0);
}

#[test]
fn a_filesystem_is_made_once_in_a_file() {
    let fixture = Fixture::new();
    let mounts = fixture.open();
    let image = fixture.path("root/disk.img");
    let wanted = |options: &[&str]| {
        let disk = mount("mkfs/ext4", &image, options);
        request("m", vec![disk])
    };
    for (options, expected) in [
        (&[][..], "mkfs requires mkfs.size option: invalid argument"),
        (&["X-containerd.mkfs.size=lots"], "bad option size: invalid size: 'lots'"),
        (
            &["X-containerd.mkfs.size=1m", "X-containerd.mkfs.fs=vfat"],
            "unsupported filesystem \"vfat\": invalid argument",
        ),
        (&["X-containerd.mkfs.size=4k"], "failed format"),
    ] {
        let error = mounts.activate(&fixture.namespace, wanted(options)).unwrap_err();
        assert!(error.to_string().contains(expected), "{options:?}: {error}");
        assert!(!Path::new(&image).exists(), "{options:?}");
    }
    let options = ["X-containerd.mkfs.size=4MiB", "loop"];
    let made = mounts.activate(&fixture.namespace, wanted(&options)).unwrap();
    assert_eq!(made.system, [mount("ext4", &image, &["loop"])]);
    let superblock = fs::read(&image).unwrap();
    assert_eq!(superblock.len(), 4 << 20);
    assert_eq!(superblock[1080..1082], [0x53, 0xef]);
    mounts.deactivate(&fixture.namespace, "m").unwrap();
    mounts.activate(&fixture.namespace, wanted(&options)).unwrap();
    assert!(fs::read(&image).unwrap() == superblock, "made again");
}

#[test]
fn names_are_checked_and_one_name_is_activated_once() {
    let fixture = Fixture::new();
    let mounts = Arc::new(fixture.open());
    for name in [String::new(), "n".repeat(NAME_MAX + 1)] {
        let error = mounts.activate(&fixture.namespace, request(&name, Vec::new())).unwrap_err();
        assert!(matches!(error, MountError::Name { .. }));
    }
    let many = vec![mount("format/bind", "/", &[]); MOUNTS_MAX + 1];
    let error = mounts.activate(&fixture.namespace, request("many", many)).unwrap_err();
    assert!(error.to_string().starts_with("too many mounts (256)"));

    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (mounts, namespace) = (Arc::clone(&mounts), fixture.namespace.clone());
            let wanted = vec![mount("tmpfs", "t", &[]), mount("format/bind", "{{ mount 0 }}", &[])];
            std::thread::spawn(move || mounts.activate(&namespace, request("one", wanted)).is_ok())
        })
        .collect();
    let made = threads.into_iter().map(|t| t.join().unwrap()).filter(|ok| *ok);
    assert_eq!(made.count(), 1);
    assert_eq!(fixture.leftovers(), 1);
}
