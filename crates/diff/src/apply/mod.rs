//! Writes an archive into a directory tree (containerd, `pkg/archive`).
//!
//! Whatever the archive says, nothing outside the tree is touched: every path
//! is resolved inside it, the last component is never followed, and every
//! attribute is set through a descriptor of what the entry has made.

mod deletions;
mod times;

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat, Timestamps};
use rustix::io::Errno;

use crate::attributes;
use crate::data::copy;
use crate::implied::{Unsettled, imitate, lower_dir};
use crate::root::{Components, Root, components};
use crate::tar::{Entry, EntryKind, Extent, Reader};
use crate::whiteout::{Whiteout, Whiteouts};
use crate::{ApplyOptions, Error, Limits, Stream};

use times::DirectoryTimes;

const NODE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A directory that entries are made in.
#[derive(Clone)]
struct Parent {
    fd: Rc<OwnedFd>,
    inode: u64,
}

/// Writes the entries of one archive.
pub(crate) struct Extractor<'a> {
    root: &'a Root,
    /// Where a directory that the archive only implies gets its attributes
    /// from, nearest layer first.
    lower: &'a [Root],
    /// What it made without knowing those layers, where they come later.
    unsettled: Option<Unsettled>,
    whiteouts: Whiteouts,
    limits: Limits,
    /// Bytes that sparse files have beside those in the archive.
    holes: u64,
    /// The directory of the last entry: the next one mostly is in it too.
    parent: Option<(Components, Parent)>,
    /// What this archive has made, by the inode of the directory and the
    /// name: later deletions are not about these.
    made: HashSet<(u64, CString)>,
    /// Directories that something of it is in or below, by their inodes: they
    /// may have been there before, or be implied alone.
    holding: HashSet<u64>,
    directories: DirectoryTimes,
}

/// What failed with an entry, before its name is known.
type Failure = (&'static str, io::Error);
type Step<T = ()> = Result<T, Failure>;

fn failed<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| (operation, error.into())
}

impl<'a> Extractor<'a> {
    pub fn new(root: &'a Root, lower: &'a [Root], options: &ApplyOptions) -> Self {
        Self {
            root,
            lower,
            unsettled: options.lower_later.then(Unsettled::default),
            whiteouts: options.whiteouts,
            limits: options.limits,
            holes: 0,
            parent: None,
            made: HashSet::new(),
            holding: HashSet::new(),
            directories: DirectoryTimes::default(),
        }
    }

    /// Writes all entries. Answers which directories are to be settled.
    pub fn extract(mut self, stream: &mut Stream) -> Result<Vec<PathBuf>, Error> {
        let mut reader = Reader::new(stream);
        let mut count = 0;
        let entries_max = self.limits.entries;
        while let Some(entry) = reader.next_entry()? {
            count += 1;
            if entries_max > 0 && count > entries_max {
                return Err(Error::Limit { what: "entries", limit: entries_max });
            }
            self.entry(&entry, &mut reader)?;
            self.unsettled.as_ref().map_or(Ok(()), Unsettled::check)?;
            self.directories.check()?;
        }
        self.directories.finish(self.root)?;
        Ok(self.unsettled.map(|unsettled| unsettled.finish(self.root)).unwrap_or_default())
    }

    fn entry(&mut self, entry: &Entry, reader: &mut Reader<&mut Stream>) -> Result<(), Error> {
        let name = || String::from_utf8_lossy(&entry.name).into_owned();
        let refuse = |why: String| Error::Refused { entry: name(), why };
        let failed =
            |(operation, source): Failure| Error::Entry { entry: name(), operation, source };
        let mut path = components(&entry.name)
            .ok_or_else(|| refuse("the name leads out of the layer".to_owned()))?;
        // The tree's own top keeps what it has, as with containerd.
        let Some(base) = path.pop() else { return Ok(()) };
        if let Some(why) = attributes::refusal(entry) {
            return Err(refuse(why));
        }
        let whiteout = Whiteout::of(&base).map_err(|why| refuse(why.to_owned()))?;
        let parent = self.parent(&path).map_err(failed)?;
        if let Some(whiteout) = whiteout {
            return self.delete(&parent, &whiteout, entry).map_err(failed);
        }
        if let EntryKind::Other(flag) = entry.kind {
            return Err(refuse(format!("unhandled tar header type {flag}")));
        }
        let Some(fd) = self.create(&parent.fd, &base, entry, reader)? else { return Ok(()) };
        let inode = attributes::set(&fd, entry).map_err(failed)?;
        if self.whiteouts == Whiteouts::Remove {
            self.made.insert((parent.inode, base.clone()));
            self.hold(&parent).map_err(failed)?;
        }
        if entry.kind == EntryKind::Directory {
            path.push(base);
            self.made_directory(path, Parent { fd: Rc::new(fd), inode }, attributes::times(entry));
        }
        Ok(())
    }

