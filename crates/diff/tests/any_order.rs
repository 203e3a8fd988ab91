//! Layers that are applied before those below them, and settled afterwards,
//! are what they are when applied in order.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::{Archive, header};
use davit_diff::tar::{EntryKind, Header};
use davit_diff::worker::{Apply, Program, Settle};
use davit_diff::{Applied, ApplyOptions, Error, Limits, Processing, Whiteouts, settle};
use davit_types::{ErrorKind, Kind, Mount};

/// Three layers, lowest first. The upper ones imply directories of both, of
/// the middle one alone, of none, and such as the middle one hides.
fn layers() -> [Vec<u8>; 3] {
    let owned = |name: &str, uid, mode| Header {
        uid,
        gid: uid + 1,
        mode,
        mtime: 1_000_000_000 + i64::from(uid),
        xattrs: vec![("user.of".to_owned(), name.as_bytes().to_vec())],
        ..header(name, EntryKind::Directory)
    };
    let lowest = Archive::new()
        .add(owned("etc", 10, 0o700), b"")
        .add(owned("etc/deep", 11, 0o1777), b"")
        .add(owned("etc/deep/er", 12, 0o750), b"")
        .add(owned("gone", 13, 0o711), b"")
        .file("etc/deep/er/file", "1");
    let middle = Archive::new()
        .add(owned("srv", 20, 0o2755), b"")
        .file("etc/deep/other", "2")
        .file("gone", "no directory any more")
        .file("etc/.wh.none", "");
    let upper = Archive::new()
        .file("etc/deep/er/file", "3")
        .file("srv/www/index", "3")
        .file("gone/again", "3")
        .file("new/a/b/c", "3")
        // Implied first, and then with an entry of its own.
        .file("explicit/file", "3")
        .add(owned("explicit", 30, 0o705), b"")
        // Implied and replaced.
        .file("replaced/file", "3")
        .file("replaced", "file");
    [lowest.bytes(), middle.bytes(), upper.bytes()]
}

/// What is to be the same, for each directory and file.
fn attributes(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let mut value = [0; 64];
            let length = rustix::fs::lgetxattr(&path, "user.of", &mut value[..]).unwrap_or(0);
            let name = path.strip_prefix(root).unwrap().display();
            let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
            let of = String::from_utf8_lossy(&value[..length]);
            // Those that no layer knows are from now.
            let known = meta.mtime() < 1_500_000_000;
            let mtime = if known { meta.mtime() } else { 0 };
            lines.push(format!("{name} {mode:o} {uid}:{gid} {mtime} {of}"));
            if meta.is_dir() {
                pending.push(path);
            }
        }
    }
    lines.sort();
    lines
}

struct Image {
    dir: tempfile::TempDir,
    program: Program,
}

impl Image {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["scratch", "work", "0", "1", "2"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let path = PathBuf::from(env!("CARGO_BIN_EXE_davit-unpack"));
        let program = Program { path, arguments: Vec::new(), scratch: dir.path().join("scratch") };
        Self { dir, program }
    }

    fn layer(&self, index: usize) -> PathBuf {
        self.dir.path().join(index.to_string())
    }

    fn overlay(&self, index: usize) -> Vec<Mount> {
        let lower: Vec<_> =
            (0..index).rev().map(|below| self.layer(below).display().to_string()).collect();
        let options = vec![
            format!("workdir={}", self.dir.path().join("work").display()),
            format!("upperdir={}", self.layer(index).display()),
            format!("lowerdir={}", lower.join(":")),
        ];
        vec![mount("overlay", "overlay", options)]
    }

    fn apply(&self, index: usize, bytes: &[u8], later: bool) -> Applied {
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(bytes).unwrap();
        input.seek(SeekFrom::Start(0)).unwrap();
        let bind = vec!["rw".to_owned(), "rbind".to_owned()];
        let bind = vec![mount("bind", self.layer(index).to_str().unwrap(), bind)];
        let apply = Apply {
            input: input.into(),
            compressed: true,
            processing: Processing::default(),
            mounts: if later || index == 0 { bind } else { self.overlay(index) },
            lower_later: later.then_some(Whiteouts::Overlay),
            limits: Limits::default(),
            sync: false,
        };
        apply.spawn(&self.program).unwrap().wait().unwrap()
    }

    fn settle(&self, index: usize, paths: Vec<PathBuf>) -> Result<(), Error> {
        let settle = Settle { mounts: self.overlay(index), paths, sync: false };
        settle.spawn(&self.program)?.wait()
    }
}

fn mount(kind: &str, source: &str, options: Vec<String>) -> Mount {
    Mount { kind: kind.into(), source: source.into(), target: String::new(), options }
}

