//! Images between registries and local stores.
//!
//! [`hosts`] says where a registry is and how to speak with it,
//! [`credentials`] who we are there. [`pull`] and [`push`] move whole images.

pub mod credentials;
pub mod hosts;
pub mod pull;
pub mod push;