    fn made_directory(&mut self, path: Components, dir: Parent, times: Timestamps) {
        if let Some(unsettled) = &mut self.unsettled {
            unsettled.forget(dir.inode);
        }
        self.directories.insert(&path, times);
        // What is in it mostly comes next.
        self.parent = Some((path, dir));
    }

    /// Makes what the entry is, data included; `None` when it cannot be had
    /// here and is left out.
    fn create(
        &mut self,
        parent: &OwnedFd,
        base: &CString,
        entry: &Entry,
        reader: &mut Reader<&mut Stream>,
    ) -> Result<Option<OwnedFd>, Error> {
        let name = || String::from_utf8_lossy(&entry.name).into_owned();
        let failed =
            |(operation, source): Failure| Error::Entry { entry: name(), operation, source };
        // The rest of it comes after the data, and after the owner.
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        match entry.kind {
            EntryKind::File => {
                self.count_holes(entry, reader.position())
                    .map_err(|error| failed(("write", error)))?;
                let fd = self.create_file(parent, base, mode).map_err(failed)?;
                copy(reader, entry, &fd).map_err(|error| error.named(entry))?;
                Ok(Some(fd))
            }
            EntryKind::HardLink => {
                let target = components(&entry.link_name).ok_or_else(|| {
                    let target = String::from_utf8_lossy(&entry.link_name);
                    let why = format!("the link to {target:?} leads out of the layer");
                    Error::Refused { entry: name(), why }
                })?;
                self.hard_link(target, parent, base).map(Some).map_err(failed)
            }
            EntryKind::Directory => self.create_dir(parent, base, mode).map(Some).map_err(failed),
            _ => self.create_special(parent, base, entry).map_err(failed),
        }
    }

