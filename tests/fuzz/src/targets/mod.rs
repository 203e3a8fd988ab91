//! One module for each target: `run`, and the `seeds` to start from.

pub mod bootstrap;
pub mod config;
pub mod docker_login;
pub mod events;
pub mod filter;
pub mod hosts;
pub mod log;
pub mod manifest;
pub mod messages;
pub mod names;
pub mod platform;
pub mod reference;
pub mod ttrpc;

/// Seeds given as byte strings.
fn list<const N: usize>(seeds: [&[u8]; N]) -> Vec<Vec<u8>> {
    seeds.into_iter().map(<[u8]>::to_vec).collect()
}
