//! Terminals.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod runc_harness;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use davit_protocols::ttrpc::{process, task};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use protobuf::well_known_types::empty::Empty;
use runc_harness::{Bundle, Daemon, Reader, Shim, exec, fifo, install, wait_for, write, writer};

with_each_runtime! {
    a_terminal_is_copied_both_ways, the_size_changes, output_at_the_exit_is_complete,
    an_exec_gets_a_terminal, left_over_processes_do_not_hold_the_exit, nobody_reads,
    a_logger_gets_the_terminal, closing_stdin_hangs_up, a_client_comes_late_to_a_terminal,
    a_slow_client_gets_the_end_of_an_exec, a_slow_client_gets_the_end_of_a_container,
    deleting_does_not_wait_for_nobody,
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().into()
}

fn with_terminal(daemon: &Daemon, args: &[&str]) -> Bundle {
    daemon.bundle(args).with(|config| config["process"]["terminal"] = true.into())
}

fn resize(id: &str, exec_id: &str, width: u32, height: u32) -> task::ResizePtyRequest {
    task::ResizePtyRequest {
        id: id.into(),
        exec_id: exec_id.into(),
        width,
        height,
        ..Default::default()
    }
}

fn a_terminal_is_copied_both_ways(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = with_terminal(&daemon, &["sh", "-c", "tty; read x; echo got $x; exit 9"]);
    let mut shim = daemon.start(&bundle);
    let before = shim.descriptors().len();
    let (stdin, out) = (fifo(&daemon, "in"), fifo(&daemon, "out"));
    let mut reader = Reader::open(&out);
    shim.run(&task::CreateTaskRequest {
        stdin: text(&stdin),
        stdout: text(&out),
        terminal: true,
        ..bundle.create(runtime)
    });
    reader.until("/dev/pts/0\r\n");
    write(&writer(&stdin), "typed\r");
    let all = reader.read_to_end();
    assert!(all.ends_with("got typed\r\n"), "{all:?}");
    assert_eq!(shim.wait(&bundle.id, "").unwrap().exit_status, 9);
    shim.delete(&bundle.id, "").unwrap();
    wait_for("the end of the descriptors", || {
        (shim.descriptors().len() <= before + 1).then_some(())
    });
}

fn the_size_changes(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = with_terminal(&daemon, &["sh", "-c", "while read x; do stty size; done"]);
    let mut shim = daemon.start(&bundle);
    let (stdin, out) = (fifo(&daemon, "in"), fifo(&daemon, "out"));
    let mut reader = Reader::open(&out);
    shim.run(&task::CreateTaskRequest {
        stdin: text(&stdin),
        stdout: text(&out),
        terminal: true,
        ..bundle.create(runtime)
    });
    let _: Empty = shim.call("ResizePty", &resize(&bundle.id, "", 123, 45)).unwrap();
    write(&writer(&stdin), "\r");
    reader.until("45 123\r\n");
    // Without a terminal it succeeds and does nothing.
    shim.exec(&exec(&bundle.id, "e", &["sleep", "1000"])).unwrap();
    let _: Empty = shim.call("ResizePty", &resize(&bundle.id, "e", 1, 1)).unwrap();
    shim.end(&bundle.id);
}

fn output_at_the_exit_is_complete(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = with_terminal(&daemon, &["seq", "1", "20000"]);
    let mut shim = daemon.start(&bundle);
    let out = fifo(&daemon, "out");
    let reader = Reader::open(&out);
    shim.run(&task::CreateTaskRequest {
        stdout: text(&out),
        terminal: true,
        ..bundle.create(runtime)
    });
    shim.wait(&bundle.id, "").unwrap();
    shim.delete(&bundle.id, "").unwrap();
    let all = reader.read_to_end();
    assert_eq!(all.lines().count(), 20_000);
    assert!(all.ends_with("\r\n20000\r\n"));
}