#[test]
fn any_order_gives_the_same_image() {
    let layers = layers();
    let (in_order, any_order) = (Image::new(), Image::new());
    for (index, layer) in layers.iter().enumerate() {
        let applied = in_order.apply(index, layer, false);
        assert!(applied.implied.is_empty(), "nobody asked for them: {applied:?}");
    }
    let mut implied = vec![Vec::new(); 3];
    for index in [2, 0, 1] {
        implied[index] = any_order.apply(index, &layers[index], true).implied;
    }
    let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
    assert_eq!(implied[0], paths(&[]));
    assert_eq!(implied[1], paths(&["etc", "etc/deep"]));
    let upper = ["etc", "etc/deep", "etc/deep/er", "srv", "srv/www", "gone", "new", "new/a"];
    assert_eq!(implied[2], paths(&[&upper[..], &["new/a/b"]].concat()));
    for index in [1, 2] {
        any_order.settle(index, implied[index].clone()).unwrap();
    }
    for index in 0..3 {
        let (expected, found) = (in_order.layer(index), any_order.layer(index));
        assert_eq!(attributes(&found), attributes(&expected), "layer {index}");
    }
    let settled = attributes(&any_order.layer(2));
    assert!(settled.contains(&"etc/deep 41777 11:12 1000000011 etc/deep".to_owned()));
    assert!(settled.contains(&"gone 40755 0:0 0 ".to_owned()), "{settled:?}");
}

#[test]
fn settling_leads_nowhere_else() {
    let image = Image::new();
    image.apply(0, &layers()[0], true);
    let outside = image.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, std::os::unix::fs::PermissionsExt::from_mode(0o751)).unwrap();
    std::os::unix::fs::symlink(&outside, image.layer(1).join("etc")).unwrap();
    fs::write(image.layer(1).join("gone"), "").unwrap();
    for path in ["../outside", "etc", "etc/deep", "gone", "missing", "gone/x"] {
        let error = image.settle(1, vec![path.into()]).expect_err(path);
        assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
        let named = format!("entry {path:?}: settle: ");
        assert!(error.to_string().starts_with(&named), "{error}");
    }
    assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o7777, 0o751);
    // Without layers below there is nothing to take over.
    settle(&image.layer(0), &[], &["etc".into()]).unwrap();
}

#[test]
fn names_of_any_bytes_come_back() {
    let image = Image::new();
    let mut entry = header("x", EntryKind::File);
    entry.name = b"d\xff\xe9\x01/file".to_vec();
    let applied = image.apply(1, &Archive::new().add(entry, b"").bytes(), true);
    let names: Vec<_> = applied.implied.iter().map(|path| path.as_os_str().as_bytes()).collect();
    assert_eq!(names, [b"d\xff\xe9\x01"]);
    fs::create_dir_all(image.layer(0).join(&applied.implied[0])).unwrap();
    fs::set_permissions(
        image.layer(0).join(&applied.implied[0]),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    image.settle(1, applied.implied.clone()).unwrap();
    let mode = fs::metadata(image.layer(1).join(&applied.implied[0])).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn more_than_can_be_remembered_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let long = "n".repeat(250);
    let deep = format!("/{long}").repeat(14);
    let archive = (0..330)
        .fold(Archive::new(), |archive, index| archive.file(&format!("{index}{deep}/file"), ""));
    let archive = archive.bytes();
    let options = ApplyOptions {
        whiteouts: Whiteouts::Overlay,
        lower_later: true,
        ..ApplyOptions::default()
    };
    let error = davit_diff::apply(&archive[..], dir.path(), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    assert!(error.to_string().contains("only implied"), "{error}");
    // Those who do not ask need not remember.
    let dir = tempfile::tempdir().unwrap();
    davit_diff::apply(&archive[..], dir.path(), &ApplyOptions::default()).unwrap();
}

#[test]
fn a_pipe_that_ends_early_is_an_error() {
    let image = Image::new();
    let archive = layers()[2].clone();
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&archive).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(&archive[..], 1).unwrap();
    for bytes in [&archive[..], &gzip, &zstd] {
        for cut in [1, 10, 100, bytes.len() / 2 + 1, bytes.len() - 1] {
            let (reader, mut writer) = std::io::pipe().unwrap();
            let apply = Apply {
                input: reader.into(),
                compressed: true,
                processing: Processing::default(),
                mounts: vec![mount(
                    "bind",
                    image.layer(0).to_str().unwrap(),
                    vec!["rw".to_owned(), "rbind".to_owned()],
                )],
                lower_later: Some(Whiteouts::Overlay),
                limits: Limits::default(),
                sync: false,
            };
            let running = apply.spawn(&image.program).unwrap();
            // In pieces, as they come from a network; the worker may have
            // seen enough before the last one.
            for chunk in bytes[..cut].chunks(700) {
                let _ = writer.write_all(chunk);
            }
            drop(writer);
            let result = running.wait();
            let error = result.expect_err("it is not whole");
            assert_eq!(error.kind(), ErrorKind::Unknown, "{cut} of {}: {error}", bytes.len());
        }
    }
}
