//! The example shim for plain processes, under a real containerd that is
//! started for each test, driven by `ctr`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to end")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const RUNTIME: &str = "io.containerd.davit-process.v1";
const BINARY: &str = "containerd-shim-davit-process-v1";
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a condition.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A containerd of our own, ended with the test.
struct Containerd {
    dir: tempfile::TempDir,
    process: Child,
}

impl Containerd {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("rootfs")).unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        let examples = std::env::current_exe().unwrap().parent().unwrap().join("../examples");
        let shim = examples.join(BINARY).canonicalize().expect("cargo test builds the examples");
        std::os::unix::fs::symlink(shim, dir.path().join("bin").join(BINARY)).unwrap();
        let process = spawn(dir.path());
        let containerd = Self { dir, process };
        containerd.wait_ready();
        containerd
    }

    fn wait_ready(&self) {
        wait_for("containerd", || self.ctr(&["version"]).status.success().then_some(()));
    }

    /// Kills containerd, as a crash would, and starts it again.
    fn crash(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(self.dir.path());
        self.wait_ready();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.path("c.sock")).args(args).stdin(Stdio::null());
        command
    }

    fn ctr(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs `ctr` and returns what it prints.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.ctr(args);
        assert!(output.status.success(), "{args:?}: {output:?}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    fn run_args<'a>(&self, rootfs: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["run", "--runtime", RUNTIME, "--rootfs"];
        let flags = rest.iter().take_while(|arg| arg.starts_with('-')).count();
        args.splice(1..1, rest[..flags].iter().copied());
        args.push(rootfs);
        args.extend(&rest[flags..]);
        args
    }

    fn run(&self, rest: &[&str]) -> Command {
        let rootfs = self.path("rootfs");
        self.command(&self.run_args(rootfs.to_str().unwrap(), rest))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn task(&self, id: &str) -> Option<(u32, String)> {
        let list = self.ok(&["task", "ls"]);
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(id))?;
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some((fields[1].parse().unwrap(), fields[2].to_owned()))
    }

    fn wait_status(&self, id: &str, status: &str) -> u32 {
        wait_for(status, || self.task(id).filter(|(_, seen)| seen == status)).0
    }

    /// Deletes a stopped task and returns the exit status that came of it.
    fn delete(&self, id: &str) -> Option<u32> {
        let output = self.ctr(&["task", "rm", id]);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        text.split("exit with non-zero exit code ").nth(1)?.split('"').next()?.parse().ok()
    }

    /// The processes that serve for this containerd.
    fn shims(&self) -> Vec<u32> {
        let address = self.path("c.sock");
        let pids = fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let args: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
                args[0].ends_with(BINARY.as_bytes())
                    && args.contains(&address.as_os_str().as_encoded_bytes())
            })
            .collect()
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.path("state/io.containerd.runtime.v2.task/default").join(id)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for pid in self.shims() {
            let _ = signal(pid, "KILL");
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(dir: &Path) -> Child {
    let config = dir.join("config.toml");
    fs::write(&config, "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")
        .unwrap();
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap());
    Command::new("containerd")
        .arg("--config")
        .arg(config)
        .arg("--address")
        .arg(dir.join("c.sock"))
        .arg("--root")
        .arg(dir.join("root"))
        .arg("--state")
        .arg(dir.join("state"))
        .args(["--log-level", "debug"])
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .process_group(0)
        .spawn()
        .unwrap()
}

