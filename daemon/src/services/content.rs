//! The service `containerd.services.content.v1` (containerd,
//! `plugins/services/content/contentserver`).

use std::pin::Pin;
use std::sync::Arc;

use davit_content::{IngestStatus, Reader};
use davit_events::Exchange;
use davit_index::{ContentInfo, ContentStore, ContentWalk, Error};
use davit_protocols::convert::grpc::{pack, timestamp};
use davit_protocols::grpc::containerd::events as wire_events;
use davit_protocols::grpc::containerd::services::content::v1 as wire;
use davit_protocols::topics;
use davit_types::{Digest, Namespace};
use futures::stream::{self, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::content_server::Content as Service;

use super::{answering, blocking, brief, lease, looking, namespace, publish, status};

mod write;

/// How many blobs one message of a list tells of, as with containerd.
const LIST_BLOCK: usize = 100;
/// Bytes in one message of a read, as with containerd.
const READ_BLOCK: usize = 1 << 20;
/// Messages that wait for a slow reader.
const MESSAGES_WAITING: usize = 2;

/// Serves the content of all namespaces.
#[derive(Clone)]
pub struct Content {
    /// Where it is.
    pub content: Arc<ContentStore>,
    /// Who is told of changes.
    pub events: Arc<Exchange>,
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Service for Content {
    async fn info(
        &self,
        request: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoResponse>, Status> {
        let digest = validated(&request.get_ref().digest)?;
        let namespace = namespace(&request)?;
        let info = brief(|| self.content.info(&namespace, &digest))?;
        Ok(Response::new(wire::InfoResponse { info: Some(info_to_wire(info)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        let asked = request.get_ref().info.as_ref().map_or("", |info| info.digest.as_str());
        let digest = validated(asked)?;
        let namespace = namespace(&request)?;
        let wire::UpdateRequest { info, update_mask } = request.into_inner();
        let labels = info.unwrap_or_default().labels;
        let paths = update_mask.unwrap_or_default().paths;
        let content = Arc::clone(&self.content);
        let info = blocking(move || content.update(&namespace, &digest, &labels, &paths)).await?;
        Ok(Response::new(wire::UpdateResponse { info: Some(info_to_wire(info)) }))
    }

    type ListStream = Messages<wire::ListContentResponse>;

    async fn list(
        &self,
        request: Request<wire::ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let namespace = namespace(&request)?;
        let filters = request.into_inner().filters;
        let content = Arc::clone(&self.content);
        let walk = content.walk(&namespace, &filters).map_err(status)?;
        let (sender, messages) = mpsc::channel(MESSAGES_WAITING);
        tokio::spawn(list(content, walk, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteContentRequest>,
    ) -> Result<Response<()>, Status> {
        let digest = parse(&request.get_ref().digest).map_err(Status::invalid_argument)?;
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let Self { content, events } = self.clone();
        blocking(move || {
            content.delete(&namespace, &digest, lease.as_ref())?;
            let event = pack(&wire_events::ContentDelete { digest: digest.to_string() });
            publish(&events, &namespace, topics::CONTENT_DELETE, event);
            Ok::<_, Error>(())
        })
        .await?;
        Ok(Response::new(()))
    }

    type ReadStream = Messages<wire::ReadContentResponse>;

    async fn read(
        &self,
        request: Request<wire::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let text = request.get_ref().digest.clone();
        let digest =
            parse(&text).map_err(|why| Status::invalid_argument(format!("{text}: {why}")))?;
        let namespace = namespace(&request)?;
        let wire::ReadContentRequest { offset, size, .. } = request.into_inner();
        let content = Arc::clone(&self.content);
        let (first, rest) = answering(move || {
            let reader = content.reader(&namespace, &digest).map_err(status)?;
            let range = range(offset, size, reader.size())?;
            Ok(Unsent { reader, position: range.start, range }.next())
        })
        .await?;
        let Some(rest) = rest else { return Ok(Response::new(Box::pin(stream::iter(first)))) };
        let (sender, messages) = mpsc::channel(MESSAGES_WAITING);
        tokio::spawn(send(rest, sender));
        let first = stream::iter(first);
        Ok(Response::new(Box::pin(first.chain(ReceiverStream::new(messages)))))
    }

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        let namespace = namespace(&request)?;
        let reference = request.into_inner().r#ref;
        let content = Arc::clone(&self.content);
        let found = blocking(move || {
            content
                .status(&namespace, &reference)
                .map_err(|source| InStatus { reference, source: Box::new(source) })
        })
        .await?;
        Ok(Response::new(wire::StatusResponse { status: Some(status_to_wire(found)) }))
    }

    async fn list_statuses(
        &self,
        request: Request<wire::ListStatusesRequest>,
    ) -> Result<Response<wire::ListStatusesResponse>, Status> {
        let namespace = namespace(&request)?;
        let filters = request.into_inner().filters;
        let content = Arc::clone(&self.content);
        let found = blocking(move || content.list_statuses(&namespace, &filters)).await?;
        let statuses = found.into_iter().map(status_to_wire).collect();
        Ok(Response::new(wire::ListStatusesResponse { statuses }))
    }

    type WriteStream = Messages<wire::WriteContentResponse>;

    async fn write(
        &self,
        request: Request<Streaming<wire::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let session = write::Session::new(self.clone(), namespace, lease);
        Ok(Response::new(Box::pin(session.run(request.into_inner()))))
    }

    async fn abort(&self, request: Request<wire::AbortRequest>) -> Result<Response<()>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let reference = request.into_inner().r#ref;
        let content = Arc::clone(&self.content);
        blocking(move || content.abort(&namespace, &reference, lease.as_ref())).await?;
        Ok(Response::new(()))
    }
}

/// Sends a list a page at a time, as fast as it is taken.
async fn list(
    content: Arc<ContentStore>,
    mut walk: ContentWalk,
    messages: mpsc::Sender<Result<wire::ListContentResponse, Status>>,
) {
    loop {
        let content = Arc::clone(&content);
        let read = looking(move || {
            let page = content.next_page(&mut walk)?;
            Ok::<_, Error>((walk, page))
        });
        let page = match read.await {
            Ok((next, Some(page))) => {
                walk = next;
                page
            }
            Ok((_, None)) => return,
            Err(error) => return drop(messages.send(Err(error)).await),
        };
        let mut infos = page.into_iter().map(info_to_wire).peekable();
        while infos.peek().is_some() {
            let info = infos.by_ref().take(LIST_BLOCK).collect();
            if messages.send(Ok(wire::ListContentResponse { info })).await.is_err() {
                return;
            }
        }
    }
}

/// Tells of a blob that a namespace has got.
pub(crate) fn publish_created(events: &Exchange, namespace: &Namespace, info: &ContentInfo) {
    let event = pack(&wire_events::ContentCreate {
        digest: info.digest.to_string(),
        size: signed(info.size),
    });
    publish(events, namespace, topics::CONTENT_CREATE, event);
}

/// Reads a digest; what is wrong with it in the words of Go's digest package.
fn parse(text: &str) -> Result<Digest, &'static str> {
    text.parse().map_err(|_| {
        let format = "invalid checksum digest format";
        let Some((algorithm, encoded)) = text.split_once(':') else { return format };
        let known = match algorithm {
            "sha256" => Some(64),
            "sha384" => Some(96),
            "sha512" => Some(128),
            _ => None,
        };
        let in_set = |text: &str, extra: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
        };
        match known {
            Some(length) if encoded.len() != length && !encoded.is_empty() => {
                "invalid checksum digest length"
            }
            None if in_set(algorithm, ".+_-")
                && algorithm == algorithm.to_ascii_lowercase()
                && in_set(encoded, "=_-") =>
            {
                "unsupported digest algorithm"
            }
            _ => format,
        }
    })
}

fn validated(text: &str) -> Result<Digest, Status> {
    parse(text).map_err(|_| Status::invalid_argument(format!("{text:?} failed validation")))
}

/// Which bytes a read is about. Less than nothing is asked for by clients
/// that want all.
fn range(offset: i64, size: i64, actual: u64) -> Result<std::ops::Range<u64>, Status> {
    let offset = u64::try_from(offset).unwrap_or(0);
    let Some(rest) = actual.checked_sub(offset) else {
        return Err(Status::out_of_range(format!("read past object length {actual} bytes")));
    };
    let size = u64::try_from(size).ok().filter(|&size| size > 0).unwrap_or(rest);
    Ok(offset..offset + size.min(rest))
}

/// What a read has not sent yet.
struct Unsent {
    reader: Reader,
    range: std::ops::Range<u64>,
    position: u64,
}

type ReadMessage = Result<wire::ReadContentResponse, Status>;

impl Unsent {
    /// Reads the next message, none where the bytes end, and what comes after
    /// it. Blocks. The offsets count from the start of the answer, as
    /// containerd's do.
    fn next(mut self) -> (Option<ReadMessage>, Option<Self>) {
        let Self { reader, range, position } = &mut self;
        let wanted = usize::try_from(range.end - *position).unwrap_or(usize::MAX).min(READ_BLOCK);
        let mut data = vec![0; wanted];
        let count = match reader.read_at(&mut data, *position) {
            Ok(0) => return (None, None),
            Ok(count) => count,
            Err(error) => return (Some(Err(unread(&error))), None),
        };
        data.truncate(count);
        let offset = signed(*position - range.start);
        *position += count as u64;
        let is_last = *position >= range.end;
        let message = wire::ReadContentResponse { offset, data: data.into() };
        (Some(Ok(message)), (!is_last).then_some(self))
    }
}

/// Sends the bytes until they end or nobody wants them.
async fn send(unsent: Unsent, messages: mpsc::Sender<ReadMessage>) {
    let mut unsent = Some(unsent);
    while let Some(blocks) = unsent {
        let (next, rest) = match answering(move || Ok(blocks.next())).await {
            Ok(step) => step,
            Err(failure) => (Some(Err(failure)), None),
        };
        let Some(next) = next else { return };
        if messages.send(next).await.is_err() {
            return;
        }
        unsent = rest;
    }
}

/// What another process says of why it does not read is said as it says it.
fn unread(error: &std::io::Error) -> Status {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<davit_content::Error>());
    let Some(inner) = inner else { return Status::unknown(error.to_string()) };
    let code = davit_protocols::error::grpc_code(davit_types::Kind::kind(inner));
    Status::new(code, inner.to_string())
}

/// An ingest's status that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("could not get status for ref {reference:?}")]
struct InStatus {
    reference: String,
    #[source]
    source: Box<Error>,
}

impl davit_types::Kind for InStatus {
    fn kind(&self) -> davit_types::ErrorKind {
        self.source.kind()
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn info_to_wire(info: ContentInfo) -> wire::Info {
    wire::Info {
        digest: info.digest.to_string(),
        size: signed(info.size),
        created_at: Some(timestamp(info.created_at)),
        updated_at: Some(timestamp(info.updated_at)),
        labels: info.labels,
    }
}

fn status_to_wire(status: IngestStatus) -> wire::Status {
    wire::Status {
        started_at: Some(timestamp(status.started_at)),
        updated_at: Some(timestamp(status.updated_at)),
        r#ref: status.reference,
        offset: signed(status.offset),
        total: signed(status.total),
        expected: status.expected.map(|digest| digest.to_string()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_wrong_with_a_digest_as_go_does() {
        let hex = "a".repeat(64);
        assert!(parse(&format!("sha256:{hex}")).is_ok());
        for (text, expected) in [
            ("", "invalid checksum digest format"),
            (":", "invalid checksum digest format"),
            ("sha256:", "invalid checksum digest format"),
            (&hex, "invalid checksum digest format"),
            (&format!("sha256:{}", "A".repeat(64)), "invalid checksum digest format"),
            ("sha256:aa", "invalid checksum digest length"),
            ("md5:aa", "unsupported digest algorithm"),
            ("sha256+b64u:aa", "unsupported digest algorithm"),
            ("md5:../../x", "invalid checksum digest format"),
        ] {
            assert_eq!(parse(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn reads_what_is_there_of_what_was_asked_for() {
        for (offset, size, expected) in [
            (0, 0, 0..10),
            (-5, -5, 0..10),
            (3, 0, 3..10),
            (3, 4, 3..7),
            (3, 100, 3..10),
            (10, 1, 10..10),
            (5, i64::MAX, 5..10),
        ] {
            assert_eq!(range(offset, size, 10).unwrap(), expected, "{offset} {size}");
        }
        let error = range(11, 0, 10).unwrap_err();
        assert_eq!(error.code(), tonic::Code::OutOfRange);
        assert_eq!(error.message(), "read past object length 10 bytes");
    }
}
