//! Mounts, as containerd's `core/mount` makes and removes them.

mod idmap;
mod loopdev;
pub mod mountinfo;
mod options;
mod overlay;
mod unmount;

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use davit_types::Mount;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::MsFlags;

pub use options::Parsed;
pub use unmount::{Lingering, unmount, unmount_all, unmount_early, unmount_recursive};

use crate::{Error, Result};

/// What a mount's data may be long, in bytes: a page, with its final zero.
const DATA_MAX: usize = 4095;

/// Flags that change how mounts spread; a call of their own.
const PROPAGATION: MsFlags = MsFlags::MS_SHARED
    .union(MsFlags::MS_PRIVATE)
    .union(MsFlags::MS_SLAVE)
    .union(MsFlags::MS_UNBINDABLE);

/// Makes one mount at `target`, or below it when the mount names a target of
/// its own; links in that are resolved as if `target` were the root.
///
/// Options are fstab's: words that are flags become flags, the rest goes to
/// the filesystem. A read-only bind mount is made in two steps, as the kernel
/// wants it. Propagation (`rprivate`, `rslave`, …) is set afterwards. `loop`
/// attaches the source to a free loop device first, which goes with the
/// mount. `uidmap=`/`gidmap=` map owners; for overlays the lower layers are
/// mapped. Options starting with `X-containerd.` are for containerd's own use
/// and dropped. An overlay whose layers' paths do not fit into a page is
/// mounted all the same. Types `fuse.X` and `fuse3.X` go to `mount.fuse` and
/// `mount.fuse3`.
///
/// # Errors
/// The system's, naming the target; [`crate::Error::MountOption`] for options
/// without meaning. Nothing is left mounted after an error.
pub fn mount(mount: &Mount, target: &Path) -> Result<()> {
    let below = match mount.target.is_empty() {
        true => None,
        false => Some(open_below(target, Path::new(&mount.target))?),
    };
    // The open directory stays the same whatever happens to its path.
    let place = match &below {
        Some(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
        None => target.to_owned(),
    };
    for (prefix, program) in [("fuse.", "mount.fuse"), ("fuse3.", "mount.fuse3")] {
        if let Some(kind) = mount.kind.strip_prefix(prefix) {
            return mount_by_program(program, kind, mount, &place);
        }
    }
    mount_at(mount, &place).map_err(|e| match e {
        Error::Path { operation, path, source } if path == place => {
            Error::Path { operation, path: target.join(&mount.target), source }
        }
        other => other,
    })
}

/// Makes all mounts, in order, over the same target; after an error those
/// already made are removed.
///
/// # Errors
/// As [`mount`].
pub fn mount_all(mounts: &[Mount], target: &Path) -> Result<()> {
    for (index, each) in mounts.iter().enumerate() {
        if let Err(e) = mount(each, target) {
            if index > 0 {
                // The first error is the one worth telling.
                let _ = unmount_recursive(target, true);
            }
            return Err(e);
        }
    }
    Ok(())
}

/// What mount(2) is called with for these options, for whoever tells of it:
/// the flags but those of propagation, and the data.
///
/// # Errors
/// [`Error::MountOption`].
pub fn arguments(options: &[String]) -> Result<(u64, String)> {
    let parsed = Parsed::new(options)?;
    Ok(((parsed.flags - PROPAGATION).bits(), parsed.data.join(",")))
}

fn open_below(root: &Path, path: &Path) -> Result<OwnedFd> {
    let named = || root.join(path.strip_prefix("/").unwrap_or(path));
    let dir = std::fs::File::open(root).map_err(|e| Error::path("open", root, e))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(&dir, path, how).map_err(|e| Error::path("open", named(), e))
}

fn mount_at(mount: &Mount, target: &Path) -> Result<()> {
    let parsed = Parsed::new(&mount.options)?;
    let flags = parsed.flags - PROPAGATION;
    let users = parsed.id_maps.as_ref().map(idmap::user_namespace).transpose()?;
    let mounted = if flags.contains(MsFlags::MS_REMOUNT) && parsed.data.is_empty() {
        false
    } else {
        first_call(mount, &parsed, users.as_ref(), flags, target)?;
        !flags.contains(MsFlags::MS_REMOUNT)
    };
    let rest = later_calls(mount, &parsed, users.as_ref(), flags, target);
    if rest.is_err() && mounted {
        let _ = unmount(target, true);
    }
    rest
}

fn first_call(
    mount: &Mount,
    parsed: &Parsed,
    users: Option<&OwnedFd>,
    flags: MsFlags,
    target: &Path,
) -> Result<()> {
    if mount.kind == "overlay" {
        return overlay::mount(&mount.source, parsed, users, flags, target);
    }
    let data = parsed.data.join(",");
    if parsed.use_loop {
        let read_only = flags.contains(MsFlags::MS_RDONLY);
        let device = loopdev::attach(Path::new(&mount.source), read_only, parsed.direct_io)?;
        // The device is released with its last user: us now, the mount then.
        return call(&device.path.to_string_lossy(), &mount.kind, flags, &data, target);
    }
    call(&mount.source, &mount.kind, flags, &data, target)
}

fn later_calls(
    mount: &Mount,
    parsed: &Parsed,
    users: Option<&OwnedFd>,
    flags: MsFlags,
    target: &Path,
) -> Result<()> {
    let spread = parsed.flags & PROPAGATION;
    if !spread.is_empty() {
        let spread = spread | (parsed.flags & (MsFlags::MS_REC | MsFlags::MS_SILENT));
        call("", "", spread, "", target)?;
    }
    // A bind mount takes over its source's flags; others need a remount.
    let read_only_bind = MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    if flags.contains(read_only_bind) {
        call("", "", flags | MsFlags::MS_REMOUNT, "", target)?;
    }
    match users {
        Some(users) if mount.kind != "overlay" => idmap::map_in_place(users, target),
        _ => Ok(()),
    }
}

/// mount(2).
fn call(source: &str, kind: &str, flags: MsFlags, data: &str, target: &Path) -> Result<()> {
    if data.len() > DATA_MAX {
        return Err(Error::path("mount", target, too_long()));
    }
    let data = (!data.is_empty()).then_some(data);
    nix::mount::mount(Some(source), target, Some(kind), flags, data)
        .map_err(|e| Error::path("mount", target, e))
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "mount options is too long")
}

