//! The traffic with registries, written down for people who look for what is
//! wrong with it: requests and answers as they are on the wire, except that
//! nothing of it lets anybody in. Who we are, cookies, the headers that we
//! were given, tokens and signatures are left out, and so is what is no text.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue, LINK,
    LOCATION, PROXY_AUTHORIZATION, SET_COOKIE,
};

use super::body::Payload;
use super::client::Ask;
use super::url::Url;

/// Bytes of a body that are written down.
const LONGEST: usize = 1 << 20;

/// What stands for what is left out.
const SECRET: &str = "[left out]";

/// Who writes the traffic down. Must not block.
pub trait Record: Send + Sync {
    /// A request, or an answer.
    fn exchange(&self, text: Bytes);

    /// A request to `host` went over a connection to `peer`; whether others
    /// had before.
    fn connection(&self, host: &str, peer: &str, reused: bool);
}

/// Who is at the other end of a connection; goes with its answers.
#[derive(Clone)]
pub(super) struct Peer {
    address: Arc<str>,
    used: Arc<AtomicBool>,
}

impl Peer {
    pub(super) fn new(address: &str) -> Self {
        Self { address: address.into(), used: Arc::default() }
    }

    pub(super) fn tell(&self, record: &dyn Record, url: &Url) {
        let reused = self.used.swap(true, Ordering::Relaxed);
        record.connection(&url.origin().address(), &self.address, reused);
    }
}

/// A request.
pub(super) fn request(ask: &Ask, url: &Url, headers: &HeaderMap) -> Bytes {
    let place = url.to_string();
    let (_, rest) = place.split_once("://").unwrap_or(("", &place));
    let path = rest.find('/').map_or("/", |at| &rest[at..]);
    let mut text = format!("{} {path} HTTP/1.1\r\nHost: {}\r\n", ask.method, url.authority());
    write_headers(&mut text, headers, url);
    match &ask.payload {
        Payload::None => {}
        Payload::Whole(bytes) if !ask.is_secret && is_text(headers) => {
            text.push_str(&String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]));
            text.push_str("\r\n");
        }
        Payload::Whole(_) | Payload::Part { .. } => {
            let _ = write!(text, "{SECRET}\r\n");
        }
    }
    text.into()
}

/// An answer, which is written down when it is dropped: by then its body has
/// been read, as far as anybody wanted it.
pub(super) struct Transcript {
    record: Arc<dyn Record>,
    text: Vec<u8>,
    /// Bytes of the body that may still be written down; `None` for a body
    /// that is not.
    room: Option<usize>,
}

impl Transcript {
    /// The answer to `ask` from `url`, whose body comes.
    pub(super) fn new<B>(
        record: Arc<dyn Record>,
        ask: &Ask,
        url: &Url,
        answer: &http::Response<B>,
    ) -> Self {
        let (status, headers) = (answer.status(), answer.headers());
        let mut text = format!("HTTP/1.1 {status}\r\n");
        write_headers(&mut text, headers, url);
        let has_body = ask.method != http::Method::HEAD
            && headers.get(CONTENT_LENGTH).is_none_or(|length| length != "0");
        let room = (has_body && !ask.is_secret && is_text(headers)).then_some(LONGEST);
        if has_body && room.is_none() {
            let _ = write!(text, "{SECRET}\r\n");
        }
        Self { record, text: text.into(), room }
    }

    /// More of the body has come.
    pub(super) fn note(&mut self, piece: &[u8]) {
        let Some(room) = &mut self.room else { return };
        let taken = piece.len().min(*room);
        self.text.extend_from_slice(&piece[..taken]);
        *room -= taken;
    }
}

impl Drop for Transcript {
    fn drop(&mut self) {
        if self.room.is_some() {
            self.text.extend_from_slice(b"\r\n");
        }
        self.record.exchange(std::mem::take(&mut self.text).into());
    }
}

