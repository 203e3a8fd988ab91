//! Content, as a namespace sees it (containerd, `core/metadata/content.go`).
//!
//! The blob store knows bytes and digests. Which namespace has which blob,
//! its labels, and what a namespace calls its ingests is in the index. Bytes
//! are on disk before a row speaks of them, and go after the last row that
//! did; what a crash leaves between the two, collection finds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use davit_content::{Backend, IngestStatus, Reader};
use davit_types::{Digest, ErrorKind, Kind as _, Labels, Namespace};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::adaptors::{Ingest, walk_filters};
use crate::objects::{self, Kind, validate_labels};
use crate::pending::Pending;
use crate::time::from_nanos;
use crate::{Error, Index, LeaseId, Result, digests, leases};

mod list;
mod writer;

pub use list::ContentWalk;
pub use writer::ContentWriter;

/// How long an ingest stays that no lease holds and nobody goes on with.
const INGEST_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// What a namespace knows of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentInfo {
    /// Its address.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// When this namespace got it.
    pub created_at: SystemTime,
    /// When its labels were last changed.
    pub updated_at: SystemTime,
    /// What clients attached.
    pub labels: Labels,
}

/// How a namespace gets a blob that another one has (containerd,
/// `content_sharing_policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// By naming its digest.
    #[default]
    Shared,
    /// By bringing all its bytes, unless a namespace that has it is labelled
    /// `containerd.io/namespace.shareable=true`.
    Isolated,
}

/// What a writer is to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterRequest {
    /// The ingest's name, for resuming it. Must not be empty.
    pub reference: String,
    /// The size expected in bytes; 0 where unknown.
    pub total: u64,
    /// The digest expected.
    pub expected: Option<Digest>,
}

/// The blobs and ingests of all namespaces.
#[derive(Debug)]
pub struct ContentStore {
    index: Arc<Index>,
    backend: Arc<dyn Backend>,
    sharing: Sharing,
    pending: Pending,
    /// Something could not be removed, because the store was away.
    remains: AtomicBool,
}

impl ContentStore {
    /// The view that `index` gives of `backend`.
    pub fn new(index: Arc<Index>, backend: Arc<dyn Backend>, sharing: Sharing) -> Self {
        let (pending, remains) = (Pending::default(), AtomicBool::new(false));
        Self { index, backend, sharing, pending, remains }
    }

    /// What is known of a blob.
    pub fn info(&self, namespace: &Namespace, digest: &Digest) -> Result<ContentInfo> {
        self.index.look(|connection| {
            find(connection, namespace, digest.as_str())?
                .map(|(_, info)| info)
                .ok_or_else(|| missing(digest))
        })
    }

    /// Replaces a blob's labels; with `paths` (`labels`, `labels.KEY`) those
    /// named alone. Answers the result.
    pub fn update(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        labels: &Labels,
        paths: &[String],
    ) -> Result<ContentInfo> {
        let (namespace, digest) = (namespace.clone(), digest.clone());
        let (labels, paths) = (labels.clone(), paths.to_vec());
        self.index.loosen(move |connection| {
            let (object, mut info) =
                find(connection, &namespace, digest.as_str())?.ok_or_else(|| missing(&digest))?;
            objects::update_labels(&mut info.labels, &labels, &paths, |path| {
                let digest = digest.as_str();
                Error::InvalidArgument(format!(
                    "cannot update {path:?} field on content info {digest:?}"
                ))
            })?;
            validate_labels(&info.labels, "info.Labels")?;
            info.updated_at = SystemTime::now();
            objects::touch(connection, object, info.updated_at)?;
            objects::describe(connection, object, Kind::Content, &mut info.labels, &[])?;
            Ok(info)
        })
    }

    /// Takes a blob from a namespace; its bytes go when no namespace has it.
    pub fn delete(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        lease: Option<&LeaseId>,
    ) -> Result<()> {
        let (namespace, lease, key) = (namespace.clone(), lease.cloned(), digest.clone());
        self.index.loosen(move |connection| {
            if !objects::delete(connection, &namespace, Kind::Content, key.as_str())? {
                return Err(missing(&key));
            }
            leases::release(connection, &namespace, lease.as_ref(), Kind::Content, key.as_str())
        })?;
        // What the caller asked for is done; bytes that could not be removed
        // are garbage like any other.
        if let Err(error) = self.remove_bytes(digest) {
            log::warn!(digest:%, error:%; "a blob that nobody has could not be removed");
        }
        Ok(())
    }

