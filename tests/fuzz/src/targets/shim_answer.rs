//! What a shim's `start` writes to its stdout: any program can be a shim.

use davit_protocols::ttrpc::bootstrap::BootstrapResult;
use davit_runtime::shim_socket;
use protobuf::Message as _;

use super::list;

/// The longest path of a socket, in bytes.
const SOCKET_PATH: usize = 107;

/// A socket is a path that the system takes, or the name of an abstract one; an
/// error is of a bearable length.
pub fn run(data: &[u8]) {
    match shim_socket(data) {
        Ok(path) => {
            let bytes = path.as_os_str().as_encoded_bytes();
            let abstracted = bytes.first() == Some(&0);
            assert!(abstracted || path.is_absolute(), "{path:?}");
            assert!(bytes.len() <= SOCKET_PATH + usize::from(abstracted), "{path:?}");
            assert!(!bytes[usize::from(abstracted)..].contains(&0), "{path:?}");
        }
        Err(error) => assert!(error.to_string().len() < 8192),
    }
}

/// The three forms, and what is none.
pub fn seeds() -> Vec<Vec<u8>> {
    let result = BootstrapResult {
        version: 3,
        address: "unix:///run/davit/s/0a".into(),
        protocol: "ttrpc".into(),
        ..Default::default()
    };
    let mut seeds = list([
        br#"{"version":3,"address":"unix:///run/davit/s/0a","protocol":"ttrpc"}"#,
        br#"{"version":2,"address":"name","protocol":"grpc"}"#,
        b"unix:///run/davit/s/0a\n",
        b"vsock://3:1024",
        b"panic: it did not work",
    ]);
    seeds.push(result.write_to_bytes().expect("a message encodes"));
    seeds
}
