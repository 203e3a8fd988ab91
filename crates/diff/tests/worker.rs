//! The worker process: what it does, what it cannot, and what is left of it.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use common::{Archive, header, listing};
use davit_diff::tar::{EntryKind, Header};
use davit_diff::worker::{Apply, Compare, Program};
use davit_diff::{Applied, CompareOptions, Compression, Error, Limits, Processing};
use davit_types::{ErrorKind, Kind, Mount};

struct Fixture {
    dir: tempfile::TempDir,
    program: Program,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let scratch = dir.path().join("scratch");
        fs::create_dir(&scratch).unwrap();
        let path = PathBuf::from(env!("CARGO_BIN_EXE_davit-unpack"));
        Self { dir, program: Program { path, arguments: Vec::new(), scratch } }
    }

    fn make(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn apply(&self, archive: &[u8], mounts: Vec<Mount>) -> Result<Applied, Error> {
        let input = bytes_as_file(archive);
        let apply = Apply {
            input,
            compressed: true,
            processing: Processing::default(),
            mounts,
            lower_later: None,
            limits: Limits::default(),
            sync: true,
        };
        apply.spawn(&self.program)?.wait()
    }

    fn compare(&self, lower: Vec<Mount>, upper: Vec<Mount>) -> (Result<Applied, Error>, Vec<u8>) {
        let mut file = tempfile::tempfile().unwrap();
        let output = OwnedFd::from(file.try_clone().unwrap());
        let options = CompareOptions { compression: Compression::Gzip, newest: None };
        let compare = Compare { output, lower, upper, options };
        let result = compare.spawn(&self.program).unwrap().wait();
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        (result, bytes)
    }
}

fn bytes_as_file(bytes: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.into()
}

fn mount(kind: &str, source: &str, options: &[String]) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.into(),
        target: String::new(),
        options: options.to_vec(),
    }
}

fn bind(path: &Path, access: &str) -> Vec<Mount> {
    vec![mount("bind", path.to_str().unwrap(), &["rbind".into(), access.into()])]
}

fn overlay(f: &Fixture, lower: &Path, upper: &Path) -> Vec<Mount> {
    let options = [
        format!("workdir={}", f.make("work").display()),
        format!("upperdir={}", upper.display()),
        format!("lowerdir={}", lower.display()),
        "index=off".to_owned(),
    ];
    vec![mount("overlay", "overlay", &options)]
}

