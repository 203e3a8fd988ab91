//! One host of a repository: where it is, how it is spoken to and who we are
//! there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use davit_types::Digest;
use http::header::{ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue, USER_AGENT, WARNING};
use http::{Method, StatusCode, header};

use super::answer::Answer;
use super::auth::{Auth, Trust};
use super::client::{Ask, Pair, Patience};
use super::failure::Failure;
use super::record::Record;
use super::scope::Scopes;
use super::token::Manner;
use super::url::{Origin, Url, encode};
use super::{Error, Shared};
use crate::hosts::Host;

/// Attempts to say who we are: with what is known, with a token that was kept
/// and with one that is new, at the registry and at where it sends us.
const MOST_PROOFS: usize = 4;

/// One of a repository's hosts.
pub(crate) struct Endpoint {
    pub host: Host,
    root: Url,
    /// Before the repository's name in every path.
    prefix: String,
    clients: Pair,
    /// The same with less time to connect.
    hurried: Pair,
    headers: HeaderMap,
    /// Those of them that the configuration names: others are for requests to
    /// the registry alone (containerd, `core/remotes/docker/config/hosts.go`).
    token_headers: HeaderMap,
    user_agent: HeaderValue,
    auth: Arc<Auth>,
    /// Where a blob is that is not on a registry.
    foreign: Option<Url>,
    /// A host that may be spoken to in the clear has turned out to want it.
    is_plain: AtomicBool,
}

