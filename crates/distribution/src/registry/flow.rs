//! What comes of one blob from one host, and whether that is fast enough.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;

use super::answer::Answer;
use super::endpoint::Endpoint;
use super::failure::Failure;
use super::tour::Turn;
use super::{Error, Settings};

/// Bytes that come from one host.
pub(super) struct Flow {
    pub answer: Answer,
    pub endpoint: Arc<Endpoint>,
    /// Bytes that we have already and the server sends all the same.
    skip: u64,
    /// Whether the server has understood which bytes we want.
    pub is_partial: bool,
    /// Whether there is another host to go to when this one is slow.
    is_hurried: bool,
    /// How long we have waited for how many bytes.
    waited: Duration,
    received: u64,
    _place: Option<OwnedSemaphorePermit>,
}

impl Flow {
    /// Bytes that come from `endpoint`, the first `skip` of which we have
    /// already. `place` is kept as long.
    pub fn new(
        answer: Answer,
        turn: &Turn,
        skip: u64,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            is_partial: answer.status == StatusCode::PARTIAL_CONTENT,
            answer,
            endpoint: turn.endpoint.clone(),
            skip,
            is_hurried: turn.patience.is_hurried,
            waited: Duration::ZERO,
            received: 0,
            _place: place,
        }
    }

    /// The next piece of the answer.
    pub async fn next(&mut self, settings: &Settings) -> Result<Bytes, Error> {
        let begun = Instant::now();
        let piece = self.answer.next().await?;
        let piece = piece
            .ok_or_else(|| self.answer.broken(Failure::Broken("unexpected EOF".to_owned())))?;
        self.waited += begun.elapsed();
        self.received += piece.len() as u64;
        // Only what the server makes us wait for counts.
        if self.is_hurried && self.waited > settings.mirror_timeout * 2 {
            let least = settings.slow_rate as f64 * self.waited.as_secs_f64();
            if (self.received as f64) < least {
                return Err(self.answer.broken(Failure::Timeout("the host is too slow")));
            }
            (self.waited, self.received) = (Duration::ZERO, 0);
        }
        Ok(piece)
    }

    /// What of `piece` is new.
    pub fn unskipped(&mut self, mut piece: Bytes) -> Bytes {
        let known = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
        self.skip -= known as u64;
        piece.split_off(known)
    }
}
