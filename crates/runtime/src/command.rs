//! Running a shim binary for one short errand, within limits.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::{Deadline, Error};

/// How many bytes of each of stdout and stderr are kept; the rest is read and
/// dropped.
const MAX_OUTPUT: usize = 256 << 10;

/// What a service manager leaves in the daemon's environment for the daemon
/// alone.
const NOT_INHERITED: [&str; 6] = [
    "NOTIFY_SOCKET",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// What an errand came to.
pub(crate) struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output {
    /// Both streams as one text, for error messages.
    pub fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.stderr).trim().to_owned();
        let stdout = String::from_utf8_lossy(&self.stdout);
        if !stdout.trim().is_empty() {
            text = format!("{text}{}{}", if text.is_empty() { "" } else { "\n" }, stdout.trim());
        }
        text
    }
}

/// Prepares `program` to be run in `directory`, with the daemon's environment
/// as far as it is meant for others, and the limits that the daemon was given.
pub(crate) fn prepare(program: &Path, directory: Option<&Path>) -> Command {
    let mut command = Command::new(program);
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    davit_sys::process::restore_open_files(command.as_std_mut());
    command
}

/// Runs `command` with `input` on its stdin until it exits. Children of its
/// that hold its stdout open are not waited for. When the time is up, or the
/// returned future is dropped, its whole process group is killed.
pub(crate) async fn run(
    mut command: Command,
    input: &[u8],
    deadline: Deadline,
) -> Result<Output, Error> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.process_group(0).kill_on_drop(true);
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        Error::Binary(format!("fork/exec {program}: {}", crate::names::words(&error)))
    })?;
    let mut group = Group::of(&child);
    let output = deadline.limit(attend(&mut child, input)).await?;
    group.exited();
    output.map_err(|error| Error::Binary(format!("{program}: {error}")))
}

async fn attend(child: &mut Child, input: &[u8]) -> io::Result<Output> {
    let stdin = child.stdin.take();
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that does not read its options is free not to.
            let _ = stdin.write_all(input).await;
        }
    };
    let status = {
        let streams = async {
            tokio::join!(collect(out.as_mut(), &mut stdout), collect(err.as_mut(), &mut stderr));
        };
        let talk = async { tokio::join!(feed, streams) };
        tokio::pin!(talk);
        tokio::select! {
            biased;
            status = child.wait() => status?,
            _ = &mut talk => child.wait().await?,
        }
    };
    // What the program itself wrote is in the pipes by now; who still holds
    // the other end is not waited for.
    drain(out.map(ChildStdout::into_owned_fd), &mut stdout)?;
    drain(err.map(ChildStderr::into_owned_fd), &mut stderr)?;
    Ok(Output { status, stdout, stderr })
}

/// Reads until the end.
async fn collect(stream: Option<&mut (impl AsyncRead + Unpin)>, into: &mut Vec<u8>) {
    let Some(stream) = stream else { return };
    while read_some(stream, into).await {}
}

/// Reads what is there now.
fn drain(stream: Option<io::Result<OwnedFd>>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(stream) = stream.transpose()? else { return Ok(()) };
    fcntl(&stream, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut stream = File::from(stream);
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => keep(&buffer[..count], into),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn keep(bytes: &[u8], into: &mut Vec<u8>) {
    let room = MAX_OUTPUT.saturating_sub(into.len());
    into.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

async fn read_some(stream: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer).await {
        Ok(0) | Err(_) => false,
        Ok(count) => {
            keep(&buffer[..count], into);
            true
        }
    }
}

/// Kills the process group of a child that was given up.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        Self(pid.map(Pid::from_raw))
    }

    fn exited(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The child has not been reaped, so the group cannot be another's.
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = prepare(Path::new("/bin/sh"), None);
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn both_streams_and_the_status_come_back() {
        let command = shell("cat; echo warn >&2; exit 3");
        let output = run(command, b"options", Deadline::NEVER).await.unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!((&*output.stdout, &*output.stderr), (&b"options"[..], &b"warn\n"[..]));
        assert_eq!(output.text(), "warn\noptions");
    }

    #[tokio::test]
    async fn a_child_that_keeps_the_pipes_open_is_not_waited_for() {
        let command = shell("echo $$; sleep 1000 & echo done");
        let limit = Deadline::after(Duration::from_secs(60));
        let output = run(command, &[], limit).await.unwrap();
        let text = output.text();
        let (group, rest) = text.split_once('\n').unwrap();
        assert_eq!(rest, "done");
        killpg(Pid::from_raw(group.parse().unwrap()), Signal::SIGKILL).unwrap();
    }

    #[tokio::test]
    async fn the_group_dies_when_time_is_up() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let command =
            shell(&format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display()));
        let given_up = async {
            while !file.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = run(command, &[], Deadline::NEVER) => panic!("ended by itself"),
            () = given_up => {}
        }
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let gone = || {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .map_or(true, |stat| stat.contains(") Z"))
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !gone() {
            assert!(std::time::Instant::now() < deadline, "the child outlived its group");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn floods_are_cut() {
        let output = run(shell("yes | head -c 3000000"), &[], Deadline::NEVER).await.unwrap();
        assert_eq!(output.stdout.len(), MAX_OUTPUT);
    }
}
