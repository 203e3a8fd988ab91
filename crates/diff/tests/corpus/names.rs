//! Where an entry or a link is to be.

use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::Expect::{Either, Refused, Tree};
use crate::common::raw::{archive, entry, file, gnu, pax};
use crate::common::{Archive, header};
use crate::{Arena, Case, Way, case, common, run};
use davit_diff::Limits;
use davit_diff::tar::{EntryKind, Header};

fn at(outside: &Path, name: &str) -> String {
    outside.join(name).to_str().unwrap().to_owned()
}

#[test]
fn names() {
    let pax_path =
        |path: &'static [u8]| move |_: &Path| archive(&[pax(&[("path", path)]), file("x", "x")]);
    run(&[
        case("parent", |_| archive(&[file("../x", "x")]), Refused(&["entry \"../x\""])),
        case("parent behind", |_| archive(&[file("a/../../x", "")]), Refused(&["a/../../x"])),
        case("absolute parent", |_| archive(&[file("/../x", "x")]), Refused(&["entry \"/../x\""])),
        case("nothing but parent", |_| archive(&[file("..", "x")]), Refused(&["entry \"..\""])),
        case("PAX parent", pax_path(b"../outside/new"), Refused(&["entry \"../outside/new\""])),
        case(
            "long name parent",
            |_| {
                let long = entry("././@LongLink", b'L', b"../outside/new\0", gnu);
                archive(&[long, file("x", "x")])
            },
            Refused(&["entry \"../outside/new\""]),
        ),
        case(
            "sparse name parent",
            |_| {
                let records: [(&str, &[u8]); 5] = [
                    ("GNU.sparse.numblocks", b"0"),
                    ("GNU.sparse.major", b"0"),
                    ("GNU.sparse.minor", b"1"),
                    ("GNU.sparse.name", b"../outside/new"),
                    ("GNU.sparse.size", b"0"),
                ];
                archive(&[pax(&records), file("x", "")])
            },
            Refused(&["entry \"../outside/new\""]),
        ),
        case(
            "ustar prefix parent",
            |_| {
                archive(&[entry("x", b'0', b"", |block| {
                    block[345..355].copy_from_slice(b"../outside")
                })])
            },
            Refused(&["entry \"../outside/x\""]),
        ),
        case("absolute", |_| archive(&[file("/a/x", "1")]), Tree(&["a/", "a/x=1"])),
        case("absolute twice", |_| archive(&[file("//x", "1")]), Tree(&["x=1"])),
        case("back inside", |_| archive(&[file("a/../x", "1")]), Tree(&["x=1"])),
        case(
            "the top itself",
            |_| archive(&[file("./", "1"), file(".", "2"), file("/", "3")]),
            Tree(&[]),
        ),
        case("no name", |_| archive(&[file("", "1")]), Tree(&[])),
        case("zero in PAX", pax_path(b"a\0b"), Refused(&["invalid PAX records"])),
        case("line feed", pax_path(b"a\nb"), Tree(&["a\nb=x"])),
        case("control characters", pax_path(b"\x1b[2J\x07"), Tree(&["\x1b[2J\x07=x"])),
        case("file with a slash behind", |_| archive(&[file("x/", "1")]), Tree(&["x=1"])),
        case(
            "255 bytes",
            |_| Archive::new().file(&"x".repeat(256), "").bytes(),
            Refused(&["File name too long", "entry \"xxx"]),
        ),
        case(
            "a megabyte",
            |_| archive(&[entry("long", b'L', &vec![b'a'; 2 << 20], gnu), file("x", "")]),
            Refused(&["header field too long at byte"]),
        ),
    ]);
}

/// Levels that one name leads down.
const STEP: usize = 1000;

