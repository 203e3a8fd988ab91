//! Archives that want out of their tree, or want to bring the reader down.
//! Each is applied both to a plain tree and to an overlay's upper directory.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use common::{Archive, apply, apply_to_overlay, header, listing, raw};
use davit_diff::tar::{EntryKind, Header, Reader};
use davit_diff::{ApplyOptions, Error, Limits};
use davit_types::{ErrorKind, Kind};

/// A directory with something precious beside the tree, and links out of the
/// tree to it.
fn arena(dir: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let (root, outside) = (dir.join("root"), dir.join("outside"));
    fs::create_dir_all(&root).unwrap();
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("precious"), "untouched").unwrap();
    (root, outside)
}

fn assert_untouched(outside: &Path, case: &str) {
    assert_eq!(listing(outside), ["precious=untouched"], "{case}");
    let meta = fs::metadata(outside.join("precious")).unwrap();
    assert_eq!((meta.nlink(), meta.uid()), (1, 0), "{case}");
}

/// Applies both ways, each in an arena of its own; the results.
fn both(case: &str, archive: &dyn Fn(&Path) -> Vec<u8>) -> Vec<(Result<(), Error>, Vec<String>)> {
    [apply as fn(&[u8], &Path) -> _, apply_to_overlay]
        .into_iter()
        .map(|apply| {
            let dir = tempfile::tempdir().unwrap();
            let (root, outside) = arena(dir.path());
            let result = apply(&archive(&outside), &root).map(drop);
            assert_untouched(&outside, case);
            (result, listing(&root))
        })
        .collect()
}

fn refused(case: &str, entry: &str, archive: &dyn Fn(&Path) -> Vec<u8>) {
    for (result, _) in both(case, archive) {
        let error = result.expect_err(case);
        assert_eq!(error.kind(), ErrorKind::Unknown, "{case}: {error}");
        let message = error.full_message();
        assert!(message.contains(&format!("entry {entry:?}")), "{case}: {message}");
    }
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../x", "../../outside/x", "a/../../x", "/../x", "..", "./..", "a/b/../../../x"] {
        refused(name, name, &|_| Archive::new().file(name, "x").bytes());
        refused(name, name, &|_| Archive::new().dir(name).bytes());
        refused(name, name, &|_| Archive::new().symlink(name, "x").bytes());
    }
}

#[test]
fn absolute_names_are_taken_relative_to_the_tree() {
    let case = "absolute";
    for (result, found) in both(case, &|_| {
        Archive::new().file("/etc/passwd", "x").file("a/../b", "y").file("//c", "z").bytes()
    }) {
        result.unwrap();
        assert_eq!(found, ["b=y", "c=z", "etc/", "etc/passwd=x"]);
    }
}

#[test]
fn links_lead_nowhere_out_of_the_tree() {
    let outside = |outside: &Path| outside.to_str().unwrap().to_owned();
    // Absolute, relative, through a second one, and by way of `..`.
    type Case<'a> = (&'a str, &'a dyn Fn(&Path) -> Archive);
    let links: [Case<'_>; 5] = [
        ("absolute", &|out| Archive::new().symlink("link", &outside(out))),
        ("relative", &|_| Archive::new().symlink("link", "../outside")),
        ("twice", &|_| Archive::new().symlink("b", "../outside").symlink("link", "b")),
        ("deep", &|_| {
            Archive::new().dir("d").symlink("d/up", "../..").symlink("link", "d/up/outside")
        }),
        ("root", &|out| {
            Archive::new().symlink("r", "/").symlink("link", &format!("r/{}", outside(out)))
        }),
    ];
    for (case, link) in links {
        // In the tree, the link's target is another place, which is made.
        for (result, found) in both(case, &|out| {
            link(out)
                .file("link/precious", "overwritten")
                .dir("link/dir")
                .file("link/.wh.precious2", "")
                .bytes()
        }) {
            result.unwrap_or_else(|error| panic!("{case}: {error:?}"));
            let inside = found.iter().any(|name| name.ends_with("precious=overwritten"));
            assert!(inside, "{case}: {found:?}");
        }
        // A file takes the link's place; it is not written through it.
        for (result, found) in both(case, &|out| link(out).file("link", "x").bytes()) {
            result.unwrap();
            assert!(found.contains(&"link=x".to_owned()), "{case}: {found:?}");
        }
        // Opaque markers and whiteouts touch nothing outside either.
        for (result, _) in both(case, &|out| {
            link(out).file("link/.wh..wh..opq", "").file("link/.wh.precious", "").bytes()
        }) {
            result.unwrap();
        }
        // Owner and mode of a link's target stay.
        for (result, _) in both(case, &|out| {
            let mut evil = header("link", EntryKind::Symlink);
            evil.link_name = outside(out).into_bytes();
            (evil.uid, evil.gid, evil.mode) = (1234, 1234, 0o4777);
            link(out).add(evil, b"").bytes()
        }) {
            result.unwrap();
        }
    }
}

