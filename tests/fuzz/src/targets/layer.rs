//! Layers, compressed or not, applied to a tree with something precious
//! beside it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use davit_diff::{ApplyOptions, Limits, Whiteouts, apply};

use super::tar;

/// Applies it, as it is and with checksums that fit, to a tree of its own or
/// to an overlay's upper directory; what is beside the tree is as it was.
pub fn run(data: &[u8]) {
    let even = data.iter().fold(0, |sum: u8, byte| sum ^ byte) % 2 == 0;
    let whiteouts = if even { Whiteouts::Remove } else { Whiteouts::Overlay };
    check(data, whiteouts);
    check(&tar::signed(data), whiteouts);
}

fn check(data: &[u8], whiteouts: Whiteouts) {
    // In memory, where that can be had.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let dir = dir.expect("a directory can be made");
    let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
    fs::create_dir_all(tree.join("dir")).expect("a directory can be made");
    fs::create_dir(&outside).expect("a directory can be made");
    fs::write(outside.join("file"), "precious").expect("a file can be written");
    symlink(&outside, tree.join("dir/out")).expect("a link can be made");
    symlink("../outside", tree.join("link")).expect("a link can be made");
    let before = seen(dir.path());
    let limits = Limits { uncompressed_bytes: 1 << 20, entries: 100, ..Limits::default() };
    let options = ApplyOptions { whiteouts, limits, lower_later: true, ..ApplyOptions::default() };
    if let Ok(applied) = apply(data, &tree, &options) {
        assert!(applied.size <= limits.uncompressed_bytes);
        for path in applied.implied {
            assert!(
                tree.join(&path).symlink_metadata().is_ok_and(|meta| meta.is_dir()),
                "{path:?}"
            );
        }
    }
    assert_eq!(seen(dir.path()), before);
}

/// All that a change outside the tree would show in.
fn seen(dir: &Path) -> Vec<(u64, u32, i64, i64)> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("the directory is there")
        .map(|entry| entry.expect("it can be read").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["outside", "tree"]);
    let content = fs::read(dir.join("outside/file")).expect("the file is there");
    assert_eq!(content, b"precious");
    ["", "outside", "outside/file"]
        .map(|name| {
            let meta = dir.join(name).symlink_metadata().expect("it is there");
            (meta.nlink(), meta.mode(), meta.ctime(), meta.ctime_nsec())
        })
        .to_vec()
}

/// The archives' seeds, plain and compressed, and links that lead out.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = tar::seeds();
    let plain = seeds[0].clone();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&plain).expect("memory takes it");
    seeds.push(encoder.finish().expect("memory takes it"));
    seeds.push(zstd::encode_all(&plain[..], 1).expect("memory takes it"));
    seeds
}
