//! Fetching one blob into a store.
//!
//! What comes from the network goes over a bounded channel to a thread that
//! hashes and stores it, and tells the [`Arrival`] how far it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use davit_types::{Descriptor, ErrorKind, Kind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::arrival::{Arrival, arrival};
use super::names::{is_index, is_manifest};
use super::{Download, Error, Failure, Ingest, Observer, Remote, Store, Turns};
use crate::manifest::{Entry, MAX_DOCUMENT};

/// Bytes of one blob that may be in memory, between the network and the disk.
const WINDOW: usize = 1 << 20;
/// Pieces of one blob that may be there, however small they are.
const PIECES_MAX: usize = 256;
/// How many more bytes are stored before the reader of an arrival is woken.
const STEP: u64 = 128 << 10;
/// How long somebody else may write to the same ingest before we give up.
const LOCKED_MAX: Duration = Duration::from_secs(600);
/// How long to wait before the ingest is tried again, at first and at most.
const LOCKED_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// How often a blob is fetched: again, from its first byte, when it came
/// damaged, or what an earlier pull had left of it was.
const ATTEMPTS: usize = 2;

/// Limits that the pulls of a program share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Downloads at a time, if that is limited.
    pub downloads: Option<Arc<Semaphore>>,
    /// One fetch of each blob at a time.
    pub fetches: Turns,
}

/// A piece of a blob, and its share of the window.
struct Piece {
    bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

/// Fetches blobs from one repository into one store.
pub(super) struct Fetcher {
    pub(super) remote: Arc<dyn Remote>,
    pub(super) store: Arc<dyn Store>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) shared: Shared,
}

impl Fetcher {
    /// Brings a blob into the store, unless it is there.
    pub(super) async fn fetch(&self, entry: &Entry, reference: &str) -> Result<(), Error> {
        let mut attempt = 1;
        loop {
            let (arrival, _) = arrival();
            match self.fetch_to(entry, reference, arrival).await {
                Err(error) if attempt < ATTEMPTS && error.is_damage() => attempt += 1,
                other => return other,
            }
        }
    }

    /// Like [`fetch`](Self::fetch), once, for a reader that takes the bytes as
    /// they arrive.
    pub(super) async fn fetch_to(
        &self,
        entry: &Entry,
        reference: &str,
        arrival: Arrival,
    ) -> Result<(), Error> {
        let blob = &entry.blob;
        if blob.size == 0 {
            return Err(Error::Empty(blob.digest.clone()));
        }
        // Who has waited finds that the blob is there, or goes on with what
        // the one before has left.
        let _turn = self.shared.fetches.take(blob.digest.as_str()).await;
        let Some(ingest) = self.open(blob, reference).await? else {
            return self.found(blob, arrival).await;
        };
        let resumed = ingest.offset();
        let (ingest, file) = blocking(move || {
            let file = ingest.file()?;
            Ok((ingest, file))
        })
        .await?;
        if let Some(file) = file {
            arrival.begin(file, resumed);
        }
        let mut sources = Vec::new();
        let ingest = if resumed == blob.size {
            ingest
        } else if let Some(data) = &entry.data {
            append(ingest, Bytes::copy_from_slice(data)).await?
        } else if is_index(&blob.media_type) || is_manifest(&blob.media_type) {
            append(ingest, self.remote.document(blob, MAX_DOCUMENT).await?).await?
        } else {
            let downloaded = self.download(entry, ingest, &arrival, &mut sources).await;
            downloaded.map_err(|error| error.of_ingest(reference))?
        };
        arrival.advance(ingest.offset());
        let committed = commit(ingest, blob).await;
        if let Err(source) = committed {
            let error = Error::Commit { reference: reference.to_owned(), source };
            if error.is_damage() {
                self.remote.distrust(&sources);
            }
            return Err(error);
        }
        self.finish(blob, arrival).await?;
        match resumed == blob.size {
            true => self.observer.exists(blob),
            false => self.observer.complete(blob),
        }
        Ok(())
    }

    async fn found(&self, blob: &Descriptor, arrival: Arrival) -> Result<(), Error> {
        self.finish(blob, arrival).await?;
        self.observer.exists(blob);
        Ok(())
    }

