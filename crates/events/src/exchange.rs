//! The writers' side of the exchange.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use davit_types::filter::{Adaptor, Filter};
use davit_types::{Any, Envelope, Namespace};

use crate::subscription::{Entrance, Subscription};
use crate::{Error, MAX_QUEUED_BYTES, MAX_QUEUED_EVENTS, topic};

/// How long after its making an exchange keeps what it hears of tasks. Shims
/// tell at once what happened while the daemon was away; clients that held a
/// connection come back some seconds later.
const CATCH_UP: Duration = Duration::from_secs(10);

/// What those who come late are told.
const KEPT_TOPICS: &str = "/tasks/";

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

/// The events of an exchange's first moments, for those who come late.
#[derive(Default)]
struct Kept {
    events: Vec<Arc<Envelope>>,
    bytes: usize,
}

impl Kept {
    /// More than a subscriber may leave unread is not kept.
    fn add(&mut self, envelope: &Arc<Envelope>) {
        let bytes = self.bytes + envelope.event.value.len();
        if self.events.len() < MAX_QUEUED_EVENTS / 2 && bytes < MAX_QUEUED_BYTES / 2 {
            self.bytes = bytes;
            self.events.push(envelope.clone());
        }
    }
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
    /// Until when events are kept.
    catch_up: Instant,
    /// Locked with the list of subscribers held, or the order could differ.
    kept: Mutex<Kept>,
}

impl Exchange {
    /// An exchange without subscribers. `fields` reads payloads for filters.
    pub fn new(fields: EventFields) -> Self {
        Self::with_catch_up(fields, CATCH_UP)
    }

    fn with_catch_up(fields: EventFields, limit: Duration) -> Self {
        let catch_up = Instant::now() + limit;
        Self { subscribers: Arc::default(), fields, catch_up, kept: Mutex::default() }
    }

