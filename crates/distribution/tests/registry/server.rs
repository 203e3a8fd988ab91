//! An HTTP server whose answers, and faults, each test makes itself.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// One request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query, as they were sent.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    /// The first byte that is asked for.
    pub fn range_start(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.map_or(0, |range| range.split('-').next().unwrap().parse().unwrap())
    }

    /// The end of what is asked for, where it is said.
    pub fn range_end(&self) -> Option<usize> {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="))?;
        range.split_once('-')?.1.parse::<usize>().ok().map(|last| last + 1)
    }
}

/// How a body ends.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// As it should.
    Whole,
    /// With a reset after so many of its bytes.
    Reset(usize),
    /// With the connection's end after so many of its bytes.
    Cut(usize),
    /// Not at all: after so many of its bytes, nothing comes.
    Stall(usize),
    /// Not at all: one byte comes now and then.
    Trickle,
    /// Whole, but so many bytes in ten milliseconds.
    Pace(usize),
    /// Not at all: bytes without end.
    Endless,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: &'static str,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub ending: Ending,
    /// Without `Content-Length`, until the connection ends.
    pub is_open_ended: bool,
    /// How long the server thinks before it answers.
    pub after: Duration,
}

impl Reply {
    pub fn new(status: &'static str) -> Self {
        let (headers, body) = (Vec::new(), Vec::new());
        let (ending, after) = (Ending::Whole, Duration::ZERO);
        Self { status, headers, body, ending, is_open_ended: false, after }
    }

    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new("200 OK") }
    }

    pub fn not_found() -> Self {
        Self::new("404 Not Found")
    }

    pub fn redirect(to: &str) -> Self {
        Self::new("307 Temporary Redirect").with("Location", to)
    }

    pub fn challenge(value: &str) -> Self {
        Self::new("401 Unauthorized").with("WWW-Authenticate", value)
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn ending(self, ending: Ending) -> Self {
        Self { ending, ..self }
    }

    pub fn open_ended(self) -> Self {
        Self { is_open_ended: true, ..self }
    }

    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    /// The part of a blob that was asked for.
    pub fn part_of(blob: &[u8], seen: &Seen) -> Self {
        if seen.header("range").is_none() {
            return Self::ok(blob);
        }
        let (from, end) = (seen.range_start(), seen.range_end().unwrap_or(blob.len()));
        let end = end.min(blob.len());
        let range = format!("bytes {from}-{}/{}", end - 1, blob.len());
        let body = blob[from..end].to_vec();
        Self { body, ..Self::new("206 Partial Content") }.with("Content-Range", range)
    }
}

type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;

/// A server that lives as long as the test.
pub struct Server {
    pub address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    served: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_tls(None, handler).await
    }

    pub async fn start_tls(
        tls: Option<tokio_rustls::TlsAcceptor>,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (seen, served) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<Mutex<usize>>::default());
        let handler: Arc<Handler> = Arc::new(handler);
        let (log, count) = (seen.clone(), served.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (log, count, handler) = (log.clone(), count.clone(), handler.clone());
                match tls.clone() {
                    None => drop(tokio::spawn(serve_plain(stream, log, count, handler))),
                    Some(acceptor) => drop(tokio::spawn(async move {
                        if let Ok(mut stream) = acceptor.accept(stream).await {
                            serve(&mut stream, &log, &count, &*handler).await;
                        }
                    })),
                }
            }
        });
        Self { address, seen, served, task }
    }

    /// Everything that was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// `METHOD path` of everything that was asked so far.
    pub fn asked(&self) -> Vec<String> {
        self.seen().iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect()
    }

    /// Bytes of bodies that were sent so far.
    pub fn served(&self) -> usize {
        *self.served.lock().unwrap()
    }
}

/// An address where nobody listens. It is held as long as the process lives:
/// another test's server could come to it otherwise.
pub async fn nobody() -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    std::mem::forget(socket);
    address
}

async fn serve_plain(
    mut stream: TcpStream,
    log: Arc<Mutex<Vec<Seen>>>,
    count: Arc<Mutex<usize>>,
    handler: Arc<Handler>,
) {
    if serve(&mut stream, &log, &count, &*handler).await {
        wait_until_received(&stream).await;
        stream.set_zero_linger().unwrap();
    }
}

