//! Images between registries and local stores.
//!
//! [`hosts`] says where a registry is and how to speak with it,
//! [`credentials`] who we are there.

pub mod credentials;
pub mod hosts;
