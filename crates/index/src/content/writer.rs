//! Writing content: the namespace's half of an ingest.

use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

use davit_content::{Backend, BackendWriter, IngestStatus};
use davit_types::{Algorithm, Digest, ErrorKind, Kind as _, Labels, Namespace};
use rusqlite::{Connection, params};

use super::{
    ContentInfo, ContentStore, INGEST_LIFETIME, IngestBytes, IngestRow, Sharing, WriterRequest,
    find_ingest, forget_ingest, is_away, is_shared, recorded_size,
};
use crate::objects::{self, Kind, validate_labels};
use crate::references::{Reference, Via};
use crate::time::to_nanos;
use crate::{Error, LeaseId, Result, digests, leases};

/// An ingest that is being written. Dropping it keeps the bytes for a later
/// writer of the same reference.
#[derive(Debug)]
pub struct ContentWriter {
    store: Arc<ContentStore>,
    namespace: Namespace,
    reference: String,
    stored_reference: String,
    lease: Option<LeaseId>,
    bytes: Bytes,
}

/// Where a writer's bytes are.
#[derive(Debug)]
enum Bytes {
    /// In an ingest of the blob store.
    Own(Box<dyn BackendWriter>),
    /// In a blob of another namespace, until something is written.
    Shared(SharedBlob),
}

#[derive(Clone, Debug)]
struct SharedBlob {
    digest: Digest,
    size: u64,
    started_at: SystemTime,
}

/// What the store has of the blob that a request expects.
enum Found {
    /// No file, and nobody who should have one.
    Nothing,
    /// One of the size that is expected.
    Whole(SharedBlob),
    /// One of another size than the request says.
    Other,
    /// Less than those had who have it, or nothing at all: power was lost, or
    /// a file system repaired.
    Damaged,
}

/// What the index says to a request for a writer.
enum Opened {
    /// The namespace has the blob.
    Exists,
    Ingest {
        stored_reference: String,
        /// Whether the row is new.
        fresh: bool,
        shared: bool,
        /// The blob that it shared before, and does no more.
        left: Option<String>,
    },
}

impl ContentStore {
    /// Begins an ingest, or goes on with it.
    ///
    /// # Errors
    /// `AlreadyExists` when the namespace has the blob; it is then held by
    /// `lease` all the same. `Unavailable` when somebody else writes to it.
    pub fn writer(
        self: &Arc<Self>,
        namespace: &Namespace,
        request: WriterRequest,
        lease: Option<&LeaseId>,
    ) -> Result<ContentWriter> {
        if request.reference.is_empty() {
            return Err(Error::InvalidArgument("ref must not be empty".into()));
        }
        let busy = request.expected.as_ref().map(|digest| self.pending.enter(digest));
        let found = self.look_for(&request)?;
        let opened = self.open_ingest(namespace, &request, &found, lease)?;
        // From here on, the row keeps a blob that is shared.
        drop(busy);
        let (stored_reference, fresh, shared) = match (opened, &request.expected) {
            (Opened::Ingest { stored_reference, fresh, shared, left }, _) => {
                if let Some(left) = left {
                    self.forget_bytes(&digests::stored(&left)?);
                }
                (stored_reference, fresh, shared)
            }
            (Opened::Exists, Some(digest)) => {
                return Err(Error::AlreadyExists(format!("content {digest}")));
            }
            (Opened::Exists, None) => return Err(Error::AlreadyExists("content".into())),
        };
        let bytes = match found {
            Found::Whole(blob) if shared => Bytes::Shared(blob),
            _ => {
                let opened = open_bytes(self.backend.as_ref(), &stored_reference, &request);
                if opened.is_err() && fresh {
                    self.forget(namespace, &request.reference, lease);
                }
                Bytes::Own(opened?)
            }
        };
        Ok(ContentWriter {
            store: Arc::clone(self),
            namespace: namespace.clone(),
            reference: request.reference,
            stored_reference,
            lease: lease.cloned(),
            bytes,
        })
    }

