//! The archive of a checkpoint, which comes from wherever images come from.

use std::fs;
use std::path::Path;

use davit_daemon::services::tasks::extract;

use super::tar;

/// What is unpacked is files and directories within the directory; what is
/// beside it is as it was.
pub fn run(data: &[u8]) {
    check(data);
    check(&tar::signed(data));
}

fn check(data: &[u8]) {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let dir = dir.expect("a directory can be made");
    let inside = dir.path().join("inside");
    fs::create_dir(&inside).expect("a new directory is empty");
    fs::write(dir.path().join("precious"), "precious").expect("it is writable");
    let _ = extract(data, &inside);
    let count = fs::read_dir(dir.path()).expect("it is there").count();
    assert_eq!(count, 2);
    assert_eq!(fs::read(dir.path().join("precious")).expect("it is there"), b"precious");
    look(&inside);
}

fn look(directory: &Path) {
    for entry in fs::read_dir(directory).expect("it is there").flatten() {
        let kind = entry.file_type().expect("it is there");
        assert!(kind.is_dir() || kind.is_file(), "{:?}", entry.path());
        if kind.is_dir() {
            look(&entry.path());
        }
    }
}

/// The archives' seeds.
pub fn seeds() -> Vec<Vec<u8>> {
    tar::seeds()
}
