//! The layers of an image, unpacked while they arrive (containerd,
//! `core/unpack/unpacker.go`).
//!
//! Where the snapshotter keeps layers apart, all of them are unpacked at the
//! same time and put on top of each other as those below are done; elsewhere
//! one after another, while the next ones are being fetched. A layer's
//! snapshot is committed only when the blob has the digest that the manifest
//! says and the archive in it the one that the configuration says.

use std::fs::File;
use std::io::PipeWriter;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use davit_diff::worker::{Killer, Settle};
use davit_diff::{Applied, Whiteouts};
use davit_distribution::manifest::ImageConfig;
use davit_distribution::pull::names::chain_ids;
use davit_distribution::pull::{
    Arriving, Error, Failure, Layers, Observer, Pending, Store as _, Turn, Unpack, arrival,
};
use davit_index::LeaseId;
use davit_types::platform::Matcher;
use davit_types::{Descriptor, Digest, ErrorKind, Kind, Labels};
use futures::future::try_join_all;
use tokio::sync::{mpsc, oneshot, watch};

use super::feed::{feed, pipe};
use super::place::{Place, Snapshots};
use super::snapshot::{Extraction, New};
use super::{Contents, Images, source};
use crate::services::diff::{Diff, Guard, wait};

/// How long a pull that failed waits until its snapshots have gone.
const TIDY_LIMIT: Duration = Duration::from_secs(10);
/// How often a layer is begun: again when it came damaged, or what an earlier
/// pull had left of it was.
const ATTEMPTS: usize = 2;

const UNCOMPRESSED: &str = "containerd.io/uncompressed";
const SNAPSHOT_REFERENCE: &str = "containerd.io/gc.ref.snapshot.";

/// Where images of a platform are unpacked.
#[derive(Clone)]
pub struct Destination {
    /// Which images.
    pub platform: Matcher,
    /// Where.
    pub snapshots: Snapshots,
}

/// Unpacks the images of one pull.
pub struct Unpacker {
    /// What does it.
    pub images: Images,
    /// Whose images.
    pub contents: Contents,
    /// What holds the snapshots.
    pub lease: LeaseId,
    /// Where to; the first that fits an image gets it.
    pub destinations: Vec<Destination>,
    /// What was asked for, as the client wrote it.
    pub reference: String,
    /// Who is told.
    pub observer: Arc<dyn Observer>,
}

/// One image on its way into one snapshotter.
struct Image<'a> {
    unpacker: &'a Unpacker,
    layers: &'a Layers<'a>,
    blobs: Vec<Descriptor>,
    place: Place,
    alive: mpsc::Sender<()>,
    diff_ids: Vec<Digest>,
    chain: Vec<Digest>,
    /// How many snapshots there are, from the lowest.
    there: watch::Sender<usize>,
}

impl Unpack for Unpacker {
    fn unpack<'a>(&'a self, layers: &'a Layers<'a>) -> Pending<'a, Result<(), Error>> {
        Box::pin(self.image(layers))
    }
}

impl Unpacker {
    async fn image(&self, layers: &Layers<'_>) -> Result<(), Error> {
        let invalid = |source| Error::Document { digest: layers.config.digest.clone(), source };
        let ImageConfig { platform, diff_ids } = ImageConfig::parse(&layers.document)
            .and_then(|config| config.check_layers(layers.blobs().len()).map(|()| config))
            .map_err(invalid)?;
        let mut fitting = self.destinations.iter().filter(|to| to.platform.matches(&platform));
        let Some(destination) = fitting.next() else { return layers.fetch_all().await };
        let (alive, mut gone) = mpsc::channel(1);
        let image = Image {
            unpacker: self,
            layers,
            blobs: layers.blobs().cloned().collect(),
            place: Place {
                snapshots: destination.snapshots.clone(),
                events: Arc::clone(&self.images.events),
                namespace: self.contents.namespace.clone(),
                lease: self.lease.clone(),
            },
            alive,
            chain: chain_ids(&diff_ids),
            diff_ids,
            there: watch::Sender::new(0),
        };
        let last = image.chain.last().map(Digest::to_string);
        let result = image.all().await;
        drop(image);
        // Nobody is told of a failure before what it has left is removed.
        let _ = tokio::time::timeout(TIDY_LIMIT, gone.recv()).await;
        result?;
        let key = format!("{SNAPSHOT_REFERENCE}{}", destination.snapshots.name());
        self.label(&layers.config.digest, key, last.unwrap_or_default()).await
    }

