//! Somebody else moves directories and links about in the tree while it is
//! written.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::common::raw::{archive, entry};
use crate::common::{Archive, header};
use crate::{Arena, Way};
use davit_diff::Limits;
use davit_diff::tar::{EntryKind, Header};
use davit_types::Kind;

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
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (real, evil) = (path("swapped"), path("evil"));
            let done = &done;
            let swapper = scope.spawn(move || {
                let mut swaps = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    // The layer may have removed or remade either.
                    let swap = renameat_with(CWD, &real, CWD, &evil, RenameFlags::EXCHANGE);
                    swaps += u64::from(swap.is_ok());
                }
                swaps
            });
            let ends: Vec<_> =
                (0..5).map(|_| arena.apply(&layer, way, Limits::default())).collect();
            done.store(true, Ordering::Relaxed);
            assert!(swapper.join().unwrap() > 100, "hardly anything was moved");
            // It may fail, and then says at which entry; it must not reach out.
            for error in ends.into_iter().filter_map(Result::err) {
                let text = error.full_message();
                assert!(text.contains("entry \"swapped/"), "{way:?}: {text}");
            }
        });
        assert_eq!(arena.surroundings(), before, "{way:?}");
        // It was written to what was moved about.
        let inside = |name| arena.tree().join(name).join("made-0").exists();
        assert!(inside("swapped") || inside("evil"), "{way:?}: nothing was written");
    }
}
