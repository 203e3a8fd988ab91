//! Standard streams: every scheme, and clients that come late, go away and
//! come again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod runc_harness;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use davit_protocols::ttrpc::{options, task};
use protobuf::MessageField;
use runc_harness::{
    Daemon, Reader, any, exec, fifo, install, is_alive, must, wait_for, write, writer,
};

with_each_runtime! {
    fifos_carry_all_three_streams, no_byte_passes_through_the_shim, a_client_comes_late,
    a_client_dies_and_another_comes, a_client_never_comes, stdin_stays_open_until_close_io,
    stdout_can_be_opened_again_by_another_user, files_are_appended_to, a_logger_gets_both_streams,
    a_logger_that_lingers_is_ended, a_logger_that_ignores_sigterm_is_killed,
    a_logger_is_not_started_for_nothing, loggers_that_fail, execs_have_streams_of_their_own,
    any_file_can_take_the_output, io_owner_is_applied, much_output_is_complete,
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().into()
}

fn fifos_carry_all_three_streams(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sh", "-c", "read x; echo out $x; echo err $x >&2"]);
    let mut shim = daemon.start(&bundle);
    let (stdin, out, err) = (fifo(&daemon, "in"), fifo(&daemon, "out"), fifo(&daemon, "err"));
    let request = task::CreateTaskRequest {
        stdin: text(&stdin),
        stdout: text(&out),
        stderr: text(&err),
        ..bundle.create(runtime)
    };
    let (out, err) = (Reader::open(&out), Reader::open(&err));
    shim.run(&request);
    write(&writer(&stdin), "hello\n");
    assert_eq!(out.read_to_end(), "out hello\n");
    assert_eq!(err.read_to_end(), "err hello\n");
    let state = shim.state(&bundle.id, "").unwrap();
    assert_eq!(
        (state.stdin, state.stdout, state.stderr, state.terminal),
        (request.stdin, request.stdout, request.stderr, false)
    );
    shim.wait(&bundle.id, "").unwrap();
    shim.delete(&bundle.id, "").unwrap();
    let left = shim.descriptors();
    assert!(!left.values().any(|target| target.contains("/out-")), "{left:?}");
}

/// The container's descriptors are the FIFOs themselves, blocking, and the
/// shim has no write end of its output and no thread to copy.
fn no_byte_passes_through_the_shim(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    let (stdin, out, err) = (fifo(&daemon, "in"), fifo(&daemon, "out"), fifo(&daemon, "err"));
    let request = task::CreateTaskRequest {
        stdin: text(&stdin),
        stdout: text(&out),
        stderr: text(&err),
        ..bundle.create(runtime)
    };
    let pid = shim.run(&request);
    for (fd, path) in [(0, &stdin), (1, &out), (2, &err)] {
        let link = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
        assert_eq!(link, *path);
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = i32::from_str_radix(flags, 8).unwrap();
        assert_eq!(flags & 0o4000, 0, "O_NONBLOCK on {fd}");
        let access = flags & 0o3;
        assert_eq!(access, i32::from(fd != 0), "read or write only on {fd}");
    }
    for (fd, target) in shim.descriptors() {
        if target == text(&out) || target == text(&err) {
            let info = fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", shim.pid)).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
            let flags = i32::from_str_radix(flags, 8).unwrap();
            assert_eq!(flags & 0o3, 0, "the shim has a write end of {target}");
        }
    }
    let threads = fs::read_dir(format!("/proc/{}/task", shim.pid)).unwrap().count();
    assert_eq!(threads, 1);
    shim.end(&bundle.id);
}

fn a_client_comes_late(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["echo", "said early"]);
    let mut shim = daemon.start(&bundle);
    let out = fifo(&daemon, "out");
    shim.run(&task::CreateTaskRequest { stdout: text(&out), ..bundle.create(runtime) });
    shim.wait(&bundle.id, "").unwrap();
    assert_eq!(Reader::open(&out).read_to_end(), "said early\n");
    shim.delete(&bundle.id, "").unwrap();
}

