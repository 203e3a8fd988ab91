//! A content store in another process (containerd, `core/content/proxy`):
//! all blobs and ingests of all namespaces are there, and the index is here.
//!
//! The store belongs to this daemon alone, as with containerd: what the index
//! does not know is removed from it. It is asked on behalf of one namespace,
//! because for a store that keeps namespaces apart a blob that two of ours
//! share would otherwise be two. Where it collects garbage itself, a label
//! holds our blobs.
//!
//! Its calls block, like those of a store with files, and each has a limit.
//! No more of them are made at a time than there are threads to spare.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use davit_content::{
    Backend, BackendWriter, BlobInfo, Error as ContentError, IngestStatus, Reader,
};
use davit_protocols::convert::grpc::time;
use davit_protocols::grpc::containerd::services::content::v1 as wire;
use davit_types::{Algorithm, Digest, ErrorKind, Kind, Namespace};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::transport::Channel;
use wire::content_client::ContentClient;

use super::Error;
use super::link::{Link, MESSAGE_LIMIT, about};
use crate::config::ProxyPlugin;

mod writer;

/// Threads that may wait for the store at a time. The daemon has so many more
/// when it uses one.
pub const THREADS_MAX: usize = 192;

/// For one call, but those that are named below.
const LIMIT: Duration = Duration::from_secs(60);
/// For making a blob of an ingest, which brings it to a disk.
const COMMIT_LIMIT: Duration = Duration::from_secs(600);
/// For lists of everything.
const LIST_LIMIT: Duration = Duration::from_secs(600);
/// How long after a call that got no answer nothing is removed: there may be
/// much to remove, and each would wait.
const STUCK_PAUSE: Duration = Duration::from_secs(30);
/// How long somebody may take who is just leaving an ingest.
const LEAVING_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether they have.
const LEAVING_PAUSE: Duration = Duration::from_millis(20);

/// What the configuration calls the namespace there.
const NAMESPACE: &str = "namespace";
/// The namespace there when the configuration names none.
const DEFAULT_NAMESPACE: &str = "davit";

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Content(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Link,
    namespace: Namespace,
    /// Where files are made of blobs for those who must have files.
    scratch: PathBuf,
    threads: Semaphore,
    stuck: Mutex<Option<Instant>>,
}

fn client(channel: Channel) -> ContentClient<Channel> {
    ContentClient::new(channel)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT)
}

impl Content {
    /// The store called `name`. Connects to nothing.
    ///
    /// # Errors
    /// What the configuration says cannot be; `scratch` cannot be made.
    pub(super) fn new(name: &str, plugin: &ProxyPlugin, scratch: PathBuf) -> Result<Self, Error> {
        let link = Link::new("content store", name.to_owned(), plugin.address.clone())?;
        let namespace = plugin.exports.get(NAMESPACE).map_or(DEFAULT_NAMESPACE, String::as_str);
        let namespace = Namespace::new(namespace).map_err(|error| Error::Address {
            who: link.who(),
            reason: format!("its namespace: {error}"),
        })?;
        prepare(&scratch).map_err(|source| Error::Scratch { path: scratch.clone(), source })?;
        let (threads, stuck) = (Semaphore::new(THREADS_MAX), Mutex::default());
        Ok(Self(Arc::new(Inner { link, namespace, scratch, threads, stuck })))
    }

    /// Opens the ingest, once.
    fn open(&self, reference: &str, total: u64) -> Result<writer::Writer, ContentError> {
        writer::Writer::open(self.clone(), reference, total)
    }
}

