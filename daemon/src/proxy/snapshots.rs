//! A snapshotter that runs elsewhere, as a namespace sees it.
//!
//! The index knows who has what and what the snapshotter calls it; the
//! snapshotter knows the rest. A snapshot is made before a row speaks of it,
//! and removed after the row has gone ([`super::sweep`]).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use davit_index::{LeaseId, NewRemote, RemoteSnapshot, RemoteSnapshots, SnapshotInfo, Wanted};
use davit_protocols::error::RemoteError;
use davit_snapshots::{SnapshotKind, Usage};
use davit_types::{ErrorKind, Kind, Labels, Mount, Namespace};
use tokio::sync::{Notify, Semaphore};

use super::Error;
use super::claims::Claims;
use super::link::Link;
use super::remote::Remote;

/// The label by which a snapshotter says which layer a snapshot is.
const TARGET: &str = "containerd.io/snapshot.ref";

/// How often a snapshot is asked for again because the layer that was there
/// already has gone since.
const TRIES: usize = 3;

/// Threads that wait for one snapshotter at a time.
pub const BLOCKED_MAX: usize = 4;

/// What a new snapshot is to be.
#[derive(Clone, Debug)]
pub struct Creation {
    /// Whose.
    pub namespace: Namespace,
    /// Its name.
    pub key: String,
    /// Its parent's name, or empty.
    pub parent: String,
    /// `View` or `Active`.
    pub kind: SnapshotKind,
    /// What the client attaches.
    pub labels: Labels,
    /// What is to hold it.
    pub lease: Option<LeaseId>,
}

/// One snapshotter that runs elsewhere.
#[derive(Debug)]
pub struct Snapshotter {
    pub(super) rows: RemoteSnapshots,
    pub(super) remote: Remote,
    pub(super) claims: Claims,
    /// Where there may be something to remove.
    pub(super) unswept: Mutex<BTreeSet<Namespace>>,
    pub(super) swept_for: Notify,
    blocked: Semaphore,
}

impl Snapshotter {
    pub(super) fn new(rows: RemoteSnapshots, link: Link) -> Self {
        Self {
            rows,
            remote: Remote::new(link),
            claims: Claims::default(),
            unswept: Mutex::default(),
            swept_for: Notify::new(),
            blocked: Semaphore::new(BLOCKED_MAX),
        }
    }

    /// The snapshotter's name.
    pub fn name(&self) -> &str {
        self.rows.name()
    }

    /// Makes a snapshot and answers its mounts; `then` is called when it is
    /// made. Goes on to its end although the caller may go away.
    ///
    /// # Errors
    /// `AlreadyExists` when there is a snapshot of that name, or the layer is
    /// there that the label `containerd.io/snapshot.ref` names: the
    /// snapshotter may have got it by itself. It is then held by the lease
    /// all the same.
    pub async fn create(
        self: &Arc<Self>,
        creation: Creation,
        then: impl FnOnce() + Send + 'static,
    ) -> Result<Vec<Mount>, Error> {
        let this = Arc::clone(self);
        detached(async move {
            let mounts = this.create_whole(creation).await?;
            then();
            Ok(mounts)
        })
        .await
    }

    async fn create_whole(&self, creation: Creation) -> Result<Vec<Mount>, Error> {
        for _ in 0..TRIES {
            let wanted = self.begin(&creation).await?;
            // Nobody takes it for a remnant before the row is there.
            let _claim = self.claims.claim(&wanted.remote).await;
            let made = self.remote.create(&creation.namespace, creation.kind, &wanted).await;
            let refusal = match made {
                Ok(mounts) => {
                    let added = self.add(&creation, new_row(&creation, &wanted)).await;
                    if added.is_err() {
                        self.request_sweep(creation.namespace.clone());
                    }
                    return added.map(|()| mounts);
                }
                Err(Error::Remote(refusal)) if refusal.kind == ErrorKind::AlreadyExists => refusal,
                Err(error) => return Err(error),
            };
            if wanted.target.is_empty() {
                return Err(Error::Unexpected(refusal));
            }
            if self.adopt(&creation, &wanted).await? {
                let text = format!("target snapshot {:?} from snapshotter", wanted.target);
                return Err(davit_index::Error::AlreadyExists(text).into());
            }
        }
        let text = format!("target snapshot of {:?} in backend", creation.key);
        Err(davit_index::Error::NotFound(text).into())
    }

