//! Events to the daemon: one queue, in order, until each has been taken.
//!
//! The daemon may be away for as long as it likes; the queue waits
//! ([`crate::queue`]) and delivery goes on when its socket answers again. An
//! event whose delivery broke off half-way is sent again, so that the daemon
//! can see it twice but never miss it. Only an event that the daemon refuses
//! for good (InvalidArgument, say) is dropped, with a line in the log.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use davit_protocols::ttrpc::client::{Client, ClientError};
use davit_protocols::ttrpc::events_service::ForwardRequest;
use davit_protocols::ttrpc::server::Metadata;
use davit_protocols::ttrpc::types::Envelope;
use davit_types::{ErrorKind, Kind, Namespace};
use protobuf::Message;
use protobuf::well_known_types::any::Any as WireAny;
use protobuf::well_known_types::timestamp::Timestamp;
use tokio::sync::Notify;

use crate::events::Event;
use crate::queue::Queue;
use crate::{Failure, Reaper};

/// The service that takes events.
const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

/// How long the daemon may take for one event; then it is sent again.
pub const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);

/// The first and the longest pause between tries while the daemon is away.
pub const PAUSE_MIN: Duration = Duration::from_millis(50);
/// See [`PAUSE_MIN`].
pub const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How long an unused connection to the daemon is kept.
pub const IDLE_MAX: Duration = Duration::from_secs(3);

/// The way of events to the daemon: ordered, kept while the daemon is away,
/// delivered when it is back. Cheap to clone; all clones are one queue.
#[derive(Clone)]
pub struct Publisher(Rc<Inner>);

struct Inner {
    namespace: Namespace,
    queue: RefCell<Queue>,
    added: Notify,
    emptied: Notify,
}

/// Where events go.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// The daemon's ttrpc socket.
    Socket(PathBuf),
    /// The daemon's command `publish`, for daemons without such a socket.
    Command { binary: String, address: String, reaper: Reaper },
    /// Nobody wants them.
    Nowhere,
}

impl Publisher {
    /// Starts delivering. Must be called on a `LocalSet`.
    pub(crate) fn new(namespace: Namespace, bundle: &Path, destination: Destination) -> Self {
        let publisher = Self(Rc::new(Inner {
            namespace,
            queue: RefCell::new(Queue::new(bundle)),
            added: Notify::new(),
            emptied: Notify::new(),
        }));
        tokio::task::spawn_local(deliver_all(publisher.0.clone(), destination));
        publisher
    }

    /// Queues an event, stamped with the time of this call. Returns at once.
    /// Events arrive in the order of the calls.
    pub fn publish<E: Event>(&self, event: &E) {
        match event.write_to_bytes() {
            Ok(value) => self.publish_any(E::TOPIC, E::TYPE_NAME, value),
            Err(e) => log::error!(topic = E::TOPIC, error:% = e; "an event cannot be encoded"),
        }
    }

