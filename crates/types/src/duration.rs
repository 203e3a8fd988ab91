//! Lengths of time as Go writes them, which is how containerd's configuration
//! has them (Go's `time.ParseDuration` and `Duration.String`).

use std::time::Duration;

const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Reads `1h2m3.5s`, `100ms`, `0`. Lengths are never negative here.
///
/// # Errors
/// In words, why it is no length of time.
pub fn parse(text: &str) -> Result<Duration, &'static str> {
    const MALFORMED: &str = "not a length of time such as \"1m30s\"";
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.starts_with('-') {
        return Err("a length of time cannot be negative");
    }
    if rest.is_empty() {
        return Err(MALFORMED);
    }
    let mut nanoseconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let number: f64 = rest[..digits].parse().map_err(|_| MALFORMED)?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = UNITS.iter().find(|(name, _)| *name == &rest[..letters]).ok_or(MALFORMED)?;
        nanoseconds += number * unit.1;
        rest = &rest[letters..];
    }
    if nanoseconds > i64::MAX as f64 {
        return Err("longer than 292 years");
    }
    Ok(Duration::from_nanos(nanoseconds as u64))
}

/// Writes a length of time as Go does: `1h0m0s`, `1.5s`, `100ms`, `0s`.
pub fn format(length: Duration) -> String {
    let nanoseconds = length.as_nanos();
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanoseconds, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanoseconds, 1_000_000)),
        _ => {
            let minutes = nanoseconds / 60_000_000_000;
            let seconds = fraction(nanoseconds % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

fn fraction(value: u128, unit: u128) -> String {
    let width = unit.ilog10() as usize;
    let digits = format!("{:0width$}", value % unit);
    let digits = digits.trim_end_matches('0');
    let whole = value / unit;
    if digits.is_empty() { whole.to_string() } else { format!("{whole}.{digits}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_what_go_does() {
        for (text, nanoseconds, written) in [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("100ms", 100_000_000, "100ms"),
            ("10s", 10_000_000_000, "10s"),
            ("1m", 60_000_000_000, "1m0s"),
            ("4h0m0s", 14_400_000_000_000, "4h0m0s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("2m3.5s", 123_500_000_000, "2m3.5s"),
            ("1us", 1_000, "1µs"),
            ("1500ns", 1_500, "1.5µs"),
        ] {
            let length = parse(text).unwrap();
            assert_eq!(length.as_nanos(), nanoseconds, "{text}");
            assert_eq!(format(length), written);
            assert_eq!(parse(written), Ok(length), "{written}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in ["", "5", "s", "-1s", "1 s", "1d", "1..5s", "1sm", "99999999h"] {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
