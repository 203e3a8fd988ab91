//! A runtime's binary where nobody can write to it.
//!
//! What runs in a container can reach the binary that started it, by
//! `/proc/self/exe`, and write to it (CVE-2019-5736). So runc and crun do not
//! enter a container as they were started: they first mount or copy
//! themselves to where nothing can be written, and run that. It takes 2 to
//! 10 ms, and the mounts keep every program busy that watches those of the host
//! (runc's issue 3925). crun does it at every call.
//!
//! They leave it when they run from memory already, from a file that is
//! sealed. One such file serves all calls, of many processes.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::{Errno, FdFlags};

/// What runtimes look for; runc 1.1 and crun want these and no others.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Where SELinux is. It tells programs apart by the file that they are in, and
/// does not know a copy.
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// A copy of a binary in memory that can only be read and run.
#[derive(Debug)]
pub struct SealedCopy {
    file: OwnedFd,
    original: Original,
}

/// What a copy was made of: a file as it was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Original {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds of the last change, of attributes too.
    changed: (i64, i64),
}

impl Original {
    fn of(data: &Metadata) -> Self {
        Self {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }
}

/// As another process can read it with [`FromStr`].
impl fmt::Display for Original {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, inode, size, changed: (seconds, nanos) } = self;
        write!(f, "{device}:{inode}:{size}:{seconds}:{nanos}")
    }
}

impl FromStr for Original {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let read = || {
            let mut numbers = text.split(':');
            let original = Self {
                device: numbers.next()?.parse().ok()?,
                inode: numbers.next()?.parse().ok()?,
                size: numbers.next()?.parse().ok()?,
                changed: (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?),
            };
            numbers.next().is_none().then_some(original)
        };
        read().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file's identity"))
    }
}

impl SealedCopy {
    /// Copies `binary`, a name that is looked up in `PATH` or a path. None
    /// where the copy would not do what the file does, or takes more than
    /// `limit` bytes: scripts, files with privileges of their own, and all of
    /// them under SELinux.
    ///
    /// # Errors
    /// The file cannot be read, or the kernel makes no such copies.
    pub fn of(binary: &Path, limit: u64) -> io::Result<Option<Self>> {
        // One may be named that is none: a FIFO would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut from = File::from(rustix::fs::open(find_binary(binary), flags, Mode::empty())?);
        let data = from.metadata()?;
        let has_privileges = data.permissions().mode() & 0o6000 != 0;
        if !data.is_file() || data.size() > limit || has_privileges || Path::new(SELINUX).exists() {
            return Ok(None);
        }
        let mut magic = [0; 4];
        if from.read(&mut magic)? < magic.len() || magic != *b"\x7fELF" {
            return Ok(None);
        }
        from.rewind()?;
        let name = binary.file_name().unwrap_or_default();
        let mut copy = File::from(memory(name.as_encoded_bytes())?);
        let original = Original::of(&data);
        let copied = io::copy(&mut from.take(limit), &mut copy)?;
        if copied != original.size {
            return Err(io::Error::other("the file changed while it was copied"));
        }
        rustix::fs::fcntl_add_seals(&copy, SEALS)?;
        // What is open for writing cannot be run.
        let file = File::open(path_of(&copy))?.into();
        Ok(Some(Self { file, original }))
    }

    /// Takes a copy that another process has made, of what it says. The
    /// descriptor is closed in programs that are run from now on.
    ///
    /// # Errors
    /// It is not sealed.
    pub fn adopt(file: OwnedFd, original: Original) -> io::Result<Self> {
        if rustix::fs::fcntl_get_seals(&file)? != SEALS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is not sealed"));
        }
        rustix::io::fcntl_setfd(&file, FdFlags::CLOEXEC)?;
        Ok(Self { file, original })
    }

    /// What it is a copy of.
    pub fn original(&self) -> Original {
        self.original
    }

    /// Whether `binary`, a name that is looked up in `PATH` or a path, is the
    /// file that was copied, unchanged.
    pub fn is_of(&self, binary: &Path) -> bool {
        let data = find_binary(binary).metadata();
        data.is_ok_and(|data| Original::of(&data) == self.original)
    }

    /// Where this process, and a child of its until that runs a program, finds
    /// the copy.
    pub(crate) fn path(&self) -> PathBuf {
        path_of(&self.file)
    }
}

