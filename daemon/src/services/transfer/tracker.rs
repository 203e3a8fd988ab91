//! What becomes of each blob of a transfer, for the client's progress stream
//! (containerd, `core/transfer/local/progress.go`).

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use davit_distribution::pull::names::reference;
use davit_distribution::pull::{Nobody, Observer};
use davit_protocols::grpc::containerd::types::transfer as types;
use davit_types::{Descriptor, Digest};
use tokio::sync::Notify;

use super::progress::Progress;

/// How often a client is told how far its blobs are.
const INTERVAL: Duration = Duration::from_millis(300);

/// Collects what a pull or a push reports.
#[derive(Debug)]
struct Tracker {
    /// `downloading` or `uploading`.
    moving: &'static str,
    state: Mutex<State>,
    /// There is something that is not to wait for the next interval.
    urgent: Notify,
}

#[derive(Debug, Default)]
struct State {
    jobs: HashMap<Digest, Job>,
    /// In the order in which they came.
    order: Vec<Digest>,
    /// What is to be told at once.
    queue: VecDeque<types::Progress>,
}

#[derive(Debug)]
struct Job {
    name: String,
    parents: Vec<String>,
    blob: Descriptor,
    now: Phase,
    told: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Waiting,
    Moving(u64),
    Complete,
    Unpacking(u64),
    Unpacked,
}

/// Who watches a transfer: a tracker where somebody listens.
pub(super) struct Watch(Option<Arc<Tracker>>);

impl Watch {
    /// For whoever listens to `progress`; blobs are `moving` that way.
    pub(super) fn of(progress: &Progress, moving: &'static str) -> Self {
        Self(progress.is_wanted().then(|| Tracker::new(moving)))
    }

    pub(super) fn observer(&self) -> Arc<dyn Observer> {
        match &self.0 {
            Some(tracker) => Arc::<Tracker>::clone(tracker),
            None => Arc::new(Nobody),
        }
    }

    /// Does `work`, and tells `progress` how it goes.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>, progress: &Progress) -> T {
        let Some(tracker) = &self.0 else { return work.await };
        let result = tokio::select! {
            result = work => result,
            never = tracker.tell(progress) => match never {},
        };
        tracker.send(progress, true).await;
        result
    }
}

impl Tracker {
    fn new(moving: &'static str) -> Arc<Self> {
        Arc::new(Self { moving, state: Mutex::default(), urgent: Notify::new() })
    }

