//! Running `mkfs.erofs`.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use davit_sys::without::without_copy_file_range;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::Error;

const PROGRAM: &str = "mkfs.erofs";

/// How long one layer may take.
const LIMIT: Duration = Duration::from_secs(3600);

/// How much of what the program says is told.
const WORDS_MAX: u64 = 512;

/// Files are cut into blocks, so that holes stay holes and a layer cannot
/// fill the disk with nothing; their data is never among the metadata, as
/// containerd wants it.
const OPTIONS: [&str; 3] = ["--quiet", "-Enoinline_data", "--chunksize=4096"];

/// The program, found.
#[derive(Debug)]
pub(crate) struct Mkfs(PathBuf);

impl Mkfs {
    /// Looks for it where programs are.
    pub(crate) fn find() -> Result<Self, Error> {
        let path = env::var_os("PATH").unwrap_or_default();
        let runs = |path: &PathBuf| {
            fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 1 > 0)
        };
        let found = env::split_paths(&path).map(|dir| dir.join(PROGRAM)).find(runs);
        found.map(Self).ok_or_else(|| Error::Skipped(format!("could not find {PROGRAM}")))
    }

    /// Makes the file `image` of the directory `source`. After a failure the
    /// file is gone.
    pub(crate) fn run(&self, source: &Path, image: &Path) -> Result<(), Error> {
        let failed = |reason: String| Error::Convert { path: source.to_owned(), reason };
        let result = self.attempt(source, image).map_err(failed);
        if result.is_err()
            && let Err(error) = fs::remove_file(image)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            log::warn!(path:% = image.display(), error:%; "remove half a layer");
        }
        result
    }

    fn attempt(&self, source: &Path, image: &Path) -> Result<(), String> {
        let text = |error: std::io::Error| format!("{PROGRAM}: {error}");
        let words = memfd_create("mkfs", MemfdFlags::CLOEXEC).map_err(|e| text(e.into()))?;
        let mut words = File::from(words);
        let output = words.try_clone().map_err(text)?;
        let mut command = Command::new(&self.0);
        command.args(OPTIONS).arg(image).arg(source).stdin(Stdio::null());
        command.stdout(output.try_clone().map_err(text)?).stderr(output);
        // It collects the data in /tmp, and 1.5 gives up with EIO where that
        // is another filesystem.
        without_copy_file_range(&mut command);
        let mut child = command.spawn().map_err(text)?;
        let ended = wait(child.id());
        if !matches!(ended, Ok(true)) {
            // It may have ended just now.
            let _ = child.kill();
        }
        let status = child.wait().map_err(text)?;
        match ended {
            Err(error) => return Err(text(error)),
            Ok(false) => return Err(format!("{PROGRAM} takes more than {} s", LIMIT.as_secs())),
            Ok(true) => {}
        }
        if status.success() {
            return Ok(());
        }
        let mut said = Vec::new();
        let read = words
            .seek(SeekFrom::Start(0))
            .and_then(|_| words.take(WORDS_MAX).read_to_end(&mut said));
        read.map_err(text)?;
        Err(format!("{PROGRAM}: {status}: {}", String::from_utf8_lossy(&said).trim()))
    }
}

/// Waits for the end of a child; false when that takes too long.
fn wait(child: u32) -> std::io::Result<bool> {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(std::io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec { tv_sec: LIMIT.as_secs().cast_signed(), tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}
