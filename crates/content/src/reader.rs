//! Reading a blob.

use std::fs::File;
use std::io;

/// A blob, open. Reads need no position, so one reader serves many threads.
#[derive(Debug)]
pub struct Reader {
    file: File,
    size: u64,
}

impl Reader {
    /// The blob's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads into `buffer` from `offset`; fewer bytes than asked for at the
    /// end of the blob, 0 behind it.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.file, buffer, offset)
    }

    /// The file itself, positioned at its start, for passing to a process.
    pub fn into_file(self) -> File {
        self.file
    }
}