fn everything() -> Vec<u8> {
    let mut capable = Header { mode: 0o4755, uid: 7, gid: 8, ..header("d/su", EntryKind::File) };
    capable.xattrs = vec![
        ("security.capability".into(), b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        ("trusted.mark".into(), b"x".to_vec()),
        ("user.mark".into(), b"y".to_vec()),
    ];
    let same = Header {
        link_name: b"d/su".to_vec(),
        name: b"e/other-directory".to_vec(),
        kind: EntryKind::HardLink,
        xattrs: Vec::new(),
        ..capable.clone()
    };
    let null = Header { device: (1, 3), ..header("null", EntryKind::CharDevice) };
    Archive::new()
        .dir("d")
        .add(capable, b"data")
        .dir("e")
        .add(same, b"")
        .symlink("link", "d/su")
        .add(null, b"")
        .add(header("fifo", EntryKind::Fifo), b"")
        .file("old/.wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "2")
        .bytes()
}

const SHOWN: [&str; 11] = [
    "d/",
    "d/su=data",
    "e/",
    "e/other-directory=data",
    "fifo?",
    "link -> d/su",
    "null?",
    "old/",
    "old/kept=1",
    "opaque/",
    "opaque/new=2",
];

fn below(root: &Path) {
    let archive =
        Archive::new().file("old/gone", "1").file("old/kept", "1").file("opaque/old", "1").bytes();
    common::apply(&archive, root).unwrap();
}

#[test]
fn a_confined_process_can_write_all_that_a_layer_may_hold() {
    let f = Fixture::new();
    let (plain, lower, upper) = (f.make("plain"), f.make("lower"), f.make("upper"));
    below(&plain);
    below(&lower);
    let direct = f.apply(&everything(), bind(&plain, "rw")).unwrap();
    assert_eq!(listing(&plain), SHOWN);
    let overlay = overlay(&f, &lower, &upper);
    assert_eq!(f.apply(&everything(), overlay.clone()).unwrap(), direct);
    let merged = f.make("merged");
    davit_sys::mount::mount_all(&overlay, &merged).unwrap();
    let shown = listing(&merged);
    davit_sys::mount::unmount_all(&merged, true).unwrap();
    assert_eq!(shown, SHOWN);
    assert_eq!(direct.size, everything().len() as u64);
    let mut value = [0; 64];
    for (name, length) in [("security.capability", 20), ("trusted.mark", 1), ("user.mark", 1)] {
        let found = rustix::fs::getxattr(upper.join("d/su"), name, &mut value[..]);
        assert_eq!(found, Ok(length), "{name}");
    }
}

#[test]
fn mounts_that_must_be_made_are_made_where_nobody_sees_them() {
    let f = Fixture::new();
    let (base, nested) = (f.make("base"), f.make("nested"));
    below(&base);
    // Two mounts: neither overlay nor bind alone.
    let mounts = [bind(&nested, "rw"), bind(&base, "rw")].concat();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    f.apply(&everything(), mounts).unwrap();
    assert_eq!(listing(&base), SHOWN);
    assert!(listing(&nested).is_empty());
    assert_eq!(fs::read_dir(&f.program.scratch).unwrap().count(), 0);
    // Others' mounts come and go in parallel; none of ours is among them.
    let after = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let scratch = f.program.scratch.to_str().unwrap();
    assert!(!after.contains(scratch), "{before} mounts before: {after}");
}

#[test]
fn a_read_only_snapshot_is_not_written_to() {
    let f = Fixture::new();
    let base = f.make("base");
    let error = f.apply(&everything(), bind(&base, "ro")).unwrap_err();
    assert!(error.to_string().contains("Read-only file system"), "{error}");
    assert!(listing(&base).is_empty());
}

#[test]
fn failures_come_back_with_kind_and_entry() {
    let f = Fixture::new();
    let base = f.make("base");
    let evil = Archive::new().file("../evil", "x").bytes();
    let error = f.apply(&evil, bind(&base, "rw")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown);
    assert!(error.to_string().contains("entry \"../evil\""), "{error}");
    let limits = Limits { entries: 1, ..Limits::default() };
    let input = bytes_as_file(&everything());
    let mounts = bind(&base, "rw");
    let apply = Apply {
        input,
        compressed: true,
        processing: Processing::default(),
        mounts,
        lower_later: None,
        limits,
        sync: false,
    };
    let error = apply.spawn(&f.program).unwrap().wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    let error = f.apply(&everything(), bind(&f.dir.path().join("none"), "rw")).unwrap_err();
    assert!(error.to_string().contains("No such file or directory"), "{error}");
}

#[test]
fn compares_snapshots_that_are_mounted_for_it() {
    let f = Fixture::new();
    let (lower, upper, copy) = (f.make("lower"), f.make("upper"), f.make("copy"));
    below(&lower);
    let snapshot = overlay(&f, &lower, &upper);
    f.apply(&everything(), snapshot.clone()).unwrap();
    let (result, layer) = f.compare(bind(&lower, "ro"), snapshot.clone());
    let compared = result.unwrap();
    below(&copy);
    let applied = f.apply(&layer, bind(&copy, "rw")).unwrap();
    assert_eq!(applied, compared, "digest and size of the same archive");
    assert_eq!(listing(&copy), SHOWN);
    // No mounts at all stand for an empty tree (nothing below the first).
    let (result, whole) = f.compare(Vec::new(), snapshot);
    result.unwrap();
    let alone = f.make("alone");
    f.apply(&whole, bind(&alone, "rw")).unwrap();
    assert_eq!(listing(&alone), SHOWN);
}

#[test]
fn a_pipe_is_as_good_as_a_file() {
    let f = Fixture::new();
    let base = f.make("base");
    let (reader, mut writer) = std::io::pipe().unwrap();
    let apply = Apply {
        input: reader.into(),
        compressed: true,
        processing: Processing::default(),
        mounts: bind(&base, "rw"),
        lower_later: None,
        limits: Limits::default(),
        sync: false,
    };
    let running = apply.spawn(&f.program).unwrap();
    for chunk in Archive::new().file("file", &"x".repeat(1 << 20)).bytes().chunks(7777) {
        writer.write_all(chunk).unwrap();
    }
    drop(writer);
    running.wait().unwrap();
    assert_eq!(fs::metadata(base.join("file")).unwrap().len(), 1 << 20);
}

/// The fields of `/proc/<pid>/status` once `done` says that they are final.
fn status_of(pid: u32, done: impl Fn(&str) -> bool) -> String {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        if done(&status) {
            return status;
        }
        assert!(std::time::Instant::now() < deadline, "{status}");
        std::thread::yield_now();
    }
}

#[test]
fn a_worker_gives_up_what_it_does_not_need() {
    let f = Fixture::new();
    let base = f.make("base");
    let (reader, writer) = std::io::pipe().unwrap();
    let apply = Apply {
        input: reader.into(),
        compressed: true,
        processing: Processing::default(),
        mounts: bind(&base, "rw"),
        lower_later: None,
        limits: Limits::default(),
        sync: false,
    };
    let running = apply.spawn(&f.program).unwrap();
    let pid = running.id();
    // The filter is the last thing that it puts on.
    let status = status_of(pid, |status| status.contains("Seccomp:\t2"));
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).unwrap();
    let capabilities = u64::from_str_radix(capabilities, 16).unwrap();
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SYS_ADMIN, MKNOD, SETFCAP.
    let needed = [0, 1, 3, 4, 21, 27, 31].iter().fold(0, |set, bit| set | 1 << bit);
    assert_eq!(capabilities & !needed, 0, "{capabilities:x}");
    for space in ["net", "mnt", "ipc"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{space}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{space}");
    }
    drop(writer);
    running.wait().unwrap();
}

#[test]
fn a_killed_worker_is_an_error_and_gone() {
    let f = Fixture::new();
    let base = f.make("base");
    let (reader, _writer) = std::io::pipe().unwrap();
    let apply = Apply {
        input: reader.into(),
        compressed: true,
        processing: Processing::default(),
        mounts: bind(&base, "rw"),
        lower_later: None,
        limits: Limits::default(),
        sync: false,
    };
    let running = apply.spawn(&f.program).unwrap();
    let killer = running.killer().unwrap();
    killer.kill();
    let error = running.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.to_string().contains("ended without an answer"), "{error}");
    killer.kill();
}

#[test]
fn a_program_that_is_no_worker_is_an_error() {
    let f = Fixture::new();
    for path in ["/bin/true", "/does/not/exist"] {
        let program = Program { path: path.into(), ..f.program.clone() };
        let apply = Apply {
            input: File::open("/dev/null").unwrap().into(),
            compressed: true,
            processing: Processing::default(),
            mounts: Vec::new(),
            lower_later: None,
            limits: Limits::default(),
            sync: false,
        };
        let error = apply.spawn(&program).and_then(|running| running.wait()).unwrap_err();
        assert!(matches!(error, Error::Worker(_)), "{error:?}");
    }
}
