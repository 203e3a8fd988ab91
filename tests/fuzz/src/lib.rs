//! Every parser of bytes from outside, as a function that fuzzers can call.
//!
//! See the README beside this crate for how to run and how to add to them.

pub mod mutate;
mod targets;

use targets::{
    archive, bootstrap, checkpoint, config, docker_login, events, filter, hook, hosts,
    http_headers, image_config, layer, log, manifest, messages, names, platform, reference,
    runc_answers, shim_answer, shim_input, tar, ttrpc,
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
    Target { name: "checkpoint", run: checkpoint::run, seeds: checkpoint::seeds },
    Target { name: "config", run: config::run, seeds: config::seeds },
    Target { name: "docker_login", run: docker_login::run, seeds: docker_login::seeds },
    Target { name: "events", run: events::run, seeds: events::seeds },
    Target { name: "filter", run: filter::run, seeds: filter::seeds },
    Target { name: "hosts", run: hosts::run, seeds: hosts::seeds },
    Target { name: "http_headers", run: http_headers::run, seeds: http_headers::seeds },
    Target { name: "image_config", run: image_config::config, seeds: image_config::config_seeds },
    Target { name: "image_user", run: image_config::users, seeds: image_config::user_seeds },
    Target { name: "layer", run: layer::run, seeds: layer::seeds },
    Target { name: "manifest", run: manifest::run, seeds: manifest::seeds },
    Target { name: "messages", run: messages::run, seeds: messages::seeds },
    Target { name: "names", run: names::run, seeds: names::seeds },
    Target { name: "oci_hook", run: hook::oci_hook, seeds: hook::hook_seeds },
    Target { name: "platform", run: platform::run, seeds: platform::seeds },
    Target { name: "reference", run: reference::run, seeds: reference::seeds },
    Target { name: "runc_answers", run: runc_answers::run, seeds: runc_answers::seeds },
    Target { name: "runc_log", run: log::run, seeds: log::seeds },
    Target { name: "shim_answer", run: shim_answer::run, seeds: shim_answer::seeds },
    Target {
        name: "shim_options",
        run: shim_input::runtime_options,
        seeds: shim_input::option_seeds,
    },
    Target { name: "shim_specs", run: shim_input::specs, seeds: shim_input::spec_seeds },
    Target { name: "shim_streams", run: shim_input::streams, seeds: shim_input::stream_seeds },
    Target { name: "shim_uris", run: shim_input::uris, seeds: shim_input::uri_seeds },
    Target { name: "tar", run: tar::run, seeds: tar::seeds },
    Target { name: "template", run: hook::template, seeds: hook::template_seeds },
    Target { name: "ttrpc", run: ttrpc::run, seeds: ttrpc::seeds },
];

/// The target called `name`.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
