//! A shim that speaks gRPC, for tests and for whoever wants to see how one is
//! driven: version 3 of the task service, and nothing else. Another shim,
//! whose path is in the file `PROGRAM.behind`, does the work; every call is
//! passed on to it by ttrpc, message by message.
//!
//! It ends with the shim behind it: after a Shutdown when all answers are
//! given, otherwise at once, as if it had been killed too.

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _};
use davit_protocols::ttrpc::client::{Client, ClientError};
use davit_protocols::ttrpc::server::Metadata;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::UnaryService;
use tonic::{Code, Request, Response, Status, body::Body};

/// What is served.
const SERVICE: &str = "/containerd.task.v3.Task/";
/// What the shim behind serves, by its version.
const OLDER: &str = "containerd.task.v2.Task";
const NEWER: &str = "containerd.task.v3.Task";

fn main() -> ExitCode {
    let result = match std::env::args().next_back().as_deref() {
        Some("start") => start(),
        Some(argument) if argument.starts_with("serve=") => serve(&argument["serve=".len()..]),
        _ => behind()
            .and_then(|mut behind| Err(behind.args(std::env::args_os().skip(1)).exec().into())),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    let _ = writeln!(io::stderr(), "{error}");
    ExitCode::FAILURE
}

/// The shim that does the work.
fn behind() -> Result<Command, Box<dyn Error>> {
    let own = std::env::args_os().next().ok_or("no name")?;
    let mut file = own.clone();
    file.push(".behind");
    let path = std::fs::read_to_string(&file)
        .map_err(|error| format!("{}: {error}", Path::new(&file).display()))?;
    Ok(Command::new(path.trim()))
}

/// Starts the shim behind, and a process that serves in front of it.
fn start() -> Result<(), Box<dyn Error>> {
    let output = behind()?.args(std::env::args_os().skip(1)).stdin(Stdio::inherit()).output()?;
    io::stderr().write_all(&output.stderr)?;
    if !output.status.success() {
        io::stdout().write_all(&output.stdout)?;
        return Err(format!("the shim behind: {}", output.status).into());
    }
    let (address, version) = endpoint(&output.stdout)?;
    let path = socket_path(&address)?;
    let front = path.with_extension("grpc");
    let listener = UnixListener::bind(&front)?;
    Command::new(std::env::current_exe()?)
        .arg(format!("serve={version}{}", path.display()))
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .process_group(0)
        .spawn()?;
    // containerd takes the address for a path when the protocol is gRPC.
    let answer = serde_json::json!({"version": 3, "address": front, "protocol": "grpc"});
    writeln!(io::stdout(), "{answer}")?;
    Ok(())
}

/// Address and version in what the shim behind has answered.
fn endpoint(answer: &[u8]) -> Result<(String, u64), Box<dyn Error>> {
    if let Ok(answer) = serde_json::from_slice::<serde_json::Value>(answer) {
        let address = answer["address"].as_str().ok_or("no address")?;
        return Ok((address.into(), answer["version"].as_u64().ok_or("no version")?));
    }
    Ok((std::str::from_utf8(answer)?.trim().into(), 2))
}

fn socket_path(address: &str) -> Result<PathBuf, Box<dyn Error>> {
    Ok(address.strip_prefix("unix://").ok_or_else(|| format!("address {address:?}"))?.into())
}

/// Serves on the socket that is stdin, before the shim at `place`, which is
/// its version and its socket's path.
fn serve(place: &str) -> Result<(), Box<dyn Error>> {
    let (version, path) = place.split_at(1);
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let listener = UnixListener::from(stdin);
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let service = if version == "3" { NEWER } else { OLDER };
    let result = runtime.block_on(serve_front(listener, path.as_ref(), service));
    if let Some(path) = address.as_pathname() {
        std::fs::remove_file(path)?;
    }
    result
}

async fn serve_front(
    listener: UnixListener,
    path: &Path,
    service: &'static str,
) -> Result<(), Box<dyn Error>> {
    let stream = UnixStream::connect(path)?;
    stream.set_nonblocking(true)?;
    let (client, connection) = Client::over(tokio::net::UnixStream::from_std(stream)?);
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let incoming = futures::stream::unfold(listener, async |listener| {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    });
    let front = Front { client, service, leaving: Arc::default() };
    let leaving = front.leaving.clone();
    let ended = async move {
        connection.await;
        if !leaving.load(Ordering::Acquire) {
            std::process::exit(1);
        }
    };
    let server = tonic::transport::Server::builder();
    Ok(server.serve_with_incoming_shutdown(front, Box::pin(incoming), ended).await?)
}

/// The task service, as far as it is one.
#[derive(Clone)]
struct Front {
    client: Client,
    service: &'static str,
    /// Whether the shim behind was told to go.
    leaving: Arc<AtomicBool>,
}

impl Service<http::Request<Body>> for Front {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Some(method) = request.uri().path().strip_prefix(SERVICE) else {
            let unknown =
                Status::unimplemented(format!("unknown service {}", request.uri().path()));
            return Box::pin(std::future::ready(Ok(unknown.into_http())));
        };
        let method = Method { front: self.clone(), name: method.to_owned() };
        Box::pin(async move { Ok(tonic::server::Grpc::new(Raw).unary(method, request).await) })
    }
}

/// One method, to be called once.
struct Method {
    front: Front,
    name: String,
}

impl UnaryService<Vec<u8>> for Method {
    type Response = Vec<u8>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Vec<u8>>, Status>> + Send>>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let (front, name) = (self.front.clone(), self.name.clone());
        Box::pin(async move { front.pass_on(&name, request).await })
    }
}

impl Front {
    async fn pass_on(
        &self,
        method: &str,
        request: Request<Vec<u8>>,
    ) -> Result<Response<Vec<u8>>, Status> {
        let namespace =
            request.metadata().get("containerd-namespace").and_then(|n| n.to_str().ok());
        let namespace = namespace.ok_or_else(|| Status::failed_precondition("no namespace"))?;
        let metadata = Metadata(vec![("containerd-namespace-ttrpc".into(), namespace.into())]);
        if method == "Shutdown" {
            self.leaving.store(true, Ordering::Release);
        }
        let call =
            self.client.call_bytes(self.service, method, request.into_inner(), &metadata, None);
        match call.await {
            Ok(answer) => Ok(Response::new(answer)),
            Err(ClientError::Status(status)) => {
                Err(Status::new(Code::from_i32(status.code), status.message))
            }
            // Shutdown needs no answer, nor does anything else after it.
            Err(error) if self.leaving.load(Ordering::Acquire) => {
                Err(Status::unavailable(error.to_string()))
            }
            // This process is about to end.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Messages as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; from.remaining()];
        from.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}