fn an_exec_gets_a_terminal(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create(runtime));
    let before = shim.descriptors().len();
    let (stdin, out) = (fifo(&daemon, "in"), fifo(&daemon, "out"));
    let mut reader = Reader::open(&out);
    let mut request =
        exec(&bundle.id, "e", &["sh", "-c", "test -t 0 && echo yes; read x; stty size"]);
    (request.stdin, request.stdout, request.terminal) = (text(&stdin), text(&out), true);
    shim.exec(&request).unwrap();
    shim.start(&bundle.id, "e").unwrap();
    reader.until("yes\r\n");
    assert!(shim.state(&bundle.id, "e").unwrap().terminal);
    let _: Empty = shim.call("ResizePty", &resize(&bundle.id, "e", 80, 24)).unwrap();
    write(&writer(&stdin), "\r");
    let output = reader.read_to_end();
    assert!(output.ends_with("24 80\r\n"), "{output:?}");
    assert_eq!(shim.wait(&bundle.id, "e").unwrap().exit_status, 0);
    let refusal = shim.call::<_, Empty>("ResizePty", &resize(&bundle.id, "e", 1, 1)).unwrap_err();
    assert_eq!(refusal, "Unknown: cannot resize a stopped container");
    shim.delete(&bundle.id, "e").unwrap();
    wait_for("the end of the descriptors", || (shim.descriptors().len() <= before).then_some(()));
    shim.end(&bundle.id);
}

/// A process that the exec has left keeps the terminal; the exit is told all
/// the same, and Delete does not wait for it either.
fn left_over_processes_do_not_hold_the_exit(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create(runtime));
    let out = fifo(&daemon, "out");
    let mut reader = Reader::open(&out);
    let script = "trap '' HUP; sleep 1000 & echo started; exit 4";
    let mut request = exec(&bundle.id, "e", &["sh", "-c", script]);
    (request.stdout, request.terminal) = (text(&out), true);
    shim.exec(&request).unwrap();
    shim.start(&bundle.id, "e").unwrap();
    reader.until("started\r\n");
    assert_eq!(shim.wait(&bundle.id, "e").unwrap().exit_status, 4);
    shim.delete(&bundle.id, "e").unwrap();
    assert_eq!(shim.state(&bundle.id, "").unwrap().status, process::Status::RUNNING.into());
    shim.end(&bundle.id);
}

fn nobody_reads(runtime: &str) {
    let daemon = Daemon::new();
    // More than the FIFO and the terminal take.
    let bundle = with_terminal(&daemon, &["sh", "-c", "echo begun; seq 1 100000"]);
    let mut shim = daemon.start(&bundle);
    let out = fifo(&daemon, "out");
    shim.run(&task::CreateTaskRequest {
        stdout: text(&out),
        terminal: true,
        ..bundle.create(runtime)
    });
    // It is stopped by nobody reading, not lost: the first to come gets it.
    let mut reader = Reader::open(&out);
    reader.until("begun\r\n");
    drop(reader);
    shim.kill(&bundle.id, "", 9, false).unwrap();
    let status = shim.wait(&bundle.id, "").unwrap().exit_status;
    assert!([0, 137].contains(&status), "{status}");
    shim.delete(&bundle.id, "").unwrap();
}

fn a_logger_gets_the_terminal(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = with_terminal(&daemon, &["echo", "on a terminal"]);
    let mut shim = daemon.start(&bundle);
    let (path, log) = (daemon.dir.path().join("logger"), daemon.dir.path().join("log"));
    let script = format!(
        "#!/bin/sh\nexec 5>&-\n/bin/cat <&3 > {0}\n/bin/cat <&4 >> {0}\necho end >> {0}\n",
        text(&log)
    );
    install(&path, script);
    shim.run(&task::CreateTaskRequest {
        stdout: format!("binary://{}", text(&path)),
        terminal: true,
        ..bundle.create(runtime)
    });
    shim.wait(&bundle.id, "").unwrap();
    shim.delete(&bundle.id, "").unwrap();
    assert_eq!(fs::read_to_string(&log).unwrap(), "on a terminal\r\nend\n");
}

