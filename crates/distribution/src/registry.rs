//! Registries over HTTP: the OCI distribution specification 1.1 and docker's
//! registry API, as a client.
//!
//! A [`Registry`] holds what all repositories share: connections, tokens, what
//! is known of dead hosts. A [`Repository`] is one name on its hosts, mirrors
//! first. Every operation asks host after host, waits and asks again where
//! that can help, and never hands out what it has not checked: documents by
//! their digest, the length of blobs; the digest of a blob is checked by who
//! reads it.
//!
//! Credentials, our headers and our certificate go to the host that they were
//! configured for and follow no redirect to another.
//!
//! HTTP is `hyper`'s, with a connection pool and without a cookie jar,
//! redirects or retries of its own: those that other libraries bring along
//! decide for themselves what goes where.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use davit_types::Reference;
use tokio::sync::Semaphore;

use crate::credentials::Credentials;
use crate::hosts::Host;
use crate::pull::Turns;

mod answer;
mod auth;
mod body;
pub mod challenge;
mod client;
mod connect;
mod document;
mod download;
mod endpoint;
mod error;
mod failure;
mod flow;
pub mod header;
mod listing;
mod message;
mod parallel;
mod proxy;
mod push;
mod record;
mod referrers;
mod repository;
mod resolve;
mod scope;
mod settings;
mod tls;
mod token;
mod tour;
mod upload;
mod url;

pub use body::BlobSource;
pub use download::Download;
pub use error::{Error, Status};
pub use failure::Failure;
pub use message::{Message, Messages};
pub use push::Pushed;
pub use record::Record;
pub use repository::Repository;
pub use settings::{Ranges, Settings};

use client::Clients;
use proxy::Proxies;
use token::TokenCache;
use tour::Health;
use url::Origin;

/// A client of registries. Cheap to clone; a program needs one.
#[derive(Clone)]
pub struct Registry(Arc<Shared>);

/// How a repository may be reached.
#[derive(Clone)]
pub struct Access {
    /// Where it is, the first choice first.
    pub hosts: Vec<Host>,
    /// Who we are there.
    pub credentials: Arc<dyn Credentials>,
    /// Sent along with every request to one of the hosts.
    pub headers: Vec<(String, String)>,
    /// Who writes down what is said.
    pub record: Option<Arc<dyn Record>>,
}

/// What all repositories share.
pub(crate) struct Shared {
    settings: Arc<Settings>,
    clients: Clients,
    tokens: Arc<TokenCache>,
    health: Arc<Health>,
    places: Mutex<HashMap<Origin, Arc<Semaphore>>>,
    /// One writer of each list of referrers.
    referrers: Turns,
}

impl Registry {
    /// A client that goes by `settings`, and by the proxies that the
    /// environment names. What it names and is none fails the requests that
    /// would go through it ([`Error::Proxies`]), and nothing else.
    pub fn new(settings: Settings) -> Self {
        Self::with_environment(settings, |name| std::env::var(name).ok())
    }

    /// The same in an environment of the caller's making: `variable` gives
    /// the value of one.
    pub fn with_environment(settings: Settings, variable: impl Fn(&str) -> Option<String>) -> Self {
        Self(Arc::new(Shared {
            settings: Arc::new(settings),
            clients: Clients::new(Proxies::new(variable)),
            tokens: Arc::default(),
            health: Arc::default(),
            places: Mutex::default(),
            referrers: Turns::default(),
        }))
    }

    /// The repository that `reference` names. Nobody is asked yet.
    ///
    /// # Errors
    /// [`Error::Host`] and [`Error::Certificate`], when a host is not to be
    /// spoken to like that.
    pub fn repository(&self, reference: &Reference, access: Access) -> Result<Repository, Error> {
        Repository::new(self.0.clone(), reference, access)
    }
}

impl Shared {
    /// Where downloads from a host queue, if their number is limited.
    fn places(&self, origin: &Origin) -> Option<Arc<Semaphore>> {
        let limit = self.settings.downloads;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody waits in a queue that only this table knows.
        places.retain(|_, queue| Arc::strong_count(queue) > 1 || queue.available_permits() < limit);
        (limit > 0).then(|| {
            places.entry(origin.clone()).or_insert_with(|| Arc::new(Semaphore::new(limit))).clone()
        })
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Access {
    /// Without the values of headers.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}
