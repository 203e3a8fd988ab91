//! The harness of the black-box tests: private daemons (ours and
//! containerd's), the clients that talk to them, images made from busybox and
//! this machine's files, private registries and what can go wrong on the way
//! to them, and a look at what is left over afterwards.
//!
//! Binaries are found by path. Ours come from the directory that
//! `DAVIT_BIN_DIR` names, `target/release` by default (`make release`); newer
//! peers from the tree that `setup.sh` makes, `target/forky` by default.

pub mod api;
pub mod authority;
pub mod daemon;
pub mod docker;
pub mod fault_proxy;
pub mod http;
pub mod image;
pub mod layout;
pub mod leftovers;
pub mod peers;
pub mod proxy;
pub mod pty;
pub mod registry;
pub mod scenarios;
pub mod terminal;
pub mod text;
pub mod tokens;
pub mod vm;

pub use daemon::{Daemon, Server};
pub use peers::{Client, Runtime};

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What a command did, for messages: its words, exit status and both streams.
pub fn describe(command: &Command, output: &Output) -> String {
    format!(
        "{command:?}: {}\n--- stdout\n{}--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    )
}

/// Runs a command to its end and hands back its stdout.
///
/// # Panics
/// When it cannot be started or fails; the message holds all that it printed.
pub fn must(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{}", describe(command, &output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes a program of `text`. By a process of its own: what a test beside us
/// forks meanwhile would have the program open for writing, and nobody could
/// run it.
///
/// # Panics
/// When `path` cannot be written.
pub fn install(path: &Path, text: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut child = install.spawn().expect("install is there");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(text.as_bytes()).expect("it is read");
    drop(stdin);
    assert!(child.wait().expect("it was started").success(), "{install:?}");
}

/// Waits until `condition` yields something, looking every 10 ms.
///
/// # Panics
/// When `seconds` pass without it; `what` names what was waited for.
pub fn wait_for<T>(what: &str, seconds: u64, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {seconds} s");
        std::thread::sleep(Duration::from_millis(10));
    }
}
