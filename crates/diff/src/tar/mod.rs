//! The tar format: v7, ustar, star, GNU and PAX, read the way Go's
//! `archive/tar` reads them and written the way it writes them, so that what
//! containerd accepts is accepted and what it produces is produced.
//!
//! Nothing here touches a file. The reader is fed by any [`std::io::BufRead`],
//! allocates no more than its named limits, and never panics on any input.

mod header;
mod pax;
mod read;
mod sparse;
mod write;

pub use read::{Entry, Extent, Reader};
pub use write::{Header, Writer};

/// A tar stream consists of blocks of so many bytes.
pub(crate) const BLOCK: usize = 512;
/// The most bytes that one PAX header, long name or sparse map may have.
pub(crate) const SPECIAL_FILE_MAX: u64 = 1 << 20;
/// The most pieces that one sparse file may have.
pub(crate) const EXTENTS_MAX: usize = 1 << 20;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// Another name of an earlier entry.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// Something that only its type flag says.
    Other(u8),
}

impl EntryKind {
    /// The type flag in a header.
    pub fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::CharDevice => b'3',
            Self::BlockDevice => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
            Self::Other(flag) => flag,
        }
    }
}

/// A point in time, before 1970 too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds on top, below a thousand million.
    pub nanos: u32,
}

/// Why a tar stream cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes could not be had; a stream that ends early is
    /// `UnexpectedEof`.
    #[error("read archive at byte {position}")]
    Read {
        /// Where in the uncompressed stream.
        position: u64,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are no tar entry.
    #[error("archive/tar: {what} at byte {position}")]
    Invalid {
        /// Where in the uncompressed stream the header is.
        position: u64,
        /// What is wrong.
        what: &'static str,
    },
}
