//! What an archive's deletions do to the tree, or leave in it for overlayfs.

use std::ffi::CString;
use std::io;

use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, FileType, Mode, XattrFlags};
use rustix::io::Errno;

use super::{Extractor, Parent, Step, failed, kind_of, open_dir};
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
        if !self.made.contains(&(*inode, name.clone())) {
            return self.remove(parent, name).map_err(failed("remove"));
        }
        // The archive's own; what is deleted is what lay below.
        if kind_of(parent, name).map_err(failed("stat"))? == Some(FileType::Directory) {
            let dir = open_dir(parent, name).map_err(failed("open"))?;
            self.remove_foreign(&dir).map_err(failed("remove"))?;
        }
        Ok(())
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
                if !self.made.contains(&(inode, name.clone())) {
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
