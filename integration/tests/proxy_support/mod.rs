//! What the tests of proxies share.

mod api;
mod renaming;

pub use api::{ByApi, NAMESPACE, Snapshots, ask};
pub use renaming::Renaming;