fn a_client_dies_and_another_comes(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sh", "-c", "echo one; read x; echo two; read x; echo three"]);
    let mut shim = daemon.start(&bundle);
    let (stdin, out) = (fifo(&daemon, "in"), fifo(&daemon, "out"));
    let request = task::CreateTaskRequest {
        stdin: text(&stdin),
        stdout: text(&out),
        ..bundle.create(runtime)
    };
    let mut first = Reader::open(&out);
    shim.run(&request);
    assert_eq!(first.until("one\n"), "one\n");
    // Dies while it reads: the thread ends with the next chunk, the program
    // it stands for had its descriptors closed. What matters is the FIFO.
    drop(first);
    write(&writer(&stdin), "\n");
    // The thread of the first reader takes this and is gone.
    wait_for("the first client's end", || {
        let open = must(Command::new("sh").args([
            "-c",
            &format!("ls -l /proc/{}/fd | grep -c {} || true", std::process::id(), text(&out)),
        ]));
        (open.trim() == "0").then_some(())
    });
    // Nobody reads; the container must not notice.
    write(&writer(&stdin), "\n");
    assert_eq!(shim.wait(&bundle.id, "").unwrap().exit_status, 0);
    assert_eq!(Reader::open(&out).read_to_end(), "three\n");
    shim.delete(&bundle.id, "").unwrap();
}

/// A client that made the FIFOs and died before opening them: nothing hangs
/// and nothing stays.
fn a_client_never_comes(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sh", "-c", "echo x; read y; echo z >&2"]);
    let mut shim = daemon.start(&bundle);
    let before = shim.descriptors().len();
    let (stdin, out, err) = (fifo(&daemon, "in"), fifo(&daemon, "out"), fifo(&daemon, "err"));
    shim.run(&task::CreateTaskRequest {
        stdin: text(&stdin),
        stdout: text(&out),
        stderr: text(&err),
        ..bundle.create(runtime)
    });
    shim.close_io(&bundle.id, "").unwrap();
    // busybox's `read` fails at the end of file; the script goes on.
    assert_eq!(shim.wait(&bundle.id, "").unwrap().exit_status, 0);
    shim.delete(&bundle.id, "").unwrap();
    wait_for("the end of the descriptors", || {
        (shim.descriptors().len() <= before + 1).then_some(())
    });
}

fn stdin_stays_open_until_close_io(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sh", "-c", "cat; echo end"]);
    let mut shim = daemon.start(&bundle);
    let (stdin, out) = (fifo(&daemon, "in"), fifo(&daemon, "out"));
    let mut reader = Reader::open(&out);
    shim.run(&task::CreateTaskRequest {
        stdin: text(&stdin),
        stdout: text(&out),
        ..bundle.create(runtime)
    });
    for line in ["first client\n", "second client\n"] {
        // Each client opens, writes and goes away; `cat` reads on.
        write(&writer(&stdin), line);
        assert!(!reader.until(line).contains("end"));
    }
    let last = writer(&stdin);
    shim.close_io(&bundle.id, "").unwrap();
    write(&last, "third client\n");
    assert!(!reader.until("third client\n").contains("end"));
    drop(last);
    assert!(reader.read_to_end().ends_with("third client\nend\n"));
    shim.wait(&bundle.id, "").unwrap();
    shim.delete(&bundle.id, "").unwrap();
}

fn stdout_can_be_opened_again_by_another_user(runtime: &str) {
    let daemon = Daemon::new();
    let script = "echo one > /dev/stdout && echo two > /dev/stderr && echo three > /proc/self/fd/1";
    let bundle = daemon.bundle(&["sh", "-c", script]).with(|config| {
        config["process"]["user"] = serde_json::json!({"uid": 1234, "gid": 1234});
    });
    let mut shim = daemon.start(&bundle);
    let (out, err) = (fifo(&daemon, "out"), fifo(&daemon, "err"));
    let (out_reader, err_reader) = (Reader::open(&out), Reader::open(&err));
    shim.run(&task::CreateTaskRequest {
        stdout: text(&out),
        stderr: text(&err),
        ..bundle.create(runtime)
    });
    assert_eq!(shim.wait(&bundle.id, "").unwrap().exit_status, 0);
    assert_eq!(out_reader.read_to_end(), "one\nthree\n");
    assert_eq!(err_reader.read_to_end(), "two\n");
    shim.delete(&bundle.id, "").unwrap();
}

