//! One module for each target: `run`, and the `seeds` to start from.

pub mod archive;
pub mod bootstrap;
pub mod checkpoint;
pub mod config;
pub mod docker_login;
pub mod events;
pub mod filter;
pub mod hook;
pub mod hosts;
pub mod http_headers;
pub mod image_config;
pub mod layer;
pub mod log;
pub mod manifest;
pub mod messages;
pub mod names;
pub mod platform;
pub mod reference;
pub mod runc_answers;
pub mod shim_answer;
pub mod shim_input;
pub mod tar;
pub mod ttrpc;

/// Seeds given as byte strings.
fn list<const N: usize>(seeds: [&[u8]; N]) -> Vec<Vec<u8>> {
    seeds.into_iter().map(<[u8]>::to_vec).collect()
}

/// Writes a file, which may be there. A new one each time: some filesystems
/// bring one that is cut short and written again to the disk at once.
fn renew(path: &std::path::Path, data: &[u8]) {
    let _ = std::fs::remove_file(path);
    std::fs::write(path, data).expect("the file can be written");
}
