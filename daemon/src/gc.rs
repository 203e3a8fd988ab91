//! When garbage is collected.
//!
//! Inherited from containerd 2 (`plugins/gc/scheduler.go`): shortly after the
//! start, when enough has changed since the last time, and some seconds after
//! anything was deleted; never so often that it takes more than the configured
//! part of the time. Also when a lease, an ingest or an image expires, which
//! containerd notices when somebody changes something next. Collecting is the
//! index's work and holds nobody else up.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use davit_events::Exchange;
use davit_index::{Changes, Collector, Error, Garbage, Index, Sizes};
use davit_protocols::convert::grpc::pack;
use davit_protocols::grpc::containerd::events as wire_events;
use davit_protocols::grpc::containerd::services::images::v1::ImageDelete;
use davit_protocols::topics;
use davit_types::{Kind, Namespace};
use tokio::sync::Notify;

use crate::config::Gc;
use crate::mounts::{Activation, Mounts};
use crate::services::publish;

/// What a label starts with that attaches an activated mount to what it names
/// (containerd, `core/metadata/gc.go`).
const BACK_REFERENCE: &str = "containerd.io/gc.bref.";
/// How long after a failure it is tried again, besides the pause; longer by as
/// much after each further one, as with containerd.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// What a collection is said to take at least, so that the next is not right
/// behind it (containerd's `minimumGCTime`).
const SHORTEST: Duration = Duration::from_millis(5);
/// The pause where none is configured, as with containerd.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);
/// How long a deletion waits for its collection: clients make things that
/// nothing holds yet, and take some calls to hold them.
const DELETION_DELAY: Duration = Duration::from_secs(10);
/// How soon after a change it is looked at again whether it is time.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// How long after the end of a lease it is collected: those that end
/// together go together.
const EXPIRY_DELAY: Duration = Duration::from_secs(1);
/// The longest wait for an end, for clocks can be set.
const EXPIRY_WAIT_MAX: Duration = Duration::from_secs(60);

/// Collects garbage when it is time to.
pub struct Schedule {
    /// How often.
    pub settings: Gc,
    /// What knows what is garbage.
    pub collector: Arc<Collector>,
    /// What changes, and leases, for what the collector does not know.
    pub index: Arc<Index>,
    /// Who is told of what went.
    pub events: Arc<Exchange>,
    /// What goes with its lease.
    pub mounts: Arc<Mounts>,
}

/// The last collection, and how long they take.
#[derive(Clone, Copy, Debug)]
struct Last {
    /// What had changed before it.
    changes: Changes,
    /// When it began, by the clock that leases end by.
    at: SystemTime,
    ended: Instant,
    /// How many have failed since one was made.
    failures: u32,
    collections: u32,
    took_together: Duration,
}

/// Collects garbage, publishes what clients are told of, and tells of
/// everything. Answers how long the index was busy with it.
///
/// # Errors
/// Those of the index.
pub fn collect(
    collector: &Collector,
    events: &Exchange,
    sizes: Sizes,
    mut tell: impl FnMut(Garbage),
) -> Result<Duration, Error> {
    collector.collect(sizes, &mut |garbage| {
        announce(events, &garbage);
        tell(garbage);
    })
}

/// Of a collection containerd tells images and snapshots alone.
fn announce(events: &Exchange, garbage: &Garbage) {
    let Garbage { namespace, thing, .. } = garbage;
    match thing.kind.as_str() {
        "image" => {
            let event = pack(&ImageDelete { name: thing.name.clone() });
            publish(events, namespace, topics::IMAGE_DELETE, event);
        }
        "snapshot" => {
            let (key, snapshotter) = (thing.name.clone(), thing.snapshotter.clone());
            let event = pack(&wire_events::SnapshotRemove { key, snapshotter });
            publish(events, namespace, topics::SNAPSHOT_REMOVE, event);
        }
        _ => {}
    }
}

/// Whether so much has changed that it is reason to collect.
fn is_enough(settings: &Gc, before: Changes, now: Changes) -> bool {
    let threshold = settings.mutation_threshold;
    threshold > 0 && now.all - before.all >= threshold
}

/// Whether so much was deleted that no pause is kept.
fn is_urgent(settings: &Gc, before: Changes, now: Changes) -> bool {
    let threshold = settings.deletion_threshold;
    threshold > 0 && now.loosening - before.loosening >= threshold
}

impl Last {
    /// How long to leave everybody alone.
    fn pause(&self, settings: &Gc) -> Duration {
        let part = settings.pause_threshold.min(0.5);
        if part <= 0.0 {
            return DEFAULT_PAUSE;
        }
        let average = (self.took_together / self.collections.max(1)).max(SHORTEST);
        average.div_f64(part) - average
    }
}

