//! Connections: straight or through a proxy, with TLS or without. Names with
//! addresses of both kinds are tried side by side (RFC 8305).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::failure::{Failure, reason};
use super::proxy::{Proxies, Proxy};
use super::record::Peer;
use super::tls::Lazy;
use super::url::{Origin, Url};

/// The answer of a proxy is read so far.
const LONGEST_PROXY_ANSWER: usize = 8 << 10;

/// A silent peer is asked whether it lives after so long.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Makes connections for the HTTP library.
#[derive(Clone)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    tls: Arc<Lazy>,
    /// For proxies that are spoken to in TLS.
    proxy_tls: Arc<Lazy>,
    proxies: Arc<Proxies>,
    timeout: Duration,
}

/// A connection that is ready for HTTP.
pub(crate) struct Established {
    io: TokioIo<Box<dyn Stream>>,
    is_proxied: bool,
    peer: Peer,
}

impl Connector {
    /// Connections that may take `timeout` until they are ready.
    pub fn new(
        tls: Arc<Lazy>,
        proxy_tls: Arc<Lazy>,
        proxies: Arc<Proxies>,
        timeout: Duration,
    ) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_connect_timeout(Some(timeout));
        Self { tcp, tls, proxy_tls, proxies, timeout }
    }

    async fn connect(self, uri: Uri) -> Result<Established, Failure> {
        let url = Url::parse(&uri.to_string()).map_err(|bad| Failure::Broken(bad.0.to_owned()))?;
        let origin = url.origin();
        let proxy = self.proxies.of(&origin).map_err(|why| Failure::Proxy(why.to_owned()))?;
        let (mut stream, is_proxied) = match proxy {
            None => (self.dial(&url).await?, false),
            Some(proxy) => {
                let stream = self.reach(proxy).await?;
                if origin.is_secure() {
                    (tunnel(stream, &origin, proxy).await?, false)
                } else {
                    (stream, true)
                }
            }
        };
        if origin.is_secure() {
            stream = secure(&self.tls, &origin, stream).await?;
        }
        let peer = match proxy {
            None => Peer::new(&origin.address()),
            Some(proxy) => Peer::new(&proxy.origin.address()),
        };
        Ok(Established { io: TokioIo::new(stream), is_proxied, peer })
    }

    async fn dial(&self, url: &Url) -> Result<Box<dyn Stream>, Failure> {
        let uri = url.to_uri().map_err(|bad| Failure::Broken(bad.0.to_owned()))?;
        let connected = self.tcp.clone().call(uri).await;
        let stream = connected.map_err(|error| dial_failure(&error, &url.origin()))?;
        Ok(Box::new(stream.into_inner()))
    }

    /// A connection to the proxy itself.
    async fn reach(&self, proxy: &Proxy) -> Result<Box<dyn Stream>, Failure> {
        let wrap = |failure: Failure| Failure::Proxy(failure.to_string());
        let stream = self.dial(&proxy.url).await.map_err(wrap)?;
        if !proxy.origin.is_secure() {
            return Ok(stream);
        }
        secure(&self.proxy_tls, &proxy.origin, stream).await.map_err(wrap)
    }
}

/// What a failed dial stands for.
fn dial_failure(error: &(dyn std::error::Error + 'static), origin: &Origin) -> Failure {
    // The library tells this case by its text alone.
    if error.to_string().contains("dns error") {
        return Failure::Lookup { host: origin.host().to_owned() };
    }
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            let reason = match io.kind() {
                io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
                _ => format!("connect: {}", reason(io)),
            };
            return Failure::Connect { address: origin.address(), reason };
        }
        cause = error.source();
    }
    Failure::Connect { address: origin.address(), reason: error.to_string() }
}

async fn secure(
    tls: &Lazy,
    origin: &Origin,
    stream: Box<dyn Stream>,
) -> Result<Box<dyn Stream>, Failure> {
    let name = ServerName::try_from(origin.host().to_owned())
        .map_err(|_| Failure::Tls(format!("{:?} is no name of a server", origin.host())))?;
    let connected = TlsConnector::from(tls.get()?).connect(name, stream).await;
    let stream = connected.map_err(|error| Failure::of(&error))?;
    Ok(Box::new(stream))
}

/// Asks the proxy to pass everything on to `origin`.
async fn tunnel(
    mut stream: Box<dyn Stream>,
    origin: &Origin,
    proxy: &Proxy,
) -> Result<Box<dyn Stream>, Failure> {
    let address = origin.address();
    let mut request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n").into_bytes();
    if let Some(authorization) = &proxy.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let failed = |error: io::Error| Failure::Proxy(reason(&error));
    stream.write_all(&request).await.map_err(failed)?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == LONGEST_PROXY_ANSWER {
            return Err(Failure::Proxy("an answer of excessive length".to_owned()));
        }
        // One by one: what follows belongs to TLS.
        answer.push(stream.read_u8().await.map_err(failed)?);
    }
    let line = String::from_utf8_lossy(answer.split(|b| *b == b'\r').next().unwrap_or_default());
    match line.split_once(' ') {
        Some((version, rest)) if version.starts_with("HTTP/1.") && rest.starts_with('2') => {
            Ok(stream)
        }
        Some((_, status)) => Err(Failure::Proxy(super::message::tame(status))),
        None => Err(Failure::Proxy("malformed HTTP response".to_owned())),
    }
}

impl Service<Uri> for Connector {
    type Response = Established;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Established, Failure>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (this, timeout) = (self.clone(), self.timeout);
        Box::pin(async move {
            let late = |_| Failure::Timeout("no connection was made in time");
            tokio::time::timeout(timeout, this.connect(uri)).await.map_err(late)?
        })
    }
}

impl Connection for Established {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_proxied).extra(self.peer.clone())
    }
}

impl Read for Established {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Established {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
