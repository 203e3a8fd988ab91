//! One after another, per task: making, ending and cleaning up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use davit_types::{ContainerId, Namespace};
use tokio::sync::OwnedMutexGuard;

/// Names a task.
pub(crate) type Key = (Namespace, ContainerId);

type Places = HashMap<Key, Arc<tokio::sync::Mutex<()>>>;

/// Who may make or end which task. Tasks do not wait for each other.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<Places>>);

/// The right to make or end one task, until it is dropped.
pub(crate) struct Turn {
    key: Key,
    turns: Turns,
    place: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for everybody who asked earlier for the same task.
    pub async fn wait(&self, key: Key) -> Turn {
        let place = self.places().entry(key.clone()).or_default().clone();
        Turn { key, turns: self.clone(), place: Some(place.lock_owned().await) }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.place.take());
        let mut places = self.turns.places();
        if places.get(&self.key).is_some_and(|place| Arc::strong_count(place) == 1) {
            places.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        (Namespace::new("n").unwrap(), ContainerId::new(id).unwrap())
    }

    #[tokio::test]
    async fn one_task_at_a_time_and_nothing_left() {
        let turns = Turns::default();
        let first = turns.wait(key("a")).await;
        let other = turns.wait(key("b")).await;
        let mut second = Box::pin(turns.wait(key("a")));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        drop(other);
        assert!(turns.places().is_empty());
    }
}
