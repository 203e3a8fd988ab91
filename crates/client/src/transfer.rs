//! The transfer service, from the client's side: images between the daemon's
//! store, registries and archives, with progress. Works on davitd and on
//! containerd 2.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use davit_distribution::manifest::Document;
use davit_distribution::pull::names::{is_index, is_manifest};
use davit_protocols::grpc::containerd::services::streaming::v1::StreamInit;
use davit_protocols::grpc::containerd::services::transfer::v1::{TransferOptions, TransferRequest};
pub use davit_protocols::grpc::containerd::types::transfer as types;
use davit_types::{Descriptor, Platform};
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{Client, Error, content, image};

/// Messages to the daemon that may wait to be sent, for each stream.
const PENDING_MAX: usize = 16;
/// What the daemon may send of an archive before we have taken it, in bytes.
const WINDOW: i32 = 1 << 20;
/// How long to listen for the last reports once the transfer has ended.
/// containerd does not say which is the last.
const LAST_REPORTS: Duration = Duration::from_millis(300);

const PACKAGE: &str = "containerd.types.transfer";

/// A stream that a transfer uses, open.
struct Stream {
    id: String,
    outgoing: mpsc::Sender<Any>,
    incoming: tonic::Streaming<Any>,
}

impl Stream {
    /// Opens one and waits until it can be used.
    async fn open(client: &Client, kind: &str) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let now = jiff::Timestamp::now().as_nanosecond();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{now}-{}-{number}-{kind}", std::process::id());
        let (outgoing, receiver) = mpsc::channel(PENDING_MAX);
        let init = StreamInit { id: id.clone() };
        let type_url = "containerd.services.streaming.v1.StreamInit".to_owned();
        let first = Any { type_url, value: init.encode_to_vec() };
        outgoing.send(first).await.map_err(|_| Error::Stopped)?;
        let opened = client.streaming().stream(ReceiverStream::new(receiver)).await?;
        let mut incoming = opened.into_inner();
        // The daemon's first message says that the stream is registered.
        incoming.message().await?.ok_or_else(|| Error::invalid(&id, "the stream has ended"))?;
        Ok(Self { id, outgoing, incoming })
    }

    async fn send(&self, name: &str, message: &impl Message) -> Result<(), Error> {
        self.outgoing.send(pack(name, message)).await.map_err(|_| Error::Stopped)
    }

    /// The next message of type `name`; others are passed over. `None` at the
    /// end.
    async fn next<M: Message + Default>(&mut self, name: &str) -> Result<Option<M>, Error> {
        while let Some(any) = self.incoming.message().await? {
            if any.type_url.rsplit('/').next() != Some(&format!("{PACKAGE}.{name}")) {
                continue;
            }
            let message = M::decode(any.value.as_slice());
            return message.map(Some).map_err(|error| Error::invalid(name, error));
        }
        Ok(None)
    }
}

fn pack(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("{PACKAGE}.{name}"), value: message.encode_to_vec() }
}

/// A registry, as source or destination.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// Host, repository, and tag or digest.
    pub reference: String,
    /// Speak plain http with hosts that no file describes.
    pub plain_http: bool,
    /// A directory of `hosts.toml` files, on the daemon's machine.
    pub hosts_dir: String,
    /// Sent along with every request.
    pub headers: Vec<(String, String)>,
}

/// Fetches from `registry` what `store` says.
///
/// `login` is asked who we are; `told` is told how it goes. Dropping this ends
/// the transfer.
///
/// # Errors
/// What the daemon answers; Unimplemented from those without the service.
pub async fn pull(
    client: &Client,
    registry: &Registry,
    store: &types::ImageStore,
    login: impl AsyncFnMut(types::AuthRequest) -> types::AuthResponse,
    told: impl FnMut(types::Progress),
) -> Result<(), Error> {
    let streams = Streams::open(client).await?;
    let request = streams.request(registry.source(&streams.auth.id), pack("ImageStore", store));
    run(client, request, streams, login, told).await
}

/// Sends the image `name` to `registry`. See [`pull`].
///
/// # Errors
/// As [`pull`].
pub async fn push(
    client: &Client,
    name: &str,
    registry: &Registry,
    login: impl AsyncFnMut(types::AuthRequest) -> types::AuthResponse,
    told: impl FnMut(types::Progress),
) -> Result<(), Error> {
    push_platforms(client, name, &[], registry, login, told).await
}

