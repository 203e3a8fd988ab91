//! The local store, as its callers see it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use davit_content::{Error, LocalStore, digest};
use davit_types::{Algorithm, Digest, ErrorKind, Kind};

struct Fixture {
    store: LocalStore,
    dir: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(&dir.path().join("content")).unwrap();
    Fixture { store, dir }
}

fn sha256(data: &[u8]) -> Digest {
    digest(Algorithm::Sha256, data)
}

fn put(store: &LocalStore, data: &[u8]) -> Digest {
    let mut writer = store.open_writer(&format!("put-{}", sha256(data)), 0, None).unwrap();
    writer.write(data).unwrap();
    writer.commit(data.len() as u64, Some(&sha256(data))).unwrap().digest
}

fn ingest_dir(root: &Path, reference: &str) -> std::path::PathBuf {
    root.join("content/ingest").join(sha256(reference.as_bytes()).hex())
}

#[test]
fn writes_reads_and_deletes() {
    let f = fixture();
    let before = SystemTime::now();
    let mut writer = f.store.open_writer("layer", 11, None).unwrap();
    writer.write(b"hello ").unwrap();
    writer.write(b"world").unwrap();
    assert_eq!((writer.offset(), writer.digest()), (11, sha256(b"hello world")));
    let info = writer.commit(11, None).unwrap();

    assert_eq!(
        info.digest.as_str(),
        "sha256:b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
    );
    assert!(info.created_at >= before && info.created_at <= SystemTime::now());
    assert_eq!(f.store.info(&info.digest).unwrap(), info);
    let reader = f.store.reader(&info.digest).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(reader.read_at(&mut buffer, 6).unwrap(), 5);
    assert_eq!(&buffer[..5], b"world");
    assert_eq!((reader.read_at(&mut buffer, 99).unwrap(), reader.size()), (0, 11));

    let path = f.dir.path().join("content/blobs/sha256").join(info.digest.hex());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o400);
    assert_eq!(fs::read_dir(f.dir.path().join("content/ingest")).unwrap().count(), 0);

    f.store.delete(&info.digest).unwrap();
    assert_eq!(reader.read_at(&mut buffer, 0).unwrap(), 8, "an open reader keeps its bytes");
    for error in [
        f.store.delete(&info.digest).unwrap_err(),
        f.store.info(&info.digest).unwrap_err(),
        f.store.reader(&info.digest).unwrap_err(),
        f.store.touch(&info.digest).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), format!("content {}: not found", info.digest));
    }
}

