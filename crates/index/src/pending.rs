//! Blobs that are just becoming a namespace's: on disk already, and not yet
//! in the index. Whoever removes blobs that the index does not know must
//! leave these alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use davit_types::Digest;

/// The blobs that somebody is busy with, and by how many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending(Arc<Mutex<HashMap<Digest, usize>>>);

/// Keeps a blob pending while it lives.
#[derive(Debug)]
pub(crate) struct Guard {
    pending: Pending,
    digest: Digest,
}

impl Pending {
    /// Says that the caller is busy with a blob.
    pub(crate) fn enter(&self, digest: &Digest) -> Guard {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *busy.entry(digest.clone()).or_default() += 1;
        Guard { pending: self.clone(), digest: digest.clone() }
    }

    /// Runs `remove` unless somebody is busy with the blob; nobody begins
    /// meanwhile, so `remove` must be short.
    pub(crate) fn unless_busy<T>(&self, digest: &Digest, remove: impl FnOnce() -> T) -> Option<T> {
        let busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!busy.contains_key(digest)).then(remove)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut busy = self.pending.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = busy.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                busy.remove(&self.digest);
            }
        }
    }
}
