//! Stream processors: real programs between a layer and the worker.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Archive, listing};
use davit_diff::media_type::{LAYER, LAYER_GZIP};
use davit_diff::worker::{Apply, Program, Running};
use davit_diff::{Applied, Error, Limits, StreamProcessor, StreamProcessors};
use davit_types::{ErrorKind, Kind, Mount};

const SECRET: &str = "application/vnd.example.layer.v1.tar+secret";
/// Adds 128 to each byte, which is its own reverse.
const TURN: &str = "LC_ALL=C tr '\\000-\\377' '\\200-\\377\\000-\\177'";

fn turned(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ 0x80).collect()
}

fn shell(id: &str, accepts: &str, returns: &str, script: &str) -> StreamProcessor {
    StreamProcessor {
        id: id.into(),
        accepts: vec!["application/x-never".into(), accepts.into()],
        returns: returns.into(),
        path: "sh".into(),
        args: vec!["-c".into(), script.into(), "sh".into(), "an argument".into()],
        env: vec!["FROM_THE_CONFIGURATION=1=2".into()],
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    program: Program,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["scratch", "tree"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let path = PathBuf::from(env!("CARGO_BIN_EXE_davit-unpack"));
        let program = Program { path, arguments: Vec::new(), scratch: dir.path().join("scratch") };
        Self { dir, program }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(
        &self,
        processors: Vec<StreamProcessor>,
        bytes: &[u8],
        payloads: &[(&str, &[u8])],
    ) -> Result<Running<Applied>, Error> {
        let payloads: BTreeMap<_, _> =
            payloads.iter().map(|(id, bytes)| ((*id).to_owned(), bytes.to_vec())).collect();
        let source = StreamProcessors::new(processors).open(SECRET, file(bytes), &payloads)?;
        let mount = Mount {
            kind: "bind".into(),
            source: self.path("tree").display().to_string(),
            target: String::new(),
            options: vec!["rbind".into(), "rw".into()],
        };
        let apply = Apply {
            input: source.input,
            compressed: source.compressed,
            processing: source.processing,
            mounts: vec![mount],
            lower_later: None,
            limits: Limits::default(),
            sync: false,
        };
        apply.spawn(&self.program)
    }

    fn apply(&self, processors: Vec<StreamProcessor>, bytes: &[u8]) -> Result<Applied, Error> {
        self.start(processors, bytes, &[])?.wait()
    }
}

fn file(bytes: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.into()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn archive() -> Vec<u8> {
    Archive::new().file("file", &"0123456789".repeat(50_000)).bytes()
}

/// Whether a process runs; one that has exited and waits to be collected
/// does not.
fn runs(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn eventually(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_layer_goes_through_all_that_accept_it() {
    let f = Fixture::new();
    let seen = f.path("seen");
    let tell = format!(
        "echo \"$STREAM_PROCESSOR_MEDIATYPE $FROM_THE_CONFIGURATION $1\" >> {}; {TURN}",
        seen.display()
    );
    let processors = vec![
        shell("second", "application/x-half", LAYER_GZIP, &tell),
        shell("first", SECRET, "application/x-half", &format!("{tell} | tail -c +4")),
        shell("unused", "application/x-half", LAYER, "exit 1"),
    ];
    let layer = [b"xyz", &gzip(&archive())[..]].concat();
    let applied = f.apply(processors, &layer).unwrap();
    assert_eq!(applied.size, archive().len() as u64, "decompressed at the end");
    assert!(listing(&f.path("tree"))[0].starts_with("file=0123"));
    let mut seen: Vec<_> = fs::read_to_string(seen).unwrap().lines().map(str::to_owned).collect();
    seen.sort();
    let expected = [SECRET, "application/x-half"].map(|kind| format!("{kind} 1=2 an argument"));
    assert_eq!(seen, expected);
}

#[test]
fn what_is_plain_afterwards_is_not_decompressed() {
    let f = Fixture::new();
    let layer = turned(&gzip(&archive()));
    let error = f.apply(vec![shell("p", SECRET, LAYER, TURN)], &layer).unwrap_err();
    assert!(error.to_string().contains("archive/tar"), "{error}");
    f.apply(vec![shell("p", SECRET, LAYER, TURN)], &turned(&archive())).unwrap();
}

#[test]
fn payloads_come_as_descriptor_three() {
    let f = Fixture::new();
    let payload = vec![b'k'; 300_000];
    let script = format!("cat <&3 > {}; {TURN}", f.path("payload").display());
    let with = vec![shell("decoder", SECRET, LAYER, &script)];
    let payloads: [(&str, &[u8]); 2] = [("decoder", &payload), ("another", b"x")];
    f.start(with, &turned(&archive()), &payloads).unwrap().wait().unwrap();
    assert_eq!(fs::read(f.path("payload")).unwrap(), payload);
    // Without one there is no such descriptor.
    let none = shell("decoder", SECRET, LAYER, &format!("test ! -e /dev/fd/3 && {TURN}"));
    f.start(vec![none], &turned(&archive()), &payloads[1..]).unwrap().wait().unwrap();
}

#[test]
fn a_processor_that_fails_is_named_with_what_it_said() {
    let f = Fixture::new();
    let layer = turned(&archive());
    for (script, expected) in [
        // Before, in the middle of, and after its output.
        ("echo no key >&2; exit 3", "stream processor p: no key (exit status: 3)"),
        (
            &*format!("head -c 100000 | {TURN}; echo cut short >&2; exit 4"),
            "stream processor p: cut short (exit status: 4)",
        ),
        (
            &*format!("{TURN}; exec >&-; echo wrong sum >&2; exit 5"),
            "stream processor p: wrong sum (exit status: 5)",
        ),
        ("exit 6", "stream processor p: exit status: 6"),
        ("kill -9 $$", "stream processor p: signal: 9 (SIGKILL)"),
    ] {
        let error = f.apply(vec![shell("p", SECRET, LAYER, script)], &layer).unwrap_err();
        assert_eq!(error.to_string(), expected, "{script}");
        assert_eq!(error.kind(), ErrorKind::Unknown);
    }
}

#[test]
fn the_end_of_a_long_complaint_is_kept() {
    let f = Fixture::new();
    let script = "yes complaint | head -n 300000 >&2; echo the reason >&2; exit 1";
    let error = f.apply(vec![shell("p", SECRET, LAYER, script)], b"").unwrap_err().to_string();
    assert!(error.ends_with("the reason (exit status: 1)"), "{error}");
    assert!(error.len() < 5000, "{}", error.len());
}

#[test]
fn who_was_not_read_to_the_end_is_not_blamed() {
    let f = Fixture::new();
    let evil = Archive::new().file("../evil", "x").file("more", &"x".repeat(3_000_000)).bytes();
    let script = format!("echo $$ > {}; {TURN} || echo broken >&2", f.path("pid").display());
    let processors = vec![shell("p", SECRET, LAYER, &script)];
    let error = f.apply(processors, &turned(&evil)).unwrap_err().to_string();
    assert!(error.contains("entry \"../evil\""), "{error}");
    let pid = fs::read_to_string(f.path("pid")).unwrap();
    assert!(!runs(pid.trim()), "it was left behind");
}

#[test]
fn processors_end_with_the_call() {
    let f = Fixture::new();
    // What the processor has started ends with it.
    let script = format!("sleep 1000 & echo $$ $! > {}; wait", f.path("pids").display());
    let hung = || vec![shell("p", SECRET, LAYER, &script)];
    let pids = || fs::read_to_string(f.path("pids")).unwrap_or_default();
    for kill in [true, false] {
        let running = f.start(hung(), b"", &[]).unwrap();
        eventually("it starts", || pids().ends_with('\n'));
        if kill {
            running.killer().unwrap().kill();
            running.wait().unwrap_err();
        } else {
            drop(running);
        }
        for pid in pids().split_whitespace() {
            eventually("it ends", || !runs(pid));
        }
        fs::remove_file(f.path("pids")).unwrap();
    }
}

#[test]
fn media_types_that_nobody_reads_are_refused_before_anything_runs() {
    let f = Fixture::new();
    let touched = f.path("touched");
    let touch = format!("touch {}", touched.display());
    let none = format!("failed to get stream processor for {SECRET}: no processor for media-type");
    let round =
        format!("failed to get stream processor for {SECRET}: the processors never come to an end");
    for (processors, expected) in [
        (vec![], &none),
        (vec![shell("p", SECRET, "application/x-unknown", &touch)], &none),
        (vec![shell("p", SECRET, SECRET, &touch)], &round),
        (vec![shell("p", SECRET, "a", &touch), shell("q", "a", SECRET, &touch)], &round),
    ] {
        let error = f.apply(processors, b"").unwrap_err();
        assert_eq!(error.to_string(), *expected);
    }
    assert!(!touched.exists());
    let missing =
        StreamProcessor { path: "/does/not/exist".into(), ..shell("p", SECRET, LAYER, "") };
    let error = f.apply(vec![missing], b"").unwrap_err();
    assert_eq!(
        error.full_message(),
        format!(
            "failed to get stream processor for {SECRET}: start p (/does/not/exist): \
             No such file or directory (os error 2)"
        )
    );
    assert!(listing(Path::new(&f.path("tree"))).is_empty());
}

#[test]
fn layers_that_are_known_go_through_none() {
    let processors = StreamProcessors::new(vec![shell("p", SECRET, LAYER, "exit 1")]);
    for (kind, compressed) in [(LAYER, false), (LAYER_GZIP, true)] {
        let input = fs::File::open("/dev/null").unwrap().into();
        let source = processors.open(kind, input, &BTreeMap::new()).unwrap();
        assert_eq!(source.compressed, compressed);
        processors.check(kind).unwrap();
    }
    processors.check(SECRET).unwrap();
    processors.check("text/plain").unwrap_err();
}
