//! Making compressed blobs of those that the daemon has.

use std::io::{self, Write};

use bytes::Bytes;
use davit_protocols::grpc::containerd::services::content::v1 as api;
use davit_types::{Algorithm, Digest, Labels, labels};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::content::{self, CHUNK, Part};
use crate::unique::unique_part;
use crate::{Client, Error};

/// Pieces that wait on each side of the compressor.
const PIECES_MAX: usize = 4;

/// Compresses a blob with gzip, as containerd does on import. Answers with the
/// new one's digest and size.
pub(crate) async fn gzip(client: &Client, digest: &Digest) -> Result<(Digest, u64), Error> {
    let (raw, unpacked) = mpsc::channel(PIECES_MAX);
    let (packed, parts) = mpsc::channel(PIECES_MAX);
    let packing = tokio::task::spawn_blocking(move || pack(unpacked, packed));
    let reference = format!("compress-{}-{digest}", unique_part());
    let writing = content::write(client, &reference, 0, ReceiverStream::new(parts));
    let reading = async {
        let request = api::ReadContentRequest { digest: digest.to_string(), ..Default::default() };
        let mut stream = client.content().read(request).await?.into_inner();
        while let Some(part) = stream.next().await {
            // Nobody takes it when it could not be written, which is told.
            if raw.send(part?.data).await.is_err() {
                break;
            }
        }
        drop(raw);
        Ok::<_, Error>(())
    };
    let (read, written) = tokio::join!(reading, writing);
    read?;
    written?;
    let packed = packing.await.map_err(|_| Error::Stopped)?;
    let (compressed, size) = packed.map_err(|error| Error::invalid(digest.as_str(), error))?;
    let label = Labels::from([(labels::UNCOMPRESSED.to_owned(), digest.to_string())]);
    content::set_labels(client, compressed.to_string(), &label).await?;
    Ok((compressed, size))
}

/// Hashes what it is given and sends it on.
struct Sink {
    parts: mpsc::Sender<Part>,
    hash: Sha256,
    size: u64,
    pending: Vec<u8>,
}

impl Sink {
    fn send(&mut self) -> io::Result<()> {
        let bytes = Bytes::from(std::mem::take(&mut self.pending));
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.parts.blocking_send(Part::Data(bytes)).map_err(gone)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= CHUNK {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses what comes. Blocks.
fn pack(mut raw: mpsc::Receiver<Bytes>, parts: mpsc::Sender<Part>) -> io::Result<(Digest, u64)> {
    let sink = Sink { parts, hash: Sha256::new(), size: 0, pending: Vec::new() };
    let mut encoder = GzEncoder::new(sink, Compression::default());
    while let Some(bytes) = raw.blocking_recv() {
        encoder.write_all(&bytes)?;
    }
    let mut sink = encoder.finish()?;
    sink.send()?;
    let digest = Digest::of_sum(Algorithm::Sha256, &sink.hash.finalize());
    // Who does not take the end says why.
    let _ = sink.parts.blocking_send(Part::End(digest.clone()));
    Ok((digest, sink.size))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn what_is_packed_can_be_unpacked() {
        let bytes: Vec<u8> = (0..5_000_000u32).map(|n| (n / 3) as u8).collect();
        let (raw, unpacked) = mpsc::channel(PIECES_MAX);
        let (packed, mut parts) = mpsc::channel(PIECES_MAX);
        let packing = tokio::task::spawn_blocking(move || pack(unpacked, packed));
        let given = bytes.clone();
        tokio::spawn(async move {
            for piece in given.chunks(700_000) {
                raw.send(Bytes::copy_from_slice(piece)).await.unwrap();
            }
        });
        let (mut all, mut end) = (Vec::new(), None);
        while let Some(part) = parts.recv().await {
            match part {
                Part::Data(data) => all.extend_from_slice(&data),
                Part::End(digest) => end = Some(digest),
            }
        }
        let (digest, size) = packing.await.unwrap().unwrap();
        assert_eq!((size, Some(&digest)), (all.len() as u64, end.as_ref()));
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(&all[..]).read_to_end(&mut out).unwrap();
        assert!(out == bytes);
    }
}
