//! Loop devices: a file as a block device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Error, Result};

/// How often a free device is looked for; others look at the same time and
/// may be faster.
const TRIES: u32 = 100;

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// `struct loop_config` of Linux 5.8, with `struct loop_info64` inside.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// An attached device. It is detached when this and every mount of it are
/// gone.
pub(super) struct Attached {
    pub(super) path: PathBuf,
    _device: File,
}

/// Attaches a file to a free device.
///
/// # Errors
/// The system's; `EBUSY` when others were faster every time.
pub(super) fn attach(file: &Path, read_only: bool, direct_io: bool) -> Result<Attached> {
    let open = |path: &Path| {
        OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(|e| Error::path("open", path, e))
    };
    let backing = open(file)?;
    let mut flags = AUTOCLEAR;
    flags |= if read_only { READ_ONLY } else { 0 };
    flags |= if direct_io { DIRECT_IO } else { 0 };
    let mut busy = None;
    for attempt in 0..TRIES {
        let path = PathBuf::from(format!("/dev/loop{}", free_number()?));
        let device = open(&path)?;
        match configure(&device, &backing, file, flags) {
            Ok(()) => return Ok(Attached { path, _device: device }),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => busy = Some((path, e)),
            Err(e) => return Err(Error::path("attach loop device to", file, e)),
        }
        std::thread::sleep(Duration::from_millis(u64::from(attempt % 10)));
    }
    let (path, e) = busy.unwrap_or_else(|| (file.to_owned(), io::ErrorKind::ResourceBusy.into()));
    Err(Error::path("attach loop device", path, e))
}

fn free_number() -> Result<i32> {
    let path = Path::new("/dev/loop-control");
    let failed = |e| Error::path("find a free device by", path, e);
    let control = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
    // SAFETY: the request takes no argument; the descriptor is open.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    match number {
        ..0 => Err(failed(io::Error::last_os_error())),
        number => Ok(number),
    }
}

fn configure(device: &File, backing: &File, name: &Path, flags: u32) -> io::Result<()> {
    // SAFETY: integers and arrays of integers, for which zeroes are valid.
    let mut config: LoopConfig = unsafe { std::mem::zeroed() };
    config.fd = backing.as_raw_fd() as u32;
    config.flags = flags;
    let name = name.as_os_str().as_encoded_bytes();
    // One byte stays zero: the kernel reads a C string.
    let length = name.len().min(config.file_name.len() - 1);
    config.file_name[..length].copy_from_slice(&name[..length]);
    // SAFETY: the structure has the kernel's layout and outlives the call;
    // both descriptors are open.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
