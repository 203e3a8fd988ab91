//! Deletions, and names that look like some.

use std::fs;
use std::os::unix::fs::symlink;

use crate::Expect::{Either, Refused};
use crate::common::raw::{archive, entry, file, pax};
use crate::common::{Archive, listing};
use crate::{Arena, Way, case, run};
use davit_diff::Limits;

#[test]
fn whiteouts_of_what_must_stay() {
    for name in [".wh.", ".wh..", ".wh...", "dir/.wh.", "dir/.wh..", "dir/.wh...", "dir/x/.wh..."] {
        run(&[case(
            name,
            move |_| archive(&[file("dir/x/y", ""), file(name, "")]),
            Refused(&["invalid whiteout name", "entry \""]),
        )]);
    }
    run(&[
        case(
            "above",
            |_| archive(&[file("../.wh.outside", "")]),
            Refused(&["entry \"../.wh.outside\""]),
        ),
        case("above, opaque", |_| archive(&[file("../.wh..wh..opq", "")]), Refused(&["entry"])),
        case(
            "by PAX",
            |_| archive(&[pax(&[("path", b"../outside/.wh.precious")]), file("x", "")]),
            Refused(&["entry \"../outside/.wh.precious\""]),
        ),
        case(
            "with a slash",
            |_| archive(&[pax(&[("path", b".wh.a/../../x")]), file("x", "")]),
            Either,
        ),
        case("opaque top", |_| archive(&[file("x", ""), file(".wh..wh..opq", "")]), Either),
        // What AUFS kept for itself.
        case(
            "links of AUFS",
            |_| archive(&[file(".wh..wh.plnk/1.2", ""), file(".wh..wh.aufs", "")]),
            Either,
        ),
        case("of nothing", |_| archive(&[file(".wh.none", ""), file("a/b/.wh.none", "")]), Either),
        case("directory", |_| archive(&[entry(".wh.x/", b'5', b"", |_| {})]), Either),
        case(
            "hard link",
            |_| Archive::new().hard_link(".wh.x", "../outside/precious").bytes(),
            Either,
        ),
        case("symbolic link", |_| Archive::new().symlink(".wh.x", "../outside").bytes(), Either),
    ]);
}

/// What lies below in a tree that all layers share.
fn with_lower(arena: &Arena) {
    let bytes = Archive::new()
        .file("dir/old", "1")
        .file("dir/deep/old", "1")
        .file("dir/kept/old", "1")
        .file("gone", "1")
        .bytes();
    arena.apply(&bytes, Way::Plain, Limits::default()).unwrap();
    symlink(arena.outside(), arena.tree().join("link")).unwrap();
}

#[test]
fn deletions_do_not_leave_the_tree() {
    for way in [Way::Plain, Way::Worker] {
        let arena = Arena::new();
        with_lower(&arena);
        let before = arena.surroundings();
        let bytes = Archive::new()
            .file("link/.wh.precious", "")
            .file("link/dir/.wh..wh..opq", "")
            .file(".wh.link", "")
            .file(".wh.gone", "")
            .bytes();
        arena.apply(&bytes, way, Limits::default()).unwrap();
        assert_eq!(arena.surroundings(), before, "{way:?}");
        let left = listing(&arena.tree());
        assert!(!left.iter().any(|name| name.starts_with("link") || name.starts_with("gone")));
    }
}

#[test]
fn deletions_are_about_the_layers_below_wherever_they_stand() {
    let whiteouts = [".wh.gone", "dir/.wh..wh..opq"];
    let new = ["gone/new", "dir/new", "dir/kept/new"];
    for order in [[&whiteouts[..], &new[..]].concat(), [&new[..], &whiteouts[..]].concat()] {
        for way in [Way::Plain, Way::Worker] {
            let arena = Arena::new();
            with_lower(&arena);
            fs::remove_file(arena.tree().join("link")).unwrap();
            fs::remove_file(arena.tree().join("gone")).unwrap();
            fs::create_dir(arena.tree().join("gone")).unwrap();
            fs::write(arena.tree().join("gone/old"), "1").unwrap();
            let mut archive = Archive::new().dir("gone").dir("dir").dir("dir/kept");
            for name in &order {
                archive = archive.file(name, "2");
            }
            arena.apply(&archive.bytes(), way, Limits::default()).unwrap();
            let expected =
                ["dir/", "dir/kept/", "dir/kept/new=2", "dir/new=2", "gone/", "gone/new=2"];
            assert_eq!(listing(&arena.tree()), expected, "{way:?} {order:?}");
        }
    }
}