    /// Adds the row of a layer that the snapshotter had already; false when
    /// it has gone meanwhile.
    async fn adopt(&self, creation: &Creation, wanted: &Wanted) -> Result<bool, Error> {
        let Some(found) = self.find_target(&creation.namespace, wanted).await? else {
            let text = format!("target snapshot {:?} in backend", wanted.target);
            return Err(davit_index::Error::NotFound(text).into());
        };
        let _claim = self.claims.claim(&found.name).await;
        match self.remote.stat(&creation.namespace, found.name.clone()).await {
            Err(error) if error.answered() == Some(ErrorKind::NotFound) => return Ok(false),
            other => other.map(drop)?,
        }
        let mut labels = found.labels;
        labels.extend(creation.labels.clone());
        let row = NewRemote {
            key: wanted.target.clone(),
            parent: creation.parent.clone(),
            kind: SnapshotKind::Committed,
            labels,
            remote: found.name,
            remote_parent: found.parent,
            created_at: found.created_at,
            updated_at: found.updated_at,
        };
        match self.add(creation, row).await {
            // Somebody else was told of it, too.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(true),
            other => other.map(|()| true),
        }
    }

    /// The committed snapshot that the snapshotter takes for the target. It
    /// may not understand the filter.
    async fn find_target(
        &self,
        namespace: &Namespace,
        wanted: &Wanted,
    ) -> Result<Option<SnapshotInfo>, Error> {
        let Wanted { target, remote_parent, .. } = wanted;
        let filter = format!("labels.{TARGET:?}=={target},parent=={remote_parent:?}");
        let infos = self.remote.list(namespace, vec![filter]).await?;
        Ok(infos.into_iter().find(|info| {
            info.kind == SnapshotKind::Committed
                && info.labels.get(TARGET) == Some(target)
                && info.parent == *remote_parent
        }))
    }

    async fn begin(&self, creation: &Creation) -> Result<Wanted, Error> {
        let Creation { namespace, key, parent, labels, lease, .. } = creation.clone();
        let rows = self.rows.clone();
        index(move || rows.begin(&namespace, &key, &parent, &labels, lease.as_ref())).await
    }

    async fn add(&self, creation: &Creation, row: NewRemote) -> Result<(), Error> {
        let (namespace, lease) = (creation.namespace.clone(), creation.lease.clone());
        let rows = self.rows.clone();
        index(move || rows.add(&namespace, row, lease.as_ref())).await
    }

    /// Makes the active snapshot `key` the committed snapshot `name`; `parent`
    /// (or empty) becomes the parent of one that had none. `then` is called
    /// when it is made. Goes on to its end although the caller may go away.
    ///
    /// # Errors
    /// Those of the index and of the snapshotter.
    pub async fn commit(
        self: &Arc<Self>,
        namespace: Namespace,
        (name, key, parent): (String, String, String),
        labels: Labels,
        lease: Option<LeaseId>,
        then: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        let this = Arc::clone(self);
        detached(async move {
            // Of several who commit to the same name, one does: what was
            // committed there cannot be made active again.
            let _turn = this.claims.claim(&format!("{namespace}:{name}")).await;
            let names = Arc::new((name, key, parent));
            let begun = {
                let (rows, namespace) = (this.rows.clone(), namespace.clone());
                let (names, labels, lease) = (Arc::clone(&names), labels.clone(), lease.clone());
                index(move || {
                    rows.begin_commit(&namespace, borrowed(&names), &labels, lease.as_ref())
                })
            };
            let commit = begun.await?;
            let remote = commit.to.clone();
            let _claim = this.claims.claim(&remote).await;
            this.remote.commit(&namespace, commit).await?;
            let rows = this.rows.clone();
            index(move || {
                let lease = lease.as_ref();
                rows.finish_commit(&namespace, borrowed(&names), &remote, &labels, lease)
            })
            .await?;
            then();
            Ok(())
        })
        .await
    }

    /// What to mount to see an active snapshot or a view.
    ///
    /// # Errors
    /// Those of the index and of the snapshotter.
    pub async fn mounts(&self, namespace: &Namespace, key: &str) -> Result<Vec<Mount>, Error> {
        let known = self.find(namespace, key).await?;
        self.remote.mounts(namespace, known.remote).await
    }

    /// As [`mounts`](Self::mounts), for a thread that may block. At most
    /// [`BLOCKED_MAX`] threads wait for one snapshotter.
    ///
    /// # Errors
    /// `Unavailable` when as many threads wait already.
    pub fn mounts_blocking(&self, namespace: &Namespace, key: &str) -> Result<Vec<Mount>, Error> {
        let Ok(_turn) = self.blocked.try_acquire() else {
            let message = format!("snapshotter {:?} keeps too many waiting", self.name());
            return Err(Error::Remote(RemoteError { kind: ErrorKind::Unavailable, message }));
        };
        tokio::runtime::Handle::current().block_on(self.mounts(namespace, key))
    }

    /// The space that a snapshot takes by itself.
    ///
    /// # Errors
    /// Those of the index and of the snapshotter.
    pub async fn usage(&self, namespace: &Namespace, key: &str) -> Result<Usage, Error> {
        let known = self.find(namespace, key).await?;
        self.remote.usage(namespace, known.remote).await
    }