fn write_headers(text: &mut String, headers: &HeaderMap, url: &Url) {
    for (name, value) in headers {
        let _ = write!(text, "{name}: {}\r\n", shown(name, value, url));
    }
    text.push_str("\r\n");
}

/// What may be seen of a header.
fn shown(name: &HeaderName, value: &HeaderValue, url: &Url) -> String {
    let secrets = [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, SET_COOKIE, LINK];
    if value.is_sensitive() || secrets.contains(name) {
        return SECRET.to_owned();
    }
    let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
    match *name == LOCATION {
        // It may be signed.
        true => url.join(&text).map_or_else(|_| SECRET.to_owned(), |to| to.to_string()),
        false => text,
    }
}

fn is_text(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.starts_with("text/") || kind.ends_with("json")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::Method;

    use super::*;

    #[derive(Default)]
    struct Notes(Mutex<String>);

    impl Record for Notes {
        fn exchange(&self, text: Bytes) {
            self.0.lock().unwrap().push_str(std::str::from_utf8(&text).unwrap());
        }

        fn connection(&self, _host: &str, _peer: &str, _reused: bool) {}
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_request_shows_nothing_that_lets_anybody_in() {
        let to = url("https://registry.test/v2/a/blobs/x?ns=b&sig=s3cr3t");
        let ask = Ask::new(Method::GET, to.clone());
        let mut headers = HeaderMap::new();
        headers.insert("accept", HeaderValue::from_static("*/*"));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic s3cr3t"));
        let mut own = HeaderValue::from_static("s3cr3t");
        own.set_sensitive(true);
        headers.insert("x-key", own);
        let text = String::from_utf8(request(&ask, &to, &headers).to_vec()).unwrap();
        assert!(text.starts_with("GET /v2/a/blobs/x"), "{text}");
        assert!(text.contains("\r\nHost: registry.test\r\naccept: */*\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n"), "{text}");
        assert!(!text.contains("s3cr3t"), "{text}");
    }

    #[test]
    fn a_secret_body_is_not_shown_and_a_document_is() {
        let to = url("https://registry.test/token");
        let mut ask = Ask::new(Method::POST, to.clone());
        ask.payload = Payload::Whole(Bytes::from_static(b"password=s3cr3t"));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for is_secret in [true, false] {
            ask.is_secret = is_secret;
            let text = String::from_utf8(request(&ask, &to, &headers).to_vec()).unwrap();
            assert_eq!(text.contains("s3cr3t"), !is_secret, "{text}");
            let notes = Arc::new(Notes::default());
            let mut answer = http::Response::new(());
            *answer.headers_mut() = headers.clone();
            let mut transcript = Transcript::new(notes.clone(), &ask, &to, &answer);
            transcript.note(b"{\"token\":\"s3cr3t\"}");
            drop(transcript);
            let text = notes.0.lock().unwrap().clone();
            assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
            assert_eq!(text.contains("s3cr3t"), !is_secret, "{text}");
        }
    }

    #[test]
    fn where_an_answer_sends_us_is_shown_without_its_signature() {
        let from = url("https://registry.test/v2/a/blobs/x");
        let ask = Ask::new(Method::GET, from.clone());
        let notes = Arc::new(Notes::default());
        let mut answer = http::Response::new(());
        let headers = answer.headers_mut();
        headers.insert(LOCATION, HeaderValue::from_static("https://s.test/x?X-Sig=s3cr3t"));
        headers.insert(SET_COOKIE, HeaderValue::from_static("s3cr3t"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let mut transcript = Transcript::new(notes.clone(), &ask, &from, &answer);
        transcript.note(b"bytes");
        drop(transcript);
        let text = notes.0.lock().unwrap().clone();
        assert!(text.contains("location: https://s.test/x"), "{text}");
        assert!(!text.contains("s3cr3t") && !text.contains("bytes"), "{text}");
    }
}
