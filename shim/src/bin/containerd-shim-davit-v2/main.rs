//! `containerd-shim-davit-v2`: the shim for runc-compatible runtimes, under
//! this name or that of the shim it replaces, `containerd-shim-runc-v2`.
//!
//! One thread runs everything. [`service`] turns each call into an
//! [`event`]; [`group`] is the loop that owns all containers and reacts to
//! events; what takes time ([`create`], [`start`], the runtime's commands)
//! runs beside it, owns nothing of it and ends as another event.

mod blocking;
mod checkpoint;
mod cleanup;
mod console;
mod container;
mod create;
mod criu;
mod event;
mod exits;
mod fixed;
mod group;
mod info;
mod late;
mod logger;
mod oom;
mod options;
mod process;
mod rfc3339;
mod runtime;
mod service;
mod spec;
mod start;
mod state;
mod stats;
mod stdio;
mod uri;
mod words;

fn main() -> std::process::ExitCode {
    davit_shim::run::<service::RuncShim>()
}
