//! Stretches of one blob that come at the same time and go out in order.

use std::collections::VecDeque;

use bytes::Bytes;
use davit_types::Descriptor;
use tokio::task::JoinHandle;

use super::repository::Repository;
use super::{Download, Error, Failure, Ranges};

/// The rest of a blob. Holds at most as many stretches in memory as it
/// fetches at a time.
pub(super) struct Parallel {
    repository: Repository,
    blob: Descriptor,
    urls: Vec<String>,
    ranges: Ranges,
    /// The first byte that nobody fetches yet.
    start: u64,
    fetches: VecDeque<Fetch>,
    /// What has come of the first stretch.
    ready: VecDeque<Bytes>,
    sources: Vec<String>,
}

/// Bytes, and where they came from.
pub(super) struct Piece {
    pub bytes: Bytes,
    pub sources: Vec<String>,
}

/// One stretch that is fetched; ends when it is dropped.
struct Fetch(JoinHandle<Result<Stretch, Error>>);

type Stretch = (VecDeque<Bytes>, Vec<String>);

impl Drop for Fetch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Parallel {
    /// Begins to fetch `blob` from `start` on.
    pub fn new(
        repository: &Repository,
        blob: &Descriptor,
        urls: &[String],
        ranges: Ranges,
        start: u64,
    ) -> Self {
        let mut this = Self {
            repository: repository.clone(),
            blob: blob.clone(),
            urls: urls.to_vec(),
            ranges,
            start,
            fetches: VecDeque::new(),
            ready: VecDeque::new(),
            sources: Vec::new(),
        };
        // The stretch before this one is being fetched, too.
        while this.fetches.len() + 1 < ranges.count && this.begin() {}
        this
    }

    /// The next bytes; `None` at the blob's end.
    ///
    /// # Errors
    /// When a stretch cannot be had; nothing of it has gone out then.
    pub async fn next(&mut self) -> Result<Option<Piece>, Error> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Ok(Some(Piece { bytes, sources: self.sources.clone() }));
            }
            let Some(first) = self.fetches.front_mut() else { return Ok(None) };
            // Whoever drops us here finds the stretch again.
            let stretch = (&mut first.0).await;
            self.fetches.pop_front();
            let stretch = stretch.map_err(|error| Error::Request {
                method: "Get",
                url: self.blob.digest.to_string(),
                source: Failure::Broken(error.to_string()),
            })?;
            (self.ready, self.sources) = stretch?;
            self.begin();
        }
    }

    /// Begins to fetch the next stretch; false when there is none.
    fn begin(&mut self) -> bool {
        if self.start >= self.blob.size {
            return false;
        }
        let end = self.blob.size.min(self.start + self.ranges.size);
        let mut download =
            Download::stretch(&self.repository, &self.blob, &self.urls, self.start, end);
        self.start = end;
        self.fetches.push_back(Fetch(tokio::spawn(async move {
            let mut pieces = VecDeque::new();
            while let Some(piece) = download.next().await? {
                pieces.push_back(piece);
            }
            Ok((pieces, download.sources().to_vec()))
        })));
        true
    }
}
