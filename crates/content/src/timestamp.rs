//! Times as text: the ingest's files hold RFC 3339, as Go's
//! `time.MarshalText` writes it.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// The moment; one that is beyond every calendar becomes 1970.
fn moment(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or_default()
}

/// RFC 3339 in UTC.
pub fn to_rfc3339(time: SystemTime) -> String {
    moment(time).to_string()
}

/// As Go prints a time in UTC, for messages.
pub fn to_go_string(time: SystemTime) -> String {
    moment(time).strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string()
}

/// As Go prints a duration, for messages: `1h2m3.5s`, `17.2ms`.
pub fn duration_to_go_string(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let trim = |number: String, unit: &str| {
        format!("{}{unit}", number.trim_end_matches('0').trim_end_matches('.'))
    };
    if seconds == 0 {
        return trim(format!("{:.6}", duration.as_nanos() as f64 / 1e6), "ms");
    }
    let mut text = String::new();
    if seconds >= 3600 {
        text.push_str(&format!("{}h", seconds / 3600));
    }
    if seconds >= 60 {
        text.push_str(&format!("{}m", seconds / 60 % 60));
    }
    let rest = (seconds % 60) as f64 + f64::from(duration.subsec_nanos()) / 1e9;
    text + &trim(format!("{rest:.9}"), "s")
}

/// Reads RFC 3339 with any offset; `None` when it is something else, or a time
/// before 1970.
pub fn from_rfc3339(text: &str) -> Option<SystemTime> {
    let time: Timestamp = text.trim().parse().ok()?;
    (time >= Timestamp::UNIX_EPOCH).then(|| time.into())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn prints_times_as_go_does() {
        for (millis, text) in [
            (0, "1970-01-01 00:00:00 +0000 UTC"),
            (951_782_400_120, "2000-02-29 00:00:00.12 +0000 UTC"),
        ] {
            assert_eq!(to_go_string(UNIX_EPOCH + Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn writes_and_reads_back() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_763_791_999, 120_000_000, "2025-11-22T06:13:19.12Z"),
            (4_102_444_799, 1, "2099-12-31T23:59:59.000000001Z"),
        ] {
            let time = UNIX_EPOCH + Duration::new(seconds, nanos);
            assert_eq!(to_rfc3339(time), text);
            assert_eq!(from_rfc3339(text), Some(time));
        }
    }

    #[test]
    fn reads_other_zones() {
        let utc = from_rfc3339("2025-11-22T06:13:19.5Z");
        assert!(utc.is_some());
        assert_eq!(from_rfc3339("2025-11-22T08:13:19.5+02:00"), utc);
        assert_eq!(from_rfc3339("2025-11-22T00:43:19.5-05:30\n"), utc);
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "",
            "now",
            "2025-11-22",
            "2025-13-22T06:13:19Z",
            "2025-11-22T06:13:19",
            "2025-11-22T06:13:19+2",
            "2025-11-22T25:13:19Z",
            "2025-11-22T06:13:1éZ",
            "1960-11-22T06:13:19Z",
        ] {
            assert_eq!(from_rfc3339(text), None, "{text:?}");
        }
    }

    #[test]
    fn prints_durations_as_go_does() {
        for (millis, text) in
            [(17, "17ms"), (1_500, "1.5s"), (3_723_000, "1h2m3s"), (60_000, "1m0s")]
        {
            assert_eq!(duration_to_go_string(Duration::from_millis(millis)), text);
        }
    }
}
