//! Building archives, also such as no program would write.

#![allow(dead_code)]

pub mod raw;

use std::path::Path;
use std::process::Command;

use davit_diff::tar::{EntryKind, Header, Writer};
use davit_diff::{Applied, ApplyOptions, Error, Whiteouts};

/// An archive that is being made.
pub struct Archive(Writer<Vec<u8>>);

impl Archive {
    pub fn new() -> Self {
        Self(Writer::new(Vec::new()))
    }

    pub fn add(mut self, header: Header, data: &[u8]) -> Self {
        self.0.start(&Header { size: data.len() as u64, ..header }).unwrap();
        self.0.write(data).unwrap();
        self
    }

    pub fn file(self, name: &str, data: &str) -> Self {
        self.add(Header { mode: 0o644, ..header(name, EntryKind::File) }, data.as_bytes())
    }

    pub fn dir(self, name: &str) -> Self {
        self.add(Header { mode: 0o755, ..header(name, EntryKind::Directory) }, b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        let link_name = target.as_bytes().to_vec();
        self.add(Header { link_name, mode: 0o777, ..header(name, EntryKind::Symlink) }, b"")
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        let link_name = target.as_bytes().to_vec();
        self.add(Header { link_name, mode: 0o644, ..header(name, EntryKind::HardLink) }, b"")
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0.finish().unwrap()
    }
}

pub fn header(name: &str, kind: EntryKind) -> Header {
    Header { kind, mtime: 1_000_000_000, ..Header::empty(name.as_bytes().to_vec()) }
}

pub fn apply(archive: &[u8], root: &Path) -> Result<Applied, Error> {
    davit_diff::apply(archive, root, &ApplyOptions::default())
}

pub fn apply_to_overlay(archive: &[u8], root: &Path) -> Result<Applied, Error> {
    let options = ApplyOptions { whiteouts: Whiteouts::Overlay, ..ApplyOptions::default() };
    davit_diff::apply(archive, root, &options)
}

/// Everything in a tree: names, kinds, contents, links.
pub fn listing(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            found.push(if kind.is_symlink() {
                format!("{name} -> {}", path.read_link().unwrap().display())
            } else if kind.is_dir() {
                pending.push(path);
                format!("{name}/")
            } else if kind.is_file() {
                format!("{name}={}", std::fs::read_to_string(&path).unwrap_or_default())
            } else {
                format!("{name}?")
            });
        }
    }
    found.sort();
    found
}

/// Runs a program of the system, which must succeed.
pub fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    output.stdout
}
