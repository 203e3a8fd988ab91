//! What a daemon writes to a shim's stdin, and a bundle's `config.json`.

use davit_protocols::ttrpc::bootstrap::{BootstrapParams, Extension};
use davit_shim::bootstrap::{Annotations, Dialect, answer, parse_options, parse_start};
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use super::list;

/// Understands it in every dialect.
pub fn run(data: &[u8]) {
    for version in [None, Some("2"), Some("3"), Some("x")] {
        let start = parse_start(data, "id", "ns", version);
        // Only a message that names us chooses the new form of answer.
        if start.dialect == Dialect::Protobuf {
            let params = BootstrapParams::parse_from_bytes(data).expect("it was a message");
            assert_eq!((params.instance_id.as_str(), params.namespace.as_str()), ("id", "ns"));
        }
        assert!(!answer(start.dialect, "unix:///s").is_empty());
    }
    if let Some(options) = parse_options(data) {
        assert!(!options.type_url.is_empty());
    }
    if let Ok(annotations) = Annotations::parse(data) {
        let _ = annotations.group();
    }
}

/// Options of old, the new message, and a specification.
pub fn seeds() -> Vec<Vec<u8>> {
    let any = Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: b"\x32\x04crun".to_vec(),
        ..Default::default()
    };
    let params = BootstrapParams {
        instance_id: "id".into(),
        namespace: "ns".into(),
        extensions: vec![Extension { value: Some(any.clone()).into(), ..Default::default() }],
        socket_dir: Some("/s".into()),
        ..Default::default()
    };
    let mut seeds = list([
        br#"{"annotations":{"io.kubernetes.cri.sandbox-id":"a"}}"#,
        br#"{"ociVersion":"1.0.2","annotations":null}"#,
        b"",
    ]);
    seeds.push(any.write_to_bytes().expect("a message encodes"));
    seeds.push(params.write_to_bytes().expect("a message encodes"));
    seeds
}
