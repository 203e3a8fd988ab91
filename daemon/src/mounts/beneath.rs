//! One path below a root, made or looked at without ever leaving it: symbolic
//! links on the way are followed only as far as they stay inside
//! (openat2(2), `RESOLVE_BENEATH`).

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use super::error::MountError;

/// The directory that a path's last component is in, and that component.
#[derive(Debug)]
pub struct Beneath {
    parent: OwnedFd,
    name: PathBuf,
    path: PathBuf,
}

impl Beneath {
    /// Finds `rest` below `root`. Its parent must exist.
    pub fn open(root: &Path, rest: &Path) -> Result<Self, MountError> {
        let path = root.join(rest);
        let plain = rest.components().all(|part| matches!(part, Component::Normal(_)));
        let (Some(parent), Some(name), true) = (rest.parent(), rest.file_name(), plain) else {
            let words = format!("{:?} is no path below {:?}", rest.display(), root.display());
            return Err(MountError::Invalid(words));
        };
        let failed = |errno: Errno| MountError::io("open the parent of", &path)(errno.into());
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut directory = open(root, flags, Mode::empty()).map_err(failed)?;
        if !parent.as_os_str().is_empty() {
            let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH);
            directory = openat2(&directory, parent, how).map_err(failed)?;
        }
        Ok(Self { parent: directory, name: name.into(), path })
    }

    /// Makes a directory with exactly this mode and owner. One that is there
    /// must have the mode.
    pub fn make_directory(&self, mode: u32, owner: Option<(u32, u32)>) -> Result<(), MountError> {
        let failed = |errno: Errno| MountError::io("make directory", &self.path)(errno.into());
        match mkdirat(&self.parent, &self.name, Mode::from_bits_truncate(mode)) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return self.check_directory(mode),
            Err(errno) => return Err(failed(errno)),
        }
        // The process's umask has no say in it.
        let exact = Mode::from_bits_truncate(mode);
        fchmodat(&self.parent, &self.name, exact, FchmodatFlags::FollowSymlink).map_err(failed)?;
        if let Some((uid, gid)) = owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            fchownat(&self.parent, &self.name, Some(uid), Some(gid), flags).map_err(failed)?;
        }
        Ok(())
    }

    fn check_directory(&self, mode: u32) -> Result<(), MountError> {
        let there = fstatat(&self.parent, &self.name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| MountError::io("look at", &self.path)(errno.into()))?;
        let kind = SFlag::from_bits_truncate(there.st_mode & SFlag::S_IFMT.bits());
        if kind != SFlag::S_IFDIR {
            let words =
                format!("mkdir target {:?} exists and is no directory", self.path.display());
            return Err(MountError::Invalid(words));
        }
        if there.st_mode & 0o777 != mode {
            let words = "chmod not supported yet for mkdir handler".to_owned();
            return Err(MountError::Unsupported(words));
        }
        Ok(())
    }

    /// Makes a file of `size` bytes, none of them on disk yet; `false` when
    /// there is a file already.
    pub fn make_file(&self, size: u64) -> Result<bool, MountError> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let fd = match openat(&self.parent, &self.name, flags, Mode::from_bits_truncate(0o640)) {
            Ok(fd) => fd,
            Err(Errno::EEXIST) => return self.check_file(),
            Err(errno) => return Err(MountError::io("make file", &self.path)(errno.into())),
        };
        if let Err(source) = File::from(fd).set_len(size) {
            self.remove_file()?;
            return Err(MountError::io("extend", &self.path)(source));
        }
        Ok(true)
    }

    fn check_file(&self) -> Result<bool, MountError> {
        let there = fstatat(&self.parent, &self.name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| MountError::io("look at", &self.path)(errno.into()))?;
        let kind = SFlag::from_bits_truncate(there.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFREG {
            return Ok(false);
        }
        let words = format!("{:?} exists and is no regular file", self.path.display());
        Err(MountError::Invalid(words))
    }

    /// Removes the file.
    pub fn remove_file(&self) -> Result<(), MountError> {
        unlinkat(&self.parent, &self.name, UnlinkatFlags::NoRemoveDir)
            .map_err(|errno| MountError::io("remove", &self.path)(errno.into()))
    }
}
