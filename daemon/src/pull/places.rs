//! How many layers are unpacked at a time.

use std::sync::Arc;

use davit_distribution::pull::{Arriving, Failure};
use davit_types::ErrorKind;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of all pulls. There are as many for layers that are still
/// arriving as for those that are there: a slow registry is to keep nobody
/// from unpacking what he has.
#[derive(Clone, Debug)]
pub(super) struct Places {
    arriving: Arc<Semaphore>,
    there: Arc<Semaphore>,
}

impl Places {
    /// So many of each.
    pub(super) fn new(count: usize) -> Self {
        let places = || Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self { arriving: places(), there: places() }
    }

    /// Waits for a place for a layer that is there, or is being fetched.
    ///
    /// # Errors
    /// `Aborted` when the fetch has failed.
    pub(super) async fn take(&self, layer: &Arriving) -> Result<OwnedSemaphorePermit, Failure> {
        let (mut some, mut all) = (layer.clone(), layer.clone());
        let place = tokio::select! {
            biased;
            place = async {
                all.more(u64::MAX).await?;
                Ok::<_, Failure>(Arc::clone(&self.there).acquire_owned().await)
            } => place?,
            place = async {
                some.flowing().await?;
                Ok::<_, Failure>(Arc::clone(&self.arriving).acquire_owned().await)
            } => place?,
        };
        place
            .map_err(|_| Failure::new(ErrorKind::Internal, "no more layers are unpacked: internal"))
    }
}

#[cfg(test)]
mod tests {
    use davit_distribution::pull::arrival;

    use super::*;

    /// Whether a place is there at once.
    async fn takes(places: &Places, layer: &Arriving) -> Option<OwnedSemaphorePermit> {
        let taken = tokio::select! {
            biased;
            taken = places.take(layer) => taken,
            () = tokio::task::yield_now() => return None,
        };
        Some(taken.unwrap())
    }

    #[tokio::test]
    async fn a_slow_layer_keeps_no_other_waiting_that_is_there() {
        let places = Places::new(1);
        let begun = || {
            let (arrival, arriving) = arrival();
            arrival.begin(tempfile::tempfile().unwrap(), 0);
            (arrival, arriving)
        };
        let (slow, first) = begun();
        assert!(takes(&places, &first).await.is_none(), "it is not its turn yet");
        slow.flow();
        let _first = takes(&places, &first).await.unwrap();
        let (whole, second) = begun();
        whole.flow();
        assert!(takes(&places, &second).await.is_none(), "two at a time");
        whole.finish();
        let held = takes(&places, &second).await.unwrap();
        let (whole, third) = begun();
        whole.finish();
        assert!(takes(&places, &third).await.is_none(), "two at a time");
        drop(held);
        assert!(takes(&places, &third).await.is_some());
    }

    #[tokio::test]
    async fn a_fetch_that_fails_ends_the_wait() {
        let (arrival, arriving) = arrival();
        drop(arrival);
        assert!(Places::new(1).take(&arriving).await.is_err());
    }
}
