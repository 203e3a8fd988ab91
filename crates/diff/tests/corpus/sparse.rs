//! Sparse files in all four forms.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::Expect::{Refused, Tree};
use crate::common::raw::{archive, entry, file, gnu, octal, pax};
use crate::{Arena, Way, case, run};
use davit_diff::Limits;
use davit_types::{ErrorKind, Kind};

const OLD: [(u64, u64); 2] = [(0, 3), (1000, 3)];

/// GNU's own header: the pieces, the file's size, and its data.
fn old(pieces: &[(u64, u64)], size: u64, data: &[u8], more: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entry("sparse", b'S', b"", |block| {
        gnu(block);
        octal(&mut block[124..136], data.len() as u64);
        octal(&mut block[483..495], size);
        for (index, (offset, length)) in pieces.iter().enumerate() {
            let at = 386 + 24 * index;
            octal(&mut block[at..at + 12], *offset);
            octal(&mut block[at + 12..at + 24], *length);
        }
        block[482] = u8::from(!more.is_empty());
    });
    bytes.extend(more.concat());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A further block of the map.
fn more(pieces: &[(u64, u64)], last: bool) -> Vec<u8> {
    let mut block = vec![0; 512];
    for (index, (offset, length)) in pieces.iter().enumerate() {
        octal(&mut block[24 * index..24 * index + 12], *offset);
        octal(&mut block[24 * index + 12..24 * index + 24], *length);
    }
    block[504] = u8::from(!last);
    block
}

fn in_records(map: &str, size: &str, data: &str) -> Vec<u8> {
    let count = map.split(',').filter(|number| !number.is_empty()).count().div_ceil(2).to_string();
    let records: [(&str, &[u8]); 5] = [
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.minor", b"1"),
        ("GNU.sparse.numblocks", count.as_bytes()),
        ("GNU.sparse.map", map.as_bytes()),
        ("GNU.sparse.size", size.as_bytes()),
    ];
    archive(&[pax(&records), file("sparse", data), file("last", "1")])
}

fn in_data(map: &str, size: &str, data: &str) -> Vec<u8> {
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", size.as_bytes()),
    ];
    let mut content = map.as_bytes().to_vec();
    content.resize(content.len().next_multiple_of(512), 0);
    content.extend_from_slice(data.as_bytes());
    archive(&[
        pax(&records),
        entry("GNUSparseFile.0/sparse", b'0', &content, |_| {}),
        file("last", "1"),
    ])
}

#[test]
fn each_form_gives_the_same_file() {
    let single: [(&str, &[u8]); 6] = [
        ("GNU.sparse.size", b"2000"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"0"),
        ("GNU.sparse.numbytes", b"3"),
        ("GNU.sparse.offset", b"1000"),
        ("GNU.sparse.numbytes", b"3"),
    ];
    let forms = [
        archive(&[old(&OLD, 2000, b"onetwo", &[]), file("last", "1")]),
        archive(&[old(&OLD[..1], 2000, b"onetwo", &[more(&OLD[1..], true)]), file("last", "1")]),
        archive(&[pax(&single), file("sparse", "onetwo"), file("last", "1")]),
        in_records("0,3,1000,3", "2000", "onetwo"),
        in_data("2\n0\n3\n1000\n3\n", "2000", "onetwo"),
    ];
    let mut expected = vec![0; 2000];
    expected[..3].copy_from_slice(b"one");
    expected[1000..1003].copy_from_slice(b"two");
    for (index, bytes) in forms.iter().enumerate() {
        for way in [Way::Plain, Way::WorkerOverlay] {
            let arena = Arena::new();
            arena.apply(bytes, way, Limits::default()).unwrap();
            assert_eq!(fs::read(arena.tree().join("sparse")).unwrap(), expected, "form {index}");
            assert_eq!(fs::read(arena.tree().join("last")).unwrap(), b"1", "form {index}");
        }
    }
}

#[test]
fn holes_take_no_space() {
    let arena = Arena::new();
    arena.apply(&in_records("0,3", "68719476736", "one"), Way::Worker, Limits::default()).unwrap();
    let meta = fs::metadata(arena.tree().join("sparse")).unwrap();
    assert_eq!(meta.len(), 1 << 36);
    assert!(meta.blocks() < 1000);
}

#[test]
fn holes_count_as_bytes() {
    let sparse = |size: &str| in_records("0,3", size, "one");
    let two = [&sparse("6000")[..4 * 512], &sparse("6000")].concat();
    let forms = [
        sparse("100000"),
        two.clone(),
        archive(&[old(&OLD, 100_000, b"onetwo", &[])]),
        in_data("1\n0\n3\n", "100000", "one"),
        // Holes first, and data behind them.
        archive(&[sparse("6000")[..4 * 512].to_vec(), file("sparse", &"x".repeat(6000))]),
    ];
    for way in [Way::Plain, Way::WorkerOverlay] {
        for bytes in &forms {
            let limits = Limits { uncompressed_bytes: 12_000, ..Limits::default() };
            let error = Arena::new().apply(bytes, way, limits).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error:?}");
            let message = error.full_message();
            assert!(message.contains("entry \"sparse\": write: more than 12000"), "{message}");
        }
        // The data counts once.
        let limits = Limits { uncompressed_bytes: two.len() as u64 + 12_000, ..Limits::default() };
        Arena::new().apply(&two, way, limits).unwrap();
    }
}

