//! Wire types to the types of `davit-types` and back, one module per side.
//!
//! Types with a counterpart of their own are converted by `From` and
//! `TryFrom`; those that belong to another crate (`Any`, timestamps) by
//! functions. What can fail names the field that was wrong.

#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "ttrpc")]
pub mod ttrpc;

use std::time::{Duration, SystemTime};

use davit_types::{Any, ErrorKind, InvalidDigest, InvalidId, Kind};

/// A field of a message whose value cannot be taken. Prints as the field's
/// name, with the reason behind it as source: `container_id: identifier must
/// not be empty: invalid argument`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}")]
pub struct InvalidField {
    /// Where, as in the definition: `target.digest`.
    pub field: &'static str,
    /// Why.
    #[source]
    pub reason: Reason,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// There has to be something.
    #[error("must be set: invalid argument")]
    Missing,
    /// No name.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// No digest.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// A size below zero.
    #[error("{0} is negative: invalid argument")]
    Negative(i64),
    /// A time outside the years 1 to 9999, or nanoseconds outside a second.
    #[error("{seconds} s and {nanos} ns are no valid time: invalid argument")]
    Time {
        /// Since 1970.
        seconds: i64,
        /// On top of `seconds`.
        nanos: i32,
    },
}

impl InvalidField {
    /// `field` is wrong because of `reason`.
    pub fn new(field: &'static str, reason: impl Into<Reason>) -> Self {
        Self { field, reason: reason.into() }
    }
}

impl Kind for InvalidField {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

/// The payload of an [`Any`] that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// It says that it is something else.
    #[error("type {found:?} where {expected:?} was expected: invalid argument")]
    Type {
        /// The type url that it carries.
        found: String,
        /// The full name that was wanted.
        expected: String,
    },
    /// Its bytes are not what its type says.
    #[error("cannot decode {expected}: {reason}: invalid argument")]
    Malformed {
        /// The full name of the type.
        expected: String,
        /// The decoder's words.
        reason: String,
    },
}

impl Kind for UnpackError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

/// Whether `any` holds a message of the type with the full name `name`. A
/// prefix that ends in a slash counts for nothing, as in Go's registries.
pub fn is(any: &Any, name: &str) -> bool {
    any.type_url.rsplit('/').next() == Some(name)
}

/// Go's zero time, the first instant of the year 1, which containerd sends
/// where there is no time yet: `exited_at` of a process that runs.
pub fn unset_time() -> SystemTime {
    SystemTime::UNIX_EPOCH - Duration::from_secs(FIRST_SECOND.unsigned_abs())
}

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, the ends of protobuf's time.
const FIRST_SECOND: i64 = -62_135_596_800;
const LAST_SECOND: i64 = 253_402_300_799;
const NANOS_PER_SECOND: i32 = 1_000_000_000;

/// Seconds since 1970, rounded down, and nanoseconds on top.
fn to_parts(time: SystemTime) -> (i64, i32) {
    let clamp = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    let (seconds, nanos) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (clamp(after.as_secs()), after.subsec_nanos() as i32),
        Err(before) => {
            let before = before.duration();
            match before.subsec_nanos() as i32 {
                0 => (-clamp(before.as_secs()), 0),
                nanos => (-clamp(before.as_secs()) - 1, NANOS_PER_SECOND - nanos),
            }
        }
    };
    (seconds.clamp(FIRST_SECOND, LAST_SECOND), nanos)
}

fn from_parts(seconds: i64, nanos: i32) -> Result<SystemTime, Reason> {
    let valid =
        (FIRST_SECOND..=LAST_SECOND).contains(&seconds) && (0..NANOS_PER_SECOND).contains(&nanos);
    if !valid {
        return Err(Reason::Time { seconds, nanos });
    }
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let time = if seconds < 0 { epoch - whole } else { epoch + whole };
    Ok(time + Duration::from_nanos(nanos.unsigned_abs().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_both_ways() {
        for parts in
            [(0, 0), (1, 999_999_999), (-1, 1), (-1, 0), (FIRST_SECOND, 0), (LAST_SECOND, 1)]
        {
            assert_eq!(to_parts(from_parts(parts.0, parts.1).unwrap()), parts);
        }
        assert_eq!(to_parts(unset_time()), (FIRST_SECOND, 0));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for (seconds, nanos) in [
            (0, -1),
            (0, NANOS_PER_SECOND),
            (FIRST_SECOND - 1, 0),
            (LAST_SECOND + 1, 0),
            (i64::MIN, 0),
            (i64::MAX, 0),
        ] {
            assert_eq!(from_parts(seconds, nanos), Err(Reason::Time { seconds, nanos }));
        }
    }

    #[test]
    fn an_error_names_the_field_and_the_reason() {
        let error = InvalidField::new("container_id", InvalidId::Empty);
        assert_eq!(
            error.full_message(),
            "container_id: identifier must not be empty: invalid argument"
        );
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn prefixes_of_type_urls_do_not_count() {
        let any = |url: &str| Any { type_url: url.into(), value: vec![] };
        assert!(is(&any("containerd.events.TaskExit"), "containerd.events.TaskExit"));
        assert!(is(
            &any("type.googleapis.com/containerd.events.TaskExit"),
            "containerd.events.TaskExit"
        ));
        assert!(!is(&any("xcontainerd.events.TaskExit"), "containerd.events.TaskExit"));
    }
}