fn mount_by_program(program: &'static str, kind: &str, mount: &Mount, target: &Path) -> Result<()> {
    let mut command = Command::new(program);
    command.arg(&mount.source).arg(target);
    for option in mount.options.iter().filter(|o| !options::is_private(o)) {
        command.args(["-o", option]);
    }
    command.args(["-t", kind]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let failed = |e: io::Error| Error::path("mount", target, e);
    let before = mounts_at(target)?;
    let mut child = command.spawn().map_err(failed)?;
    let mut text = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_end(&mut text).map_err(failed)?;
    }
    let done = match child.wait() {
        Ok(status) => status.success(),
        // A shim's reaper was faster, who collects every child: what the
        // program has done shows whether it failed.
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => mounts_at(target)? > before,
        Err(e) => return Err(failed(e)),
    };
    match done {
        true => Ok(()),
        false => {
            let text = String::from_utf8_lossy(&text);
            Err(failed(io::Error::other(format!("{program}: {}", text.trim()))))
        }
    }
}

fn mounts_at(target: &Path) -> Result<usize> {
    // What is named by a descriptor has another name in the table.
    let target = target.canonicalize().map_err(|e| Error::path("resolve", target, e))?;
    Ok(mountinfo::read()?.iter().filter(|mount| mount.mount_point == target).count())
}

#[cfg(test)]
mod tests;
