//! `davitd`: serves containerd's API, keeps the index and spawns shims.
//!
//! The library half exists for tests; the binary is a thin `main.rs`.

pub mod app;
pub mod args;
pub mod config;
pub mod error;
pub mod gc;
pub mod listen;
pub mod lock;
pub mod logging;
pub mod mounts;
pub mod notify;
pub mod oci_hook;
pub mod plugins;
pub mod proxy;
pub mod publish;
pub mod pull;
pub mod restart;
pub mod server;
pub mod services;
pub mod template;
