//! The ttrpc side's types.

use std::time::SystemTime;

use davit_types as types;
use davit_types::Namespace;
use protobuf::well_known_types::any::Any as WireAny;
use protobuf::well_known_types::timestamp::Timestamp as WireTimestamp;

use super::{InvalidField, Reason, UnpackError, from_parts, is, to_parts};
use crate::ttrpc::{FullName, types as wire};

/// An opaque message for the wire.
pub fn any(any: types::Any) -> WireAny {
    WireAny { type_url: any.type_url, value: any.value, ..Default::default() }
}

/// An opaque message from the wire, to the bit.
pub fn any_from(any: WireAny) -> types::Any {
    types::Any { type_url: any.type_url, value: any.value }
}

/// `message` with its bare type name.
///
/// # Panics
/// Never: only messages of more than 2 GiB cannot be encoded, and nothing
/// that large can have been received.
pub fn pack<M: protobuf::Message + FullName>(message: &M) -> types::Any {
    let value = message.write_to_bytes().expect("a message below 2 GiB encodes");
    types::Any { type_url: M::FULL_NAME.to_owned(), value }
}

/// The message in `any`, which must be an `M`.
pub fn unpack<M: protobuf::Message + FullName>(any: &types::Any) -> Result<M, UnpackError> {
    let expected = M::FULL_NAME.to_owned();
    if !is(any, &expected) {
        return Err(UnpackError::Type { found: any.type_url.clone(), expected });
    }
    M::parse_from_bytes(&any.value)
        .map_err(|error| UnpackError::Malformed { expected, reason: error.to_string() })
}

/// A time for the wire. Outside the years 1 to 9999 it is the nearest valid
/// one.
pub fn timestamp(time: SystemTime) -> WireTimestamp {
    let (seconds, nanos) = to_parts(time);
    WireTimestamp { seconds, nanos, ..Default::default() }
}

/// The time that the field named `field` holds.
pub fn time(field: &'static str, stamp: &WireTimestamp) -> Result<SystemTime, InvalidField> {
    from_parts(stamp.seconds, stamp.nanos).map_err(|reason| InvalidField { field, reason })
}

impl From<types::Mount> for wire::Mount {
    fn from(mount: types::Mount) -> Self {
        let types::Mount { kind, source, target, options } = mount;
        Self { type_: kind, source, target, options, ..Default::default() }
    }
}

impl From<wire::Mount> for types::Mount {
    fn from(mount: wire::Mount) -> Self {
        let wire::Mount { type_, source, target, options, .. } = mount;
        Self { kind: type_, source, target, options }
    }
}

impl From<types::Platform> for wire::Platform {
    fn from(platform: types::Platform) -> Self {
        let types::Platform { os, architecture, variant, os_version, os_features } = platform;
        Self { os, architecture, variant, os_version, os_features, ..Default::default() }
    }
}

impl From<wire::Platform> for types::Platform {
    fn from(platform: wire::Platform) -> Self {
        let wire::Platform { os, architecture, variant, os_version, os_features, .. } = platform;
        Self { os, architecture, variant, os_version, os_features }
    }
}

impl From<types::Envelope> for wire::Envelope {
    fn from(envelope: types::Envelope) -> Self {
        Self {
            timestamp: Some(timestamp(envelope.timestamp)).into(),
            namespace: envelope.namespace.to_string(),
            topic: envelope.topic,
            event: Some(any(envelope.event)).into(),
            ..Default::default()
        }
    }
}

impl TryFrom<wire::Envelope> for types::Envelope {
    type Error = InvalidField;

    /// The topic is not looked at; the exchange does that.
    fn try_from(envelope: wire::Envelope) -> Result<Self, InvalidField> {
        let missing = |field| InvalidField::new(field, Reason::Missing);
        let stamp = envelope.timestamp.into_option().ok_or_else(|| missing("timestamp"))?;
        let event = envelope.event.into_option().ok_or_else(|| missing("event"))?;
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
    use super::*;
    use crate::convert::unset_time;
    use crate::ttrpc::events::{TaskExit, TaskStart};

    fn envelope() -> types::Envelope {
        types::Envelope {
            timestamp: unset_time(),
            namespace: Namespace::new("default").unwrap(),
            topic: "/tasks/exit".into(),
            event: pack(&TaskExit { container_id: "c".into(), ..Default::default() }),
        }
    }

    #[test]
    fn what_is_packed_has_a_bare_type_name() {
        let any = envelope().event;
        assert_eq!(any.type_url, "containerd.events.TaskExit");
        assert_eq!(unpack::<TaskExit>(&any).unwrap().container_id, "c");
        let error = unpack::<TaskStart>(&any).unwrap_err();
        assert!(matches!(&error, UnpackError::Type { .. }), "{error:?}");
        let damaged = types::Any { value: vec![0xff], ..any };
        let error = unpack::<TaskExit>(&damaged).unwrap_err();
        assert!(matches!(&error, UnpackError::Malformed { .. }), "{error:?}");
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
        assert_eq!(refused(|e| e.timestamp = None.into()), "timestamp");
        assert_eq!(refused(|e| e.timestamp.as_mut().unwrap().seconds = i64::MAX), "timestamp");
        assert_eq!(refused(|e| e.namespace = String::new()), "namespace");
        assert_eq!(refused(|e| e.event = None.into()), "event");
    }

    #[test]
    fn mounts_platforms_and_anys_there_and_back() {
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
        let odd = types::Any { type_url: "x/y z".into(), value: vec![0, 0xff] };
        assert_eq!(any_from(any(odd.clone())), odd);
    }
}
