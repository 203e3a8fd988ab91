//! A whole ttrpc connection, as a hostile client or shim would use it: the
//! server must answer in well-formed frames and end, the client's reading of
//! an answer must not fall over.

use std::time::Duration;

use davit_protocols::ttrpc::frame::{self, Frame};
use davit_protocols::ttrpc::server::{Call, serve_connection};
use davit_protocols::ttrpc::{client, status::Status};
use protobuf::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use ttrpc::proto::Request;

/// Fits everything that one input can make the server say.
const PIPE: usize = 1 << 20;

/// Only reached by a server that hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bytes as what a client sends, then as what a server answers.
pub fn run(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime of one thread can be made");
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, converse(data)).await.expect("the connection ends");
    });
    let _ = client::answer(data);
}

async fn converse(data: &[u8]) {
    let (mut near, far) = tokio::io::duplex(PIPE);
    let server = serve_connection(far, |call: Call| async move {
        match call.method.as_str() {
            "Echo" => Ok(call.payload),
            method => Err(Status::unknown_method(method)),
        }
    });
    let peer = async move {
        // The server may hang up on what it cannot read.
        let _ = near.write_all(data).await;
        let _ = near.shutdown().await;
        let mut answers = Vec::new();
        let _ = near.read_to_end(&mut answers).await;
        answers
    };
    let (_, answers) = tokio::join!(server, peer);
    let mut answers = answers.as_slice();
    while let Some(answer) = frame::read(&mut answers).await.expect("answers are whole frames") {
        let Frame::Whole(header, message) = answer else { panic!("an answer is too long") };
        assert_eq!(header.type_, ttrpc::proto::MESSAGE_TYPE_RESPONSE);
        ttrpc::proto::Response::parse_from_bytes(&message).expect("an answer is a response");
    }
}

/// Requests, good and odd.
pub fn seeds() -> Vec<Vec<u8>> {
    let request = |stream: u32, kind: u8, method: &str| {
        let message = Request {
            service: "containerd.task.v3.Task".into(),
            method: method.into(),
            payload: b"\x0a\x01a".to_vec(),
            timeout_nano: 1_000_000_000,
            ..Default::default()
        };
        let message = message.write_to_bytes().expect("a request encodes");
        let mut frame = (message.len() as u32).to_be_bytes().to_vec();
        frame.extend(stream.to_be_bytes());
        frame.extend([kind, 0]);
        frame.extend(message);
        frame
    };
    let mut two = request(1, 1, "Echo");
    two.extend(request(3, 1, "State"));
    vec![
        two,
        request(2, 1, "Echo"),
        request(1, 3, "Echo"),
        request(1, 9, "Echo"),
        b"\xff\xff\xff\xff\0\0\0\x01\x01\0".to_vec(),
        b"\0\0\0\0\0\0\0\x01\x01\0".to_vec(),
        b"\x0a\x06\x08\x05\x12\x02no\x12\x01p".to_vec(),
    ]
}
