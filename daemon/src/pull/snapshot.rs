//! The snapshot that a layer is unpacked into.

use davit_diff::Whiteouts;
use davit_distribution::pull::Failure;
use davit_types::{ErrorKind, Kind, Labels, Mount};
use tokio::sync::mpsc;

use super::hold::unique_part;
use super::place::Place;

/// The label that says which committed snapshot is being made.
const TARGET: &str = "containerd.io/snapshot.ref";
/// Annotations of a layer that its snapshot is labelled with begin with this.
const INHERITED: &str = "containerd.io/snapshot/";
/// How often a name is made up that nobody has.
const NAMES_TRIED: usize = 3;

/// An active snapshot that becomes the chain's committed one. Removed when it
/// is dropped before.
pub(super) struct Extraction {
    place: Place,
    key: String,
    chain: String,
    labels: Labels,
    /// Where to write.
    pub(super) mounts: Vec<Mount>,
    /// How deletions are marked, when it has yet to be put on its parent.
    pub(super) lower_later: Option<Whiteouts>,
    committed: bool,
    /// When the last is dropped, everything is tidied up.
    alive: mpsc::Sender<()>,
}

/// What a layer's snapshot is to be.
pub(super) struct New {
    /// The committed snapshot that it becomes.
    pub(super) chain: String,
    /// The one below, or nothing.
    pub(super) parent: String,
    /// Set when it gets its parent when it is committed: how deletions are
    /// marked.
    pub(super) lower_later: Option<Whiteouts>,
    /// What is said of the layer.
    pub(super) annotations: Labels,
}

impl New {
    /// Makes it; `None` when the chain's snapshot is there. Blocks.
    pub(super) fn make(
        self,
        place: Place,
        alive: mpsc::Sender<()>,
    ) -> Result<Option<Extraction>, Failure> {
        let Self { chain, parent, lower_later, annotations } = self;
        let inherited = annotations.into_iter().filter(|(key, _)| key.starts_with(INHERITED));
        let mut labels: Labels = inherited.collect();
        labels.insert(TARGET.to_owned(), chain.clone());
        let parent = if lower_later.is_some() { "" } else { parent.as_str() };
        let mut key = String::new();
        for _ in 0..NAMES_TRIED {
            key = format!("extract-{} {chain}", unique_part());
            match place.prepare(&key, parent, &labels) {
                Ok(mounts) => {
                    let committed = false;
                    return Ok(Some(Extraction {
                        place,
                        key,
                        chain,
                        labels,
                        mounts,
                        lower_later,
                        committed,
                        alive,
                    }));
                }
                Err(failure) if failure.kind() != ErrorKind::AlreadyExists => {
                    let what = format!("failed to prepare extraction snapshot {key:?}");
                    return Err(failed(&what, &failure));
                }
                Err(_) => {}
            }
            let there = place.exists(&chain);
            if there.map_err(|error| failed(&format!("failed to stat snapshot {chain}"), &error))? {
                return Ok(None);
            }
        }
        let text = format!("unable to prepare extraction snapshot: {key:?}: already exists");
        Err(Failure::new(ErrorKind::AlreadyExists, text))
    }
}

impl Extraction {
    /// What to mount to see it on top of `parent`.
    pub(super) fn mounts_over(&self, parent: &str) -> Result<Vec<Mount>, Failure> {
        let mounts = self.place.mounts_over(&self.key, parent);
        mounts.map_err(|error| failed("failed to mount extraction snapshot", &error))
    }

    /// Makes it the committed snapshot of its chain, on `parent`. Fine when
    /// somebody else was faster. Blocks.
    pub(super) fn commit(mut self, parent: &str) -> Result<(), Failure> {
        let parent = if self.lower_later.is_some() { parent } else { "" };
        match self.place.commit(&self.chain, &self.key, parent, &self.labels) {
            Ok(()) => {
                self.committed = true;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(failed(&format!("failed to commit snapshot {}", self.key), &error)),
        }
    }
}

impl Drop for Extraction {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        let (place, key) = (self.place.clone(), std::mem::take(&mut self.key));
        let alive = self.alive.clone();
        let remove = move || {
            if let Err(failure) = place.remove(&key) {
                log::warn!(key = key.as_str(), failure:%; "a snapshot that was given up stays");
            }
            drop(alive);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

fn failed(what: &str, error: &Failure) -> Failure {
    Failure::new(error.kind(), format!("{what}: {error}"))
}
