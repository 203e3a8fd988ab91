//! What an archive's deletions do to the tree, or leave in it for overlayfs.

use std::ffi::CString;
use std::io;
use std::rc::Rc;

use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::{Extractor, Parent, Step, failed, inode, kind_of, open_dir, stat_of};
use crate::tar::Entry;
use crate::whiteout::{Whiteout, Whiteouts};

impl Extractor<'_> {
    /// Carries out the deletion that an entry stands for.
    pub(super) fn delete(&mut self, parent: &Parent, whiteout: &Whiteout, entry: &Entry) -> Step {
        match (whiteout, self.whiteouts) {
            (Whiteout::Opaque, Whiteouts::Remove) => {
                self.parent = None;
                self.remove_foreign(&parent.fd).map_err(failed("remove"))
            }
            (Whiteout::Opaque, _) => self.make_opaque(&parent.fd),
            (Whiteout::Of(name), Whiteouts::Remove) => self.delete_name(parent, name),
            (Whiteout::Of(name), _) => self.mark_deleted(&parent.fd, name, entry),
        }
    }

    fn delete_name(&mut self, parent: &Parent, name: &CString) -> Step {
        let Parent { fd: parent, inode } = parent;
        if !self.is_kept(parent, *inode, name).map_err(failed("stat"))? {
            return self.remove(parent, name).map_err(failed("remove"));
        }
        // The archive's own; what is deleted is what lay below.
        if kind_of(parent, name).map_err(failed("stat"))? == Some(FileType::Directory) {
            let dir = open_dir(parent, name).map_err(failed("open"))?;
            self.remove_foreign(&dir).map_err(failed("remove"))?;
        }
        Ok(())
    }

    /// Says that something of the archive is in a directory, and so in those
    /// above it.
    pub(super) fn hold(&mut self, parent: &Parent) -> Step {
        let (mut dir, mut current) = (parent.fd.clone(), parent.inode);
        // Above one that is known, all are.
        while self.holding.insert(current) && current != inode(self.root.dir())? {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let above = fs::openat(&dir, "..", flags, Mode::empty()).map_err(failed("open"))?;
            current = inode(&above)?;
            dir = Rc::new(above);
        }
        Ok(())
    }

    /// Whether a name is the archive's own, or that of a directory with
    /// something of the archive in it.
    fn is_kept(&self, dir: &OwnedFd, inode: u64, name: &CString) -> io::Result<bool> {
        if self.made.contains(&(inode, name.clone())) {
            return Ok(true);
        }
        let stat = stat_of(dir, name)?;
        Ok(stat.is_some_and(|stat| self.holding.contains(&stat.st_ino)))
    }

    /// Removes from a directory and those below what is not of this archive.
    fn remove_foreign(&mut self, dir: &OwnedFd) -> io::Result<()> {
        let mut pending = vec![dir.try_clone()?];
        while let Some(dir) = pending.pop() {
            let inode = fs::fstat(&dir)?.st_ino;
            for entry in fs::Dir::read_from(&dir)? {
                let entry = entry?;
                let name = entry.file_name().to_owned();
                if matches!(name.as_bytes(), b"." | b"..") {
                    continue;
                }
                if !self.is_kept(&dir, inode, &name)? {
                    self.remove(&dir, &name)?;
                } else if entry.file_type() == FileType::Directory {
                    pending.push(open_dir(&dir, &name)?);
                }
            }
        }
        Ok(())
    }

    /// Hides what the layers below have in a directory.
    pub(super) fn make_opaque(&mut self, dir: &OwnedFd) -> Step {
        let Some(name) = self.whiteouts.opaque_attribute() else { return Ok(()) };
        fs::fsetxattr(dir, name, b"y", XattrFlags::empty()).map_err(failed("setxattr"))
    }

    /// Overlayfs' own mark: a character device 0:0.
    fn mark_deleted(&mut self, parent: &OwnedFd, name: &CString, entry: &Entry) -> Step {
        let kind = FileType::CharacterDevice;
        match fs::mknodat(parent, name, kind, Mode::empty(), fs::makedev(0, 0)) {
            // The archive's own hides what lies below by being there; only
            // directories would be merged.
            Err(Errno::EXIST) => match kind_of(parent, name).map_err(failed("stat"))? {
                Some(FileType::Directory) => {
                    let dir = open_dir(parent, name).map_err(failed("open"))?;
                    self.make_opaque(&dir)
                }
                _ => Ok(()),
            },
            result => {
                result.map_err(failed("mknod"))?;
                let (uid, gid) = (entry.uid as u32, entry.gid as u32);
                let owner = (Some(fs::Uid::from_raw(uid)), Some(fs::Gid::from_raw(gid)));
                fs::chownat(parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(failed("lchown"))
            }
        }
    }
}
