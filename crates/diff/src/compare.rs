//! The difference of two directory trees as a layer (containerd,
//! `pkg/archive` and continuity's `fs.Changes`): the same entries in the same
//! order, so that the archive has the same bytes.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::io::{self, Read, Write};
use std::rc::Rc;

use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::attributes::get_xattr;
use crate::tar::{EntryKind, Header, Writer};

const CAPABILITY: &str = "security.capability";

/// The directories above a name, topmost first, with what is needed to write
/// them.
type Ancestors = Vec<Rc<(CString, Stat)>>;

/// One directory of the walk, seen from both sides.
struct Level {
    /// Names of both sides, the last one first.
    names: Vec<CString>,
    lower: Option<OwnedFd>,
    upper: OwnedFd,
    /// The same directory in the one overlay layer that makes the difference:
    /// only what has a name in there can have changed.
    layer: Option<OwnedFd>,
}

/// Writes what turns `lower` into `upper`.
pub(crate) struct Comparison<W> {
    archive: Writer<W>,
    /// No entry is younger than this; seconds since 1970.
    newest: Option<i64>,
    /// The directories on the way down.
    path: Ancestors,
    /// Directories that are in the archive.
    written: HashSet<Vec<u8>>,
    /// The first name in the archive of an inode that has several.
    linked: HashMap<u64, Vec<u8>>,
    /// Unchanged names of such inodes, to be linked when another changed.
    unchanged: HashMap<u64, Vec<(Vec<u8>, Ancestors)>>,
}

impl<W: Write> Comparison<W> {
    pub fn new(output: W, newest: Option<i64>) -> Self {
        Self {
            archive: Writer::new(output),
            newest,
            path: Vec::new(),
            written: HashSet::new(),
            linked: HashMap::new(),
            unchanged: HashMap::new(),
        }
    }

    /// Walks both trees and hands the output back. `layer` is what an overlay
    /// has on top of `lower` where it shows as `upper`.
    pub fn run(mut self, lower: OwnedFd, upper: OwnedFd, layer: Option<OwnedFd>) -> io::Result<W> {
        let layer = layer.and_then(merges);
        let mut stack = vec![level(Some(lower), upper, layer)?];
        while let Some(top) = stack.last_mut() {
            let Some(name) = top.names.pop() else {
                stack.pop();
                self.path.pop();
                continue;
            };
            let next = self.name(top, &name).map_err(|error| self.describe(error, &name))?;
            stack.extend(next);
        }
        self.archive.finish()
    }

    fn describe(&self, error: io::Error, name: &CStr) -> io::Error {
        let path = String::from_utf8_lossy(&self.full_name(name)).into_owned();
        io::Error::new(error.kind(), format!("{path}: {error}"))
    }

    fn full_name(&self, name: &CStr) -> Vec<u8> {
        let mut full = Vec::new();
        for directory in &self.path {
            full.extend_from_slice(directory.0.as_bytes());
            full.push(b'/');
        }
        full.extend_from_slice(name.to_bytes());
        full
    }

    /// Compares one name; answers the level below where there is one.
    fn name(&mut self, at: &Level, name: &CString) -> io::Result<Option<Level>> {
        let before = at.lower.as_ref().map(|dir| stat(dir, name)).transpose()?.flatten();
        let Some(after) = stat(&at.upper, name)? else {
            if before.is_some() {
                self.delete(name)?;
            }
            return Ok(None);
        };
        let unchanged = match (&at.lower, &before) {
            (Some(lower), Some(before)) => same((lower, before), (&at.upper, &after), name)?,
            _ => false,
        };
        self.change(at, name, &after, unchanged)?;
        if !is_dir(&after) {
            return Ok(None);
        }
        let both = before.filter(is_dir).and(at.lower.as_ref());
        let lower = both.map(|lower| open_dir(lower, name)).transpose()?;
        // When in doubt, everything is looked at.
        let layer = at.layer.as_ref().and_then(|layer| open_dir(layer, name).ok());
        let layer = layer.and_then(merges);
        let next = level(lower, open_dir(&at.upper, name)?, layer)?;
        self.path.push(Rc::new((name.clone(), after)));
        Ok(Some(next))
    }

