//! Parts that run in other processes and speak containerd's own gRPC services
//! on sockets of theirs (`[proxy_plugins.NAME]`; containerd, `cmd/containerd/
//! server` and the packages `proxy` of `core/snapshots`, `core/diff` and
//! `core/content`).
//!
//! Such a process may be away, slow or stuck. Nothing here waits for one when
//! the daemon starts, every call has a limit, so many calls may be under way
//! on each and no more, and none of them holds a thread, but those of a
//! content store, for which there are more threads.
//!
//! This is in the daemon because it joins the index to a client of the API;
//! nobody below may know both.

mod claims;
mod content;
mod differ;
mod error;
mod link;
mod remote;
mod snapshots;
mod sweep;

use std::collections::BTreeMap;
use std::sync::Arc;

use davit_index::{Index, RemoteSnapshots};

use crate::config::{Config, ProxyPlugin};
pub use content::{Content, THREADS_MAX};
pub use differ::{Differ, Differs};
pub use error::Error;
use link::Link;
pub use snapshots::{Creation, Snapshotter};

/// Everything that is configured to run elsewhere, by name.
#[derive(Clone, Default)]
pub struct Proxies {
    /// Snapshotters.
    pub snapshotters: BTreeMap<String, Arc<Snapshotter>>,
    /// Differs.
    pub differs: BTreeMap<String, Arc<Differ>>,
    /// The content store, when it is not our own.
    pub content: Option<Content>,
}

impl Proxies {
    /// What `config` names. Connects to nothing.
    ///
    /// # Errors
    /// An address that can be none.
    pub fn new(config: &Config, index: &Arc<Index>) -> Result<Self, Error> {
        let mut proxies = Self::default();
        for (name, plugin) in &config.proxy_plugins {
            if !config.enabled(&format!("{}.{name}", plugin.plugin_type())) {
                continue;
            }
            match plugin.kind.as_str() {
                "snapshot" => {
                    let link = link("snapshotter", name, plugin)?;
                    let rows = RemoteSnapshots::new(Arc::clone(index), name.clone());
                    let snapshotter = Arc::new(Snapshotter::new(rows, link));
                    proxies.snapshotters.insert(name.clone(), snapshotter);
                }
                "diff" => {
                    let differ = Arc::new(Differ::new(link("differ", name, plugin)?));
                    proxies.differs.insert(name.clone(), differ);
                }
                // There is no other one, or the configuration was refused.
                "content" => {
                    let scratch = config.root.join("io.containerd.content.v1.proxy");
                    proxies.content = Some(Content::new(name, plugin, scratch)?);
                }
                // The configuration has warned of those.
                _ => {}
            }
        }
        Ok(proxies)
    }
}

fn link(what: &'static str, name: &str, plugin: &ProxyPlugin) -> Result<Link, Error> {
    Link::new(what, name.to_owned(), plugin.address.clone())
}
