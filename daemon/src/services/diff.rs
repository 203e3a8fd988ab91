//! The service `containerd.services.diff.v1` (containerd,
//! `plugins/services/diff`, `core/diff/apply` and `plugins/diff/walking`).
//!
//! Layers are read and written by a worker process; what passes through here
//! on its way into the content store is the finished layer's bytes.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use davit_diff::worker::{Apply, Compare, Killer, Program};
use davit_diff::{
    Applied, CompareOptions, Compression, Limits, Source, StreamProcessors, Whiteouts, media_type,
};
use davit_events::Exchange;
use davit_index::{ContentInfo, ContentStore, ContentWriter, LeaseId, WriterRequest};
use davit_protocols::grpc::containerd::services::diff::v1 as wire;
use davit_protocols::grpc::containerd::types::Descriptor;
use davit_types::labels::UNCOMPRESSED;
use davit_types::{Digest, ErrorKind, Kind, Labels, Mount, Namespace};
use prost::Message;
use tokio::sync::{Semaphore, oneshot};
use tonic::{Request, Response, Status};
use wire::diff_server::Diff as Service;

use super::content::publish_created;
use super::{lease, namespace, status};

/// Workers at a time; further calls wait their turn.
const WORKERS_MAX: usize = 16;
/// Bytes of a new layer that are taken into the content store at once.
const BLOCK: usize = 1 << 18;

/// Serves applying and comparing.
#[derive(Clone)]
pub struct Diff {
    content: Arc<ContentStore>,
    events: Arc<Exchange>,
    program: Arc<Program>,
    processors: Arc<StreamProcessors>,
    limits: Limits,
    sync: bool,
    turns: Arc<Semaphore>,
}

/// How layers are applied.
#[derive(Debug)]
pub struct DiffConfig {
    /// What workers mount what they need over; made when it is missing.
    pub scratch: PathBuf,
    /// Programs that read what we cannot.
    pub processors: StreamProcessors,
    /// How much a layer may unpack to.
    pub limits: Limits,
    /// Bring every applied layer to the disk before the answer (`sync_fs`).
    pub sync: bool,
}

impl Diff {
    /// Takes layers from `content` and puts new ones there.
    ///
    /// # Errors
    /// The scratch directory cannot be made.
    pub fn new(
        content: Arc<ContentStore>,
        events: Arc<Exchange>,
        config: DiffConfig,
    ) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&config.scratch)?;
        Ok(Self {
            content,
            events,
            program: Arc::new(Program::this(config.scratch)),
            processors: Arc::new(config.processors),
            limits: config.limits,
            sync: config.sync,
            turns: Arc::new(Semaphore::new(WORKERS_MAX)),
        })
    }
}

/// What fails on the way, with containerd's words in front.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{context}")]
    Content {
        context: &'static str,
        #[source]
        source: davit_index::Error,
    },
    #[error("failed to get reader from content store: content digest {0}: not found")]
    NoSuchContent(String),
    #[error(transparent)]
    Diff(#[from] davit_diff::Error),
    #[error("{context}")]
    Io {
        context: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Content { source, .. } => source.kind(),
            Self::NoSuchContent(_) => ErrorKind::NotFound,
            Self::Diff(error) => error.kind(),
            Self::Io { source, .. } => ErrorKind::of_io(source),
        }
    }
}

fn content(context: &'static str) -> impl FnOnce(davit_index::Error) -> Error {
    move |source| Error::Content { context, source }
}

fn broken(context: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { context, source }
}

/// Ends a worker whose caller has gone.
pub(crate) struct Guard(pub(crate) oneshot::Receiver<Killer>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Ok(killer) = self.0.try_recv() {
            killer.kill();
        }
    }
}

