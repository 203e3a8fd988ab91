//! Tokens from a registry's token server (docker's token authentication and
//! its OAuth 2 variant), fetched once by whoever comes first and kept while
//! they hold.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;

use super::Error;
use super::auth::{basic, secret};
use super::body::Payload;
use super::client::{Ask, Pair, Patience};
use super::scope::Scopes;
use super::url::{Origin, Url, encode};
use crate::credentials::Login;

/// How we call ourselves to token servers, as containerd does; some know no
/// other clients.
const CLIENT_ID: &str = "containerd-client";

/// Longer answers of token servers are refused.
const LONGEST_ANSWER: u64 = 1 << 20;

/// Tokens without a date hold so long, and none is taken to hold for less
/// (docker's token specification).
const SHORTEST_LIFE: Duration = Duration::from_secs(60);

/// None is taken to hold for longer.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);

/// So long before its end, a token is not used any more.
const MARGIN: Duration = Duration::from_secs(10);

/// Tokens that are kept; the oldest goes first.
const MOST_TOKENS: usize = 256;

/// A token is for this.
pub(crate) struct Wanted {
    /// The registry that asked for it.
    pub origin: Origin,
    /// The token server.
    pub realm: Url,
    pub service: String,
    pub scopes: Scopes,
    pub login: Option<Login>,
}

/// How the token servers of one host are asked.
#[derive(Clone, Copy)]
pub(crate) struct Manner<'a> {
    pub clients: &'a Pair,
    pub patience: Patience,
    /// How we call ourselves.
    pub user_agent: &'a HeaderValue,
    /// What a token server at the host itself gets to see beside our
    /// certificate. `None` when the host is not one of the repository's.
    pub private: Option<&'a HeaderMap>,
}

/// One that was given to us.
#[derive(Clone)]
pub(crate) struct Token {
    /// Fit for `Authorization`.
    pub value: HeaderValue,
    pub obtained: Instant,
    pub expires: Instant,
}

/// All tokens that we hold, each for one registry, one login and one set of
/// permissions: nobody gets to use another's.
#[derive(Default)]
pub(crate) struct TokenCache(Mutex<HashMap<[u8; 32], Arc<OnceCell<Token>>>>);

impl TokenCache {
    /// The token for `wanted`; of several who ask at once, one fetches it.
    ///
    /// # Errors
    /// [`Error::Token`].
    pub async fn get(&self, wanted: &Wanted, manner: Manner<'_>) -> Result<Token, Error> {
        let cell = self.cell(wanted.key(wanted.private(manner)));
        cell.get_or_try_init(|| wanted.fetch(manner)).await.cloned()
    }

    fn cell(&self, key: [u8; 32]) -> Arc<OnceCell<Token>> {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        cells.retain(|_, cell| cell.get().is_none_or(|token| token.expires > now));
        if cells.len() >= MOST_TOKENS {
            let oldest = cells
                .iter()
                .min_by_key(|(_, cell)| cell.get().map(|token| token.obtained))
                .map(|(key, _)| *key);
            oldest.map(|key| cells.remove(&key));
        }
        cells.entry(key).or_default().clone()
    }

    /// A server did not take this one.
    pub fn forget(&self, value: &HeaderValue) {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cells.retain(|_, cell| cell.get().is_none_or(|token| token.value != value));
    }
}

