//! Bytes written by hand from the definition, for what no independent crate
//! has ([`crate::WITHOUT_PEER`]) or knows ([`crate::NEWER`]).

use davit_protocols::grpc::containerd::services::mounts::v1 as mounts;
use davit_protocols::grpc::containerd::services::snapshots::v1::CommitSnapshotRequest;
use davit_protocols::grpc::containerd::types::{ActivationInfo, Mount, Platform};
use davit_protocols::{grpc, ttrpc};
use prost::Message;

/// `message` is `bytes`, both ways.
fn same<M: Message + Default + PartialEq + std::fmt::Debug>(message: M, bytes: &[u8]) {
    assert_eq!(message.encode_to_vec(), bytes);
    assert_eq!(M::decode(bytes).unwrap(), message);
}

fn info() -> Option<ActivationInfo> {
    Some(ActivationInfo { name: "n".into(), ..Default::default() })
}

#[test]
fn mounts() {
    let mount = Mount {
        r#type: "bind".into(),
        source: "/s".into(),
        target: "t".into(),
        options: vec!["ro".into(), "x".into()],
    };
    same(
        mounts::ActivateRequest {
            name: "a".into(),
            mounts: vec![mount],
            labels: [("k".to_owned(), "v".to_owned())].into(),
            temporary: true,
        },
        b"\x0a\x01a\x12\x14\x0a\x04bind\x12\x02/s\x1a\x01t\x22\x02ro\x22\x01x\x1a\x06\x0a\x01k\x12\x01v\x20\x01",
    );
    same(mounts::ActivateResponse { info: info() }, b"\x0a\x03\x0a\x01n");
    same(mounts::DeactivateRequest { name: "a".into() }, b"\x0a\x01a");
    same(mounts::InfoRequest { name: "a".into() }, b"\x0a\x01a");
    same(mounts::InfoResponse { info: info() }, b"\x0a\x03\x0a\x01n");
    let update_mask = Some(prost_types::FieldMask { paths: vec!["labels".into()] });
    same(
        mounts::UpdateRequest { info: info(), update_mask },
        b"\x0a\x03\x0a\x01n\x12\x08\x0a\x06labels",
    );
    same(mounts::UpdateResponse { info: info() }, b"\x0a\x03\x0a\x01n");
    same(mounts::ListRequest { filters: vec!["f".into(), "g".into()] }, b"\x0a\x01f\x0a\x01g");
    same(mounts::ListMessage { info: info() }, b"\x0a\x03\x0a\x01n");
}

#[test]
fn fields_that_peers_do_not_know() {
    same(CommitSnapshotRequest { parent: "p".into(), ..Default::default() }, b"\x2a\x01p");
    same(Platform { os_features: vec!["f".into()], ..Default::default() }, b"\x2a\x01f");
}

#[test]
fn runtime_options_on_both_sides() {
    let bytes = b"\x0a\x01t\x12\x02/p\x1a\x02\x00\xff";
    same(
        grpc::runtimeoptions::v1::Options {
            type_url: "t".into(),
            config_path: "/p".into(),
            config_body: vec![0, 0xff],
        },
        bytes,
    );
    let ours = ttrpc::runtimeoptions::Options {
        type_url: "t".into(),
        config_path: "/p".into(),
        config_body: vec![0, 0xff],
        ..Default::default()
    };
    assert_eq!(protobuf::Message::write_to_bytes(&ours).unwrap(), bytes);
    assert_eq!(
        <ttrpc::runtimeoptions::Options as protobuf::Message>::parse_from_bytes(bytes).unwrap(),
        ours
    );
}
