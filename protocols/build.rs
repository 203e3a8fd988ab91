//! Generates both sides of the API from the files in `proto/`, without
//! `protoc`: prost and tonic for gRPC, rust-protobuf's lite runtime for ttrpc.

#![cfg_attr(not(any(feature = "grpc", feature = "ttrpc")), allow(unused))]

use std::error::Error;
use std::path::{Path, PathBuf};

/// Where our definitions are; imports inside them are relative to this.
const ROOT: &str = "proto";

/// What the gRPC side needs: services and every payload a client may meet.
#[cfg(feature = "grpc")]
const GRPC: &[&str] = &[
    "cgroups/cgroups_v1.proto",
    "cgroups/cgroups_v2.proto",
    "containerd/bootstrap.proto",
    "containerd/events.proto",
    "containerd/image_events.proto",
    "containerd/process.proto",
    "containerd/runc.proto",
    "containerd/runtimeoptions.proto",
    "containerd/services/containers.proto",
    "containerd/services/content.proto",
    "containerd/services/diff.proto",
    "containerd/services/events.proto",
    "containerd/services/images.proto",
    "containerd/services/introspection.proto",
    "containerd/services/leases.proto",
    "containerd/services/mounts.proto",
    "containerd/services/namespaces.proto",
    "containerd/services/sandbox.proto",
    "containerd/services/snapshots.proto",
    "containerd/services/streaming.proto",
    "containerd/services/tasks.proto",
    "containerd/services/transfer.proto",
    "containerd/services/version.proto",
    "containerd/transfer_types.proto",
    "containerd/types.proto",
    "davit/maintenance.proto",
    "google/rpc/status.proto",
    "grpc/health.proto",
];

/// What the ttrpc side needs. One Rust module per file, so the names of the
/// files are unique. `task_v2.proto` is left out: its messages are those of v3
/// to the bit (a test holds them together) and are served under two names.
#[cfg(feature = "ttrpc")]
const TTRPC: &[&str] = &[
    "cgroups/cgroups_v1.proto",
    "cgroups/cgroups_v2.proto",
    "containerd/bootstrap.proto",
    "containerd/events.proto",
    "containerd/image_events.proto",
    "containerd/process.proto",
    "containerd/runc.proto",
    "containerd/runtime_sandbox.proto",
    "containerd/runtimeoptions.proto",
    "containerd/task_v3.proto",
    "containerd/ttrpc_events.proto",
    "containerd/types.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={ROOT}");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    #[cfg(feature = "grpc")]
    grpc(&out)?;
    #[cfg(feature = "ttrpc")]
    ttrpc(&out)?;
    Ok(())
}

/// Writes `grpc.rs`, the tree of modules, and one file per package.
#[cfg(feature = "grpc")]
fn grpc(out: &Path) -> Result<(), Box<dyn Error>> {
    let files = protox::compile(GRPC, [ROOT])?;
    let mut config = tonic_prost_build::Config::new();
    config
        .enable_type_names()
        // Maps arrive in the order of their keys, as our labels are kept.
        .btree_map(["."])
        // Blobs pass through without being copied out of their frame.
        .bytes([".containerd.services.content.v1"])
        .include_file("grpc.rs");
    tonic_prost_build::configure().out_dir(out).compile_fds_with_config(files, config)?;
    Ok(())
}

/// Writes `ttrpc/mod.rs`, one file per definition, and `full_names.rs`.
#[cfg(feature = "ttrpc")]
fn ttrpc(out: &Path) -> Result<(), Box<dyn Error>> {
    protobuf_codegen::Codegen::new()
        .pure()
        .include(ROOT)
        .inputs(TTRPC.iter().map(|file| Path::new(ROOT).join(file)))
        .customize(protobuf_codegen::Customize::default().lite_runtime(true).gen_mod_rs(true))
        .cargo_out_dir("ttrpc")
        .run()?;
    std::fs::write(out.join("full_names.rs"), full_names()?)?;
    Ok(())
}

/// An implementation of `FullName` for each message that is not nested.
#[cfg(feature = "ttrpc")]
fn full_names() -> Result<String, Box<dyn Error>> {
    let mut code = String::new();
    for file in protox::compile(TTRPC, [ROOT])?.file {
        let path = file.name();
        if !TTRPC.contains(&path) {
            continue;
        }
        let module = Path::new(path).file_stem().and_then(|s| s.to_str()).ok_or("no file name")?;
        for message in &file.message_type {
            let (package, name) = (file.package(), message.name());
            code += &format!(
                "impl super::FullName for super::generated::{module}::{name} {{\n\
                     const FULL_NAME: &'static str = \"{package}.{name}\";\n\
                 }}\n"
            );
        }
    }
    Ok(code)
}
