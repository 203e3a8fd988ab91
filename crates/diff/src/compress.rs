//! From an archive to a layer's bytes: the same bytes for the same archive.

use std::io::{self, Write};

use davit_types::Digest;
use sha2::Digest as _;

use crate::media_type::Compression;
use crate::stream::digest_of;

/// As containerd's libraries choose when not told otherwise.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

enum Encoder<W: Write> {
    None(W),
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

/// Compresses what is written to it, and hashes it before.
pub(crate) struct Compressor<W: Write> {
    encoder: Encoder<W>,
    hash: sha2::Sha256,
    size: u64,
}

impl<W: Write> Compressor<W> {
    pub fn new(output: W, compression: Compression) -> io::Result<Self> {
        let encoder = match compression {
            Compression::None => Encoder::None(output),
            Compression::Gzip => {
                // No name, no time, and the "unknown" system.
                let header = flate2::GzBuilder::new().mtime(0).operating_system(255);
                Encoder::Gzip(header.write(output, flate2::Compression::new(GZIP_LEVEL)))
            }
            Compression::Zstd => {
                Encoder::Zstd(zstd::stream::write::Encoder::new(output, ZSTD_LEVEL)?)
            }
        };
        Ok(Self { encoder, hash: sha2::Sha256::new(), size: 0 })
    }

    /// Ends the compressed stream; answers the output, and digest and size
    /// of what was written.
    pub fn finish(self) -> io::Result<(W, Digest, u64)> {
        let output = match self.encoder {
            Encoder::None(output) => output,
            Encoder::Gzip(encoder) => encoder.finish()?,
            Encoder::Zstd(encoder) => encoder.finish()?,
        };
        Ok((output, digest_of(self.hash), self.size))
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = match &mut self.encoder {
            Encoder::None(output) => output.write(data),
            Encoder::Gzip(encoder) => encoder.write(data),
            Encoder::Zstd(encoder) => encoder.write(data),
        }?;
        self.hash.update(&data[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.encoder {
            Encoder::None(output) => output.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }
}
