//! The bytes of one blob, in one piece or in chunks.

use std::time::Duration;

use davit_types::Kind;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use http::{Method, StatusCode};

use super::Error;
use super::answer::Answer;
use super::body::{Payload, Upload};
use super::client::Ask;
use super::header::upload_range;
use super::push::{Parcel, check_digest, taken};
use super::repository::Repository;
use super::scope::Scopes;
use super::tour::Turn;
use super::url::Url;

/// A chunk where nobody says how long it should be.
const CHUNK: u64 = 16 << 20;

/// Chunks of one upload that may break before it is given up and begun anew.
const MOST_BREAKS: u32 = 5;

/// How often the progress of an upload is told.
const TELL: Duration = Duration::from_millis(100);

/// An upload that has begun.
pub(super) struct Session {
    /// Where its next bytes go.
    pub location: Url,
    /// The registry wants chunks, and none shorter than this but the last.
    pub chunk_min: Option<u64>,
}

impl Repository {
    /// Sends the whole blob.
    pub(super) async fn upload(
        &self,
        turn: &Turn,
        parcel: &Parcel<'_>,
        session: Session,
        scopes: &Scopes,
    ) -> Result<(), Error> {
        let size = parcel.blob.size;
        let wanted = self.0.shared.settings.upload_chunk;
        let chunk = match (wanted, session.chunk_min) {
            (None, None) => size,
            (wanted, least) => wanted.unwrap_or(CHUNK).max(least.unwrap_or(1)).max(1),
        };
        let location = match size > chunk {
            false => {
                let part = self.part(parcel, 0, size);
                let whole = self.finish(turn, parcel, session.location.clone(), part, scopes).await;
                match whole {
                    // Something between us takes no body of this size.
                    Err(error) if error.status() == Some(413) && size > CHUNK => {
                        self.chunks(turn, parcel, session, CHUNK, scopes).await?
                    }
                    done => return done,
                }
            }
            true => self.chunks(turn, parcel, session, chunk, scopes).await?,
        };
        self.finish(turn, parcel, location, Payload::None, scopes).await?;
        (parcel.progress)(size);
        Ok(())
    }

    /// The request that completes the upload, with its last bytes.
    async fn finish(
        &self,
        turn: &Turn,
        parcel: &Parcel<'_>,
        location: Url,
        payload: Payload,
        scopes: &Scopes,
    ) -> Result<(), Error> {
        let url = location.with_query("digest", parcel.blob.digest.as_str());
        let mut ask = turn.endpoint.ask(Method::PUT, url);
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        ask.payload = payload;
        let answer = self.send_part(turn, parcel, ask, 0, scopes).await?;
        let answer = taken(answer).await?;
        check_digest(&answer, &parcel.blob.digest)?;
        answer.discard().await;
        Ok(())
    }

    /// Sends all bytes in chunks; hands back where the upload is completed.
    async fn chunks(
        &self,
        turn: &Turn,
        parcel: &Parcel<'_>,
        session: Session,
        chunk: u64,
        scopes: &Scopes,
    ) -> Result<Url, Error> {
        let (mut location, mut offset, mut breaks) = (session.location, 0, 0);
        while offset < parcel.blob.size {
            let end = parcel.blob.size.min(offset + chunk);
            let sent = self.chunk(turn, parcel, &location, (offset, end), scopes).await;
            (location, offset) = match sent {
                Ok(next) => next,
                Err(error @ Error::Source { .. }) => return Err(error),
                Err(error) if breaks < MOST_BREAKS && may_resume(&error) => {
                    breaks += 1;
                    let (digest, why) = (&parcel.blob.digest, error.full_message());
                    log::info!(digest:%, offset, error = why.as_str(); "resume");
                    self.state(turn, &location, scopes).await.map_err(|_| error)?
                }
                Err(error) => return Err(error),
            };
        }
        Ok(location)
    }

    /// Sends one chunk; hands back where the next one goes and where it
    /// begins.
    async fn chunk(
        &self,
        turn: &Turn,
        parcel: &Parcel<'_>,
        location: &Url,
        (offset, end): (u64, u64),
        scopes: &Scopes,
    ) -> Result<(Url, u64), Error> {
        let mut ask = turn.endpoint.ask(Method::PATCH, location.clone());
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let range = HeaderValue::from_str(&format!("{offset}-{}", end - 1));
        range.into_iter().for_each(|range| drop(ask.headers.insert(CONTENT_RANGE, range)));
        ask.payload = self.part(parcel, offset, end - offset);
        let answer = self.send_part(turn, parcel, ask, offset, scopes).await?;
        let answer = taken(answer).await?;
        // The registry may have taken less than all of it.
        let taken = answer.header(RANGE).and_then(upload_range).map_or(end, |last| last + 1);
        if taken <= offset || taken > end {
            return Err(answer.nonsense(format!("{taken} bytes are there, but {end} were sent")));
        }
        let next = next_location(&answer, location)?;
        answer.discard().await;
        Ok((next, taken))
    }

    /// How far the registry says that the upload is.
    async fn state(
        &self,
        turn: &Turn,
        location: &Url,
        scopes: &Scopes,
    ) -> Result<(Url, u64), Error> {
        let ask = turn.endpoint.ask(Method::GET, location.clone());
        let answer = turn.endpoint.send(ask, scopes, turn.patience).await?.checked().await?;
        let taken = match answer.header(RANGE) {
            // Nothing is there yet; some registries write that as 0-0, which
            // is the first byte and does no harm: what overlaps is refused,
            // and the upload begun anew.
            None => 0,
            Some(text) => upload_range(text)
                .map(|last| last + 1)
                .ok_or_else(|| answer.nonsense("an upload without a position"))?,
        };
        let next = next_location(&answer, location)?;
        answer.discard().await;
        Ok((next, taken))
    }

    fn part(&self, parcel: &Parcel<'_>, offset: u64, length: u64) -> Payload {
        let (source, upload) = (parcel.source.clone(), Upload::new());
        Payload::Part { source, offset, length, upload }
    }

    /// Sends a request and tells how many of its bytes, which begin at
    /// `base`, are over.
    async fn send_part(
        &self,
        turn: &Turn,
        parcel: &Parcel<'_>,
        ask: Ask,
        base: u64,
        scopes: &Scopes,
    ) -> Result<Answer, Error> {
        let upload = ask.payload.upload().cloned();
        let sending = turn.endpoint.send(ask, scopes, turn.patience);
        tokio::pin!(sending);
        let Some(upload) = upload else { return sending.await };
        let answer = loop {
            match tokio::time::timeout(TELL, &mut sending).await {
                Ok(answer) => break answer,
                Err(_) => (parcel.progress)(base + upload.sent()),
            }
        };
        if let Some(source) = upload.take_failure() {
            return Err(Error::Source { digest: parcel.blob.digest.clone(), source });
        }
        (parcel.progress)(base + upload.sent());
        answer
    }
}

/// Where the next request goes; the same place when the registry says
/// nothing.
fn next_location(answer: &Answer, location: &Url) -> Result<Url, Error> {
    let Some(next) = answer.header(LOCATION) else { return Ok(location.clone()) };
    let next = answer.url.join(next).map_err(|bad| answer.nonsense(bad.to_string()))?;
    if location.origin().is_secure() && !next.origin().is_secure() {
        return Err(answer.nonsense("an upload location without TLS"));
    }
    Ok(next)
}

/// Whether the registry may still know of the upload.
fn may_resume(error: &Error) -> bool {
    error.is_temporary() || error.status() == Some(StatusCode::RANGE_NOT_SATISFIABLE.as_u16())
}
