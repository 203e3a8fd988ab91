//! A directory tree that nothing can be reached out of: every path is taken
//! relative to it, absolute ones and links included.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// As the kernel and containerd limit it.
const LINKS_MAX: usize = 255;
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// The components of a path: no `.`, no `..`, nothing empty.
pub(crate) type Components = Vec<CString>;

/// Takes a name from an archive apart, lexically. `None` when it leads out
/// of the tree, or has a zero byte in it.
pub(crate) fn components(name: &[u8]) -> Option<Components> {
    let mut components = Components::new();
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(components.pop()?),
            part => components.push(CString::new(part).ok()?),
        }
    }
    Some(components)
}

/// The components put together again, relative.
pub(crate) fn join(components: &[CString]) -> Vec<u8> {
    let parts: Vec<&[u8]> = components.iter().map(|part| part.as_bytes()).collect();
    parts.join(&b'/')
}

/// A tree, by its topmost directory.
#[derive(Debug)]
pub(crate) struct Root {
    dir: OwnedFd,
}

/// Called for each directory that is missing, with its parent, its name and
/// its path from the root, links resolved. Makes it.
pub(crate) type MakeMissing<'a> =
    &'a mut dyn FnMut(&OwnedFd, &CString, &[CString]) -> io::Result<()>;

impl Root {
    /// Opens `path`, which is trusted.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { dir: fs::openat(CWD, path, flags, Mode::empty())? })
    }

    /// The topmost directory.
    pub fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Opens the directory at `path`; links in it are followed inside the
    /// tree. The kernel does it where it can (`openat2`).
    pub fn open_dir(&self, path: &[CString]) -> io::Result<OwnedFd> {
        if path.is_empty() {
            return self.dir.try_clone();
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match fs::openat2(&self.dir, join(path), flags, Mode::empty(), resolve) {
                // Somebody renames below us; the kernel did not dare.
                Err(Errno::AGAIN) => {}
                Err(Errno::NOSYS | Errno::PERM) => break,
                result => return Ok(result?),
            }
        }
        let missing = &mut |_: &OwnedFd, _: &CString, _: &[CString]| {
            Err(io::Error::from(io::ErrorKind::NotFound))
        };
        self.make_dir(path, missing)
    }

    /// Opens the directory at `path`, in which no component is a link.
    pub fn open_plain(&self, path: &[CString]) -> io::Result<OwnedFd> {
        let mut dir = self.dir.try_clone()?;
        for name in path {
            dir = fs::openat(&dir, name, DIRECTORY, Mode::empty())?;
        }
        Ok(dir)
    }

    /// Opens the directory at `path` component by component, and has those
    /// made that are missing, at the end of dangling links too.
    ///
    /// No component is resolved by the kernel, so nothing that happens in the
    /// tree meanwhile leads out of it.
    pub fn make_dir(&self, path: &[CString], missing: MakeMissing<'_>) -> io::Result<OwnedFd> {
        let mut todo: VecDeque<Vec<u8>> =
            path.iter().map(|part| part.as_bytes().to_vec()).collect();
        // Only the last one is kept open, however deep the tree is.
        let mut open: Option<OwnedFd> = None;
        let mut names = Components::new();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    names.pop();
                    open = (!names.is_empty()).then(|| self.open_plain(&names)).transpose()?;
                    continue;
                }
                _ => {}
            }
            let name = CString::new(part).map_err(|_| Errno::INVAL)?;
            let dir = open.as_ref().unwrap_or(&self.dir);
            match fs::openat(dir, &name, DIRECTORY, Mode::empty()) {
                Ok(child) => {
                    open = Some(child);
                    names.push(name);
                }
                Err(Errno::NOENT) => {
                    names.push(name.clone());
                    missing(dir, &name, &names)?;
                    open = Some(fs::openat(dir, &name, DIRECTORY, Mode::empty())?);
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    links += 1;
                    let target = link_target(dir, &name, links)?;
                    if target.starts_with(b"/") {
                        open = None;
                        names.clear();
                    }
                    for part in target.rsplit(|&byte| byte == b'/') {
                        todo.push_front(part.to_vec());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        open.map_or_else(|| self.dir.try_clone(), Ok)
    }
}

fn link_target(dir: &OwnedFd, name: &CString, links: usize) -> io::Result<Vec<u8>> {
    let stat = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Err(Errno::NOTDIR.into());
    }
    if links > LINKS_MAX {
        return Err(Errno::LOOP.into());
    }
    Ok(fs::readlinkat(dir, name, Vec::new())?.into_bytes())
}
