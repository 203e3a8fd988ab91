//! A daemon in a directory of its own, ended with its test.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its part; tests panic")]

pub mod image;
pub mod registry;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::transport::{Channel, Endpoint};

/// How long anything may take before a test gives up.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `condition` answers something.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = condition() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Makes a program of `text`. By a process of its own: what a test beside us
/// forks meanwhile would have the program open for writing, and nobody could
/// run it.
pub fn install(path: &Path, text: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut child = install.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// The program under test.
pub fn davitd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_davitd"));
    command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub fn run(arguments: &[&str]) -> Output {
    davitd().args(arguments).output().unwrap()
}

/// Where a daemon lives; outlives the daemon.
pub struct Home {
    pub dir: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("davitd-").tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("d.sock")
    }

    /// The command that starts a daemon here.
    pub fn command(&self) -> Command {
        let mut command = davitd();
        command
            .arg("--root")
            .arg(self.path("root"))
            .arg("--state")
            .arg(self.path("state"))
            .arg("--address")
            .arg(self.socket())
            .args(["--log-level", "debug"]);
        command
    }

    pub fn start(&self) -> Daemon<'_> {
        self.start_with(&mut self.command())
    }

    /// Starts a process whose log is kept, and does not wait for it.
    pub fn spawn(&self, command: &mut Command) -> Child {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = self.path("log");
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                use std::io::Write;
                writeln!(file, "{line}").unwrap();
            }
        });
        child
    }

    pub fn start_with(&self, command: &mut Command) -> Daemon<'_> {
        let mut daemon = Daemon { home: self, child: self.spawn(command) };
        wait_for("the daemon serves", || {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("the daemon ended: {status}\n{}", self.log());
            }
            UnixStream::connect(self.socket()).ok()
        });
        daemon
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log());
        }
        let _ = davit_sys::mount::unmount_recursive(self.dir.path(), true);
    }
}

/// A daemon that runs.
pub struct Daemon<'h> {
    pub home: &'h Home,
    pub child: Child,
}

impl Daemon<'_> {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Ends it as a supervisor does.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        wait_for("the daemon ends", || self.child.try_wait().unwrap())
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Runs Debian's client; panics when it fails.
    pub fn ctr(&self, arguments: &[&str]) -> String {
        let output = self.try_ctr(arguments);
        assert!(
            output.status.success(),
            "ctr {arguments:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn try_ctr(&self, arguments: &[&str]) -> Output {
        Command::new("ctr")
            .arg("--address")
            .arg(self.home.socket())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub async fn channel(&self) -> Channel {
        channel(&self.home.socket()).await
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub async fn channel(socket: &Path) -> Channel {
    try_channel(socket).await.unwrap()
}

/// A connection, if anybody listens.
pub async fn try_channel(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let address = format!("unix://{}", socket.display());
    Endpoint::from_shared(address).unwrap().connect().await
}
