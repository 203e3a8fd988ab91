//! The bytes of an entry, on their way into its file.

use rustix::fd::OwnedFd;
use rustix::fs;
use rustix::io::Errno;

use crate::tar::{Entry, Reader};
use crate::{Error, Stream};

/// Why a file's data could not be written: the archive's fault, or the
/// file system's.
pub(crate) enum CopyError {
    Archive(crate::tar::Error),
    File(Errno),
}

impl CopyError {
    /// As the error of the entry.
    pub fn named(self, entry: &Entry) -> Error {
        match self {
            Self::Archive(error) => error.into(),
            Self::File(errno) => Error::Entry {
                entry: String::from_utf8_lossy(&entry.name).into_owned(),
                operation: "write",
                source: errno.into(),
            },
        }
    }
}

/// Writes an entry's data, the pieces of a sparse file at their places.
pub(crate) fn copy(
    reader: &mut Reader<&mut Stream>,
    entry: &Entry,
    file: &OwnedFd,
) -> Result<(), CopyError> {
    let Some(extents) = &entry.extents else {
        return copy_piece(reader, entry.size, |data, _| rustix::io::write(file, data));
    };
    fs::ftruncate(file, entry.size).map_err(CopyError::File)?;
    for extent in extents {
        copy_piece(reader, extent.length, |data, done| {
            rustix::io::pwrite(file, data, extent.offset + done)
        })?;
    }
    Ok(())
}

fn copy_piece(
    reader: &mut Reader<&mut Stream>,
    length: u64,
    write: impl Fn(&[u8], u64) -> rustix::io::Result<usize>,
) -> Result<(), CopyError> {
    let mut done = 0;
    while done < length {
        let data = reader.data().map_err(CopyError::Archive)?;
        if data.is_empty() {
            // The reader has checked that a sparse file's pieces use up its
            // data, so only a shorter file ends here, and it cannot.
            return Ok(());
        }
        let wanted = usize::try_from(length - done).unwrap_or(usize::MAX).min(data.len());
        let written = match write(&data[..wanted], done) {
            Err(Errno::INTR) => 0,
            result => result.map_err(CopyError::File)?,
        };
        reader.consume(written);
        done += written as u64;
    }
    Ok(())
}
