//! The index: everything the daemon knows, in one SQLite file.
//!
//! Namespaces, containers, images, content, snapshots, leases and sandboxes
//! are rows of one database; what they refer to is a table beside them, so
//! that collecting garbage is a query. Blobs and snapshot directories are
//! elsewhere ([`davit_content`], [`davit_snapshots`]); [`ContentStore`] and
//! [`Snapshotter`] put a namespace's view of them together.
//!
//! Invariant: a change is one transaction, its labels, references and lease
//! included, and a call returns after that transaction is on disk. Nothing
//! here publishes events; the caller does when a call has returned.
//!
//! Everything blocks; a caller in async code crosses over once.

mod adaptors;
mod anys;
mod containers;
mod content;
mod digests;
mod error;
mod garbage;
mod images;
mod index;
mod leases;
mod namespaces;
mod objects;
mod pending;
mod readers;
mod references;
mod reserve;
mod sandboxes;
mod schema;
mod sequences;
mod snapshots;
mod time;
mod writer;

pub use containers::{Container, Containers, Runtime};
pub use content::{ContentInfo, ContentStore, ContentWalk, ContentWriter, Sharing, WriterRequest};
pub use error::{Error, Result};
pub use garbage::{Collector, Explanation, Garbage, Link, Sizes, Thing};
pub use images::{Image, ImageUpdate, Images, image_target};
pub use index::{Changes, Index};
pub use leases::{Lease, LeaseId, Leases, Pin, Resource};
pub use namespaces::Namespaces;
pub use sandboxes::{Sandbox, Sandboxes};
pub use snapshots::{
    NewRemote, RemoteCommit, RemoteSnapshot, RemoteSnapshots, SnapshotInfo, Snapshotter, Wanted,
};
