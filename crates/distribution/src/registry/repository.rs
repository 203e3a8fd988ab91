//! One repository on its hosts.

use std::fmt;
use std::sync::Arc;

use davit_types::{Descriptor, Reference};
use http::header::HeaderValue;

use super::answer::Answer;
use super::auth::Auth;
use super::client::Ask;
use super::endpoint::Endpoint;
use super::record::Record;
use super::scope::Scopes;
use super::tour::{Tour, Turn};
use super::{Access, Error, Shared};
use crate::hosts::Capabilities;
use crate::pull::names::{SCHEMA_1, is_index, is_manifest};

/// One repository. Cheap to clone.
#[derive(Clone)]
pub struct Repository(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub shared: Arc<Shared>,
    pub reference: Reference,
    pub endpoints: Vec<Arc<Endpoint>>,
    pub record: Option<Arc<dyn Record>>,
}

impl Repository {
    pub(super) fn new(
        shared: Arc<Shared>,
        reference: &Reference,
        access: Access,
    ) -> Result<Self, Error> {
        let Access { hosts, credentials, headers, record } = access;
        let auth = Arc::new(Auth::new(credentials, shared.tokens.clone()));
        let endpoint = |host| {
            Endpoint::new(&shared, host, reference.path(), &headers, auth.clone(), &record)
                .map(Arc::new)
        };
        let endpoints = hosts.into_iter().map(endpoint).collect::<Result<_, _>>()?;
        let reference = reference.clone();
        Ok(Self(Arc::new(Inner { shared, reference, endpoints, record })))
    }

    /// What it was made for.
    pub fn reference(&self) -> &Reference {
        &self.0.reference
    }

    /// To be called when bytes from `host` (one of [`Download::sources`]) were
    /// not what their digest says: it is asked last from now on, for a while.
    ///
    /// [`Download::sources`]: super::Download::sources
    pub fn distrust(&self, host: &str) {
        let Inner { shared, endpoints, .. } = &*self.0;
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.host.authority == host) {
            log::warn!(host; "wrong bytes came from here");
            shared.health.note_liar(endpoint.origin(), &shared.settings);
        }
    }

    /// Attempts at the hosts that can do what `can` says; `what` names it.
    pub(super) fn tour(
        &self,
        what: &'static str,
        can: impl Fn(&Capabilities) -> bool,
    ) -> Result<Tour, Error> {
        let endpoints = self.0.endpoints.iter();
        let mut able = endpoints.filter(|e| can(&e.host.capabilities)).cloned().peekable();
        if able.peek().is_none() {
            return Err(Error::NoHosts(what));
        }
        let shared = &self.0.shared;
        Ok(Tour::new(able, shared.settings.clone(), shared.health.clone()))
    }

    /// Asks one host; an answer that says no is an error.
    pub(super) async fn send(
        &self,
        ask: Ask,
        turn: &Turn,
        scopes: &Scopes,
    ) -> Result<Answer, Error> {
        turn.endpoint.send(ask, scopes, turn.patience).await?.checked().await
    }

    /// What a token for reading must allow.
    pub(super) fn pull_scope(&self) -> Scopes {
        Scopes::pull(self.0.reference.path())
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Repository").field(&self.0.reference).finish()
    }
}

/// Where content is, behind the repository's name.
pub(super) fn path_of(content: &Descriptor) -> String {
    let media_type = content.media_type.as_str();
    let is_kept_apart =
        is_index(media_type) || is_manifest(media_type) || SCHEMA_1.contains(&media_type);
    let kind = if is_kept_apart { "manifests" } else { "blobs" };
    format!("{kind}/{}", content.digest)
}

/// `Accept` for content of a known type, as containerd sends it.
pub(super) fn accept(media_type: &str) -> HeaderValue {
    let value = format!("{media_type}, */*");
    HeaderValue::from_str(value.trim_start_matches(", "))
        .unwrap_or_else(|_| HeaderValue::from_static("*/*"))
}