    async fn label(&self, digest: &Digest, key: String, value: String) -> Result<(), Error> {
        let (contents, digest) = (self.contents.clone(), digest.clone());
        Ok(blocking(move || contents.label(&digest, &Labels::from([(key, value)]))).await?)
    }
}

impl Image<'_> {
    /// Unpacks what is not there. The lowest layers that are, are not even
    /// fetched.
    async fn all(&self) -> Result<(), Error> {
        let mut first = None;
        let mut start = 0;
        while start < self.chain.len() {
            let turn = self.turn(start).await;
            if let Some(extraction) = self.prepare(start, None).await? {
                first = Some((turn, extraction));
                break;
            }
            self.unpacker.observer.exists(&self.blobs[start]);
            start += 1;
        }
        self.there.send_replace(start);
        let work = (start..self.chain.len()).map(|number| self.layer(number, first.take()));
        try_join_all(work).await.map(drop)
    }

    /// Waits until nobody else in the daemon unpacks the same.
    async fn turn(&self, number: usize) -> Turn {
        let Place { snapshots, namespace, .. } = &self.place;
        let name = format!("{namespace}/{}/{}", snapshots.name(), self.chain[number]);
        self.unpacker.images.chains.take(&name).await
    }

    async fn prepare(
        &self,
        number: usize,
        lower_later: Option<Whiteouts>,
    ) -> Result<Option<Extraction>, Error> {
        let (chain, parent) = (self.chain[number].to_string(), self.parent(number));
        let mut annotations = self.blobs[number].annotations.clone();
        if self.place.snapshots.wants_source() {
            let (image, manifest) = (&self.unpacker.reference, &self.layers.manifest);
            annotations.extend(source::labels(image, manifest, &self.blobs[number..]));
        }
        let (place, alive) = (self.place.clone(), self.alive.clone());
        let new = New { chain, parent, lower_later, annotations };
        Ok(blocking(move || new.make(place, alive)).await?)
    }

    /// The snapshot below that of a layer, or nothing.
    fn parent(&self, number: usize) -> String {
        number.checked_sub(1).map(|below| self.chain[below].to_string()).unwrap_or_default()
    }

    /// Waits until the snapshot below is there.
    async fn below(&self, number: usize) {
        let mut there = self.there.subscribe();
        // The sender is ours.
        let _ = there.wait_for(|count| *count >= number).await;
    }

    fn done(&self, number: usize) {
        self.there.send_modify(|count| *count = (*count).max(number + 1));
    }

    /// Fetches a layer and unpacks it meanwhile.
    async fn layer(&self, number: usize, ready: Option<(Turn, Extraction)>) -> Result<(), Error> {
        let mut ready = ready;
        let mut attempt = 1;
        loop {
            let (arrival, arriving) = arrival();
            let fetch = self.layers.fetch(number, arrival);
            let (fetched, filled) = tokio::join!(fetch, self.fill(number, ready.take(), arriving));
            // What is wrong with a layer is said of bytes that were the right ones.
            match fetched.and(filled) {
                Err(error) if attempt < ATTEMPTS && error.is_damage() => attempt += 1,
                other => return other,
            }
        }
    }

    async fn fill(
        &self,
        number: usize,
        ready: Option<(Turn, Extraction)>,
        mut arriving: Arriving,
    ) -> Result<(), Error> {
        let (_turn, extraction) = match ready {
            Some((turn, extraction)) => (turn, Some(extraction)),
            None => self.begin(number).await?,
        };
        let Some(extraction) = extraction else {
            self.done(number);
            return Ok(());
        };
        let (applied, extraction) = self.apply(number, extraction, &mut arriving).await?;
        // A worker that has seen the end of the archive has not seen that of
        // the blob.
        arriving.more(u64::MAX).await?;
        let diff_id = &self.diff_ids[number];
        if applied.digest != *diff_id {
            let text = format!("wrong diff id calculated on extraction {:?}", diff_id.as_str());
            return Err(Failure::new(ErrorKind::FailedPrecondition, text).into());
        }
        self.below(number).await;
        self.commit(number, applied, extraction).await?;
        self.unpacker.observer.unpacked(&self.blobs[number]);
        self.done(number);
        let digest = &self.blobs[number].digest;
        self.unpacker.label(digest, UNCOMPRESSED.to_owned(), diff_id.to_string()).await
    }

    /// Prepares for a layer above others that are being unpacked.
    async fn begin(&self, number: usize) -> Result<(Turn, Option<Extraction>), Error> {
        let marks = self.place.snapshots.independent_layers();
        if marks.is_none() {
            self.below(number).await;
        }
        let turn = self.turn(number).await;
        let lower_later = marks.filter(|_| *self.there.borrow() < number);
        Ok((turn, self.prepare(number, lower_later).await?))
    }

    /// Has a worker write the layer, when it is its turn.
    async fn apply(
        &self,
        number: usize,
        extraction: Extraction,
        arriving: &mut Arriving,
    ) -> Result<(Applied, Extraction), Error> {
        let file = arriving.begun().await?;
        let images = &self.unpacker.images;
        let place = images.places.take(arriving).await?;
        let (input, pipe) = input(&file, arriving)?;
        let (killer, guard) = oneshot::channel();
        let guard = Guard(guard);
        let blob = &self.blobs[number];
        let diff_id = self.diff_ids[number].clone();
        let job = Job { diff: images.diff.clone(), blob: blob.clone(), diff_id, extraction, input };
        let mut working = pin!(blocking(move || {
            let _place = place;
            job.run(killer)
        }));
        let fed = tokio::select! {
            // Who does not read to the end will say why.
            done = &mut working => return Ok(done?),
            fed = feed(&file, pipe, arriving.clone(), |offset| {
                self.unpacker.observer.unpacking(blob, offset);
            }) => fed,
        };
        if fed.is_err() {
            drop(guard);
        }
        // The snapshot is the worker's as long as that lives.
        let done = working.await;
        fed?;
        Ok(done?)
    }

    /// Puts a layer on those below it.
    async fn commit(
        &self,
        number: usize,
        applied: Applied,
        extraction: Extraction,
    ) -> Result<(), Error> {
        let parent = self.parent(number);
        let diff = self.unpacker.images.diff.clone();
        let diff_id = self.diff_ids[number].clone();
        let commit = move || {
            if extraction.lower_later.is_some() && !applied.implied.is_empty() {
                let mounts = extraction.mounts_over(&parent)?;
                let settle = Settle { mounts, paths: applied.implied, sync: diff.syncs() };
                let settled = settle.spawn(diff.program()).and_then(|running| running.wait());
                settled.map_err(|error| extracting(&diff_id, &error))?;
            }
            extraction.commit(&parent)
        };
        Ok(blocking(commit).await?)
    }
}

