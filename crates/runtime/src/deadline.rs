//! How long a caller is willing to wait.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::Error;

/// The moment at which a caller gives up; or never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// The caller waits as long as it takes.
    pub const NEVER: Self = Self(None);

    /// The caller gives up when `time` has passed.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now().checked_add(time))
    }

    /// The earlier of this moment and `time` from now.
    pub fn at_most(self, time: Duration) -> Self {
        match (self, Self::after(time)) {
            (Self(Some(a)), Self(Some(b))) => Self(Some(a.min(b))),
            (Self(a), Self(b)) => Self(a.or(b)),
        }
    }

    /// What is left; zero when it has passed, `None` for [`Self::NEVER`].
    pub fn remaining(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Waits for `work`, at most until then.
    pub(crate) async fn limit<T>(self, work: impl Future<Output = T>) -> Result<T, Error> {
        match self.0 {
            None => Ok(work.await),
            Some(at) => tokio::time::timeout_at(at, work).await.map_err(|_| Error::Deadline),
        }
    }
}