/// As [`push`], but of an index only what is for `platforms`, and what does not
/// say what it is for; all of it without any. The index itself goes as it is.
///
/// # Errors
/// As [`pull`].
pub async fn push_platforms(
    client: &Client,
    name: &str,
    platforms: &[Platform],
    registry: &Registry,
    login: impl AsyncFnMut(types::AuthRequest) -> types::AuthResponse,
    told: impl FnMut(types::Progress),
) -> Result<(), Error> {
    let streams = Streams::open(client).await?;
    let store = types::ImageStore {
        name: name.to_owned(),
        platforms: platforms.iter().cloned().map(Into::into).collect(),
        ..Default::default()
    };
    let to = registry.source(&streams.auth.id);
    let request = streams.request(pack("ImageStore", &store), to);
    run(client, request, streams, login, told).await
}

/// The platforms that an image's index lists, by what is here of them.
#[derive(Clone, Debug, Default)]
pub struct Here {
    /// Those of which all content is here.
    pub whole: Vec<Platform>,
    /// The others; attestations are unknown/unknown.
    pub missing: Vec<Platform>,
}

/// Looks for all that the image called `name` refers to. There are no platforms
/// where the name leads to no index.
///
/// # Errors
/// Not found when there is no image, or nothing of it; [`Error::Invalid`] for
/// documents that make no sense.
pub async fn here(client: &Client, name: &str) -> Result<Here, Error> {
    let root = Descriptor::try_from(image::target(client, name).await?)
        .map_err(|error| Error::invalid(name, error))?;
    let mut here = Here::default();
    if !is_index(&root.media_type) {
        return Ok(here);
    }
    for entry in document(client, &root).await?.entries() {
        let Some(platform) = &entry.platform else { continue };
        let side = match is_whole(client, &entry.blob).await? {
            true => &mut here.whole,
            false => &mut here.missing,
        };
        if !side.contains(platform) {
            side.push(platform.clone());
        }
    }
    Ok(here)
}

/// Whether `root` and all that it refers to is here.
async fn is_whole(client: &Client, root: &Descriptor) -> Result<bool, Error> {
    let mut seen = HashSet::new();
    let mut pending = vec![root.clone()];
    while let Some(blob) = pending.pop() {
        if !seen.insert(blob.digest.clone()) {
            continue;
        }
        if content::size(client, &blob.digest).await?.is_none() {
            return Ok(false);
        }
        if is_index(&blob.media_type) || is_manifest(&blob.media_type) {
            let document = document(client, &blob).await?;
            pending.extend(document.entries().map(|entry| entry.blob.clone()));
        }
    }
    Ok(true)
}

async fn document(client: &Client, blob: &Descriptor) -> Result<Document, Error> {
    let (bytes, _) = content::read(client, &blob.digest).await?;
    Document::parse(&blob.media_type, &bytes)
        .map_err(|error| Error::invalid(blob.digest.as_str(), error))
}

