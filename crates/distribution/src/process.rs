//! Programs that we ask something: credential helpers, image verifiers. Each
//! gets so much time and is listened to so far, and is ended together with
//! whatever it started when it takes longer.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// What a program may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long it may run.
    pub time: Duration,
    /// How much of each of its outputs is kept, in bytes; the rest is read and
    /// dropped, so that the program does not notice.
    pub output: usize,
}

/// One output of a program.
#[derive(Debug, Default)]
pub struct Output {
    /// Its beginning.
    pub bytes: Vec<u8>,
    /// Whether there was more.
    pub is_cut: bool,
}

/// A program that has ended by itself.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// What it said.
    pub stdout: Output,
    /// What it complained of.
    pub stderr: Output,
}

/// A program that runs; ended with its whole process group when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Without an id it has been waited for, and its number may be
        // somebody else's.
        if let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            // Gone by itself meanwhile, perhaps.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// Runs `command` with `input` as its standard input.
///
/// # Errors
/// It cannot be started, or takes too long ([`io::ErrorKind::TimedOut`]).
pub async fn run(mut command: Command, input: &[u8], limits: Limits) -> io::Result<Finished> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut running = Running(command.spawn()?);
    let late = || {
        let reason = format!("no answer within {} s", limits.time.as_secs_f32());
        io::Error::new(io::ErrorKind::TimedOut, reason)
    };
    timeout(limits.time, converse(&mut running.0, input, limits.output))
        .await
        .map_err(|_| late())?
}

async fn converse(child: &mut Child, input: &[u8], limit: usize) -> io::Result<Finished> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async move {
        if let Some(mut stdin) = stdin {
            // A program need not read what it does not want to know.
            let _ = stdin.write_all(input).await;
        }
    };
    let ((), stdout, stderr) = tokio::join!(write, read(stdout, limit), read(stderr, limit));
    let (stdout, stderr) = (stdout?, stderr?);
    // Only now, so that its number stays its own as long as there is somebody
    // to be ended.
    let status = child.wait().await?;
    Ok(Finished { status, stdout, stderr })
}

async fn read(source: Option<impl AsyncRead + Unpin>, limit: usize) -> io::Result<Output> {
    let mut output = Output::default();
    let Some(mut source) = source else { return Ok(output) };
    let mut part = [0; 4096];
    loop {
        let count = source.read(&mut part).await?;
        if count == 0 {
            return Ok(output);
        }
        let kept = count.min(limit - output.bytes.len());
        output.bytes.extend_from_slice(&part[..kept]);
        output.is_cut |= kept < count;
    }
}

#[cfg(test)]
pub mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Instant;

    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;

    use super::*;

    const LIMITS: Limits = Limits { time: Duration::from_secs(20), output: 8 };

    /// Makes an executable script. Another process writes it: one that this
    /// one starts meanwhile could hold it open for writing, and a file that
    /// somebody writes to cannot be run.
    pub fn script(path: &Path, text: &str) {
        let draft = path.with_extension("draft");
        fs::write(&draft, format!("#!/bin/sh\n{text}\n")).unwrap();
        let mut install = std::process::Command::new("install");
        let status = install.arg("-m755").arg(&draft).arg(path).status().unwrap();
        assert!(status.success());
        fs::remove_file(draft).unwrap();
    }

    fn shell(text: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", text]);
        command
    }

    #[tokio::test]
    async fn input_goes_in_and_output_comes_out_up_to_a_limit() {
        let finished = run(shell("cat; echo oops >&2; exit 3"), b"hello", LIMITS).await.unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(
            (finished.stdout.bytes.as_slice(), finished.stdout.is_cut),
            (&b"hello"[..], false)
        );
        assert_eq!(finished.stderr.bytes, b"oops\n");
        let much = shell("head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2");
        let finished = run(much, &vec![0; 1 << 20], LIMITS).await.unwrap();
        assert!(finished.status.success() && finished.stdout.is_cut && finished.stderr.is_cut);
        assert_eq!((finished.stdout.bytes.len(), finished.stderr.bytes.len()), (8, 8));
    }

    #[tokio::test]
    async fn whoever_takes_too_long_is_ended_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let mut reader = fs::File::from(open(&fifo, flags, Mode::empty()).unwrap());
        // What is left behind holds the output, and the FIFO.
        let text = format!("(exec 4>'{}'; echo up >&4; sleep 1000) & exit 0", fifo.display());
        let limits = Limits { time: Duration::from_secs(1), ..LIMITS };
        let error = run(shell(&text), b"", limits).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "no answer within 1 s");
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut said = Vec::new();
        // Ends when nobody has it open for writing any more.
        while std::io::Read::read_to_end(&mut reader, &mut said).is_err() {
            assert!(Instant::now() < deadline, "it still runs");
            tokio::task::yield_now().await;
        }
        assert_eq!(said, b"up\n");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_an_error() {
        let error = run(Command::new("/nowhere/at-all"), b"", LIMITS).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
