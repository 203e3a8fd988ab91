//! One at a time: the commits of one snapshot.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use davit_types::Namespace;

/// The snapshots whose commit is under way.
#[derive(Default)]
pub(super) struct Turns {
    taken: Mutex<HashSet<(Namespace, String)>>,
    ended: Condvar,
}

impl Turns {
    /// Waits until nobody else has the turn of the snapshot `key`.
    pub(super) fn take(&self, namespace: &Namespace, key: &str) -> Turn<'_> {
        let snapshot = (namespace.clone(), key.to_owned());
        let taken = |taken: &mut HashSet<_>| taken.contains(&snapshot);
        let mut free =
            self.ended.wait_while(self.lock(), taken).unwrap_or_else(PoisonError::into_inner);
        free.insert(snapshot.clone());
        Turn { turns: self, snapshot }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(Namespace, String)>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turn of one snapshot, until it is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    snapshot: (Namespace, String),
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.lock().remove(&self.snapshot);
        self.turns.ended.notify_all();
    }
}
