//! The vocabulary that every crate of Davit shares: names, digests,
//! descriptors, references, platforms, mounts, labels, filters and kinds of
//! error.
//!
//! Nothing here knows a wire format, a file layout or a process. Types are
//! newtypes wherever two strings could be swapped, and a value that exists is
//! valid: it was checked when it was made.

mod descriptor;
mod digest;
pub mod duration;
mod error;
#[cfg(feature = "filter")]
pub mod filter;
mod id;
pub mod labels;
mod mount;
pub mod platform;
pub mod reference;

pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, InvalidDigest};
pub use error::{ErrorKind, Kind};
pub use id::{ContainerId, ExecId, InvalidId, Namespace};
pub use labels::Labels;
pub use mount::Mount;
pub use platform::{InvalidPlatform, Platform};
pub use reference::{InvalidReference, Reference};

/// A message whose type only its reader knows: specs, runtime options, event
/// payloads. Carried unchanged to the bit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Any {
    /// The bare type name, as containerd writes it (`typeurl.MarshalAny`):
    /// `containerd.events.TaskExit`, with no `type.googleapis.com/` before it.
    pub type_url: String,
    /// The message, encoded as its type says (protobuf, or JSON for types
    /// that are not protobuf messages, such as the OCI spec).
    pub value: Vec<u8>,
}

/// One event, as the exchange carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// When it happened, on the publisher's clock.
    pub timestamp: std::time::SystemTime,
    /// Where it happened; events about namespaces carry the namespace they
    /// are about.
    pub namespace: Namespace,
    /// Where to find it: `/tasks/exit`.
    pub topic: String,
    /// What happened; a message of the package `containerd.events`.
    pub event: Any,
}