impl Schedule {
    /// Runs as long as it is polled.
    pub async fn run(self) {
        let schedule = Arc::new(self);
        let changed = Arc::new(Notify::new());
        let observed = Arc::clone(&changed);
        schedule.index.observe(move || observed.notify_one());
        tokio::time::sleep(schedule.settings.startup_delay).await;
        let mut last = schedule.collect(None).await;
        loop {
            schedule.until_time(&changed, &last).await;
            tokio::time::sleep(schedule.settings.schedule_delay).await;
            last = schedule.collect(Some(last)).await;
        }
    }

    /// Ready when it is time to collect.
    async fn until_time(&self, changed: &Notify, last: &Last) {
        let earliest = last.ended + last.pause(&self.settings);
        if last.failures > 0 {
            let again = earliest + RETRY_DELAY.saturating_mul(last.failures);
            return tokio::time::sleep_until(again.into()).await;
        }
        let mut deleted = None;
        loop {
            let changes = self.index.changes();
            if is_urgent(&self.settings, last.changes, changes) {
                return;
            }
            if is_enough(&self.settings, last.changes, changes) {
                return tokio::time::sleep_until(earliest.into()).await;
            }
            if changes.loosening > last.changes.loosening {
                let delayed = *deleted.get_or_insert_with(|| Instant::now() + DELETION_DELAY);
                if delayed <= Instant::now() {
                    return tokio::time::sleep_until(earliest.into()).await;
                }
                // Until then enough may change.
                let _ = tokio::time::timeout_at(delayed.into(), changed.notified()).await;
                tokio::time::sleep(LOOK_PAUSE).await;
                continue;
            }
            match self.next_expiry(last.at).await {
                Some(wait) if wait.is_zero() => {
                    return tokio::time::sleep_until(earliest.into()).await;
                }
                Some(wait) => {
                    // When the wait is over, or something changes, we look
                    // again.
                    let wait = wait.min(EXPIRY_WAIT_MAX);
                    let _ = tokio::time::timeout(wait, changed.notified()).await;
                }
                None => changed.notified().await,
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// How long until something ends that had not ended at the last
    /// collection.
    async fn next_expiry(&self, after: SystemTime) -> Option<Duration> {
        let index = Arc::clone(&self.index);
        let found = tokio::task::spawn_blocking(move || index.next_expiry(after)).await;
        match found {
            Ok(Ok(expiry)) => {
                let due = expiry? + EXPIRY_DELAY;
                Some(due.duration_since(SystemTime::now()).unwrap_or_default())
            }
            Ok(Err(error)) => {
                log::error!(error = error.full_message().as_str(); "cannot find out what expires");
                None
            }
            Err(failure) => {
                log::error!(failure:%; "finding out what expires did not finish");
                None
            }
        }
    }

    /// Collects; the first time, also what a crash has left over. How long
    /// removing files takes is nobody else's business, and does not count.
    async fn collect(self: &Arc<Self>, last: Option<Last>) -> Last {
        let schedule = Arc::clone(self);
        let (changes, at, started) = (self.index.changes(), SystemTime::now(), Instant::now());
        let at_start = last.is_none();
        let work = move || {
            if at_start && let Err(error) = schedule.collector.cleanup() {
                log::warn!(error = error.full_message().as_str(); "leftovers stay");
            }
            let collected = collect(&schedule.collector, &schedule.events, Sizes::Known, drop);
            schedule.release_mounts();
            collected
        };
        let collected = match tokio::task::spawn_blocking(work).await {
            Ok(collected) => collected.map_err(|error| error.full_message()),
            Err(failure) => Err(failure.to_string()),
        };
        if let Err(error) = &collected {
            log::error!(error = error.as_str(); "cannot collect garbage");
        }
        // What this and the calls before it have allocated and freed.
        davit_sys::process::trim_heap();
        log::debug!(seconds = started.elapsed().as_secs_f64(); "collected garbage");
        let (failures, count, sum) =
            last.map(|l| (l.failures, l.collections, l.took_together)).unwrap_or_default();
        let (failures, collections, took_together) = match collected {
            Ok(took) => (0, count.saturating_add(1), sum.saturating_add(took)),
            Err(_) => (failures.saturating_add(1), count, sum),
        };
        Last { changes, at, ended: Instant::now(), failures, collections, took_together }
    }

    /// Removes activated mounts that were to be held by what is gone. One
    /// that was to be held by nothing stays until its client removes it.
    fn release_mounts(&self) {
        for (namespace, activation) in self.mounts.all() {
            // What is not known to be garbage stays.
            if self.is_held(&namespace, &activation).unwrap_or(true) {
                continue;
            }
            if let Err(error) = self.mounts.deactivate(&namespace, &activation.name) {
                let (namespace, name) = (namespace.as_str(), activation.name.as_str());
                let error = error.full_message();
                log::warn!(namespace, name, error = error.as_str(); "a mount stays");
            }
        }
    }

    fn is_held(&self, namespace: &Namespace, activation: &Activation) -> Result<bool, Error> {
        let Activation { labels, lease, .. } = activation;
        if lease.is_none() && !labels.keys().any(|key| key.starts_with(BACK_REFERENCE)) {
            return Ok(true);
        }
        if let Some(lease) = lease {
            let leases = self.index.leases().list(namespace, &[])?;
            if leases.iter().any(|known| known.id.as_str() == lease) {
                return Ok(true);
            }
        }
        self.index.is_attached(namespace, labels)
    }
}

#[cfg(test)]
mod tests {
    use davit_index::{ContentStore, Sharing};
    use davit_types::Labels;

    use super::*;

    fn changes(all: u64, loosening: u64) -> Changes {
        Changes { all, loosening }
    }

    #[test]
    fn few_changes_are_not_enough() {
        let settings = Gc { mutation_threshold: 3, ..Gc::default() };
        let before = changes(10, 4);
        for (now, enough) in [
            (changes(10, 4), false),
            (changes(12, 4), false),
            (changes(13, 4), true),
            (changes(11, 5), false),
        ] {
            assert_eq!(is_enough(&settings, before, now), enough, "{now:?}");
        }
        let never = Gc { mutation_threshold: 0, ..Gc::default() };
        assert!(!is_enough(&never, before, changes(1000, 4)));
    }

    #[test]
    fn a_threshold_of_deletions_ends_the_pause_and_zero_never_does() {
        let settings = |deletion_threshold| Gc { deletion_threshold, ..Gc::default() };
        let (before, now) = (changes(0, 0), changes(5, 5));
        assert!(is_urgent(&settings(5), before, now));
        assert!(!is_urgent(&settings(6), before, now));
        assert!(!is_urgent(&settings(0), before, now));
    }

    #[test]
    fn the_pause_keeps_to_the_configured_part_of_the_time() {
        let last = |collections, took_together| Last {
            changes: Changes::default(),
            at: SystemTime::UNIX_EPOCH,
            ended: Instant::now(),
            failures: 0,
            collections,
            took_together,
        };
        let settings = |pause_threshold| Gc { pause_threshold, ..Gc::default() };
        let two = last(2, Duration::from_millis(200));
        assert_eq!(two.pause(&settings(0.02)), Duration::from_millis(4900));
        assert_eq!(two.pause(&settings(0.9)), Duration::from_millis(100));
        assert_eq!(two.pause(&settings(0.0)), DEFAULT_PAUSE);
        let short = last(9, Duration::from_micros(90));
        assert_eq!(short.pause(&settings(0.02)), Duration::from_millis(245));
    }

    /// A schedule over an empty store.
    fn schedule(dir: &std::path::Path) -> Schedule {
        let index = Arc::new(Index::open(&dir.join("index.db")).unwrap());
        let local = Arc::new(davit_content::LocalStore::open(&dir.join("content")).unwrap());
        let content = Arc::new(ContentStore::new(Arc::clone(&index), local, Sharing::Shared));
        let settings = Gc::default();
        let collector = Arc::new(Collector::new(Arc::clone(&index), content, Vec::new()));
        let mounts = Arc::new(Mounts::open(&dir.join("state"), dir).unwrap());
        Schedule {
            settings,
            collector,
            index,
            events: Arc::new(Exchange::new(|_, _| None)),
            mounts,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_collection_that_failed_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let schedule = Arc::new(schedule(dir.path()));
        let last = schedule.collect(None).await;
        assert_eq!((last.failures, last.collections), (0, 1));
        let is_time = async |last| {
            let changed = Notify::new();
            let waiting = schedule.until_time(&changed, &last);
            tokio::time::timeout(Duration::from_secs(3600), waiting).await.is_ok()
        };
        assert!(!is_time(last).await, "nothing has changed");
        assert!(is_time(Last { failures: 1, ..last }).await, "what was to go stays");
    }

    #[tokio::test]
    async fn a_mount_goes_with_all_that_was_to_hold_it() {
        let dir = tempfile::tempdir().unwrap();
        let schedule = schedule(dir.path());
        let space = Namespace::new("test").unwrap();
        let leases = schedule.index.leases();
        let lease = davit_index::LeaseId::new("l");
        leases.create(&space, &lease, &Labels::new()).unwrap();
        let to_lease = |label: &str| {
            let lease = Some("l".to_owned());
            let labels = Labels::from([(label.to_owned(), "sha256:none".to_owned())]);
            let (active, system) = (Vec::new(), Vec::new());
            Activation { name: "m".into(), active, system, labels, lease }
        };
        let to_nothing = |label: &str| Activation { lease: None, ..to_lease(label) };
        let back = "containerd.io/gc.bref.content";
        let held = |activation: &Activation| schedule.is_held(&space, activation).unwrap();
        assert!(held(&to_lease("any")) && held(&to_lease(back)) && held(&to_nothing("any")));
        assert!(!held(&to_nothing(back)), "what it is attached to is not there");
        leases.delete(&space, &lease).unwrap();
        assert!(!held(&to_lease("any")) && !held(&to_lease(back)));
    }
}
