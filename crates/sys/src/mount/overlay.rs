//! Overlay mounts, whatever their options' length.
//!
//! mount(2) takes one page of options, and a few dozen layers fill it. Newer
//! kernels take the layers one by one (`lowerdir+`, Linux 6.8), each up to
//! 255 bytes. Elsewhere the layers are named relative to a directory that
//! they share, from a thread that has this as its working directory.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::{DATA_MAX, Parsed, call, idmap, too_long};
use crate::{Error, Result};

/// The longest value that fsconfig(2) takes as a string, in bytes.
const VALUE_MAX: usize = 255;

pub(super) fn mount(
    source: &str,
    parsed: &Parsed,
    users: Option<&OwnedFd>,
    flags: MsFlags,
    target: &Path,
) -> Result<()> {
    let mut options = Options::new(&parsed.data);
    // Mapped copies of the layers, mounted until the overlay has its own.
    let mapped = users.map(|users| idmap::map_layers(users, &options.lower)).transpose()?;
    if let Some(mapped) = &mapped {
        options.lower = mapped.layers();
    }
    let data = options.join(&options.lower);
    if data.len() <= DATA_MAX {
        return call(source, "overlay", flags, &data, target);
    }
    match options.mount_one_by_one(source, flags, target) {
        Err(Error::Path { source, .. }) if is_unsupported(&source) => {}
        result => return result,
    }
    options.mount_from_common_dir(source, flags, target)
}

/// What kernels say that do not know `lowerdir+` or fsopen(2), and what we
/// say for paths that are too long for it.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EPERM))
        || error.kind() == io::ErrorKind::InvalidFilename
}

struct Options {
    /// Layers, the uppermost first.
    lower: Vec<String>,
    /// All but `lowerdir`.
    others: Vec<String>,
}

impl Options {
    fn new(data: &[String]) -> Self {
        let (mut lower, mut others) = (Vec::new(), Vec::new());
        for option in data {
            match option.strip_prefix("lowerdir=") {
                Some(layers) => lower.extend(layers.split(':').map(str::to_owned)),
                None => others.push(option.clone()),
            }
        }
        Self { lower, others }
    }

    fn join(&self, lower: &[String]) -> String {
        let mut options = self.others.clone();
        if !lower.is_empty() {
            options.push(format!("lowerdir={}", lower.join(":")));
        }
        options.join(",")
    }

    fn mount_one_by_one(&self, source: &str, flags: MsFlags, target: &Path) -> Result<()> {
        let failed = |e: io::Error| Error::path("mount", target, e);
        let context = open_filesystem("overlay").map_err(failed)?;
        set_string(&context, "source", source).map_err(failed)?;
        for layer in &self.lower {
            set_string(&context, "lowerdir+", layer).map_err(failed)?;
        }
        for option in &self.others {
            match option.split_once('=') {
                Some((key, value)) => set_string(&context, key, value),
                None => configure(&context, libc::FSCONFIG_SET_FLAG, Some(option), None),
            }
            .map_err(failed)?;
        }
        configure(&context, libc::FSCONFIG_CMD_CREATE, None, None).map_err(failed)?;
        let mount = make_mount(&context, attributes(flags)).map_err(failed)?;
        idmap::move_to(&mount, target)
    }

    fn mount_from_common_dir(&self, source: &str, flags: MsFlags, target: &Path) -> Result<()> {
        let failed = |e: io::Error| Error::path("mount", target, e);
        let dir = common_dir(&self.lower).ok_or_else(|| failed(too_long()))?;
        let relative: Vec<String> = self
            .lower
            .iter()
            .filter_map(|layer| Path::new(layer).strip_prefix(&dir).ok())
            .map(|layer| layer.to_string_lossy().into_owned())
            .collect();
        let data = self.join(&relative);
        if data.len() > DATA_MAX || relative.iter().any(String::is_empty) {
            return Err(failed(too_long()));
        }
        let (source, target) = (source.to_owned(), std::path::absolute(target).map_err(failed)?);
        // The working directory belongs to the whole process; a thread can
        // have one of its own.
        let thread = std::thread::Builder::new().spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)
                .map_err(|e| Error::call("unshare", e))?;
            nix::unistd::chdir(&dir).map_err(|e| Error::path("chdir", &dir, e))?;
            call(&source, "overlay", flags, &data, &target)
        });
        match thread.map_err(|e| Error::call("start a thread", e))?.join() {
            Ok(result) => result,
            Err(_) => Err(Error::Unsupported("the thread that mounts has panicked")),
        }
    }
}

/// The deepest directory above all layers.
fn common_dir(layers: &[String]) -> Option<PathBuf> {
    let mut layers = layers.iter().map(Path::new);
    let mut common = layers.next()?.parent()?.to_owned();
    for layer in layers {
        while !layer.starts_with(&common) {
            common = common.parent()?.to_owned();
        }
    }
    (common != Path::new("/")).then_some(common)
}

/// The flags that belong to the mount and not to the filesystem, as
/// fsmount(2) takes them.
fn attributes(flags: MsFlags) -> u64 {
    [
        (MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
        (MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
        (MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV),
        (MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        (MsFlags::MS_NOATIME, libc::MOUNT_ATTR_NOATIME),
        (MsFlags::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
        (MsFlags::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
    ]
    .into_iter()
    .filter(|(flag, _)| flags.contains(*flag))
    .fold(0, |attributes, (_, attribute)| attributes | attribute)
}

fn open_filesystem(kind: &str) -> io::Result<OwnedFd> {
    let kind = CString::new(kind)?;
    // SAFETY: the name is a C string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) };
    idmap::owned(fd)
}

fn set_string(context: &OwnedFd, key: &str, value: &str) -> io::Result<()> {
    if value.len() > VALUE_MAX {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    configure(context, libc::FSCONFIG_SET_STRING, Some(key), Some(value))
}

fn configure(
    context: &OwnedFd,
    command: libc::c_uint,
    key: Option<&str>,
    value: Option<&str>,
) -> io::Result<()> {
    let key = key.map(CString::new).transpose()?;
    let value = value.map(CString::new).transpose()?;
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |t| t.as_ptr());
    // SAFETY: both strings outlive the call; null where the command takes
    // none; the descriptor is open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            pointer(&key),
            pointer(&value),
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn make_mount(context: &OwnedFd, attributes: u64) -> io::Result<OwnedFd> {
    // SAFETY: integers only; the descriptor is open.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            libc::FSMOUNT_CLOEXEC,
            attributes as libc::c_uint,
        )
    };
    idmap::owned(fd)
}

/// The last resort alone, for its test on kernels that do not need it.
#[cfg(test)]
pub(super) fn mount_relative(data: &[String], target: &Path) -> Result<()> {
    Options::new(data).mount_from_common_dir("overlay", MsFlags::empty(), target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_directory_is_whole_components() {
        let layers = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let common = |names: &[&str]| common_dir(&layers(names));
        assert_eq!(common(&["/a/s/10/fs", "/a/s/1/fs"]), Some("/a/s".into()));
        assert_eq!(common(&["/a/s/10/fs"]), Some("/a/s/10".into()));
        assert_eq!(common(&["/a/x", "/b/x"]), None);
        assert_eq!(common(&[]), None);
    }
}