    /// Tells `progress` of everything, as long as this is polled.
    async fn tell(&self, progress: &Progress) -> Infallible {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.urgent.notified() => self.send(progress, false).await,
                _ = tick.tick() => self.send(progress, true).await,
            }
        }
    }

    /// Sends what is to be told; with `all`, also how far the blobs are. What
    /// is not sent when this is dropped is left for the next call.
    async fn send(&self, progress: &Progress, all: bool) {
        if all {
            self.state().changes(self.moving);
        }
        let next = || self.state().queue.front().cloned();
        while let Some(message) = next() {
            progress.send(message).await;
            self.state().queue.pop_front();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a blob on to a later phase.
    fn set(&self, blob: &Descriptor, phase: Phase) {
        let mut state = self.state();
        if let Some(job) = state.jobs.get_mut(&blob.digest) {
            job.now = job.now.max(phase);
        }
    }
}

impl State {
    /// Queues what has changed since it was told.
    fn changes(&mut self, moving: &str) {
        let Self { jobs, order, queue } = self;
        for digest in order {
            let Some(job) = jobs.get_mut(digest) else { continue };
            if job.now <= job.told {
                continue;
            }
            // Nobody misses that a blob was complete, however fast it went on.
            if job.told < Phase::Complete && job.now > Phase::Complete {
                queue.push_back(job.message(Phase::Complete, moving));
            }
            queue.push_back(job.message(job.now, moving));
            job.told = job.now;
        }
    }
}

impl Job {
    fn message(&self, phase: Phase, moving: &str) -> types::Progress {
        let size = self.blob.size;
        let (event, offset) = match phase {
            Phase::Waiting => ("waiting", 0),
            Phase::Moving(offset) => (moving, offset),
            Phase::Complete => ("complete", size),
            Phase::Unpacking(offset) => ("extracting", offset),
            Phase::Unpacked => ("extracted", size),
        };
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        types::Progress {
            event: event.to_owned(),
            name: self.name.clone(),
            parents: self.parents.clone(),
            progress: signed(offset),
            total: signed(size),
            desc: Some(self.blob.clone().into()),
        }
    }
}

impl Observer for Tracker {
    fn added(&self, name: &str, blob: &Descriptor, parents: &[String]) {
        let mut state = self.state();
        let State { jobs, order, queue } = &mut *state;
        jobs.entry(blob.digest.clone()).or_insert_with(|| {
            let job = Job {
                name: name.to_owned(),
                parents: parents.to_vec(),
                blob: blob.clone(),
                now: Phase::Waiting,
                told: Phase::Waiting,
            };
            order.push(blob.digest.clone());
            queue.push_back(job.message(Phase::Waiting, self.moving));
            job
        });
        self.urgent.notify_one();
    }

    fn exists(&self, blob: &Descriptor) {
        let mut state = self.state();
        let State { jobs, queue, .. } = &mut *state;
        let Some(job) = jobs.get_mut(&blob.digest) else { return };
        if job.now >= Phase::Complete {
            return;
        }
        (job.now, job.told) = (Phase::Complete, Phase::Complete);
        let mut message = job.message(Phase::Complete, self.moving);
        message.event = "already exists".to_owned();
        message.name = reference(blob);
        message.parents = Vec::new();
        queue.push_back(message);
        self.urgent.notify_one();
    }

    fn offset(&self, blob: &Descriptor, offset: u64) {
        self.set(blob, Phase::Moving(offset));
    }

    fn complete(&self, blob: &Descriptor) {
        self.set(blob, Phase::Complete);
    }

    fn unpacking(&self, blob: &Descriptor, offset: u64) {
        let mut state = self.state();
        if let Some(job) = state.jobs.get_mut(&blob.digest) {
            // As long as it is on its way, that is the news.
            if job.now >= Phase::Complete {
                job.now = job.now.max(Phase::Unpacking(offset));
            }
        }
    }

    fn unpacked(&self, blob: &Descriptor) {
        self.set(blob, Phase::Unpacked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob() -> Descriptor {
        Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
            digest: format!("sha256:{}", "a".repeat(64)).parse().unwrap(),
            size: 100,
            annotations: Default::default(),
        }
    }

    fn events(tracker: &Tracker) -> Vec<(String, i64)> {
        let mut state = tracker.state();
        state.changes(tracker.moving);
        let messages = std::mem::take(&mut state.queue);
        messages.into_iter().map(|message| (message.event, message.progress)).collect()
    }

    fn told(list: &[(&str, i64)]) -> Vec<(String, i64)> {
        list.iter().map(|(event, offset)| ((*event).to_owned(), *offset)).collect()
    }

    #[test]
    fn a_layer_is_downloaded_and_unpacked() {
        let (tracker, blob) = (Tracker::new("downloading"), blob());
        tracker.added("layer-a", &blob, &["manifest".into()]);
        assert_eq!(events(&tracker), told(&[("waiting", 0)]));
        assert_eq!(events(&tracker), told(&[]), "nothing is new");
        tracker.offset(&blob, 30);
        tracker.offset(&blob, 60);
        tracker.unpacking(&blob, 50);
        assert_eq!(events(&tracker), told(&[("downloading", 60)]));
        tracker.complete(&blob);
        tracker.unpacking(&blob, 70);
        assert_eq!(events(&tracker), told(&[("complete", 100), ("extracting", 70)]));
        tracker.unpacked(&blob);
        assert_eq!(events(&tracker), told(&[("extracted", 100)]));
    }

    #[test]
    fn what_exists_is_told_once() {
        let (tracker, blob) = (Tracker::new("uploading"), blob());
        tracker.added("layer-a", &blob, &[]);
        tracker.added("layer-a", &blob, &[]);
        tracker.exists(&blob);
        tracker.exists(&blob);
        assert_eq!(events(&tracker), told(&[("waiting", 0), ("already exists", 100)]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_misses_nothing_of_a_transfer_that_has_ended() {
        let tracker = Tracker::new("downloading");
        for digit in "12345".chars() {
            let digest = format!("sha256:{}", digit.to_string().repeat(64)).parse().unwrap();
            tracker.added("layer", &Descriptor { digest, ..blob() }, &[]);
        }
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let progress = Progress::to(sender);
        let working = async {
            let work = tokio::time::sleep(INTERVAL / 2);
            Watch(Some(tracker)).during(work, &progress).await;
            drop(progress);
        };
        let reading = async {
            tokio::time::sleep(INTERVAL).await;
            let mut count = 0;
            while receiver.recv().await.is_some() {
                count += 1;
            }
            count
        };
        assert_eq!(tokio::join!(working, reading).1, 5);
    }
}
