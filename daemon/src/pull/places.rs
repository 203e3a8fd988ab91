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

    /// Waits for a place for a layer, and for some of its bytes.
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
                some.more(0).await?;
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
        let begun = |offset| {
            let (arrival, arriving) = arrival();
            arrival.begin(tempfile::tempfile().unwrap(), offset);
            (arrival, arriving)
        };
        let (_queued, nothing) = begun(0);
        assert!(takes(&places, &nothing).await.is_none(), "nothing of it is there");
        let (_slow, slow) = begun(1);
        let _first = takes(&places, &slow).await.unwrap();
        let (whole, second) = begun(1);
        assert!(takes(&places, &second).await.is_none(), "two at a time");
        whole.finish();
        let held = takes(&places, &second).await.unwrap();
        let (whole, third) = begun(1);
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