    /// Opens a blob for reading.
    pub fn reader(&self, namespace: &Namespace, digest: &Digest) -> Result<Reader> {
        let info = self.info(namespace, digest)?;
        Ok(self.backend.whole_reader(digest, info.size)?)
    }

    /// Whether the namespace has a blob, and the store all of it; `lease` holds
    /// it from then on.
    pub fn hold_whole(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        lease: Option<&LeaseId>,
    ) -> Result<bool> {
        if self.reader(namespace, digest).is_err() {
            return Ok(false);
        }
        let Some(lease) = lease.cloned() else { return Ok(true) };
        let (namespace, key) = (namespace.clone(), digest.to_string());
        self.index.change(move |connection| {
            // It may have gone meanwhile.
            let has = objects::find(connection, &namespace, Kind::Content, &key)?.is_some();
            if has {
                leases::hold(connection, &namespace, Some(&lease), Kind::Content, &key)?;
            }
            Ok(has)
        })
    }

    /// Where an ingest stands; `reference` is the namespace's name for it.
    pub fn status(&self, namespace: &Namespace, reference: &str) -> Result<IngestStatus> {
        let row = self.index.look(|connection| {
            find_ingest(connection, namespace, reference)?.ok_or_else(|| no_ingest(reference))
        })?;
        let status = self.backend.status(&row.bytes.reference)?;
        Ok(IngestStatus { reference: reference.to_owned(), ..status })
    }

    /// Where all ingests stand that any of `filters` matches, by name.
    pub fn list_statuses(
        &self,
        namespace: &Namespace,
        filters: &[String],
    ) -> Result<Vec<IngestStatus>> {
        let filters = walk_filters(filters)?;
        let ingests: Vec<(String, String)> = self.index.look(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT o.key, i.reference FROM objects o JOIN ingests i ON i.id = o.id
                 WHERE o.namespace = ?1 AND o.kind = 'ingest' ORDER BY o.key",
            )?;
            let rows =
                statement.query_map([namespace.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })?;
        let mut found = Vec::new();
        for (reference, stored) in ingests {
            let status = match self.backend.status(&stored) {
                Ok(status) => IngestStatus { reference, ..status },
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            if filters.matches(&Ingest(&status)) {
                found.push(status);
            }
        }
        Ok(found)
    }

    /// Throws an ingest away.
    pub fn abort(
        &self,
        namespace: &Namespace,
        reference: &str,
        lease: Option<&LeaseId>,
    ) -> Result<()> {
        let (namespace, lease) = (namespace.clone(), lease.cloned());
        let key = reference.to_owned();
        let row = self.index.loosen(move |connection| {
            let row = find_ingest(connection, &namespace, &key)?.ok_or_else(|| no_ingest(&key))?;
            forget_ingest(connection, &namespace, &key, lease.as_ref())?;
            Ok(row)
        })?;
        self.remove_ingest(&row.bytes)
    }

    /// Removes what an ingest whose row has gone has left: bytes of its own,
    /// and the blob that it shared, unless somebody else has that.
    pub(crate) fn remove_ingest(&self, bytes: &IngestBytes) -> Result<()> {
        self.remove_own(&bytes.reference)?;
        let shared = bytes.expected.as_deref().map(digests::stored).transpose()?;
        shared.map_or(Ok(()), |digest| self.remove_bytes(&digest).map(drop))
    }

    /// Removes the bytes in an ingest of the blob store; there may be none.
    fn remove_own(&self, stored_reference: &str) -> Result<()> {
        match self.backend.abort(stored_reference) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => Ok(other.inspect_err(|error| self.note_remains(error))?),
        }
    }

    /// A store that is away will be back, and has to be tidied up then.
    fn note_remains(&self, error: &davit_content::Error) {
        if is_away(error.kind()) {
            self.remains.store(true, Ordering::Relaxed);
        }
    }

    /// Removes what could not be removed before, because the store was away.
    pub(crate) fn cleanup_remains(&self) -> Result<()> {
        match self.remains.swap(false, Ordering::Relaxed) {
            true => self.cleanup().inspect_err(|_| self.remains.store(true, Ordering::Relaxed)),
            false => Ok(()),
        }
    }

