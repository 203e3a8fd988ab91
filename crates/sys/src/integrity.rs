//! What keeps a file as it is: fs-verity (`linux/fsverity.h`), by which the
//! kernel refuses to read damaged bytes, the immutable flag, and an early
//! beginning of the way to the disk.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const ENABLE_VERITY: libc::c_ulong = 0x4080_6685;
const MEASURE_VERITY: libc::c_ulong = 0xC004_6686;
const GET_FLAGS: libc::c_ulong = 0x8008_6601;
const SET_FLAGS: libc::c_ulong = 0x4008_6602;
const IMMUTABLE: libc::c_int = 0x10;
const SHA256: u32 = 1;
const SHA256_SIZE: u16 = 32;
/// What the merkle tree's blocks measure everywhere that fs-verity exists.
const BLOCK_SIZE: u32 = 4096;

/// `struct fsverity_enable_arg`.
#[repr(C)]
struct Enable {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt: u64,
    signature_size: u32,
    reserved: u32,
    signature: u64,
    more: [u64; 11],
}

/// `struct fsverity_digest` with room for one of SHA-256.
#[repr(C)]
struct Measured {
    algorithm: u16,
    size: u16,
    digest: [u8; SHA256_SIZE as usize],
}

/// Makes the kernel check every byte that is read of a file from now on, and
/// refuse every write, for good. The file must be open for reading alone, by
/// everybody. One that is so already stays so.
///
/// # Errors
/// The system's: `EOPNOTSUPP` or `ENOTTY` where the file system or the kernel
/// cannot, `ETXTBSY` while somebody may write to the file.
pub fn enable_verity(file: &File) -> io::Result<()> {
    let enable = Enable {
        version: 1,
        hash_algorithm: SHA256,
        block_size: BLOCK_SIZE,
        salt_size: 0,
        salt: 0,
        signature_size: 0,
        reserved: 0,
        signature: 0,
        more: [0; 11],
    };
    // SAFETY: the structure has the kernel's layout, its sizes of 0 say that
    // its pointers are none, and it outlives the call; the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), ENABLE_VERITY as _, &raw const enable) };
    match checked(result) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}

/// The digest by which the kernel checks a file; `None` when it does not.
///
/// # Errors
/// The system's.
pub fn verity_digest(file: &File) -> io::Result<Option<[u8; 32]>> {
    let mut measured = Measured { algorithm: 0, size: SHA256_SIZE, digest: [0; 32] };
    // SAFETY: the structure has the kernel's layout, says how much room it
    // has, and outlives the call; the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), MEASURE_VERITY as _, &raw mut measured) };
    match checked(result) {
        Ok(()) => Ok(Some(measured.digest)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENODATA | libc::ENOTTY | libc::EOPNOTSUPP) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Sets or clears the flag by which even root cannot change or remove a file.
///
/// # Errors
/// The system's: `ENOTTY` where the file system has no such flag.
pub fn set_immutable(file: &File, immutable: bool) -> io::Result<()> {
    let mut flags: libc::c_int = 0;
    // SAFETY: the request writes one int, whatever its number says; it
    // outlives the call, and the descriptor is open.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), GET_FLAGS as _, &raw mut flags) })?;
    let wanted = if immutable { flags | IMMUTABLE } else { flags & !IMMUTABLE };
    if wanted == flags {
        return Ok(());
    }
    // SAFETY: the request reads one int, which outlives the call; the
    // descriptor is open.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), SET_FLAGS as _, &raw const wanted) })
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel begin to write a part of a file to the disk, without waiting
/// for it (`sync_file_range`). A file that is to be synced anyway is synced
/// sooner then; it is no sync itself, and that it cannot be done is nothing to
/// worry about. `offset` and `length` are bytes.
///
/// # Errors
/// The system's; also where the file system is not on a disk.
pub fn begin_writeback(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let signed = |bytes: u64| i64::try_from(bytes).map_err(io::Error::other);
    let (offset, length) = (signed(offset)?, signed(length)?);
    let fd = file.as_raw_fd();
    // SAFETY: the descriptor is open, and no memory of ours is involved.
    let result = unsafe { libc::sync_file_range(fd, offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    nix::errno::Errno::result(result).map(drop).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_structure_has_the_size_that_is_in_the_request() {
        assert_eq!(size_of::<Enable>(), 128);
    }

    #[test]
    fn a_file_is_checked_or_the_file_system_says_that_it_cannot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "text").unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(verity_digest(&file).unwrap(), None);
        match enable_verity(&file) {
            Ok(()) => {
                assert!(verity_digest(&file).unwrap().is_some());
                enable_verity(&file).unwrap();
                assert!(fs::write(&path, "other").is_err());
            }
            Err(error) => {
                let code = error.raw_os_error().unwrap();
                assert!([libc::ENOTTY, libc::EOPNOTSUPP].contains(&code), "{error}");
                assert_eq!(verity_digest(&file).unwrap(), None);
            }
        }
    }

    #[test]
    fn what_is_immutable_cannot_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "text").unwrap();
        let file = File::open(&path).unwrap();
        match set_immutable(&file, true) {
            Ok(()) => {
                assert!(fs::remove_file(&path).is_err());
                set_immutable(&file, false).unwrap();
                fs::remove_file(&path).unwrap();
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOTTY)),
        }
    }
}
