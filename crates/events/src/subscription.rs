//! The reader's side of the exchange.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};

use davit_types::Envelope;
use futures::Stream;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::exchange::Subscribers;
use crate::{Error, MAX_QUEUED_BYTES, MAX_QUEUED_EVENTS};

/// What the two ends of a queue share.
#[derive(Default)]
struct Queue {
    bytes: AtomicUsize,
    ended: OnceLock<Error>,
}

/// The writer's end of one subscriber's queue.
pub(crate) struct Entrance {
    sender: Sender<Arc<Envelope>>,
    queue: Arc<Queue>,
}

impl Entrance {
    /// Queues `envelope`. False when this subscriber is to be forgotten:
    /// because it has gone, or because it is too slow, which it will read
    /// after what it has not read yet.
    pub(crate) fn offer(&self, envelope: &Arc<Envelope>) -> bool {
        use tokio::sync::mpsc::error::TrySendError::{Closed, Full};
        let size = envelope.event.value.len();
        let waiting = self.queue.bytes.fetch_add(size, Ordering::Relaxed);
        let sent = if waiting.saturating_add(size) > MAX_QUEUED_BYTES {
            Err(Full(()))
        } else {
            self.sender.try_send(envelope.clone()).map_err(|error| match error {
                Full(_) => Full(()),
                Closed(_) => Closed(()),
            })
        };
        if let Err(Full(())) = sent {
            let events = self.sender.max_capacity() - self.sender.capacity();
            // Set once: the entrance is not used again.
            let _ = self.queue.ended.set(Error::SlowSubscriber { events, bytes: waiting });
        }
        sent.is_ok()
    }
}

/// A stream of events, in the order of their publication. Ends only with an
/// error, or with the exchange. Dropping it ends the subscription.
pub struct Subscription {
    receiver: Receiver<Arc<Envelope>>,
    queue: Arc<Queue>,
    number: u64,
    subscribers: Weak<Subscribers>,
    told: bool,
}

impl Subscription {
    pub(crate) fn new(number: u64, subscribers: Weak<Subscribers>) -> (Entrance, Self) {
        let (sender, receiver) = channel(MAX_QUEUED_EVENTS);
        let queue = Arc::new(Queue::default());
        let entrance = Entrance { sender, queue: queue.clone() };
        (entrance, Self { receiver, queue, number, subscribers, told: false })
    }

    /// The next event, when it is there; an error once, then `None`.
    pub async fn next(&mut self) -> Option<Result<Arc<Envelope>, Error>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Arc<Envelope>, Error>>> {
        let received = std::task::ready!(self.receiver.poll_recv(context));
        if let Some(envelope) = received {
            self.queue.bytes.fetch_sub(envelope.event.value.len(), Ordering::Relaxed);
            return Poll::Ready(Some(Ok(envelope)));
        }
        if self.told {
            return Poll::Ready(None);
        }
        self.told = true;
        Poll::Ready(self.queue.ended.get().cloned().map(Err))
    }
}

impl Stream for Subscription {
    type Item = Result<Arc<Envelope>, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(context)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(subscribers) = self.subscribers.upgrade() {
            subscribers.remove(self.number);
        }
    }
}
