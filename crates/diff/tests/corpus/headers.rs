//! Headers that say two things, and numbers that are none.

use std::path::Path;

use crate::Expect::{Refused, Tree};
use crate::common::raw::{archive, entry, file, gnu, octal, pax, record};
use crate::{case, run};

/// A file in the archive that looks like an archive, padded to blocks.
fn nested() -> Vec<u8> {
    file("smuggled", "x")
}

fn with_size(records: &'static [u8], size: u64) -> impl Fn(&Path) -> Vec<u8> {
    move |_| {
        let outer = entry("outer", b'0', &nested(), |block| octal(&mut block[124..136], size));
        archive(&[pax(&[("size", records)]), outer, file("last", "1")])
    }
}

/// What a whole list of files holds, by its names alone.
fn names(bytes: &[u8]) -> Vec<String> {
    let mut reader = davit_diff::tar::Reader::new(bytes);
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        names.push(String::from_utf8(entry.name).unwrap());
    }
    names
}

#[test]
fn sizes_are_read_in_one_way() {
    // CVE-2025-62518: the PAX size counts, for what follows too.
    let here = Path::new("/");
    assert_eq!(names(&with_size(b"1024", 0)(here)), ["outer", "last"]);
    assert_eq!(names(&with_size(b"1024", 77)(here)), ["outer", "last"]);
    // The reverse: no data, and so the next header comes at once, as in Go.
    assert_eq!(names(&with_size(b"0", 1024)(here)), ["outer", "smuggled", "last"]);
    // Taken back, the header's own counts.
    assert_eq!(names(&with_size(b"", 1024)(here)), ["outer", "last"]);
    // A size is not for the headers in between (as it was for node-tar).
    let long = entry("././@LongLink", b'L', b"long\0", gnu);
    let between = archive(&[pax(&[("size", b"1024")]), long, entry("x", b'0', &nested(), |_| {})]);
    assert_eq!(names(&between), ["long"]);
    // Directories have no data, whatever they say.
    for flag in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let odd = entry("odd", flag, b"", |block| octal(&mut block[124..136], 1024));
        assert_eq!(names(&archive(&[odd, file("last", "")])), ["odd", "last"], "{flag}");
        let odd = [pax(&[("size", b"1024")]), entry("odd", flag, b"", |_| {})].concat();
        assert_eq!(names(&archive(&[odd, file("last", "")])), ["odd", "last"], "{flag}");
    }
    // The flag of old, with a slash behind, is a directory's.
    let old = entry("old/", 0, b"", |block| octal(&mut block[124..136], 1024));
    assert_eq!(names(&archive(&[old, file("last", "")])), ["old/", "last"]);
}

#[test]
fn names_are_read_in_one_way() {
    let long = entry("././@LongLink", b'L', b"gnu\0behind", gnu);
    let path = pax(&[("path", b"pax")]);
    // As in Go, in either order.
    assert_eq!(names(&archive(&[long.clone(), path.clone(), file("x", "")])), ["gnu"]);
    assert_eq!(names(&archive(&[path.clone(), long.clone(), file("x", "")])), ["gnu"]);
    // The last of several counts; an empty one not at all.
    let second = pax(&[("path", b"second")]);
    assert_eq!(names(&archive(&[path.clone(), second, file("x", "")])), ["second"]);
    let empty = entry("././@LongLink", b'L', b"\0", gnu);
    assert_eq!(names(&archive(&[empty, path.clone(), file("x", "")])), ["pax"]);
    let twice = [record("path", b"one"), record("path", b"two")].concat();
    assert_eq!(names(&archive(&[entry("p", b'x', &twice, |_| {}), file("x", "")])), ["two"]);
    // They are used up by the next entry, and a global header is one.
    assert_eq!(names(&archive(&[path.clone(), file("x", ""), file("y", "")])), ["pax", "y"]);
    let global = entry("g", b'g', &record("path", b"global"), |_| {});
    assert_eq!(names(&archive(&[global.clone(), file("x", "")])), ["x"]);
    assert_eq!(names(&archive(&[path, long, global, file("x", "")])), ["x"]);
}

