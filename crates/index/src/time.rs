//! Times: in the database as nanoseconds since 1970, in labels as RFC 3339.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

pub(crate) fn to_nanos(time: SystemTime) -> i64 {
    let clamp = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => clamp(since),
        Err(before) => -clamp(before.duration()),
    }
}

pub(crate) fn from_nanos(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    if nanos < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

/// Reads `2006-01-02T15:04:05.999Z` or with an offset such as `+01:00` at the
/// end; nanoseconds since 1970.
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    // As narrow as Go's parser, which takes no other form of ISO 8601: what
    // it cannot read does not expire.
    let is = |at: usize, byte: u8| text.as_bytes().get(at) == Some(&byte);
    let zoned = text.ends_with('Z') || text.len().checked_sub(3).is_some_and(|at| is(at, b':'));
    if !(is(10, b'T') && is(16, b':') && zoned) {
        return None;
    }
    let time: Timestamp = text.parse().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_writes() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("1969-12-31T23:59:59Z", -1, 0),
            ("2000-02-29T12:00:00Z", 951_825_600, 0),
            ("2024-03-01T00:00:00+01:00", 1_709_247_600, 0),
            ("2024-02-29T22:30:00-00:30", 1_709_247_600, 0),
            ("2038-01-19T03:14:08.000000001Z", 2_147_483_648, 1),
            ("2038-01-19T03:14:08.5Z", 2_147_483_648, 500_000_000),
        ] {
            let expected = seconds * 1_000_000_000 + nanos;
            assert_eq!(parse_rfc3339(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "tomorrow",
            "2023-02-29T00:00:00Z",
            "2024-01-01",
            "2024-01-01T00:00:00",
            "2024-01-01T24:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00.-1Z",
            "2024-01-01T00:00:00+0100",
            "2024-1-1T00:00:00Z",
            "2024-01-01 00:00:00Z",
            "20240101T000000Z",
            "2024-01-01T00:00Z",
            "2024-01-01T00:00:00+01:00[UTC]",
            "9999-01-01T00:00:00é",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn keeps_times_to_the_nanosecond() {
        for nanos in [0, 1, -1, 1_700_000_000_123_456_789, i64::MAX] {
            assert_eq!(to_nanos(from_nanos(nanos)), nanos);
        }
    }
}
