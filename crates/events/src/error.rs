//! What can be wrong with an event, or with a subscription.

use davit_types::filter::InvalidFilter;
use davit_types::{ErrorKind, InvalidId, Kind};

/// Why an event was refused or a subscription ended. The texts of refusals
/// are containerd's (`core/events/exchange`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The topic is not a path of identifiers.
    #[error("envelope topic {topic:?}: {fault}")]
    Topic {
        /// What was sent.
        topic: String,
        /// What is wrong with it, in containerd's words.
        fault: TopicFault,
    },
    /// A forwarded event came without its time.
    #[error("timestamp must be set on forwarded event: invalid argument")]
    NoTimestamp,
    /// A filter that cannot be parsed.
    #[error("failed parsing subscription filters")]
    Filter(#[from] InvalidFilter),
    /// The subscriber did not read for so long that a limit of its queue was
    /// reached. Every event before this error was delivered; it is the last
    /// item of the subscription.
    #[error(
        "subscriber is too slow: {events} events ({bytes} bytes) wait to be read: \
         resource exhausted"
    )]
    SlowSubscriber {
        /// Events that were waiting.
        events: usize,
        /// Bytes of payload that were waiting.
        bytes: usize,
    },
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Topic { .. } | Self::NoTimestamp | Self::Filter(_) => ErrorKind::InvalidArgument,
            Self::SlowSubscriber { .. } => ErrorKind::ResourceExhausted,
        }
    }
}

/// What is wrong with a topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicFault {
    /// Nothing there.
    #[error("must not be empty: invalid argument")]
    Empty,
    /// Not absolute.
    #[error("must start with '/': invalid argument")]
    Relative,
    /// A single slash.
    #[error("must have at least one component: invalid argument")]
    NoComponent,
    /// One of its parts is no identifier.
    #[error("failed validation on component {component:?}: {fault}")]
    Component {
        /// The part.
        component: String,
        /// What is wrong with it.
        fault: InvalidId,
    },
}