#[test]
fn only_the_owner_can_look_in() {
    let f = fixture();
    put(&f.store, b"x");
    let _writer = f.store.open_writer("open", 7, None).unwrap();
    let mut seen = 0;
    let mut pending = vec![f.dir.path().join("content")];
    while let Some(path) = pending.pop() {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is open to others: {mode:o}", path.display());
        seen += 1;
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    assert!(seen >= 10, "{seen}");
}

#[test]
fn an_ingest_is_resumed_where_it_stopped() {
    let f = fixture();
    let mut writer = f.store.open_writer("layer", 9, None).unwrap();
    writer.write(b"abc").unwrap();
    let started_at = writer.status().started_at;
    drop(writer);

    // As after a restart.
    let store = LocalStore::open(&f.dir.path().join("content")).unwrap();
    let status = store.status("layer").unwrap();
    assert_eq!((status.reference.as_str(), status.offset, status.total), ("layer", 3, 9));
    assert_eq!(status.started_at, started_at);
    assert!(status.updated_at >= started_at);
    let mut writer = store.open_writer("layer", 0, None).unwrap();
    assert_eq!((writer.offset(), writer.digest()), (3, sha256(b"abc")));
    assert_eq!(writer.status().total, 9);
    writer.write(b"defghi").unwrap();
    assert_eq!(writer.commit(9, None).unwrap().digest, sha256(b"abcdefghi"));
}

#[test]
fn reads_the_ingest_of_another_implementation() {
    let f = fixture();
    let dir = ingest_dir(f.dir.path(), "default/1/layer");
    fs::create_dir(&dir).unwrap();
    for (name, text) in [
        ("data", "abc"),
        ("ref", "default/1/layer"),
        ("startedat", "2025-03-01T10:00:00.123456789+01:00"),
        ("updatedat", "2025-03-01T10:00:01+01:00"),
        ("total", "6"),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
    let status = f.store.status("default/1/layer").unwrap();
    assert_eq!((status.offset, status.total), (3, 6));
    let since = status.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!((since.as_secs(), since.subsec_nanos()), (1_740_819_600, 123_456_789));
    let mut writer = f.store.open_writer("default/1/layer", 6, None).unwrap();
    writer.write(b"def").unwrap();
    writer.commit(6, Some(&sha256(b"abcdef"))).unwrap();
}

#[test]
fn an_ingest_that_cannot_be_resumed_begins_again() {
    let f = fixture();
    let break_it: [fn(&Path); 4] = [
        |dir| fs::remove_file(dir.join("ref")).unwrap(),
        |dir| fs::write(dir.join("startedat"), "yesterday").unwrap(),
        |dir| fs::write(dir.join("ref"), "another").unwrap(),
        |dir| fs::write(dir.join("total"), "77").unwrap(),
    ];
    for (number, break_it) in break_it.into_iter().enumerate() {
        let reference = format!("layer-{number}");
        f.store.open_writer(&reference, 6, None).unwrap().write(b"garbage").unwrap();
        break_it(&ingest_dir(f.dir.path(), &reference));
        let mut writer = f.store.open_writer(&reference, 6, None).unwrap();
        assert_eq!(writer.offset(), 0, "case {number}");
        let data = format!("abcde{number}");
        writer.write(data.as_bytes()).unwrap();
        writer.commit(6, Some(&sha256(data.as_bytes()))).unwrap();
    }
}

#[test]
fn one_writer_at_a_time() {
    let f = fixture();
    let writer = f.store.open_writer("layer", 0, None).unwrap();
    let error = f.store.open_writer("layer", 0, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(text.starts_with("ref layer locked for "), "{text}");
    assert!(text.contains(" (since 20") && text.ends_with(" +0000 UTC): unavailable"), "{text}");
    f.store.open_writer("other", 0, None).unwrap();
    drop(writer);
    f.store.open_writer("layer", 0, None).unwrap();
}

#[test]
fn refuses_what_was_not_promised() {
    let f = fixture();
    let mut writer = f.store.open_writer("layer", 0, None).unwrap();
    writer.write(b"abc").unwrap();
    let error = writer.commit(4, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(error.to_string(), "unexpected commit size 3, expected 4: failed precondition");

    let writer = f.store.open_writer("layer", 0, None).unwrap();
    assert_eq!(writer.offset(), 3, "a refused commit keeps the ingest");
    let error = writer.commit(3, Some(&sha256(b"abd"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(
        error.to_string(),
        format!(
            "unexpected commit digest {}, expected {}: failed precondition",
            sha256(b"abc"),
            sha256(b"abd")
        )
    );
    assert!(f.store.walk().unwrap().is_empty());
    assert_eq!(f.store.open_writer("", 0, None).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_blob_that_exists_is_not_written_again() {
    let f = fixture();
    let known = put(&f.store, b"abc");
    let error = f.store.open_writer("again", 0, Some(&known)).unwrap_err();
    assert!(matches!(&error, Error::AlreadyExists(digest) if *digest == known));
    assert_eq!(error.to_string(), format!("content {known}: already exists"));
    assert!(f.store.list_statuses().unwrap().is_empty());

    let mut writer = f.store.open_writer_for("again", 0, Algorithm::Sha256).unwrap();
    writer.write(b"abc").unwrap();
    assert!(matches!(writer.commit(0, None), Err(Error::AlreadyExists(_))));
    assert!(f.store.list_statuses().unwrap().is_empty());
}

#[test]
fn a_blob_that_lost_bytes_is_replaced() {
    let f = fixture();
    let known = put(&f.store, b"abc");
    let path = f.dir.path().join("content/blobs/sha256").join(known.hex());
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"").unwrap();
    put(&f.store, b"abc");
    assert_eq!(fs::read(&path).unwrap(), b"abc");
    assert_eq!(f.store.info(&known).unwrap().size, 3);
}

#[test]
fn other_hash_functions() {
    let f = fixture();
    for algorithm in [Algorithm::Sha384, Algorithm::Sha512] {
        let expected = digest(algorithm, b"abc");
        let mut writer = f.store.open_writer(algorithm.as_str(), 0, Some(&expected)).unwrap();
        writer.write(b"abc").unwrap();
        assert_eq!(writer.commit(3, Some(&expected)).unwrap().digest, expected);
    }
    let found = f.store.walk().unwrap();
    assert_eq!(found.iter().map(|info| info.size).collect::<Vec<_>>(), [3, 3]);
}

#[test]
fn truncates_to_nothing_only() {
    let f = fixture();
    let mut writer = f.store.open_writer("layer", 0, None).unwrap();
    writer.write(b"abc").unwrap();
    assert_eq!(writer.truncate(1).unwrap_err().to_string(), "Truncate: unsupported size");
    writer.truncate(0).unwrap();
    assert_eq!((writer.offset(), writer.digest()), (0, sha256(b"")));
    writer.write(b"xy").unwrap();
    assert_eq!(writer.commit(2, None).unwrap().digest, sha256(b"xy"));
}

#[test]
fn aborts_and_lists() {
    let f = fixture();
    for reference in ["a", "b", "c/../d"] {
        f.store.open_writer(reference, 5, None).unwrap().write(b"x").unwrap();
    }
    let names = || -> BTreeSet<String> {
        f.store.list_statuses().unwrap().into_iter().map(|status| status.reference).collect()
    };
    assert_eq!(names(), BTreeSet::from(["a".into(), "b".into(), "c/../d".into()]));
    f.store.abort("b").unwrap();
    assert_eq!(names(), BTreeSet::from(["a".into(), "c/../d".into()]));
    for error in [f.store.abort("b").unwrap_err(), f.store.status("b").unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), "ingest ref \"b\": not found");
    }

    let mut writer = f.store.open_writer("a", 5, None).unwrap();
    f.store.abort("a").unwrap();
    writer.write(b"y").unwrap();
    assert_eq!(writer.commit(0, None).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(names(), BTreeSet::from(["c/../d".into()]));
    assert!(f.store.walk().unwrap().is_empty());
}

#[test]
fn walks_over_what_is_no_blob() {
    let f = fixture();
    let digests: BTreeSet<Digest> = (0..20).map(|n| put(&f.store, &[n])).collect();
    fs::write(f.dir.path().join("content/blobs/sha256/README"), "x").unwrap();
    fs::create_dir(f.dir.path().join("content/blobs/md5")).unwrap();
    let found: Vec<Digest> = f.store.walk().unwrap().into_iter().map(|info| info.digest).collect();
    assert_eq!(found, digests.into_iter().collect::<Vec<_>>());
}

#[test]
fn touch_changes_updated_at_alone() {
    let f = fixture();
    let blob = put(&f.store, b"abc");
    let before = f.store.info(&blob).unwrap();
    let after = f.store.touch(&blob).unwrap();
    assert!(after.updated_at > before.updated_at);
    assert_eq!(after.created_at, before.created_at);
}

#[test]
fn removes_what_an_abort_left_over() {
    let f = fixture();
    let left = f.dir.path().join("content/ingest/0123.17-0.tmp");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("data"), "x").unwrap();
    LocalStore::open(&f.dir.path().join("content")).unwrap();
    assert!(!left.exists());
}

#[test]
fn removes_ingests_that_were_being_made() {
    let f = fixture();
    drop(f.store.open_writer("whole", 0, None).unwrap());
    let ingests = f.dir.path().join("content/ingest");
    let files = ["ref", "startedat", "updatedat", "data"];
    for there in 0..files.len() {
        let half = ingests.join(format!("{there}"));
        fs::create_dir(&half).unwrap();
        for file in &files[..there] {
            fs::write(half.join(file), "2026-01-01T00:00:00Z").unwrap();
        }
    }
    let store = LocalStore::open(&f.dir.path().join("content")).unwrap();
    assert_eq!(fs::read_dir(&ingests).unwrap().count(), 1);
    store.status("whole").unwrap();
}

/// Power was lost before the small files were on disk.
#[test]
fn damaged_ingests_hide_no_others_and_go_at_the_start() {
    let f = fixture();
    let damage: [(&str, &str, &[u8]); 4] = [
        ("no-start", "startedat", b""),
        ("no-update", "updatedat", b"yesterday"),
        ("no-name", "ref", b""),
        ("no-text", "ref", b"\xff"),
    ];
    for reference in damage.map(|(reference, ..)| reference).into_iter().chain(["whole"]) {
        f.store.open_writer(reference, 0, None).unwrap().write(b"some").unwrap();
    }
    for (reference, file, bytes) in damage {
        fs::write(ingest_dir(f.dir.path(), reference).join(file), bytes).unwrap();
    }
    let names = |store: &LocalStore| -> Vec<String> {
        let all = store.list_statuses().unwrap().into_iter().map(|status| status.reference);
        all.filter(|name| !name.is_empty()).collect()
    };
    // Nobody's business, and no reason to fail.
    fs::write(f.dir.path().join("content/ingest/stray"), "a file").unwrap();
    assert_eq!(names(&f.store), ["whole"]);
    drop(f.store);
    let store = LocalStore::open(&f.dir.path().join("content")).unwrap();
    assert_eq!(names(&store), ["whole"]);
    assert_eq!(fs::read_dir(f.dir.path().join("content/ingest")).unwrap().count(), 2);
}

#[test]
fn many_writers_of_the_same_blob() {
    let f = fixture();
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|n| {
                let store = &f.store;
                scope.spawn(move || {
                    let mut writer = store.open_writer(&format!("w{n}"), 0, None).unwrap();
                    writer.write(b"same").unwrap();
                    writer.commit(4, None).map(|info| info.digest)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    for outcome in outcomes {
        assert!(matches!(outcome, Ok(_) | Err(Error::AlreadyExists(_))), "{outcome:?}");
    }
    assert_eq!(f.store.walk().unwrap().len(), 1);
    assert!(f.store.list_statuses().unwrap().is_empty());
}

/// A file system with room for `size`, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(status.success(), "mount a tmpfs");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_damages_nothing() {
    let disk = SmallDisk::new("128k");
    let store = LocalStore::open(&disk.0.path().join("content")).unwrap();
    let mut writer = store.open_writer("layer", 0, None).unwrap();
    writer.write(b"abc").unwrap();
    let error = writer.write(&vec![7; 1 << 20]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.full_message().contains("No space left on device"), "{}", error.full_message());
    assert_eq!((writer.offset(), writer.digest()), (3, sha256(b"abc")));
    assert_eq!(store.status("layer").unwrap().offset, 3);

    // Full to the last byte, no other ingest can be begun, nor leaves a trace.
    while writer.write(&[1; 4096]).is_ok() {}
    let held = writer.offset();
    let error = store.open_writer("second", 0, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert_eq!(store.list_statuses().unwrap().len(), 1);
    assert_eq!(fs::read_dir(disk.0.path().join("content/ingest")).unwrap().count(), 1);
    drop(writer);
    assert_eq!(store.open_writer("layer", 0, None).unwrap().offset(), held);
}

#[test]
fn a_blob_that_has_lost_bytes_is_told_of_and_replaced() {
    let fixture = fixture();
    let data = b"all of it";
    let digest = put(&fixture.store, data);
    let path = fixture.dir.path().join("content/blobs/sha256").join(digest.hex());
    let size = data.len() as u64;
    for left in [0, 3] {
        // Where the kernel checks it, nobody can cut it.
        fs::remove_file(&path).unwrap();
        fs::write(&path, &data[..left]).unwrap();
        let error = fixture.store.whole_reader(&digest, size).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        assert!(error.to_string().ends_with(&format!("it has {left} bytes of 9")), "{error}");
        let mut writer = fixture.store.open_writer("again", size, Some(&digest)).unwrap();
        writer.write(data).unwrap();
        writer.commit(size, Some(&digest)).unwrap();
        assert_eq!(fixture.store.whole_reader(&digest, size).unwrap().size(), size);
    }
    let error = fixture.store.open_writer("again", size, Some(&digest)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn blobs_are_checked_by_the_kernel_where_it_can() {
    let fixture = fixture();
    let digest = put(&fixture.store, &[7; 100_000]);
    let root = fixture.dir.path().join("content");
    let probe = root.join("probe");
    fs::write(&probe, "x").unwrap();
    let can = davit_sys::integrity::enable_verity(&fs::File::open(&probe).unwrap()).is_ok();
    let blob = fs::File::open(root.join("blobs/sha256").join(digest.hex())).unwrap();
    assert_eq!(davit_sys::integrity::verity_digest(&blob).unwrap().is_some(), can);
    assert_eq!(fs::metadata(root.join("blobs/sha256").join(digest.hex())).unwrap().len(), 100_000);
}