impl AsFd for SealedCopy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn path_of(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// A new file in memory that can be sealed and run.
fn memory(name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // From Linux 6.3 on it is to be said; those before know nothing of it.
    match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        made => made,
    }
}

/// Finds `binary` as a shell would; itself if it is not there.
pub(crate) fn find_binary(binary: &Path) -> PathBuf {
    if binary.components().count() > 1 {
        return binary.to_owned();
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&paths).map(|dir| dir.join(binary));
    candidates.find(|candidate| candidate.is_file()).unwrap_or_else(|| binary.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::io::Write;

    use super::*;

    const LIMIT: u64 = 1 << 20;

    /// A binary, and a copy of it.
    fn sealed(bytes: &[u8]) -> (tempfile::TempDir, PathBuf, SealedCopy) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runtime");
        write(&path, bytes).unwrap();
        let copy = SealedCopy::of(&path, LIMIT).unwrap().unwrap();
        (dir, path, copy)
    }

    #[test]
    fn a_copy_is_of_a_file_as_it_was() {
        let (dir, path, copy) = sealed(b"\x7fELF and more");
        assert!(copy.is_of(&path));
        assert_eq!(std::fs::read(copy.path()).unwrap(), b"\x7fELF and more");
        File::options().append(true).open(&path).unwrap().write_all(b"!").unwrap();
        assert!(!copy.is_of(&path), "changed");
        assert!(!copy.is_of(&dir.path().join("other")), "not there");
    }

    #[test]
    fn nobody_can_write_to_a_copy() {
        let (_dir, _, copy) = sealed(b"\x7fELF");
        let mut again = File::options().write(true).open(copy.path()).unwrap();
        let refused = again.write(b"x").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        let unsealed = rustix::fs::fcntl_add_seals(&copy, SealFlags::empty());
        assert_eq!(unsealed.unwrap_err(), Errno::PERM);
    }

    #[test]
    fn what_a_copy_would_not_do_is_not_copied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runtime");
        let copied = || SealedCopy::of(&path, LIMIT).unwrap().is_some();
        write(&path, "#!/bin/sh\n").unwrap();
        assert!(!copied(), "a script is read by its interpreter");
        write(&path, "").unwrap();
        assert!(!copied(), "an empty file");
        write(&path, b"\x7fELF").unwrap();
        assert!(copied());
        assert!(SealedCopy::of(&path, 3).unwrap().is_none(), "too large");
        set_permissions(&path, Permissions::from_mode(0o4755)).unwrap();
        assert!(!copied(), "it runs as somebody else");
        assert!(SealedCopy::of(dir.path(), LIMIT).unwrap().is_none(), "a directory");
        let fifo = dir.path().join("fifo");
        let (kind, mode) = (rustix::fs::FileType::Fifo, Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
        assert!(SealedCopy::of(&fifo, LIMIT).unwrap().is_none(), "a FIFO");
        let missing = SealedCopy::of(&dir.path().join("missing"), LIMIT).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn another_process_takes_over_what_is_sealed() {
        let (_dir, path, copy) = sealed(b"\x7fELF");
        let told = copy.original().to_string();
        let theirs = copy.as_fd().try_clone_to_owned().unwrap();
        assert!(SealedCopy::adopt(theirs, told.parse().unwrap()).unwrap().is_of(&path));
        let file = File::open(&path).unwrap().into();
        assert!(SealedCopy::adopt(file, copy.original()).is_err(), "a file on a disk");
        let unsealed = memory(b"x").unwrap();
        assert!(SealedCopy::adopt(unsealed, copy.original()).is_err());
        for text in ["", "1:2:3:4", "1:2:3:4:5:6", "a:2:3:4:5", "-1:2:3:4:5"] {
            assert!(text.parse::<Original>().is_err(), "{text}");
        }
    }
}