    /// Removes the bytes that a crash has left without a row: blobs that no
    /// namespace has, and ingests that nobody knows. Looks at the whole
    /// store. Goes on after a failure, unless nobody answers, and reports the
    /// first.
    pub fn cleanup(&self) -> Result<()> {
        let blobs = self.backend.walk().inspect_err(|error| self.note_remains(error))?;
        let ingests = self.backend.list_statuses().inspect_err(|error| self.note_remains(error))?;
        let blobs = blobs.into_iter().map(|blob| self.remove_bytes(&blob.digest).map(|_| ()));
        let ingests = ingests.into_iter().map(|status| {
            let known = self.index.look(|connection| is_ingest(connection, &status.reference))?;
            if known { Ok(()) } else { self.remove_own(&status.reference) }
        });
        let mut first = Ok(());
        for failure in blobs.chain(ingests).filter_map(Result::err) {
            let away = is_away(failure.kind());
            first = first.and(Err(failure));
            if away {
                self.remains.store(true, Ordering::Relaxed);
                break;
            }
        }
        first
    }

    /// Removes the bytes of a blob that no namespace has, and nobody is about
    /// to get; whether they are gone.
    pub(crate) fn remove_bytes(&self, digest: &Digest) -> Result<bool> {
        let remove = || {
            let wanted = self.index.look(|connection| is_wanted(connection, digest))?;
            if wanted {
                return Ok(false);
            }
            match self.backend.delete(digest) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
                Err(error) => {
                    self.note_remains(&error);
                    Err(error.into())
                }
                Ok(()) => Ok(true),
            }
        };
        self.pending.unless_busy(digest, remove).unwrap_or(Ok(false))
    }

    /// Removes the bytes of a blob that a caller wants no more, unless somebody
    /// else does; has it done by the next collection when it fails.
    pub(crate) fn forget_bytes(&self, digest: &Digest) {
        if let Err(error) = self.remove_bytes(digest) {
            log::warn!(digest:%, error:%; "a blob that nobody has is removed later");
            self.remains.store(true, Ordering::Relaxed);
        }
    }

    /// How many bytes of an ingest are on disk.
    pub(crate) fn ingest_size(&self, stored_reference: &str) -> u64 {
        self.backend.status(stored_reference).map_or(0, |status| status.offset)
    }
}

/// Whether a store in another process did not answer.
fn is_away(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded)
}

fn missing(digest: &Digest) -> Error {
    Error::NotFound(format!("content digest {digest}"))
}

fn no_ingest(reference: &str) -> Error {
    Error::NotFound(format!("reference {reference}"))
}

const SELECT: &str = "
    SELECT o.id, o.key, o.created, o.updated, b.size
    FROM objects o JOIN blobs b ON b.id = o.id";

fn find(
    connection: &Connection,
    namespace: &Namespace,
    digest: &str,
) -> Result<Option<(i64, ContentInfo)>> {
    let sql = format!("{SELECT} WHERE o.namespace = ?1 AND o.kind = ?2 AND o.key = ?3");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![namespace.as_str(), Kind::Content.as_str(), digest])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let object = row.get(0)?;
    let mut info = read(row)?;
    info.labels = objects::labels(connection, object)?;
    Ok(Some((object, info)))
}

fn read(row: &Row<'_>) -> Result<ContentInfo> {
    Ok(ContentInfo {
        digest: digests::stored(&row.get::<_, String>(1)?)?,
        size: row.get::<_, i64>(4)?.unsigned_abs(),
        created_at: from_nanos(row.get(2)?),
        updated_at: from_nanos(row.get(3)?),
        labels: Labels::new(),
    })
}

/// How long a blob is, as the namespaces know that have it.
fn recorded_size(connection: &Connection, digest: &Digest) -> Result<Option<u64>> {
    let size: Option<i64> = connection
        .prepare_cached(
            "SELECT b.size FROM namespaces n
             CROSS JOIN objects o ON o.namespace = n.name AND o.kind = 'content' AND o.key = ?1
             CROSS JOIN blobs b ON b.id = o.id LIMIT 1",
        )?
        .query_row([digest.as_str()], |row| row.get(0))
        .optional()?;
    Ok(size.map(i64::unsigned_abs))
}

/// Whether any namespace has a blob, or is to get it without its bytes. (The
/// order of the joins is given, here and below: the planner would look at all
/// blobs rather than at the few namespaces.)
fn is_wanted(connection: &Connection, digest: &Digest) -> Result<bool> {
    let wanted = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM namespaces n CROSS JOIN objects o
                 ON o.namespace = n.name AND o.kind = 'content' AND o.key = ?1)
             OR EXISTS (SELECT 1 FROM ingests WHERE expected = ?1)",
        )?
        .query_row([digest.as_str()], |row| row.get(0))?;
    Ok(wanted)
}

