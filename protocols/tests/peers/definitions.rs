//! Our definitions, read anew from their files.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

/// The files below `proto/`, relative to it.
fn files() -> Vec<PathBuf> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else if path.extension().is_some_and(|e| e == "proto") {
                found.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    found.sort();
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto")
}

/// All of them, compiled.
pub fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let set = protox::compile(files(), [root()]).unwrap();
        DescriptorPool::from_file_descriptor_set(set).unwrap()
    })
}

/// Every message that is ours: no map's entry, none of protobuf's own.
pub fn messages() -> impl Iterator<Item = MessageDescriptor> {
    pool()
        .all_messages()
        .filter(|message| !message.is_map_entry() && message.package_name() != "google.protobuf")
}