#[test]
fn links_that_were_in_the_tree_before_lead_nowhere_either() {
    for apply in [apply as fn(&[u8], &Path) -> _, apply_to_overlay] {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = arena(dir.path());
        symlink(&outside, root.join("link")).unwrap();
        let archive = Archive::new()
            .file("link/new", "x")
            .file("link/.wh.precious", "")
            .hard_link("stolen", "link/new")
            .bytes();
        apply(&archive, &root).unwrap();
        assert_untouched(&outside, "a link from before");
        assert_eq!(fs::read_to_string(root.join("stolen")).unwrap(), "x");
    }
}

#[test]
fn hard_links_out_of_the_tree_are_refused() {
    for target in ["../outside/precious", "a/../../outside/precious", "..", "/../outside/precious"]
    {
        refused(target, "stolen", &|_| Archive::new().hard_link("stolen", target).bytes());
    }
    let absolute = |out: &Path| out.join("precious").to_str().unwrap().to_owned();
    refused("absolute", "stolen", &|out| {
        Archive::new().hard_link("stolen", &absolute(out)).bytes()
    });
    refused("through a link", "stolen", &|_| {
        Archive::new().symlink("link", "../outside").hard_link("stolen", "link/precious").bytes()
    });
    refused("the root itself", "stolen", &|_| Archive::new().hard_link("stolen", "/").bytes());
    refused("a directory", "stolen", &|_| Archive::new().dir("d").hard_link("stolen", "d").bytes());
    refused("nothing", "stolen", &|_| Archive::new().hard_link("stolen", "none").bytes());
}

#[test]
fn a_hard_link_to_a_link_links_the_link() {
    for (result, found) in both("link", &|out| {
        Archive::new()
            .symlink("link", out.join("precious").to_str().unwrap())
            .hard_link("same", "link")
            .file("same", "replaced")
            .bytes()
    }) {
        result.unwrap();
        assert!(found.contains(&"same=replaced".to_owned()), "{found:?}");
    }
}

#[test]
fn attributes_of_overlays_are_refused() {
    for name in ["trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.metacopy"] {
        refused(name, "dir", &|_| {
            let mut evil = header("dir", EntryKind::Directory);
            evil.xattrs = vec![(name.to_owned(), b"y".to_vec())];
            Archive::new().add(evil, b"").bytes()
        });
    }
}

#[test]
fn owners_out_of_range_are_refused() {
    refused("all ones", "file", &|_| {
        Archive::new().add(Header { uid: u32::MAX, ..header("file", EntryKind::File) }, b"").bytes()
    });
    for owner in ["-1", "4294967296"] {
        refused(owner, "file", &|_| {
            let record = |text: String| format!("{} {text}\n", text.len() + 4);
            let pax = record(format!("gid={owner}"));
            Archive::new()
                .add(header("pax", EntryKind::Other(b'x')), pax.as_bytes())
                .file("file", "x")
                .bytes()
        });
    }
}

