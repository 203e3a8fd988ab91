//! Points in time as RFC 3339 text, the form in which Go writes them to
//! JSON: `2026-11-22T06:21:07.123456789Z`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// `time` in UTC, with nanoseconds. Times before 1970 are written as 1970.
pub fn format(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = civil(since.as_secs() / DAY);
    let second = since.as_secs() % DAY;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_nanos()
    )
}

/// Reads what [`format`] and Go write; any offset from UTC is understood.
/// `None` for anything else, and for times before 1970.
pub fn parse(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if text.len() < 20 || separators.iter().any(|(at, byte)| text.as_bytes()[*at] != *byte) {
        return None;
    }
    let days = days(number(0..4)?, number(5..7)?, number(8..10)?)?;
    let seconds = days * DAY + number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
    let rest = &text[19..];
    let digits = rest
        .strip_prefix('.')
        .map_or(0, |fraction| fraction.bytes().take_while(u8::is_ascii_digit).count());
    let (nanos, zone) = match digits {
        0 => (0, rest),
        1..=9 => {
            let digits_text = &rest[1..=digits];
            (format!("{digits_text:0<9}").parse().ok()?, &rest[digits + 1..])
        }
        _ => return None,
    };
    let utc = i64::try_from(seconds).ok()? - offset_seconds(zone)?;
    UNIX_EPOCH.checked_add(Duration::new(u64::try_from(utc).ok()?, nanos))
}

/// `Z`, `+02:00`, `-07:30`.
fn offset_seconds(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
    match zone.as_bytes()[0] {
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn month_length(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn year_length(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

/// Days since 1970 to year, month, day.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    while days >= year_length(year) {
        days -= year_length(year);
        year += 1;
    }
    let mut month = 1;
    while days >= month_length(year, month) {
        days -= month_length(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

/// Year, month, day to days since 1970.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let valid = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=month_length(year, month)).contains(&day);
    valid.then(|| {
        let years: u64 = (1970..year).map(year_length).sum();
        let months: u64 = (1..month).map(|month| month_length(year, month)).sum();
        years + months + day - 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, 1, "2000-02-28T23:59:59.000000001Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000000Z"),
            (1_709_164_800, 5, "2024-02-29T00:00:00.000000005Z"),
            (4_107_542_399, 999_999_999, "2100-02-28T23:59:59.999999999Z"),
        ] {
            let time = UNIX_EPOCH + Duration::new(seconds, nanos);
            assert_eq!(format(time), text);
            assert_eq!(parse(text), Some(time));
        }
    }

    #[test]
    fn reads_what_go_writes() {
        let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(parse("2023-11-14T22:13:20Z"), Some(time));
        assert_eq!(parse("2023-11-15T00:13:20+02:00"), Some(time));
        assert_eq!(parse("2023-11-14T14:43:20.5-07:30"), Some(time + Duration::from_millis(500)));
        for text in ["", "0001-01-01T00:00:00Z", "2023-13-01T00:00:00Z", "2023-02-29T00:00:00Z"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
