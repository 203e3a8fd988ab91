//! Writing to an ingest of a store in another process: one stream, on which
//! each message is answered by one.

use std::fs::File;
use std::time::{Duration, SystemTime};

use davit_content::{BackendWriter, BlobInfo, Error as ContentError, IngestStatus, digest};
use davit_protocols::grpc::containerd::services::content::v1 as wire;
use davit_types::{Algorithm, Digest, Labels};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{COMMIT_LIMIT, Content, Inner, LEAVING_MAX, LIMIT, elsewhere};
use crate::proxy::Error;
use crate::proxy::link::about;

/// Bytes that are sent in one message.
const BLOCK: usize = 1 << 20;
/// Holds a blob in a store that collects garbage by itself; what is garbage
/// in this one, the index knows.
const ROOT: &str = "containerd.io/gc.root";

type Answers = Streaming<wire::WriteContentResponse>;

/// An ingest that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    store: Content,
    requests: mpsc::Sender<wire::WriteContentRequest>,
    /// `None` once an answer did not come: a later one would be taken for it.
    answers: Option<Answers>,
    status: IngestStatus,
    digest: Digest,
}

impl Writer {
    /// Opens the ingest `reference`.
    pub(super) fn open(store: Content, reference: &str, total: u64) -> Result<Self, ContentError> {
        let (requests, receiver) = mpsc::channel(1);
        let first = wire::WriteContentRequest {
            action: wire::WriteAction::Stat.into(),
            r#ref: reference.to_owned(),
            total: i64::try_from(total).unwrap_or(i64::MAX),
            ..wire::WriteContentRequest::default()
        };
        // There is room for one.
        let _ = requests.try_send(first);
        let request = about(&store.0.namespace, ReceiverStream::new(receiver));
        let (answer, answers) = store.0.call(LIMIT, |mut client| async move {
            let mut answers = client.write(request).await?.into_inner();
            let answer = answers.message().await?.ok_or_else(ended)?;
            Ok((answer, answers))
        })?;
        let status = IngestStatus {
            reference: reference.to_owned(),
            offset: store.0.unsigned(answer.offset)?,
            total,
            expected: None,
            started_at: store.0.moment("started_at", answer.started_at)?,
            updated_at: store.0.moment("updated_at", answer.updated_at)?,
        };
        let digest = match answer.digest.as_str() {
            "" if status.offset == 0 => digest(Algorithm::Sha256, b""),
            text => parse(&store.0, text)?,
        };
        Ok(Self { store, requests, answers: Some(answers), status, digest })
    }

    /// Sends one message and takes its answer.
    fn exchange(
        &mut self,
        limit: Duration,
        action: wire::WriteAction,
        request: wire::WriteContentRequest,
    ) -> Result<wire::WriteContentResponse, ContentError> {
        let inner = &self.store.0;
        let Some(mut answers) = self.answers.take() else {
            let reason = "the ingest's stream has broken before".to_owned();
            return Err(elsewhere(&Error::Away { who: inner.link.who(), reason }));
        };
        let request = wire::WriteContentRequest { action: action.into(), ..request };
        let requests = self.requests.clone();
        let exchanged = inner.link.within(limit, async {
            // When the other side has ended the stream, it has said why.
            let _ = requests.send(request).await;
            let answer = answers.message().await?.ok_or_else(ended)?;
            Ok((answer, answers))
        });
        let (answer, answers) = inner.wait(exchanged)?;
        self.answers = Some(answers);
        Ok(answer)
    }

    fn offset(&self) -> i64 {
        i64::try_from(self.status.offset).unwrap_or(i64::MAX)
    }

    /// Sends a block, to what is written so far or in place of it.
    fn send(&mut self, data: &[u8]) -> Result<(), ContentError> {
        let request = wire::WriteContentRequest {
            offset: self.offset(),
            data: data.to_vec().into(),
            ..wire::WriteContentRequest::default()
        };
        let mut answer = self.exchange(LIMIT, wire::WriteAction::Write, request)?;
        let expected = self.status.offset + data.len() as u64;
        if self.store.0.unsigned(answer.offset)? != expected {
            let what = format!("{} bytes of {expected} are written", answer.offset);
            return Err(self.store.0.nonsense(what));
        }
        if answer.digest.is_empty() {
            let stat = wire::WriteContentRequest::default();
            answer = self.exchange(LIMIT, wire::WriteAction::Stat, stat)?;
        }
        self.digest = parse(&self.store.0, &answer.digest)?;
        self.status.offset = expected;
        self.status.updated_at = SystemTime::now();
        Ok(())
    }
}

fn ended() -> Status {
    Status::unavailable("the stream has ended without an answer: unavailable")
}

fn parse(store: &Inner, text: &str) -> Result<Digest, ContentError> {
    text.parse().map_err(|error| store.nonsense(error))
}

impl BackendWriter for Writer {
    fn status(&self) -> IngestStatus {
        self.status.clone()
    }

    fn digest(&self) -> Digest {
        self.digest.clone()
    }

    fn file(&self) -> Result<Option<File>, ContentError> {
        Ok(None)
    }

    fn write(&mut self, data: &[u8]) -> Result<(), ContentError> {
        data.chunks(BLOCK).try_for_each(|block| self.send(block))
    }

    fn truncate(&mut self, size: u64) -> Result<(), ContentError> {
        if size != 0 {
            return Err(ContentError::UnsupportedTruncate);
        }
        if self.status.offset > 0 {
            self.status.offset = 0;
            self.send(b"")?;
        }
        Ok(())
    }

    fn commit(
        mut self: Box<Self>,
        size: u64,
        expected: Option<&Digest>,
    ) -> Result<BlobInfo, ContentError> {
        let actual = self.status.offset;
        if size > 0 && size != actual {
            return Err(ContentError::UnexpectedSize { actual, expected: size });
        }
        if let Some(expected) = expected
            && *expected != self.digest
        {
            let (actual, expected) = (self.digest.clone(), expected.clone());
            return Err(ContentError::UnexpectedDigest { actual, expected });
        }
        let now = jiff::Timestamp::now().to_string();
        let request = wire::WriteContentRequest {
            total: self.offset(),
            offset: self.offset(),
            expected: self.digest.to_string(),
            labels: Labels::from([(ROOT.to_owned(), now)]),
            ..wire::WriteContentRequest::default()
        };
        let answer = self.exchange(COMMIT_LIMIT, wire::WriteAction::Commit, request)?;
        let digest = parse(&self.store.0, &answer.digest)?;
        if digest != self.digest {
            let actual = digest;
            return Err(ContentError::UnexpectedDigest { actual, expected: self.digest.clone() });
        }
        let now = SystemTime::now();
        Ok(BlobInfo { digest, size: actual, created_at: now, updated_at: now })
    }
}

impl Drop for Writer {
    /// Ends the stream in good order, so that the store lets go of the ingest
    /// and keeps what it has.
    fn drop(&mut self) {
        let (Some(mut answers), Ok(runtime)) = (self.answers.take(), Handle::try_current()) else {
            return;
        };
        let (closed, _) = mpsc::channel(1);
        self.requests = closed;
        runtime.spawn(tokio::time::timeout(LEAVING_MAX, async move {
            while let Ok(Some(_)) = answers.message().await {}
        }));
    }
}
