//! Somebody else moves directories and links about in the tree while it is
//! written.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::common::raw::{archive, entry};
use crate::common::{Archive, header};
use crate::{Arena, Way};
use davit_diff::Limits;
use davit_diff::tar::{EntryKind, Header};
use davit_types::Kind;

/// How long it may take until all that is to happen has happened.
const PATIENCE: Duration = Duration::from_secs(60);

/// Entries that are made, replaced, linked and removed below what is swapped.
fn layer() -> Vec<u8> {
    let owner = |name: &str, kind| Header { mode: 0o4777, uid: 99, gid: 99, ..header(name, kind) };
    let mut pieces = Archive::new();
    for round in 0..200 {
        let name = |rest: &str| format!("swapped/{rest}");
        pieces = pieces
            .file(&name("precious"), "overwritten")
            .add(owner(&name("dir"), EntryKind::Directory), b"")
            .add(owner(&name("dir/file"), EntryKind::File), b"overwritten")
            .file(&format!("swapped/made-{round}/below/file"), "x")
            .symlink(&name("link"), "elsewhere")
            .file(&name(".wh.precious"), "")
            .file(&name("dir/.wh..wh..opq"), "")
            .dir(&format!("swapped/made-{round}"));
        if round % 10 == 0 {
            // Another directory in between, so that none is kept open.
            pieces = pieces.file("elsewhere/file", "x");
        }
    }
    let mut bytes = pieces.bytes();
    bytes.truncate(bytes.len() - 1024);
    archive(&[bytes, entry("end", b'0', b"", |_| {})])
}

#[test]
fn directories_that_become_links_and_back() {
    let layer = layer();
    for way in [Way::Plain, Way::Upper, Way::Worker] {
        let arena = Arena::new();
        let path =
            |name: &str| CString::new(arena.tree().join(name).as_os_str().as_bytes()).unwrap();
        std::fs::create_dir(arena.tree().join("swapped")).unwrap();
        symlink(arena.outside(), arena.tree().join("evil")).unwrap();
        let before = arena.surroundings();
        // Any one application may end at its first entry.
        let written = || {
            let made = |name| arena.tree().join(name).join("made-0").exists();
            made("swapped") || made("evil")
        };
        let (done, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let (real, evil) = (path("swapped"), path("evil"));
            let (done, swaps) = (&done, &swaps);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    // The layer may have removed or remade either.
                    let swap = renameat_with(CWD, &real, CWD, &evil, RenameFlags::EXCHANGE);
                    swaps.fetch_add(u64::from(swap.is_ok()), Ordering::Relaxed);
                }
            });
            let met = || swaps.load(Ordering::Relaxed) > 100 && written();
            let (begun, mut ends) = (Instant::now(), Vec::new());
            while ends.len() < 5 || (!met() && begun.elapsed() < PATIENCE) {
                ends.push(arena.apply(&layer, way, Limits::default()));
            }
            done.store(true, Ordering::Relaxed);
            // It may fail, and then says at which entry; it must not reach out.
            for error in ends.into_iter().filter_map(Result::err) {
                let text = error.full_message();
                assert!(text.contains("entry \"swapped/"), "{way:?}: {text}");
            }
        });
        assert_eq!(arena.surroundings(), before, "{way:?}");
        assert!(swaps.into_inner() > 100, "{way:?}: hardly anything was moved");
        assert!(written(), "{way:?}: nothing was written to what was moved about");
    }
}