/// Has the daemon write an archive of `images`, as `options` say, and hands
/// its bytes to `take`, which may wait.
///
/// # Errors
/// As [`pull`], and those of `take`.
pub async fn export<E: From<Error>>(
    client: &Client,
    images: &[String],
    options: types::ImageExportStream,
    mut take: impl AsyncFnMut(Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let mut stream = Stream::open(client, "export").await?;
    let extra = |name: &String| types::ImageReference { name: name.clone(), ..Default::default() };
    let store = types::ImageStore {
        extra_references: images.iter().map(extra).collect(),
        ..Default::default()
    };
    let to = types::ImageExportStream { stream: stream.id.clone(), ..options };
    let request = TransferRequest {
        source: Some(pack("ImageStore", &store)),
        destination: Some(pack("ImageExportStream", &to)),
        options: None,
    };
    let mut service = client.transfer();
    let mut call = std::pin::pin!(service.transfer(request));
    let mut window = 0;
    loop {
        if window < WINDOW {
            let update = types::WindowUpdate { update: WINDOW };
            // A daemon that is gone is found by what follows.
            let _ = stream.send("WindowUpdate", &update).await;
            window += WINDOW;
        }
        tokio::select! {
            biased;
            data = stream.next::<types::Data>("Data") => match data? {
                Some(data) => {
                    window -= i32::try_from(data.data.len()).unwrap_or(window).min(window);
                    take(data.data.into()).await?;
                }
                None => break,
            },
            answer = &mut call => {
                answer.map_err(Error::from)?;
                return rest(stream, take).await;
            }
        }
    }
    call.await.map_err(Error::from)?;
    Ok(())
}

/// Has the daemon read an archive, whose pieces `give` hands out until there
/// are none, and make images of it as `store` says.
///
/// `told` is told how it goes. Dropping this ends the transfer.
///
/// # Errors
/// As [`pull`], and those of `give`.
pub async fn import(
    client: &Client,
    give: impl AsyncFnMut() -> Result<Option<Bytes>, Error>,
    options: types::ImageImportStream,
    store: &types::ImageStore,
    told: impl FnMut(types::Progress),
) -> Result<(), Error> {
    let stream = Stream::open(client, "import").await?;
    let mut progress = Stream::open(client, "progress").await?;
    let from = types::ImageImportStream { stream: stream.id.clone(), ..options };
    let request = TransferRequest {
        source: Some(pack("ImageImportStream", &from)),
        destination: Some(pack("ImageStore", store)),
        options: Some(TransferOptions { progress_stream: progress.id.clone() }),
    };
    let work = call(client, request, &mut progress, told);
    tokio::select! {
        result = work => result,
        error = feed(stream, give) => Err(error),
    }
}

/// Sends an archive, as fast as the daemon takes it. Comes back only when
/// there is something wrong on this side.
async fn feed(
    mut stream: Stream,
    mut give: impl AsyncFnMut() -> Result<Option<Bytes>, Error>,
) -> Error {
    let mut window = 0_usize;
    let mut feed = async || {
        while let Some(mut piece) = give().await? {
            while !piece.is_empty() {
                while window == 0 {
                    let update = stream.next::<types::WindowUpdate>("WindowUpdate").await;
                    // The answer to the call says why the daemon wants no more.
                    let Ok(Some(update)) = update else { return Ok(()) };
                    window += usize::try_from(update.update).unwrap_or_default();
                }
                let data = piece.split_to(piece.len().min(window).min(WINDOW as usize));
                window -= data.len();
                if stream.send("Data", &types::Data { data: data.into() }).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    };
    if let Err(error) = feed().await {
        return error;
    }
    // Only the daemon's side stays open.
    let Stream { outgoing, mut incoming, .. } = stream;
    drop(outgoing);
    while let Ok(Some(_)) = incoming.message().await {}
    std::future::pending().await
}

/// Takes what the daemon had sent before it answered.
async fn rest<E: From<Error>>(
    mut stream: Stream,
    mut take: impl AsyncFnMut(Bytes) -> Result<(), E>,
) -> Result<(), E> {
    while let Ok(Ok(Some(data))) =
        tokio::time::timeout(LAST_REPORTS, stream.next::<types::Data>("Data")).await
    {
        take(data.data.into()).await?;
    }
    Ok(())
}

/// Those that a transfer with a registry uses.
struct Streams {
    progress: Stream,
    auth: Stream,
}

impl Streams {
    async fn open(client: &Client) -> Result<Self, Error> {
        let progress = Stream::open(client, "progress").await?;
        Ok(Self { progress, auth: Stream::open(client, "creds").await? })
    }

    fn request(&self, source: Any, destination: Any) -> TransferRequest {
        let options = Some(TransferOptions { progress_stream: self.progress.id.clone() });
        TransferRequest { source: Some(source), destination: Some(destination), options }
    }
}

impl Registry {
    fn source(&self, auth_stream: &str) -> Any {
        let resolver = types::RegistryResolver {
            auth_stream: auth_stream.to_owned(),
            headers: self.headers.iter().cloned().collect(),
            host_dir: self.hosts_dir.clone(),
            default_scheme: if self.plain_http { "http".to_owned() } else { String::new() },
            ..Default::default()
        };
        let reference = self.reference.clone();
        pack("OCIRegistry", &types::OciRegistry { reference, resolver: Some(resolver) })
    }
}

async fn run(
    client: &Client,
    request: TransferRequest,
    mut streams: Streams,
    mut login: impl AsyncFnMut(types::AuthRequest) -> types::AuthResponse,
    told: impl FnMut(types::Progress),
) -> Result<(), Error> {
    let Streams { progress, auth } = &mut streams;
    let answering = async {
        while let Ok(Some(request)) = auth.next::<types::AuthRequest>("AuthRequest").await {
            let answer = login(request).await;
            if auth.send("AuthResponse", &answer).await.is_err() {
                break;
            }
        }
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        result = call(client, request, progress, told) => result,
        never = answering => match never {},
    }
}

/// Calls the service, and hands on what it reports until it has answered.
async fn call(
    client: &Client,
    request: TransferRequest,
    progress: &mut Stream,
    mut told: impl FnMut(types::Progress),
) -> Result<(), Error> {
    let mut service = client.transfer();
    let mut call = std::pin::pin!(service.transfer(request));
    let mut listens = true;
    let answer = loop {
        tokio::select! {
            answer = &mut call => break answer,
            report = progress.next::<types::Progress>("Progress"), if listens => match report {
                Ok(Some(report)) => told(report),
                // The answer to the call says what went wrong.
                _ => listens = false,
            },
        }
    };
    while listens {
        let report = progress.next::<types::Progress>("Progress");
        match tokio::time::timeout(LAST_REPORTS, report).await {
            Ok(Ok(Some(report))) => told(report),
            _ => listens = false,
        }
    }
    answer?;
    Ok(())
}
