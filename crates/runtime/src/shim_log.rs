//! A shim's log: a FIFO in its bundle, which the daemon reads.
//!
//! Reading never stops as long as the shim is there, so that a shim never
//! blocks on writing; what is passed on to the daemon's log is limited.

use std::path::Path;
use std::time::Duration;

use davit_types::{ContainerId, Namespace};
use nix::sys::stat::Mode;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Error;

/// The FIFO's name in a bundle.
const FILE: &str = "log";
/// A longer line is cut.
const MAX_LINE: usize = 8 << 10;
/// How many lines of one shim are passed on in each [`WINDOW`].
const MAX_LINES: u32 = 200;
const WINDOW: Duration = Duration::from_secs(1);

/// Reads a shim's log until it is dropped.
pub(crate) struct ShimLog(JoinHandle<()>);

impl ShimLog {
    /// Makes the FIFO where it is missing, opens it without waiting for a
    /// writer, and passes on what comes.
    pub fn open(bundle: &Path, namespace: &Namespace, id: &ContainerId) -> Result<Self, Error> {
        let path = bundle.join(FILE);
        let failed = |source: std::io::Error| Error::Io {
            operation: "open shim log pipe",
            path: path.clone(),
            source,
        };
        match nix::unistd::mkfifo(&path, Mode::S_IRWXU) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(failed(error.into())),
        }
        // Opened for writing too, so that there is no end of file between two
        // writers.
        let pipe =
            pipe::OpenOptions::new().read_write(true).open_receiver(&path).map_err(failed)?;
        let (namespace, id) = (namespace.clone(), id.clone());
        Ok(Self(tokio::spawn(pass_on(pipe, move |line| {
            log::info!(target: "shim", namespace = namespace.as_str(), container = id.as_str();
                "{line}");
        }))))
    }
}

impl Drop for ShimLog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn pass_on(mut pipe: pipe::Receiver, mut sink: impl FnMut(&str)) {
    let mut lines = Lines::default();
    let mut buffer = [0; 4096];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => lines.feed(&buffer[..count], Instant::now(), &mut sink),
        }
    }
}

/// Cuts a stream into lines, and leaves some out.
#[derive(Default)]
struct Lines {
    unfinished: Vec<u8>,
    window: Option<Instant>,
    passed: u32,
    left_out: u64,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], now: Instant, sink: &mut impl FnMut(&str)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = MAX_LINE.saturating_sub(self.unfinished.len());
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            self.unfinished.extend_from_slice(&text[..text.len().min(room)]);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.unfinished);
                self.pass(&String::from_utf8_lossy(&line), now, sink);
            }
        }
    }

    fn pass(&mut self, line: &str, now: Instant, sink: &mut impl FnMut(&str)) {
        if self.window.is_none_or(|start| now.duration_since(start) >= WINDOW) {
            if self.left_out > 0 {
                sink(&format!("{} lines of this shim's log were left out", self.left_out));
            }
            (self.window, self.passed, self.left_out) = (Some(now), 0, 0);
        }
        if self.passed < MAX_LINES {
            self.passed += 1;
            if !line.is_empty() {
                sink(line);
            }
        } else {
            self.left_out += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(lines: &mut Lines, bytes: &[u8], now: Instant) -> Vec<String> {
        let mut seen = Vec::new();
        lines.feed(bytes, now, &mut |line: &str| seen.push(line.to_owned()));
        seen
    }

    #[test]
    fn lines_are_put_together_and_cut() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        assert_eq!(feed(&mut lines, b"one\ntw", now), ["one"]);
        assert_eq!(feed(&mut lines, b"o\n\nthree", now), ["two"]);
        assert_eq!(feed(&mut lines, b"\n", now), ["three"]);
        let long = [vec![b'x'; 3 * MAX_LINE], b"\nnext\n".to_vec()].concat();
        let seen = feed(&mut lines, &long, now);
        assert_eq!((seen[0].len(), seen[1].as_str()), (MAX_LINE, "next"));
    }

    #[test]
    fn a_flood_is_counted_instead_of_passed_on() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let flood = b"x\n".repeat(MAX_LINES as usize + 5);
        assert_eq!(feed(&mut lines, &flood, now).len(), MAX_LINES as usize);
        let seen = feed(&mut lines, b"y\n", now + WINDOW);
        assert_eq!(seen, ["5 lines of this shim's log were left out", "y"]);
    }

    #[tokio::test]
    async fn a_writer_never_waits() {
        use std::io::Write as _;
        let directory = tempfile::tempdir().unwrap();
        let (namespace, id) = (Namespace::new("n").unwrap(), ContainerId::new("c").unwrap());
        let _log = ShimLog::open(directory.path(), &namespace, &id).unwrap();
        let path = directory.path().join(FILE);
        let writing = tokio::task::spawn_blocking(move || {
            let mut pipe = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            for _ in 0..1000 {
                pipe.write_all(&[b'x'; 4096]).unwrap();
            }
        });
        tokio::time::timeout(Duration::from_secs(60), writing).await.unwrap().unwrap();
    }
}