fn files_are_appended_to(runtime: &str) {
    let daemon = Daemon::new();
    let log = daemon.dir.path().join("made/on the way/log");
    let uri = format!("file://{}", text(&log).replace(' ', "%20"));
    for run in 0..2 {
        let bundle = daemon.bundle(&["sh", "-c", "echo 1; echo 2 >&2; echo 3; echo 4 >&2"]);
        let mut shim = daemon.start(&bundle);
        shim.run(&task::CreateTaskRequest {
            stdout: uri.clone(),
            stderr: uri.clone(),
            ..bundle.create(runtime)
        });
        assert_eq!(shim.wait(&bundle.id, "").unwrap().exit_status, 0);
        shim.delete(&bundle.id, "").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "1\n2\n3\n4\n".repeat(run + 1));
    }
}

fn any_file_can_take_the_output(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sh", "-c", "echo out; echo err >&2"]);
    let mut shim = daemon.start(&bundle);
    let file = daemon.dir.path().join("plain");
    fs::write(&file, "before\n").unwrap();
    shim.run(&task::CreateTaskRequest {
        stdout: text(&file),
        stderr: "/dev/null".into(),
        ..bundle.create(runtime)
    });
    shim.wait(&bundle.id, "").unwrap();
    shim.delete(&bundle.id, "").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "before\nout\n");
}

/// A logger's address: a script that `body` is the middle of.
fn logger(daemon: &Daemon, body: &str) -> String {
    let path = daemon.dir.path().join("logger.sh");
    let log = daemon.dir.path().join("logged");
    install(&path, format!("#!/bin/sh\nlog={}\n{body}\n", text(&log)));
    format!("binary://{}?--flag=value&env.EXTRA=more", text(&path))
}

fn logged(daemon: &Daemon) -> String {
    fs::read_to_string(daemon.dir.path().join("logged")).unwrap_or_default()
}

fn a_logger_gets_both_streams(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sh", "-c", "echo out; echo err >&2"]);
    let mut shim = daemon.start(&bundle);
    let body = "
        { echo args $*; echo id $CONTAINER_ID ns $CONTAINER_NAMESPACE extra $EXTRA
          echo others $(env | grep -c -e TTRPC -e SHIM); } > $log
        exec 5>&-
        /bin/cat <&3 | /bin/sed 's/^/3 /' >> $log
        /bin/cat <&4 | /bin/sed 's/^/4 /' >> $log
        echo end >> $log";
    let uri = logger(&daemon, body);
    shim.run(&task::CreateTaskRequest {
        stdout: uri.clone(),
        stderr: uri,
        ..bundle.create(runtime)
    });
    shim.wait(&bundle.id, "").unwrap();
    shim.delete(&bundle.id, "").unwrap();
    let (id, ns) = (&bundle.id, &daemon.namespace);
    let wanted =
        format!("args --flag value\nid {id} ns {ns} extra more\nothers 0\n3 out\n4 err\nend\n");
    assert_eq!(logged(&daemon), wanted);
    assert!(shim.children().is_empty(), "{:?}", shim.children());
}

/// A logger that does not end with its input gets SIGTERM.
fn a_logger_that_lingers_is_ended(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["echo", "out"]);
    let mut shim = daemon.start(&bundle);
    let body = "
        trap 'echo terminated >> $log; exit 0' TERM
        exec 5>&-
        while :; do /bin/sleep 0.1; done";
    let uri = logger(&daemon, body);
    shim.run(&task::CreateTaskRequest { stdout: uri, ..bundle.create(runtime) });
    shim.wait(&bundle.id, "").unwrap();
    shim.delete(&bundle.id, "").unwrap();
    assert_eq!(logged(&daemon), "terminated\n");
}

/// One that does not heed SIGTERM gets SIGKILL; the Delete waits for it.
fn a_logger_that_ignores_sigterm_is_killed(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["echo", "out"]);
    let mut shim = daemon.start(&bundle);
    let body = "
        trap 'echo unmoved >> $log' TERM
        echo $$ > $log
        exec 5>&-
        while :; do /bin/sleep 0.1; done";
    let uri = logger(&daemon, body);
    shim.run(&task::CreateTaskRequest { stdout: uri, ..bundle.create(runtime) });
    shim.wait(&bundle.id, "").unwrap();
    shim.delete(&bundle.id, "").unwrap();
    let logged = logged(&daemon);
    let (pid, rest) = logged.split_once('\n').unwrap();
    assert_eq!(rest, "unmoved\n");
    assert!(!is_alive(pid.parse().unwrap()), "the logger goes on");
    // What it has run ends by itself.
    wait_for("its children's end", || shim.children().is_empty().then_some(()));
}