/// As under the Go shim, the end of standard input is the end of a terminal.
fn closing_stdin_hangs_up(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = with_terminal(
        &daemon,
        &["sh", "-c", "trap 'exit 3' HUP; echo begun; while :; do sleep 9; done"],
    );
    let mut shim = daemon.start(&bundle);
    let (stdin, out) = (fifo(&daemon, "in"), fifo(&daemon, "out"));
    let mut reader = Reader::open(&out);
    shim.run(&task::CreateTaskRequest {
        stdin: text(&stdin),
        stdout: text(&out),
        terminal: true,
        ..bundle.create(runtime)
    });
    reader.until("begun\r\n");
    drop(writer(&stdin));
    assert_eq!(shim.state(&bundle.id, "").unwrap().status, process::Status::RUNNING.into());
    shim.close_io(&bundle.id, "").unwrap();
    assert_eq!(shim.wait(&bundle.id, "").unwrap().exit_status, 3);
    shim.delete(&bundle.id, "").unwrap();
}

fn a_client_comes_late_to_a_terminal(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = with_terminal(&daemon, &["echo", "said early"]);
    let mut shim = daemon.start(&bundle);
    let out = fifo(&daemon, "out");
    shim.run(&task::CreateTaskRequest {
        stdout: text(&out),
        terminal: true,
        ..bundle.create(runtime)
    });
    shim.wait(&bundle.id, "").unwrap();
    assert_eq!(Reader::open(&out).read_to_end(), "said early\r\n");
    shim.delete(&bundle.id, "").unwrap();
}

/// More than a FIFO of one page takes, and not more than that and a terminal.
const LINES: [&str; 3] = ["seq", "100001", "101250"];
const LENGTH: usize = 10_000;

/// A client that is there, and has not read anything yet.
fn slow_client(path: &Path) -> File {
    let flags = OFlag::O_NONBLOCK.bits();
    let client = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap();
    fcntl(&client, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    fcntl(&client, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    client
}

fn rest(mut client: File) -> String {
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    rest
}

/// Runs a container to its end, for a client that has not read anything yet.
fn run_for_slow_client(shim: &mut Shim<'_>, bundle: &Bundle, runtime: &str) -> File {
    let out = fifo(shim.daemon, "out");
    let client = slow_client(&out);
    shim.run(&task::CreateTaskRequest {
        stdout: text(&out),
        terminal: true,
        ..bundle.create(runtime)
    });
    shim.wait(&bundle.id, "").unwrap();
    client
}

fn a_slow_client_gets_the_end_of_an_exec(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create(runtime));
    let before = shim.descriptors().len();
    let out = fifo(&daemon, "out");
    let client = slow_client(&out);
    let mut request = exec(&bundle.id, "e", &LINES);
    (request.stdout, request.terminal) = (text(&out), true);
    shim.exec(&request).unwrap();
    shim.start(&bundle.id, "e").unwrap();
    assert_eq!(shim.wait(&bundle.id, "e").unwrap().exit_status, 0);
    shim.delete(&bundle.id, "e").unwrap();
    let all = rest(client);
    assert_eq!(all.len(), LENGTH);
    assert!(all.ends_with("\r\n101250\r\n"), "{all:?}");
    wait_for("the end of the descriptors", || (shim.descriptors().len() <= before).then_some(()));
    shim.end(&bundle.id);
}

/// The shim may be asked to end after a container's Delete, which therefore waits.
fn a_slow_client_gets_the_end_of_a_container(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = with_terminal(&daemon, &LINES);
    let mut shim = daemon.start(&bundle);
    let client = run_for_slow_client(&mut shim, &bundle, runtime);
    let slow = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        rest(client)
    });
    shim.delete(&bundle.id, "").unwrap();
    shim.sigkill();
    assert_eq!(slow.join().unwrap().len(), LENGTH);
}

fn deleting_does_not_wait_for_nobody(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = with_terminal(&daemon, &LINES);
    let mut shim = daemon.start(&bundle);
    let client = run_for_slow_client(&mut shim, &bundle, runtime);
    drop(client);
    let begun = Instant::now();
    shim.delete(&bundle.id, "").unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