    /// Looks whether the store has the blob that the request expects, and
    /// whether that is as long as those know who have it.
    fn look_for(&self, request: &WriterRequest) -> Result<Found> {
        let Some(digest) = &request.expected else { return Ok(Found::Nothing) };
        let recorded = self.index.look(|connection| recorded_size(connection, digest))?;
        let blob = match self.backend.info(digest) {
            Ok(blob) => blob,
            // It may have the blob.
            Err(error) if is_away(error.kind()) => return Err(error.into()),
            Err(_) => {
                return Ok(if recorded.is_some() { Found::Damaged } else { Found::Nothing });
            }
        };
        if recorded.is_some_and(|recorded| recorded != blob.size) {
            return Ok(Found::Damaged);
        }
        let fits = request.total == 0 || request.total == blob.size;
        let (digest, size, started_at) = (digest.clone(), blob.size, SystemTime::now());
        let whole = Found::Whole(SharedBlob { digest, size, started_at });
        Ok(if fits { whole } else { Found::Other })
    }

    fn open_ingest(
        &self,
        namespace: &Namespace,
        request: &WriterRequest,
        found: &Found,
        lease: Option<&LeaseId>,
    ) -> Result<Opened> {
        let on_disk = matches!(found, Found::Whole(_));
        let damaged = matches!(found, Found::Damaged);
        let number = self.index.number()?;
        let all_shared = self.sharing == Sharing::Shared;
        let (namespace, lease) = (namespace.clone(), lease.cloned());
        let (reference, expected) = (request.reference.clone(), request.expected.clone());
        self.index.change(move |connection| {
            let mut shared = None;
            if let Some(digest) = &expected {
                let key = digest.as_str();
                let has = objects::find(connection, &namespace, Kind::Content, key)?.is_some();
                if has && damaged {
                    log::warn!(digest = key; "a damaged blob is written again");
                } else if has {
                    leases::hold(connection, &namespace, lease.as_ref(), Kind::Content, key)
                        .map_err(|error| context("unable to lease content", error))?;
                    return Ok(Opened::Exists);
                }
                if on_disk && (all_shared || is_shared(connection, digest)?) {
                    shared = Some(digest);
                }
            }
            let leased =
                leases::hold(connection, &namespace, lease.as_ref(), Kind::Ingest, &reference)?;
            let (row, fresh) = ingest_row(connection, &namespace, &reference, number)?;
            describe_ingest(connection, row.object, shared, leased)?;
            let IngestBytes { reference, expected: before } = row.bytes;
            let left = before.filter(|before| shared.is_none_or(|now| now.as_str() != before));
            Ok(Opened::Ingest {
                stored_reference: reference,
                fresh,
                shared: shared.is_some(),
                left,
            })
        })
    }

    /// Deletes the row of an ingest that could not be begun.
    fn forget(&self, namespace: &Namespace, reference: &str, lease: Option<&LeaseId>) {
        let (namespace, lease) = (namespace.clone(), lease.cloned());
        let key = reference.to_owned();
        let forgotten = self
            .index
            .change(move |connection| forget_ingest(connection, &namespace, &key, lease.as_ref()));
        if let Err(error) = forgotten {
            log::warn!(reference, error:%; "an ingest that was not begun stays in the index");
        }
    }
}

fn context(text: &str, error: Error) -> Error {
    match error {
        Error::NotFound(what) => Error::NotFound(format!("{text}: {what}")),
        other => other,
    }
}

fn open_bytes(
    backend: &dyn Backend,
    reference: &str,
    request: &WriterRequest,
) -> Result<Box<dyn BackendWriter>> {
    // The digest itself stays away from the store: what it has is no business
    // of a namespace that has it not.
    let algorithm = request.expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
    Ok(backend.open_writer(reference, request.total, algorithm)?)
}

