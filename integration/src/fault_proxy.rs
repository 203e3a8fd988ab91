//! Stands between a client and a registry, spoils what passes as it is told,
//! and keeps a record of all that it was asked.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::http::{Connection, Head, Server};

/// A request, as a rule sees it.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// `GET`, `HEAD`, …
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Its `Authorization`.
    pub authorization: Option<String>,
    /// Its `Range`.
    pub range: Option<String>,
    /// How often the same was asked before.
    pub times: usize,
}

impl Asked {
    /// Whether content of a blob is wanted.
    pub fn is_blob(&self) -> bool {
        self.method == "GET" && self.target.contains("/blobs/sha256:")
    }

    /// Whether content of a blob is sent.
    pub fn is_upload(&self) -> bool {
        matches!(self.method.as_str(), "PUT" | "PATCH") && self.target.contains("/blobs/uploads/")
    }

    /// A value in the query.
    fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
        // Digests and repositories have no other characters that are written so.
        Some(value.replace("%3A", ":").replace("%2F", "/"))
    }
}

/// What is done to an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// A reset of the connection after so many bytes of the body.
    ResetAfter(u64),
    /// An end of the connection after so many bytes of the body.
    EndAfter(u64),
    /// So many bytes in a second.
    Slow(u64),
    /// Its beginning so much later.
    Late(Duration),
    /// The byte with this number is another one.
    Flip(u64),
    /// This instead of the registry's answer: a status and headers.
    Answer(u16, Vec<(String, String)>),
    /// The same path at another address (`http://other:1234`).
    Redirect(String),
    /// No answer, for as long as the proxy lives.
    Stall,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The request.
    pub asked: Asked,
    /// What was done to it.
    pub fault: Fault,
    /// The status of its answer; 0 without one.
    pub status: u16,
    /// Bytes of the answer's body that were passed on.
    pub carried: u64,
    came: Instant,
    answered: Option<Instant>,
}

type Rule = Box<dyn FnMut(&Asked) -> Fault + Send>;

struct Shared {
    upstream: SocketAddr,
    rule: Mutex<Rule>,
    seen: Mutex<Vec<Seen>>,
    ended: Mutex<bool>,
    ending: Condvar,
}

/// A proxy for one registry that speaks plain HTTP.
pub struct FaultProxy {
    shared: Arc<Shared>,
    server: Server,
}

impl FaultProxy {
    /// Starts one that does to each answer of `upstream` what `rule` says.
    pub fn start(upstream: SocketAddr, rule: impl FnMut(&Asked) -> Fault + Send + 'static) -> Self {
        let shared = Arc::new(Shared {
            upstream,
            rule: Mutex::new(Box::new(rule)),
            seen: Mutex::default(),
            ended: Mutex::new(false),
            ending: Condvar::new(),
        });
        let server = Server::start({
            let shared = Arc::clone(&shared);
            move |head, connection| shared.serve(head, connection)
        });
        Self { shared, server }
    }

    /// Where clients find it: `127.0.0.1:1234`.
    pub fn host(&self) -> String {
        self.server.address().to_string()
    }

    /// Every request so far, in the order in which their answers began.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// The requests for content of blobs.
    pub fn blobs(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.asked.is_blob()).collect()
    }

    /// Bytes of blobs that were passed on.
    pub fn carried(&self) -> u64 {
        self.blobs().iter().map(|seen| seen.carried).sum()
    }

    /// The requests that sent content of blobs.
    pub fn uploads(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.asked.is_upload()).collect()
    }

    /// The most uploads that were on their way at the same time: come, and
    /// not answered.
    pub fn uploads_at_once(&self) -> usize {
        let all = self.uploads();
        let during = |moment: Instant| {
            let is_on_its_way = |seen: &&Seen| {
                seen.came <= moment && seen.answered.is_none_or(|answered| answered > moment)
            };
            all.iter().filter(is_on_its_way).count()
        };
        all.iter().map(|seen| during(seen.came)).max().unwrap_or(0)
    }

    /// The blobs that a repository took from another one of the registry:
    /// their digests, each with that other one; sorted.
    pub fn mounted(&self) -> Vec<(String, String)> {
        let seen = self.seen();
        let posts = seen.iter().filter(|seen| seen.asked.method == "POST" && seen.status == 201);
        let pair = |seen: &Seen| Some((seen.asked.query("mount")?, seen.asked.query("from")?));
        let mut all: Vec<_> = posts.filter_map(pair).collect();
        all.sort();
        all
    }

    /// Goes by another rule from now on.
    pub fn rule(&self, rule: impl FnMut(&Asked) -> Fault + Send + 'static) {
        *lock(&self.shared.rule) = Box::new(rule);
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        lock(&self.shared.seen).clear();
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        *lock(&self.shared.ended) = true;
        self.shared.ending.notify_all();
    }
}