    fn delete(&mut self, name: &CString) -> io::Result<()> {
        self.write_parents(&self.path.clone())?;
        let whiteout = CString::new([b".wh.", name.as_bytes()].concat())?;
        let full = self.full_name(&whiteout);
        self.archive.start(&Header::empty(full))
    }

    fn change(&mut self, at: &Level, name: &CString, stat: &Stat, same: bool) -> io::Result<()> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink,
            FileType::CharacterDevice => EntryKind::CharDevice,
            FileType::BlockDevice => EntryKind::BlockDevice,
            FileType::Fifo => EntryKind::Fifo,
            // Sockets mean nothing without who listens.
            _ => return Ok(()),
        };
        let mut header = self.header(self.full_name(name), kind, stat);
        let mut more = Vec::new();
        if kind != EntryKind::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&stat.st_ino) {
                header.link_name.clone_from(first);
                header.kind = EntryKind::HardLink;
                header.size = 0;
            } else if same {
                let name = (header.name, self.path.clone());
                self.unchanged.entry(stat.st_ino).or_default().push(name);
                return Ok(());
            } else {
                self.linked.insert(stat.st_ino, header.name.clone());
                more = self.unchanged.remove(&stat.st_ino).unwrap_or_default();
            }
        } else if same {
            return Ok(());
        }
        if kind == EntryKind::Symlink && header.kind != EntryKind::HardLink {
            header.link_name = fs::readlinkat(&at.upper, name, Vec::new())?.into_bytes();
        }
        header.xattrs = capability(&at.upper, name)?;
        self.write_parents(&self.path.clone())?;
        self.archive.start(&header)?;
        if header.kind == EntryKind::File && header.size > 0 {
            self.data(&at.upper, name, header.size)?;
        }
        if kind == EntryKind::Directory {
            self.written.insert(self.full_name(name));
        }
        self.links(header, more)
    }

    /// The unchanged other names of a file that has changed.
    fn links(&mut self, mut header: Header, names: Vec<(Vec<u8>, Ancestors)>) -> io::Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        header.link_name = header.name;
        header.kind = EntryKind::HardLink;
        header.size = 0;
        for (name, parents) in names {
            self.write_parents(&parents)?;
            header.name = name;
            self.archive.start(&header)?;
        }
        Ok(())
    }

    /// The directories above a name, where the archive has not got them yet.
    fn write_parents(&mut self, parents: &[Rc<(CString, Stat)>]) -> io::Result<()> {
        let mut full = Vec::new();
        for (index, parent) in parents.iter().enumerate() {
            let (name, stat) = &**parent;
            if index > 0 {
                full.push(b'/');
            }
            full.extend_from_slice(name.as_bytes());
            if self.written.insert(full.clone()) {
                let header = self.header(full.clone(), EntryKind::Directory, stat);
                self.archive.start(&header)?;
            }
        }
        Ok(())
    }

    fn header(&self, mut name: Vec<u8>, kind: EntryKind, stat: &Stat) -> Header {
        if kind == EntryKind::Directory {
            name.push(b'/');
        }
        let device = matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        let size = if kind == EntryKind::File { stat.st_size.unsigned_abs() } else { 0 };
        Header {
            name,
            link_name: Vec::new(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size,
            mtime: self.newest.map_or(stat.st_mtime, |newest| newest.min(stat.st_mtime)),
            device: match device {
                true => (fs::major(stat.st_rdev), fs::minor(stat.st_rdev)),
                false => (0, 0),
            },
            xattrs: Vec::new(),
        }
    }

    fn data(&mut self, dir: &OwnedFd, name: &CString, size: u64) -> io::Result<()> {
        let mut file = open_file(dir, name)?.take(size);
        let mut buffer = vec![0; 1 << 17];
        let mut done = 0;
        loop {
            match file.read(&mut buffer)? {
                0 if done == size => return Ok(()),
                0 => return Err(io::Error::other("the file shrank while it was copied")),
                count => {
                    self.archive.write(&buffer[..count])?;
                    done += count as u64;
                }
            }
        }
    }
}