impl Wanted {
    /// The headers for the token server: ours are for the registry alone.
    fn private<'a>(&self, manner: Manner<'a>) -> Option<&'a HeaderMap> {
        manner.private.filter(|_| self.realm.origin() == self.origin)
    }

    /// What tells tokens apart, without the secret in it.
    fn key(&self, headers: Option<&HeaderMap>) -> [u8; 32] {
        let scopes: Vec<String> = self.scopes.iter().collect();
        let login = match &self.login {
            None => vec!["nobody"],
            Some(Login::Basic { username, password }) => vec!["basic", username, password],
            Some(Login::Refresh(token)) => vec!["refresh", token],
            Some(Login::Bearer(token)) => vec!["bearer", token],
            Some(Login::Header(value)) => vec!["header", value],
        };
        let origin = format!("{:?}", self.origin);
        let realm = format!("{}{:?}", self.realm, self.realm.origin());
        let all = [origin.as_str(), &realm, &self.service, &scopes.join(" ")];
        let texts = all.into_iter().chain(login).map(str::as_bytes);
        let headers = headers.into_iter().flatten();
        let headers = headers.flat_map(|(name, value)| [name.as_ref(), value.as_bytes()]);
        let mut hash = Sha256::new();
        for part in texts.chain(headers) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    async fn fetch(&self, manner: Manner<'_>) -> Result<Token, Error> {
        let wrap = |kind| move |source| Error::Token { kind, source: Box::new(source) };
        match self.secret() {
            None => self.get(manner).await.map_err(wrap("anonymous")),
            Some((username, secret)) => {
                let posted = self.post(username, secret, manner).await;
                match posted {
                    // Not every server knows this way (containerd,
                    // `core/remotes/docker/authorizer.go`).
                    Err(error) if knows_no_post(&error, username) => {
                        self.get(manner).await.map_err(wrap("oauth"))
                    }
                    posted => posted.map_err(wrap("oauth")),
                }
            }
        }
    }

    /// Name and secret; the name of a refresh token is empty.
    fn secret(&self) -> Option<(&str, &str)> {
        match self.login.as_ref()? {
            Login::Basic { username, password } => {
                Some((username.as_str(), password.as_str())).filter(|(_, p)| !p.is_empty())
            }
            Login::Refresh(token) => Some(("", token)),
            Login::Bearer(_) | Login::Header(_) => None,
        }
    }

    /// OAuth 2: everything in the body.
    async fn post(&self, username: &str, secret: &str, manner: Manner<'_>) -> Result<Token, Error> {
        let scopes: Vec<String> = self.scopes.iter().collect();
        let mut form = vec![("service", self.service.as_str()), ("client_id", CLIENT_ID)];
        let scopes = scopes.join(" ");
        if !scopes.is_empty() {
            form.push(("scope", &scopes));
        }
        if username.is_empty() {
            form.extend([("grant_type", "refresh_token"), ("refresh_token", secret)]);
        } else {
            form.extend([("grant_type", "password"), ("username", username)]);
            form.push(("password", secret));
        }
        let pairs: Vec<String> = form.iter().map(|(k, v)| format!("{k}={}", encode(v))).collect();
        let mut ask = Ask::new(Method::POST, self.realm.clone());
        let kind = "application/x-www-form-urlencoded; charset=utf-8";
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        ask.payload = Payload::Whole(Bytes::from(pairs.join("&")));
        // The body is a secret and follows no redirect.
        ask.is_stationary = true;
        self.exchange(ask, manner).await
    }

    /// Docker's older way.
    async fn get(&self, manner: Manner<'_>) -> Result<Token, Error> {
        let mut url = self.realm.clone();
        if !self.service.is_empty() {
            url = url.with_query("service", &self.service);
        }
        for scope in self.scopes.iter() {
            url = url.with_query("scope", &scope);
        }
        let mut ask = Ask::new(Method::GET, url);
        if let Some((username, password)) = self.secret() {
            let value = secret(&basic(username, password))?;
            ask.authorizations.push((self.realm.origin(), value));
        }
        self.exchange(ask, manner).await
    }

    async fn exchange(&self, mut ask: Ask, manner: Manner<'_>) -> Result<Token, Error> {
        ask.is_secret = true;
        ask.headers.insert(USER_AGENT, manner.user_agent.clone());
        let obtained = Instant::now();
        let Pair { home, elsewhere } = manner.clients.clone();
        // So is our certificate.
        let home = match self.private(manner) {
            Some(headers) => {
                ask.private = headers.clone();
                home
            }
            None => elsewhere.clone(),
        };
        let answer = Pair { home, elsewhere }.send(&ask, manner.patience).await?;
        let answer = if answer.status.is_success() {
            answer
        } else {
            return Err(answer.status_error().await);
        };
        let url = answer.url.to_string();
        let nonsense = |what: &str| Error::Answer { url: url.clone(), what: what.to_owned() };
        let body = answer.whole(LONGEST_ANSWER, "a token").await?;
        let given: Given = serde_json::from_slice(&body)
            .map_err(|_| nonsense("unable to decode token response"))?;
        let token = [given.access_token, given.token].into_iter().find(|token| !token.is_empty());
        let token = token.ok_or_else(|| {
            nonsense("authorization server did not include a token in the response")
        })?;
        let seconds = given.expires_in.filter(|s| s.is_finite()).unwrap_or(0.0).max(0.0);
        let life = Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_LIFE);
        let life = life.clamp(SHORTEST_LIFE, LONGEST_LIFE) - MARGIN;
        Ok(Token { value: secret(&format!("Bearer {token}"))?, obtained, expires: obtained + life })
    }
}