#[tonic::async_trait]
impl Service for Diff {
    async fn apply(
        &self,
        request: Request<wire::ApplyRequest>,
    ) -> Result<Response<wire::ApplyResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let service = self.clone();
        let applied = self
            .with_worker(move |killer| {
                let apply = service.prepare(&namespace, request)?;
                Ok(wait(apply.spawn(&service.program)?, killer)?)
            })
            .await?;
        let applied = descriptor(media_type::LAYER, &applied.digest, applied.size);
        Ok(Response::new(wire::ApplyResponse { applied: Some(applied) }))
    }

    async fn diff(
        &self,
        request: Request<wire::DiffRequest>,
    ) -> Result<Response<wire::DiffResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let request = request.into_inner();
        let compression = Compression::of_diff(&request.media_type).map_err(status)?;
        let media_type = match request.media_type.as_str() {
            "" => media_type::LAYER_GZIP.to_owned(),
            given => given.to_owned(),
        };
        let comparison =
            Comparison { service: self.clone(), namespace, lease, compression, request };
        let info = self.with_worker(move |killer| comparison.run(killer)).await?;
        let diff = descriptor(&media_type, &info.digest, info.size);
        Ok(Response::new(wire::DiffResponse { diff: Some(diff) }))
    }
}

impl Diff {
    /// Runs what uses a worker, when it is its turn. The worker dies with the
    /// call.
    async fn with_worker<T: Send + 'static>(
        &self,
        work: impl FnOnce(oneshot::Sender<Killer>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| Status::unavailable("the daemon ends"))?;
        let (killer, guard) = oneshot::channel();
        let guard = Guard(guard);
        let result = super::blocking(move || {
            let _turn = turn;
            work(killer)
        })
        .await;
        drop(guard);
        result
    }

    /// A layer to be applied whose bytes come from `input`.
    pub(crate) fn layer(
        &self,
        input: OwnedFd,
        media_type: &str,
        mounts: Vec<Mount>,
        lower_later: Option<Whiteouts>,
    ) -> Result<Apply, davit_diff::Error> {
        let source = self.processors.open(media_type, input, &BTreeMap::new())?;
        Ok(Apply { lower_later, ..self.apply_to(mounts, source) })
    }

    fn apply_to(&self, mounts: Vec<Mount>, source: Source) -> Apply {
        let Source { input, compressed, processing } = source;
        let (limits, sync) = (self.limits, self.sync);
        Apply { input, compressed, processing, mounts, lower_later: None, limits, sync }
    }

    /// How workers are started.
    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    /// Whether every layer is brought to the disk at once.
    pub(crate) fn syncs(&self) -> bool {
        self.sync
    }

    fn prepare(&self, namespace: &Namespace, request: wire::ApplyRequest) -> Result<Apply, Error> {
        let wire::ApplyRequest { diff, mounts, payloads, sync_fs } = request;
        let layer = diff.unwrap_or_default();
        let digest = layer.digest.parse::<Digest>();
        let digest = digest.map_err(|_| Error::NoSuchContent(layer.digest))?;
        let reader = self.content.reader(namespace, &digest);
        let reader = reader.map_err(content("failed to get reader from content store"))?;
        let payloads = payloads.iter().map(|(id, any)| (id.clone(), any.encode_to_vec())).collect();
        let file = reader.into_file().map_err(broken("failed to read from content store"))?;
        let source = self.processors.open(&layer.media_type, file.into(), &payloads)?;
        let apply = self.apply_to(mounts.into_iter().map(Mount::from).collect(), source);
        Ok(Apply { sync: sync_fs || self.sync, ..apply })
    }
}

/// Waits for a worker, which dies with the thread that calls this.
pub(crate) fn wait(
    running: davit_diff::worker::Running<Applied>,
    killer: oneshot::Sender<Killer>,
) -> Result<Applied, davit_diff::Error> {
    if let Err(killer) = killer.send(running.killer()?) {
        killer.kill();
    }
    running.wait()
}

/// One layer to be made.
struct Comparison {
    service: Diff,
    namespace: Namespace,
    lease: Option<LeaseId>,
    compression: Compression,
    request: wire::DiffRequest,
}

