//! Turns at things that only one should do at a time, by name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// Who has a turn at what. Cheap to clone; clones share the turns.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    names: Arc<StdMutex<HashMap<String, Arc<Mutex<()>>>>>,
}

/// A turn; ends when it is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    name: String,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for a turn at `name`. Those who wait get it in the order in
    /// which they came.
    pub async fn take(&self, name: &str) -> Turn {
        let lock = {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(names.entry(name.to_owned()).or_default())
        };
        // Made before the wait, so that giving up the wait tidies up as well.
        let mut turn = Turn { turns: self.clone(), name: name.to_owned(), held: None };
        turn.held = Some(lock.lock_owned().await);
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut names = self.turns.names.lock().unwrap_or_else(PoisonError::into_inner);
        // Under this lock nobody can begin to wait.
        if names.get(&self.name).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            names.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_by_name_and_nothing_is_left() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        drop(turns.take("b").await);
        let waiting = turns.take("a");
        let mut waiting = std::pin::pin!(waiting);
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("two have a turn"),
            () = std::future::ready(()) => {}
        }
        drop(first);
        drop(waiting.await);
        assert!(turns.names.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_is_forgotten() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        {
            let mut waiting = std::pin::pin!(turns.take("a"));
            tokio::select! {
                biased;
                _ = &mut waiting => panic!("two have a turn"),
                () = std::future::ready(()) => {}
            }
        }
        drop(first);
        assert!(turns.names.lock().unwrap().is_empty());
    }
}
