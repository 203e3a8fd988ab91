//! The ttrpc side: message structs of rust-protobuf's lite runtime, and our
//! server and client.
//!
//! There is no generated service code: a server matches on service and method
//! names. Task v2 and v3 have the same messages, here once as [`task`].

pub mod client;
pub mod frame;
pub mod server;
pub mod status;

#[allow(missing_docs, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/ttrpc/mod.rs"));
}

/// The full name of a message, which the lite runtime does not keep:
/// `containerd.events.TaskExit`. Every message below has it.
pub trait FullName {
    /// Package and name.
    const FULL_NAME: &'static str;
}

mod full_names {
    include!(concat!(env!("OUT_DIR"), "/full_names.rs"));
}

pub use generated::bootstrap;
pub use generated::events;
pub use generated::image_events;
pub use generated::process;
pub use generated::runc as options;
pub use generated::runtime_sandbox as sandbox;
pub use generated::runtimeoptions;
pub use generated::task_v3 as task;
pub use generated::ttrpc_events as events_service;
pub use generated::types;

/// What Stats answers with, by the version of the cgroup hierarchy.
pub mod metrics {
    pub use super::generated::cgroups_v1 as v1;
    pub use super::generated::cgroups_v2 as v2;
}