/// Makes the directory, or empties it: what is there was a file without a
/// name, almost.
fn prepare(scratch: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(scratch)?;
    for entry in fs::read_dir(scratch)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

impl Inner {
    /// Waits for a call.
    fn call<T, F>(
        &self,
        limit: Duration,
        call: impl FnOnce(ContentClient<Channel>) -> F,
    ) -> Result<T, ContentError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.wait(self.link.call(limit, |channel| call(client(channel))))
    }

    /// Waits for what is under way.
    fn wait<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, ContentError> {
        let wait = || -> Result<T, Error> {
            let runtime = Handle::try_current().map_err(|_| Error::Inside)?;
            let _thread = self.threads.try_acquire().map_err(|_| self.busy())?;
            // Fine where blocking is allowed, and no panic where it is not.
            tokio::task::block_in_place(|| runtime.block_on(work))
        };
        wait().map_err(|error| {
            if let Error::Stuck { .. } = error {
                *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
            elsewhere(&error)
        })
    }

    fn busy(&self) -> Error {
        let reason = format!("{THREADS_MAX} calls wait for it already");
        Error::Away { who: self.link.who(), reason }
    }

    /// Refuses what can be done later as well when the store was stuck.
    fn unless_stuck(&self) -> Result<(), ContentError> {
        let stuck = *self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        match stuck {
            Some(since) if since.elapsed() < STUCK_PAUSE => {
                let reason = "it has not answered lately".to_owned();
                Err(elsewhere(&Error::Away { who: self.link.who(), reason }))
            }
            _ => Ok(()),
        }
    }

    /// Something in an answer that cannot be.
    fn nonsense(&self, what: impl std::fmt::Display) -> ContentError {
        let message = format!("{} answered nonsense: {what}", self.link.who());
        ContentError::Elsewhere { kind: ErrorKind::Unknown, message }
    }

    fn moment(
        &self,
        field: &'static str,
        stamp: Option<prost_types::Timestamp>,
    ) -> Result<std::time::SystemTime, ContentError> {
        time(field, &stamp.unwrap_or_default()).map_err(|error| self.nonsense(error))
    }

    fn info_from_wire(&self, info: wire::Info) -> Result<BlobInfo, ContentError> {
        Ok(BlobInfo {
            digest: info.digest.parse().map_err(|error| self.nonsense(error))?,
            size: self.unsigned(info.size)?,
            created_at: self.moment("created_at", info.created_at)?,
            updated_at: self.moment("updated_at", info.updated_at)?,
        })
    }

    fn status_from_wire(&self, status: wire::Status) -> Result<IngestStatus, ContentError> {
        Ok(IngestStatus {
            reference: status.r#ref,
            offset: self.unsigned(status.offset)?,
            total: self.unsigned(status.total)?,
            expected: status.expected.parse().ok(),
            started_at: self.moment("started_at", status.started_at)?,
            updated_at: self.moment("updated_at", status.updated_at)?,
        })
    }

    fn unsigned(&self, number: i64) -> Result<u64, ContentError> {
        u64::try_from(number).map_err(|_| self.nonsense(format!("a length of {number}")))
    }
}

fn elsewhere(error: &Error) -> ContentError {
    let (kind, message) = (error.kind(), error.full_message());
    match error {
        Error::Away { .. } | Error::Stuck { .. } => ContentError::Away { kind, message },
        _ => ContentError::Elsewhere { kind, message },
    }
}

impl Backend for Content {
    /// The algorithm is that of the store: it hashes what comes to it.
    fn open_writer(
        &self,
        reference: &str,
        total: u64,
        _algorithm: Algorithm,
    ) -> Result<Box<dyn BackendWriter>, ContentError> {
        // Whoever had it before us may have let go of it, and the store not
        // heard of that.
        let writer = while_leaving(is_locked, || self.open(reference, total))?;
        Ok(Box::new(writer))
    }

    fn status(&self, reference: &str) -> Result<IngestStatus, ContentError> {
        let message = wire::StatusRequest { r#ref: reference.to_owned() };
        let request = about(&self.0.namespace, message);
        let answer =
            self.0.call(LIMIT, |mut client| async move { client.status(request).await })?;
        self.0.status_from_wire(answer.into_inner().status.unwrap_or_default())
    }

    fn list_statuses(&self) -> Result<Vec<IngestStatus>, ContentError> {
        let request = about(&self.0.namespace, wire::ListStatusesRequest::default());
        let answer = self
            .0
            .call(LIST_LIMIT, |mut client| async move { client.list_statuses(request).await })?;
        let statuses = answer.into_inner().statuses.into_iter();
        statuses.map(|status| self.0.status_from_wire(status)).collect()
    }

    fn abort(&self, reference: &str) -> Result<(), ContentError> {
        self.0.unless_stuck()?;
        let abort = || {
            let message = wire::AbortRequest { r#ref: reference.to_owned() };
            let request = about(&self.0.namespace, message);
            self.0.call(LIMIT, |mut client| async move { client.abort(request).await }).map(drop)
        };
        // containerd may still write down how far its writer came, into the
        // directory that it removes ("directory not empty").
        while_leaving(|error| error.kind() == ErrorKind::Unknown, abort)
    }

    fn info(&self, digest: &Digest) -> Result<BlobInfo, ContentError> {
        let message = wire::InfoRequest { digest: digest.to_string() };
        let request = about(&self.0.namespace, message);
        let answer = self.0.call(LIMIT, |mut client| async move { client.info(request).await })?;
        self.0.info_from_wire(answer.into_inner().info.unwrap_or_default())
    }

    fn reader(&self, digest: &Digest) -> Result<Reader, ContentError> {
        let size = self.info(digest)?.size;
        let blob = Blob { store: self.clone(), digest: digest.clone(), size };
        Ok(Reader::elsewhere(Arc::new(blob), self.0.scratch.clone()))
    }

    fn whole_reader(&self, digest: &Digest, size: u64) -> Result<Reader, ContentError> {
        let reader = self.reader(digest)?;
        match reader.size() {
            found if found == size => Ok(reader),
            found => Err(ContentError::Elsewhere {
                kind: ErrorKind::DataLoss,
                message: format!("{}: {digest} has {found} bytes of {size}", self.0.link.who()),
            }),
        }
    }

    fn delete(&self, digest: &Digest) -> Result<(), ContentError> {
        self.0.unless_stuck()?;
        let message = wire::DeleteContentRequest { digest: digest.to_string() };
        let request = about(&self.0.namespace, message);
        self.0.call(LIMIT, |mut client| async move { client.delete(request).await }).map(drop)
    }

    fn walk(&self) -> Result<Vec<BlobInfo>, ContentError> {
        let request = about(&self.0.namespace, wire::ListContentRequest::default());
        let infos = self.0.call(LIST_LIMIT, |mut client| async move {
            let mut stream = client.list(request).await?.into_inner();
            let mut infos = Vec::new();
            while let Some(block) = stream.message().await? {
                infos.extend(block.info);
            }
            Ok(infos)
        })?;
        infos.into_iter().map(|info| self.0.info_from_wire(info)).collect()
    }
}

/// Does `work`, and again while it fails as it does when somebody is just
/// leaving the ingest.
fn while_leaving<T>(
    is_passing: impl Fn(&ContentError) -> bool,
    work: impl Fn() -> Result<T, ContentError>,
) -> Result<T, ContentError> {
    let end = Instant::now() + LEAVING_MAX;
    loop {
        match work() {
            Err(error) if is_passing(&error) && Instant::now() < end => {
                std::thread::sleep(LEAVING_PAUSE);
            }
            other => return other,
        }
    }
}

fn is_locked(error: &ContentError) -> bool {
    matches!(error, ContentError::Elsewhere { kind: ErrorKind::Unavailable, message }
        if message.contains(" locked"))
}

/// A blob of the store.
#[derive(Debug)]
struct Blob {
    store: Content,
    digest: Digest,
    size: u64,
}

impl davit_content::Blob for Blob {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(rest);
        if wanted == 0 {
            return Ok(0);
        }
        let signed = |number| i64::try_from(number).map_err(io::Error::other);
        let message = wire::ReadContentRequest {
            digest: self.digest.to_string(),
            offset: signed(offset)?,
            size: signed(wanted as u64)?,
        };
        let inner = &self.store.0;
        let request = about(&inner.namespace, message);
        let read = inner.call(LIMIT, |mut client| async move {
            let mut stream = client.read(request).await?.into_inner();
            let mut filled = 0;
            while let Some(block) = stream.message().await? {
                let count = block.data.len().min(wanted - filled);
                buffer[filled..filled + count].copy_from_slice(&block.data[..count]);
                filled += count;
            }
            Ok(filled)
        });
        match read.map_err(io::Error::other)? {
            filled if filled == wanted => Ok(filled),
            filled => {
                let who = inner.link.who();
                let text =
                    format!("{who} sent {filled} bytes of {} instead of {wanted}", self.digest);
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
            }
        }
    }
}