#[test]
fn ten_thousand_levels() {
    let one = |_: &Path| Archive::new().file(&("d/".repeat(10 * STEP) + "x"), "").bytes();
    run(&[case("one name", one, Refused(&["File name too long", "entry \"d/d/"]))]);
    // No single name can say where that is; links can.
    let steps = "d/".repeat(STEP);
    let mut archive = Archive::new();
    for index in 0..10 {
        let base = if index == 0 { String::new() } else { format!("link{}/", index - 1) };
        archive = archive.file(&format!("{base}{steps}file"), "");
        archive = archive.symlink(&format!("link{index}"), &format!("/{base}{steps}"));
    }
    let arena = Arena::new();
    let before = arena.surroundings();
    // Not by a worker: Landlock looks at every directory above, every time.
    arena.apply(&archive.bytes(), Way::Plain, Limits::default()).unwrap();
    let mut dir = rustix::fs::open(arena.tree(), OFlags::PATH, Mode::empty()).unwrap();
    let mut depth = 0;
    while let Ok(below) = rustix::fs::openat(&dir, "d", OFlags::PATH, Mode::empty()) {
        dir = below;
        depth += 1;
    }
    assert_eq!(depth, 10 * STEP);
    // Deleting it may fail, but it ends, and it stays inside.
    let whiteout = Archive::new().file(".wh.d", "").bytes();
    let _ = arena.apply(&whiteout, Way::Plain, Limits::default());
    assert_eq!(arena.surroundings(), before);
    // The standard library could not.
    common::run("rm", &["-rf", arena.tree().to_str().unwrap()]);
}

fn link(name: &str, target: &str) -> Vec<u8> {
    pieces(Archive::new().symlink(name, target))
}

/// Without the end marks.
fn pieces(archive: Archive) -> Vec<u8> {
    let mut bytes = archive.bytes();
    bytes.truncate(bytes.len() - 1024);
    bytes
}

/// What is done by way of a link, wherever it leads.
fn through(way: &'static str, make: impl Fn(&Path) -> Vec<u8> + Clone + 'static) -> Vec<Case> {
    let then = |more: fn() -> Vec<u8>, expect| {
        let make = make.clone();
        case(way, move |outside: &Path| archive(&[make(outside), more()]), expect)
    };
    let evil = |kind| Header { mode: 0o4777, uid: 1234, gid: 1234, ..header("link", kind) };
    vec![
        then(|| file("link/precious", "overwritten"), Either),
        then(|| file("link/dir/new", "x"), Either),
        then(|| file("link/.wh.precious", ""), Either),
        then(|| file("link/.wh..wh..opq", ""), Either),
        then(|| file("link", "in its place"), Either),
        then(|| entry("link", b'5', b"", |_| {}), Either),
        then(|| entry("link/", b'5', b"", |_| {}), Either),
        then(
            || entry("link/dir/", b'5', b"", |block| block[100..108].copy_from_slice(b"0000777\0")),
            Either,
        ),
        then(|| entry("link/dev", b'3', b"", |_| {}), Either),
        then(|| pieces(Archive::new().hard_link("link/hard", "link/precious")), Either),
        then(
            || pieces(Archive::new().hard_link("hard", "link/precious")),
            Refused(&["entry \"hard\""]),
        ),
        // A hard link to the link, with a mode: what chmod follows
        // (CVE-2021-32760).
        {
            let make = make.clone();
            case(
                way,
                move |outside: &Path| {
                    let hard = Header {
                        name: b"hard".to_vec(),
                        link_name: b"link".to_vec(),
                        xattrs: vec![("user.x".into(), b"y".to_vec())],
                        ..evil(EntryKind::HardLink)
                    };
                    archive(&[make(outside), pieces(Archive::new().add(hard, b""))])
                },
                Either,
            )
        },
    ]
}

#[test]
fn symbolic_links() {
    run(&through("absolute link", |outside| link("link", outside.to_str().unwrap())));
    run(&through("relative link", |_| link("link", "../outside")));
    run(&through("many parents", |outside| {
        link("link", &format!("{}{}", "../".repeat(40), outside.display()))
    }));
    run(&through("link to a link", |_| {
        [link("other", "../outside"), link("link", "other")].concat()
    }));
    run(&through("by a directory", |_| {
        [pieces(Archive::new().dir("d")), link("d/up", "../.."), link("link", "d/up/outside")]
            .concat()
    }));
    run(&through("by the top", |outside| {
        [link("top", "/"), link("link", &format!("top/{}", outside.display()))].concat()
    }));
    run(&through("by proc", |outside| {
        link("link", &format!("/proc/self/root{}", outside.display()))
    }));
    // A directory first, which then becomes a link (CVE-2018-15664 and its
    // kind without a race).
    run(&through("swapped", |outside| {
        let dir = pieces(Archive::new().dir("link").file("link/old", "1"));
        [dir, link("link", outside.to_str().unwrap())].concat()
    }));
    run(&[
        case(
            "round and round",
            |_| archive(&[link("a", "b"), link("b", "a"), file("a/x", "")]),
            Refused(&["entry \"a/x\"", "Too many levels of symbolic links"]),
        ),
        case(
            "to itself",
            |_| archive(&[link("a", "a"), file("a/x", "")]),
            Refused(&["entry \"a/x\""]),
        ),
        case("to nothing", |_| archive(&[link("a", "")]), Refused(&["entry \"a\"", "symlink"])),
        case("too long", |_| archive(&[link("a", &"x".repeat(5000))]), Refused(&["entry \"a\""])),
        case(
            "zero in PAX",
            |_| archive(&[pax(&[("linkpath", b"a\0b")]), entry("a", b'2', b"", |_| {})]),
            Refused(&["invalid PAX records"]),
        ),
        case(
            "dangling",
            |_| archive(&[link("a", "b/c"), file("a/x", "1")]),
            Tree(&["a -> b/c", "b/", "b/c/", "b/c/x=1"]),
        ),
    ]);
}

