//! The event exchange: everything that happens in the daemon, told to
//! everybody who asked.
//!
//! Publishing never waits. Each subscriber has a queue of its own with two
//! named limits ([`MAX_QUEUED_EVENTS`], [`MAX_QUEUED_BYTES`]); who lets one
//! of them be reached gets all events up to that point and then an error,
//! never a stream with a hole. (containerd's queue has no limit, so that one
//! stalled client can take the daemon's memory.)
//!
//! All subscribers see all events in one order, the order in which
//! [`Exchange::publish`] and [`Exchange::forward`] were called; so the events
//! of one container keep theirs.

mod error;
mod exchange;
mod subscription;
mod topic;

pub use error::{Error, TopicFault};
pub use exchange::{EventFields, Exchange};
pub use subscription::Subscription;

/// How many events may wait for one subscriber.
pub const MAX_QUEUED_EVENTS: usize = 16_384;

/// How many bytes of payload may wait for one subscriber.
pub const MAX_QUEUED_BYTES: usize = 32 << 20;
