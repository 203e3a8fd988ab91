//! The server against well-behaved and hostile peers, and against our client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::sync::Semaphore;
use ttrpc::proto::{KeyValue, MESSAGE_TYPE_RESPONSE, Response};

use super::super::client::{Client, ClientError};
use super::super::frame::MESSAGE_MAX;
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// What the handlers of these tests share with them.
#[derive(Clone, Default)]
struct Shared {
    started: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    callers_gone: Arc<AtomicUsize>,
}

/// One service with a method for every behaviour.
async fn handle(shared: Shared, gate: Arc<Semaphore>, call: Call) -> Result<Vec<u8>, Status> {
    if call.service != "test.Service" {
        return Err(Status::unknown_service(&call.service));
    }
    shared.started.fetch_add(1, Ordering::SeqCst);
    let result = match call.method.as_str() {
        "Echo" => Ok(call.payload),
        "Metadata" => Ok(call.metadata.get("KEY").unwrap_or_default().as_bytes().to_vec()),
        "Deadline" => {
            let left = call.deadline.map(|at| at.duration_since(Instant::now()).as_secs());
            Ok(format!("{left:?}").into_bytes())
        }
        "Fail" => Err(Status::new(ErrorKind::NotFound, "no such thing: not found")),
        "Large" => Ok(vec![b'x'; 5 << 20]),
        "Gate" => {
            gate.acquire().await.expect("the gate is never closed").forget();
            Ok(b"through".to_vec())
        }
        "Caller" => {
            call.caller.gone().await;
            shared.callers_gone.fetch_add(1, Ordering::SeqCst);
            Ok(Vec::new())
        }
        method => Err(Status::unknown_method(method)),
    };
    shared.ended.fetch_add(1, Ordering::SeqCst);
    result
}

/// A server on one end of a pipe; the other end, and its task.
fn serve_pipe(
    size: usize,
    shared: &Shared,
    gate: &Arc<Semaphore>,
) -> (DuplexStream, tokio::task::JoinHandle<()>) {
    let (ours, theirs) = duplex(size);
    let (shared, gate) = (shared.clone(), gate.clone());
    let handler = move |call| handle(shared.clone(), gate.clone(), call);
    (ours, tokio::spawn(serve_connection(theirs, handler)))
}

fn client(shared: &Shared, gate: &Arc<Semaphore>) -> (Client, tokio::task::JoinHandle<()>) {
    let (stream, server) = serve_pipe(1 << 16, shared, gate);
    let (client, connection) = Client::over(stream);
    tokio::spawn(connection);
    (client, server)
}

