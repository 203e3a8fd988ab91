//! An answer of which the headers are there and the body comes.

use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, RETRY_AFTER};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;

use super::Error;
use super::client::Patience;
use super::error::Status;
use super::failure::Failure;
use super::header;
use super::message::{LONGEST_BODY, Messages, tame};
use super::record::Transcript;
use super::url::Url;

/// Bodies that nobody wants are read so far, so that their connection can be
/// used again.
const DRAINED: usize = 16 << 10;

/// And for so long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes a second; what is read whole and comes more slowly is given up.
const SLOWEST: u64 = 4 << 10;

/// What came back.
pub(crate) struct Answer {
    method: Method,
    /// Who answered in the end.
    pub url: Url,
    pub status: StatusCode,
    reason: String,
    pub headers: HeaderMap,
    body: Incoming,
    stall: Duration,
    transcript: Option<Transcript>,
}

impl Answer {
    pub fn new(
        method: Method,
        url: Url,
        response: http::Response<Incoming>,
        patience: Patience,
        transcript: Option<Transcript>,
    ) -> Self {
        let (head, body) = response.into_parts();
        let phrase = head.extensions.get::<ReasonPhrase>();
        let reason = match phrase.map(|phrase| String::from_utf8_lossy(phrase.as_bytes())) {
            Some(reason) => tame(&reason),
            None => head.status.canonical_reason().unwrap_or_default().to_owned(),
        };
        let stall = patience.stall;
        let (status, headers) = (head.status, head.headers);
        Self { method, url, status, reason, headers, body, stall, transcript }
    }

    /// A header's value, if it is text.
    pub fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All values of a header that are text.
    pub fn all(&self, name: HeaderName) -> Vec<String> {
        let values = self.headers.get_all(name).iter();
        values.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
    }

    /// The body's length, where it is said.
    pub fn length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// When nothing comes for too long or the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        self.piece().await.map_err(|source| self.broken(source))
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = tokio::time::timeout(self.stall, self.body.frame()).await;
            match frame.map_err(|_| Failure::Timeout("no data came in time"))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(Failure::of(&error)),
                // Trailers are nothing to us.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        if let Some(transcript) = &mut self.transcript {
                            transcript.note(&data);
                        }
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The body could not be read to its end.
    pub fn broken(&self, source: Failure) -> Error {
        let method = if self.method == Method::GET { "Get" } else { "Post" };
        Error::Request { method, url: self.url.to_string(), source }
    }

    /// This answer makes no sense.
    pub fn nonsense(&self, what: impl Into<String>) -> Error {
        Error::Answer { url: self.url.to_string(), what: what.into() }
    }

    /// The whole body, which must not be longer than `limit`.
    ///
    /// # Errors
    /// [`Error::TooLarge`], as soon as that is clear; when it comes too slowly.
    pub async fn whole(mut self, limit: u64, what: &str) -> Result<Bytes, Error> {
        let too_large = |size| Error::TooLarge { size, what: what.to_owned() };
        if let Some(size) = self.length().filter(|length| *length > limit) {
            return Err(too_large(size));
        }
        let (mut whole, begun) = (BytesMut::new(), Instant::now());
        while let Some(data) = self.next().await? {
            let size = whole.len() as u64 + data.len() as u64;
            if begun.elapsed() > self.stall + Duration::from_secs(size / SLOWEST) {
                return Err(self.broken(Failure::Timeout("the host is too slow")));
            }
            if size > limit {
                return Err(too_large(size));
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    /// Itself, if it means yes.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Status`], with what the server says.
    pub async fn checked(self) -> Result<Self, Error> {
        if self.status.is_success() {
            return Ok(self);
        }
        Err(self.refusal().await)
    }

    /// The error that this answer is.
    pub async fn refusal(self) -> Error {
        if self.status == StatusCode::NOT_FOUND {
            let what = format!("content at {} not found", self.url);
            drain(self.body).await;
            return Error::NotFound(what);
        }
        self.status_error().await
    }

    /// The same, where 404 says nothing of content.
    pub async fn status_error(mut self) -> Error {
        let mut body = BytesMut::new();
        // What cannot be read of it is no loss.
        while body.len() < LONGEST_BODY
            && let Ok(Some(data)) = self.piece().await
        {
            body.extend_from_slice(&data[..data.len().min(LONGEST_BODY - body.len())]);
        }
        let received = SystemTime::now();
        let wait = self.header(RETRY_AFTER).and_then(|text| header::retry_after(text, received));
        Error::Status(Box::new(Status {
            method: self.method.to_string(),
            url: self.url.to_string(),
            code: self.status.as_u16(),
            reason: self.reason,
            retry_after: wait,
            messages: Messages::parse(&body),
            received,
        }))
    }

    /// `value`, once the body is out of the way.
    pub async fn discard_with<T>(self, value: T) -> Result<T, Error> {
        drain(self.body).await;
        Ok(value)
    }

    /// Nothing of the body is wanted.
    pub async fn discard(self) {
        drain(self.body).await;
    }
}

/// Reads a body that nobody wants, within limits.
pub(crate) async fn drain(mut body: Incoming) {
    let reading = async {
        let mut left = DRAINED;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // A connection that is still busy then is closed.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
}