#[test]
fn records() {
    let raw = |data: &'static [u8]| {
        move |_: &Path| archive(&[entry("p", b'x', data, |_| {}), file("x", "")])
    };
    let with = |key: &'static str, value: &'static [u8]| {
        move |_: &Path| archive(&[pax(&[(key, value)]), file("x", "")])
    };
    let malformed = || Refused(&["invalid PAX records at byte 0"]);
    run(&[
        case("no length", raw(b"path=x\n"), malformed()),
        case("length too short", raw(b"4 path=x\n"), malformed()),
        case("length too long", raw(b"99 path=x\n"), malformed()),
        case("length zero", raw(b"0 path=x\n"), malformed()),
        case("length below zero", raw(b"-9 path=x\n"), malformed()),
        case("length beyond all", raw(b"99999999999999999999999 path=x\n"), malformed()),
        case("length in hex", raw(b"0xA path=x\n"), malformed()),
        case("no line feed", raw(b"9 path=xy"), malformed()),
        case("no equals sign", raw(b"8 path.\n"), malformed()),
        case("no key", raw(b"5 =x\n"), malformed()),
        case("zero in a key", raw(b"9 pa\0th=\n"), malformed()),
        case("rubbish behind", raw(b"10 path=x\nrubbish"), malformed()),
        case("size below zero", with("size", b"-1"), Refused(&["size below zero"])),
        case("size beyond all", with("size", b"99999999999999999999"), malformed()),
        case("size of letters", with("size", b"1x"), malformed()),
        case("owner below zero", with("uid", b"-1"), Refused(&["entry \"x\"", "out of range"])),
        case("owner beyond all", with("gid", b"4294967296"), Refused(&["entry \"x\""])),
        case("owner of all ones", with("gid", b"4294967295"), Refused(&["entry \"x\""])),
        case("time of letters", with("mtime", b"x"), malformed()),
        case("time without end", with("mtime", b"1.0000000000000000000000001"), Tree(&["x="])),
        case("time before all", with("mtime", b"-9223372036854775808"), Tree(&["x="])),
        case(
            "huge",
            |_| archive(&[entry("p", b'x', &vec![b'9'; (1 << 20) + 1], |_| {}), file("x", "")]),
            Refused(&["header field too long"]),
        ),
        case(
            "a million records",
            |_| {
                let data = b"5 a=\n".repeat(200_000);
                archive(&[entry("p", b'x', &data, |_| {}), file("x", "")])
            },
            Tree(&["x="]),
        ),
        case("nothing follows", |_| archive(&[pax(&[("path", b"x")])]), Tree(&[])),
    ]);
}

#[test]
fn numbers() {
    let field = |from: usize, to: usize, value: &'static [u8]| {
        move |_: &Path| {
            archive(&[entry("x", b'0', b"", |block| {
                block[from..to].fill(0);
                block[from..from + value.len()].copy_from_slice(value);
            })])
        }
    };
    let invalid = || Refused(&["invalid tar header at byte 0"]);
    run(&[
        case("size in base 256", field(124, 136, b"\x80\0\0\0\0\0\0\0\0\0\0\0"), Tree(&["x="])),
        case("size below zero", field(124, 136, &[0xff; 12]), invalid()),
        case("size of 70 bits", field(124, 136, b"\x80\0\0\x40\0\0\0\0\0\0\0\0"), invalid()),
        case(
            "size of 63 bits",
            field(124, 136, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"),
            Refused(&["unexpected EOF"]),
        ),
        case("size of nines", field(124, 136, b"99999999999"), invalid()),
        case("size with a sign", field(124, 136, b"-1\0"), invalid()),
        case("mode of letters", field(100, 108, b"rwxr-xr\0"), invalid()),
        case("mode with more bits", field(100, 108, b"7777777\0"), Tree(&["x="])),
        case(
            "owner below zero",
            field(108, 116, &[0xff; 8]),
            Refused(&["entry \"x\"", "owner -1:0 is out of range"]),
        ),
        case(
            "group of 40 bits",
            field(116, 124, b"\x80\0\0\x01\0\0\0\0"),
            Refused(&["entry \"x\"", "out of range"]),
        ),
        case("time below zero", field(136, 148, &[0xff; 12]), Tree(&["x="])),
        case(
            "time of 63 bits",
            field(136, 148, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"),
            Tree(&["x="]),
        ),
        case("device of letters", field(329, 337, b"x"), invalid()),
        case(
            "wrong sum",
            |_| {
                let mut bytes = archive(&[file("x", "")]);
                bytes[0] ^= 1;
                bytes
            },
            invalid(),
        ),
        case(
            "one zero block",
            |_| [file("x", ""), vec![0; 512], file("y", "")].concat(),
            Refused(&["invalid tar header"]),
        ),
        case(
            "behind the end",
            |_| [archive(&[file("x", "1")]), file("y", "")].concat(),
            Tree(&["x=1"]),
        ),
    ]);
}

#[test]
fn kinds_that_nobody_knows() {
    for flag in [b'7', b'8', b'A', b'D', b'I', b'M', b'N', b'V', b'X', b'z', 0xff] {
        run(&[case(
            "kind",
            move |_| archive(&[entry("odd", flag, b"data", |_| {})]),
            Refused(&["entry \"odd\"", "unhandled tar header type"]),
        )]);
    }
}