    /// What was kept; nothing any more when its time is over.
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() >= self.catch_up && !kept.events.is_empty() {
            *kept = Kept::default();
        }
        kept
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
    /// is none. Who comes in the first moments is told what was heard of tasks
    /// since the beginning. Fails when a filter cannot be parsed.
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
        let subscriber = Subscriber { number, wanted: Box::new(wanted), entrance };
        let mut subscribers = self.subscribers.lock();
        for envelope in self.kept().events.iter().filter(|event| (subscriber.wanted)(event)) {
            subscriber.entrance.offer(envelope);
        }
        subscribers.push(subscriber);
        drop(subscribers);
        subscription
    }

    /// One lock for the whole round makes one order for all subscribers; it
    /// is short, because no queue is waited for.
    fn broadcast(&self, envelope: Envelope) {
        log::trace!(namespace = envelope.namespace.as_str(), topic = envelope.topic.as_str();
            "event");
        let envelope = Arc::new(envelope);
        let mut subscribers = self.subscribers.lock();
        if envelope.topic.starts_with(KEPT_TOPICS) && Instant::now() < self.catch_up {
            self.kept().add(&envelope);
        }
        subscribers.retain(|subscriber| {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange() -> Exchange {
        Exchange::new(|event, path| match path {
            ["name"] => String::from_utf8(event.value.clone()).ok(),
            _ => None,
        })
    }

    fn namespace() -> Namespace {
        Namespace::new("n").unwrap()
    }

    fn event(value: &[u8]) -> Any {
        Any { type_url: "t".into(), value: value.to_vec() }
    }

    #[tokio::test]
    async fn everybody_sees_everything_in_one_order() {
        let exchange = Arc::new(exchange());
        let mut one = exchange.subscribe(&[]).unwrap();
        let mut two = exchange.subscribe(&[]).unwrap();
        let threads: Vec<_> = (0..4)
            .map(|thread: u8| {
                let exchange = exchange.clone();
                std::thread::spawn(move || {
                    for number in 0..100 {
                        exchange.publish(&namespace(), "/a", event(&[thread, number])).unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let mut last = [None; 4];
        for _ in 0..400 {
            let seen = one.next().await.unwrap().unwrap();
            assert_eq!(two.next().await.unwrap().unwrap(), seen);
            let [thread, number] = seen.event.value[..] else { panic!("not ours") };
            assert!(last[usize::from(thread)] < Some(number), "out of order");
            last[usize::from(thread)] = Some(number);
        }
    }

    #[tokio::test]
    async fn filters_see_the_envelope_and_the_payload() {
        let exchange = exchange();
        let filters =
            ["namespace==n,topic==\"/a\",event.name==x".to_owned(), "topic~=^/b".to_owned()];
        let mut found = exchange.subscribe(&filters).unwrap();
        for (topic, value) in [("/a", "y"), ("/c", "x"), ("/a", "x"), ("/b", "z")] {
            exchange.publish(&namespace(), topic, event(value.as_bytes())).unwrap();
        }
        let mut topics = Vec::new();
        for _ in 0..2 {
            topics.push(found.next().await.unwrap().unwrap().topic.clone());
        }
        assert_eq!(topics, ["/a", "/b"]);
    }

    #[tokio::test]
    async fn a_slow_subscriber_gets_all_up_to_an_error() {
        let exchange = exchange();
        let mut slow = exchange.subscribe(&[]).unwrap();
        let mut other = exchange.subscribe(&[]).unwrap();
        for _ in 0..MAX_QUEUED_EVENTS + 5 {
            exchange.publish(&namespace(), "/a", event(b"x")).unwrap();
            other.next().await.unwrap().unwrap();
        }
        for _ in 0..MAX_QUEUED_EVENTS {
            slow.next().await.unwrap().unwrap();
        }
        let error = slow.next().await.unwrap().unwrap_err();
        let (events, bytes) = (MAX_QUEUED_EVENTS, MAX_QUEUED_EVENTS);
        assert_eq!(error, Error::SlowSubscriber { events, bytes });
        assert_eq!(slow.next().await, None);
    }

    #[tokio::test]
    async fn bytes_count_too_and_only_while_they_wait() {
        let exchange = exchange();
        let mut slow = exchange.subscribe(&[]).unwrap();
        let half = event(&vec![0; MAX_QUEUED_BYTES / 2]);
        for _ in 0..5 {
            exchange.publish(&namespace(), "/a", half.clone()).unwrap();
            slow.next().await.unwrap().unwrap();
        }
        for _ in 0..3 {
            exchange.publish(&namespace(), "/a", half.clone()).unwrap();
        }
        slow.next().await.unwrap().unwrap();
        slow.next().await.unwrap().unwrap();
        let error = slow.next().await.unwrap().unwrap_err();
        assert_eq!(error, Error::SlowSubscriber { events: 2, bytes: MAX_QUEUED_BYTES });
    }

    #[tokio::test]
    async fn who_has_gone_is_forgotten() {
        let exchange = exchange();
        let one = exchange.subscribe(&[]).unwrap();
        let two = exchange.subscribe(&[]).unwrap();
        drop(one);
        assert_eq!(exchange.subscribers.lock().len(), 1);
        drop(exchange);
        let mut two = two;
        assert_eq!(two.next().await, None);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let exchange = exchange();
        let error = exchange.publish(&namespace(), "a", event(b"")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "envelope topic \"a\": must start with '/': invalid argument"
        );
        assert!(matches!(exchange.subscribe(&["==".to_owned()]), Err(Error::Filter(_))));
    }

    #[tokio::test]
    async fn who_comes_back_late_is_told_of_tasks() {
        let events = |exchange: &Exchange| {
            for topic in ["/tasks/exit", "/images/create", "/tasks/delete"] {
                exchange.publish(&namespace(), topic, Any::default()).unwrap();
            }
        };
        let topics = async |exchange: Exchange, filters: &[String]| {
            let mut subscription = exchange.subscribe(filters).unwrap();
            exchange.publish(&namespace(), "/images/delete", Any::default()).unwrap();
            drop(exchange);
            let mut topics = Vec::new();
            while let Some(event) = subscription.next().await {
                topics.push(event.unwrap().topic.clone());
            }
            topics
        };
        let young = Exchange::new(|_, _| None);
        events(&young);
        assert_eq!(topics(young, &[]).await, ["/tasks/exit", "/tasks/delete", "/images/delete"]);
        let young = Exchange::new(|_, _| None);
        events(&young);
        assert_eq!(topics(young, &[r#"topic=="/tasks/exit""#.to_owned()]).await, ["/tasks/exit"]);
        let old = Exchange::with_catch_up(|_, _| None, Duration::ZERO);
        events(&old);
        assert_eq!(topics(old, &[]).await, ["/images/delete"]);
    }
}
