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
        let types::Platform { os, architecture, variant, os_version, os_features } = platform;
        Self { os, architecture, variant, os_version, os_features }
    }
}

impl From<wire::Platform> for types::Platform {
    fn from(platform: wire::Platform) -> Self {
        let wire::Platform { os, architecture, variant, os_version, os_features } = platform;
        Self { os, architecture, variant, os_version, os_features }
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

#[cfg(test)]
mod tests {
    use davit_types::Kind;

    use super::*;
    use crate::convert::unset_time;
    use crate::grpc::containerd::events::{TaskExit, TaskStart};

    fn envelope() -> types::Envelope {
        types::Envelope {
            timestamp: unset_time(),
            namespace: Namespace::new("default").unwrap(),
            topic: "/tasks/exit".into(),
            event: pack(&TaskExit { container_id: "c".into(), ..Default::default() }),
        }
    }

    fn descriptor() -> wire::Descriptor {
        wire::Descriptor {
            media_type: "m".into(),
            digest: format!("sha256:{}", "0a".repeat(32)),
            size: 3,
            annotations: [("k".to_owned(), "v".to_owned())].into(),
        }
    }

    #[test]
    fn what_is_packed_has_a_bare_type_name() {
        let any = envelope().event;
        assert_eq!(any.type_url, "containerd.events.TaskExit");
        assert_eq!(unpack::<TaskExit>(&any).unwrap().container_id, "c");
        let error = unpack::<TaskStart>(&any).unwrap_err();
        assert_eq!(
            error.to_string(),
            "type \"containerd.events.TaskExit\" where \"containerd.events.TaskStart\" was expected: \
             invalid argument"
        );
        let damaged = types::Any { value: vec![0xff], ..any };
        let error = unpack::<TaskExit>(&damaged).unwrap_err();
        assert!(matches!(&error, UnpackError::Malformed { .. }), "{error:?}");
    }

    #[test]
    fn an_any_passes_to_the_bit() {
        let odd = types::Any { type_url: "x/y z".into(), value: vec![0, 0xff] };
        assert_eq!(any_from(any(odd.clone())), odd);
    }

    #[test]
    fn envelopes_there_and_back() {
        let wire = wire::Envelope::from(envelope());
        assert_eq!(types::Envelope::try_from(wire), Ok(envelope()));
    }

    #[test]
    fn an_envelope_names_the_field_that_is_wrong() {
        let refused = |change: fn(&mut wire::Envelope)| {
            let mut wire = wire::Envelope::from(envelope());
            change(&mut wire);
            types::Envelope::try_from(wire).unwrap_err().field
        };
        assert_eq!(refused(|e| e.timestamp = None), "timestamp");
        assert_eq!(refused(|e| e.timestamp.as_mut().unwrap().nanos = -1), "timestamp");
        assert_eq!(refused(|e| e.namespace = "a/b".into()), "namespace");
        assert_eq!(refused(|e| e.event = None), "event");
    }

    #[test]
    fn descriptors_there_and_back_and_refused() {
        let domain = types::Descriptor::try_from(descriptor()).unwrap();
        assert_eq!(wire::Descriptor::from(domain), descriptor());
        let negative = wire::Descriptor { size: -1, ..descriptor() };
        let error = types::Descriptor::try_from(negative).unwrap_err();
        assert_eq!(error.full_message(), "size: -1 is negative: invalid argument");
        let short = wire::Descriptor { digest: "sha256:0a".into(), ..descriptor() };
        assert_eq!(types::Descriptor::try_from(short).unwrap_err().field, "digest");
    }

    #[test]
    fn mounts_and_platforms_there_and_back() {
        let mount = types::Mount {
            kind: "bind".into(),
            source: "/s".into(),
            target: "t".into(),
            options: vec!["ro".into()],
        };
        assert_eq!(types::Mount::from(wire::Mount::from(mount.clone())), mount);
        let platform = types::Platform {
            os: "linux".into(),
            architecture: "arm".into(),
            variant: "v7".into(),
            os_version: "1".into(),
            os_features: vec!["gpu".into()],
        };
        assert_eq!(types::Platform::from(wire::Platform::from(platform.clone())), platform);
    }
}
