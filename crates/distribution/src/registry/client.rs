//! One request and its answer, redirects included, with nobody's credentials
//! going where they do not belong.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION, PROXY_AUTHORIZATION,
};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::answer::{Answer, drain};
use super::body::{Body, Payload};
use super::connect::Connector;
use super::failure::Failure;
use super::proxy::Proxies;
use super::record::{self, Peer, Record, Transcript};
use super::tls;
use super::url::{Origin, Url};
use super::{Error, Settings};
use crate::hosts::Tls;

/// Redirects followed for one request.
const MOST_REDIRECTS: usize = 10;

/// Connections to one server that wait to be used again.
const IDLE: usize = 4;

/// How long they wait.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes read from a connection at once; an answer's headers are no longer.
const READ_BUFFER: usize = 128 << 10;

/// Sets of connections, one for each way to make them; the oldest goes first.
const MOST_CLIENTS: usize = 32;

type Http = legacy::Client<Connector, Body>;

/// Connections to any server, made in one way.
#[derive(Clone)]
pub(crate) struct Client {
    http: Http,
    proxies: Arc<Proxies>,
    record: Option<Arc<dyn Record>>,
}

/// How long an attempt may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Without a byte, before the answer and within it.
    pub stall: Duration,
    /// To the answer, where the server may have to fetch first what it is
    /// asked for.
    pub fetch: Duration,
    /// From the last byte of a request to the answer, where the server has to
    /// store what it has got.
    pub commit: Duration,
    /// Whether there is another host left to ask.
    pub is_hurried: bool,
}

/// What is to be asked.
#[derive(Clone)]
pub(crate) struct Ask {
    pub method: Method,
    pub url: Url,
    /// For whoever answers in the end.
    pub headers: HeaderMap,
    /// For the server that is asked first, and no other.
    pub private: HeaderMap,
    /// Who we are to whom.
    pub authorizations: Vec<(Origin, HeaderValue)>,
    pub payload: Payload,
    /// Whether it is for the server that is asked first and follows no
    /// redirect.
    pub is_stationary: bool,
    /// Whether its body and that of its answer are nobody's business.
    pub is_secret: bool,
    /// What the server may have to do before it answers.
    pub work: Work,
}

/// What keeps a server from answering at once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Nothing,
    /// It brings what it is asked for from elsewhere.
    Fetch,
    /// It stores what it has got.
    Store,
}

impl Ask {
    pub fn new(method: Method, url: Url) -> Self {
        let (headers, private) = (HeaderMap::new(), HeaderMap::new());
        let (authorizations, payload) = (Vec::new(), Payload::None);
        let (is_stationary, is_secret) = (false, false);
        let work = if method == Method::PUT { Work::Store } else { Work::Nothing };
        Self {
            method,
            url,
            headers,
            private,
            authorizations,
            payload,
            is_stationary,
            is_secret,
            work,
        }
    }

    /// The headers for `url`. Nothing private leaves the first origin.
    fn headers_for(&self, url: &Url) -> HeaderMap {
        let mut headers = self.headers.clone();
        let origin = url.origin();
        if origin == self.url.origin() {
            headers.extend(self.private.clone());
        }
        // Some servers insist on a length where there could be a body.
        if self.payload.is_empty() && [Method::POST, Method::PUT].contains(&self.method) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        if let Some((_, value)) = self.authorizations.iter().find(|(whose, _)| *whose == origin) {
            headers.insert(AUTHORIZATION, value.clone());
        }
        headers
    }

    /// What is asked after an answer of `status` that names `location`.
    /// `None` when that is no redirect that we follow.
    fn redirected(
        &self,
        from: &Url,
        status: StatusCode,
        location: &str,
    ) -> Option<Result<Url, Error>> {
        let follows = !self.is_stationary
            && match status.as_u16() {
                // The method may change to GET on these.
                301..=303 => matches!(self.method, Method::GET | Method::HEAD),
                307 | 308 => true,
                _ => false,
            };
        follows.then(|| {
            let answer = |what: String| Error::Answer { url: from.to_string(), what };
            let to = from.join(location).map_err(|bad| answer(format!("redirect: {bad}")))?;
            let is_public = matches!(self.method, Method::GET | Method::HEAD);
            if !is_public
                && to.origin() != from.origin()
                && from.origin().is_secure()
                && !to.origin().is_secure()
            {
                return Err(answer("redirect of an upload to an insecure server".to_owned()));
            }
            Ok(to)
        })
    }
}

/// The certificate of ours is for the server that it was configured for.
#[derive(Clone)]
pub(crate) struct Pair {
    pub home: Client,
    pub elsewhere: Client,
}

impl Pair {
    /// The same, and `record` is told of what goes over it.
    pub fn recorded(mut self, record: &Option<Arc<dyn Record>>) -> Self {
        self.home.record.clone_from(record);
        self.elsewhere.record.clone_from(record);
        self
    }

    /// Asks, follows redirects, and waits for the answer's headers.
    ///
    /// # Errors
    /// When there is no answer. One that says no is an answer.
    pub async fn send(&self, ask: &Ask, patience: Patience) -> Result<Answer, Error> {
        let mut url = ask.url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let is_home = url.origin() == ask.url.origin();
            let client = if is_home { &self.home } else { &self.elsewhere };
            let response = client.exchange(ask, &url, patience).await?;
            let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            let next = location.and_then(|l| ask.redirected(&url, response.status(), l));
            match next {
                None => {
                    let transcript = client.transcript(ask, &url, &response);
                    let method = ask.method.clone();
                    return Ok(Answer::new(method, url, response, patience, transcript));
                }
                Some(next) => {
                    drop(client.transcript(ask, &url, &response));
                    url = next?;
                    drain(response.into_body()).await;
                }
            }
        }
        let what = format!("stopped after {MOST_REDIRECTS} redirects");
        Err(Error::Answer { url: ask.url.to_string(), what })
    }
}