    /// Counts holes as if they were in the stream: they take no space here, but
    /// whoever reads the file, or makes an image of it, meets all of them.
    fn count_holes(&mut self, entry: &Entry, position: u64) -> io::Result<()> {
        let lengths = |extents: &Vec<Extent>| extents.iter().map(|extent| extent.length).sum();
        let data = entry.extents.as_ref().map_or(entry.size, lengths);
        self.holes = self.holes.saturating_add(entry.size - data);
        let total = self.holes.saturating_add(position).saturating_add(data);
        let limit = self.limits.uncompressed_bytes;
        if limit == 0 || self.holes == 0 || total <= limit {
            return Ok(());
        }
        let why = format!("more than {limit} uncompressed bytes with the holes in files");
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, why))
    }

    /// The directory at `path`; what is missing of it is made.
    fn parent(&mut self, path: &[CString]) -> Step<Parent> {
        if let Some((known, parent)) = &self.parent
            && known == path
        {
            return Ok(parent.clone());
        }
        let fd = match self.root.open_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_parents(path),
            result => result,
        };
        let fd = fd.map_err(failed("open parent"))?;
        let parent = Parent { inode: inode(&fd)?, fd: Rc::new(fd) };
        self.parent = Some((path.to_vec(), parent.clone()));
        Ok(parent)
    }

    fn make_parents(&mut self, path: &[CString]) -> io::Result<OwnedFd> {
        let (lower, directories) = (self.lower, &mut self.directories);
        let (unsettled, holding) = (&mut self.unsettled, &mut self.holding);
        self.root.make_dir(path, &mut |dir, name, resolved| {
            fs::mkdirat(dir, name, Mode::RWXU)?;
            let made = open_dir(dir, name)?;
            let inode = fs::fstat(&made)?.st_ino;
            holding.remove(&inode);
            if let Some(unsettled) = unsettled {
                unsettled.add(inode, resolved);
            }
            let Some(model) = lower_dir(lower, resolved)? else {
                // Not its parent's, which may still be settled otherwise.
                fs::fchown(&made, None, Some(rustix::process::getegid()))?;
                fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
                return Ok(());
            };
            let times = imitate(&model, &made)?;
            directories.insert(resolved, times);
            Ok(())
        })
    }

    /// Removes what `create` found in its way, and has it try again.
    fn replace<T>(
        &mut self,
        parent: &OwnedFd,
        name: &CString,
        create: impl Fn() -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        match create() {
            Err(Errno::EXIST) => {
                self.remove(parent, name)?;
                Ok(create()?)
            }
            result => Ok(result?),
        }
    }

    fn remove(&mut self, parent: &OwnedFd, name: &CString) -> io::Result<()> {
        // It may be, or lead to, the directory that is kept open.
        self.parent = None;
        match fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => remove_dir(parent, name),
            Err(error) => Err(error.into()),
        }
    }

    fn create_file(&mut self, parent: &OwnedFd, name: &CString, mode: Mode) -> Step<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        self.replace(parent, name, || fs::openat(parent, name, flags, mode))
            .map_err(failed("create"))
    }

    fn create_dir(&mut self, parent: &OwnedFd, name: &CString, mode: Mode) -> Step<OwnedFd> {
        let make = || fs::mkdirat(parent, name, mode);
        let (mut opaque, mut new) = (false, true);
        match make() {
            Err(Errno::EXIST) => {
                new = false;
                if kind_of(parent, name).map_err(failed("stat"))? != Some(FileType::Directory) {
                    self.remove(parent, name).map_err(failed("remove"))?;
                    make().map_err(failed("mkdir"))?;
                    // What was there hid the lower layers' directory of this
                    // name, and what comes instead must go on to.
                    (opaque, new) = (true, true);
                }
            }
            result => result.map_err(failed("mkdir"))?,
        }
        let fd = open_dir(parent, name).map_err(failed("open"))?;
        if opaque {
            self.make_opaque(&fd)?;
        }
        if new {
            // Of one that was removed.
            self.holding.remove(&inode(&fd)?);
        }
        Ok(fd)
    }

    fn hard_link(
        &mut self,
        mut target: Components,
        parent: &OwnedFd,
        name: &CString,
    ) -> Step<OwnedFd> {
        let base = target.pop().ok_or_else(|| failed("link")(Errno::PERM))?;
        let dir = self.root.open_dir(&target).map_err(failed("link"))?;
        // Not what a link of that name points to: the link itself.
        let link = || fs::linkat(&dir, &base, parent, name, AtFlags::empty());
        let itself = || -> io::Result<bool> {
            let (a, b) = (identity(&dir, &base)?, identity(parent, name)?);
            Ok(a.is_some() && a == b)
        };
        match link() {
            // Removing it first would leave nothing to link to.
            Err(Errno::EXIST) if itself().map_err(failed("stat"))? => {}
            Err(Errno::EXIST) => {
                self.replace(parent, name, link).map_err(failed("link"))?;
            }
            result => result.map_err(failed("link"))?,
        }
        open_path(parent, name).map_err(failed("open"))
    }

    /// A link, a device or a pipe; `None` when it cannot be had here and is
    /// left out.
    fn create_special(
        &mut self,
        parent: &OwnedFd,
        name: &CString,
        entry: &Entry,
    ) -> Step<Option<OwnedFd>> {
        let kind = match entry.kind {
            EntryKind::CharDevice => FileType::CharacterDevice,
            EntryKind::BlockDevice => FileType::BlockDevice,
            EntryKind::Fifo => FileType::Fifo,
            _ => {
                let target = CString::new(entry.link_name.clone())
                    .map_err(|_| failed("symlink")(Errno::INVAL))?;
                self.replace(parent, name, || fs::symlinkat(&target, parent, name))
                    .map_err(failed("symlink"))?;
                return open_path(parent, name).map(Some).map_err(failed("open"));
            }
        };
        let number = |value: i64| u32::try_from(value).map_err(|_| failed("mknod")(Errno::INVAL));
        let device = fs::makedev(number(entry.device.0)?, number(entry.device.1)?);
        let make = || fs::mknodat(parent, name, kind, NODE_MODE, device);
        match self.replace(parent, name, make) {
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied && kind != FileType::Fifo =>
            {
                // In a user namespace there are no devices to be made.
                log::warn!(entry:% = String::from_utf8_lossy(&entry.name); "leave a device out");
                Ok(None)
            }
            result => {
                result.map_err(failed("mknod"))?;
                open_path(parent, name).map(Some).map_err(failed("open"))
            }
        }
    }
}

fn open_dir(parent: &OwnedFd, name: &CString) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(parent, name, flags, Mode::empty())?)
}

/// The inode itself, whatever it is.
fn open_path(parent: &OwnedFd, name: &CString) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(parent, name, flags, Mode::empty())?)
}

fn stat_of(parent: &OwnedFd, name: &CString) -> io::Result<Option<Stat>> {
    match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        result => Ok(Some(result?)),
    }
}

fn kind_of(parent: &OwnedFd, name: &CString) -> io::Result<Option<FileType>> {
    Ok(stat_of(parent, name)?.map(|stat| FileType::from_raw_mode(stat.st_mode)))
}

fn identity(parent: &OwnedFd, name: &CString) -> io::Result<Option<(u64, u64)>> {
    Ok(stat_of(parent, name)?.map(|stat| (stat.st_dev, stat.st_ino)))
}

fn inode(dir: &OwnedFd) -> Step<u64> {
    Ok(fs::fstat(dir).map_err(failed("stat"))?.st_ino)
}

fn remove_dir(parent: &OwnedFd, name: &CString) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::path::PathBuf::from(attributes::path_of(parent));
    // Follows no links below the directory that is open.
    match std::fs::remove_dir_all(path.join(std::ffi::OsStr::from_bytes(name.as_bytes()))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
