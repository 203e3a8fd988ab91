//! `davitd`: serves containerd's API, keeps the index and spawns shims.
//!
//! The library half exists for tests; the binary is a thin `main.rs`.

pub mod config;
pub mod services;
