//! Removing from a snapshotter what no row of the index speaks of: snapshots
//! that were removed or collected, and what a crash has left over
//! (containerd, `core/metadata/snapshot.go`, where it is part of each
//! collection). In the background, so that a stuck snapshotter keeps nobody
//! from removing and collecting.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use davit_events::Exchange;
use davit_index::SnapshotInfo;
use davit_protocols::convert::grpc::unpack;
use davit_protocols::grpc::containerd::events::SnapshotRemove;
use davit_protocols::topics;
use davit_types::{Envelope, ErrorKind, Kind, Namespace};

use super::Error;
use super::snapshots::{Snapshotter, index};

/// How long after a failure it is tried again, unless there is a reason
/// before.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

impl Snapshotter {
    /// Sweeps at once, and whenever `events` tell of removed snapshots. Runs
    /// as long as it is polled.
    pub async fn keep_swept(self: Arc<Self>, events: Arc<Exchange>) {
        loop {
            let mut removals = events.subscribe_to(|e| e.topic == topics::SNAPSHOT_REMOVE);
            // What was removed before somebody listened.
            match index({
                let rows = self.rows.clone();
                move || rows.namespaces()
            })
            .await
            {
                Ok(all) => all.into_iter().for_each(|namespace| self.request_sweep(namespace)),
                Err(error) => log::warn!(error = error.full_message().as_str(); "not swept"),
            }
            loop {
                let failed = self.sweep_requested().await;
                tokio::select! {
                    removal = removals.next() => match removal {
                        Some(Ok(event)) => self.take_note(&event),
                        // Too many at once: begin again, with everything.
                        Some(Err(_)) => break,
                        None => return,
                    },
                    () = self.swept_for.notified() => {}
                    () = tokio::time::sleep(RETRY_PAUSE), if failed => {}
                }
            }
        }
    }

    fn take_note(&self, event: &Envelope) {
        let removed: Result<SnapshotRemove, _> = unpack(&event.event);
        if removed.is_ok_and(|removed| removed.snapshotter == self.name()) {
            self.request_sweep(event.namespace.clone());
        }
    }

    /// Whether it has to be tried again.
    async fn sweep_requested(&self) -> bool {
        let requested = std::mem::take(&mut *self.unswept());
        let mut failed = false;
        for namespace in requested {
            if let Err(error) = self.sweep(&namespace).await {
                // One that is away is told of to those who call it.
                let away = error.kind() == ErrorKind::Unavailable;
                let level = if away { log::Level::Debug } else { log::Level::Warn };
                let (snapshotter, error) = (self.name(), error.full_message());
                log::log!(level, snapshotter, namespace:%, error = error.as_str();
                    "removed snapshots stay for now");
                self.unswept().insert(namespace);
                failed = true;
            }
        }
        failed
    }

    fn unswept(&self) -> std::sync::MutexGuard<'_, BTreeSet<Namespace>> {
        self.unswept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what the snapshotter has of `namespace` (everything, where it
    /// knows no namespaces) and no row speaks of.
    ///
    /// # Errors
    /// The first failure that is not about one snapshot alone.
    pub async fn sweep(&self, namespace: &Namespace) -> Result<(), Error> {
        let there = self.remote.list(namespace, Vec::new()).await?;
        let rows = self.rows.clone();
        let known = index(move || rows.names()).await?;
        for name in garbage(&there, &known) {
            self.remove_unknown(namespace, name).await?;
        }
        self.remote.cleanup(namespace).await
    }

    async fn remove_unknown(&self, namespace: &Namespace, name: &str) -> Result<(), Error> {
        // Somebody is making it just now, or is about to take it.
        let Some(_claim) = self.claims.try_claim(name) else { return Ok(()) };
        let (rows, wanted) = (self.rows.clone(), name.to_owned());
        if index(move || rows.knows(&wanted)).await? {
            return Ok(());
        }
        let removed = self.remote.remove(namespace, name.to_owned()).await;
        match removed.as_ref().map_err(Error::answered) {
            Ok(()) => log::debug!(snapshotter = self.name(), name; "removed from a snapshotter"),
            Err(Some(ErrorKind::NotFound)) => {}
            // It has children that are somebody's, or is in use.
            Err(Some(ErrorKind::FailedPrecondition)) => {
                log::warn!(snapshotter = self.name(), name; "a removed snapshot is still in use");
            }
            Err(_) => return removed,
        }
        Ok(())
    }
}

/// What is not among `known`, children before their parents.
fn garbage<'a>(there: &'a [SnapshotInfo], known: &HashSet<String>) -> Vec<&'a str> {
    let parents: HashMap<&str, &str> =
        there.iter().map(|info| (info.name.as_str(), info.parent.as_str())).collect();
    let depth = |name: &'a str| {
        let chain = std::iter::successors(Some(name), |name| parents.get(name).copied());
        // A snapshotter that answers with a circle ends nothing here.
        chain.take(there.len() + 1).count()
    };
    let mut unknown: Vec<(usize, &str)> = parents
        .keys()
        .filter(|name| !known.contains(**name))
        .map(|name| (depth(name), *name))
        .collect();
    unknown.sort_unstable_by(|a, b| b.cmp(a));
    unknown.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use davit_snapshots::SnapshotKind;
    use davit_types::Labels;

    use super::*;

    fn snapshot(name: &str, parent: &str) -> SnapshotInfo {
        SnapshotInfo {
            name: name.to_owned(),
            parent: parent.to_owned(),
            kind: SnapshotKind::Committed,
            labels: Labels::new(),
            created_at: UNIX_EPOCH,
            updated_at: UNIX_EPOCH,
        }
    }

    #[test]
    fn children_go_first_and_what_is_known_stays() {
        let there = [snapshot("a", ""), snapshot("b", "a"), snapshot("c", "b"), snapshot("k", "a")];
        let known = HashSet::from(["k".to_owned()]);
        assert_eq!(garbage(&there, &known), ["c", "b", "a"]);
        let circle = [snapshot("a", "b"), snapshot("b", "a")];
        assert_eq!(garbage(&circle, &HashSet::new()).len(), 2);
        assert!(garbage(&[], &known).is_empty());
    }
}