/// How many namespaces have a blob.
pub(crate) fn owners(connection: &Connection, digest: &str) -> Result<u64> {
    let count: i64 = connection
        .prepare_cached(
            "SELECT count(*) FROM namespaces n CROSS JOIN objects o
                 ON o.namespace = n.name AND o.kind = 'content' AND o.key = ?1",
        )?
        .query_row([digest], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

/// Whether there is a row for what the blob store calls `reference`.
fn is_ingest(connection: &Connection, reference: &str) -> Result<bool> {
    let known = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM ingests WHERE reference = ?1)")?
        .query_row([reference], |row| row.get(0))?;
    Ok(known)
}

/// Whether a namespace that has a blob lets others have it.
fn is_shared(connection: &Connection, digest: &Digest) -> Result<bool> {
    let shared = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM namespace_labels l CROSS JOIN objects o
                 ON o.namespace = l.namespace AND o.kind = 'content' AND o.key = ?1
                 WHERE l.key = ?2 AND l.value = 'true')",
        )?
        .query_row(params![digest.as_str(), davit_types::labels::SHARING_POLICY], |row| {
            row.get(0)
        })?;
    Ok(shared)
}

/// An ingest's row.
struct IngestRow {
    object: i64,
    bytes: IngestBytes,
}

/// Where the bytes of an ingest are.
#[derive(Debug)]
pub(crate) struct IngestBytes {
    /// The blob store's name for it. Of one that shares a blob there may be
    /// bytes, too: from before the other namespace had it.
    pub(crate) reference: String,
    /// The blob that it is, when its bytes need not come.
    pub(crate) expected: Option<String>,
}

impl IngestBytes {
    /// Reads the columns `reference` and `expected`, the first of which is
    /// column `at`.
    pub(crate) fn read(row: &Row<'_>, at: usize) -> rusqlite::Result<Self> {
        Ok(Self { reference: row.get(at)?, expected: row.get(at + 1)? })
    }
}

fn find_ingest(
    connection: &Connection,
    namespace: &Namespace,
    reference: &str,
) -> Result<Option<IngestRow>> {
    let row = connection
        .prepare_cached(
            "SELECT o.id, i.reference, i.expected FROM objects o JOIN ingests i ON i.id = o.id
             WHERE o.namespace = ?1 AND o.kind = 'ingest' AND o.key = ?2",
        )?
        .query_row(params![namespace.as_str(), reference], |row| {
            Ok(IngestRow { object: row.get(0)?, bytes: IngestBytes::read(row, 1)? })
        })
        .optional()?;
    Ok(row)
}

/// Deletes an ingest's row, and takes it from `lease`.
fn forget_ingest(
    connection: &Connection,
    namespace: &Namespace,
    reference: &str,
    lease: Option<&LeaseId>,
) -> Result<()> {
    objects::delete(connection, namespace, Kind::Ingest, reference)?;
    leases::release(connection, namespace, lease, Kind::Ingest, reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question about one blob that looks at all of them takes milliseconds
    /// where there are many.
    #[test]
    fn questions_about_one_blob_do_not_look_at_all() {
        const BLOBS: usize = 2000;
        /// Steps of SQLite's machine; one blob takes several.
        const STEPS_MAX: i32 = 1000;
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.db")).unwrap();
        let space = Namespace::new("default").unwrap();
        let digest = |number: usize| -> Digest { format!("sha256:{number:064x}").parse().unwrap() };
        let fill = move |connection: &Connection| {
            for number in 0..BLOBS {
                let (now, key) = (SystemTime::now(), digest(number));
                objects::insert(connection, &space, Kind::Content, key.as_str(), now)?;
            }
            Ok(space)
        };
        let space = index.upkeep(fill).unwrap();
        let mut asking = Connection::open(dir.path().join("index.db")).unwrap();
        asking.progress_handler(STEPS_MAX, Some(|| true)).unwrap();
        let (connection, one) = (&asking, &digest(BLOBS / 2));
        assert!(is_wanted(connection, one).unwrap());
        assert_eq!(owners(connection, one.as_str()).unwrap(), 1);
        assert_eq!(recorded_size(connection, one).unwrap(), None);
        assert!(!is_shared(connection, one).unwrap());
        assert!(find(connection, &space, one.as_str()).unwrap().is_none());
        let all = "SELECT count(*) FROM objects WHERE updated > 0";
        connection.query_row(all, [], |row| row.get::<_, i64>(0)).unwrap_err();
    }
}
