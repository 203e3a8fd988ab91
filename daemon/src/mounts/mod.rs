//! Mounts that the daemon makes and keeps for clients, by name: what a client
//! wants mounted before it can mount the rest itself.
//!
//! An activation is a directory of its own below the state directory: its
//! record, and one mount point for each mount that was made. A record is put
//! in place after the last mount, so an activation without one was cut off
//! and is undone at the next start, as is one whose mounts have gone (a
//! reboot). No lock is held while anything is mounted; who wants a name that
//! somebody works on waits for them, within [`TURN_LIMIT`].
//!
//! Inherited from containerd 2.2 (`core/mount/manager`): which mounts are made
//! and which are left to the client, the transformations `format/`, `mkdir/`
//! and `mkfs/` of a mount's type, where they may make files, and the error
//! texts.

mod beneath;
mod error;
mod plan;
mod record;
mod transform;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use davit_types::{Labels, Mount, Namespace};

pub use error::MountError;
use plan::Plan;
use transform::Roots;

/// How long a call waits for another about the same name.
pub const TURN_LIMIT: Duration = Duration::from_secs(60);
/// How many mounts one activation may have (containerd keeps the index in a
/// byte).
pub const MOUNTS_MAX: usize = 255;
/// How many bytes a name may have.
pub const NAME_MAX: usize = 4096;

/// A mount that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveMount {
    /// What was mounted, after transformation.
    pub mount: Mount,
    /// Where.
    pub mount_point: PathBuf,
    /// When.
    pub mounted_at: SystemTime,
}

/// What became of one call of [`Mounts::activate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// Unique within its namespace.
    pub name: String,
    /// The mounts that were made, in order.
    pub active: Vec<ActiveMount>,
    /// What is left for the client to mount, in order.
    pub system: Vec<Mount>,
    /// What the client attached.
    pub labels: Labels,
    /// The lease that holds it.
    pub lease: Option<String>,
}

/// What a client wants mounted.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Unique within the namespace.
    pub name: String,
    /// What, in order; each can be the basis of the next.
    pub mounts: Vec<Mount>,
    /// Kept with it.
    pub labels: Labels,
    /// Make all of them, and leave the client a bind mount of the last.
    pub temporary: bool,
    /// The lease that is to hold it.
    pub lease: Option<String>,
}

type Key = (Namespace, String);

enum Slot {
    /// Somebody works on it.
    Busy,
    Ready {
        directory: PathBuf,
        activation: Activation,
    },
}

/// All activations of the daemon.
pub struct Mounts {
    targets: PathBuf,
    roots: Roots,
    slots: Mutex<BTreeMap<Key, Slot>>,
    settled: Condvar,
}