#[test]
fn hard_links() {
    let to = |target: fn(&Path) -> String| {
        move |outside: &Path| Archive::new().hard_link("stolen", &target(outside)).bytes()
    };
    let refused = || Refused(&["entry \"stolen\""]);
    run(&[
        case("relative", to(|_| "../outside/precious".into()), refused()),
        case("behind a directory", to(|_| "a/../../outside/precious".into()), refused()),
        case("absolute parent", to(|_| "/../outside/precious".into()), refused()),
        case("absolute", to(|outside| at(outside, "precious")), refused()),
        case("parent", to(|_| "..".into()), refused()),
        case("top", to(|_| "/".into()), refused()),
        case("nothing", to(|_| String::new()), refused()),
        case("itself", to(|_| "stolen".into()), refused()),
        case(
            "what comes later",
            |_| Archive::new().hard_link("stolen", "x").file("x", "").bytes(),
            refused(),
        ),
        case(
            "a directory",
            |_| Archive::new().dir("d").hard_link("stolen", "d").bytes(),
            refused(),
        ),
        case(
            "through a link",
            |_| Archive::new().symlink("l", "../outside").hard_link("stolen", "l/precious").bytes(),
            refused(),
        ),
        case(
            "PAX target",
            |_| {
                archive(&[
                    pax(&[("linkpath", b"../outside/precious")]),
                    entry("stolen", b'1', b"", |_| {}),
                ])
            },
            refused(),
        ),
        // What a link claims as its size is not there.
        case(
            "with a size",
            |_| {
                let link = entry("b", b'1', b"", |block| {
                    block[157] = b'a';
                    block[124..136].copy_from_slice(b"00000001000\0");
                });
                archive(&[file("a", "1"), link, file("c", "2")])
            },
            Tree(&["a=1", "b=1", "c=2"]),
        ),
        case(
            "written through",
            |_| Archive::new().file("a", "1").hard_link("b", "a").file("b", "2").bytes(),
            Tree(&["a=1", "b=2"]),
        ),
    ]);
}

#[test]
fn entries_that_change_what_they_are() {
    let kinds: [fn(Archive) -> Archive; 5] = [
        |archive| archive.file("x", "1"),
        |archive| archive.dir("x"),
        |archive| archive.symlink("x", "/y"),
        |archive| archive.add(header("x", EntryKind::Fifo), b""),
        |archive| archive.file("y", "2").hard_link("x", "y"),
    ];
    for (first, make) in kinds.iter().enumerate() {
        for (second, remake) in kinds.iter().enumerate() {
            let (make, remake) = (*make, *remake);
            let tree: &[&str] = match second {
                0 => &["x=1"],
                1 => &["x/"],
                2 => &["x -> /y"],
                3 => &["x?"],
                _ => &["x=2", "y=2"],
            };
            let with_y = first == 4 && second != 4;
            let expect = match (with_y, second) {
                (false, _) => Tree(tree),
                (true, 0) => Tree(&["x=1", "y=2"]),
                (true, 1) => Tree(&["x/", "y=2"]),
                (true, 2) => Tree(&["x -> /y", "y=2"]),
                (true, _) => Tree(&["x?", "y=2"]),
            };
            run(&[case("change", move |_| remake(make(Archive::new())).bytes(), expect)]);
        }
    }
    run(&[
        case(
            "a directory that is not empty",
            |_| Archive::new().file("d/e/f", "1").file("d", "2").file("d/g", "3").bytes(),
            Refused(&["entry \"d/g\"", "Not a directory"]),
        ),
        case("twice", |_| Archive::new().file("x", "long").file("x", "1").bytes(), Tree(&["x=1"])),
    ]);
}
