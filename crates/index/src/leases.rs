//! Leases: what keeps things from being collected while somebody works with
//! them (containerd, `core/metadata/leases.go`).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use davit_types::{Digest, Labels, Namespace};
use rusqlite::{Connection, params};

use crate::adaptors::record_filters;
use crate::objects::Kind;
use crate::references::{Reference, Via};
use crate::time::from_nanos;
use crate::{Error, Index, Result, digests, objects, references};

/// A lease's name: whatever its client chose.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(String);

impl LeaseId {
    /// The lease called `id`, which need not exist.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A lease's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name, unique within the namespace.
    pub id: LeaseId,
    /// When it was made.
    pub created_at: SystemTime,
    /// What clients attached; `containerd.io/gc.expire` ends it.
    pub labels: Labels,
}

/// What a lease holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// Its name among its kind: a digest, a key, a ref.
    pub id: String,
    /// `content`, `ingests`, `images` or `snapshots/SNAPSHOTTER`.
    pub kind: String,
}

/// The leases that somebody in this process lives for, and for how many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pins(Arc<Mutex<HashMap<Pinned, usize>>>);

type Pinned = (Namespace, LeaseId);

/// Keeps a lease from ending by itself, whatever the clock says, while this
/// lives. It can be deleted all the same.
#[derive(Debug)]
pub struct Pin {
    pins: Pins,
    lease: Pinned,
}

impl Pins {
    fn held(&self) -> MutexGuard<'_, HashMap<Pinned, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows of those leases.
    pub(crate) fn rows(&self, connection: &Connection) -> Result<Vec<i64>> {
        let all: Vec<Pinned> = self.held().keys().cloned().collect();
        let row = |(namespace, id): Pinned| {
            objects::find(connection, &namespace, Kind::Lease, id.as_str()).transpose()
        };
        all.into_iter().filter_map(row).collect()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut held = self.pins.held();
        if let Some(count) = held.get_mut(&self.lease) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.lease);
            }
        }
    }
}

/// The leases of all namespaces.
#[derive(Clone, Copy, Debug)]
pub struct Leases<'a> {
    pub(crate) index: &'a Index,
}

impl Leases<'_> {
    /// Adds a lease.
    pub fn create(&self, namespace: &Namespace, id: &LeaseId, labels: &Labels) -> Result<Lease> {
        if id.as_str().is_empty() {
            return Err(Error::Unknown("lease id must be provided".into()));
        }
        let (namespace, id, mut labels) = (namespace.clone(), id.clone(), labels.clone());
        self.index.change(move |connection| {
            let now = SystemTime::now();
            let object = objects::insert(connection, &namespace, Kind::Lease, id.as_str(), now)?
                .ok_or_else(|| Error::AlreadyExists(format!("lease {:?}", id.as_str())))?;
            objects::describe(connection, object, Kind::Lease, &mut labels, &[])?;
            Ok(Lease { id, created_at: now, labels })
        })
    }

    /// Keeps a lease, which need not exist, from ending by itself.
    pub fn pin(&self, namespace: &Namespace, id: &LeaseId) -> Pin {
        let (pins, lease) = (self.index.pins.clone(), (namespace.clone(), id.clone()));
        *pins.held().entry(lease.clone()).or_default() += 1;
        Pin { pins, lease }
    }

    /// Replaces a lease's labels: puts off its end, for instance.
    pub fn update(&self, namespace: &Namespace, id: &LeaseId, labels: &Labels) -> Result<()> {
        let (namespace, id, mut labels) = (namespace.clone(), id.clone(), labels.clone());
        self.index.change(move |connection| {
            let lease = objects::find(connection, &namespace, Kind::Lease, id.as_str())?
                .ok_or_else(|| missing(&id))?;
            objects::describe(connection, lease, Kind::Lease, &mut labels, &[])
        })
    }

    /// Deletes a lease; what it alone held can be collected from then on.
    pub fn delete(&self, namespace: &Namespace, id: &LeaseId) -> Result<()> {
        let (namespace, id) = (namespace.clone(), id.clone());
        self.index.loosen(move |connection| {
            if objects::delete(connection, &namespace, Kind::Lease, id.as_str())? {
                Ok(())
            } else {
                Err(missing(&id))
            }
        })
    }

    /// Those that any of `filters` matches, all when there is none, by id.
    pub fn list(&self, namespace: &Namespace, filters: &[String]) -> Result<Vec<Lease>> {
        let filters = record_filters(filters)?;
        self.index.look(|connection| {
            let mut labels = objects::all_labels(connection, namespace, Kind::Lease)?;
            let mut statement = connection.prepare_cached(
                "SELECT id, key, created FROM objects WHERE namespace = ?1 AND kind = ?2
                 ORDER BY key",
            )?;
            let mut rows = statement.query(params![namespace.as_str(), Kind::Lease.as_str()])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let lease = Lease {
                    id: LeaseId(row.get(1)?),
                    created_at: from_nanos(row.get(2)?),
                    labels: labels.remove(&row.get(0)?).unwrap_or_default(),
                };
                if filters.matches(&lease) {
                    found.push(lease);
                }
            }
            Ok(found)
        })
    }

    /// Makes a lease hold `resource`, which need not exist yet.
    pub fn add_resource(
        &self,
        namespace: &Namespace,
        id: &LeaseId,
        resource: &Resource,
    ) -> Result<()> {
        let (namespace, id, resource) = (namespace.clone(), id.clone(), resource.clone());
        self.index.change(move |connection| {
            let (lease, via) = find(connection, &namespace, &id)?.ok_or_else(|| missing(&id))?;
            let (kind, key) = target(&resource)?;
            objects::refer(connection, lease, &Reference { kind, key, via })
        })
    }

    /// Makes a lease let go of `resource`.
    pub fn delete_resource(
        &self,
        namespace: &Namespace,
        id: &LeaseId,
        resource: &Resource,
    ) -> Result<()> {
        let (namespace, id, resource) = (namespace.clone(), id.clone(), resource.clone());
        self.index.loosen(move |connection| {
            find(connection, &namespace, &id)?.ok_or_else(|| missing(&id))?;
            let (kind, key) = target(&resource)?;
            release(connection, &namespace, Some(&id), kind, &key)
        })
    }

    /// What a lease holds: content, then images, ingests and snapshots.
    pub fn list_resources(&self, namespace: &Namespace, id: &LeaseId) -> Result<Vec<Resource>> {
        self.index.look(|connection| {
            let (lease, _) = find(connection, namespace, id)?.ok_or_else(|| missing(id))?;
            let mut statement = connection
                .prepare_cached("SELECT kind, key FROM refs WHERE source = ?1 ORDER BY 1, 2")?;
            let resources = statement.query_map([lease], |row| {
                let (kind, key): (String, String) = (row.get(0)?, row.get(1)?);
                Ok(match kind.as_str() {
                    "content" => Resource { id: key, kind },
                    "snapshot" => {
                        let (snapshotter, key) = key.split_once('/').unwrap_or_default();
                        Resource { id: key.to_owned(), kind: format!("snapshots/{snapshotter}") }
                    }
                    _ => Resource { id: key, kind: format!("{kind}s") },
                })
            })?;
            Ok(resources.collect::<rusqlite::Result<_>>()?)
        })
    }
}