#[test]
fn whiteouts_of_the_directory_itself_are_refused() {
    for name in ["dir/.wh.", "dir/.wh..", "dir/.wh...", ".wh.."] {
        refused(name, name, &|_| Archive::new().dir("dir").file(name, "").bytes());
    }
}

#[test]
fn what_nobody_knows_is_refused() {
    for flag in [b'7', b'D', b'V', b'M', b'A', 0xff] {
        let case = format!("type {flag}");
        refused(&case, "odd", &|_| {
            Archive::new().add(header("odd", EntryKind::Other(flag)), b"data").bytes()
        });
    }
}

#[test]
fn names_that_cannot_be_are_refused() {
    let long = "x".repeat(256);
    refused("long component", &long, &|_| Archive::new().file(&long, "x").bytes());
    let deep = "d/".repeat(5000) + "x";
    // However deep, the tree is made without recursion or left.
    for (result, _) in both("deep", &|_| Archive::new().file(&deep, "x").bytes()) {
        let error = result.expect_err("a path longer than any program could open");
        assert!(error.full_message().contains("entry"), "{error}");
    }
}

#[test]
fn entries_that_replace_each_other() {
    let archive = Archive::new()
        .file("a", "1")
        .dir("a")
        .file("a/b", "2")
        .symlink("a", "/etc")
        .file("a", "3")
        .hard_link("a", "a")
        .hard_link("c", "a")
        .file("c", "4")
        .dir("d")
        .file("d/e", "5")
        .hard_link("d", "a")
        .bytes();
    for (result, found) in both("replaced", &|_| archive.clone()) {
        result.unwrap();
        assert_eq!(found, ["a=3", "c=4", "d=3"]);
    }
}

#[test]
fn a_directory_that_was_replaced_is_not_written_to() {
    // The second entry of "d/" must not go to the directory kept open.
    let archive = Archive::new()
        .dir("d")
        .file("d/one", "1")
        .symlink("d", "e")
        .dir("e")
        .file("d/two", "2")
        .bytes();
    for (result, found) in both("replaced", &|_| archive.clone()) {
        result.unwrap();
        assert_eq!(found, ["d -> e", "e/", "e/two=2"]);
    }
}

#[test]
fn damaged_streams_are_errors() {
    let good = Archive::new().file("dir/file", &"x".repeat(2000)).bytes();
    let dir = tempfile::tempdir().unwrap();
    for cut in [1, 100, 511, 513, 1000, 2500] {
        let error = apply(&good[..cut], dir.path()).unwrap_err();
        assert!(error.full_message().contains("unexpected EOF"), "{cut}: {error:?}");
    }
    let mut wrong = good.clone();
    wrong[0] ^= 1;
    let error = apply(&wrong, dir.path()).unwrap_err();
    assert_eq!(error.full_message(), "read layer: archive/tar: invalid tar header at byte 0");
    let mut gzip = common::run("sh", &["-c", "head -c 300000 /dev/urandom | gzip -n"]);
    assert!(matches!(apply(&gzip, dir.path()), Err(Error::Archive(_))));
    gzip.truncate(1000);
    let error = apply(&gzip, dir.path()).unwrap_err();
    assert!(matches!(error, Error::Archive(_) | Error::Decompress(_)), "{error:?}");
    let error = apply(b"\x28\xb5\x2f\xfdgarbage", dir.path()).unwrap_err();
    assert!(matches!(error, Error::Decompress(_)), "{error:?}");
}

