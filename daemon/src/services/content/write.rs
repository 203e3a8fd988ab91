//! One client writing one blob.

use davit_index::{ContentWriter, LeaseId, WriterRequest};
use davit_types::{Digest, Namespace};
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

use super::{
    Content, MESSAGES_WAITING, ReceiverStream, Status, Stream, blocking, publish_created, signed,
    status, timestamp, wire,
};

/// What a client has said so far, and what it has been told.
pub(super) struct Session {
    service: Content,
    namespace: Namespace,
    lease: Option<LeaseId>,
    reference: String,
    /// As the client wrote it; it need not be a digest until it is needed.
    expected: String,
    total: i64,
    /// Answers are the last one with changes.
    answer: wire::WriteContentResponse,
}

/// What a message leads to.
enum Next {
    /// The blob can be written on.
    Open(Box<ContentWriter>),
    /// It is committed.
    Committed,
}

impl Session {
    pub fn new(service: Content, namespace: Namespace, lease: Option<LeaseId>) -> Self {
        Self {
            service,
            namespace,
            lease,
            reference: String::new(),
            expected: String::new(),
            total: 0,
            answer: wire::WriteContentResponse::default(),
        }
    }

    /// Answers each message by one, and the last one's by two, as containerd
    /// does.
    pub fn run(
        mut self,
        mut requests: Streaming<wire::WriteContentRequest>,
    ) -> impl Stream<Item = Result<wire::WriteContentResponse, Status>> + Send {
        let (sender, answers) = mpsc::channel(MESSAGES_WAITING);
        tokio::spawn(async move {
            let last = match self.serve(&mut requests, &sender).await {
                Ok(()) => Ok(self.answer),
                Err(error) => {
                    if error.code() != Code::AlreadyExists {
                        let reference = self.reference.as_str();
                        log::warn!(reference, error:% = error.message(); "a write failed");
                    }
                    Err(error)
                }
            };
            // A client that has gone has heard enough.
            let _ = sender.send(last).await;
        });
        ReceiverStream::new(answers)
    }