    /// Says that a blob is there. Who could not read it while it came gets it
    /// now.
    async fn finish(&self, blob: &Descriptor, arrival: Arrival) -> Result<(), Error> {
        if arrival.is_awaited() {
            let (store, digest) = (Arc::clone(&self.store), blob.digest.clone());
            let file = blocking(move || store.open(&digest)).await?;
            arrival.begin(file, blob.size);
        }
        arrival.finish();
        Ok(())
    }

    /// Opens the ingest; waits while somebody who does not take turns with us
    /// writes to it (a client that fetches by itself).
    async fn open(
        &self,
        blob: &Descriptor,
        reference: &str,
    ) -> Result<Option<Box<dyn Ingest>>, Error> {
        let (mut pause, longest) = LOCKED_PAUSE;
        let end = tokio::time::Instant::now() + LOCKED_MAX;
        loop {
            let store = Arc::clone(&self.store);
            let (blob, name) = (blob.clone(), reference.to_owned());
            match blocking(move || store.ingest(&name, &blob)).await {
                Err(failure)
                    if failure.kind() == ErrorKind::Unavailable
                        && !failure.is_lasting()
                        && tokio::time::Instant::now() < end =>
                {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(longest);
                }
                other => return Ok(other?),
            }
        }
    }

    /// Appends what is missing. The thread that stores goes on without us
    /// when this is dropped, until it has stored what it was given.
    async fn download(
        &self,
        entry: &Entry,
        ingest: Box<dyn Ingest>,
        arrival: &Arrival,
        sources: &mut Vec<String>,
    ) -> Result<Box<dyn Ingest>, Error> {
        let _place = match &self.shared.downloads {
            Some(places) => Some(Arc::clone(places).acquire_owned().await),
            None => None,
        };
        arrival.flow();
        let download = self.remote.download(entry, ingest.offset()).await?;
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let (told, mut stored) = watch::channel(ingest.offset());
        let storing = tokio::task::spawn_blocking(move || keep(ingest, receiver, &told));
        let telling = async {
            while stored.changed().await.is_ok() {
                let offset = *stored.borrow_and_update();
                arrival.advance(offset);
                self.observer.offset(&entry.blob, offset);
            }
        };
        let (came, ()) = tokio::join!(take_in(download, sender), telling);
        let ingest = storing.await.map_err(|_| panicked())??;
        *sources = came?;
        Ok(ingest)
    }
}

/// Hands on what comes, as far as there is room, and says where it came from.
/// Nobody takes it when it could not be stored; who stores it will say so.
async fn take_in(
    mut download: Box<dyn Download>,
    sender: mpsc::Sender<Piece>,
) -> Result<Vec<String>, Failure> {
    let window = Arc::new(Semaphore::new(WINDOW));
    while let Some(bytes) = download.next().await? {
        let size = u32::try_from(bytes.len().clamp(1, WINDOW)).unwrap_or(1);
        let share = Arc::clone(&window).acquire_many_owned(size).await;
        let share = share.expect("the window is never closed");
        if sender.send(Piece { bytes, _share: share }).await.is_err() {
            break;
        }
    }
    Ok(download.sources().to_vec())
}

/// Stores what comes, and tells how far it is.
fn keep(
    mut ingest: Box<dyn Ingest>,
    mut pieces: mpsc::Receiver<Piece>,
    told: &watch::Sender<u64>,
) -> Result<Box<dyn Ingest>, Failure> {
    while let Some(piece) = pieces.blocking_recv() {
        ingest.write(&piece.bytes)?;
        if ingest.offset() - *told.borrow() >= STEP {
            told.send_replace(ingest.offset());
        }
    }
    Ok(ingest)
}

async fn commit(ingest: Box<dyn Ingest>, blob: &Descriptor) -> Result<(), Failure> {
    let (size, digest) = (blob.size, blob.digest.clone());
    blocking(move || ingest.commit(size, &digest)).await
}

/// Stores what is missing of `whole`.
async fn append(mut ingest: Box<dyn Ingest>, whole: Bytes) -> Result<Box<dyn Ingest>, Failure> {
    blocking(move || {
        let from = usize::try_from(ingest.offset()).unwrap_or(usize::MAX).min(whole.len());
        ingest.write(&whole[from..])?;
        Ok(ingest)
    })
    .await
}

/// Runs what blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(panicked()))
}

fn panicked() -> Failure {
    Failure::new(ErrorKind::Internal, "a part of the transfer did not finish: internal")
}
