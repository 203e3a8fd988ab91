//! HTTP/1.1 by hand, with a thread for each connection: for servers of the
//! harness that have to break it at a byte of their choice.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// How much a head may be.
const HEAD_MAX: u64 = 64 << 10;

/// Bytes that the kernel holds for a client that does not read them: few, so
/// that what was sent has nearly been received.
const SEND_BUFFER: usize = 32 << 10;

/// How long a peer may keep us waiting.
const PATIENCE: Duration = Duration::from_secs(60);

/// What stands before the body of a request or an answer.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The first line: `GET /v2/ HTTP/1.1`, `HTTP/1.1 200 OK`.
    pub first: String,
    /// Names and values, in their order.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// An answer with a status and headers.
    pub fn answer(status: u16, headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Self { first: format!("HTTP/1.1 {status} Because"), headers: headers.collect() }
    }

    /// The next head of a connection, `None` where it ends instead.
    ///
    /// # Errors
    /// Those of the connection; what is no head is `InvalidData`.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut limited = from.take(HEAD_MAX);
        let mut line = || {
            let mut line = String::new();
            limited.read_line(&mut line)?;
            Ok::<_, io::Error>(line.trim_end().to_owned())
        };
        let mut head = Self { first: line()?, headers: Vec::new() };
        if head.first.is_empty() {
            return Ok(None);
        }
        loop {
            let line = line()?;
            if line.is_empty() {
                return Ok(Some(head));
            }
            let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            head.headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// A word of the first line, from 0.
    pub fn word(&self, number: usize) -> &str {
        self.first.split(' ').nth(number).unwrap_or_default()
    }

    /// The status of an answer.
    pub fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or_default()
    }

    /// A header's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Puts a header in place of all of its name.
    pub fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// Sends it.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        to.write_all(text.as_bytes())?;
        to.flush()
    }

    /// Whether a body follows in pieces, each with its length before it.
    pub fn is_chunked(&self) -> bool {
        self.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }

    /// The length of the body that follows, where it is said.
    pub fn length(&self) -> Option<u64> {
        self.get("content-length")?.parse().ok()
    }
}

/// A client's connection.
pub struct Connection {
    /// From the client.
    pub input: BufReader<TcpStream>,
    /// To the client.
    pub output: Arc<TcpStream>,
}

impl Connection {
    /// Passes a request's body on as it is, in chunks if it comes in chunks.
    ///
    /// # Errors
    /// Those of both sides.
    pub fn pass_body(&mut self, head: &Head, to: &mut impl Write) -> io::Result<()> {
        if !head.is_chunked() {
            let length = head.length().unwrap_or(0);
            io::copy(&mut (&mut self.input).take(length), to)?;
            return to.flush();
        }
        loop {
            let mut line = String::new();
            self.input.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
            to.write_all(line.as_bytes())?;
            // The piece and the end of its line.
            io::copy(&mut (&mut self.input).take(size + 2), to)?;
            if size == 0 {
                return to.flush();
            }
        }
    }

    /// Answers with a whole body.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn answer(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        let mut head = Head::answer(status, headers);
        head.set("Content-Length", &body.len().to_string());
        head.write(&mut &*self.output)?;
        (&*self.output).write_all(body)
    }

    /// Breaks the connection off: the client gets a reset. What was sent
    /// before has arrived.
    pub fn reset(&self) {
        self.wait_until_received();
        // Nothing to linger for: the kernel sends a reset instead of an end.
        let _ = rustix::net::sockopt::set_socket_linger(&*self.output, Some(Duration::ZERO));
    }

    /// Waits until the kernel holds nothing any more that the client has yet
    /// to receive; a second at most.
    fn wait_until_received(&self) {
        for _ in 0..1000 {
            if unsent(&self.output).is_none_or(|bytes| bytes == 0) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Bytes in the kernel's queue towards the peer of a connection over IPv4.
fn unsent(stream: &TcpStream) -> Option<u64> {
    let port = |address: io::Result<SocketAddr>| Some(format!(":{:04X}", address.ok()?.port()));
    let (local, remote) = (port(stream.local_addr())?, port(stream.peer_addr())?);
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ours = words.get(1)?.ends_with(&local) && words.get(2)?.ends_with(&remote);
        let (queued, _) = words.get(4)?.split_once(':')?;
        ours.then(|| u64::from_str_radix(queued, 16).ok())?
    })
}

/// A server on a port of its own. Dropping it ends it and its connections.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    connections: Mutex<Vec<(Weak<TcpStream>, JoinHandle<()>)>>,
}

impl Server {
    /// Serves every request by `handler`, which answers it on the connection
    /// and says whether there may be another one.
    pub fn start<H>(handler: H) -> Self
    where
        H: Fn(Head, &mut Connection) -> io::Result<bool> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::<Shared>::default();
        let accepting = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared, Arc::new(handler))
        });
        Self { address, shared, accepting: Some(accepting) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn accept<H>(listener: &TcpListener, shared: &Shared, handler: Arc<H>)
where
    H: Fn(Head, &mut Connection) -> io::Result<bool> + Send + Sync + 'static,
{
    for stream in listener.incoming().flatten() {
        if shared.ends.load(Ordering::SeqCst) {
            return;
        }
        let stream = Arc::new(stream);
        let kept = Arc::downgrade(&stream);
        let handler = Arc::clone(&handler);
        let thread = std::thread::spawn(move || {
            // A client that goes away is no fault of ours.
            let _ = converse(stream, &*handler);
        });
        let mut connections = lock(&shared.connections);
        connections.retain(|(_, thread)| !thread.is_finished());
        connections.push((kept, thread));
    }
}

fn converse<H>(stream: Arc<TcpStream>, handler: &H) -> io::Result<()>
where
    H: Fn(Head, &mut Connection) -> io::Result<bool>,
{
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_send_buffer_size(&*stream, SEND_BUFFER)?;
    let input = BufReader::new(stream.try_clone()?);
    let mut connection = Connection { input, output: stream };
    while let Some(head) = Head::read(&mut connection.input)? {
        if !handler(head, &mut connection)? {
            break;
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for (stream, thread) in std::mem::take(&mut *lock(&self.shared.connections)) {
            if let Some(stream) = stream.upgrade() {
                let _ = stream.shutdown(Shutdown::Both);
            }
            let _ = thread.join();
        }
    }
}
