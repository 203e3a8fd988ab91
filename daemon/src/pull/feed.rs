//! The bytes of a layer, from the store's file into the worker's pipe, up to
//! where they have arrived.

use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::os::unix::fs::FileExt;

use davit_distribution::pull::{Arriving, Failure};
use rustix::io::Errno;
use tokio::runtime::Handle;

/// Bytes that a pipe holds at most; what a user may have without privileges.
const PIPE: usize = 1 << 20;
/// Bytes that are moved before progress is told.
const STEP: u64 = 1 << 20;
/// Bytes that are copied at once where the kernel cannot move them.
const BLOCK: usize = 64 << 10;

/// A pipe with room for more than a page or two.
pub(super) fn pipe() -> io::Result<(io::PipeReader, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    // Less room only means more turns.
    let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE);
    Ok((reader, writer))
}

/// Moves all of a blob into `pipe`, as it arrives. Ends early when nobody
/// reads any more: who does not will say why. Blocks.
///
/// # Errors
/// The fetch has failed, or the file cannot be read.
pub(super) fn feed(
    file: &File,
    pipe: PipeWriter,
    mut arriving: Arriving,
    runtime: &Handle,
    told: impl Fn(u64),
) -> Result<(), Failure> {
    let mut offset = 0;
    loop {
        let (there, whole) = runtime.block_on(arriving.more(offset))?;
        while offset < there {
            let end = there.min(offset + STEP);
            match move_some(file, &pipe, &mut offset, end) {
                Ok(true) => told(offset),
                Ok(false) => return Ok(()),
                Err(error) => return Err(Failure::io("read what has arrived", &error)),
            }
        }
        if whole {
            return Ok(());
        }
    }
}

/// Moves what is before `end`, or a part of it; false when nobody reads.
fn move_some(file: &File, pipe: &PipeWriter, offset: &mut u64, end: u64) -> io::Result<bool> {
    let size = usize::try_from(end - *offset).unwrap_or(BLOCK);
    match rustix::fs::sendfile(pipe, file, Some(offset), size) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) | Err(Errno::INTR) => Ok(true),
        Err(Errno::PIPE) => Ok(false),
        Err(Errno::INVAL | Errno::NOSYS) => copy_some(file, pipe, offset, size),
        Err(error) => Err(error.into()),
    }
}

fn copy_some(file: &File, pipe: &PipeWriter, offset: &mut u64, size: usize) -> io::Result<bool> {
    let mut buffer = vec![0; size.min(BLOCK)];
    file.read_exact_at(&mut buffer, *offset)?;
    let mut pipe = pipe;
    match pipe.write_all(&buffer) {
        Ok(()) => {
            *offset += buffer.len() as u64;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use davit_distribution::pull::arrival;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_arrives_goes_through_and_no_more() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut growing = path.reopen().unwrap();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let (arrival, mut arriving) = arrival();
        let (mut reader, writer) = pipe().unwrap();
        let runtime = Handle::current();
        let reading = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        arrival.begin(path.reopen().unwrap(), 0);
        let file = arriving.begun().await.unwrap();
        let feeding =
            tokio::task::spawn_blocking(move || feed(&file, writer, arriving, &runtime, |_| {}));
        for (number, piece) in bytes.chunks(400_000).enumerate() {
            growing.write_all(piece).unwrap();
            // More is in the file than is said to be good.
            arrival.advance((number as u64 * 400_000).min(bytes.len() as u64));
        }
        arrival.advance(bytes.len() as u64);
        arrival.finish();
        feeding.await.unwrap().unwrap();
        assert!(reading.await.unwrap().unwrap() == bytes);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_reader_that_has_gone_and_a_fetch_that_failed_end_it() {
        for gone in [true, false] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[7; 10]).unwrap();
            let (arrival, mut arriving) = arrival();
            let (reader, writer) = pipe().unwrap();
            arrival.begin(file, 10);
            let file = arriving.begun().await.unwrap();
            let runtime = Handle::current();
            let reader = if gone {
                drop(reader);
                None
            } else {
                drop(arrival);
                Some(reader)
            };
            let fed = tokio::task::spawn_blocking(move || {
                feed(&file, writer, arriving, &runtime, |_| {})
            });
            assert_eq!(fed.await.unwrap().is_ok(), gone);
            drop(reader);
        }
    }
}