fn signal(pid: u32, name: &str) -> bool {
    Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap().success()
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn output_input_and_exit_statuses() {
    let containerd = Containerd::start();
    let output = containerd.run(&["--rm", "echo", "/bin/echo", "hello", "world"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello world\n", "{}", containerd.log());

    let script = "cat; echo problem >&2; exit 7";
    let mut child = containerd
        .run(&["--rm", "cat", "/bin/sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Longer than a pipe, so that both directions have to flow.
    let text = vec![b'x'; 300_000];
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn({
        let text = text.clone();
        move || stdin.write_all(&text).unwrap()
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!((output.stdout == text, &output.stderr[..]), (true, &b"problem\n"[..]));

    let output = containerd.run(&["--rm", "kill", "/bin/sh", "-c", "kill -9 $$"]).output().unwrap();
    assert_eq!(output.status.code(), Some(137));
    let output = containerd.run(&["--rm", "none", "/no/such/program"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("start /no/such/program"), "{text}");
    let ended = || containerd.shims().is_empty().then_some(());
    wait_for("the shims to end", ended);
}

#[test]
fn exec_kill_ps_and_metrics() {
    let containerd = Containerd::start();
    assert!(containerd.run(&["-d", "t", "/bin/sleep", "1000"]).status().unwrap().success());
    let pid = containerd.wait_status("t", "RUNNING");
    assert!(is_alive(pid));
    let text =
        containerd.ok(&["task", "exec", "--exec-id", "e", "t", "/bin/sh", "-c", "echo in; pwd"]);
    assert!(text.starts_with("in\n"), "{text}");
    let failed =
        containerd.ctr(&["task", "exec", "--exec-id", "e", "t", "/bin/sh", "-c", "exit 3"]);
    assert_eq!(failed.status.code(), Some(3));
    assert!(containerd.ok(&["task", "ps", "t"]).contains(&pid.to_string()));
    assert!(containerd.ok(&["task", "metrics", "t"]).contains("pids.current"));

    let refused = containerd.ctr(&["task", "pause", "t"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("method Pause: not implemented"), "{text}");
    let refused = containerd.ctr(&["task", "rm", "t"]);
    assert!(!refused.status.success());
    containerd.ok(&["task", "kill", "-s", "SIGTERM", "t"]);
    containerd.wait_status("t", "STOPPED");
    assert!(!is_alive(pid));
    let refused = containerd.ctr(&["task", "kill", "t"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("process already finished: not found"), "{text}");
    // 128 + SIGTERM.
    assert_eq!(containerd.delete("t"), Some(143));
    assert_eq!(containerd.task("t"), None);
    containerd.ok(&["container", "rm", "t"]);
    wait_for("the bundle to go", || (!containerd.bundle("t").exists()).then_some(()));
    wait_for("the shim to end", || containerd.shims().is_empty().then_some(()));
}

#[test]
fn events_wait_for_the_daemon_and_keep_their_order() {
    let mut containerd = Containerd::start();
    let gate = containerd.path("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.02; done; exit 9", gate.display());
    assert!(containerd.run(&["-d", "t", "/bin/sh", "-c", &script]).status().unwrap().success());
    let pid = containerd.wait_status("t", "RUNNING");
    let [shim] = containerd.shims()[..] else { panic!("one shim") };

    // The process ends while there is no daemon.
    containerd.process.kill().unwrap();
    containerd.process.wait().unwrap();
    fs::write(&gate, "").unwrap();
    wait_for("the process to end", || (!is_alive(pid)).then_some(()));
    wait_for("the record of its end", || {
        let record = fs::read_to_string(containerd.bundle("t").join("process.json")).unwrap();
        record.contains("\"exit\":[9,").then_some(())
    });
    assert!(is_alive(shim));

    containerd.process = spawn(containerd.dir.path());
    containerd.wait_ready();
    containerd.wait_status("t", "STOPPED");
    let forwarded = "topic=/tasks/exit type=containerd.events.TaskExit";
    wait_for("the exit event", || containerd.log().contains(forwarded).then_some(()));
    let log = containerd.log();
    let position = |topic: &str| log.find(&format!("topic=/tasks/{topic} ")).unwrap();
    assert!(position("create") < position("start") && position("start") < position("exit"));
    assert_eq!(log.matches(forwarded).count(), 1);
    assert_eq!(containerd.delete("t"), Some(9));
    wait_for("the shim to end", || containerd.shims().is_empty().then_some(()));
}

#[test]
fn a_daemon_that_comes_back_finds_its_processes() {
    let mut containerd = Containerd::start();
    assert!(containerd.run(&["-d", "t", "/bin/sleep", "1000"]).status().unwrap().success());
    let pid = containerd.wait_status("t", "RUNNING");
    let [shim] = containerd.shims()[..] else { panic!("one shim") };
    // Operators and service managers send these; containers must not suffer.
    for name in ["TERM", "INT", "HUP", "USR1", "PIPE"] {
        assert!(signal(shim, name));
    }
    containerd.crash();
    assert_eq!(containerd.wait_status("t", "RUNNING"), pid);
    wait_for("the log line", || containerd.log().contains("signal=SIGTERM").then_some(()));
    containerd.ok(&["task", "kill", "-s", "SIGKILL", "t"]);
    containerd.wait_status("t", "STOPPED");
    assert_eq!(containerd.delete("t"), Some(137));
    wait_for("the shim to end", || containerd.shims().is_empty().then_some(()));
}

#[test]
fn a_dead_shim_is_cleaned_up_after() {
    let containerd = Containerd::start();
    assert!(containerd.run(&["-d", "t", "/bin/sleep", "1000"]).status().unwrap().success());
    let pid = containerd.wait_status("t", "RUNNING");
    let address = fs::read_to_string(containerd.bundle("t").join("address")).unwrap();
    let socket = PathBuf::from(address.strip_prefix("unix://").unwrap());
    assert!(socket.exists());
    let [shim] = containerd.shims()[..] else { panic!("one shim") };
    assert!(signal(shim, "KILL"));
    wait_for("the process to be killed", || (!is_alive(pid)).then_some(()));
    wait_for("the socket to go", || (!socket.exists()).then_some(()));
    wait_for("the bundle to go", || (!containerd.bundle("t").exists()).then_some(()));
    assert_eq!(containerd.task("t"), None);
}
