//! The bytes of a layer, from the store's file into the worker's pipe, up to
//! where they have arrived.

use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::unix::fs::FileExt;

use davit_distribution::pull::{Arriving, Failure};
use rustix::io::Errno;
use tokio::net::unix::pipe::Sender;

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

/// Moves all of a blob into `pipe`, if there is one, as it arrives. Ends early
/// when nobody reads any more: who does not will say why.
///
/// # Errors
/// The fetch has failed, or the file cannot be read.
pub(super) async fn feed(
    file: &File,
    pipe: Option<PipeWriter>,
    mut arriving: Arriving,
    told: impl Fn(u64),
) -> Result<(), Failure> {
    let Some(pipe) = pipe else { return Ok(()) };
    let broken = |error: io::Error| Failure::io("feed what has arrived", &error);
    let pipe = Sender::from_owned_fd(pipe.into()).map_err(broken)?;
    let mut offset = 0;
    loop {
        let (there, whole) = arriving.more(offset).await?;
        while offset < there {
            let end = there.min(offset + STEP);
            pipe.writable().await.map_err(broken)?;
            match pipe.try_io(|| move_some(file, &pipe, offset, end)) {
                Ok(0) => return Ok(()),
                Ok(count) => offset += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(broken(error)),
            }
            told(offset);
        }
        if whole {
            return Ok(());
        }
    }
}

/// Moves a part of what is between `offset` and `end`; how many bytes. None
/// when nobody reads.
fn move_some(file: &File, pipe: &Sender, mut offset: u64, end: u64) -> io::Result<u64> {
    let size = usize::try_from(end - offset).unwrap_or(BLOCK);
    let moved = match rustix::fs::sendfile(pipe, file, Some(&mut offset), size) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Err(Errno::INVAL | Errno::NOSYS) => {
            let mut buffer = vec![0; size.min(BLOCK)];
            file.read_exact_at(&mut buffer, offset)?;
            rustix::io::write(pipe, &buffer)
        }
        moved => moved,
    };
    match moved {
        Ok(count) => Ok(count as u64),
        Err(Errno::PIPE) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use davit_distribution::pull::arrival;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_arrives_goes_through_and_no_more() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut growing = path.reopen().unwrap();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let (arrival, mut arriving) = arrival();
        let (mut reader, writer) = pipe().unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        arrival.begin(path.reopen().unwrap(), 0);
        let file = arriving.begun().await.unwrap();
        let feeding =
            tokio::spawn(async move { feed(&file, Some(writer), arriving, |_| {}).await });
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
            let reader = if gone {
                drop(reader);
                None
            } else {
                drop(arrival);
                Some(reader)
            };
            assert_eq!(feed(&file, Some(writer), arriving, |_| {}).await.is_ok(), gone);
            drop(reader);
        }
    }
}