/// Finds or adds the row of an ingest; whether it is new.
fn ingest_row(
    connection: &Connection,
    namespace: &Namespace,
    reference: &str,
    number: u64,
) -> Result<(IngestRow, bool)> {
    if let Some(row) = find_ingest(connection, namespace, reference)? {
        return Ok((row, false));
    }
    let object =
        objects::insert(connection, namespace, Kind::Ingest, reference, SystemTime::now())?
            .ok_or_else(|| Error::AlreadyExists(format!("ingest {reference}")))?;
    let stored_reference = format!("{namespace}/{number}/{reference}");
    connection
        .prepare_cached("INSERT INTO ingests (id, reference) VALUES (?1, ?2)")?
        .execute(params![object, &stored_reference])?;
    let bytes = IngestBytes { reference: stored_reference, expected: None };
    Ok((IngestRow { object, bytes }, true))
}

/// Says what blob an ingest shares, and until when it stays without a lease.
fn describe_ingest(
    connection: &Connection,
    object: i64,
    shared: Option<&Digest>,
    leased: bool,
) -> Result<()> {
    connection
        .prepare_cached("UPDATE ingests SET expected = ?2 WHERE id = ?1")?
        .execute(params![object, shared.map(Digest::as_str)])?;
    if !leased {
        let end = SystemTime::now() + INGEST_LIFETIME;
        connection
            .prepare_cached("UPDATE objects SET root = 1, expires = ?2 WHERE id = ?1")?
            .execute(params![object, to_nanos(end)])?;
    }
    connection.prepare_cached("DELETE FROM refs WHERE source = ?1")?.execute([object])?;
    if let Some(digest) = shared {
        let key = digest.as_str().to_owned();
        let reference = Reference { kind: Kind::Content, key, via: Via::Own };
        objects::refer(connection, object, &reference)?;
    }
    Ok(())
}

impl ContentWriter {
    /// Where the ingest stands.
    pub fn status(&self) -> IngestStatus {
        let reference = self.reference.clone();
        match &self.bytes {
            Bytes::Own(writer) => IngestStatus { reference, ..writer.status() },
            Bytes::Shared(blob) => IngestStatus {
                reference,
                offset: blob.size,
                total: blob.size,
                expected: Some(blob.digest.clone()),
                started_at: blob.started_at,
                updated_at: blob.started_at,
            },
        }
    }

    /// The digest of what is written so far.
    pub fn digest(&self) -> Digest {
        match &self.bytes {
            Bytes::Own(writer) => writer.digest(),
            Bytes::Shared(blob) => blob.digest.clone(),
        }
    }

    /// Bytes written so far.
    pub fn offset(&self) -> u64 {
        match &self.bytes {
            Bytes::Own(writer) => writer.status().offset,
            Bytes::Shared(blob) => blob.size,
        }
    }

    /// Opens what is written for reading, at its first byte, where the store
    /// has files. What is written later can be read there too.
    pub fn file(&self) -> Result<Option<File>> {
        match &self.bytes {
            Bytes::Own(writer) => Ok(writer.file()?),
            Bytes::Shared(blob) => Ok(self.store.backend.reader(&blob.digest)?.into_own_file()),
        }
    }

