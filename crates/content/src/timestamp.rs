//! Times as text: the ingest's files hold RFC 3339, as Go's
//! `time.MarshalText` writes it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;

/// A day of the proleptic Gregorian calendar.
struct Date {
    year: i64,
    month: i64,
    day: i64,
}

/// The date `days` after 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn date_of(days: i64) -> Date {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Date { year, month, day }
}

/// The inverse of [`date_of`].
fn days_of(date: &Date) -> i64 {
    let year = date.year - i64::from(date.month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted = (date.month + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + date.day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// `date`, `time` and the fraction with its point, trailing zeros cut off.
fn parts(time: SystemTime) -> (String, String) {
    let (seconds, nanos) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (since.as_secs() as i64, since.subsec_nanos()),
        Err(before) => (-(before.duration().as_secs() as i64), 0),
    };
    let date = date_of(seconds.div_euclid(DAY));
    let of_day = seconds.rem_euclid(DAY);
    let mut clock = format!("{:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60);
    if nanos != 0 {
        clock.push_str(format!(".{nanos:09}").trim_end_matches('0'));
    }
    (format!("{:04}-{:02}-{:02}", date.year, date.month, date.day), clock)
}

/// RFC 3339 in UTC.
pub fn to_rfc3339(time: SystemTime) -> String {
    let (date, clock) = parts(time);
    format!("{date}T{clock}Z")
}

/// As Go prints a time in UTC, for messages.
pub fn to_go_string(time: SystemTime) -> String {
    let (date, clock) = parts(time);
    format!("{date} {clock} +0000 UTC")
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

/// Reads RFC 3339 with any offset; `None` when it is something else.
pub fn from_rfc3339(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(at, byte)| text.as_bytes().get(at) != Some(&byte)) {
        return None;
    }
    let date = Date { year: number(0..4)?, month: number(5..7)?, day: number(8..10)? };
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let in_range = (1..=12).contains(&date.month)
        && (1..=31).contains(&date.day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !in_range {
        return None;
    }
    let rest = &text[19..];
    let fraction = rest.strip_prefix('.').unwrap_or("");
    let digits: &str = &fraction[..fraction.bytes().take_while(u8::is_ascii_digit).count()];
    let nanos: u32 = format!("{:0<9.9}", digits).parse().ok()?;
    let zone = rest.strip_prefix('.').map_or(rest, |f| &f[digits.len()..]);
    let seconds = days_of(&date) * DAY + hour * 3600 + minute * 60 + second - offset(zone)?;
    let seconds = u64::try_from(seconds).ok()?;
    Some(UNIX_EPOCH + Duration::new(seconds, nanos))
}

/// Seconds east of Greenwich of `Z` or `+hh:mm`.
fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60).then(|| sign * i64::from(hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

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
