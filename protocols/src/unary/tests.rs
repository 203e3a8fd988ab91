use std::future::pending;

use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::*;

const HEALTH: &str = "grpc.health.v1.Health";

/// A client of what `serve` does with the other end.
async fn client<F: Future<Output = ()> + Send + 'static>(
    serve: impl FnOnce(UnixStream) -> F,
) -> (Client, impl Future<Output = ()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(serve(theirs));
    Client::over(ours).await.unwrap()
}

/// tonic's server with its health service.
async fn health(stream: UnixStream) {
    let (_reporter, service) = tonic_health::server::health_reporter();
    let service: HealthServer<_> = service;
    let once = futures::stream::iter([Ok::<_, std::io::Error>(stream)]);
    let incoming = futures::StreamExt::chain(once, futures::stream::pending());
    let server = tonic::transport::Server::builder();
    server.serve_with_incoming_shutdown(service, incoming, pending()).await.unwrap();
}

async fn check(client: &Client, service: &str) -> Result<Vec<u8>, CallError> {
    let request = HealthCheckRequest { service: service.into() }.encode_to_vec();
    let timeout = Some(Duration::from_secs(60));
    client.call_bytes(HEALTH, "Check", &request, &[("a-key".into(), "v".into())], timeout).await
}

#[tokio::test]
async fn a_real_server_answers() {
    let (client, connection) = client(health).await;
    tokio::spawn(connection);
    let all = futures::future::join_all((0..200).map(|_| check(&client, ""))).await;
    for answer in all {
        let answer = HealthCheckResponse::decode(&*answer.unwrap()).unwrap();
        assert_eq!(answer.status, 1);
    }
    let unknown = check(&client, "nosuch").await.unwrap_err();
    assert_eq!(
        (unknown.kind(), &*unknown.to_string()),
        (ErrorKind::NotFound, "service not registered")
    );
    let missing = client.call_bytes("no.such.Service", "Check", &[], &[], None).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Unimplemented);
}

#[tokio::test]
async fn the_end_of_the_connection_is_told() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (client, connection) = Client::over(ours).await.unwrap();
    let ended = tokio::spawn(connection);
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call_bytes("s", "m", &[], &[], None).await }
    });
    tokio::task::yield_now().await;
    drop(theirs);
    ended.await.unwrap();
    assert!(matches!(call.await.unwrap(), Err(CallError::Closed)));
    assert!(matches!(client.call_bytes("s", "m", &[], &[], None).await, Err(CallError::Closed)));
}

#[tokio::test]
async fn a_peer_of_another_protocol_is_no_connection() {
    let (client, connection) = client(|mut stream| async move {
        let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 1, 2, 0, 1, 2, 3, 4]).await;
        pending::<()>().await;
    })
    .await;
    tokio::spawn(connection);
    assert!(matches!(client.call_bytes("s", "m", &[], &[], None).await, Err(CallError::Closed)));
}

#[tokio::test]
async fn a_silent_peer_is_given_up() {
    let (client, connection) = client(|stream| async move {
        pending::<()>().await;
        drop(stream);
    })
    .await;
    tokio::spawn(connection);
    let timeout = Some(Duration::from_millis(50));
    let error = client.call_bytes("s", "m", &[], &[], timeout).await.unwrap_err();
    assert!(matches!(error, CallError::DeadlineExceeded));
}

/// Answers the first call with `head` and `body` and the second with a reset,
/// then goes.
async fn odd(stream: UnixStream, head: http::Response<()>, body: &'static [u8]) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    assert_eq!(request.uri().path(), "/s/m");
    assert_eq!(request.headers()["grpc-timeout"], "60000000u");
    let mut stream = respond.send_response(head, body.is_empty()).unwrap();
    if !body.is_empty() {
        stream.send_data(Bytes::from_static(body), false).unwrap();
        let status = [("grpc-status", "0")].map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()));
        stream.send_trailers(status.into_iter().collect()).unwrap();
    }
    let (_, mut respond) = connection.accept().await.unwrap().unwrap();
    respond.send_reset(h2::Reason::CANCEL);
    connection.graceful_shutdown();
    while connection.accept().await.is_some() {}
}

#[tokio::test]
async fn odd_answers_are_errors_of_their_call_alone() {
    let head = || http::Response::builder();
    let failed = head().header("grpc-status", "9").header("grpc-message", "not%20now%0a");
    let failed = failed.header(DETAILS, "no base64").body(()).unwrap();
    for (head, body, kind, words) in [
        (failed, &b""[..], ErrorKind::FailedPrecondition, "not now\n"),
        (
            head().status(404).body(()).unwrap(),
            b"",
            ErrorKind::Internal,
            "grpc: unexpected HTTP status code received: 404 Not Found",
        ),
        (
            head().body(()).unwrap(),
            b"\0\0\0\0\x03ab",
            ErrorKind::Internal,
            "grpc: an answer that is not one message",
        ),
        (
            head().body(()).unwrap(),
            b"\x01\0\0\0\0",
            ErrorKind::Internal,
            "grpc: a compressed answer, which nobody asked for",
        ),
    ] {
        let (client, connection) = client(move |stream| odd(stream, head, body)).await;
        let ended = tokio::spawn(connection);
        let call = || client.call_bytes("s", "m", &[], &[], Some(Duration::from_secs(60)));
        let error = call().await.unwrap_err();
        assert_eq!((error.kind(), &*error.full_message()), (kind, words));
        let reset = call().await.unwrap_err();
        assert_eq!(reset.kind(), ErrorKind::Canceled, "{reset}");
        assert!(matches!(call().await, Err(CallError::Closed)));
        ended.await.unwrap();
    }
}

#[test]
fn a_timeout_fits_into_its_header() {
    for (timeout, text) in [
        (Duration::ZERO, "1n"),
        (Duration::from_nanos(99_999_999), "99999999n"),
        (Duration::from_millis(1500), "1500000u"),
        (Duration::from_nanos(100_000_001), "100001u"),
        (Duration::from_secs(3600), "3600000m"),
        (Duration::from_secs(1 << 40), "99999999H"),
    ] {
        assert_eq!(limit(timeout), text, "{timeout:?}");
    }
}