impl Client {
    /// What is to be written down of an answer, if anything is.
    fn transcript(
        &self,
        ask: &Ask,
        url: &Url,
        response: &http::Response<Incoming>,
    ) -> Option<Transcript> {
        let record = self.record.clone()?;
        if let Some(peer) = response.extensions().get::<Peer>() {
            peer.tell(record.as_ref(), url);
        }
        Some(Transcript::new(record, ask, url, response))
    }

    async fn exchange(
        &self,
        ask: &Ask,
        url: &Url,
        patience: Patience,
    ) -> Result<http::Response<Incoming>, Error> {
        let bad =
            |bad: super::url::BadUrl| Error::Answer { url: url.to_string(), what: bad.to_string() };
        let mut request = Request::new(ask.payload.open());
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = url.to_uri().map_err(bad)?;
        *request.headers_mut() = ask.headers_for(url);
        let origin = url.origin();
        let proxy = self.proxies.of(&origin).map_err(|why| Error::Proxies(why.to_owned()))?;
        if !origin.is_secure()
            && let Some(proxy) = proxy
            && let Some(authorization) = &proxy.authorization
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        if let Some(record) = &self.record {
            record.exchange(record::request(ask, url, request.headers()));
        }
        let failed = |source| Error::Request {
            method: go_method(&ask.method),
            url: url.to_string(),
            source,
        };
        self.await_answer(request, ask, patience).await.map_err(failed)
    }

    /// Waits as long as the upload, if there is one, goes on.
    async fn await_answer(
        &self,
        request: Request<Body>,
        ask: &Ask,
        patience: Patience,
    ) -> Result<http::Response<Incoming>, Failure> {
        let begun = std::time::Instant::now();
        let answer = self.http.request(request);
        tokio::pin!(answer);
        loop {
            let (since, limit) = match ask.payload.upload().map(|upload| upload.progress()) {
                Some((since, true)) => (since, patience.commit),
                Some((since, false)) => (since, patience.stall),
                None => match ask.work {
                    Work::Nothing => (begun, patience.stall),
                    Work::Fetch => (begun, patience.fetch),
                    Work::Store => (begun, patience.commit),
                },
            };
            let Some(left) = limit.checked_sub(since.elapsed()) else {
                return Err(Failure::Timeout("no answer came in time"));
            };
            if let Ok(answer) = tokio::time::timeout(left, &mut answer).await {
                return answer.map_err(|error| Failure::of(&error));
            }
        }
    }
}

/// As Go's HTTP library writes it.
fn go_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "Get",
        Method::HEAD => "Head",
        Method::POST => "Post",
        Method::PUT => "Put",
        Method::PATCH => "Patch",
        _ => "Delete",
    }
}

/// All connections of a registry client.
pub(crate) struct Clients {
    proxies: Arc<Proxies>,
    made: Mutex<Vec<(Way, Client)>>,
}

/// How connections are made. Certificates that were exchanged on the disk
/// make another way.
#[derive(Clone, PartialEq, Eq)]
struct Way {
    tls: Tls,
    timeout: Duration,
    stamps: Vec<Option<SystemTime>>,
}

impl Clients {
    pub fn new(proxies: Proxies) -> Self {
        Self { proxies: Arc::new(proxies), made: Mutex::new(Vec::new()) }
    }

    /// Connections to a host that is spoken to as `tls` says.
    ///
    /// # Errors
    /// [`Error::Certificate`].
    pub fn pair(&self, tls: &Tls, timeout: Duration) -> Result<Pair, Error> {
        let anonymous = Tls { client: Vec::new(), ..tls.clone() };
        let home = self.client(tls.clone(), timeout)?;
        Ok(Pair { home, elsewhere: self.client(anonymous, timeout)? })
    }

    fn client(&self, tls: Tls, timeout: Duration) -> Result<Client, Error> {
        let keys = tls.client.iter().flat_map(|(cert, key)| [Some(cert), key.as_ref()]).flatten();
        let modified = |path: &std::path::PathBuf| path.metadata().and_then(|m| m.modified()).ok();
        let stamps = tls.ca.iter().chain(keys).map(modified).collect();
        let way = Way { tls, timeout, stamps };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = made.iter().find(|(known, _)| *known == way) {
            return Ok(client.clone());
        }
        let config = tls::Lazy::new(way.tls.clone())?;
        let proxy = tls::Lazy::new(Tls::default())?;
        let connector = Connector::new(config, proxy, self.proxies.clone(), timeout);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE)
            .pool_timer(TokioTimer::new())
            .http1_max_buf_size(READ_BUFFER)
            .build(connector);
        let client = Client { http, proxies: self.proxies.clone(), record: None };
        if made.len() == MOST_CLIENTS {
            made.remove(0);
        }
        made.push((way, client.clone()));
        Ok(client)
    }
}

impl Patience {
    /// For an attempt after `round` rounds. A host that is the only one gets
    /// more and more time: it may have much to fetch, or just not answer.
    pub fn new(settings: &Settings, is_hurried: bool, round: u32) -> Self {
        let stall = if is_hurried { settings.mirror_timeout } else { settings.stall_timeout };
        let commit = settings.commit_timeout;
        let fetch = match is_hurried {
            true => stall,
            false => stall.saturating_mul(1 << round.min(16)).min(commit.max(stall)),
        };
        Self { stall, fetch, commit, is_hurried }
    }
}