impl Shared {
    fn serve(&self, head: Head, connection: &mut Connection) -> io::Result<bool> {
        let (number, fault) = self.note(&head);
        match &fault {
            Fault::Stall => {
                let ended = lock(&self.ended);
                let waited = self.ending.wait_while(ended, |ended| !*ended);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
                Ok(false)
            }
            Fault::Answer(status, headers) => {
                connection.pass_body(&head, &mut io::sink())?;
                self.update(number, |seen| seen.status = *status);
                let headers: Vec<_> =
                    headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                connection.answer(*status, &headers, b"")?;
                Ok(true)
            }
            Fault::Redirect(to) => {
                connection.pass_body(&head, &mut io::sink())?;
                self.update(number, |seen| seen.status = 307);
                let location = format!("{to}{}", head.word(1));
                connection.answer(307, &[("Location", &location)], b"")?;
                Ok(true)
            }
            _ => self.pass(head, connection, number, &fault),
        }
    }

    /// Writes a request down and asks the rule.
    fn note(&self, head: &Head) -> (usize, Fault) {
        let owned = |name| head.get(name).map(str::to_owned);
        let mut asked = Asked {
            method: head.word(0).to_owned(),
            target: head.word(1).to_owned(),
            authorization: owned("authorization"),
            range: owned("range"),
            times: 0,
        };
        let mut seen = lock(&self.seen);
        let same = |other: &&Seen| {
            other.asked.method == asked.method && other.asked.target == asked.target
        };
        asked.times = seen.iter().filter(same).count();
        let fault = (lock(&self.rule))(&asked);
        seen.push(Seen {
            asked,
            fault: fault.clone(),
            status: 0,
            carried: 0,
            came: Instant::now(),
            answered: None,
        });
        (seen.len() - 1, fault)
    }

    fn update(&self, number: usize, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = lock(&self.seen).get_mut(number) {
            change(seen);
        }
    }

    /// Passes a request on, and the answer back with its fault.
    fn pass(
        &self,
        mut head: Head,
        connection: &mut Connection,
        number: usize,
        fault: &Fault,
    ) -> io::Result<bool> {
        let is_head = head.word(0) == "HEAD";
        let mut upstream = TcpStream::connect(self.upstream)?;
        if head.get("expect").is_some() {
            Head::answer(100, &[]).write(&mut &*connection.output)?;
            head.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("expect"));
        }
        head.set("Connection", "close");
        head.write(&mut upstream)?;
        connection.pass_body(&head, &mut upstream)?;
        let mut answers = BufReader::new(upstream);
        let Some(mut answer) = Head::read(&mut answers)? else { return Ok(false) };
        answer.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("connection"));
        if let Fault::Late(time) = fault {
            std::thread::sleep(*time);
        }
        self.update(number, |seen| {
            seen.status = answer.status();
            seen.answered = Some(Instant::now());
        });
        let length = match answer.length() {
            _ if is_head || matches!(answer.status(), 204 | 304) => Some(0),
            length => length,
        };
        answer.write(&mut &*connection.output)?;
        let mut body = Body { shared: self, number, fault, at: 0 };
        let whole = body.pass(&mut answers, length.unwrap_or(u64::MAX), connection)?;
        Ok(whole && (length.is_some() || answer.is_chunked()))
    }
}

/// An answer's body on its way.
struct Body<'a> {
    shared: &'a Shared,
    number: usize,
    fault: &'a Fault,
    at: u64,
}

impl Body<'_> {
    /// Passes `length` bytes on, or all that come; whether the fault let it.
    fn pass(
        &mut self,
        from: &mut impl Read,
        length: u64,
        connection: &Connection,
    ) -> io::Result<bool> {
        let end = match self.fault {
            Fault::ResetAfter(bytes) | Fault::EndAfter(bytes) => (*bytes).min(length),
            _ => length,
        };
        let mut buffer = [0; 16 << 10];
        while self.at < end {
            let wanted =
                usize::try_from(end - self.at).map_or(buffer.len(), |n| n.min(buffer.len()));
            let count = from.read(&mut buffer[..wanted])?;
            if count == 0 {
                break;
            }
            self.send(&mut buffer[..count], connection)?;
        }
        match self.fault {
            Fault::ResetAfter(_) => connection.reset(),
            Fault::EndAfter(_) => {}
            _ => return Ok(true),
        }
        Ok(false)
    }

    fn send(&mut self, bytes: &mut [u8], connection: &Connection) -> io::Result<()> {
        let count = bytes.len() as u64;
        match self.fault {
            Fault::Flip(place) if (self.at..self.at + count).contains(place) => {
                bytes[usize::try_from(place - self.at).expect("it is in the buffer")] ^= 1;
            }
            Fault::Slow(rate) => {
                std::thread::sleep(Duration::from_secs_f64(count as f64 / *rate as f64));
            }
            _ => {}
        }
        self.at += count;
        // First: whoever has read all of it may ask at once.
        self.shared.update(self.number, |seen| seen.carried += count);
        (&*connection.output).write_all(bytes)
    }
}

