//! What the system's tar writes is read, what is written the system's tar
//! reads, and a difference applied is the tree it was made from.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use common::{Archive, apply, apply_to_overlay, header, listing, run};
use davit_diff::tar::{EntryKind, Header};
use davit_diff::{CompareOptions, Compression, compare};
use davit_sys::mount::{mount, unmount_all};
use davit_types::Mount;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// A capability set, as `setcap cap_net_raw+ep` stores it.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// One of everything that a layer can hold.
fn rich_tree(root: &Path) {
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    fs::create_dir_all(root.join("var/tmp")).unwrap();
    fs::write(root.join("bin/su"), "set-uid").unwrap();
    chown(root.join("bin/su"), Some(0), Some(42)).unwrap();
    fs::set_permissions(root.join("bin/su"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::write(root.join("bin/ping"), "capable").unwrap();
    set_xattr(&root.join("bin/ping"), "security.capability", CAPABILITY);
    fs::hard_link(root.join("bin/ping"), root.join("bin/ping6")).unwrap();
    symlink("ping", root.join("bin/link")).unwrap();
    symlink("/absolute/dangling", root.join("var/dangling")).unwrap();
    fs::set_permissions(root.join("var/tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(root.join("bin/ünï"), "utf-8").unwrap();
    let long = "long-name-".repeat(20);
    fs::create_dir(root.join("var").join(&long)).unwrap();
    fs::write(root.join("var").join(&long).join(&long), "long").unwrap();
    chown(root.join("empty"), Some(3_000_000_000), Some(2_500_000_000)).unwrap();
    let node = |name: &str, kind, device| {
        mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o620), device).unwrap();
    };
    node("null", FileType::CharacterDevice, makedev(1, 3));
    node("loop", FileType::BlockDevice, makedev(7, 300));
    node("fifo", FileType::Fifo, 0);
    let big = vec![b'x'; 3_000_001];
    fs::write(root.join("big"), big).unwrap();
    for (name, seconds) in [("bin/su", 1), ("bin/ping", 1_700_000_000), ("var", 900_000_000)] {
        let file = fs::File::open(root.join(name)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    }
}

/// Everything that a layer keeps of a tree.
fn manifest(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let mut value = [0; 64];
            let capability = match meta.is_file() {
                true => rustix::fs::getxattr(&path, "security.capability", &mut value[..]).ok(),
                false => None,
            };
            let content = match () {
                () if meta.is_file() => format!("{:x?}", fs::read(&path).unwrap().len()),
                () if meta.is_symlink() => path.read_link().unwrap().display().to_string(),
                () => String::new(),
            };
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            lines.push(format!(
                "{} {:o} {}:{} {} {} {} {:?} {content}",
                path.strip_prefix(root).unwrap().display(),
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.rdev(),
                links,
                meta.mtime(),
                capability,
            ));
            if meta.is_dir() {
                pending.push(path);
            }
        }
    }
    lines.sort();
    lines
}

struct Dirs(tempfile::TempDir);

impl Dirs {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn make(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

fn diff(lower: &Path, upper: &Path, compression: Compression) -> Vec<u8> {
    let mut layer = Vec::new();
    let options = CompareOptions { compression, newest: None };
    compare(lower, upper, &mut layer, options).unwrap();
    layer
}

#[test]
fn reads_what_the_systems_tar_writes() {
    for format in ["gnu", "pax", "oldgnu"] {
        for compress in ["cat", "gzip -n"] {
            let dirs = Dirs::new();
            let (source, target) = (dirs.make("source"), dirs.make("target"));
            rich_tree(&source);
            let xattrs = if format == "pax" { "--xattrs --xattrs-include='*'" } else { "" };
            let command = format!(
                "tar -C {} --numeric-owner --format={format} {xattrs} -cf - . | {compress}",
                source.display()
            );
            let archive = run("sh", &["-c", &command]);
            let applied = apply(&archive, &target).unwrap();
            let mut expected = manifest(&source);
            if format != "pax" {
                expected.iter_mut().for_each(|line| *line = line.replace("Some(20)", "None"));
            }
            assert_eq!(manifest(&target), expected, "{format} {compress}");
            if compress == "cat" {
                assert_eq!(applied.size, archive.len() as u64);
                let file = dirs.0.path().join("archive");
                fs::write(&file, &archive).unwrap();
                let sum = String::from_utf8(run("sha256sum", &[file.to_str().unwrap()]));
                assert_eq!(applied.digest.hex(), &sum.unwrap()[..64]);
            }
        }
    }
}

#[test]
fn reads_sparse_files_of_every_format() {
    let dirs = Dirs::new();
    let source = dirs.make("source");
    let mut map = Vec::new();
    {
        use std::os::unix::fs::FileExt;
        let file = fs::File::create(source.join("sparse")).unwrap();
        // More pieces than fit into one header.
        for piece in 0..60_u64 {
            let offset = piece * 1_000_000 + 4096;
            file.write_all_at(format!("piece {piece}").as_bytes(), offset).unwrap();
            map.push(offset);
        }
        file.set_len(100_000_000).unwrap();
    }
    fs::write(source.join("after"), "after").unwrap();
    let expected = fs::read(source.join("sparse")).unwrap();
    let formats = [
        "gnu",
        "oldgnu",
        "pax --sparse-version=0.0",
        "pax --sparse-version=0.1",
        "pax --sparse-version=1.0",
    ];
    for (number, format) in formats.into_iter().enumerate() {
        let target = dirs.make(&format!("target-{number}"));
        let command =
            format!("tar -C {} -S --format={format} -cf - sparse after", source.display());
        let archive = run("sh", &["-c", &command]);
        assert!(archive.len() < 10_000_000, "{format}");
        apply(&archive, &target).unwrap();
        assert!(fs::read(target.join("sparse")).unwrap() == expected, "{format}");
        let blocks = fs::metadata(target.join("sparse")).unwrap().blocks();
        assert!(blocks < 10_000, "{format}: {blocks} blocks");
        assert_eq!(fs::read_to_string(target.join("after")).unwrap(), "after");
    }
}

#[test]
fn a_difference_applied_is_the_tree() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let dirs = Dirs::new();
        let (nothing, source, target) =
            (dirs.make("nothing"), dirs.make("source"), dirs.make("target"));
        rich_tree(&source);
        let layer = diff(&nothing, &source, compression);
        assert_eq!(diff(&nothing, &source, compression), layer, "the same bytes each time");
        apply(&layer, &target).unwrap();
        assert_eq!(manifest(&target), manifest(&source), "{compression:?}");
    }
}

#[test]
fn the_systems_tar_reads_what_is_written() {
    let dirs = Dirs::new();
    let (nothing, source, target) = (dirs.make("nothing"), dirs.make("source"), dirs.make("t"));
    rich_tree(&source);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let file = dirs.0.path().join("layer");
        fs::write(&file, diff(&nothing, &source, compression)).unwrap();
        let target = target.join(format!("{compression:?}"));
        fs::create_dir(&target).unwrap();
        let (file, to) = (file.to_str().unwrap(), target.to_str().unwrap());
        run("tar", &["-C", to, "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", file]);
        assert_eq!(manifest(&target), manifest(&source), "{compression:?}");
    }
}