    /// Appends all of `data`. What was shared is copied first.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        if let Bytes::Shared(blob) = &self.bytes {
            let size = blob.size;
            self.unshare(size)?;
        }
        match &mut self.bytes {
            Bytes::Own(writer) => Ok(writer.write(data)?),
            Bytes::Shared(_) => Err(Error::Unknown("the ingest is still shared".into())),
        }
    }

    /// Empties the ingest; `size` can only be 0.
    pub fn truncate(&mut self, size: u64) -> Result<()> {
        match &mut self.bytes {
            Bytes::Own(writer) => Ok(writer.truncate(size)?),
            Bytes::Shared(_) => self.unshare(size),
        }
    }

    /// Makes an own ingest of a shared one, with its first `size` bytes.
    fn unshare(&mut self, size: u64) -> Result<()> {
        let Bytes::Shared(blob) = &self.bytes else { return Ok(()) };
        let shared = blob.digest.clone();
        let backend = &self.store.backend;
        let algorithm = blob.digest.algorithm();
        let mut writer = backend.open_writer(&self.stored_reference, size, algorithm)?;
        let reader = backend.reader(&blob.digest)?;
        let mut buffer = vec![0; 64 * 1024];
        let mut offset = 0;
        // From before it was shared.
        if writer.status().offset > 0 {
            writer.truncate(0)?;
        }
        while offset < size {
            let wanted = buffer.len().min(usize::try_from(size - offset).unwrap_or(usize::MAX));
            let read = reader
                .read_at(&mut buffer[..wanted], offset)
                .map_err(|error| Error::Unknown(format!("read {}: {error}", blob.digest)))?;
            if read == 0 {
                break;
            }
            writer.write(&buffer[..read])?;
            offset += read as u64;
        }
        let key = self.stored_reference.clone();
        self.store.index.change(move |connection| {
            connection
                .prepare_cached("UPDATE ingests SET expected = NULL WHERE reference = ?1")?
                .execute([key])?;
            Ok(())
        })?;
        self.bytes = Bytes::Own(writer);
        self.store.forget_bytes(&shared);
        Ok(())
    }

    /// Makes the ingest a blob of the namespace, with `labels`, after having
    /// checked `size` (0: any) and `expected`.
    ///
    /// # Errors
    /// `AlreadyExists` when the namespace has got the blob meanwhile; the
    /// ingest is gone then, too.
    pub fn commit(
        self,
        size: u64,
        expected: Option<&Digest>,
        labels: &Labels,
    ) -> Result<ContentInfo> {
        validate_labels(labels, "info.Labels")?;
        let written = self.offset();
        if size != 0 && size != written {
            return Err(Error::FailedPrecondition(format!(
                "{:?} failed size validation: {written} != {size}",
                self.reference
            )));
        }
        let digest = self.digest();
        let busy = self.store.pending.enter(&digest);
        let shares = matches!(self.bytes, Bytes::Shared(_));
        match self.bytes {
            Bytes::Own(writer) => match writer.commit(size, expected) {
                // Another namespace has it; that this one gets it is news.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                other => drop(other?),
            },
            Bytes::Shared(_) if expected.is_some_and(|expected| *expected != digest) => {
                return Err(Error::FailedPrecondition(format!(
                    "{:?} unexpected digest",
                    self.reference
                )));
            }
            // Whoever had the blob may have let go of it, and a lease of the
            // ingest that kept it.
            Bytes::Shared(blob) => {
                self.store.backend.whole_reader(&blob.digest, blob.size)?;
            }
        }
        let (namespace, reference) = (self.namespace, self.reference);
        let (lease, labels, key) = (self.lease, labels.clone(), digest.clone());
        let added = self.store.index.change(move |connection| {
            forget_ingest(connection, &namespace, &reference, lease.as_ref())?;
            let added = add_blob(connection, &namespace, key.clone(), written, labels)?;
            leases::hold(connection, &namespace, lease.as_ref(), Kind::Content, key.as_str())?;
            Ok(added)
        });
        drop(busy);
        let added = added.inspect_err(|_| self.store.forget_bytes(&digest))?;
        if shares && let Err(error) = self.store.remove_own(&self.stored_reference) {
            let reference = self.stored_reference.as_str();
            log::warn!(reference, error:%; "what an ingest had of its own stays behind");
        }
        // Decided here, because the transaction stands although the blob is
        // no news: the lease holds it, and the ingest is gone.
        added.map_err(|digest| Error::AlreadyExists(format!("content {digest}")))
    }
}

/// Adds a blob's row; the digest again when there is one.
fn add_blob(
    connection: &Connection,
    namespace: &Namespace,
    digest: Digest,
    size: u64,
    mut labels: Labels,
) -> Result<std::result::Result<ContentInfo, Digest>> {
    let now = SystemTime::now();
    let Some(object) = objects::insert(connection, namespace, Kind::Content, digest.as_str(), now)?
    else {
        return Ok(Err(digest));
    };
    connection
        .prepare_cached("INSERT INTO blobs (id, size) VALUES (?1, ?2)")?
        .execute(params![object, size.cast_signed()])?;
    objects::describe(connection, object, Kind::Content, &mut labels, &[])?;
    Ok(Ok(ContentInfo { digest, size, created_at: now, updated_at: now, labels }))
}