/// A rule that resets the connection in so many of a hundred answers, blobs'
/// and others', after up to `most` bytes. The same seed has the same outcome
/// for the same requests in the same order.
pub fn resets(percent: u64, most: u64, seed: u64) -> impl FnMut(&Asked) -> Fault + Send {
    let mut state = seed | 1;
    let mut next = move || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    move |_| match (next() % 100 < percent, next() % most) {
        (true, after) => Fault::ResetAfter(after),
        (false, _) => Fault::None,
    }
}

/// An address that refuses every connection. It is held as long as the process
/// lives: another test's server could come to it otherwise.
pub fn dead_host() -> String {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .expect("a socket can be made");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    rustix::net::bind(&socket, &any).expect("a port is free");
    let address = rustix::net::getsockname(&socket).expect("it is bound");
    std::mem::forget(socket);
    SocketAddr::try_from(address).expect("it is bound over IPv4").to_string()
}

/// An address at which a connection is neither accepted nor refused: the
/// queue of those who wait is full. Open as long as it is kept.
pub struct BlackHole {
    listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl BlackHole {
    /// Opens one.
    pub fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        rustix::net::listen(&listener, 0).expect("a listener may listen again");
        let address = listener.local_addr().expect("it is bound");
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
        let waiting = std::iter::from_fn(connect).take(16).collect();
        Self { listener, _waiting: waiting }
    }

    /// Its address: `127.0.0.1:1234`.
    pub fn host(&self) -> String {
        self.listener.local_addr().expect("it is bound").to_string()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client gets for `GET /v2/x/blobs/sha256:0` when the registry
    /// has a thousand bytes.
    fn got(fault: Fault) -> (FaultProxy, io::Result<(u16, Vec<u8>)>) {
        let registry = Server::start(|head, connection| {
            connection.answer(200, &[("X-Host", head.get("host").unwrap_or(""))], &[7; 1000])?;
            Ok(false)
        });
        let proxy = FaultProxy::start(registry.address(), move |_| fault.clone());
        let ask = || {
            let mut stream = TcpStream::connect(proxy.server.address())?;
            stream.write_all(b"GET /v2/x/blobs/sha256:0 HTTP/1.1\r\nHost: here\r\n\r\n")?;
            let mut stream = BufReader::new(stream);
            let head = Head::read(&mut stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let mut body = Vec::new();
            stream.take(head.length().unwrap_or(0)).read_to_end(&mut body)?;
            Ok((head.status(), body))
        };
        let answer = ask();
        (proxy, answer)
    }

    #[test]
    fn what_passes_is_counted() {
        let (proxy, answer) = got(Fault::None);
        assert_eq!(answer.expect("an answer"), (200, vec![7; 1000]));
        assert_eq!((proxy.carried(), proxy.seen().len()), (1000, 1));
    }

    #[test]
    fn answers_are_spoilt_as_told() {
        let (proxy, answer) = got(Fault::ResetAfter(400));
        let kind = answer.expect_err("a reset").kind();
        assert_eq!((kind, proxy.carried()), (io::ErrorKind::ConnectionReset, 400));
        let (proxy, answer) = got(Fault::EndAfter(400));
        assert_eq!((answer.expect("an end").1.len(), proxy.carried()), (400, 400));
        let (_, answer) = got(Fault::Flip(10));
        let (_, body) = answer.expect("an answer");
        assert_eq!((body[9], body[10], body[11]), (7, 6, 7));
        let (proxy, answer) = got(Fault::Answer(429, Vec::new()));
        assert_eq!((answer.expect("an answer").0, proxy.carried()), (429, 0));
    }

    #[test]
    fn holes_swallow_and_the_dead_refuse() {
        let hole = BlackHole::open();
        let address = hole.listener.local_addr().expect("it is bound");
        let limit = Duration::from_millis(200);
        let error = TcpStream::connect_timeout(&address, limit).expect_err("nobody answers");
        assert!(matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock));
        let error = TcpStream::connect(dead_host()).expect_err("nobody is there");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
