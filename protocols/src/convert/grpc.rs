//! The gRPC side's types.

use std::time::SystemTime;

use davit_types as types;
use davit_types::{Digest, Namespace};

use super::{InvalidField, Reason, UnpackError, from_parts, is, to_parts};
use crate::grpc::containerd::types as wire;

/// An opaque message for the wire.
pub fn any(any: types::Any) -> prost_types::Any {
    prost_types::Any { type_url: any.type_url, value: any.value }
}

/// An opaque message from the wire, to the bit.
pub fn any_from(any: prost_types::Any) -> types::Any {
    types::Any { type_url: any.type_url, value: any.value }
}

/// `message` with its bare type name.
pub fn pack<M: prost::Message + prost::Name>(message: &M) -> types::Any {
    types::Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// The message in `any`, which must be an `M`.
pub fn unpack<M>(any: &types::Any) -> Result<M, UnpackError>
where
    M: prost::Message + prost::Name + Default,
{
    let expected = M::full_name();
    if !is(any, &expected) {
        return Err(UnpackError::Type { found: any.type_url.clone(), expected });
    }
    M::decode(any.value.as_slice())
        .map_err(|error| UnpackError::Malformed { expected, reason: error.to_string() })
}

/// A time for the wire. Outside the years 1 to 9999 it is the nearest valid
/// one.
pub fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    let (seconds, nanos) = to_parts(time);
    prost_types::Timestamp { seconds, nanos }
}

/// The time that the field named `field` holds.
pub fn time(
    field: &'static str,
    stamp: &prost_types::Timestamp,
) -> Result<SystemTime, InvalidField> {
    from_parts(stamp.seconds, stamp.nanos).map_err(|reason| InvalidField { field, reason })
}

impl From<types::Mount> for wire::Mount {
    fn from(mount: types::Mount) -> Self {
        let types::Mount { kind, source, target, options } = mount;
        Self { r#type: kind, source, target, options }
    }
}

impl From<wire::Mount> for types::Mount {
    fn from(mount: wire::Mount) -> Self {
        let wire::Mount { r#type, source, target, options } = mount;
        Self { kind: r#type, source, target, options }
    }
}

impl From<types::Platform> for wire::Platform {
    fn from(platform: types::Platform) -> Self {
        let types::Platform { os, architecture, variant, os_version } = platform;
        Self { os, architecture, variant, os_version, os_features: Vec::new() }
    }
}

impl From<wire::Platform> for types::Platform {
    /// `os_features`, which only Windows images have, is dropped.
    fn from(platform: wire::Platform) -> Self {
        let wire::Platform { os, architecture, variant, os_version, os_features: _ } = platform;
        Self { os, architecture, variant, os_version }
    }
}

impl From<types::Descriptor> for wire::Descriptor {
    fn from(descriptor: types::Descriptor) -> Self {
        let types::Descriptor { media_type, digest, size, annotations } = descriptor;
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        Self { media_type, digest: digest.to_string(), size, annotations }
    }
}

impl TryFrom<wire::Descriptor> for types::Descriptor {
    type Error = InvalidField;

    fn try_from(descriptor: wire::Descriptor) -> Result<Self, InvalidField> {
        let wire::Descriptor { media_type, digest, size, annotations } = descriptor;
        let digest: Digest = digest.parse().map_err(|e| InvalidField::new("digest", e))?;
        let size =
            u64::try_from(size).map_err(|_| InvalidField::new("size", Reason::Negative(size)))?;
        Ok(Self { media_type, digest, size, annotations })
    }
}

impl From<types::Envelope> for wire::Envelope {
    fn from(envelope: types::Envelope) -> Self {
        Self {
            timestamp: Some(timestamp(envelope.timestamp)),
            namespace: envelope.namespace.to_string(),
            topic: envelope.topic,
            event: Some(any(envelope.event)),
        }
    }
}

impl TryFrom<wire::Envelope> for types::Envelope {
    type Error = InvalidField;

    /// The topic is not looked at; the exchange does that.
    fn try_from(envelope: wire::Envelope) -> Result<Self, InvalidField> {
        let stamp =
            envelope.timestamp.ok_or_else(|| InvalidField::new("timestamp", Reason::Missing))?;
        let event = envelope.event.ok_or_else(|| InvalidField::new("event", Reason::Missing))?;
        Ok(Self {
            timestamp: time("timestamp", &stamp)?,
            namespace: Namespace::new(envelope.namespace)
                .map_err(|e| InvalidField::new("namespace", e))?,
            topic: envelope.topic,
            event: any_from(event),
        })
    }
}