fn missing(id: &LeaseId) -> Error {
    Error::NotFound(format!("lease {:?}", id.as_str()))
}

/// A lease's row, and how far its references reach.
fn find(
    connection: &Connection,
    namespace: &Namespace,
    id: &LeaseId,
) -> Result<Option<(i64, Via)>> {
    let Some(lease) = objects::find(connection, namespace, Kind::Lease, id.as_str())? else {
        return Ok(None);
    };
    let labels = objects::labels(connection, lease)?;
    Ok(Some((lease, if references::is_flat(&labels) { Via::Flat } else { Via::Lease })))
}

/// The lease that a call came with, as [`find`] tells of it.
///
/// # Errors
/// `NotFound` when it does not exist.
pub(crate) fn require(
    connection: &Connection,
    namespace: &Namespace,
    id: &LeaseId,
) -> Result<(i64, Via)> {
    find(connection, namespace, id)?.ok_or_else(|| Error::NotFound("lease does not exist".into()))
}

/// Makes `lease`, if there is one, hold a thing that need not exist yet;
/// whether there is one.
///
/// # Errors
/// `NotFound` when the lease that was named does not exist.
pub(crate) fn hold(
    connection: &Connection,
    namespace: &Namespace,
    lease: Option<&LeaseId>,
    kind: Kind,
    key: &str,
) -> Result<bool> {
    let Some(id) = lease else { return Ok(false) };
    let (lease, via) = require(connection, namespace, id)?;
    objects::refer(connection, lease, &Reference { kind, key: key.to_owned(), via })?;
    Ok(true)
}

/// Makes `lease`, if there is one, let go of a thing.
pub(crate) fn release(
    connection: &Connection,
    namespace: &Namespace,
    lease: Option<&LeaseId>,
    kind: Kind,
    key: &str,
) -> Result<()> {
    let Some(id) = lease else { return Ok(()) };
    connection
        .prepare_cached(
            "DELETE FROM refs WHERE kind = ?3 AND key = ?4 AND source = (
                 SELECT id FROM objects WHERE namespace = ?1 AND kind = 'lease' AND key = ?2)",
        )?
        .execute(params![namespace.as_str(), id.as_str(), kind.as_str(), key])?;
    Ok(())
}

/// What a resource of the API is in the index.
fn target(resource: &Resource) -> Result<(Kind, String)> {
    let (id, words) = (&resource.id, &resource.kind);
    let mut parts = words.split('/');
    let (first, second, more) = (parts.next(), parts.next(), parts.next().is_some());
    let plain = match first.unwrap_or_default() {
        "content" => Kind::Content,
        "ingests" => Kind::Ingest,
        "images" => Kind::Image,
        "snapshots" => {
            return match second {
                Some(snapshotter) if !more => Ok((Kind::Snapshot, format!("{snapshotter}/{id}"))),
                _ => Err(Error::InvalidArgument(format!("invalid snapshot resource type {words}"))),
            };
        }
        _ => return Err(Error::Unimplemented(format!("resource type {words} not supported yet"))),
    };
    if second.is_some() {
        return Err(Error::InvalidArgument(format!("invalid resource type {words}")));
    }
    if plain == Kind::Content && id.parse::<Digest>().is_err() {
        let fault = digests::fault(id);
        return Err(Error::InvalidArgument(format!("invalid content resource id {id}: {fault}")));
    }
    Ok((plain, id.clone()))
}
