//! FIFOs, opened so that nothing ever waits and nothing is left open.
//!
//! Opening one end of a FIFO waits for the other end to be opened. A client
//! that dies between making the FIFO and opening it would leave the opener
//! waiting for ever. Linux never waits when a FIFO is opened for reading and
//! writing at once, so that is done first; while it is open both single ends
//! open at once, too; then it is closed.
//!
//! What is handed to a container is a description of its own: its flags
//! (O_NONBLOCK) are shared with nobody.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::sys::stat::Mode;

use crate::{Error, Result};

/// Both ends of a container's output.
#[derive(Debug)]
pub struct Output {
    /// The write end for the container, blocking.
    pub container: OwnedFd,
    /// A read end for the shim, non-blocking, never read: while it is open,
    /// the death of the client is no EPIPE for the container.
    pub spare: OwnedFd,
}

/// Both ends of a container's input.
#[derive(Debug)]
pub struct Input {
    /// The read end for the container, blocking.
    pub container: OwnedFd,
    /// A write end for the shim, never written: while it is open, the
    /// container sees no end of file when a client detaches. CloseIO drops
    /// it.
    pub spare: OwnedFd,
}

/// Makes a FIFO. Succeeds when there is one already.
///
/// # Errors
/// `AlreadyExists` when the path is something else.
pub fn make(path: &Path, mode: u32) -> Result<()> {
    match nix::unistd::mkfifo(path, Mode::from_bits_truncate(mode)) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::EEXIST) if is_fifo(path) => Ok(()),
        Err(e) => Err(Error::path("mkfifo", path, e)),
    }
}

/// Whether the path, links followed, is a FIFO.
pub fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.file_type().is_fifo())
}

/// Opens a FIFO that a container is to write to.
///
/// # Errors
/// [`Error::WrongType`] when the path is no FIFO, the system's otherwise.
pub fn open_output(path: &Path) -> Result<Output> {
    let both = open_both(path)?;
    let spare = reopen(path, &both, OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK))?;
    let container = reopen(path, &both, OpenOptions::new().write(true))?;
    Ok(Output { container, spare })
}

/// Opens a FIFO that a container is to read from.
///
/// # Errors
/// As [`open_output`].
pub fn open_input(path: &Path) -> Result<Input> {
    let both = open_both(path)?;
    let container = reopen(path, &both, OpenOptions::new().read(true))?;
    let spare = reopen(path, &both, OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK))?;
    Ok(Input { container, spare })
}

/// Opens one end of a FIFO without waiting for the other and without keeping
/// that open: a non-blocking reader (reads end of file while there is no
/// writer) or, with `write`, a non-blocking writer (EPIPE while there is no
/// reader).
///
/// # Errors
/// As [`open_output`].
pub fn open_end(path: &Path, write: bool) -> Result<OwnedFd> {
    let both = open_both(path)?;
    let mut options = OpenOptions::new();
    options.read(!write).write(write).custom_flags(libc::O_NONBLOCK);
    reopen(path, &both, &options)
}

/// Opens a FIFO for lines that must neither wait nor fail when nobody reads:
/// a full pipe gives `WouldBlock`, a missing reader is no EPIPE.
///
/// # Errors
/// As [`open_output`].
pub fn open_log(path: &Path) -> Result<File> {
    open_both(path)
}

fn open_both(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|e| Error::path("open", path, e))?;
    let metadata = file.metadata().map_err(|e| Error::path("stat", path, e))?;
    match metadata.file_type().is_fifo() {
        true => Ok(file),
        false => Err(Error::WrongType { path: path.to_owned(), expected: "FIFO" }),
    }
}

/// Opens the same FIFO again, though the path may name another file by now.
fn reopen(path: &Path, file: &File, options: &OpenOptions) -> Result<OwnedFd> {
    options
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map(OwnedFd::from)
        .map_err(|e| Error::path("open", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    fn fifo() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        make(&path, 0o600).unwrap();
        (dir, path)
    }

    fn is_blocking(fd: &OwnedFd) -> bool {
        let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
        !flags.contains(OFlag::O_NONBLOCK)
    }

    #[test]
    fn output_waits_for_nobody_and_ends_with_its_writer() {
        let (_dir, path) = fifo();
        make(&path, 0o600).unwrap();
        let output = open_output(&path).unwrap();
        assert!(is_blocking(&output.container) && !is_blocking(&output.spare));
        let mut writer = File::from(output.container);
        writer.write_all(b"before anybody reads").unwrap();
        let mut client = OpenOptions::new().read(true).open(&path).unwrap();
        writer.write_all(b", after").unwrap();
        drop(writer);
        let mut text = String::new();
        // No spare write end: the client sees the end.
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "before anybody reads, after");
    }

    #[test]
    fn a_client_s_death_is_no_broken_pipe() {
        let (_dir, path) = fifo();
        let Output { container, spare } = open_output(&path).unwrap();
        drop(OpenOptions::new().read(true).open(&path).unwrap());
        let mut writer = File::from(container);
        writer.write_all(b"still fine").unwrap();
        drop(spare);
        assert_eq!(writer.write_all(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn input_ends_when_the_spare_end_and_all_clients_are_gone() {
        let (_dir, path) = fifo();
        let Input { container, spare } = open_input(&path).unwrap();
        assert!(is_blocking(&container));
        let mut client = OpenOptions::new().write(true).open(&path).unwrap();
        client.write_all(b"one").unwrap();
        drop(client);
        let mut reader = File::from(container);
        let mut bytes = [0; 3];
        reader.read_exact(&mut bytes).unwrap();
        let mut second = OpenOptions::new().write(true).open(&path).unwrap();
        second.write_all(b"two").unwrap();
        drop((second, spare));
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!((&bytes, rest.as_str()), (b"one", "two"));
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        File::create(&path).unwrap();
        assert!(matches!(open_output(&path), Err(Error::WrongType { .. })));
        assert!(matches!(open_input(dir.path()), Err(Error::Path { .. })));
        assert!(open_end(&dir.path().join("none"), true).is_err());
        assert!(make(&path, 0o600).is_err() && !is_fifo(&path));
    }

    #[test]
    fn single_ends_are_non_blocking() {
        let (_dir, path) = fifo();
        let mut reader = File::from(open_end(&path, false).unwrap());
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
        let mut writer = File::from(open_end(&path, true).unwrap());
        assert_eq!(reader.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        writer.write_all(b"x").unwrap();
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 1);
    }
}