#[test]
fn a_stream_that_breaks_behind_the_archive_is_an_error() {
    let mut gzip = {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&Archive::new().file("file", "x").bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let length = gzip.len();
    gzip[length - 6] ^= 1;
    let dir = tempfile::tempdir().unwrap();
    let error = apply(&gzip, dir.path()).unwrap_err();
    assert!(matches!(error, Error::Decompress(_)), "a wrong checksum passed: {error:?}");
}

#[test]
fn limits_hold() {
    let zeros = common::run("sh", &["-c", "head -c 100000000 /dev/zero | gzip -9n"]);
    let limits = |limits| ApplyOptions { limits, ..ApplyOptions::default() };
    let dir = tempfile::tempdir().unwrap();
    for (what, limit) in [
        ("uncompressed bytes", Limits { uncompressed_bytes: 1 << 20, ..Limits::default() }),
        (
            "bytes out of one compressed byte",
            Limits { ratio: 100, ratio_from: 16 << 20, ..Limits::default() },
        ),
    ] {
        // A bomb behind the archive's end, where nobody looks.
        let archive = Archive::new().file("file", "x").bytes();
        for bomb in [zeros.clone(), [gzip(&archive), zeros.clone()].concat()] {
            let error = davit_diff::apply(&bomb[..], dir.path(), &limits(limit)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error:?}");
            assert!(error.to_string().contains(what), "{error}");
        }
    }
    let many = (0..20).fold(Archive::new(), |archive, n| archive.file(&n.to_string(), ""));
    let limit = Limits { entries: 19, ..Limits::default() };
    let error = davit_diff::apply(&many.bytes()[..], dir.path(), &limits(limit)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
}

fn gzip(data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn huge_headers_cost_no_memory() {
    for flag in [b'x', b'L', b'K', b'g'] {
        let mut block = vec![0; 512];
        let archive = Archive::new()
            .add(Header { kind: EntryKind::Other(flag), ..header("x", EntryKind::File) }, b"")
            .bytes();
        block.copy_from_slice(&archive[..512]);
        // A size that no header field in octal holds: base 256.
        block[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let error = Reader::new(&block[..]).next_entry().unwrap_err();
        assert!(error.to_string().contains("header field too long"), "{error}");
    }
}

/// Headers as large as they may be, full of the smallest records.
#[test]
#[ignore = "run by the next one, with a limit"]
fn read_many_records() {
    let attributes = |n: usize| raw::record(&format!("SCHILY.xattr.{n}"), b"");
    let pieces = |n: usize| raw::record(["GNU.sparse.offset", "GNU.sparse.numbytes"][n % 2], b"0");
    let headers = [
        (0..30_000).map(attributes).collect::<Vec<_>>(),
        (0..30_000).map(pieces).chain([raw::record("GNU.sparse.numblocks", b"15000")]).collect(),
    ];
    for records in headers.map(|records| raw::entry("pax", b'x', &records.concat(), |_| {})) {
        let piece = [records, raw::file("file", "")].concat();
        let archive = raw::archive(&vec![piece; 10]);
        let mut reader = Reader::new(&archive[..]);
        let mut count = 0;
        while reader.next_entry().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, 10);
    }
}

#[test]
fn records_cost_no_more_than_they_are_long() {
    // Seconds of the processor; comparing each with each takes minutes.
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    common::run("prlimit", &["--cpu=30", program, "--ignored", "--exact", "read_many_records"]);
}

#[test]
fn noise_never_panics() {
    let base = Archive::new()
        .file(&"n".repeat(200), "data")
        .symlink("link", &"t".repeat(200))
        .dir("dir")
        .bytes();
    // A small generator of our own: the same noise every time.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let mut bytes = base.clone();
        for _ in 0..1 + next() % 8 {
            let at = next() as usize % bytes.len();
            bytes[at] = next() as u8;
        }
        let fix = next() % 2 == 0;
        for block in bytes.chunks_exact_mut(512).filter(|_| fix) {
            // With a checksum that fits, the noise gets further.
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let mut reader = Reader::new(&bytes[..]);
        while let Ok(Some(_)) = reader.next_entry() {}
    }
}
