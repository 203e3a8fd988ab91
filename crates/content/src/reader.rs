//! Reading a blob.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Blob;

/// Bytes that are asked of another process at once.
const BLOCK: usize = 1 << 20;

/// A blob, open. Reads need no position, so one reader serves many threads.
#[derive(Debug)]
pub struct Reader(Bytes);

#[derive(Debug)]
enum Bytes {
    Here { file: File, size: u64 },
    Elsewhere { blob: Arc<dyn Blob>, scratch: PathBuf },
}

impl Reader {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self(Bytes::Here { file, size }))
    }

    /// A reader of what another process has. When a file is wanted, it is
    /// made in the directory `scratch`.
    pub fn elsewhere(blob: Arc<dyn Blob>, scratch: PathBuf) -> Self {
        Self(Bytes::Elsewhere { blob, scratch })
    }

    /// The blob's length in bytes.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Bytes::Here { size, .. } => *size,
            Bytes::Elsewhere { blob, .. } => blob.size(),
        }
    }

    /// Reads into `buffer` from `offset`; fewer bytes than asked for at the
    /// end of the blob, 0 behind it.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let file = match &self.0 {
            Bytes::Here { file, .. } => file,
            Bytes::Elsewhere { blob, .. } => return blob.read_at(buffer, offset),
        };
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// A file with the blob in it, positioned at its start, for passing to a
    /// process. What is elsewhere is copied into one without a name first.
    ///
    /// # Errors
    /// The bytes cannot be had, or not kept.
    pub fn into_file(self) -> io::Result<File> {
        match self.0 {
            Bytes::Here { file, .. } => Ok(file),
            Bytes::Elsewhere { blob, scratch } => copy(&blob, &scratch),
        }
    }

    /// The blob's own file, where there is one.
    pub fn into_own_file(self) -> Option<File> {
        match self.0 {
            Bytes::Here { file, .. } => Some(file),
            Bytes::Elsewhere { .. } => None,
        }
    }

    /// The bytes from `offset` on, as they are read.
    pub fn into_read(self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        match self.0 {
            Bytes::Here { mut file, .. } => {
                file.seek(SeekFrom::Start(offset))?;
                Ok(Box::new(file))
            }
            Bytes::Elsewhere { blob, .. } => {
                Ok(Box::new(BufReader::with_capacity(BLOCK, Rest { blob, offset })))
            }
        }
    }
}

/// What is left of a blob that is elsewhere.
struct Rest {
    blob: Arc<dyn Blob>,
    offset: u64,
}

impl Read for Rest {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.blob.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

fn copy(blob: &Arc<dyn Blob>, scratch: &Path) -> io::Result<File> {
    let mut file = nameless(scratch)?;
    let mut rest = Rest { blob: Arc::clone(blob), offset: 0 };
    let mut block = vec![0; BLOCK];
    loop {
        match rest.read(&mut block)? {
            0 => break,
            count => file.write_all(&block[..count])?,
        }
    }
    if rest.offset != blob.size() {
        let text = format!("it ended after {} bytes of {}", rest.offset, blob.size());
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
    }
    file.rewind()?;
    Ok(file)
}

/// A file that goes when it is closed.
fn nameless(directory: &Path) -> io::Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = directory.join(format!("{}-{number}", std::process::id()));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}
