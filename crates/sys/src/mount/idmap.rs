//! Idmapped mounts: files show other owners than they have on disk
//! (mount_setattr(2), Linux 5.12; for overlays' layers 5.19).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::options::IdMaps;
use super::unmount;
use crate::process::PidFd;
use crate::{Error, Result};

/// `struct mount_attr`, which the C library's bindings do not have
/// everywhere.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A user namespace with these maps, in which nobody lives.
///
/// # Errors
/// The system's; maps that the kernel refuses.
pub(super) fn user_namespace(maps: &IdMaps) -> Result<OwnedFd> {
    let holder = Holder::new()?;
    let pid = holder.0.pid();
    for (file, map) in [("uid_map", &maps.users), ("gid_map", &maps.groups)] {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, map).map_err(|e| Error::path("write", path, e))?;
    }
    let path = format!("/proc/{pid}/ns/user");
    let file = std::fs::File::open(&path).map_err(|e| Error::path("open", path, e))?;
    Ok(file.into())
}

/// A process that exists to hold a namespace open until we have.
struct Holder(PidFd);

impl Holder {
    fn new() -> Result<Self> {
        let flags = (libc::CLONE_NEWUSER | libc::SIGCHLD) as libc::c_ulong;
        // SAFETY: without CLONE_VM this is fork(2): the child has its own
        // copy of everything. It runs nothing but the two system calls below,
        // which need none of the C library's state, and never returns.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        match pid {
            ..0 => Err(Error::call("clone a user namespace", io::Error::last_os_error())),
            0 => loop {
                // SAFETY: integers only. The child goes when its parent does,
                // and waits to be killed.
                unsafe {
                    libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                    libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0);
                }
            },
            _ => PidFd::open(pid as u32).map(Self),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.send_signal(libc::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Replaces the mount at `target` by a mapped copy of itself.
pub(super) fn map_in_place(users: &OwnedFd, target: &Path) -> Result<()> {
    let copy = mapped_copy(users, target)?;
    move_to(&copy, target)
}

fn mapped_copy(users: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    let failed = |operation| move |e: io::Error| Error::path(operation, path, e);
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|e| failed("open_tree")(e.into()))?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path is a C string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, name.as_ptr(), flags) };
    let tree = owned(fd).map_err(failed("open_tree"))?;
    let attributes = MountAttr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        userns_fd: users.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    // SAFETY: the empty path with AT_EMPTY_PATH means the descriptor itself;
    // the attributes have the size that is told and outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    match result {
        0 => Ok(tree),
        _ => Err(failed("mount_setattr")(io::Error::last_os_error())),
    }
}

/// Attaches a mount that lies nowhere yet.
pub(super) fn move_to(mount: &OwnedFd, target: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::path("mount", target, e);
    let name = std::ffi::CString::new(target.as_os_str().as_encoded_bytes())
        .map_err(|e| failed(e.into()))?;
    // SAFETY: both paths are C strings that outlive the call; the empty one
    // with the flag means the descriptor itself.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            name.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_SYMLINKS,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(failed(io::Error::last_os_error())),
    }
}

pub(super) fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match fd {
        ..0 => Err(io::Error::last_os_error()),
        // SAFETY: callers pass what a system call that opens a descriptor has
        // just returned; nobody else knows it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    }
}

/// Mapped copies of an overlay's layers, each mounted on a directory of a
/// temporary one; all gone when dropped.
pub(super) struct MappedLayers {
    dir: PathBuf,
    count: usize,
}

pub(super) fn map_layers(users: &OwnedFd, layers: &[String]) -> Result<MappedLayers> {
    let template = std::env::temp_dir().join("davit-idmapped-XXXXXX");
    let dir = nix::unistd::mkdtemp(&template).map_err(|e| Error::path("mkdtemp", template, e))?;
    let mut mapped = MappedLayers { dir, count: 0 };
    for layer in layers {
        let place = mapped.place(mapped.count);
        std::fs::create_dir(&place).map_err(|e| Error::path("mkdir", &place, e))?;
        mapped.count += 1;
        move_to(&mapped_copy(users, Path::new(layer))?, &place)?;
    }
    Ok(mapped)
}

impl MappedLayers {
    fn place(&self, index: usize) -> PathBuf {
        self.dir.join(index.to_string())
    }

    /// Their paths, in the order of the layers.
    pub(super) fn layers(&self) -> Vec<String> {
        (0..self.count).map(|i| self.place(i).to_string_lossy().into_owned()).collect()
    }
}

impl Drop for MappedLayers {
    fn drop(&mut self) {
        for index in 0..self.count {
            let place = self.place(index);
            let _ = unmount(&place, true);
            // Never recursively: a layer that is still mounted would go.
            let _ = std::fs::remove_dir(&place);
        }
        let _ = std::fs::remove_dir(&self.dir);
    }
}
