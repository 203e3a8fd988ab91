//! Images between registries and local stores.
//!
//! [`hosts`] says where a registry is and how to speak with it,
//! [`credentials`] who we are there, [`manifest`] what images consist of.
//! [`pull`] and [`push`] move whole images.

pub mod credentials;
pub mod hosts;
pub mod layout;
pub mod manifest;
mod process;
pub mod pull;
pub mod push;
pub mod registry;
pub mod verify;