/// Two trees with every kind of change between them.
fn before_and_after(before: &Path, after: &Path) {
    rich_tree(before);
    for (name, text) in [("same", "1"), ("changed", "1"), ("gone", "1"), ("to-dir", "1")] {
        fs::write(before.join(name), text).unwrap();
    }
    fs::create_dir_all(before.join("gone-dir/sub")).unwrap();
    fs::create_dir_all(before.join("to-file/sub")).unwrap();
    fs::write(before.join("linked-1"), "linked").unwrap();
    fs::hard_link(before.join("linked-1"), before.join("linked-2")).unwrap();
    run("cp", &["-a", "--", &format!("{}/.", before.display()), after.to_str().unwrap()]);
    fs::write(after.join("changed"), "other").unwrap();
    fs::write(after.join("added"), "new").unwrap();
    fs::remove_file(after.join("gone")).unwrap();
    fs::remove_dir_all(after.join("gone-dir")).unwrap();
    fs::remove_dir_all(after.join("to-file")).unwrap();
    fs::write(after.join("to-file"), "file now").unwrap();
    fs::remove_file(after.join("to-dir")).unwrap();
    fs::create_dir(after.join("to-dir")).unwrap();
    fs::write(after.join("to-dir/x"), "x").unwrap();
    fs::set_permissions(after.join("bin/su"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(after.join("var/dangling")).unwrap();
}

#[test]
fn changes_are_found_and_come_through() {
    let dirs = Dirs::new();
    let (before, after) = (dirs.make("before"), dirs.make("after"));
    before_and_after(&before, &after);
    let layer = diff(&before, &after, Compression::None);
    let file = dirs.0.path().join("layer");
    fs::write(&file, &layer).unwrap();
    let names = String::from_utf8(run("tar", &["-tf", file.to_str().unwrap()])).unwrap();
    assert_eq!(
        names.lines().collect::<Vec<_>>(),
        [
            "added",
            "bin/",
            "bin/su",
            "changed",
            ".wh.gone",
            ".wh.gone-dir",
            "to-dir/",
            "to-dir/x",
            "to-file",
            "var/",
            "var/.wh.dangling",
        ]
    );
    apply(&layer, &before).unwrap();
    let expected: Vec<_> = manifest(&after);
    assert_eq!(manifest(&before), expected);
    assert_eq!(listing(&before), listing(&after));
}

#[test]
fn links_to_what_is_unchanged_come_with_their_directories() {
    let dirs = Dirs::new();
    let (before, after) = (dirs.make("before"), dirs.make("after"));
    fs::create_dir_all(before.join("tmp/d")).unwrap();
    fs::set_permissions(before.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(before.join("tmp/d/x"), "x").unwrap();
    fs::hard_link(before.join("tmp/d/x"), before.join("tmp/y")).unwrap();
    run("cp", &["-a", "--", &format!("{}/.", before.display()), after.to_str().unwrap()]);
    fs::hard_link(after.join("tmp/d/x"), after.join("z")).unwrap();
    let file = dirs.0.path().join("layer");
    fs::write(&file, diff(&before, &after, Compression::None)).unwrap();
    let names = String::from_utf8(run("tar", &["-tf", file.to_str().unwrap()])).unwrap();
    let names: Vec<_> = names.lines().collect();
    assert_eq!(names, ["z", "tmp/", "tmp/d/", "tmp/d/x", "tmp/y"]);
}

struct Overlay(PathBuf);

impl Overlay {
    fn mount(dirs: &Dirs, lower: &[&Path], upper: &Path) -> Self {
        let target = dirs.make("merged");
        let lower: Vec<_> = lower.iter().map(|path| path.display().to_string()).collect();
        let options = vec![
            format!("lowerdir={}", lower.join(":")),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", dirs.make("work").display()),
            "index=off".to_owned(),
        ];
        let mount_it = Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options,
        };
        mount(&mount_it, &target).unwrap();
        Self(target)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = unmount_all(&self.0, true);
    }
}

#[test]
fn a_layer_in_an_upper_directory_shows_as_the_tree() {
    let dirs = Dirs::new();
    let (before, after, upper) = (dirs.make("before"), dirs.make("after"), dirs.make("upper"));
    before_and_after(&before, &after);
    apply_to_overlay(&diff(&before, &after, Compression::Gzip), &upper).unwrap();
    let overlay = Overlay::mount(&dirs, &[&before], &upper);
    assert_eq!(listing(&overlay.0), listing(&after));
    // And found again through the overlay.
    let merged = diff(&before, &overlay.0, Compression::None);
    assert!(merged == diff(&before, &after, Compression::None));
}

#[test]
fn whiteouts_hide_what_lay_below_in_any_order() {
    let below =
        Archive::new().dir("d").file("d/old", "1").dir("e").file("e/old", "1").file("f", "1");
    let below = below.dir("g").file("g/old", "1").dir("h").dir("h/sub").file("h/sub/old", "1");
    let below = ["i", "i/sub", "j", "j/sub"].into_iter().fold(below, |below, dir| {
        below.dir(dir).file(&format!("{dir}/old"), "1").dir(&format!("{dir}/gone"))
    });
    let below = below.bytes();
    let above = Archive::new()
        // Before and behind what comes in its place.
        .file(".wh.d", "")
        .dir("d")
        .file("d/new", "2")
        .dir("e")
        .file("e/new", "2")
        .file(".wh.e", "")
        .file("f", "2")
        .file(".wh.f", "")
        // Opaque before, between and behind.
        .dir("g")
        .file("g/new", "2")
        .file("g/.wh..wh..opq", "")
        .file("g/newer", "2")
        .dir("h")
        .file("h/.wh..wh..opq", "")
        .dir("h/sub")
        .file("h/sub/new", "2")
        // In directories that are only implied, there before or not.
        .file("i/sub/new", "2")
        .file(".wh.i", "")
        .symlink("to-j", "j")
        .file("to-j/sub/new", "2")
        .file("j/.wh..wh..opq", "")
        .file("k/sub/new", "2")
        .file(".wh.k", "")
        // What is made in place of another has nothing of it.
        .file("l/sub/new", "2")
        .file("l", "2")
        .file(".wh.l", "")
        .bytes();
    let expected = [
        "d/",
        "d/new=2",
        "e/",
        "e/new=2",
        "f=2",
        "g/",
        "g/new=2",
        "g/newer=2",
        "h/",
        "h/sub/",
        "h/sub/new=2",
        "i/",
        "i/sub/",
        "i/sub/new=2",
        "j/",
        "j/sub/",
        "j/sub/new=2",
        "k/",
        "k/sub/",
        "k/sub/new=2",
        "l=2",
        "to-j -> j",
    ];
    let dirs = Dirs::new();
    let (tree, lower, upper) = (dirs.make("tree"), dirs.make("lower"), dirs.make("upper"));
    for layer in [&below, &above] {
        apply(layer, &tree).unwrap();
    }
    assert_eq!(listing(&tree), expected, "in one tree");
    apply_to_overlay(&below, &lower).unwrap();
    apply_to_overlay(&above, &upper).unwrap();
    let overlay = Overlay::mount(&dirs, &[&lower], &upper);
    assert_eq!(listing(&overlay.0), expected, "as an overlay");
}

#[test]
fn implied_directories_are_those_below() {
    let dirs = Dirs::new();
    let (lower, upper) = (dirs.make("lower"), dirs.make("upper"));
    let private = Header { mode: 0o1770, uid: 5, gid: 6, ..header("d", EntryKind::Directory) };
    let base = Archive::new().add(private, b"").dir("d/e").file("d/e/f", "1").bytes();
    apply_to_overlay(&base, &lower).unwrap();
    let options = davit_diff::ApplyOptions {
        whiteouts: davit_diff::Whiteouts::Overlay,
        lower: vec![lower.clone()],
        ..davit_diff::ApplyOptions::default()
    };
    let layer = Archive::new().file("d/e/g", "2").file("new/x", "3").bytes();
    davit_diff::apply(&layer[..], &upper, &options).unwrap();
    let d = fs::metadata(upper.join("d")).unwrap();
    assert_eq!((d.mode() & 0o7777, d.uid(), d.gid(), d.mtime()), (0o1770, 5, 6, 1_000_000_000));
    assert_eq!(fs::metadata(upper.join("d/e")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(upper.join("new")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn times_of_directories_are_set_last() {
    let dirs = Dirs::new();
    let target = dirs.make("target");
    let layer = Archive::new().dir("d").dir("d/e").file("d/e/f", "1").file("d/g", "2").bytes();
    apply(&layer, &target).unwrap();
    for name in ["d", "d/e", "d/e/f", "d/g"] {
        assert_eq!(fs::metadata(target.join(name)).unwrap().mtime(), 1_000_000_000, "{name}");
    }
}

#[test]
fn the_source_date_is_the_newest() {
    let dirs = Dirs::new();
    let (nothing, source) = (dirs.make("nothing"), dirs.make("source"));
    fs::write(source.join("new"), "x").unwrap();
    fs::write(source.join("old"), "x").unwrap();
    let old = fs::File::open(source.join("old")).unwrap();
    old.set_modified(UNIX_EPOCH + Duration::from_secs(5)).unwrap();
    let mut layer = Vec::new();
    let options = CompareOptions { compression: Compression::None, newest: Some(100) };
    compare(&nothing, &source, &mut layer, options).unwrap();
    let mut reader = davit_diff::tar::Reader::new(&layer[..]);
    let mut times = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        times.push((String::from_utf8(entry.name).unwrap(), entry.mtime.seconds));
    }
    assert_eq!(times, [("new".to_owned(), 100), ("old".to_owned(), 5)]);
}

#[test]
fn a_full_disk_is_told_with_the_entry() {
    let dirs = Dirs::new();
    let target = dirs.make("small");
    let tmpfs = Mount {
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        target: String::new(),
        options: vec!["size=256k".into()],
    };
    mount(&tmpfs, &target).unwrap();
    let layer = Archive::new().file("small", "x").file("big", &"x".repeat(1 << 20)).bytes();
    let result = apply(&layer, &target);
    unmount_all(&target, true).unwrap();
    let error = result.unwrap_err();
    use davit_types::Kind;
    assert_eq!(error.kind(), davit_types::ErrorKind::ResourceExhausted);
    let message = error.full_message();
    assert!(message.starts_with("entry \"big\": write: No space left on device"), "{message}");
}
