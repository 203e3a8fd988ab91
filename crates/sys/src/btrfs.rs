//! Subvolumes of btrfs, by the requests of `linux/btrfs.h`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The inode of every subvolume's root directory.
pub const ROOT_INODE: u64 = 256;

const SUBVOL_CREATE: libc::c_ulong = 0x5000_940E;
const SNAP_DESTROY: libc::c_ulong = 0x5000_940F;
const INO_LOOKUP: libc::c_ulong = 0xD000_9412;
const SNAP_CREATE_V2: libc::c_ulong = 0x5000_9417;
const SUBVOL_GETFLAGS: libc::c_ulong = 0x8008_9419;
const SUBVOL_SETFLAGS: libc::c_ulong = 0x4008_941A;

const READ_ONLY: u64 = 1 << 1;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct InodeLookup {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

/// Makes an empty subvolume `name` in the directory `parent`.
///
/// # Errors
/// The system's: `ENOTTY` where the directory is on something else.
pub fn create_subvolume(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    by_name(parent, SUBVOL_CREATE, name)
}

/// Removes the subvolume `name` of the directory `parent`, whatever is in it.
///
/// # Errors
/// The system's: `ENOTEMPTY` when there are subvolumes in it.
pub fn destroy_subvolume(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    by_name(parent, SNAP_DESTROY, name)
}

fn by_name(parent: impl AsFd, request: libc::c_ulong, name: &CStr) -> io::Result<()> {
    let mut args = VolArgs { fd: 0, name: [0; 4088] };
    copy_name(name, &mut args.name)?;
    // SAFETY: the structure has the kernel's layout and size, its name ends
    // with a zero byte, and it outlives the call; the descriptor is open.
    let result = unsafe { libc::ioctl(parent.as_fd().as_raw_fd(), request as _, &raw const args) };
    checked(result)
}

/// Makes `name` in the directory `parent` a snapshot of the subvolume
/// `source`.
///
/// # Errors
/// The system's.
pub fn snapshot(
    source: impl AsFd,
    parent: impl AsFd,
    name: &CStr,
    read_only: bool,
) -> io::Result<()> {
    let mut args = VolArgsV2 {
        fd: i64::from(source.as_fd().as_raw_fd()),
        transaction: 0,
        flags: if read_only { READ_ONLY } else { 0 },
        unused: [0; 4],
        name: [0; 4040],
    };
    copy_name(name, &mut args.name)?;
    // SAFETY: as in `by_name`; the source's descriptor, too, is open.
    let result =
        unsafe { libc::ioctl(parent.as_fd().as_raw_fd(), SNAP_CREATE_V2 as _, &raw const args) };
    checked(result)
}

/// Makes a subvolume writable, whose root directory is open.
///
/// # Errors
/// The system's.
pub fn make_writable(subvolume: impl AsFd) -> io::Result<()> {
    let fd = subvolume.as_fd().as_raw_fd();
    let mut flags: u64 = 0;
    // SAFETY: the request writes one u64, which outlives the call; the
    // descriptor is open.
    checked(unsafe { libc::ioctl(fd, SUBVOL_GETFLAGS as _, &raw mut flags) })?;
    if flags & READ_ONLY == 0 {
        return Ok(());
    }
    flags &= !READ_ONLY;
    // SAFETY: the request reads one u64, which outlives the call; the
    // descriptor is open.
    checked(unsafe { libc::ioctl(fd, SUBVOL_SETFLAGS as _, &raw const flags) })
}

/// The number of the subvolume that an open file or directory is in.
///
/// # Errors
/// The system's.
pub fn subvolume_id(file: impl AsFd) -> io::Result<u64> {
    let mut args = InodeLookup { tree: 0, object: ROOT_INODE, name: [0; 4080] };
    // SAFETY: the structure has the kernel's layout and size and outlives the
    // call, which writes into it; the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), INO_LOOKUP as _, &raw mut args) };
    checked(result)?;
    Ok(args.tree)
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Copies a name into a buffer of zeroes, the last of which stays.
fn copy_name(name: &CStr, buffer: &mut [u8]) -> io::Result<()> {
    let name = name.to_bytes();
    // The longest that a directory takes.
    if name.is_empty() || name.len() > 255 {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    buffer[..name.len()].copy_from_slice(name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_size_that_is_in_the_requests() {
        assert_eq!(size_of::<VolArgs>(), 4096);
        assert_eq!(size_of::<VolArgsV2>(), 4096);
        assert_eq!(size_of::<InodeLookup>(), 4096);
    }

    #[test]
    fn other_file_systems_and_bad_names_are_refused() {
        let proc = std::fs::File::open("/proc").unwrap();
        let refused = create_subvolume(&proc, c"x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOTTY));
        assert!(subvolume_id(&proc).is_err());
        let long = std::ffi::CString::new("x".repeat(256)).unwrap();
        for name in [c"", long.as_c_str()] {
            let refused = destroy_subvolume(&proc, name).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidFilename);
        }
    }
}
