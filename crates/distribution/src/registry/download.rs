//! A blob on its way to us. It breaks, stalls, and goes on where it was, at
//! the same host or at the next.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use davit_types::{Descriptor, Kind};
use http::header::{ACCEPT, CONTENT_RANGE, ETAG, HeaderValue, IF_RANGE, RANGE};
use http::{Method, StatusCode};

use super::Error;
use super::answer::Answer;
use super::auth::Auth;
use super::client::Work;
use super::endpoint::Endpoint;
use super::flow::Flow;
use super::header::ContentRange;
use super::parallel::Parallel;
use super::repository::{Inner, Repository, accept, path_of};
use super::tour::{Tour, Turn};
use super::url::Origin;
use crate::credentials::Anonymous;

/// So much must come for the next failure to count as a first one.
const PROGRESS: u64 = 64 << 10;

/// How long is waited for a blob's end to be confirmed.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The bytes of one blob, in order, each once.
pub struct Download {
    repository: Repository,
    blob: Descriptor,
    /// Addresses beside those in the registry.
    urls: Vec<String>,
    offset: u64,
    /// The next byte that is not asked for: the blob's end, unless the rest
    /// comes in parallel.
    end: u64,
    /// What comes in parallel after `end`.
    parallel: Option<Parallel>,
    /// Whether only an answer that begins where it should will do.
    needs_range: bool,
    flow: Option<Flow>,
    tour: Option<Tour>,
    /// Where `offset` was when the tour began.
    mark: u64,
    /// What the last server called this very version of the blob.
    tag: Option<(Origin, HeaderValue)>,
    /// The best host that was left because it was slow, and how many bytes a
    /// second it sent.
    left: Option<(Origin, f64)>,
    /// Whether all that are left to ask were slower than the one that we have
    /// gone back to.
    is_settled: bool,
    sources: Vec<String>,
}

impl Repository {
    /// The bytes of `blob` from position `from` on. Comes back when the first
    /// host has begun to answer.
    ///
    /// # Errors
    /// [`Error::NotFound`]; whatever kept the hosts from answering.
    pub async fn download(&self, blob: &Descriptor, from: u64) -> Result<Download, Error> {
        self.download_with(blob, from, &[]).await
    }

    /// The same for a blob that may be at one of `urls` where no registry has
    /// it (a foreign layer). Those servers get to know nothing of us.
    ///
    /// # Errors
    /// See [`download`](Self::download).
    pub async fn download_with(
        &self,
        blob: &Descriptor,
        from: u64,
        urls: &[String],
    ) -> Result<Download, Error> {
        let mut download = Download::new(self, blob, urls, from, blob.size);
        if from >= blob.size {
            return Ok(download);
        }
        let ranges = self.0.shared.settings.ranges.filter(|ranges| {
            ranges.count > 1 && ranges.size > 0 && (blob.size - from) / ranges.size >= 2
        });
        if let Some(ranges) = ranges {
            download.end = from + ranges.size;
        }
        let flow = download.open().await?;
        match ranges {
            Some(ranges) if flow.is_partial => {
                let end = download.end;
                download.parallel = Some(Parallel::new(self, blob, urls, ranges, end));
            }
            // Whoever ignores ranges sends it all.
            _ => download.end = blob.size,
        }
        download.flow = Some(flow);
        Ok(download)
    }
}

impl Download {
    /// The bytes of `blob` from `from` to `end`, of which nothing is asked
    /// for yet.
    fn new(
        repository: &Repository,
        blob: &Descriptor,
        urls: &[String],
        from: u64,
        end: u64,
    ) -> Self {
        Self {
            repository: repository.clone(),
            blob: blob.clone(),
            urls: urls.to_vec(),
            offset: from,
            end,
            parallel: None,
            needs_range: false,
            flow: None,
            tour: None,
            mark: from,
            tag: None,
            left: None,
            is_settled: false,
            sources: Vec::new(),
        }
    }

    /// A stretch of a blob, for a server that can be asked for one.
    pub(super) fn stretch(
        repository: &Repository,
        blob: &Descriptor,
        urls: &[String],
        from: u64,
        end: u64,
    ) -> Self {
        Self { needs_range: true, ..Self::new(repository, blob, urls, from, end) }
    }