/// An overlay's directory, if what shows is what is in it over what lies below
/// it at the same place; not if it hides what is below, or was moved.
fn merges(dir: OwnedFd) -> Option<OwnedFd> {
    let unmarked = |name: String| {
        let found = fs::fgetxattr(&dir, name, &mut [0_u8; 0][..]);
        matches!(found, Err(Errno::NODATA | Errno::OPNOTSUPP))
    };
    let plain = ["trusted", "user"].iter().all(|family| {
        let mut marks = ["opaque", "redirect"].iter();
        marks.all(|mark| unmarked(format!("{family}.overlay.{mark}")))
    });
    plain.then_some(dir)
}

fn level(lower: Option<OwnedFd>, upper: OwnedFd, layer: Option<OwnedFd>) -> io::Result<Level> {
    let mut names = HashSet::new();
    let listed = match &layer {
        Some(layer) => vec![layer],
        None => lower.iter().chain([&upper]).collect(),
    };
    for dir in listed {
        for entry in fs::Dir::read_from(dir)? {
            let name = entry?.file_name().to_owned();
            if !matches!(name.as_bytes(), b"." | b"..") {
                names.insert(name);
            }
        }
    }
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(Level { names, lower, upper, layer })
}

fn stat(dir: &OwnedFd, name: &CString) -> io::Result<Option<Stat>> {
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        result => Ok(Some(result?)),
    }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn open_dir(dir: &OwnedFd, name: &CString) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(dir, name, flags, Mode::empty())?)
}

fn open_file(dir: &OwnedFd, name: &CString) -> io::Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(fs::openat(dir, name, flags, Mode::empty())?.into())
}

fn capability(dir: &OwnedFd, name: &CString) -> io::Result<Vec<(String, Vec<u8>)>> {
    let value = capability_of(dir, name)?;
    Ok(value.map(|value| (CAPABILITY.to_owned(), value)).into_iter().collect())
}

fn capability_of(dir: &OwnedFd, name: &CString) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(dir, name, flags, Mode::empty())?;
    match FileType::from_raw_mode(fs::fstat(&file)?.st_mode) {
        // Nothing else can have capabilities.
        FileType::RegularFile => get_xattr(&file, c"security.capability"),
        _ => Ok(None),
    }
}

/// Whether nothing of a file has changed, as far as its attributes tell; its
/// contents are compared where its time is too coarse to tell.
fn same(
    (lower, before): (&OwnedFd, &Stat),
    (upper, after): (&OwnedFd, &Stat),
    name: &CString,
) -> io::Result<bool> {
    if (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino) {
        return Ok(true);
    }
    let attributes = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
    if attributes(before) != attributes(after)
        || capability_of(lower, name)? != capability_of(upper, name)?
    {
        return Ok(false);
    }
    if is_dir(after) {
        return Ok(true);
    }
    let times = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    if times(before) != times(after) {
        return Ok(false);
    }
    if after.st_mtime_nsec != 0 {
        return Ok(true);
    }
    match FileType::from_raw_mode(after.st_mode) {
        FileType::Symlink => {
            let target = |dir| fs::readlinkat(dir, name, Vec::new());
            Ok(target(lower)? == target(upper)?)
        }
        FileType::RegularFile if after.st_size > 0 => {
            same_content(open_file(lower, name)?, open_file(upper, name)?)
        }
        _ => Ok(true),
    }
}

fn same_content(a: std::fs::File, b: std::fs::File) -> io::Result<bool> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    loop {
        first.clear();
        second.clear();
        (&a).take(1 << 17).read_to_end(&mut first)?;
        (&b).take(1 << 17).read_to_end(&mut second)?;
        if first != second {
            return Ok(false);
        }
        if first.is_empty() {
            return Ok(true);
        }
    }
}