/// Waits until the kernel holds nothing any more that the client has yet to
/// receive; a second at most.
async fn wait_until_received(stream: &TcpStream) {
    for _ in 0..1000 {
        if unsent(stream).is_none_or(|bytes| bytes == 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Bytes in the kernel's queue towards the peer of a connection over IPv4;
/// nothing once it has ended.
fn unsent(stream: &TcpStream) -> Option<u64> {
    let port = |address: SocketAddr| format!(":{:04X}", address.port());
    let (local, remote) = (port(stream.local_addr().ok()?), port(stream.peer_addr().ok()?));
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ours = words.get(1)?.ends_with(&local) && words.get(2)?.ends_with(&remote);
        let (queued, _) = words.get(4)?.split_once(':')?;
        ours.then(|| u64::from_str_radix(queued, 16).ok())?
    })
}

/// Answers until the connection ends; true when that is to be by a reset.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    log: &Mutex<Vec<Seen>>,
    count: &Mutex<usize>,
    handler: &Handler,
) -> bool {
    loop {
        let Some(seen) = request(stream).await else {
            // What servers say to a client that speaks TLS, or to nobody.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            break;
        };
        log.lock().unwrap().push(seen.clone());
        let reply = handler(&seen);
        let is_last = reply.is_open_ended;
        match answer(stream, &seen, reply, count).await {
            Next::Go if !is_last => {}
            Next::Reset => return true,
            _ => break,
        }
    }
    let _ = stream.shutdown().await;
    false
}

/// The first byte of TLS.
const HANDSHAKE: u8 = 22;

/// Reads one request, body included.
async fn request<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
        if head[0] == HANDSHAKE {
            return None;
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers = lines
        .map(|line| line.split_once(": ").unwrap_or((line.trim_end_matches(':'), "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut seen = Seen { method, target, headers, body: Vec::new() };
    let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    assert_eq!(seen.header("transfer-encoding"), None, "the length of a body is known");
    seen.body = vec![0; length];
    stream.read_exact(&mut seen.body).await.ok()?;
    Some(seen)
}

enum Next {
    Go,
    End,
    Reset,
}

async fn answer<S: AsyncWrite + Unpin>(
    stream: &mut S,
    seen: &Seen,
    reply: Reply,
    count: &Mutex<usize>,
) -> Next {
    let mut head = format!("HTTP/1.1 {}\r\n", reply.status);
    let is_told = reply.headers.iter().any(|(name, _)| name == "Content-Length");
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !reply.is_open_ended && !is_told && !reply.status.starts_with("204") {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    head.push_str("\r\n");
    tokio::time::sleep(reply.after).await;
    if stream.write_all(head.as_bytes()).await.is_err() {
        return Next::End;
    }
    if seen.method == "HEAD" {
        return Next::Go;
    }
    let length = match reply.ending {
        Ending::Whole => reply.body.len(),
        Ending::Reset(length) | Ending::Cut(length) | Ending::Stall(length) => length,
        Ending::Trickle | Ending::Pace(_) | Ending::Endless => 0,
    };
    let body = &reply.body[..length.min(reply.body.len())];
    *count.lock().unwrap() += body.len();
    if stream.write_all(body).await.is_err() || stream.flush().await.is_err() {
        return Next::End;
    }
    finish(stream, &reply).await
}

async fn finish<S: AsyncWrite + Unpin>(stream: &mut S, reply: &Reply) -> Next {
    match reply.ending {
        Ending::Whole => Next::Go,
        Ending::Cut(_) => Next::End,
        Ending::Reset(_) => Next::Reset,
        Ending::Stall(_) => std::future::pending().await,
        Ending::Trickle => {
            for byte in &reply.body {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                let _ = stream.flush().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Next::End
        }
        Ending::Pace(bytes) => {
            for piece in reply.body.chunks(bytes) {
                if stream.write_all(piece).await.is_err() || stream.flush().await.is_err() {
                    return Next::End;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Next::Go
        }
        Ending::Endless => {
            while stream.write_all(&[b' '; 4096]).await.is_ok() {}
            Next::End
        }
    }
}
