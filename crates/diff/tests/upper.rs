//! Comparing an overlay with what lies below it by looking at its upper
//! directory alone gives the very bytes that walking both trees gives.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use davit_diff::worker::{Compare, Program};
use davit_diff::{CompareOptions, Compression, compare};
use davit_sys::mount::{mount_all, unmount_all};
use davit_types::Mount;

/// Numbers that look random, the same on every run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    /// One of few names, so that things meet.
    fn name(&mut self) -> String {
        let depth = 1 + self.below(4);
        let parts: Vec<_> = (0..depth).map(|_| ["a", "b", "c"][self.below(3) as usize]).collect();
        parts.join("/")
    }
}

/// Does something to a tree; what cannot be done is left.
fn change(tree: &Path, numbers: &mut Numbers) {
    let (path, other) = (tree.join(numbers.name()), tree.join(numbers.name()));
    let kind = numbers.below(12);
    let _ = match kind {
        0..=2 => fs::create_dir_all(&path),
        3..=4 => fs::write(&path, format!("{}", numbers.below(3))),
        5 => fs::remove_file(&path),
        6 => fs::remove_dir_all(&path),
        7 => fs::rename(&path, &other),
        8 => fs::hard_link(&path, &other),
        9 => symlink(&other, &path),
        10 => lchown(&path, Some(numbers.below(3) as u32), None),
        _ => {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700 + numbers.below(8) as u32))
        }
    };
    // Times of a few values, whole seconds among them, so that contents are
    // compared too.
    if let (true, Ok(file)) = (kind > 4, File::open(&path)) {
        let nanos = [0, 0, 5][numbers.below(3) as usize];
        let _ = file.set_modified(UNIX_EPOCH + Duration::new(1000 + numbers.below(2), nanos));
    }
}

struct Layers {
    dir: tempfile::TempDir,
}

impl Layers {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0", "1", "2", "work", "merged", "below", "scratch"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The mounts of a snapshot of so many layers.
    fn mounts(&self, top: usize, writable: bool) -> Vec<Mount> {
        let layer = |index: usize| self.path(&index.to_string()).display().to_string();
        if top == 0 {
            let options = vec![if writable { "rw" } else { "ro" }.into(), "rbind".into()];
            return vec![mount("bind", &layer(0), options)];
        }
        let first = if writable { top } else { top + 1 };
        let lower: Vec<_> = (0..first).rev().map(layer).collect();
        let mut options = vec![format!("lowerdir={}", lower.join(":")), "index=off".into()];
        if writable {
            options.push(format!("upperdir={}", layer(top)));
            options.push(format!("workdir={}", self.path("work").display()));
        }
        vec![mount("overlay", "overlay", options)]
    }

    fn mounted<T>(&self, mounts: &[Mount], at: &str, work: impl FnOnce(&Path) -> T) -> T {
        let target = self.path(at);
        mount_all(mounts, &target).unwrap();
        let result = work(&target);
        unmount_all(&target, true).unwrap();
        result
    }

    fn by_worker(&self, lower: Vec<Mount>, upper: Vec<Mount>) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        let options = CompareOptions { compression: Compression::None, newest: None };
        let output = file.try_clone().unwrap().into();
        let program = Program {
            path: env!("CARGO_BIN_EXE_davit-unpack").into(),
            arguments: Vec::new(),
            scratch: self.path("scratch"),
        };
        Compare { output, lower, upper, options }.spawn(&program).unwrap().wait().unwrap();
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Both trees walked, in this process.
    fn by_walking(&self, lower: &[Mount], upper: &[Mount]) -> Vec<u8> {
        self.mounted(lower, "below", |below| {
            self.mounted(upper, "merged", |merged| {
                let mut layer = Vec::new();
                let options = CompareOptions { compression: Compression::None, newest: None };
                compare(below, merged, &mut layer, options).unwrap();
                layer
            })
        })
    }
}

fn mount(kind: &str, source: &str, options: Vec<String>) -> Mount {
    Mount { kind: kind.into(), source: source.into(), target: String::new(), options }
}

fn names(layer: &[u8]) -> Vec<String> {
    let mut reader = davit_diff::tar::Reader::new(layer);
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        names.push(String::from_utf8(entry.name).unwrap());
    }
    names
}

fn check(layers: &Layers, top: usize, context: &str) {
    let lower = layers.mounts(top - 1, false);
    let walked = layers.by_walking(&lower, &layers.mounts(top, true));
    for writable in [true, false] {
        let found = layers.by_worker(lower.clone(), layers.mounts(top, writable));
        assert!(found == walked, "{context}: {:?}, not {:?}", names(&found), names(&walked));
    }
}

#[test]
fn whatever_happens_in_an_overlay() {
    for seed in 1..=60 {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed) | 1);
        let layers = Layers::new();
        for top in 0..3 {
            layers.mounted(&layers.mounts(top, true), "merged", |merged| {
                for _ in 0..40 {
                    change(merged, &mut numbers);
                }
            });
            if top > 0 {
                check(&layers, top, &format!("seed {seed}, layer {top}"));
            }
        }
    }
}

#[test]
fn directories_that_were_made_anew_or_moved() {
    let layers = Layers::new();
    layers.mounted(&layers.mounts(0, true), "merged", |tree| {
        for name in ["anew/deep", "moved/deep", "gone/deep", "same/deep"] {
            fs::create_dir_all(tree.join(name)).unwrap();
            fs::write(tree.join(name).join("file"), "1").unwrap();
        }
        fs::write(tree.join("linked"), "1").unwrap();
        fs::hard_link(tree.join("linked"), tree.join("other")).unwrap();
    });
    let mut mounts = layers.mounts(1, true);
    mounts[0].options.push("redirect_dir=on".to_owned());
    layers.mounted(&mounts, "merged", |tree| {
        fs::remove_dir_all(tree.join("anew")).unwrap();
        fs::create_dir_all(tree.join("anew/deep")).unwrap();
        fs::rename(tree.join("moved"), tree.join("same/moved")).unwrap();
        fs::remove_dir_all(tree.join("gone")).unwrap();
        fs::write(tree.join("other"), "2").unwrap();
    });
    let marks = |name: &str, mark: &str| {
        let mark = format!("trusted.overlay.{mark}");
        rustix::fs::getxattr(layers.path("1").join(name), mark, &mut [0_u8; 64][..]).is_ok()
    };
    assert!(marks("anew", "opaque") && marks("same/moved", "redirect"));
    let lower = layers.mounts(0, false);
    let walked = layers.by_walking(&lower, &mounts);
    let found = layers.by_worker(lower, mounts);
    assert_eq!(names(&found), names(&walked));
    assert!(found == walked);
    let expected = ["anew/", "anew/deep/", "anew/deep/.wh.file", ".wh.gone", ".wh.moved", "other"];
    let names = names(&found);
    assert!(expected.iter().all(|name| names.contains(&(*name).to_owned())), "{names:?}");
}