async fn call(client: &Client, method: &str, payload: &[u8]) -> Result<Vec<u8>, ClientError> {
    let none = Metadata::default();
    client.call_bytes("test.Service", method, payload.to_vec(), &none, None).await
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let looked = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    looked.await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

fn status(error: ClientError) -> Status {
    match error {
        ClientError::Status(status) => status,
        other => panic!("{other:?}"),
    }
}

fn header(length: usize, stream: u32, kind: u8) -> Vec<u8> {
    let mut bytes = (length as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&[kind, 0]);
    bytes
}

fn request(method: &str) -> Vec<u8> {
    let mut request = Request::new();
    request.service = "test.Service".into();
    request.method = method.into();
    request.write_to_bytes().unwrap()
}

fn frame(stream: u32, kind: u8, message: &[u8]) -> Vec<u8> {
    [header(message.len(), stream, kind), message.to_vec()].concat()
}

async fn answer(stream: &mut DuplexStream) -> (u32, Response) {
    let read = tokio::time::timeout(PATIENCE, frame::read(stream)).await.unwrap();
    let Some(Frame::Whole(header, message)) = read.unwrap() else { panic!("a whole frame") };
    assert_eq!(header.type_, MESSAGE_TYPE_RESPONSE);
    (header.stream_id, Response::parse_from_bytes(&message).unwrap())
}

#[tokio::test]
async fn calls_and_their_answers() {
    let (client, _) = client(&Shared::default(), &Arc::new(Semaphore::new(0)));
    let calls = (0..100u32).map(|n| {
        let client = client.clone();
        async move { (call(&client, "Echo", &n.to_be_bytes()).await.unwrap(), n) }
    });
    for (echo, n) in futures::future::join_all(calls).await {
        assert_eq!(echo, n.to_be_bytes());
    }
    let failed = status(call(&client, "Fail", b"").await.unwrap_err());
    assert_eq!(
        (failed.kind(), failed.message.as_str()),
        (ErrorKind::NotFound, "no such thing: not found")
    );
    let metadata = Metadata(vec![("key".into(), "value".into())]);
    let minute = Some(Duration::from_secs(60));
    let bytes = |method| client.call_bytes("test.Service", method, Vec::new(), &metadata, minute);
    assert_eq!(bytes("Metadata").await.unwrap(), b"value");
    assert_eq!(bytes("Deadline").await.unwrap(), b"Some(59)");
    assert_eq!(call(&client, "Deadline", b"").await.unwrap(), b"None");
    assert_eq!(call(&client, "Echo", b"").await.unwrap(), b"");
}

#[tokio::test]
async fn unknown_names_are_unimplemented_in_go_s_words() {
    let (client, _) = client(&Shared::default(), &Arc::new(Semaphore::new(0)));
    let unknown = status(call(&client, "Nope", b"").await.unwrap_err());
    assert_eq!((unknown.code, unknown.message.as_str()), (12, "method Nope"));
    let none = Metadata::default();
    let unknown = client.call_bytes("other.Service", "Echo", Vec::new(), &none, None).await;
    let unknown = status(unknown.unwrap_err());
    assert_eq!((unknown.code, unknown.message.as_str()), (12, "service other.Service"));
}

#[tokio::test]
async fn messages_that_are_too_long_cost_one_call_each() {
    let (client, _) = client(&Shared::default(), &Arc::new(Semaphore::new(0)));
    let ours = status(call(&client, "Echo", &vec![0; 5 << 20]).await.unwrap_err());
    assert_eq!(ours.kind(), ErrorKind::ResourceExhausted);
    let theirs = status(call(&client, "Large", b"").await.unwrap_err());
    assert_eq!(theirs.kind(), ErrorKind::ResourceExhausted);
    let large = vec![1; 4 << 19];
    assert_eq!(call(&client, "Echo", &large).await.unwrap(), large);
}

#[tokio::test]
async fn rule_breakers_are_told_and_go_on() {
    let (shared, gate) = (Shared::default(), Arc::new(Semaphore::new(0)));
    let (mut stream, _server) = serve_pipe(1 << 16, &shared, &gate);
    let echo = request("Echo");
    let mut expect = Vec::new();
    let mut send = Vec::new();
    let mut add = |bytes: Vec<u8>, stream: u32, code: i32, text: &'static str| {
        send.extend(bytes);
        expect.extend((stream != 0).then_some((stream, code, text)));
    };
    add(
        frame(2, MESSAGE_TYPE_REQUEST, &echo),
        2,
        3,
        "StreamID must be odd for client initiated streams",
    );
    add(frame(5, MESSAGE_TYPE_REQUEST, &echo), 5, 0, "");
    add(
        frame(5, MESSAGE_TYPE_REQUEST, &echo),
        5,
        3,
        "StreamID cannot be re-used and must increment",
    );
    add(
        frame(3, MESSAGE_TYPE_REQUEST, &echo),
        3,
        3,
        "StreamID cannot be re-used and must increment",
    );
    add(frame(7, MESSAGE_TYPE_DATA, b"x"), 7, 3, "StreamID is no longer active");
    add(frame(9, MESSAGE_TYPE_REQUEST, b"\xff\xff\xff"), 9, 3, "unmarshal request error");
    let long = MESSAGE_MAX + 1;
    let too_long = [header(long, 11, MESSAGE_TYPE_REQUEST), vec![0; long]].concat();
    add(too_long, 11, 8, "message length 4194305 exceed maximum message size of 4194304");
    // Types of the future are passed over without an answer.
    add(frame(13, 9, b"future"), 0, 0, "");
    add(frame(13, MESSAGE_TYPE_REQUEST, &echo), 13, 0, "");

    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let write = async { writer.write_all(&send).await.unwrap() };
    let read = async {
        let mut seen = Vec::new();
        while seen.len() < expect.len() {
            let Some(Frame::Whole(header, message)) = frame::read(&mut reader).await.unwrap()
            else {
                panic!("a whole frame");
            };
            let response = Response::parse_from_bytes(&message).unwrap();
            seen.push((
                header.stream_id,
                response.status.code.value(),
                response.status.message.clone(),
            ));
        }
        seen
    };
    let (seen, ()) =
        tokio::time::timeout(PATIENCE, async { tokio::join!(read, write) }).await.unwrap();
    // Answers of handlers may come later than refusals sent meanwhile.
    for (stream, code, text) in expect {
        let found = seen.iter().any(|(s, c, t)| *s == stream && *c == code && t.starts_with(text));
        assert!(found, "{stream} {code} {text}: {seen:?}");
    }
}

/// A small deterministic generator (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[tokio::test]
async fn any_bytes_end_without_harm() {
    let mut random = Random(0x5eed);
    let good = frame(1, MESSAGE_TYPE_REQUEST, &request("Echo"));
    for _ in 0..300 {
        let mut bytes = Vec::new();
        for _ in 0..random.next() % 6 {
            let mut part = good.clone();
            for _ in 0..random.next() % 4 {
                let at = random.next() as usize % part.len();
                part[at] = random.next() as u8;
            }
            bytes.extend(part);
        }
        bytes.truncate(bytes.len().saturating_sub(random.next() as usize % 8));
        let (shared, gate) = (Shared::default(), Arc::new(Semaphore::new(64)));
        let (mut stream, server) = serve_pipe(1 << 16, &shared, &gate);
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answers = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answers)).await;
        read.expect("the server closes").unwrap();
        server.await.expect("no panic");
    }
}

