//! System calls that safe crates do not offer. The only crate of Davit with
//! unsafe code; each block says why it is sound.
//!
//! Everything is synchronous. Errors name the operation and the path.

pub mod btrfs;
pub mod cgroup;
mod error;
pub mod fifo;
pub mod integrity;
pub mod mount;
#[cfg(feature = "tokio")]
pub mod polled;
pub mod process;
pub mod socket;
pub mod terminal;
pub mod without;

pub use error::{Error, Result};