/// What token servers give.
#[derive(Deserialize)]
struct Given {
    #[serde(default, deserialize_with = "text")]
    token: String,
    #[serde(default, deserialize_with = "text")]
    access_token: String,
    #[serde(default)]
    expires_in: Option<f64>,
}

/// A string, or `null` for none.
fn text<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

fn knows_no_post(error: &Error, username: &str) -> bool {
    match error.status() {
        Some(400 | 401 | 404) => true,
        Some(405) => !username.is_empty(),
        _ => false,
    }
}

/// The token server that a registry names.
///
/// # Errors
/// In words, when a registry with a safe connection names one without, or one
/// that is no web server.
pub(crate) fn realm(registry: &Url, realm: &str) -> Result<Url, String> {
    let url = registry.join(realm).map_err(|bad| format!("invalid token auth realm: {bad}"))?;
    if registry.origin().is_secure() && !url.origin().is_secure() {
        return Err(format!("the token server {url} is not asked without TLS"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_server_is_asked_as_safely_as_the_registry() {
        let safe = Url::parse("https://r.example/v2/").unwrap();
        let open = Url::parse("http://r.example/v2/").unwrap();
        assert!(realm(&safe, "https://auth.example/token").is_ok());
        assert!(realm(&open, "http://auth.example/token").is_ok());
        assert!(realm(&open, "https://auth.example/token").is_ok());
        assert!(realm(&safe, "http://auth.example/token").unwrap_err().contains("without TLS"));
        assert!(realm(&safe, "file:///etc/passwd").is_err());
        assert!(realm(&safe, "https://user:password@auth.example/").is_err());
    }

    fn wanted(login: Option<Login>, scope: &str) -> Wanted {
        let registry = Url::parse("https://r.example/").unwrap();
        Wanted {
            origin: registry.origin(),
            realm: registry.with_path("/token"),
            service: "s".into(),
            scopes: Scopes::parse(scope),
            login,
        }
    }

    #[test]
    fn nobody_gets_the_token_of_another() {
        let login =
            |password: &str| Some(Login::Basic { username: "u".into(), password: password.into() });
        let keys = [
            wanted(None, "repository:a:pull").key(None),
            wanted(None, "repository:a:pull,push").key(None),
            wanted(login("one"), "repository:a:pull").key(None),
            wanted(login("two"), "repository:a:pull").key(None),
            wanted(Some(Login::Refresh("one".into())), "repository:a:pull").key(None),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(keys[0], wanted(None, "repository:a:pull").key(None));
    }

    #[test]
    fn what_token_servers_give_is_read() {
        let read = |text: &str| serde_json::from_str::<Given>(text);
        assert_eq!(read(r#"{"token":"t"}"#).unwrap().token, "t");
        assert_eq!(read(r#"{"token":null,"access_token":"a"}"#).unwrap().access_token, "a");
        assert_eq!(read(r#"{"token":"t","expires_in":3.5}"#).unwrap().expires_in, Some(3.5));
        assert!(read(r#"{"token":7}"#).is_err());
    }
}