impl Comparison {
    fn run(mut self, killer: oneshot::Sender<Killer>) -> Result<ContentInfo, Error> {
        let given = std::mem::take(&mut self.request.r#ref);
        let fresh = given.is_empty();
        let reference = if fresh { unique_reference() } else { given };
        let result = self.write(&reference, fresh, killer);
        if result.is_err() && fresh {
            let Self { service, namespace, lease, .. } = &self;
            let aborted = service.content.abort(namespace, &reference, lease.as_ref());
            if let Err(error) = aborted
                && error.kind() != ErrorKind::NotFound
            {
                log::warn!(reference = reference.as_str(), error:%; "a layer's remains stay");
            }
        }
        result
    }

    fn write(
        &mut self,
        reference: &str,
        fresh: bool,
        killer: oneshot::Sender<Killer>,
    ) -> Result<ContentInfo, Error> {
        let request = WriterRequest { reference: reference.to_owned(), ..WriterRequest::default() };
        let store = Arc::clone(&self.service.content);
        let mut writer = store
            .writer(&self.namespace, request, self.lease.as_ref())
            .map_err(content("failed to open writer"))?;
        if !fresh {
            writer.truncate(0).map_err(content("failed to write diff"))?;
        }
        let (layer, output) = io::pipe().map_err(broken("failed to write diff"))?;
        let mounts = |mounts: &mut Vec<_>| {
            std::mem::take(mounts).into_iter().map(Mount::from).collect::<Vec<_>>()
        };
        let newest = self.request.source_date_epoch.map(|stamp| stamp.seconds);
        let compare = Compare {
            output: output.into(),
            lower: mounts(&mut self.request.left),
            upper: mounts(&mut self.request.right),
            options: CompareOptions { compression: self.compression, newest },
        };
        let running = compare.spawn(&self.service.program)?;
        if let Err(killer) = killer.send(running.killer()?) {
            killer.kill();
        }
        // When the bytes cannot be kept, `running` is dropped, which ends the
        // worker.
        take_in(File::from(std::os::fd::OwnedFd::from(layer)), &mut writer)?;
        let archive = running.wait()?;
        self.commit(writer, &archive)
    }

    fn commit(&mut self, writer: ContentWriter, archive: &Applied) -> Result<ContentInfo, Error> {
        let mut labels: Labels = std::mem::take(&mut self.request.labels);
        if self.compression != Compression::None {
            labels.insert(UNCOMPRESSED.to_owned(), archive.digest.to_string());
        }
        let digest = writer.digest();
        match writer.commit(0, Some(&digest), &labels) {
            Ok(info) => {
                publish_created(&self.service.events, &self.namespace, &info);
                return Ok(info);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(content("failed to commit")(error)),
        }
        let (store, namespace) = (&self.service.content, &self.namespace);
        let info = store.info(namespace, &digest);
        let mut info = info.map_err(content("failed to get info from content store"))?;
        // It may have come from elsewhere, where nobody knew.
        if let Some(uncompressed) = labels.remove(UNCOMPRESSED)
            && !info.labels.contains_key(UNCOMPRESSED)
        {
            let labels = Labels::from([(UNCOMPRESSED.to_owned(), uncompressed)]);
            let paths = [format!("labels.{UNCOMPRESSED}")];
            let updated = store.update(namespace, &digest, &labels, &paths);
            info = updated.map_err(content("error setting uncompressed label"))?;
        }
        Ok(info)
    }
}

fn take_in(mut layer: File, writer: &mut ContentWriter) -> Result<(), Error> {
    let mut buffer = vec![0; BLOCK];
    loop {
        match layer.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                writer.write(&buffer[..count]).map_err(content("failed to write diff"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken("failed to write diff")(error)),
        }
    }
}

/// A name for an ingest that nobody goes on with.
fn unique_reference() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{nanos}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.to_string(),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        ..Descriptor::default()
    }
}
