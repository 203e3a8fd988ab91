//! The gRPC API without a typed client: calls as data, so that a table of
//! them can be made once and sent to several servers.

use std::path::Path;
use std::time::Duration;

use prost::Message;
use prost::bytes::{Buf, BufMut};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// How long a call may take that says nothing else.
const PATIENCE: Duration = Duration::from_secs(60);

/// One call: what is sent, and on whose behalf.
#[derive(Clone, Debug)]
pub struct Call {
    /// `service.Method` and what is odd about the call.
    pub label: String,
    /// `/package.Service/Method`.
    pub path: String,
    /// The namespace header; none is sent for `None`.
    pub namespace: Option<String>,
    /// The lease header; none is sent for `None`.
    pub lease: Option<String>,
    /// The encoded requests: one, but for methods that take a stream.
    pub messages: Vec<Vec<u8>>,
    /// How long it may take.
    pub patience: Duration,
}

impl Call {
    /// `message` for a method of containerd's API, version 1, by the names of
    /// its service (`tasks`) and its own (`Create`), in the namespace given.
    pub fn new(
        namespace: &str,
        (service, method): (&str, &str),
        what: &str,
        message: &impl Message,
    ) -> Self {
        let mut name = service.to_owned();
        name[..1].make_ascii_uppercase();
        Self {
            label: format!("{service}.{method} {what}"),
            path: format!("/containerd.services.{service}.v1.{name}/{method}"),
            namespace: Some(namespace.to_owned()),
            lease: None,
            messages: vec![message.encode_to_vec()],
            patience: PATIENCE,
        }
    }

    /// The same call on behalf of another namespace, or of none.
    pub fn namespace(mut self, what: &str, namespace: Option<&str>) -> Self {
        self.label = format!("{} in namespace {what}", self.label);
        self.namespace = namespace.map(str::to_owned);
        self
    }

    /// The same call, which may take so long.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The same call on behalf of a lease.
    pub fn lease(mut self, lease: &str) -> Self {
        self.lease = Some(lease.to_owned());
        self
    }

    fn request(&self) -> Request<impl tokio_stream::Stream<Item = Vec<u8>> + use<>> {
        let mut request = Request::new(tokio_stream::iter(self.messages.clone()));
        let headers =
            [("containerd-namespace", &self.namespace), ("containerd-lease", &self.lease)];
        for (key, value) in headers {
            if let Some(value) = value {
                let value = value.parse().expect("headers here are ASCII");
                request.metadata_mut().insert(key, value);
            }
        }
        request
    }
}

/// A connection to a daemon's socket.
pub struct Api {
    tokio: tokio::runtime::Runtime,
    channel: Channel,
}

impl Api {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens on `socket`.
    pub fn connect(socket: &Path) -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
            .expect("a path makes an address");
        let channel = tokio.block_on(endpoint.connect()).expect("the daemon listens");
        Self { tokio, channel }
    }

    /// Makes the call and collects all that is answered. A call with one
    /// message looks on the wire like a stream of one, in both directions.
    ///
    /// # Errors
    /// The status that ended the call; `DeadlineExceeded` when it takes too long.
    pub fn call(&self, call: &Call) -> Result<Vec<Vec<u8>>, Status> {
        let path: PathAndQuery = call.path.parse().expect("a method's path");
        let answer = async {
            let mut client = Grpc::new(self.channel.clone());
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let mut answers = client.streaming(call.request(), path, Bytes).await?.into_inner();
            let mut all = Vec::new();
            while let Some(answer) = answers.message().await? {
                all.push(answer);
            }
            Ok(all)
        };
        let none = |_| Err(Status::deadline_exceeded("the harness waited for nothing"));
        let limit =
            self.tokio.block_on(async { tokio::time::timeout(call.patience, answer).await });
        limit.unwrap_or_else(none)
    }

    /// Makes a call that is answered once, and decodes the answer.
    ///
    /// # Errors
    /// The status that ended the call.
    pub fn ask<T: Message + Default>(&self, call: &Call) -> Result<T, Status> {
        let answers = self.call(call)?;
        let answer = answers.first().map(Vec::as_slice).unwrap_or_default();
        T::decode(answer).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Messages as the bytes they are.
#[derive(Clone, Copy)]
struct Bytes;

impl Codec for Bytes {
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

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}
