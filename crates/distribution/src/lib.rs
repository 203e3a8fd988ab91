//! Images between registries and local stores.
//!
//! [`hosts`] says where a registry is and how to speak with it,
//! [`credentials`] who we are there, [`manifest`] what images consist of.
//! [`registry`] speaks with it; [`pull`] and [`push`] move whole images.
//! [`layout`] keeps them in a directory, for programs without a daemon (see
//! `examples/pull.rs`).

pub mod credentials;
pub mod hosts;
pub mod layout;
pub mod manifest;
mod process;
pub mod pull;
pub mod push;
pub mod registry;
pub mod verify;
