//! What we put on the wire, held against independent definitions: the
//! published crates `containerd-client`, `containerd-shim-protos` and
//! `tonic-health`.
//!
//! For every message with every field set: what we encode they decode, and
//! the reverse, with nothing lost on the way. For what no crate has, bytes
//! written by hand ([`golden`]). And the definitions that those crates ship
//! must agree with ours by name, number, type and method ([`schema`]).

#![allow(clippy::unwrap_used)]

mod codec;
mod definitions;
mod golden;
mod ours;
mod schema;
mod theirs;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use codec::Codec;
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor};
use values::{Maker, VARIANTS};

/// Messages that no independent crate has; their bytes are in [`golden`].
const WITHOUT_PEER: &[&str] = &[
    // The mount service came with containerd 2.2.
    "containerd.services.mounts.v1.ActivateRequest",
    "containerd.services.mounts.v1.ActivateResponse",
    "containerd.services.mounts.v1.DeactivateRequest",
    "containerd.services.mounts.v1.InfoRequest",
    "containerd.services.mounts.v1.InfoResponse",
    "containerd.services.mounts.v1.ListMessage",
    "containerd.services.mounts.v1.ListRequest",
    "containerd.services.mounts.v1.UpdateRequest",
    "containerd.services.mounts.v1.UpdateResponse",
    // Neither crate generates it.
    "runtimeoptions.v1.Options",
];

/// Fields that a crate's definitions are too old for.
const NEWER: &[(&str, &str)] = &[
    ("containerd-client", "containerd.services.snapshots.v1.CommitSnapshotRequest.parent"),
    ("containerd-client", "containerd.types.Platform.os_features"),
];

fn peers() -> [(&'static str, Vec<Codec>); 3] {
    [
        ("containerd-client", theirs::client()),
        ("containerd-shim-protos", theirs::shim()),
        ("tonic-health", theirs::health()),
    ]
}

fn sides() -> [(&'static str, Vec<Codec>); 2] {
    [("grpc", ours::grpc()), ("ttrpc", ours::ttrpc())]
}

fn is_newer(peer: &str, field: &FieldDescriptor) -> bool {
    NEWER.contains(&(peer, field.full_name()))
}

/// The number of members that the largest oneof of the message has; 1 without.
fn arms(descriptor: &MessageDescriptor) -> usize {
    descriptor.oneofs().map(|group| group.fields().len()).max().unwrap_or(1)
}

/// Through all of `path` in turn, and back into a view of our definitions.
fn pass(
    descriptor: &MessageDescriptor,
    bytes: Vec<u8>,
    path: &[&Codec],
) -> Result<DynamicMessage, String> {
    let mut bytes = bytes;
    for codec in path {
        bytes = (codec.recode)(&bytes)?;
    }
    DynamicMessage::decode(descriptor.clone(), bytes.as_slice()).map_err(|e| e.to_string())
}

/// Every message of ours with all of its fields through a peer and through
/// us, both ways round.
#[test]
fn peers_decode_what_we_encode_and_the_reverse() {
    let pool = definitions::pool();
    let mut pairs = 0;
    for (side, ours) in sides() {
        for (peer, theirs) in peers() {
            let theirs: BTreeMap<&str, &Codec> =
                theirs.iter().map(|c| (c.name.as_str(), c)).collect();
            for our in &ours {
                let Some(their) = theirs.get(our.name.as_str()) else { continue };
                pairs += 1;
                let descriptor = pool.get_message_by_name(&our.name).unwrap();
                let skip = |field: &FieldDescriptor| is_newer(peer, field);
                for variant in VARIANTS {
                    for arm in 0..arms(&descriptor) {
                        let message = Maker::new(variant, arm, &skip).message(&descriptor);
                        let bytes = message.encode_to_vec();
                        for path in [[our, their], [their, our]] {
                            let back = pass(&descriptor, bytes.clone(), &path);
                            assert_eq!(
                                back.as_ref(),
                                Ok(&message),
                                "{} of {side}, {variant:?}, with {peer}",
                                our.name
                            );
                        }
                    }
                }
            }
        }
    }
    // A floor, so that a table that came out empty does not pass.
    assert!(pairs > 250, "only {pairs} pairs of types were compared");
}

/// Our own two generators lose nothing, fields that no peer knows included.
#[test]
fn we_decode_what_we_encode() {
    let pool = definitions::pool();
    for (side, ours) in sides() {
        for our in &ours {
            let descriptor = pool.get_message_by_name(&our.name).unwrap();
            for variant in VARIANTS {
                let message = Maker::new(variant, 0, &|_| false).message(&descriptor);
                let back = pass(&descriptor, message.encode_to_vec(), &[our]);
                assert_eq!(back.as_ref(), Ok(&message), "{} of {side}, {variant:?}", our.name);
            }
            assert_eq!((our.recode)(&[]), Ok(vec![]), "{}: an empty message", our.name);
        }
    }
}

/// A field is called newer only as long as the peer does not have it.
#[test]
fn peers_do_not_know_what_is_listed_as_newer() {
    let pool = definitions::pool();
    for (peer, theirs) in peers() {
        for (_, name) in NEWER.iter().filter(|(whose, _)| *whose == peer) {
            let message_name = name.rsplit_once('.').unwrap().0;
            let their = theirs.iter().find(|c| c.name == message_name).unwrap();
            let descriptor = pool.get_message_by_name(message_name).unwrap();
            let message = Maker::new(VARIANTS[0], 0, &|_| false).message(&descriptor);
            let back = pass(&descriptor, message.encode_to_vec(), &[their]);
            assert_ne!(back, Ok(message), "{peer} knows {name} by now");
        }
    }
}

/// Every message of our definitions is generated, and has met a peer or is
/// listed as having none.
#[test]
fn nothing_is_left_out() {
    let defined: BTreeSet<String> =
        definitions::messages().map(|m| m.full_name().to_owned()).collect();
    let generated: BTreeSet<String> =
        sides().into_iter().flat_map(|(_, list)| list).map(|codec| codec.name).collect();
    let known: BTreeSet<String> =
        peers().into_iter().flat_map(|(_, list)| list).map(|codec| codec.name).collect();
    let without: BTreeSet<String> = WITHOUT_PEER.iter().map(|name| (*name).to_owned()).collect();

    // Those of v2 are those of v3, see `schema`. What is ours alone has no peer.
    let is_expected =
        |name: &String| !name.starts_with("containerd.task.v2.") && !name.starts_with("davit.");
    let expected: BTreeSet<String> = defined.into_iter().filter(is_expected).collect();
    assert_eq!(generated, expected, "generated, and defined");
    let compared: BTreeSet<String> = expected.intersection(&known).cloned().collect();
    let alone: BTreeSet<String> = expected.difference(&compared).cloned().collect();
    assert_eq!(alone, without, "without a peer, and listed so");
}