    /// The next bytes; `None` when the blob is complete.
    ///
    /// # Errors
    /// When no host can go on, or the blob is longer than it should be.
    ///
    /// Whoever drops the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.offset >= self.end {
                self.finish().await?;
                match self.parallel_piece().await {
                    Some(piece) => return Ok(Some(piece)),
                    None if self.offset >= self.end => return Ok(None),
                    None => {}
                }
            }
            let Some(flow) = &mut self.flow else {
                self.flow = Some(self.open().await?);
                continue;
            };
            let endpoint = flow.endpoint.clone();
            let rest = self.end - self.offset;
            let shared = &self.repository.0.shared;
            let known_bad = shared.health.is_bad(&endpoint.origin());
            let taken = match flow.next(&shared.settings, rest, known_bad).await {
                Ok(piece) => {
                    let piece = flow.unskipped(piece);
                    self.take(&endpoint.host.authority, piece)
                }
                Err(error) => Err(error),
            };
            match taken {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Ok(Some(piece)),
                Err(error) => {
                    if let Some(flow) = self.flow.take()
                        && let Some(rate) = flow.too_slow
                    {
                        self.leave(&endpoint, rate, flow.is_hurried);
                    }
                    self.failed(&endpoint, error);
                }
            }
        }
    }

    /// How many bytes of the blob are out.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The hosts that bytes came from, as [`Repository::distrust`] takes them.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// The next bytes of those that came in parallel. When that does not
    /// work, the rest comes one after the other.
    async fn parallel_piece(&mut self) -> Option<Bytes> {
        let piece = match self.parallel.as_mut()?.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => {
                self.parallel = None;
                return None;
            }
            Err(error) => {
                let (digest, why) = (&self.blob.digest, error.full_message());
                log::info!(digest:%, error = why.as_str(); "go on without ranges");
                self.parallel = None;
                (self.end, self.mark) = (self.blob.size, self.offset);
                return None;
            }
        };
        for host in &piece.sources {
            self.note(host);
        }
        self.offset += piece.bytes.len() as u64;
        self.end = self.offset;
        Some(piece.bytes)
    }

    fn note(&mut self, host: &str) {
        if !self.sources.iter().any(|known| known == host) {
            self.sources.push(host.to_owned());
        }
    }

    /// Counts a piece from `host`. What lies behind the stretch that was asked
    /// for is dropped; what lies behind the blob is an error.
    fn take(&mut self, host: &str, mut piece: Bytes) -> Result<Bytes, Error> {
        let size = self.blob.size;
        if self.end < size {
            piece.truncate(usize::try_from(self.end - self.offset).unwrap_or(usize::MAX));
        }
        let end = self.offset + piece.len() as u64;
        if end > size {
            return Err(Error::Size { actual: end, expected: size });
        }
        if !piece.is_empty() {
            self.note(host);
        }
        self.offset = end;
        if self.offset - self.mark >= PROGRESS {
            self.tour = None;
            self.mark = self.offset;
        }
        Ok(piece)
    }

    /// This host sends no more than `rate` bytes a second: another one is
    /// tried, or the best of those that were left is gone back to.
    fn leave(&mut self, endpoint: &Endpoint, rate: f64, has_more: bool) {
        match self.left.take() {
            Some((origin, _)) if !has_more => {
                self.repository.0.shared.health.forgive(&origin);
                self.is_settled = true;
            }
            Some(left) if rate < left.1 => self.left = Some(left),
            _ => self.left = Some((endpoint.origin(), rate)),
        }
    }

    /// What came from this host is over.
    fn failed(&mut self, endpoint: &Endpoint, error: Error) {
        if self.tour.is_none() {
            if error.is_bad_sign() {
                // The others come first from here on.
                let shared = &self.repository.0.shared;
                shared.health.note_bad(endpoint.origin(), &shared.settings);
            }
            self.tour = self.repository.tour("pull", |can| can.pull).ok();
            self.mark = self.offset;
            // It may go on here at once, unless it makes no sense to.
            if error.is_temporary() && !error.is_bad_sign() {
                let digest = &self.blob.digest;
                let why = error.full_message();
                log::info!(digest:%, offset = self.offset, error = why.as_str(); "resume");
                return;
            }
        }
        if let Some(tour) = &mut self.tour {
            tour.failed(endpoint, error);
        }
    }

    /// A host that has the rest.
    async fn open(&mut self) -> Result<Flow, Error> {
        let mut tour = match self.tour.take() {
            Some(tour) => tour,
            None => self.repository.tour("pull", |can| can.pull)?,
        };
        loop {
            let Some(turn) = tour.next().await else {
                let is_foreign = tour.is_foreign();
                let error = tour.into_error(|| Error::NoHosts("pull"));
                // A foreign layer is where its descriptor says.
                match self.foreign_tour(&error).filter(|_| !is_foreign) {
                    Some(foreign) => tour = foreign,
                    None => return Err(self.told(error)),
                }
                continue;
            };
            match self.open_at(&turn).await {
                Ok(flow) => {
                    self.tour = Some(tour);
                    return Ok(flow);
                }
                Err(error) => tour.failed(&turn.endpoint, error),
            }
        }
    }

    /// Attempts at the blob's other addresses, once, when no registry has it.
    fn foreign_tour(&self, error: &Error) -> Option<Tour> {
        if !matches!(error, Error::NotFound(_)) || self.urls.is_empty() {
            return None;
        }
        let Inner { shared, record, .. } = &*self.repository.0;
        let nobody = Arc::new(Auth::new(Arc::new(Anonymous), shared.tokens.clone()));
        let endpoint = |url: &String| Endpoint::foreign(shared, url, nobody.clone(), record);
        let endpoints: Vec<_> = self
            .urls
            .iter()
            .filter_map(|url| match endpoint(url) {
                Ok(endpoint) => Some(Arc::new(endpoint)),
                Err(error) => {
                    log::info!(error:% = error; "skip an address of a foreign layer");
                    None
                }
            })
            .collect();
        let (settings, health) = (shared.settings.clone(), shared.health.clone());
        (!endpoints.is_empty()).then(|| Tour::new(endpoints.into_iter(), settings, health))
    }

    /// The error as containerd words it.
    fn told(&self, error: Error) -> Error {
        match error {
            Error::NotFound(_) if path_of(&self.blob).starts_with("blobs") => {
                Error::NotFound(format!(
                    "could not fetch content descriptor {} ({}) from remote",
                    self.blob.digest, self.blob.media_type
                ))
            }
            error => error,
        }
    }

    async fn open_at(&mut self, turn: &Turn) -> Result<Flow, Error> {
        let endpoint = &turn.endpoint;
        let place = match self.repository.0.shared.places(&endpoint.origin()) {
            Some(places) => places.acquire_owned().await.ok(),
            None => None,
        };
        let tag = self.tag.take().filter(|(origin, _)| *origin == endpoint.origin());
        let mut answer = self.ask(turn, tag.as_ref().map(|(_, tag)| tag)).await?;
        if tag.is_some() && answer.status == StatusCode::OK {
            // Another server's name for the same bytes: the digest decides
            // in the end, so it is not worth all the bytes from the start.
            answer = self.ask(turn, None).await?;
        }
        let skip = self.check(&answer)?;
        let tag = answer.headers.get(ETAG).filter(|tag| is_strong(tag)).cloned();
        self.tag = tag.map(|tag| (endpoint.origin(), tag));
        let mut flow = Flow::new(answer, turn, skip, place);
        flow.is_hurried &= !self.is_settled;
        let others = self.left.as_ref().filter(|(origin, _)| *origin != endpoint.origin());
        flow.to_beat = others.map(|(_, rate)| *rate);
        if self.needs_range && !flow.is_partial {
            return Err(flow.answer.nonsense("the range is ignored"));
        }
        Ok(flow)
    }

    /// Asks for what is missing, as long as the blob is the one called `tag`.
    async fn ask(&self, turn: &Turn, tag: Option<&HeaderValue>) -> Result<Answer, Error> {
        let Self { blob, offset, end, repository, .. } = self;
        let url = turn.endpoint.blob_url(&blob.digest, repository.0.reference.domain());
        let mut ask = turn.endpoint.ask(Method::GET, url);
        ask.headers.insert(ACCEPT, accept(&blob.media_type));
        // A cache may have to fetch all of it first.
        ask.work = Work::Fetch;
        let range = match (*offset, *end < blob.size) {
            (0, false) => None,
            (from, false) => Some(format!("bytes={from}-")),
            (from, true) => Some(format!("bytes={from}-{}", end - 1)),
        };
        if let Some(range) = range.and_then(|range| HeaderValue::from_str(&range).ok()) {
            ask.headers.insert(RANGE, range);
            tag.into_iter().for_each(|tag| drop(ask.headers.insert(IF_RANGE, tag.clone())));
        }
        repository.send(ask, turn, &repository.pull_scope()).await
    }

    /// How many bytes of the answer we have already.
    fn check(&self, answer: &Answer) -> Result<u64, Error> {
        let size = self.blob.size;
        let whole = match answer.status {
            StatusCode::OK => answer.length(),
            StatusCode::PARTIAL_CONTENT => {
                let text = answer.header(CONTENT_RANGE).unwrap_or_default();
                let range = ContentRange::parse(text).filter(|range| range.first == self.offset);
                let unhandled = || {
                    let text = super::message::tame(text);
                    answer.nonsense(format!("unhandled content range in response: {text:?}"))
                };
                range.ok_or_else(unhandled)?.total
            }
            status => return Err(answer.nonsense(format!("status {status} for a blob"))),
        };
        match whole.filter(|actual| *actual != size) {
            Some(actual) => Err(Error::Size { actual, expected: size }),
            None if answer.status == StatusCode::OK => Ok(self.offset),
            None => Ok(0),
        }
    }

    /// Makes sure that nothing follows, and that the connection can be used
    /// again.
    async fn finish(&mut self) -> Result<(), Error> {
        let Some(mut flow) = self.flow.take() else { return Ok(()) };
        match tokio::time::timeout(END_TIMEOUT, flow.answer.next()).await {
            // What lies behind a stretch is the server's affair.
            Ok(Ok(Some(_))) if self.end < self.blob.size => Ok(()),
            Ok(Ok(Some(more))) => {
                let actual = self.offset + more.len() as u64;
                Err(Error::Size { actual, expected: self.blob.size })
            }
            // All that was promised is here, whatever happens to the rest.
            _ => Ok(()),
        }
    }
}

/// Whether an entity tag stands for the same bytes (RFC 9110, section 8.8.3).
fn is_strong(tag: &HeaderValue) -> bool {
    tag.as_bytes().starts_with(b"\"")
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download")
            .field("blob", &self.blob.digest)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}
