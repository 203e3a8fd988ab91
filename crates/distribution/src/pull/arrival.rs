//! A blob that is being fetched, for who reads it meanwhile.
//!
//! The bytes themselves are in the store's file; what goes from the fetcher
//! to the reader is how many of them there are. So neither waits for the
//! other, and nothing of the blob is in memory twice.

use std::fs::File;
use std::sync::Arc;

use tokio::sync::watch;

use super::Failure;

/// What is known of a blob on its way.
#[derive(Clone, Debug, Default)]
struct State {
    /// Where its bytes are, once they come.
    file: Option<Arc<File>>,
    /// It is its turn to be fetched.
    flows: bool,
    /// How many there are.
    offset: u64,
    /// There are no more, and they are the right ones.
    whole: bool,
}

/// The fetcher's end. Dropping it before the blob is whole tells the reader
/// that it will not come.
#[derive(Debug)]
pub struct Arrival(watch::Sender<State>);

/// The reader's end.
#[derive(Clone, Debug)]
pub struct Arriving(watch::Receiver<State>);

/// The two ends for one blob.
pub fn arrival() -> (Arrival, Arriving) {
    let (sender, receiver) = watch::channel(State::default());
    (Arrival(sender), Arriving(receiver))
}

impl Arrival {
    /// Its bytes are coming to `file`, `offset` of them are there.
    pub fn begin(&self, file: File, offset: u64) {
        self.0.send_modify(|state| {
            state.file = Some(Arc::new(file));
            state.offset = offset;
        });
    }

    /// Its bytes are asked for now.
    pub fn flow(&self) {
        self.0.send_modify(|state| state.flows = true);
    }

    /// There are `offset` bytes now.
    pub fn advance(&self, offset: u64) {
        self.0.send_modify(|state| state.offset = offset);
    }

    /// Whether somebody is there to read it, and has no file to read it from.
    pub fn is_awaited(&self) -> bool {
        !self.0.is_closed() && self.0.borrow().file.is_none()
    }

    /// It is there, checked.
    pub fn finish(self) {
        self.0.send_modify(|state| state.whole = true);
    }
}

impl Arriving {
    /// Waits until there are bytes to read, and answers with where.
    ///
    /// # Errors
    /// `Aborted` when the fetch has failed.
    pub async fn begun(&mut self) -> Result<Arc<File>, Failure> {
        let state = self.0.wait_for(|state| state.file.is_some()).await.map_err(|_| gone())?;
        state.file.clone().ok_or_else(gone)
    }

    /// Waits until its bytes are asked for, or all there.
    ///
    /// # Errors
    /// `Aborted` when the fetch has failed.
    pub async fn flowing(&mut self) -> Result<(), Failure> {
        let flows = |state: &State| state.flows || state.whole;
        self.0.wait_for(flows).await.map(drop).map_err(|_| gone())
    }

    /// Waits for more than `offset` bytes, or the end. Answers with how many
    /// there are, and whether these are all.
    ///
    /// # Errors
    /// `Aborted` when the fetch has failed.
    pub async fn more(&mut self, offset: u64) -> Result<(u64, bool), Failure> {
        let more = |state: &State| state.offset > offset || state.whole;
        let state = self.0.wait_for(more).await.map_err(|_| gone())?;
        Ok((state.offset, state.whole))
    }

    /// Whether the blob is there, checked.
    pub fn is_whole(&self) -> bool {
        self.0.borrow().whole
    }
}

fn gone() -> Failure {
    Failure::new(davit_types::ErrorKind::Aborted, "the fetch of the blob has ended")
}
