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
    pub is_hurried: bool,
    /// How long we have waited for how many bytes.
    waited: Duration,
    received: u64,
    /// What a host has sent in a second that was left for this one, the last.
    pub to_beat: Option<f64>,
    /// Bytes a second, once that was found to be too few.
    pub too_slow: Option<f64>,
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
            to_beat: None,
            too_slow: None,
            _place: place,
        }
    }

    /// The next piece of the answer, of which `rest` bytes are still to come.
    /// A host that is `known_bad`, slow with other blobs too, is left sooner.
    pub async fn next(
        &mut self,
        settings: &Settings,
        rest: u64,
        known_bad: bool,
    ) -> Result<Bytes, Error> {
        let begun = Instant::now();
        let piece = self.answer.next().await?;
        let piece = piece
            .ok_or_else(|| self.answer.broken(Failure::Broken("unexpected EOF".to_owned())))?;
        self.waited += begun.elapsed();
        self.received += piece.len() as u64;
        // Only what the server makes us wait for counts.
        if self.waited > settings.mirror_timeout {
            let rate = self.received as f64 / self.waited.as_secs_f64();
            let most = if known_bad { settings.mirror_timeout } else { settings.slow_rest };
            let is_slow =
                settings.slow_rate as f64 > rate || rest as f64 > rate * most.as_secs_f64();
            let is_beaten = self.to_beat.is_some_and(|other| rate < other);
            if (self.is_hurried && is_slow) || (!self.is_hurried && is_beaten) {
                self.too_slow = Some(rate);
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