    /// Queues a message that is none of the task events: its topic, bare type
    /// name and bytes.
    pub fn publish_any(&self, topic: &str, type_name: &str, value: Vec<u8>) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut timestamp = Timestamp::new();
        timestamp.seconds = since.as_secs() as i64;
        timestamp.nanos = since.subsec_nanos() as i32;
        let mut envelope = Envelope::new();
        envelope.timestamp = Some(timestamp).into();
        envelope.namespace = self.0.namespace.to_string();
        envelope.topic = topic.to_owned();
        envelope.event =
            Some(WireAny { type_url: type_name.to_owned(), value, ..WireAny::default() }).into();
        let mut request = ForwardRequest::new();
        request.envelope = Some(envelope).into();
        match request.write_to_bytes() {
            Ok(bytes) => {
                self.0.queue.borrow_mut().push(bytes);
                self.0.added.notify_one();
            }
            Err(e) => log::error!(topic, error:% = e; "an event cannot be encoded"),
        }
    }

    /// Waits until the queue is empty.
    pub async fn drained(&self) {
        loop {
            let emptied = self.0.emptied.notified();
            if self.0.queue.borrow().is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

/// The task that owns the connection.
async fn deliver_all(inner: Rc<Inner>, destination: Destination) {
    let mut client = None;
    loop {
        let front = inner.queue.borrow_mut().front().map(<[u8]>::to_vec);
        let Some(event) = front else {
            inner.emptied.notify_waiters();
            if client.is_some()
                && tokio::time::timeout(IDLE_MAX, inner.added.notified()).await.is_err()
            {
                client = None;
            } else if client.is_none() {
                inner.added.notified().await;
            }
            continue;
        };
        deliver(&mut client, &destination, event, inner.namespace.as_ref()).await;
        inner.queue.borrow_mut().pop();
    }
}

/// Returns when the event has been taken, or refused for good.
async fn deliver(
    client: &mut Option<Client>,
    destination: &Destination,
    event: Vec<u8>,
    namespace: &str,
) {
    let mut pause = PAUSE_MIN;
    loop {
        let failure = match destination {
            Destination::Nowhere => return,
            Destination::Socket(path) => forward(client, path, &event, namespace)
                .await
                .err()
                .map(|e| (e.kind(), e.to_string())),
            Destination::Command { binary, address, reaper } => {
                run_publish(binary, address, reaper, &event)
                    .await
                    .err()
                    .map(|e| (e.kind(), e.to_string()))
            }
        };
        let Some((kind, error)) = failure else { return };
        if is_refusal(kind) {
            log::error!(error = error.as_str(); "the daemon refused an event");
            return;
        }
        log::debug!(error = error.as_str(); "forwarding an event failed; trying again");
        *client = None;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Answers after which sending the same bytes again is of no use.
fn is_refusal(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::InvalidArgument | ErrorKind::Unimplemented | ErrorKind::PermissionDenied
    )
}

async fn forward(
    client: &mut Option<Client>,
    path: &Path,
    event: &[u8],
    namespace: &str,
) -> Result<(), ClientError> {
    // As the Go client sends it beside the envelope's own.
    let metadata = Metadata(vec![("containerd-namespace-ttrpc".to_owned(), namespace.to_owned())]);
    let send = async |connection: Client| {
        let timeout = Some(FORWARD_TIMEOUT);
        connection.call_bytes(SERVICE, "Forward", event.to_vec(), &metadata, timeout).await?;
        Ok(connection)
    };
    if let Some(connection) = client.take().filter(|connection| !connection.is_closed()) {
        match send(connection).await {
            // A daemon that has restarted may be back by now.
            Err(ClientError::Closed) => {}
            sent => return sent.map(|connection| *client = Some(connection)),
        }
    }
    *client = Some(send(connect(path).await?).await?);
    Ok(())
}

/// A socket that exists and does not accept, of a daemon that is stopped or
/// wedged, must not hold up the retries.
async fn connect(path: &Path) -> Result<Client, ClientError> {
    tokio::time::timeout(FORWARD_TIMEOUT, Client::connect(path))
        .await
        .map_err(|_| ClientError::DeadlineExceeded)?
}

/// `BINARY --address A publish --topic T --namespace N`, the event on stdin.
async fn run_publish(
    binary: &str,
    address: &str,
    reaper: &Reaper,
    event: &[u8],
) -> Result<(), Failure> {
    use std::io::Write;

    let request = ForwardRequest::parse_from_bytes(event)
        .map_err(|e| Failure::invalid(format!("decode an event: {e}")))?;
    let envelope = request.envelope.unwrap_or_default();
    let any = envelope.event.unwrap_or_default();
    let value =
        any.write_to_bytes().map_err(|e| Failure::invalid(format!("encode an event: {e}")))?;
    let mut command = Command::new(binary);
    command
        .args(["--address", address, "publish", "--topic", &envelope.topic])
        .args(["--namespace", &envelope.namespace])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child =
        reaper.spawn(&mut command).map_err(|e| Failure::io(format!("run {binary}"), &e))?;
    if let Some(mut stdin) = child.stdin.take() {
        // An event is far shorter than a pipe; this does not wait. One that
        // the child does not read shows in its exit status.
        let _ = stdin.write_all(&value);
    }
    match child.exit().await.status {
        0 => Ok(()),
        status => Err(Failure::new(
            ErrorKind::Unavailable,
            format!("{binary} publish: exit status {status}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use davit_protocols::ttrpc::events::TaskOOM;
    use davit_protocols::ttrpc::server::{self, Call, Status};
    use tokio::net::UnixListener;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A daemon that notes what it takes, and refuses what is named so.
    fn daemon(path: &Path, taken: &Rc<RefCell<Vec<String>>>) -> tokio::task::JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        let taken = taken.clone();
        tokio::task::spawn_local(async move {
            let handler = |call: Call| {
                let taken = taken.clone();
                async move {
                    assert_eq!((call.service.as_str(), call.method.as_str()), (SERVICE, "Forward"));
                    let request = ForwardRequest::parse_from_bytes(&call.payload).unwrap();
                    let envelope = request.envelope.unwrap();
                    assert_eq!(
                        (envelope.topic.as_str(), envelope.namespace.as_str()),
                        ("/tasks/oom", "n")
                    );
                    assert_eq!(envelope.event.type_url, "containerd.events.TaskOOM");
                    let event = TaskOOM::parse_from_bytes(&envelope.event.value).unwrap();
                    match event.container_id.as_str() {
                        "bad" => Err(Status::new(ErrorKind::InvalidArgument, "bad")),
                        id => {
                            taken.borrow_mut().push(id.to_owned());
                            Ok(Vec::new())
                        }
                    }
                }
            };
            // One connection after the other; all end with this task.
            while let Ok(stream) = server::accept(&listener).await {
                server::serve_connection(stream, handler).await;
            }
        })
    }

    async fn until(what: &str, condition: impl Fn() -> bool) {
        let looked = tokio::time::timeout(PATIENCE, async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        looked.await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
    }

    async fn all_cases() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ttrpc");
        let destination = Destination::Socket(path.clone());
        let publisher = Publisher::new(Namespace::new("n").unwrap(), dir.path(), destination);
        let publish = |id: String| {
            let event = TaskOOM { container_id: id, ..TaskOOM::default() };
            publisher.publish(&event);
        };
        let taken = Rc::new(RefCell::new(Vec::new()));
        // Nobody is there yet, and more comes than memory is meant for.
        for n in 0..5000 {
            publish(n.to_string());
        }
        let first = daemon(&path, &taken);
        until("some events", || taken.borrow().len() > 100).await;
        // The daemon dies in the middle, and one comes back.
        first.abort();
        let _ = first.await;
        std::fs::remove_file(&path).unwrap();
        publish("bad".into());
        publish("last".into());
        let second = daemon(&path, &taken);
        tokio::time::timeout(PATIENCE, publisher.drained()).await.unwrap();
        let mut seen = taken.borrow().clone();
        // The event that was on its way when the daemon died may come twice.
        seen.dedup();
        let mut expected: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
        expected.push("last".into());
        assert_eq!(seen, expected);
        second.abort();
    }

    #[test]
    fn nothing_is_lost_and_order_is_kept() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, all_cases());
    }
}