#[tokio::test]
async fn handlers_end_although_their_caller_has_gone() {
    let (shared, gate) = (Shared::default(), Arc::new(Semaphore::new(0)));
    let (mut stream, server) = serve_pipe(1 << 16, &shared, &gate);
    stream.write_all(&frame(1, MESSAGE_TYPE_REQUEST, &request("Gate"))).await.unwrap();
    stream.write_all(&frame(3, MESSAGE_TYPE_REQUEST, &request("Caller"))).await.unwrap();
    until("the handlers", || shared.started.load(Ordering::SeqCst) == 2).await;
    drop(stream);
    until("the caller's end", || shared.callers_gone.load(Ordering::SeqCst) == 1).await;
    assert!(!server.is_finished());
    gate.add_permits(1);
    tokio::time::timeout(PATIENCE, server).await.unwrap().unwrap();
    assert_eq!(shared.ended.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn handlers_end_although_nobody_reads_answers() {
    let (shared, gate) = (Shared::default(), Arc::new(Semaphore::new(0)));
    // A pipe so small that no answer fits.
    let (mut stream, server) = serve_pipe(64, &shared, &gate);
    for n in 0..50 {
        stream.write_all(&frame(2 * n + 1, MESSAGE_TYPE_REQUEST, &request("Echo"))).await.unwrap();
    }
    until("the handlers", || shared.ended.load(Ordering::SeqCst) == 50).await;
    for _ in 0..50 {
        assert_eq!(answer(&mut stream).await.1.status.code.value(), 0);
    }
    drop(stream);
    tokio::time::timeout(PATIENCE, server).await.unwrap().unwrap();
}

#[tokio::test]
async fn calls_in_flight_are_bounded() {
    let (shared, gate) = (Shared::default(), Arc::new(Semaphore::new(0)));
    let (mut stream, server) = serve_pipe(1 << 20, &shared, &gate);
    let gated = request("Gate");
    for n in 0..=IN_FLIGHT_MAX as u32 {
        stream.write_all(&frame(2 * n + 1, MESSAGE_TYPE_REQUEST, &gated)).await.unwrap();
    }
    let (refused, response) = answer(&mut stream).await;
    assert_eq!((refused, response.status.code.value()), (2 * IN_FLIGHT_MAX as u32 + 1, 8));
    gate.add_permits(IN_FLIGHT_MAX);
    for _ in 0..IN_FLIGHT_MAX {
        assert_eq!(answer(&mut stream).await.1.payload, b"through");
    }
    drop(stream);
    tokio::time::timeout(PATIENCE, server).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_closing_connection_answers_what_it_has() {
    let (ours, theirs) = duplex(1 << 16);
    let (shared, gate) = (Shared::default(), Arc::new(Semaphore::new(0)));
    let closing = watch::Sender::new(false);
    let handler = {
        let (shared, gate) = (shared.clone(), gate.clone());
        move |call| handle(shared.clone(), gate.clone(), call)
    };
    let server = tokio::spawn(serve_connection_until(theirs, handler, closing.subscribe()));
    let (client, connection) = Client::over(ours);
    tokio::spawn(connection);
    let answer = tokio::spawn(async move { call(&client, "Gate", b"").await });
    until("the handler", || shared.started.load(Ordering::SeqCst) == 1).await;
    closing.send_replace(true);
    gate.add_permits(1);
    assert_eq!(answer.await.unwrap().unwrap(), b"through");
    tokio::time::timeout(PATIENCE, server).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_s_calls_end_with_the_connection() {
    let (shared, gate) = (Shared::default(), Arc::new(Semaphore::new(0)));
    let (client, server) = client(&shared, &gate);
    let short = Some(Duration::from_millis(20));
    let none = Metadata::default();
    let late = client.call_bytes("test.Service", "Gate", Vec::new(), &none, short).await;
    assert!(matches!(late, Err(ClientError::DeadlineExceeded)));
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { call(&client, "Gate", b"").await }
    });
    until("the handlers", || shared.started.load(Ordering::SeqCst) == 2).await;
    server.abort();
    let closed = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(closed.to_string(), "ttrpc: closed");
    assert_eq!(davit_types::Kind::kind(&closed), ErrorKind::Unavailable);
    assert!(client.is_closed());
    assert!(matches!(call(&client, "Echo", b"").await, Err(ClientError::Closed)));
    let nobody = Client::connect(std::path::Path::new("/no/such/socket")).await;
    assert!(matches!(nobody, Err(ClientError::Connect { .. })));
}

#[test]
fn parsing_is_total() {
    let mut random = Random(0xf00d);
    let mut metadata = KeyValue::new();
    metadata.key = "k".into();
    let mut good = Request::new();
    good.metadata.push(metadata);
    let good = good.write_to_bytes().unwrap();
    for _ in 0..20_000 {
        let header = MessageHeader {
            length: random.next() as u32,
            stream_id: random.next() as u32 % 8,
            type_: random.next() as u8 % 5,
            flags: random.next() as u8,
        };
        let mut message = good.clone();
        let at = random.next() as usize % message.len();
        message[at] = random.next() as u8;
        let _ = parse(&header, &message, random.next() as u32 % 8);
    }
}