    async fn serve(
        &mut self,
        requests: &mut Streaming<wire::WriteContentRequest>,
        answers: &mpsc::Sender<Result<wire::WriteContentResponse, Status>>,
    ) -> Result<(), Status> {
        let mut request = requests.message().await?.ok_or_else(|| Status::unknown("EOF"))?;
        self.reference.clone_from(&request.r#ref);
        if self.reference.is_empty() {
            return Err(Status::invalid_argument("first message must have a reference"));
        }
        self.expected.clone_from(&request.expected);
        self.total = request.total;
        let mut writer = self.open().await?;
        loop {
            match self.message(writer, request).await? {
                Next::Open(open) => writer = open,
                Next::Committed => {
                    let _ = answers.send(Ok(self.answer.clone())).await;
                    return Ok(());
                }
            }
            if answers.send(Ok(self.answer.clone())).await.is_err() {
                return Err(Status::cancelled("context canceled"));
            }
            request = match requests.message().await? {
                Some(request) => request,
                None => return Ok(()),
            };
        }
    }

    async fn open(&self) -> Result<Box<ContentWriter>, Status> {
        let request = WriterRequest {
            reference: self.reference.clone(),
            total: u64::try_from(self.total).unwrap_or(0),
            expected: self.expected.parse().ok(),
        };
        let content = self.service.content.clone();
        let (namespace, lease) = (self.namespace.clone(), self.lease.clone());
        blocking(move || content.writer(&namespace, request, lease.as_ref())).await.map(Box::new)
    }

    async fn message(
        &mut self,
        writer: Box<ContentWriter>,
        request: wire::WriteContentRequest,
    ) -> Result<Next, Status> {
        self.answer.action = request.action;
        self.answer.offset = signed(writer.offset());
        if !request.expected.is_empty() {
            self.expected.clone_from(&request.expected);
            if self.hold_existing().await? {
                drop(writer);
                return Err(self.give_up().await);
            }
        }
        if request.total > 0 {
            self.total = request.total;
        }
        match wire::WriteAction::try_from(request.action) {
            Ok(wire::WriteAction::Stat) => {
                let status = writer.status();
                self.answer.digest = writer.digest().to_string();
                self.answer.started_at = Some(timestamp(status.started_at));
                self.answer.updated_at = Some(timestamp(status.updated_at));
                self.answer.total = self.total;
                Ok(Next::Open(writer))
            }
            Ok(action) => self.write(writer, request, action).await,
            Err(_) => Ok(Next::Open(writer)),
        }
    }

    /// Whether the namespace has got the blob meanwhile; the caller's lease
    /// holds it then.
    async fn hold_existing(&self) -> Result<bool, Status> {
        let Ok(digest) = self.expected.parse::<Digest>() else { return Ok(false) };
        let (content, namespace) = (self.service.content.clone(), self.namespace.clone());
        let lease = self.lease.clone();
        blocking(move || content.hold_whole(&namespace, &digest, lease.as_ref())).await
    }

    /// Throws an ingest away that has become needless.
    async fn give_up(&self) -> Status {
        let content = self.service.content.clone();
        let (namespace, lease) = (self.namespace.clone(), self.lease.clone());
        let reference = self.reference.clone();
        let aborted = blocking(move || content.abort(&namespace, &reference, lease.as_ref()));
        if let Err(error) = aborted.await {
            let reference = self.reference.as_str();
            log::warn!(reference, error:% = error.message(); "a write could not be aborted");
        }
        Status::already_exists(format!("blob with expected digest {} exists", self.expected))
    }

    async fn write(
        &mut self,
        writer: Box<ContentWriter>,
        request: wire::WriteContentRequest,
        action: wire::WriteAction,
    ) -> Result<Next, Status> {
        let at = signed(writer.offset());
        if request.offset > 0 && request.offset != at {
            let asked = request.offset;
            return Err(Status::out_of_range(format!(
                "write @{asked} must occur at current offset {at}"
            )));
        }
        let restart = request.offset == 0 && at > 0;
        let data = request.data;
        let writer = run(writer, move |writer| {
            if restart {
                writer.truncate(0).map_err(|error| {
                    let inner = status(error);
                    Status::unknown(format!("truncate failed: {}", inner.message()))
                })?;
            }
            writer.write(&data).map_err(status)
        })
        .await?;
        self.answer.offset = signed(writer.offset());
        if action != wire::WriteAction::Commit {
            self.answer.digest = writer.digest().to_string();
            return Ok(Next::Open(writer));
        }
        self.commit(writer, request.labels).await?;
        Ok(Next::Committed)
    }

    async fn commit(
        &mut self,
        writer: Box<ContentWriter>,
        labels: davit_types::Labels,
    ) -> Result<(), Status> {
        let expected = match self.expected.as_str() {
            "" => None,
            text => Some(text.parse::<Digest>().map_err(|_| {
                let actual = writer.digest();
                Status::failed_precondition(format!(
                    "unexpected commit digest {actual}, expected {text}: failed precondition"
                ))
            })?),
        };
        let Ok(size) = u64::try_from(self.total) else {
            return Err(Status::failed_precondition(format!(
                "{:?} failed size validation: {} != {}: failed precondition",
                self.reference,
                writer.offset(),
                self.total
            )));
        };
        let (events, namespace) = (self.service.events.clone(), self.namespace.clone());
        let info = blocking(move || {
            let info = writer.commit(size, expected.as_ref(), &labels)?;
            publish_created(&events, &namespace, &info);
            Ok::<_, davit_index::Error>(info)
        })
        .await?;
        self.answer.digest = info.digest.to_string();
        Ok(())
    }
}

/// Runs `work` with the writer where blocking is allowed, and hands the
/// writer back.
async fn run(
    mut writer: Box<ContentWriter>,
    work: impl FnOnce(&mut ContentWriter) -> Result<(), Status> + Send + 'static,
) -> Result<Box<ContentWriter>, Status> {
    let done = tokio::task::spawn_blocking(move || work(&mut writer).map(|()| writer));
    done.await.map_err(|error| Status::internal(error.to_string()))?
}