impl Mounts {
    /// The activations below `directory`, which is made when it is missing.
    /// What a crash or a reboot has left half-way is undone. `mkdir/` and
    /// `mkfs/` may work there and below `root`.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(directory: &Path, root: &Path) -> Result<Self, MountError> {
        let targets = directory.join("t");
        crate::lock::make_directory(&targets, 0o700).map_err(MountError::Directory)?;
        let slots = record::load(&targets)?
            .into_iter()
            .map(|(key, directory, activation)| (key, Slot::Ready { directory, activation }))
            .collect();
        let roots = Roots::new([targets.clone(), root.to_owned()]);
        Ok(Self { targets, roots, slots: Mutex::new(slots), settled: Condvar::new() })
    }

    /// Makes those of the mounts that the client cannot make itself, and all
    /// before them.
    ///
    /// # Errors
    /// [`MountError::NothingToDo`] when the client can make all of them;
    /// [`MountError::AlreadyExists`]; what mounting says. After an error
    /// nothing is mounted.
    pub fn activate(
        &self,
        namespace: &Namespace,
        request: Request,
    ) -> Result<Activation, MountError> {
        if request.name.is_empty() || request.name.len() > NAME_MAX {
            return Err(MountError::Name { length: request.name.len() });
        }
        let plan = Plan::new(request.mounts, request.temporary)?;
        let key = (namespace.clone(), request.name.clone());
        {
            let mut slots = self.turn(&key)?;
            if slots.contains_key(&key) {
                return Err(MountError::AlreadyExists(request.name));
            }
            slots.insert(key.clone(), Slot::Busy);
        }
        let made = record::fresh_directory(&self.targets).and_then(|directory| {
            let result = plan.carry_out(&directory, &self.roots).and_then(|(active, system)| {
                let activation = Activation {
                    name: request.name,
                    active,
                    system,
                    labels: request.labels,
                    lease: request.lease,
                };
                record::save(&directory, namespace, &activation)?;
                Ok(activation)
            });
            if result.is_err() {
                record::undo(&directory);
            }
            Ok((directory, result?))
        });
        let (slot, answer) = match made {
            Ok((directory, activation)) => {
                (Some(Slot::Ready { directory, activation: activation.clone() }), Ok(activation))
            }
            Err(error) => (None, Err(error)),
        };
        self.settle(key, slot);
        answer
    }

    /// Removes what was mounted for `name`. What cannot be unmounted stays
    /// known, and the call can be repeated.
    ///
    /// # Errors
    /// [`MountError::NotFound`]; what unmounting says.
    pub fn deactivate(&self, namespace: &Namespace, name: &str) -> Result<(), MountError> {
        let key = (namespace.clone(), name.to_owned());
        let (directory, activation) = {
            let mut slots = self.turn(&key)?;
            match slots.insert(key.clone(), Slot::Busy) {
                Some(Slot::Ready { directory, activation }) => (directory, activation),
                _ => {
                    slots.remove(&key);
                    return Err(MountError::NotFound(name.to_owned()));
                }
            }
        };
        let result = record::remove(&directory, &activation);
        let slot = result.is_err().then_some(Slot::Ready { directory, activation });
        self.settle(key, slot);
        result
    }

    /// What is known of `name`.
    ///
    /// # Errors
    /// [`MountError::NotFound`].
    pub fn info(&self, namespace: &Namespace, name: &str) -> Result<Activation, MountError> {
        match self.lock().get(&(namespace.clone(), name.to_owned())) {
            Some(Slot::Ready { activation, .. }) => Ok(activation.clone()),
            _ => Err(MountError::NotFound(name.to_owned())),
        }
    }

    /// All of a namespace, by name.
    pub fn list(&self, namespace: &Namespace) -> Vec<Activation> {
        let mut all = self.all();
        all.retain(|(owner, _)| owner == namespace);
        all.into_iter().map(|(_, activation)| activation).collect()
    }

    /// All of all namespaces.
    pub fn all(&self) -> Vec<(Namespace, Activation)> {
        let slots = self.lock();
        let ready = slots.iter().filter_map(|((namespace, _), slot)| match slot {
            Slot::Ready { activation, .. } => Some((namespace.clone(), activation.clone())),
            Slot::Busy => None,
        });
        ready.collect()
    }

    /// Waits until nobody works on `key`.
    fn turn(&self, key: &Key) -> Result<MutexGuard<'_, BTreeMap<Key, Slot>>, MountError> {
        let busy = |slots: &mut BTreeMap<Key, Slot>| matches!(slots.get(key), Some(Slot::Busy));
        let (slots, outcome) = self
            .settled
            .wait_timeout_while(self.lock(), TURN_LIMIT, busy)
            .unwrap_or_else(PoisonError::into_inner);
        if outcome.timed_out() { Err(MountError::Busy(key.1.clone())) } else { Ok(slots) }
    }

    fn settle(&self, key: Key, slot: Option<Slot>) {
        let mut slots = self.lock();
        match slot {
            Some(slot) => slots.insert(key, slot),
            None => slots.remove(&key),
        };
        drop(slots);
        self.settled.notify_all();
    }

    /// The map is changed by single inserts and removals, so a panic elsewhere
    /// leaves it whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
