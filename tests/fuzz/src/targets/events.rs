//! What filters ask of event payloads, and envelopes from the wire. The input
//! is a type name, a newline, and the payload.

use davit_protocols::convert::grpc::{pack, unpack};
use davit_protocols::grpc::containerd::{events, types};
use davit_protocols::{event_field, topics};
use davit_types::{Any, Envelope};
use prost::Message;

const PATHS: &[&[&str]] = &[
    &["container_id"],
    &["id"],
    &["name"],
    &["io", "stdout"],
    &["runtime", "name"],
    &["labels", "a", "b"],
    &["labels"],
    &[""],
    &[],
];

/// See the head of the module.
pub fn run(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let type_url = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let any = Any { type_url, value: parts.next().unwrap_or_default().to_vec() };
    for path in PATHS {
        let found = event_field(&any, path);
        assert!(found.is_none() || any.type_url.contains('.'), "a field of no event: {any:?}");
    }
    if let Ok(exit) = unpack::<events::TaskExit>(&any) {
        assert_eq!(unpack::<events::TaskExit>(&pack(&exit)), Ok(exit));
    }
    envelope(&any.value);
}

/// An envelope that is accepted goes out as it came in.
fn envelope(data: &[u8]) {
    let Ok(wire) = types::Envelope::decode(data) else { return };
    if let Ok(domain) = Envelope::try_from(wire.clone()) {
        assert_eq!(types::Envelope::from(domain), wire);
    }
}

/// One payload for every topic, and an envelope.
pub fn seeds() -> Vec<Vec<u8>> {
    let payload = b"\x0a\x01a\x12\x01b\x1a\x07\x0a\x03a.b\x12\x00\x22\x04\x12\x02/o".as_slice();
    let mut seeds: Vec<Vec<u8>> =
        topics::TABLE.iter().map(|(_, name)| [name.as_bytes(), b"\n", payload].concat()).collect();
    let event = Some(davit_protocols::convert::grpc::any(pack(&events::TaskExit::default())));
    let timestamp = davit_protocols::convert::grpc::timestamp(std::time::SystemTime::UNIX_EPOCH);
    let envelope = types::Envelope {
        timestamp: Some(timestamp),
        namespace: "default".into(),
        topic: "/tasks/exit".into(),
        event,
    };
    seeds.push([b"x\n".as_slice(), &envelope.encode_to_vec()].concat());
    seeds
}