/// Where a worker reads a layer, and where it is fed, unless all of it is there
/// already.
fn input(file: &File, arriving: &Arriving) -> Result<(OwnedFd, Option<PipeWriter>), Failure> {
    let input = match arriving.is_whole() {
        true => file.try_clone().map(|file| (file.into(), None)),
        false => pipe().map(|(reader, writer)| (reader.into(), Some(writer))),
    };
    input.map_err(|error| Failure::io("prepare for a layer", &error))
}

/// One layer on its way into one snapshot.
struct Job {
    diff: Diff,
    blob: Descriptor,
    diff_id: Digest,
    extraction: Extraction,
    input: OwnedFd,
}

impl Job {
    /// Hands the snapshot back, so that nobody removes it before the worker
    /// has ended.
    fn run(self, killer: oneshot::Sender<Killer>) -> Result<(Applied, Extraction), Failure> {
        let Self { diff, blob, diff_id, extraction, input } = self;
        let (mounts, later) = (extraction.mounts.clone(), extraction.lower_later);
        let work = || {
            let layer = diff.layer(input, &blob.media_type, mounts, later)?;
            wait(layer.spawn(diff.program())?, killer)
        };
        let applied = work().map_err(|error| extracting(&diff_id, &error))?;
        Ok((applied, extraction))
    }
}

fn extracting(diff_id: &Digest, error: &davit_diff::Error) -> Failure {
    let text = format!("failed to extract layer {diff_id}: {}", error.full_message());
    Failure::new(error.kind(), text)
}

/// Runs what blocks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|failure| {
        log::error!(failure:%; "a part of a pull did not finish");
        let text = "the pull failed inside the daemon: internal";
        Err(Failure::new(ErrorKind::Internal, text))
    })
}
