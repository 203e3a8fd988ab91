//! The hostile corpus: a table of archives that want out of their tree, want
//! to be read in two ways, or want to bring the reader down.
//!
//! Each is applied in four ways: here and by a worker, to a plain tree and to
//! an overlay's upper directory. Whatever comes of it, nothing outside the
//! tree may have been touched, which includes every time of change; and each
//! way must come to the same end.

#![allow(clippy::unwrap_used)]

mod attributes;
#[path = "../common/mod.rs"]
mod common;
mod headers;
mod names;
mod races;
mod sparse;
mod streams;
mod whiteouts;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use common::listing;
use davit_diff::worker::{Apply, Program};
use davit_diff::{ApplyOptions, Error, Limits, Processing, Whiteouts};
use davit_types::{ErrorKind, Kind, Mount};

/// How an archive ends.
pub(crate) enum Expect {
    /// An error that is about the archive and has these words in it.
    Refused(&'static [&'static str]),
    /// This is what the tree holds afterwards.
    Tree(&'static [&'static str]),
    /// Applied or refused; the surroundings are what matters.
    Either,
}

type Make = Box<dyn Fn(&Path) -> Vec<u8>>;

/// One archive, made with the path of the precious directory.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) archive: Make,
    pub(crate) expect: Expect,
}

pub(crate) fn case(
    name: &'static str,
    archive: impl Fn(&Path) -> Vec<u8> + 'static,
    expect: Expect,
) -> Case {
    Case { name, archive: Box::new(archive), expect }
}

/// Applies each archive in each way.
pub(crate) fn run(cases: &[Case]) {
    for case in cases {
        let [plain, upper, worker, overlay] =
            [Way::Plain, Way::Upper, Way::Worker, Way::WorkerOverlay].map(|way| run_one(case, way));
        let name = case.name;
        assert_eq!(plain, worker, "{name}: another end in a worker");
        assert_eq!(upper, overlay, "{name}: another end in a worker's overlay");
        // Deletions have marks there, and nothing else differs.
        assert_eq!(plain.is_ok(), upper.is_ok(), "{name}: another end on an overlay");
        if let (Err(plain), Err(upper)) = (plain, upper) {
            assert_eq!(plain, upper, "{name}: another error on an overlay");
        }
    }
}

/// Answers with what is in the tree afterwards, or the error.
fn run_one(case: &Case, way: Way) -> Result<Vec<String>, String> {
    let arena = Arena::new();
    let before = arena.surroundings();
    let result = arena.apply(&(case.archive)(&arena.outside()), way, Limits::default());
    let context = format!("{} ({way:?})", case.name);
    assert_eq!(arena.surroundings(), before, "{context}: something outside was touched");
    // Where this arena is shows in what is made of absolute names.
    let own = arena.path("").display().to_string();
    let place = |text: String| text.replace(own.trim_matches('/'), "ARENA");
    let end = match &result {
        Ok(()) => Ok(listing(&arena.tree()).into_iter().map(place).collect()),
        Err(error) => Err(place(error.full_message())),
    };
    match (&case.expect, result) {
        (Expect::Either, _) => {}
        (Expect::Tree(expected), Ok(())) => {
            assert_eq!(listing(&arena.tree()), *expected, "{context}")
        }
        (Expect::Refused(words), Err(error)) => {
            assert_eq!(error.kind(), ErrorKind::Unknown, "{context}: {error:?}");
            let message = error.full_message();
            for word in *words {
                assert!(message.contains(word), "{context}: {word:?} is not in {message:?}");
            }
        }
        (Expect::Tree(_), Err(error)) => panic!("{context}: {}", error.full_message()),
        (Expect::Refused(_), Ok(())) => panic!("{context}: {:?}", listing(&arena.tree())),
    }
    end
}

/// How an archive is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Plain,
    Upper,
    Worker,
    WorkerOverlay,
}

/// A tree, and what it must be kept from.
pub(crate) struct Arena(tempfile::TempDir);

impl Arena {
    pub(crate) fn new() -> Self {
        let arena = Self(tempfile::tempdir().unwrap());
        for name in ["tree", "lower", "work", "scratch", "outside/dir"] {
            fs::create_dir_all(arena.path(name)).unwrap();
        }
        let precious = arena.outside().join("precious");
        fs::write(&precious, "untouched").unwrap();
        fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(arena.outside().join("dir/file"), "untouched").unwrap();
        symlink("precious", arena.outside().join("link")).unwrap();
        arena
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    pub(crate) fn outside(&self) -> PathBuf {
        self.path("outside")
    }

    /// Everything that can be seen of what is outside the tree, and of the
    /// directory that it is in.
    pub(crate) fn surroundings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut pending = vec![self.0.path().to_owned()];
        while let Some(path) = pending.pop() {
            let meta = path.symlink_metadata().unwrap();
            // Overlayfs makes a directory of its own in its work directory.
            let work = path == self.path("work");
            if path != self.tree() && !work {
                let (mode, links) = (meta.mode(), meta.nlink());
                let changed = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
                let owner = (meta.uid(), meta.gid());
                let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                lines.push(format!("{path:?} {mode:o} {links} {owner:?} {changed:?} {content:?}"));
            }
            if meta.is_dir() && path != self.tree() && !work {
                pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        lines.sort();
        lines
    }

    pub(crate) fn apply(&self, archive: &[u8], way: Way, limits: Limits) -> Result<(), Error> {
        let whiteouts = match way {
            Way::Plain => Whiteouts::Remove,
            Way::Upper => Whiteouts::Overlay,
            Way::Worker | Way::WorkerOverlay => return self.by_worker(archive, way, limits),
        };
        let options = ApplyOptions { whiteouts, limits, ..ApplyOptions::default() };
        davit_diff::apply(archive, &self.tree(), &options).map(drop)
    }

    fn by_worker(&self, archive: &[u8], way: Way, limits: Limits) -> Result<(), Error> {
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(archive).unwrap();
        input.seek(SeekFrom::Start(0)).unwrap();
        let apply = Apply {
            input: input.into(),
            compressed: true,
            processing: Processing::default(),
            mounts: vec![self.mount(way)],
            lower_later: None,
            limits,
            sync: false,
        };
        let program = Program {
            path: env!("CARGO_BIN_EXE_davit-unpack").into(),
            arguments: Vec::new(),
            scratch: self.path("scratch"),
        };
        apply.spawn(&program)?.wait().map(drop)
    }

    fn mount(&self, way: Way) -> Mount {
        let (kind, options) = match way {
            Way::WorkerOverlay => (
                "overlay",
                vec![
                    format!("workdir={}", self.path("work").display()),
                    format!("upperdir={}", self.tree().display()),
                    format!("lowerdir={}", self.path("lower").display()),
                ],
            ),
            _ => ("bind", vec!["rbind".to_owned(), "rw".to_owned()]),
        };
        Mount {
            kind: kind.into(),
            source: self.tree().display().to_string(),
            target: String::new(),
            options,
        }
    }
}