#[test]
fn a_file_larger_than_any_is_named() {
    for way in [Way::Upper, Way::Worker] {
        let arena = Arena::new();
        let probe = fs::File::create(arena.path("scratch/probe")).unwrap();
        let bytes = in_records("0,3", "9223372036854775807", "one");
        let applied = arena.apply(&bytes, way, Limits::NONE);
        if probe.set_len(i64::MAX as u64).is_ok() {
            // No file is too large for this file system.
            applied.unwrap();
            continue;
        }
        let error = applied.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
        assert!(error.full_message().contains("entry \"sparse\": write"), "{error:?}");
    }
}

#[test]
fn maps_that_do_not_fit() {
    let records = |map: &'static str, size: &'static str, data: &'static str| {
        move |_: &Path| in_records(map, size, data)
    };
    let data = |map: &'static str, size: &'static str, data: &'static str| {
        move |_: &Path| in_data(map, size, data)
    };
    let order = || Refused(&["out of order or out of the file at byte"]);
    let fit = || Refused(&["does not fit the data at byte"]);
    let malformed = || Refused(&["malformed sparse map at byte"]);
    run(&[
        case("overlapping", records("0,3,2,3", "2000", "onetwo"), order()),
        case("backwards", records("1000,3,0,3", "2000", "onetwo"), order()),
        case("out of the file", records("0,3,1998,3", "2000", "onetwo"), order()),
        case("overflow", records("9223372036854775807,3", "9223372036854775807", "one"), order()),
        case("too little data", records("0,3,1000,3", "2000", "one"), fit()),
        case("too much data", records("0,3", "2000", "onetwo"), fit()),
        case("no map", records("", "2000", "one"), fit()),
        case("odd", records("0,3,5", "2000", "one"), malformed()),
        case("below zero", records("-1,3", "2000", "one"), malformed()),
        case("letters", records("a,b", "2000", "one"), malformed()),
        case("size below zero", records("0,3", "-1", "one"), Refused(&["invalid sparse size"])),
        case("count too large", data("99999999\n", "2000", "one"), malformed()),
        case("count below zero", data("-1\n", "2000", "one"), malformed()),
        case("no count", data("", "2000", "one"), malformed()),
        case("numbers that are missing", data("2\n0\n3\n", "2000", "one"), malformed()),
        case("one number without end", |_| in_data(&"1".repeat(2000), "2000", "one"), malformed()),
        case(
            "old, without GNU's magic",
            |_| archive(&[entry("sparse", b'S', b"", |block| octal(&mut block[483..495], 10))]),
            Refused(&["a sparse header that is not GNU's"]),
        ),
        case(
            "old, ends in the map",
            |_| old(&OLD, 2000, b"", &[more(&[], false)]),
            Refused(&["unexpected EOF"]),
        ),
        case(
            "old, a map without end",
            |_| {
                // 53,000 blocks are more pieces than there may be.
                let block = more(&[(0, 0); 21], false);
                [old(&OLD, 2000, b"", &[block.repeat(53_000)])].concat()
            },
            Refused(&["too many pieces"]),
        ),
        case(
            "0.0 out of turn",
            |_| archive(&[pax(&[("GNU.sparse.numbytes", b"1")]), file("x", "")]),
            Refused(&["invalid PAX records"]),
        ),
        case(
            "0.0 with a list inside",
            |_| archive(&[pax(&[("GNU.sparse.offset", b"1,2")]), file("x", "")]),
            Refused(&["invalid PAX records"]),
        ),
        case(
            "fewer pieces than it says",
            |_| {
                let records: [(&str, &[u8]); 3] = [
                    ("GNU.sparse.numblocks", b"2"),
                    ("GNU.sparse.map", b"0,1"),
                    ("GNU.sparse.size", b"5"),
                ];
                archive(&[pax(&records), file("x", "1")])
            },
            Refused(&["sparse map is not as long as it says"]),
        ),
        case(
            "a directory",
            |_| {
                let records: [(&str, &[u8]); 3] = [
                    ("GNU.sparse.numblocks", b"1"),
                    ("GNU.sparse.map", b"0,0"),
                    ("GNU.sparse.size", b"5"),
                ];
                archive(&[pax(&records), entry("d/", b'5', b"", |_| {})])
            },
            Refused(&["a sparse map of what is no file"]),
        ),
        case(
            "of a version that nobody knows",
            |_| {
                let records: [(&str, &[u8]); 2] =
                    [("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")];
                archive(&[pax(&records), file("plain", "1")])
            },
            Tree(&["plain=1"]),
        ),
    ]);
}
