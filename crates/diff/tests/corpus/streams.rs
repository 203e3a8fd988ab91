//! Streams that end too early, go on too long, or need too much.

use std::io::Write;

use crate::Expect::{Refused, Tree};
use crate::common::raw::{archive, entry, file, pax};
use crate::common::{Archive, listing};
use crate::{Arena, Way, case, run};
use davit_diff::Limits;
use davit_types::{ErrorKind, Kind};

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A frame of zstd with a window of two to the power of `log`, and nothing
/// in it.
fn frame(log: u8) -> Vec<u8> {
    [&[0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3], &[1, 0, 0][..]].concat()
}

#[test]
fn archives_that_end_at_any_block() {
    let pieces = [
        file("first", &"1".repeat(1500)),
        pax(&[("path", ("p/".repeat(300) + "x").as_bytes())]),
        file("x", "2"),
        entry("dir/", b'5', b"", |_| {}),
        file("last", ""),
    ];
    let whole = archive(&pieces);
    // Go takes the end of the stream for the archive's between two entries,
    // and where a header says that another follows.
    let mut ends = vec![0];
    for piece in &pieces {
        ends.push(ends[ends.len() - 1] + piece.len());
    }
    let end = ends[ends.len() - 1];
    ends.extend([end + 512, end + 1024]);
    for cut in (0..=whole.len()).step_by(512) {
        let arena = Arena::new();
        let before = arena.surroundings();
        let result = arena.apply(&whole[..cut], Way::Plain, Limits::default());
        assert_eq!(result.is_ok(), ends.contains(&cut), "{cut}: {result:?}");
        if let Err(error) = result {
            assert!(error.full_message().contains("unexpected EOF"), "{cut}: {error:?}");
        }
        assert_eq!(arena.surroundings(), before);
    }
    for cut in (1..whole.len()).step_by(511).filter(|cut| cut % 512 != 0) {
        let arena = Arena::new();
        let error = arena.apply(&whole[..cut], Way::Upper, Limits::default()).unwrap_err();
        assert!(error.full_message().contains("unexpected EOF"), "{cut}: {error:?}");
    }
}

#[test]
fn compressed_streams_that_end_anywhere() {
    let whole = archive(&[file("file", &"0123456789".repeat(100))]);
    for bytes in [gzip(&whole), zstd::encode_all(&whole[..], 3).unwrap()] {
        // Of a few bytes, nobody can say how they are compressed.
        for cut in 10..bytes.len() {
            let arena = Arena::new();
            let result = arena.apply(&bytes[..cut], Way::Plain, Limits::default());
            assert!(result.is_err(), "{cut} of {}: {:?}", bytes.len(), listing(&arena.tree()));
        }
    }
}

#[test]
fn streams_of_several_parts() {
    let (first, second) = (file("first", "1"), archive(&[file("second", "2")]));
    let plain = archive(&[file("x", "1")]);
    let zstd = |data: &[u8]| zstd::encode_all(data, 1).unwrap();
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
    let cases = [
        ("members", [gzip(&first), gzip(&second)].concat()),
        ("empty members", [gzip(b""), gzip(&first), gzip(b""), gzip(&second)].concat()),
        ("frames", [zstd(&first), zstd(&second)].concat()),
        ("frames to be skipped", [skipped.clone(), zstd(&first), skipped, zstd(&second)].concat()),
    ];
    for (name, bytes) in cases {
        run(&[case(name, move |_| bytes.clone(), Tree(&["first=1", "second=2"]))]);
    }
    let rubbish = [gzip(&plain), b"rubbish behind".to_vec()].concat();
    run(&[case("rubbish behind", move |_| rubbish.clone(), Refused(&["decompress layer"]))]);
    let mut sum = gzip(&plain);
    let length = sum.len();
    sum[length - 5] ^= 1;
    run(&[case("wrong sum", move |_| sum.clone(), Refused(&["decompress layer"]))]);
    // Compressed twice is no archive.
    let twice = gzip(&gzip(&plain));
    run(&[case("twice", move |_| twice.clone(), Refused(&["archive"]))]);
}

#[test]
fn windows_larger_than_anybody_needs() {
    run(&[
        case("128 MiB", |_| frame(27), Tree(&[])),
        case("256 MiB", |_| frame(28), Refused(&["decompress layer", "too much memory"])),
        case("2 TiB", |_| frame(41), Refused(&["decompress layer"])),
    ]);
}

/// Refused for its size, whatever way it takes.
fn too_much(name: &str, bytes: &[u8], limits: Limits, what: &str) {
    for way in [Way::Plain, Way::WorkerOverlay] {
        let arena = Arena::new();
        let before = arena.surroundings();
        let error = arena.apply(bytes, way, limits).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{name}: {error:?}");
        assert!(error.to_string().contains(what), "{name}: {error}");
        assert_eq!(arena.surroundings(), before);
    }
}

#[test]
fn bombs() {
    let ratio = Limits { ratio: 100, ratio_from: 1 << 20, ..Limits::default() };
    let size = Limits { uncompressed_bytes: 1 << 20, ..Limits::default() };
    let zeros = vec![0; 8 << 20];
    let bomb = entry("bomb", b'0', &zeros, |_| {});
    let small = archive(&[file("file", "x")]);
    let many: Vec<u8> = (0..64).flat_map(|_| gzip(&zeros[..1 << 20])).collect();
    for (name, bytes) in [
        ("gzip", gzip(&bomb)),
        ("zstd", zstd::encode_all(&bomb[..], 19).unwrap()),
        ("behind the end", gzip(&[small.clone(), zeros.clone()].concat())),
        ("in a further member", [gzip(&small), gzip(&zeros)].concat()),
        ("in many members", [gzip(&small), many].concat()),
        (
            "in a further frame",
            [zstd::encode_all(&small[..], 1).unwrap(), zstd::encode_all(&zeros[..], 1).unwrap()]
                .concat(),
        ),
    ] {
        too_much(name, &bytes, ratio, "bytes out of one compressed byte");
        too_much(name, &bytes, size, "uncompressed bytes");
    }
    too_much("plain", &archive(&[bomb]), size, "uncompressed bytes");
    let files = (0..100).fold(Archive::new(), |archive, n| archive.file(&n.to_string(), ""));
    let entries = Limits { entries: 99, ..Limits::default() };
    too_much("entries", &files.bytes(), entries, "99 entries");
}

#[test]
fn no_limits_are_no_limits() {
    let arena = Arena::new();
    let zeros = entry("zeros", b'0', &vec![0; 20 << 20], |_| {});
    arena.apply(&gzip(&archive(&[zeros])), Way::Worker, Limits::NONE).unwrap();
    assert_eq!(std::fs::metadata(arena.tree().join("zeros")).unwrap().len(), 20 << 20);
}
