//! Every parser of bytes from outside, as a function that fuzzers can call.
//!
//! See the README beside this crate for how to run and how to add to them.

pub mod mutate;
mod targets;

use targets::{
    archive, bootstrap, config, docker_login, events, filter, hosts, http_headers, layer, log,
    manifest, messages, names, platform, reference, tar, ttrpc,
};

/// Something to throw bytes at.
pub struct Target {
    /// What it is called on a command line and below `corpus/`.
    pub name: &'static str,
    /// Panics when a promise is broken. Anything may be passed in.
    pub run: fn(&[u8]),
    /// Inputs to start from, one of each shape.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "archive", run: archive::run, seeds: archive::seeds },
    Target { name: "bootstrap", run: bootstrap::run, seeds: bootstrap::seeds },
    Target { name: "config", run: config::run, seeds: config::seeds },
    Target { name: "docker_login", run: docker_login::run, seeds: docker_login::seeds },
    Target { name: "events", run: events::run, seeds: events::seeds },
    Target { name: "filter", run: filter::run, seeds: filter::seeds },
    Target { name: "hosts", run: hosts::run, seeds: hosts::seeds },
    Target { name: "http_headers", run: http_headers::run, seeds: http_headers::seeds },
    Target { name: "layer", run: layer::run, seeds: layer::seeds },
    Target { name: "manifest", run: manifest::run, seeds: manifest::seeds },
    Target { name: "messages", run: messages::run, seeds: messages::seeds },
    Target { name: "names", run: names::run, seeds: names::seeds },
    Target { name: "platform", run: platform::run, seeds: platform::seeds },
    Target { name: "reference", run: reference::run, seeds: reference::seeds },
    Target { name: "runc_log", run: log::run, seeds: log::seeds },
    Target { name: "tar", run: tar::run, seeds: tar::seeds },
    Target { name: "ttrpc", run: ttrpc::run, seeds: ttrpc::seeds },
];

/// The target called `name`.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