/// Input that cannot be had leaves no logger behind, even one that lingers.
fn a_logger_is_not_started_for_nothing(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["true"]);
    let mut shim = daemon.start(&bundle);
    let lingering = logger(&daemon, "echo $$ > $log; exec 5>&-; while :; do /bin/sleep 0.1; done");
    let mut request = bundle.create(runtime);
    (request.stdin, request.stdout) = ("/no/such/fifo".into(), lingering);
    let refusal = shim.create(&request).unwrap_err();
    assert!(refusal.contains("/no/such/fifo"), "{refusal}");
    assert!(shim.children().is_empty(), "{:?}", shim.children());
}

fn loggers_that_fail(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["true"]);
    let mut shim = daemon.start(&bundle);
    let before = shim.descriptors().len();
    let mut request = bundle.create(runtime);
    request.stdout = "binary:///no/such/logger".into();
    let refusal = shim.create(&request).unwrap_err();
    assert!(refusal.contains("failed to start binary process"), "{refusal}");
    request.stdout = logger(&daemon, "exit 1").replace("binary:", "binary-v2:");
    let refusal = shim.create(&request).unwrap_err();
    assert!(refusal.contains("did not call ready"), "{refusal}");
    // One whose container cannot be made is ended, too.
    let lingering = logger(&daemon, "echo $$ > $log; exec 5>&-; exec /bin/cat <&3");
    let mut request = bundle.create("/no/such/runtime");
    request.stdout = lingering;
    shim.create(&request).unwrap_err();
    let pid: u32 = logged(&daemon).trim().parse().unwrap();
    wait_for("the logger's end", || (!is_alive(pid)).then_some(()));
    wait_for("the end of the descriptors", || {
        (shim.descriptors().len() <= before + 1).then_some(())
    });
}

fn execs_have_streams_of_their_own(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start(&bundle);
    shim.run(&bundle.create(runtime));
    let before = shim.descriptors().len();
    let (stdin, out) = (fifo(&daemon, "in"), fifo(&daemon, "out"));
    let mut request = exec(&bundle.id, "e", &["tr", "a-z", "A-Z"]);
    (request.stdin, request.stdout) = (text(&stdin), text(&out));
    let reader = Reader::open(&out);
    shim.exec(&request).unwrap();
    shim.start(&bundle.id, "e").unwrap();
    let client = writer(&stdin);
    shim.close_io(&bundle.id, "e").unwrap();
    write(&client, "upper\n");
    drop(client);
    assert_eq!(reader.read_to_end(), "UPPER\n");
    shim.wait(&bundle.id, "e").unwrap();
    shim.delete(&bundle.id, "e").unwrap();
    wait_for("the end of the descriptors", || (shim.descriptors().len() <= before).then_some(()));
    shim.end(&bundle.id);
}

/// IoUid and IoGid own the streams, for containers in a user namespace.
fn io_owner_is_applied(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["true"]).with(|config| {
        config["process"]["user"] = serde_json::json!({"uid": 77, "gid": 78});
    });
    let mut shim = daemon.start(&bundle);
    let out = fifo(&daemon, "out");
    let wanted = options::Options {
        binary_name: runtime.into(),
        io_uid: 77,
        io_gid: 78,
        ..Default::default()
    };
    let mut request = bundle.create(runtime);
    request.stdout = text(&out);
    request.options = MessageField::some(any("containerd.runc.v1.Options", &wanted));
    shim.create(&request).unwrap();
    let metadata = fs::metadata(&out).unwrap();
    assert!(metadata.file_type().is_fifo());
    assert_eq!((metadata.uid(), metadata.gid()), (77, 78));
    shim.delete(&bundle.id, "").unwrap();
}

fn much_output_is_complete(runtime: &str) {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["seq", "1", "200000"]);
    let mut shim = daemon.start(&bundle);
    let out = fifo(&daemon, "out");
    let reader = Reader::open(&out);
    shim.run(&task::CreateTaskRequest { stdout: text(&out), ..bundle.create(runtime) });
    let text = reader.read_to_end();
    assert_eq!(text.lines().count(), 200_000);
    assert!(text.ends_with("\n200000\n"));
    shim.wait(&bundle.id, "").unwrap();
    shim.delete(&bundle.id, "").unwrap();
}
