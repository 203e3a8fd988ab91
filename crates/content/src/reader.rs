//! Reading a blob.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A blob, open. Reads need no position, so one reader serves many threads.
#[derive(Debug)]
pub struct Reader {
    file: File,
    size: u64,
}

impl Reader {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }

    /// The blob's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads into `buffer` from `offset`; fewer bytes than asked for at the
    /// end of the blob, 0 behind it.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// The file itself, positioned at its start, for passing to a process.
    pub fn into_file(self) -> File {
        self.file
    }
}
