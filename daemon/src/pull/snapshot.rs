//! The snapshot that a layer is unpacked into.

use std::sync::Arc;

use davit_diff::Whiteouts;
use davit_distribution::pull::Failure;
use davit_events::Exchange;
use davit_index::{Error, LeaseId, Snapshotter};
use davit_protocols::convert::grpc::pack;
use davit_protocols::grpc::containerd::events;
use davit_protocols::topics;
use davit_types::{ErrorKind, Kind, Labels, Mount, Namespace};
use tokio::sync::mpsc;

use super::hold::unique_part;
use crate::services::publish;

/// The label that says which committed snapshot is being made.
const TARGET: &str = "containerd.io/snapshot.ref";
/// Annotations of a layer that its snapshot is labelled with begin with this.
const INHERITED: &str = "containerd.io/snapshot/";
/// How often a name is made up that nobody has.
const NAMES_TRIED: usize = 3;

/// Where snapshots are made, for whom.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) snapshotter: Arc<Snapshotter>,
    pub(super) events: Arc<Exchange>,
    pub(super) namespace: Namespace,
    pub(super) lease: LeaseId,
    /// Held by every snapshot that is being made; when the last is dropped,
    /// everything is tidied up.
    pub(super) _alive: mpsc::Sender<()>,
}

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
}

impl Place {
    /// Makes a snapshot for a layer on `parent`; for one that gets its parent
    /// later when `independent`. `None` when the chain's snapshot is there.
    /// Blocks.
    pub(super) fn prepare(
        &self,
        chain: &str,
        parent: &str,
        independent: bool,
        annotations: &Labels,
    ) -> Result<Option<Extraction>, Failure> {
        let inherited = annotations.iter().filter(|(key, _)| key.starts_with(INHERITED));
        let mut labels: Labels = inherited.map(|(k, v)| (k.clone(), v.clone())).collect();
        labels.insert(TARGET.to_owned(), chain.to_owned());
        let parent = if independent { "" } else { parent };
        let mut key = String::new();
        for _ in 0..NAMES_TRIED {
            key = format!("extract-{} {chain}", unique_part());
            let (namespace, lease) = (&self.namespace, Some(&self.lease));
            match self.snapshotter.prepare(namespace, &key, parent, &labels, lease) {
                Ok(mounts) => {
                    self.tell_prepared(&key, parent);
                    let mut extraction = Extraction {
                        place: self.clone(),
                        key,
                        chain: chain.to_owned(),
                        labels,
                        mounts,
                        lower_later: None,
                        committed: false,
                    };
                    if independent {
                        extraction.lower_later = Some(extraction.whiteouts()?);
                    }
                    return Ok(Some(extraction));
                }
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    let what = format!("failed to prepare extraction snapshot {key:?}");
                    return Err(failed(&what, &error));
                }
                Err(_) if self.exists(chain)? => return Ok(None),
                Err(_) => {}
            }
        }
        let text = format!("unable to prepare extraction snapshot: {key:?}: already exists");
        Err(Failure::new(ErrorKind::AlreadyExists, text))
    }

    fn exists(&self, chain: &str) -> Result<bool, Failure> {
        match self.snapshotter.stat(&self.namespace, chain) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(&format!("failed to stat snapshot {chain}"), &error)),
        }
    }

    fn tell_prepared(&self, key: &str, parent: &str) {
        let event = pack(&events::SnapshotPrepare {
            key: key.to_owned(),
            parent: parent.to_owned(),
            snapshotter: self.snapshotter.name().to_owned(),
        });
        publish(&self.events, &self.namespace, topics::SNAPSHOT_PREPARE, event);
    }
}

impl Extraction {
    /// How this snapshotter's mounts want deletions marked.
    fn whiteouts(&self) -> Result<Whiteouts, Failure> {
        let mounts = self.mounts_over(&self.key)?;
        let user = mounts.iter().flat_map(|mount| &mount.options).any(|o| o == "userxattr");
        Ok(if user { Whiteouts::OverlayUser } else { Whiteouts::Overlay })
    }

    /// What to mount to see it on top of `parent`.
    pub(super) fn mounts_over(&self, parent: &str) -> Result<Vec<Mount>, Failure> {
        let Place { snapshotter, namespace, .. } = &self.place;
        let mounts = snapshotter.mounts_over(namespace, &self.key, parent);
        mounts.map_err(|error| failed("failed to mount extraction snapshot", &error))
    }

    /// Makes it the committed snapshot of its chain, on `parent`. Fine when
    /// somebody else was faster. Blocks.
    pub(super) fn commit(mut self, parent: &str) -> Result<(), Failure> {
        let Place { snapshotter, events, namespace, lease, .. } = &self.place;
        let parent = if self.lower_later.is_some() { parent } else { "" };
        let (key, name) = (&self.key, &self.chain);
        match snapshotter.commit(namespace, name, key, parent, &self.labels, Some(lease)) {
            Ok(()) => {
                let event = pack(&events::SnapshotCommit {
                    key: key.clone(),
                    name: name.clone(),
                    snapshotter: snapshotter.name().to_owned(),
                });
                publish(events, namespace, topics::SNAPSHOT_COMMIT, event);
                self.committed = true;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(failed(&format!("failed to commit snapshot {key}"), &error)),
        }
    }
}

impl Drop for Extraction {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        let (place, key) = (self.place.clone(), std::mem::take(&mut self.key));
        let remove = move || {
            let Place { snapshotter, events, namespace, lease, .. } = &place;
            match snapshotter.remove(namespace, &key, Some(lease)) {
                Ok(()) => {
                    let name = snapshotter.name().to_owned();
                    let event =
                        pack(&events::SnapshotRemove { key: key.clone(), snapshotter: name });
                    publish(events, namespace, topics::SNAPSHOT_REMOVE, event);
                }
                Err(error) => {
                    let error = error.full_message();
                    log::warn!(key = key.as_str(), error = error.as_str(); "a snapshot stays");
                }
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

fn failed(what: &str, error: &Error) -> Failure {
    Failure::new(error.kind(), format!("{what}: {}", error.full_message()))
}
