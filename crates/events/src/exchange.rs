//! The writers' side of the exchange.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use davit_types::filter::{Adaptor, Filter};
use davit_types::{Any, Envelope, Namespace};

use crate::subscription::{Entrance, Subscription};
use crate::{Error, topic};

/// Reads one field of an event's payload for a filter on `event.…`: the
/// payload and the path behind `event`. `None` when the message has no such
/// field or it is empty. Only someone who knows the wire types can supply it.
pub type EventFields = fn(&Any, &[&str]) -> Option<String>;

type Wanted = Box<dyn Fn(&Envelope) -> bool + Send + Sync>;

struct Subscriber {
    number: u64,
    wanted: Wanted,
    entrance: Entrance,
}

#[derive(Default)]
pub(crate) struct Subscribers {
    list: Mutex<Vec<Subscriber>>,
    next: AtomicU64,
}

impl Subscribers {
    pub(crate) fn remove(&self, number: u64) {
        self.lock().retain(|subscriber| subscriber.number != number);
    }

    /// A panic while the list was held left it whole: it is only ever pushed
    /// to and filtered.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Subscriber>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes events from those who publish to those who subscribed.
pub struct Exchange {
    subscribers: Arc<Subscribers>,
    fields: EventFields,
}

impl Exchange {
    /// An exchange without subscribers. `fields` reads payloads for filters.
    pub fn new(fields: EventFields) -> Self {
        Self { subscribers: Arc::default(), fields }
    }

    /// Tells everybody that `event` happened now, in `namespace`. Fails only
    /// when `topic` is malformed.
    pub fn publish(&self, namespace: &Namespace, topic: &str, event: Any) -> Result<(), Error> {
        topic::validate(topic)?;
        self.broadcast(Envelope {
            timestamp: SystemTime::now(),
            namespace: namespace.clone(),
            topic: topic.to_owned(),
            event,
        });
        Ok(())
    }

    /// Passes on what somebody else published, with that one's time and
    /// namespace. Fails when its topic is malformed. (A missing time is for
    /// the caller to find, with [`Error::NoTimestamp`]: an `Envelope` has one.)
    pub fn forward(&self, envelope: Envelope) -> Result<(), Error> {
        topic::validate(&envelope.topic)?;
        self.broadcast(envelope);
        Ok(())
    }

    /// Subscribes to what matches any of `filters`, in containerd's syntax,
    /// over `namespace`, `topic` and `event.<field>`; to everything when there
    /// is none. Fails when one cannot be parsed.
    pub fn subscribe(&self, filters: &[String]) -> Result<Subscription, Error> {
        if filters.is_empty() {
            return Ok(self.subscribe_to(|_| true));
        }
        let set = Filter::parse_all(filters)?;
        let fields = self.fields;
        Ok(self.subscribe_to(move |envelope| set.matches(&Fields { envelope, fields })))
    }

    /// Subscribes to what `wanted` says yes to. It is called for every event,
    /// by the publisher, and so must be quick.
    pub fn subscribe_to(
        &self,
        wanted: impl Fn(&Envelope) -> bool + Send + Sync + 'static,
    ) -> Subscription {
        let number = self.subscribers.next.fetch_add(1, Ordering::Relaxed);
        let (entrance, subscription) = Subscription::new(number, Arc::downgrade(&self.subscribers));
        let wanted = Box::new(wanted);
        self.subscribers.lock().push(Subscriber { number, wanted, entrance });
        subscription
    }

    /// One lock for the whole round makes one order for all subscribers; it
    /// is short, because no queue is waited for.
    fn broadcast(&self, envelope: Envelope) {
        log::trace!(namespace = envelope.namespace.as_str(), topic = envelope.topic.as_str();
            "event");
        let envelope = Arc::new(envelope);
        self.subscribers.lock().retain(|subscriber| {
            if !(subscriber.wanted)(&envelope) {
                return true;
            }
            subscriber.entrance.offer(&envelope)
        });
    }
}

/// An envelope as filters see it (containerd's `core/events`).
struct Fields<'a> {
    envelope: &'a Envelope,
    fields: EventFields,
}

impl Adaptor for Fields<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["namespace"] => Some(Cow::Borrowed(self.envelope.namespace.as_str())),
            ["topic"] => Some(Cow::Borrowed(&self.envelope.topic)),
            ["event", field @ ..] => (self.fields)(&self.envelope.event, field).map(Cow::Owned),
            _ => None,
        }
    }
}