impl Endpoint {
    /// The host of `repository`; `headers` go to it beside its own.
    ///
    /// # Errors
    /// [`Error::Host`] and [`Error::Certificate`].
    pub fn new(
        shared: &Shared,
        host: Host,
        repository: &str,
        headers: &[(String, String)],
        auth: Arc<Auth>,
        record: &Option<Arc<dyn Record>>,
    ) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Host { host: host.authority.clone(), reason };
        let root =
            Url::of_host(&host.scheme, &host.authority).map_err(|bad| wrong(bad.to_string()))?;
        let mut all = private(headers.iter().chain(&host.headers)).map_err(wrong)?;
        let mut token_headers = private(host.headers.iter()).map_err(wrong)?;
        token_headers.remove(USER_AGENT);
        let settings = &shared.settings;
        let user_agent =
            all.remove(USER_AGENT).map_or_else(|| HeaderValue::from_str(&settings.user_agent), Ok);
        let user_agent = user_agent.map_err(|_| wrong("invalid user agent".to_owned()))?;
        let timeout = host.dial_timeout.unwrap_or(settings.connect_timeout);
        let clients = shared.clients.pair(&host.tls, timeout)?.recorded(record);
        let timeout = host.dial_timeout.unwrap_or(settings.mirror_connect_timeout);
        let hurried = shared.clients.pair(&host.tls, timeout)?.recorded(record);
        let prefix = format!("{}/{}", host.path.trim_end_matches('/'), encode(repository));
        let prefix = if prefix.starts_with('/') { prefix } else { format!("/{prefix}") };
        Ok(Self {
            host,
            root,
            prefix,
            clients,
            hurried,
            headers: all,
            token_headers,
            user_agent,
            auth,
            foreign: None,
            is_plain: AtomicBool::new(false),
        })
    }

    /// A server that has one blob, at `url`, and is no registry. It gets to
    /// know nothing of us.
    ///
    /// # Errors
    /// [`Error::Host`] for what is no address of one.
    pub fn foreign(
        shared: &Shared,
        url: &str,
        auth: Arc<Auth>,
        record: &Option<Arc<dyn Record>>,
    ) -> Result<Self, Error> {
        let parsed = Url::parse(url).map_err(|bad| Error::Host {
            host: "of a foreign layer".to_owned(),
            reason: bad.to_string(),
        })?;
        let host = Host {
            scheme: parsed.scheme().to_owned(),
            authority: parsed.authority().to_owned(),
            ..Host::default()
        };
        Ok(Self { foreign: Some(parsed), ..Self::new(shared, host, "", &[], auth, record)? })
    }

    /// Whether it is no registry.
    pub fn is_foreign(&self) -> bool {
        self.foreign.is_some()
    }

    /// Where this host has a blob.
    pub fn blob_url(&self, digest: &Digest, domain: &str) -> Url {
        match &self.foreign {
            Some(url) => url.clone(),
            None => self.mirror_url(&format!("blobs/{digest}"), domain),
        }
    }

    /// `/v2/NAME/` and `rest` on this host.
    pub fn url(&self, rest: &str) -> Url {
        self.base().with_path(&format!("{}/{rest}", self.prefix))
    }

    /// The same, for what a mirror may serve for several registries: it is
    /// told which.
    pub fn mirror_url(&self, rest: &str, domain: &str) -> Url {
        let url = self.url(rest);
        if self.host.is_mirror { url.with_query("ns", domain) } else { url }
    }

    /// The server's root.
    pub fn base(&self) -> Url {
        match self.is_plain.load(Ordering::Relaxed) {
            true => self.root.clone().without_tls(),
            false => self.root.clone(),
        }
    }

    /// The server, as health is remembered by.
    pub fn origin(&self) -> Origin {
        self.root.origin()
    }

    /// A request that this host gets its headers with.
    pub fn ask(&self, method: Method, url: Url) -> Ask {
        let mut ask = Ask::new(method, url);
        ask.headers.insert(USER_AGENT, self.user_agent.clone());
        // Bytes as they are stored: digests and ranges are of those.
        ask.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if ask.url.origin() == self.base().origin() {
            ask.private = self.headers.clone();
        }
        ask
    }

    /// Asks, and says who we are when that is wanted.
    ///
    /// # Errors
    /// When there is no answer or no way to be let in. An answer that says no
    /// is an answer.
    pub async fn send(
        &self,
        mut ask: Ask,
        scopes: &Scopes,
        patience: Patience,
    ) -> Result<Answer, Error> {
        match self.try_send(&mut ask, scopes, patience).await {
            Err(error) if self.falls_back(&ask, &error) => {
                log::info!(host = self.host.authority.as_str(); "speak plain http");
                self.is_plain.store(true, Ordering::Relaxed);
                ask.url = ask.url.without_tls();
                self.try_send(&mut ask, scopes, patience).await
            }
            done => done,
        }
    }

    /// Whether the host turns out not to speak TLS and need not (containerd,
    /// `NewHTTPFallback`).
    fn falls_back(&self, ask: &Ask, error: &Error) -> bool {
        let Error::Request { source, .. } = error else { return false };
        let names_port =
            self.host.authority.rsplit_once(':').is_some_and(|(_, p)| !p.contains(']'));
        self.host.http_fallback
            && ask.url.origin() == self.root.origin()
            && ask.url.origin().is_secure()
            && match source {
                Failure::NotTls => true,
                Failure::Connect { .. } | Failure::Timeout(_) => !names_port,
                _ => false,
            }
    }

    async fn try_send(
        &self,
        ask: &mut Ask,
        scopes: &Scopes,
        patience: Patience,
    ) -> Result<Answer, Error> {
        let begun = Instant::now();
        let home = ask.url.origin();
        let trust = |origin: &Origin| match *origin == self.base().origin() {
            true => Trust::Login,
            false => Trust::Nobody,
        };
        let mut target = ask.url.clone();
        let mut proof = self.prove(&home, trust(&home), scopes, patience).await?;
        for _ in 0..MOST_PROOFS {
            let whose = target.origin();
            if let Some(proof) = &proof {
                ask.authorizations.retain(|(origin, _)| *origin != whose);
                ask.authorizations.push((whose, proof.value.clone()));
            }
            let answer = self.clients(patience).send(ask, patience).await?;
            self.warn(&answer);
            if answer.status != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            let refuser = answer.url.origin();
            if refuser != target.origin() {
                proof = None;
            }
            target = answer.url.clone();
            let (asked, trust) = (answer.all(header::WWW_AUTHENTICATE), trust(&refuser));
            if !self.auth.refused(&target, &asked, proof.as_ref(), begun, trust).await? {
                return Ok(answer);
            }
            answer.discard().await;
            proof = self.prove(&refuser, trust, scopes, patience).await?;
        }
        let what = "too many demands for authorization".to_owned();
        Err(Error::Answer { url: ask.url.to_string(), what })
    }

    fn clients(&self, patience: Patience) -> &Pair {
        if patience.is_hurried { &self.hurried } else { &self.clients }
    }

    async fn prove(
        &self,
        origin: &Origin,
        trust: Trust,
        scopes: &Scopes,
        patience: Patience,
    ) -> Result<Option<super::auth::Proof>, Error> {
        let manner = Manner {
            clients: self.clients(patience),
            patience,
            user_agent: &self.user_agent,
            private: (trust == Trust::Login).then_some(&self.token_headers),
        };
        self.auth.proof(origin, trust, scopes, manner).await
    }

    /// Passes on what the registry wants people to know (OCI distribution
    /// specification, "Warnings").
    fn warn(&self, answer: &Answer) {
        for warning in answer.all(WARNING).iter().filter(|warning| warning.starts_with("299 - ")) {
            let text = super::message::tame(warning[6..].trim_matches('"'));
            log::warn!(host = self.host.authority.as_str(); "the registry says: {text}");
        }
    }
}

/// Headers that no log prints.
///
/// # Errors
/// In words, without the value.
fn private<'a>(headers: impl Iterator<Item = &'a (String, String)>) -> Result<HeaderMap, String> {
    let mut all = HeaderMap::new();
    for (name, value) in headers {
        let bad = || format!("invalid header {name:?}");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
        value.set_sensitive(true);
        all.append(name, value);
    }
    Ok(all)
}
