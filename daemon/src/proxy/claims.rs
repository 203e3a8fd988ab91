//! Who is about to do something to a name, so that others keep off it.
//!
//! A claim is on one name of one snapshotter. It may be held over a call to
//! another process: it keeps off only those who want that very name.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The names that somebody is about to do something to.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    names: Mutex<HashSet<String>>,
    freed: Notify,
}

/// Keeps others off a name while it lives.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Claims,
    name: String,
}

impl Claims {
    /// Claims `name` when whoever has it is done with it.
    pub(super) async fn claim(&self, name: &str) -> Claim {
        loop {
            let freed = self.0.freed.notified();
            let mut freed = std::pin::pin!(freed);
            // From here on no release is missed.
            freed.as_mut().enable();
            if let Some(claim) = self.try_claim(name) {
                return claim;
            }
            freed.await;
        }
    }

    /// Claims `name` unless somebody has it.
    pub(super) fn try_claim(&self, name: &str) -> Option<Claim> {
        let fresh = self.names().insert(name.to_owned());
        fresh.then(|| Claim { claims: self.clone(), name: name.to_owned() })
    }

    fn names(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.names().remove(&self.name);
        self.claims.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_the_next_when_the_first_is_done() {
        let claims = Claims::default();
        let first = claims.claim("a").await;
        assert!(claims.try_claim("a").is_none());
        assert!(claims.try_claim("b").is_some());
        let waiting = tokio::spawn({
            let claims = claims.clone();
            async move { claims.claim("a").await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        drop(waiting.await.unwrap());
        assert!(claims.try_claim("a").is_some());
    }
}
