//! Fetching one blob into a store.
//!
//! What comes from the network goes over a bounded channel to a thread that
//! hashes and stores it, and tells the [`Arrival`] how far it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use davit_types::{Descriptor, ErrorKind, Kind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::arrival::{Arrival, arrival};
use super::names::{is_index, is_manifest};
use super::{DOCUMENT_LIMIT, Error, Failure, Ingest, Observer, Remote, Store, Turns};

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
/// How often a blob is fetched: again from its first byte when what an earlier
/// pull had left of it was damaged.
const ATTEMPTS: usize = 2;

/// Limits that the pulls of a program share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Downloads at a time; each pull has this limit once more of its own
    /// ([`super::Settings::downloads`]).
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

/// How a try to fetch went.
enum Tried {
    /// It is in the store.
    There,
    /// What was resumed was damaged, and is gone now.
    Damaged(Failure),
}

impl Fetcher {
    /// Brings a blob into the store, unless it is there. `data` is what the
    /// blob's descriptor brought along of it.
    pub(super) async fn fetch(
        &self,
        blob: &Descriptor,
        reference: &str,
        data: Option<&[u8]>,
    ) -> Result<(), Error> {
        let mut damage = None;
        for _ in 0..ATTEMPTS {
            let (arrival, _) = arrival();
            match self.fetch_once(blob, reference, data, arrival).await? {
                Tried::There => return Ok(()),
                Tried::Damaged(failure) => damage = Some(failure),
            }
        }
        Err(committing(reference, damage.unwrap_or_else(|| unknown(blob))))
    }

    /// Like [`fetch`](Self::fetch), for a reader that takes the bytes as they
    /// arrive. Damage that an earlier pull has left is an error here:
    /// `DataLoss`, and trying again helps.
    pub(super) async fn fetch_to(
        &self,
        blob: &Descriptor,
        reference: &str,
        data: Option<&[u8]>,
        arrival: Arrival,
    ) -> Result<(), Error> {
        match self.fetch_once(blob, reference, data, arrival).await? {
            Tried::There => Ok(()),
            Tried::Damaged(failure) => {
                Err(Error::Damaged { reference: reference.to_owned(), source: failure })
            }
        }
    }

    async fn fetch_once(
        &self,
        blob: &Descriptor,
        reference: &str,
        data: Option<&[u8]>,
        arrival: Arrival,
    ) -> Result<Tried, Error> {
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
        let file = ingest.file()?;
        arrival.begin(file, resumed);
        let ingest = if resumed == blob.size {
            ingest
        } else if let Some(data) = data.filter(|data| data.len() as u64 == blob.size) {
            append(ingest, Bytes::copy_from_slice(data)).await?
        } else if is_index(&blob.media_type) || is_manifest(&blob.media_type) {
            append(ingest, self.remote.document(blob, DOCUMENT_LIMIT).await?).await?
        } else {
            self.download(blob, ingest, &arrival).await?
        };
        arrival.advance(ingest.offset());
        let wanted = blob.clone();
        match blocking(move || ingest.commit(wanted.size, &wanted.digest)).await {
            Ok(()) => {}
            Err(failure) if failure.kind() == ErrorKind::FailedPrecondition && resumed > 0 => {
                return Ok(Tried::Damaged(failure));
            }
            Err(failure) => return Err(committing(reference, failure)),
        }
        arrival.finish();
        match resumed == blob.size {
            true => self.observer.exists(blob),
            false => self.observer.complete(blob),
        }
        Ok(Tried::There)
    }

    async fn found(&self, blob: &Descriptor, arrival: Arrival) -> Result<Tried, Error> {
        let (store, digest) = (Arc::clone(&self.store), blob.digest.clone());
        let file = blocking(move || store.open(&digest)).await?;
        arrival.begin(file, blob.size);
        arrival.finish();
        self.observer.exists(blob);
        Ok(Tried::There)
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
        blob: &Descriptor,
        ingest: Box<dyn Ingest>,
        arrival: &Arrival,
    ) -> Result<Box<dyn Ingest>, Error> {
        let _place = match &self.shared.downloads {
            Some(places) => Some(Arc::clone(places).acquire_owned().await),
            None => None,
        };
        let mut download = self.remote.download(blob, ingest.offset()).await?;
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let (told, mut stored) = tokio::sync::watch::channel(ingest.offset());
        let storing = tokio::task::spawn_blocking(move || keep(ingest, receiver, &told));
        let coming = async {
            let window = Arc::new(Semaphore::new(WINDOW));
            while let Some(bytes) = download.next().await? {
                let size = u32::try_from(bytes.len().clamp(1, WINDOW)).unwrap_or(1);
                let share = Arc::clone(&window).acquire_many_owned(size).await;
                let share = share.expect("the window is never closed");
                // Nobody takes it when it could not be stored; that is told
                // by the thread.
                if sender.send(Piece { bytes, _share: share }).await.is_err() {
                    break;
                }
            }
            drop(sender);
            Ok::<_, Failure>(())
        };
        let telling = async {
            while stored.changed().await.is_ok() {
                let offset = *stored.borrow_and_update();
                arrival.advance(offset);
                self.observer.offset(blob, offset);
            }
        };
        let (came, ()) = tokio::join!(coming, telling);
        let ingest = storing.await.map_err(|_| panicked())??;
        came?;
        Ok(ingest)
    }
}

/// Stores what comes, and tells how far it is.
fn keep(
    mut ingest: Box<dyn Ingest>,
    mut pieces: mpsc::Receiver<Piece>,
    told: &tokio::sync::watch::Sender<u64>,
) -> Result<Box<dyn Ingest>, Failure> {
    while let Some(piece) = pieces.blocking_recv() {
        ingest.write(&piece.bytes)?;
        if ingest.offset() - *told.borrow() >= STEP {
            told.send_replace(ingest.offset());
        }
    }
    Ok(ingest)
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

fn committing(reference: &str, source: Failure) -> Error {
    Error::Commit { reference: reference.to_owned(), source }
}

fn unknown(blob: &Descriptor) -> Failure {
    Failure::new(ErrorKind::DataLoss, format!("{} arrived damaged", blob.digest))
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
