//! Which host is asked next, and when: a repository's hosts in their order,
//! those last that were dead a moment ago, and all over again after a pause
//! when the failure is one that passes.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use davit_types::Kind;

use super::client::Patience;
use super::endpoint::Endpoint;
use super::url::Origin;
use super::{Error, Settings};

/// A host that cannot be reached at all, when there is no other, is tried so
/// often again.
const UNREACHABLE_RETRIES: u32 = 2;

/// Hosts remembered; beyond that, those that were bad longest ago are
/// forgotten.
const MOST_REMEMBERED: usize = 1024;

/// A host that gave wrong bytes is asked last for so many times as long as a
/// dead one.
const DISTRUST: u32 = 10;

/// Which hosts were bad, and until when that counts.
#[derive(Default)]
pub(crate) struct Health(Mutex<HashMap<Origin, Instant>>);

impl Health {
    /// This host was dead, or too slow.
    pub fn note_bad(&self, origin: Origin, settings: &Settings) {
        self.note(origin, settings.bad_host_memory);
    }

    /// This host is no worse than the others.
    pub fn forgive(&self, origin: &Origin) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(origin);
    }

    /// This host gave wrong bytes.
    pub fn note_liar(&self, origin: Origin, settings: &Settings) {
        self.note(origin, settings.bad_host_memory.saturating_mul(DISTRUST));
    }

    fn note(&self, origin: Origin, memory: Duration) {
        let now = Instant::now();
        let mut bad = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bad.retain(|_, until| *until > now);
        if bad.len() >= MOST_REMEMBERED
            && let Some(first) = bad.iter().min_by_key(|(_, until)| **until).map(|(o, _)| o.clone())
        {
            bad.remove(&first);
        }
        let until = now + memory;
        let known = bad.entry(origin).or_insert(until);
        *known = until.max(*known);
    }

    /// Whether this host was bad lately.
    pub fn is_bad(&self, origin: &Origin) -> bool {
        let bad = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bad.get(origin).is_some_and(|until| *until > Instant::now())
    }
}

/// The attempts of one request.
pub(crate) struct Tour {
    settings: Arc<Settings>,
    health: Arc<Health>,
    /// Hosts that may still answer.
    stops: Vec<Arc<Endpoint>>,
    /// The next of them.
    position: usize,
    /// Rounds that are over.
    round: u32,
    /// How long a host wants to be left alone.
    wait: Option<Duration>,
    /// Whether no host was reached in this round.
    is_unreachable: bool,
    worst: Option<Error>,
    is_foreign: bool,
}

/// One attempt.
pub(crate) struct Turn {
    pub endpoint: Arc<Endpoint>,
    pub patience: Patience,
}

impl Tour {
    /// Over `hosts`, in their order but for those that were bad lately.
    pub fn new(
        hosts: impl Iterator<Item = Arc<Endpoint>>,
        settings: Arc<Settings>,
        health: Arc<Health>,
    ) -> Self {
        let mut stops: Vec<_> = hosts.collect();
        let is_foreign = stops.iter().any(|endpoint| endpoint.is_foreign());
        stops.sort_by_cached_key(|endpoint| health.is_bad(&endpoint.origin()));
        Self {
            settings,
            health,
            stops,
            position: 0,
            round: 0,
            wait: None,
            is_unreachable: true,
            worst: None,
            is_foreign,
        }
    }

    /// Whom to ask now; waits between rounds. `None` when there is nobody
    /// left.
    pub async fn next(&mut self) -> Option<Turn> {
        if self.position == self.stops.len() {
            self.position = 0;
            let unreachable = self.is_unreachable && self.round >= UNREACHABLE_RETRIES;
            if self.stops.is_empty() || self.round >= self.settings.retries || unreachable {
                return None;
            }
            let pause = self.pause();
            tokio::time::sleep(pause).await;
            self.round += 1;
            self.is_unreachable = true;
        }
        let endpoint = self.stops[self.position].clone();
        self.position += 1;
        let healthy = |endpoint: &Arc<Endpoint>| !self.health.is_bad(&endpoint.origin());
        // Nobody is hurried on to a host that is known to be dead.
        let is_hurried = self.stops[self.position..].iter().any(healthy);
        let patience = Patience::new(&self.settings, is_hurried, self.round);
        Some(Turn { endpoint, patience })
    }

    fn pause(&mut self) -> Duration {
        let own = self.settings.backoff.saturating_mul(1 << self.round.min(16));
        let own = jitter(own.min(self.settings.backoff_limit));
        self.wait.take().map_or(own, |wait| wait.max(own))
    }

    /// Whether this is no longer about registries.
    pub fn is_foreign(&self) -> bool {
        self.is_foreign
    }

    /// The attempt at `endpoint` failed with `error`.
    pub fn failed(&mut self, endpoint: &Endpoint, error: Error) {
        let (host, why) = (endpoint.host.authority.as_str(), error.full_message());
        log::info!(host, error = why.as_str(); "a host failed");
        if error.is_bad_sign() {
            self.health.note_bad(endpoint.origin(), &self.settings);
        }
        self.is_unreachable &= error.is_unreachable();
        let asked = error.retry_after();
        let is_over = !error.is_temporary()
            || asked.is_some_and(|wait| wait > self.settings.retry_after_limit);
        if is_over && let Some(at) = self.stops.iter().position(|e| std::ptr::eq(&**e, endpoint)) {
            self.stops.remove(at);
            self.position -= usize::from(at < self.position);
        }
        // With several hosts, none waits longer than the least patient asks.
        self.wait = match (self.wait, asked) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        if self.worst.as_ref().is_none_or(|worst| worst.rank() < error.rank()) {
            self.worst = Some(error);
        }
    }

    /// Why nobody could answer; `otherwise` when nobody was asked.
    pub fn into_error(self, otherwise: impl FnOnce() -> Error) -> Error {
        self.worst.unwrap_or_else(otherwise)
    }
}

/// Half of `pause` up to one and a half of it, so that many clients do not
/// come back in the same instant.
fn jitter(pause: Duration) -> Duration {
    // The standard library's only source of numbers that nobody foresees.
    let draw = RandomState::new().hash_one(0u8) % 1000;
    pause / 2 + pause.mul_f64(draw as f64 / 1000.0)
}
