//! Blobs are synced before they are named: what the daemon asks of the kernel
//! while images arrive, as `strace` sees it. After a loss of power, a blob is
//! there with all its bytes or not at all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use davit_integration::layout::{self, Layout};
use davit_integration::leftovers::names_in;
use davit_integration::registry::Registry;
use davit_integration::{Client, Daemon, Server, must, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const BLOBS: &str = "root/io.containerd.content.v1.content/blobs/sha256";

const SYNCS: &[&str] = &["fsync", "fdatasync"];
const NAMES: &[&str] = &["rename", "renameat", "renameat2", "link", "linkat"];
const WRITES: &[&str] = &[
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "sendfile",
    "splice",
    "copy_file_range",
    "ftruncate",
    "fallocate",
];

/// `strace` on a running daemon, until it is dropped.
struct Tracer {
    process: Child,
    output: PathBuf,
}

impl Tracer {
    fn on(daemon: &Daemon) -> Self {
        let output = daemon.path("trace");
        let calls = [SYNCS, NAMES, WRITES].concat().join(",");
        let process = Command::new("/usr/bin/strace")
            .args(["-f", "-y", "-s", "0", "-e", &format!("trace={calls}"), "-o"])
            .arg(&output)
            .args(["-p", &daemon.pid().to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is installed");
        let tracer = Self { process, output };
        wait_for("every thread is traced", 20, || is_traced(daemon.pid()).then_some(()));
        tracer
    }

    /// Lets go of the daemon; all that it has seen.
    fn calls(mut self) -> Vec<Call> {
        self.end();
        let text = fs::read_to_string(&self.output).expect("strace has written");
        read(&text)
    }

    fn end(&mut self) {
        let pid = Pid::from_raw(self.process.id().try_into().expect("a pid fits"));
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.end();
    }
}

fn is_traced(pid: u32) -> bool {
    let threads = names_in(&PathBuf::from(format!("/proc/{pid}/task")));
    threads.iter().all(|thread| {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status"));
        // One that has ended meanwhile does nothing more.
        status.map_or(true, |text| !text.contains("\nTracerPid:\t0\n"))
    })
}

/// A call of the kernel. The lines of a trace are in the order of events.
#[derive(Debug)]
struct Call {
    thread: String,
    name: String,
    /// Its arguments and its answer.
    text: String,
    /// The line at which it began, and the one at which it ended.
    lines: (usize, usize),
}

impl Call {
    fn is(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }

    /// Whether it has ended, and well.
    fn succeeded(&self) -> bool {
        let answer = self.text.rsplit_once(" = ").map(|(_, answer)| answer);
        answer.is_some_and(|answer| answer.starts_with(|digit: char| digit.is_ascii_digit()))
    }

    /// Whether it writes to that file, or syncs it.
    fn is_of(&self, path: &Path) -> bool {
        let files = self.text.split('<').skip(1).filter_map(|rest| rest.split('>').next());
        let mut files = files.map(Path::new);
        // Where the bytes come from stands before, or behind.
        let file = match self.is(&["splice", "copy_file_range"]) {
            true => files.nth(1),
            false => files.next(),
        };
        file == Some(path)
    }

    /// From what to what a name was given.
    fn names(&self) -> (PathBuf, PathBuf) {
        let mut quoted = self.text.split('"').skip(1).step_by(2).map(PathBuf::from);
        (quoted.next().unwrap_or_default(), quoted.next().unwrap_or_default())
    }
}

/// The calls in a trace. Where others came between a call's beginning and its
/// end, it has two lines.
fn read(trace: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some((_, end)) = rest.strip_prefix("<... ").and_then(|rest| rest.split_once('>')) {
            let of = |call: &&mut Call| call.thread == thread && call.lines.1 == usize::MAX;
            if let Some(call) = calls.iter_mut().rev().find(of) {
                call.text += end;
                call.lines.1 = number;
            }
        } else if let Some((name, text)) = rest.split_once('(') {
            let (text, end) = match text.strip_suffix("<unfinished ...>") {
                Some(text) => (text, usize::MAX),
                None => (text, number),
            };
            let (thread, name, text) = (thread.to_owned(), name.to_owned(), text.to_owned());
            calls.push(Call { thread, name, text, lines: (number, end) });
        }
    }
    calls
}

/// The names of blobs that were given, each when its bytes were on the disk;
/// the directory follows.
fn named(calls: &[Call], blobs: &Path) -> BTreeSet<String> {
    let is_name = |call: &&Call| call.succeeded() && call.names().1.parent() == Some(blobs);
    let all = calls.iter().filter(|call| call.is(NAMES)).filter(is_name);
    all.map(|call| {
        let (from, to) = call.names();
        let syncs = calls.iter().filter(|sync| sync.is(SYNCS) && sync.succeeded());
        let is_before = |sync: &&Call| sync.is_of(&from) && sync.lines.1 < call.lines.0;
        let last = syncs.clone().rfind(is_before);
        let last = last.unwrap_or_else(|| panic!("{call:?} was not synced"));
        let is_late = |write: &&Call| {
            let between = write.lines.1 > last.lines.0 && write.lines.0 < call.lines.1;
            write.is(WRITES) && (between && write.is_of(&from) || write.is_of(&to))
        };
        let late = calls.iter().find(is_late);
        assert!(late.is_none(), "{late:?} came after {last:?}");
        let after = |sync: &Call| sync.is_of(blobs) && sync.lines.0 > call.lines.1;
        assert!(syncs.clone().any(after), "the directory was not synced after {call:?}");
        to.file_name().expect("a blob has a name").to_string_lossy().into_owned()
    })
    .collect()
}

#[test]
fn blobs_are_named_when_their_bytes_are_on_the_disk() {
    let (daemon, registry) = (Daemon::start(Server::Davit), Registry::start());
    let layout = Layout::of(&layout::SMALL);
    let name = layout.push(&registry, "some/image:1");
    let archive = daemon.path("archive.tar");
    layout.archive(&archive);
    let blobs = daemon.path(BLOBS);
    let all = layout.content("amd64");
    let all: BTreeSet<_> = all.iter().map(|digest| digest.replace("sha256:", "")).collect();
    for (what, words) in [
        ("the daemon pulls", vec!["pull", &name]),
        ("an archive", vec!["import", &archive.to_string_lossy()]),
    ] {
        let tracer = Tracer::on(&daemon);
        must(&mut daemon.davit(&words));
        assert_eq!(named(&tracer.calls(), &blobs), all, "{what}");
        removes_all(&daemon);
    }
    // The client sends the bytes.
    let tracer = Tracer::on(&daemon);
    daemon.ctr_ok(Client::Ctr16, &["image", "pull", "--plain-http", &name]);
    assert_eq!(named(&tracer.calls(), &blobs), all);
    removes_all(&daemon);
}

fn removes_all(daemon: &Daemon) {
    for image in daemon.ctr_ok(Client::Ctr21, &["image", "ls", "-q"]).lines() {
        daemon.ctr_ok(Client::Ctr21, &["image", "rm", "--sync", image]);
    }
    assert_eq!(names_in(&daemon.path(BLOBS)), BTreeSet::new());
}

/// Those who look have to see what is wrong.
#[test]
fn a_blob_that_is_synced_too_late_is_seen() {
    let blobs = Path::new("/b/sha256");
    let write = "7 write(9</i/data>, \"\"..., 5) = 5\n";
    let sync = "7 fsync(9</i/data>) = 0\n";
    let name = "7 rename(\"/i/data\", \"/b/sha256/00\") = 0\n";
    let directory = "7 fsync(9</b/sha256>) = 0\n";
    let seen = |lines: &[&str]| {
        let calls = read(&lines.concat());
        std::panic::catch_unwind(|| named(&calls, blobs)).ok().map(|names| names.len())
    };
    assert_eq!(seen(&[write, sync, name, directory]), Some(1));
    let begun = "7 fsync(9</i/data> <unfinished ...>\n";
    let ended = "7 <... fsync resumed>) = 0\n";
    assert_eq!(
        seen(&[write, begun, "8 write(1</log>, \"\", 0) = 0\n", ended, name, directory]),
        Some(1)
    );
    for wrong in [
        &[write, name, sync, directory][..],
        &[write, sync, write, name, directory],
        &[write, begun, name, ended, directory],
        &[write, "7 fsync(9</i/data>) = -1 EIO (Input/output error)\n", name, directory],
        &[write, sync, directory, name],
        &[write, sync, name],
    ] {
        assert_eq!(seen(wrong), None, "{wrong:?}");
    }
}
