//! Pulls and pushes on this daemon's stores: what `davit-distribution` needs
//! of them, and layers unpacked while they arrive.

mod feed;
mod hold;
mod layers;
mod place;
mod places;
mod snapshot;
mod source;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;

use davit_distribution::pull::{Shared, Turns};
use davit_events::Exchange;
use davit_index::{ContentStore, Index, Snapshotter};
use tokio::sync::Semaphore;

use crate::config::images::Transfer;
use crate::services::diff::Diff;

pub use hold::Hold;
pub use layers::{Destination, Unpacker};
pub use place::Snapshots;
pub use store::Contents;

use places::Places;

/// What all pulls and pushes of the daemon share. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    /// Where leases and images are.
    pub index: Arc<Index>,
    /// Where blobs are.
    pub content: Arc<ContentStore>,
    /// Where layers are unpacked, by name.
    pub snapshotters: BTreeMap<String, Arc<Snapshotter>>,
    /// What unpacks them.
    pub diff: Diff,
    /// Who is told of changes.
    pub events: Arc<Exchange>,
    /// Downloads at a time, and one fetch of each blob at a time.
    pub shared: Shared,
    /// Uploads at a time.
    pub uploads: Option<Arc<Semaphore>>,
    /// One unpacking of each chain of layers at a time.
    chains: Turns,
    /// So many layers at a time.
    places: Places,
}

impl Images {
    /// Pulls and pushes with the limits of `settings`.
    pub fn new(
        index: Arc<Index>,
        content: Arc<ContentStore>,
        snapshotters: BTreeMap<String, Arc<Snapshotter>>,
        diff: Diff,
        events: Arc<Exchange>,
        settings: &Transfer,
    ) -> Self {
        let limit = |limit: usize| (limit > 0).then(|| Arc::new(Semaphore::new(limit)));
        Self {
            index,
            content,
            snapshotters,
            diff,
            events,
            shared: Shared {
                downloads: limit(settings.max_concurrent_downloads),
                fetches: Turns::default(),
            },
            uploads: limit(settings.max_concurrent_uploaded_layers),
            chains: Turns::default(),
            places: Places::new(settings.unpacks_at_once()),
        }
    }
}
