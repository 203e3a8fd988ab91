//! Pulls an image into a directory, without any daemon:
//!
//! ```sh
//! cargo run -p davit-distribution --example pull -- busybox:latest /tmp/busybox [PLATFORM]
//! skopeo inspect oci:/tmp/busybox:latest
//! ```
//!
//! What is there already is not fetched again, and a pull that was cut short
//! is gone on with.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use davit_distribution::credentials::{Anonymous, Credentials, Docker};
use davit_distribution::hosts::Config;
use davit_distribution::layout::Layout;
use davit_distribution::pull::{Observer, Pull, Shared, Turns, Wanted};
use davit_distribution::registry::{Access, Registry, Settings};
use davit_types::{Descriptor, Kind, Platform, Reference};
use tokio::sync::Semaphore;

/// Blobs fetched at a time.
const DOWNLOADS: usize = 3;

/// Says what is done.
struct Printer;

impl Observer for Printer {
    fn added(&self, _: &str, _: &Descriptor, _: &[String]) {}

    fn exists(&self, blob: &Descriptor) {
        println!("{} exists", blob.digest);
    }

    fn offset(&self, _: &Descriptor, _: u64) {}

    fn complete(&self, blob: &Descriptor) {
        println!("{} {} bytes", blob.digest, blob.size);
    }

    fn unpacking(&self, _: &Descriptor, _: u64) {}

    fn unpacked(&self, _: &Descriptor) {}
}

async fn pull(name: &str, directory: &Path, platform: Platform) -> Result<(), Box<dyn Error>> {
    let reference = Reference::parse_familiar(name)?;
    let layout = Layout::open(directory)?;
    let config =
        Config { directories: vec!["/etc/containerd/certs.d".into()], ..Config::default() };
    let credentials: Arc<dyn Credentials> = match Docker::of_user() {
        Some(docker) => Arc::new(docker),
        None => Arc::new(Anonymous),
    };
    let access = Access {
        hosts: config.hosts(reference.domain())?,
        credentials,
        headers: Vec::new(),
        record: None,
    };
    let repository = Registry::new(Settings::default()).repository(&reference, access)?;
    let failed = |error: &dyn Kind| error.full_message();
    let root = repository.resolve().await.map_err(|error| failed(&error))?;
    println!("{reference} is {}", root.digest);
    let pull = Pull {
        remote: Arc::new(repository),
        store: Arc::new(layout.clone()),
        observer: Arc::new(Printer),
        shared: Shared {
            downloads: Some(Arc::new(Semaphore::new(DOWNLOADS))),
            fetches: Turns::default(),
        },
        unpack: None,
        reference: reference.clone(),
        wanted: Wanted { platforms: vec![platform], ..Wanted::default() },
    };
    pull.run(&root, &reference.to_string()).await.map_err(|error| failed(&error))?;
    layout.tag(&root, reference.tag().unwrap_or(root.digest.as_str()))?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, directory, platform) = match arguments.as_slice() {
        [name, directory] => (name, directory, Platform::host()),
        [name, directory, platform] => (name, directory, Platform::parse(platform)?),
        _ => return Err("usage: pull REFERENCE DIRECTORY [PLATFORM]".into()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(pull(name, Path::new(directory), platform))
}
