//! When garbage is collected.
//!
//! Inherited from containerd 2 (`plugins/gc/scheduler.go`): shortly after the
//! start, and whenever enough has changed or been deleted since the last
//! time; never so often that it takes more than the configured part of the
//! time. Changes are counted by their events; collecting is the index's work
//! and holds nobody else up for longer than its one transaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use davit_events::{Exchange, Subscription};
use davit_index::{Collector, Index};
use davit_types::{Kind, Labels, Namespace};

use crate::config::Gc;
use crate::mounts::Mounts;
use crate::services::images::collect;

/// What a label must start with to hold an activated mount by what it names
/// (containerd, `core/metadata/gc.go`).
const BACK_REFERENCE: &str = "containerd.io/gc.bref.";

/// Collects garbage when it is time to.
pub struct Schedule {
    /// How often.
    pub settings: Gc,
    /// What knows what is garbage.
    pub collector: Arc<Collector>,
    /// Leases, for what the collector does not know.
    pub index: Arc<Index>,
    /// Who is told of what went.
    pub events: Arc<Exchange>,
    /// What goes with its lease.
    pub mounts: Arc<Mounts>,
}

/// Changes since the last collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Changes {
    all: u64,
    deletions: u64,
}

impl Changes {
    /// Counts what an event of this topic tells of. Tasks are no rows of the
    /// index.
    fn count(&mut self, topic: &str) {
        if topic.starts_with("/tasks/") {
            return;
        }
        self.all += 1;
        if topic.ends_with("/delete") || topic.ends_with("/remove") {
            self.deletions += 1;
        }
    }

    fn are_enough(self, settings: &Gc) -> bool {
        let reached = |count: u64, threshold: u64| threshold > 0 && count >= threshold;
        reached(self.all, settings.mutation_threshold)
            || reached(self.deletions, settings.deletion_threshold)
    }
}

impl Schedule {
    /// Runs as long as it is polled.
    pub async fn run(self) {
        let schedule = Arc::new(self);
        tokio::time::sleep(schedule.settings.startup_delay).await;
        let mut pause = schedule.collect(true).await;
        loop {
            // What happens during the pause counts towards the next time.
            let mut events = schedule.events.subscribe_to(|_| true);
            tokio::time::sleep(pause).await;
            schedule.enough_changes(&mut events).await;
            tokio::time::sleep(schedule.settings.schedule_delay).await;
            drop(events);
            pause = schedule.collect(false).await;
        }
    }

    /// Ready when enough has changed; also when so much has that we lost
    /// count.
    async fn enough_changes(&self, events: &mut Subscription) {
        let mut changes = Changes::default();
        while let Some(Ok(envelope)) = events.next().await {
            changes.count(&envelope.topic);
            if changes.are_enough(&self.settings) {
                return;
            }
        }
    }

    /// Collects; at the start, also what a crash has left over. Answers how
    /// long to wait until the next time.
    async fn collect(self: &Arc<Self>, at_start: bool) -> Duration {
        let schedule = Arc::clone(self);
        let started = Instant::now();
        let work = move || {
            if at_start && let Err(error) = schedule.collector.cleanup() {
                log::warn!(error = error.full_message().as_str(); "leftovers stay");
            }
            if let Err(error) = collect(&schedule.collector, &schedule.events) {
                log::error!(error = error.full_message().as_str(); "cannot collect garbage");
            }
            schedule.release_mounts();
        };
        if let Err(failure) = tokio::task::spawn_blocking(work).await {
            log::error!(failure:%; "collecting garbage did not finish");
        }
        let took = started.elapsed();
        // What this and the calls before it have allocated and freed.
        davit_sys::process::trim_heap();
        log::debug!(seconds = took.as_secs_f64(); "collected garbage");
        took.div_f64(self.settings.pause_threshold.max(0.001))
    }

    /// Removes activated mounts whose lease is gone and that nothing else was
    /// said to hold.
    fn release_mounts(&self) {
        for (namespace, activation) in self.mounts.all() {
            let Some(lease) = activation.lease else { continue };
            if self.is_held(&namespace, &lease, &activation.labels) {
                continue;
            }
            if let Err(error) = self.mounts.deactivate(&namespace, &activation.name) {
                let (namespace, name) = (namespace.as_str(), activation.name.as_str());
                let error = error.full_message();
                log::warn!(namespace, name, error = error.as_str(); "a mount stays");
            }
        }
    }

    fn is_held(&self, namespace: &Namespace, lease: &str, labels: &Labels) -> bool {
        if labels.keys().any(|key| key.starts_with(BACK_REFERENCE)) {
            return true;
        }
        match self.index.leases().list(namespace, &[]) {
            Ok(leases) => leases.iter().any(|known| known.id.as_str() == lease),
            // What is not known to be garbage stays.
            Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_counted_and_zero_means_never() {
        let count = |topics: &[&str]| {
            let mut changes = Changes::default();
            topics.iter().for_each(|topic| changes.count(topic));
            changes
        };
        let changes =
            count(&["/tasks/exit", "/images/create", "/snapshot/remove", "/images/delete"]);
        assert_eq!(changes, Changes { all: 3, deletions: 2 });
        let settings = |mutation_threshold, deletion_threshold| Gc {
            mutation_threshold,
            deletion_threshold,
            ..Gc::default()
        };
        assert!(changes.are_enough(&settings(3, 0)));
        assert!(changes.are_enough(&settings(0, 2)));
        assert!(!changes.are_enough(&settings(4, 3)));
        assert!(!changes.are_enough(&settings(0, 0)));
    }
}
