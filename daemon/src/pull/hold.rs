//! What holds the things that a pull makes until they are whole.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use davit_index::{Index, LeaseId, Pin};
use davit_types::{Kind, Labels, Namespace};
use jiff::Timestamp;
use tokio::task::AbortHandle;
use tonic::Status;

use crate::services::blocking;

/// How long a lease lasts that is not put off any more: a pull that failed
/// can be gone on with for so long, and so long a daemon that was killed
/// leaks. containerd's lasts a day.
pub const LIFETIME: Duration = Duration::from_secs(600);

/// How often it is put off.
const RENEWAL: Duration = Duration::from_secs(180);

const EXPIRE: &str = "containerd.io/gc.expire";

/// A lease that lives as long as this does, and [`LIFETIME`] longer.
#[derive(Debug)]
pub struct Hold {
    index: Arc<Index>,
    namespace: Namespace,
    id: LeaseId,
    /// `None` for the caller's own lease.
    living: Option<Living>,
}

/// What keeps a lease while we live: it is put off on disk, for a daemon that
/// is started after us, and does not end by a clock that was set or went on
/// while the machine slept.
#[derive(Debug)]
struct Living {
    renewing: AbortHandle,
    _pin: Pin,
}

impl Hold {
    /// Takes a lease, unless the caller has brought one.
    ///
    /// # Errors
    /// The index cannot be written.
    pub async fn take(
        index: &Arc<Index>,
        namespace: &Namespace,
        given: Option<LeaseId>,
    ) -> Result<Self, Status> {
        let (index, namespace) = (Arc::clone(index), namespace.clone());
        if let Some(id) = given {
            return Ok(Self { index, namespace, id, living: None });
        }
        let id = unique();
        let pin = index.leases().pin(&namespace, &id);
        {
            let (index, namespace, id) = (Arc::clone(&index), namespace.clone(), id.clone());
            blocking(move || index.leases().create(&namespace, &id, &labels())).await?;
        }
        let renewing = tokio::spawn(renew(Arc::clone(&index), namespace.clone(), id.clone()));
        let living = Some(Living { renewing: renewing.abort_handle(), _pin: pin });
        Ok(Self { index, namespace, id, living })
    }

    /// The lease itself.
    pub fn id(&self) -> &LeaseId {
        &self.id
    }

    /// Ends it, because all that it held is held by something else now.
    ///
    /// # Errors
    /// The index cannot be written; the lease then ends by itself.
    pub async fn end(self) -> Result<(), Status> {
        if self.living.is_none() {
            return Ok(());
        }
        let (index, namespace, id) =
            (Arc::clone(&self.index), self.namespace.clone(), self.id.clone());
        blocking(move || index.leases().delete(&namespace, &id)).await
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

async fn renew(index: Arc<Index>, namespace: Namespace, id: LeaseId) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        let (index, namespace, lease) = (Arc::clone(&index), namespace.clone(), id.clone());
        let renewed = tokio::task::spawn_blocking(move || {
            index.leases().update(&namespace, &lease, &labels())
        });
        if let Ok(Err(error)) = renewed.await {
            let error = error.full_message();
            log::warn!(lease = id.as_str(), error = error.as_str(); "a lease is not put off");
        }
    }
}

fn labels() -> Labels {
    Labels::from([(EXPIRE.to_owned(), (Timestamp::now() + LIFETIME).to_string())])
}

/// A name that nobody has: the nanoseconds of the second and random bits, as
/// containerd makes it.
pub(super) fn unique_part() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let random = RandomState::new().hash_one(now.as_nanos());
    let digit = |shift: u32| char::from(ALPHABET[((random >> shift) & 63) as usize]);
    let random: String = [18, 12, 6, 0].into_iter().map(digit).collect();
    format!("{}-{random}", now.subsec_nanos())
}

fn unique() -> LeaseId {
    LeaseId::new(unique_part())
}
