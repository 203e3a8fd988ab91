//! Blobs that are just becoming a namespace's: on disk already, and not yet
//! in the index. Whoever removes blobs that the index does not know must
//! leave these alone.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use davit_types::Digest;

/// The blobs that somebody is busy with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    removed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Becoming a namespace's, and for how many callers.
    busy: HashMap<Digest, usize>,
    /// Being removed. The store may be another process, so nobody but those
    /// who want the same blob waits for that.
    removing: HashSet<Digest>,
}

/// Keeps a blob pending while it lives.
#[derive(Debug)]
pub(crate) struct Guard {
    pending: Pending,
    digest: Digest,
}

impl Pending {
    /// Says that the caller is busy with a blob; waits while it is being
    /// removed.
    pub(crate) fn enter(&self, digest: &Digest) -> Guard {
        let mut state = self.state();
        while state.removing.contains(digest) {
            state = self.0.removed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        *state.busy.entry(digest.clone()).or_default() += 1;
        Guard { pending: self.clone(), digest: digest.clone() }
    }

    /// Runs `remove` unless somebody is busy with the blob, or removes it
    /// already; nobody begins meanwhile.
    pub(crate) fn unless_busy<T>(&self, digest: &Digest, remove: impl FnOnce() -> T) -> Option<T> {
        let mut state = self.state();
        if state.busy.contains_key(digest) || !state.removing.insert(digest.clone()) {
            return None;
        }
        drop(state);
        let _removal = Removal { pending: self, digest };
        Some(remove())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets those go on who wait for the end of a removal.
struct Removal<'a> {
    pending: &'a Pending,
    digest: &'a Digest,
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        self.pending.state().removing.remove(self.digest);
        self.pending.0.removed.notify_all();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.pending.state();
        if let Some(count) = state.busy.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                state.busy.remove(&self.digest);
            }
        }
    }
}
