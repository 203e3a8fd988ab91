//! Who we are to a registry: challenges are answered with a name and a
//! password or with a token, which is kept as long as it holds.
//!
//! A login goes to the server that it is for and to the token server that
//! this one names, and nowhere else. A server that we were redirected to gets
//! at most a token that anybody can have.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use base64::Engine as _;
use http::HeaderValue;

use super::Error;
use super::challenge::{self, Challenge, Scheme};
use super::scope::Scopes;
use super::token::{self, Manner, Token, TokenCache, Wanted};
use super::url::{Origin, Url};
use crate::credentials::{Anonymous, Credentials, Login};

/// Servers that one repository's requests may end at and that want to know
/// who we are.
const MOST_SESSIONS: usize = 64;

/// How the servers of one repository know us.
pub(crate) struct Auth {
    credentials: Arc<dyn Credentials>,
    tokens: Arc<TokenCache>,
    sessions: Mutex<HashMap<(Origin, Trust), Session>>,
}

/// What a server wants to see.
#[derive(Clone)]
enum Session {
    /// Always the same.
    Fixed(HeaderValue),
    /// A token that fits what is asked.
    Token { realm: Url, service: String, scopes: Scopes, login: Option<Login> },
}

/// What was sent to prove who we are.
pub(crate) struct Proof {
    pub value: HeaderValue,
    /// When it was had, where it is a token.
    obtained: Option<Instant>,
}

/// Whose name a server gets to hear.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Trust {
    /// That of the login for it.
    Login,
    /// Nobody's.
    Nobody,
}

impl Auth {
    pub fn new(credentials: Arc<dyn Credentials>, tokens: Arc<TokenCache>) -> Self {
        Self { credentials, tokens, sessions: Mutex::new(HashMap::new()) }
    }

    fn session(&self, origin: &Origin, trust: Trust) -> Option<Session> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get(&(origin.clone(), trust)).cloned()
    }

    /// What to send to `origin` for a request that needs `scopes`; nothing
    /// where it never asked for anything.
    ///
    /// # Errors
    /// [`Error::Token`].
    pub async fn proof(
        &self,
        origin: &Origin,
        trust: Trust,
        scopes: &Scopes,
        manner: Manner<'_>,
    ) -> Result<Option<Proof>, Error> {
        match self.session(origin, trust) {
            None => Ok(None),
            Some(Session::Fixed(value)) => Ok(Some(Proof { value, obtained: None })),
            Some(Session::Token { realm, service, scopes: usual, login }) => {
                let scopes = usual.with(scopes);
                let wanted = Wanted { origin: origin.clone(), realm, service, scopes, login };
                let token = self.tokens.get(&wanted, manner).await?;
                let Token { value, obtained, .. } = token;
                Ok(Some(Proof { value, obtained: Some(obtained) }))
            }
        }
    }

    /// What to do after `origin` has refused a request that was `begun` then
    /// and carried `proof`: whether to try once more.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] when there is nothing left to try.
    pub async fn refused(
        &self,
        url: &Url,
        challenges: &[String],
        proof: Option<&Proof>,
        begun: Instant,
        trust: Trust,
    ) -> Result<bool, Error> {
        let origin = url.origin();
        let Some(challenge) =
            challenge::parse(challenges.iter().map(String::as_str)).into_iter().next()
        else {
            return Ok(false);
        };
        let is_new = match proof {
            None => false,
            // Neither a password nor a token that was just made gets better.
            Some(Proof { obtained: None, .. }) => true,
            Some(Proof { obtained: Some(obtained), .. }) => *obtained >= begun,
        };
        if is_new {
            return match challenge.parameter("error") {
                Some(error) => Err(server_says(error)),
                None => Ok(false),
            };
        }
        if let Some(proof) = proof {
            self.tokens.forget(&proof.value);
        }
        let session = self.answer(url, &challenge, challenges, trust).await?;
        let Some(session) = session else { return Ok(false) };
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() < MOST_SESSIONS || sessions.contains_key(&(origin.clone(), trust)) {
            sessions.insert((origin, trust), session);
        }
        Ok(true)
    }

    /// How to answer `challenge`.
    async fn answer(
        &self,
        url: &Url,
        challenge: &Challenge,
        all: &[String],
        trust: Trust,
    ) -> Result<Option<Session>, Error> {
        let login = match trust {
            Trust::Login => self.credentials.login(url.authority(), all).await?,
            Trust::Nobody => Anonymous.login(url.authority(), all).await?,
        };
        match (challenge.scheme, login) {
            (_, Some(Login::Header(value))) => fixed(&value).map(Some),
            (_, Some(Login::Bearer(token))) => fixed(&format!("Bearer {token}")).map(Some),
            (Scheme::Bearer, login) => {
                let Some(realm) = challenge.parameter("realm") else {
                    return Err(bad_realm(url, "no realm specified for token auth challenge"));
                };
                let realm = token::realm(url, realm).map_err(|why| bad_realm(url, why))?;
                let service = challenge.parameter("service").unwrap_or_default().to_owned();
                let scopes = Scopes::parse(challenge.parameter("scope").unwrap_or_default());
                Ok(Some(Session::Token { realm, service, scopes, login }))
            }
            (Scheme::Basic, Some(Login::Basic { username, password }))
                if !username.is_empty() && !password.is_empty() =>
            {
                fixed(&basic(&username, &password)).map(Some)
            }
            (Scheme::Basic, _) if trust == Trust::Nobody => Ok(None),
            (Scheme::Basic, _) => Err(Error::Unauthorized(
                "authorization failed: no basic auth credentials".to_owned(),
            )),
        }
    }
}

/// The value of a header for a name and a password.
pub(crate) fn basic(username: &str, password: &str) -> String {
    let pair = format!("{username}:{password}");
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(pair))
}

/// A header's value that no log prints.
pub(crate) fn secret(value: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| Error::Unauthorized("credentials that fit into no header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn fixed(value: &str) -> Result<Session, Error> {
    secret(value).map(Session::Fixed)
}

fn bad_realm(url: &Url, why: impl Into<String>) -> Error {
    Error::Answer { url: url.to_string(), what: why.into() }
}

/// The registry's word for why it refuses.
fn server_says(error: &str) -> Error {
    let error = super::message::tame(error);
    Error::Unauthorized(format!("server message: {error}: authorization failed"))
}