    /// What is known of a snapshot.
    ///
    /// # Errors
    /// Those of the index and of the snapshotter.
    pub async fn stat(&self, namespace: &Namespace, key: &str) -> Result<SnapshotInfo, Error> {
        let known = self.find(namespace, key).await?;
        let there = self.remote.stat(namespace, known.remote).await?;
        Ok(together(known.info, there))
    }

    /// Replaces a snapshot's labels; with `paths` (`labels`, `labels.KEY`)
    /// those named alone. Answers the result.
    ///
    /// # Errors
    /// Those of the index and of the snapshotter.
    pub async fn update(
        &self,
        namespace: &Namespace,
        key: String,
        labels: Labels,
        paths: Vec<String>,
    ) -> Result<SnapshotInfo, Error> {
        let wanted = Arc::new((namespace.clone(), key, labels, paths));
        let (rows, this) = (self.rows.clone(), Arc::clone(&wanted));
        let begun = index(move || rows.begin_update(&this.0, &this.1, &this.2, &this.3));
        let (remote, inherited) = begun.await?;
        let there = self.remote.update(namespace, remote, inherited, wanted.3.clone()).await?;
        let rows = self.rows.clone();
        let finished =
            index(move || rows.finish_update(&wanted.0, &wanted.1, &wanted.2, &wanted.3));
        Ok(together(finished.await?, there))
    }

    /// Those that any of `filters` matches, all when there is none, by name.
    ///
    /// # Errors
    /// Those of the index and of the snapshotter.
    pub async fn list(
        &self,
        namespace: &Namespace,
        filters: Vec<String>,
    ) -> Result<Vec<SnapshotInfo>, Error> {
        let (rows, owner) = (self.rows.clone(), namespace.clone());
        // Nothing to ask about, and so nobody to wait for.
        if index(move || rows.list(&owner, &[], |known| Some(known.info))).await?.is_empty() {
            return Ok(Vec::new());
        }
        let there = self.remote.list(namespace, Vec::new()).await?;
        let there: HashMap<String, SnapshotInfo> =
            there.into_iter().map(|info| (info.name.clone(), info)).collect();
        let (rows, namespace) = (self.rows.clone(), namespace.clone());
        index(move || {
            rows.list(&namespace, &filters, |RemoteSnapshot { info, remote }| {
                Some(together(info, there.get(&remote)?.clone()))
            })
        })
        .await
    }

    /// Removes a snapshot, which must have no children. `then` is called when
    /// nobody sees it any more; the snapshotter is told afterwards.
    ///
    /// # Errors
    /// Those of the index.
    pub async fn remove(
        &self,
        namespace: Namespace,
        key: String,
        lease: Option<LeaseId>,
        then: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        let (rows, owner) = (self.rows.clone(), namespace.clone());
        index(move || {
            rows.remove(&owner, &key, lease.as_ref())?;
            then();
            Ok(())
        })
        .await?;
        self.request_sweep(namespace);
        Ok(())
    }

    /// Says that the snapshotter may have something of `namespace` that no
    /// row speaks of.
    pub(super) fn request_sweep(&self, namespace: Namespace) {
        self.unswept.lock().unwrap_or_else(PoisonError::into_inner).insert(namespace);
        self.swept_for.notify_one();
    }

    async fn find(&self, namespace: &Namespace, key: &str) -> Result<RemoteSnapshot, Error> {
        let (rows, namespace, key) = (self.rows.clone(), namespace.clone(), key.to_owned());
        index(move || rows.find(&namespace, &key)).await
    }
}

fn borrowed(names: &(String, String, String)) -> (&str, &str, &str) {
    (&names.0, &names.1, &names.2)
}

fn new_row(creation: &Creation, wanted: &Wanted) -> NewRemote {
    let now = std::time::SystemTime::now();
    NewRemote {
        key: creation.key.clone(),
        parent: creation.parent.clone(),
        kind: creation.kind,
        labels: creation.labels.clone(),
        remote: wanted.remote.clone(),
        remote_parent: wanted.remote_parent.clone(),
        created_at: now,
        updated_at: now,
    }
}

/// What the index and the snapshotter know together; the client's labels win.
fn together(known: SnapshotInfo, there: SnapshotInfo) -> SnapshotInfo {
    let mut labels = there.labels;
    labels.extend(known.labels);
    SnapshotInfo { labels, kind: there.kind, ..known }
}

/// Looks into the index, where blocking is allowed.
pub(super) async fn index<T: Send + 'static>(
    work: impl FnOnce() -> davit_index::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| Error::Inside)?;
    Ok(done?)
}

/// Runs `work` to its end, whatever becomes of the caller.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.map_err(|_| Error::Inside)?
}
