//! Headers that steer a transfer: `Content-Range`, `Retry-After`, `Link`,
//! `Range` and `Content-Type`.

use std::time::{Duration, SystemTime};

/// The part of a blob that an answer holds (RFC 9110, section 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// The first byte's position.
    pub first: u64,
    /// The last byte's position, at least `first`.
    pub last: u64,
    /// The whole blob's length, where it is said; more than `last`.
    pub total: Option<u64>,
}

impl ContentRange {
    /// Reads `bytes 0-99/100` and `bytes 0-99/*`.
    pub fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.trim().split_once([' ', '\t'])?;
        let (range, total) = rest.trim().split_once('/')?;
        let (first, last) = range.trim().split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let total = match total.trim() {
            "*" => None,
            total => Some(number(total)?),
        };
        let sound = first <= last && total.is_none_or(|total| last < total);
        (unit.eq_ignore_ascii_case("bytes") && sound).then_some(Self { first, last, total })
    }
}

/// The last byte that an upload has taken: `0-99`, with or without `bytes=`
/// (OCI distribution specification, "Pushing a blob in chunks").
pub(crate) fn upload_range(text: &str) -> Option<u64> {
    let text = text.trim();
    let text = text.strip_prefix("bytes=").unwrap_or(text);
    let (first, last) = text.split_once('-')?;
    (number(first)? == 0).then(|| number(last))?
}

/// How long a server asks us to wait, whether it names seconds or a date (RFC
/// 9110, section 10.2.3).
pub(crate) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Some(seconds) = number(text) {
        return Some(Duration::from_secs(seconds));
    }
    let then = httpdate::parse_http_date(text).ok()?;
    Some(then.duration_since(now).unwrap_or_default())
}

/// Where the next page of a list is: the target of the first link whose
/// relation is `next` (RFC 8288), as it stands.
pub fn next_page(text: &str) -> Option<&str> {
    let mut rest = text;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        let end = end_of_link(after);
        if after[..end].split(';').any(is_next) {
            return Some(target.trim());
        }
        rest = &after[end..];
    }
}

/// Where a link's parameters end: at a comma that is not within quotes.
fn end_of_link(text: &str) -> usize {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return false };
    let value = value.trim().trim_matches('"');
    name.trim().eq_ignore_ascii_case("rel")
        && value.split_ascii_whitespace().any(|word| word.eq_ignore_ascii_case("next"))
}

/// A media type without its parameters. `text/plain` stands for a manifest of
/// Docker's first schema, as containerd takes it.
pub(crate) fn media_type(text: &str) -> String {
    match text.split(';').next().unwrap_or_default().trim() {
        "text/plain" => "application/vnd.docker.distribution.manifest.v1+json".to_owned(),
        media_type => media_type.to_owned(),
    }
}

/// Digits only: no sign, no space.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        let range = |first, last, total| Some(ContentRange { first, last, total });
        for (text, expected) in [
            ("bytes 0-99/100", range(0, 99, Some(100))),
            ("Bytes 5-5/*", range(5, 5, None)),
            (" bytes  1-2/3 ", range(1, 2, Some(3))),
            ("bytes 0-99/99", None),
            ("bytes 9-5/100", None),
            ("bytes */100", None),
            ("bytes -5-9/100", None),
            ("bytes 0-99999999999999999999/*", None),
            ("lines 0-1/2", None),
            ("bytes 0-1", None),
            ("", None),
        ] {
            assert_eq!(ContentRange::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn waits_are_read() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 10);
        for (text, expected) in [
            ("7", Some(7)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(10)),
            ("Sun, 06 Nov 1993 08:49:37 GMT", None),
            ("Sat, 06 Nov 1993 08:49:37 GMT", Some(0)),
            ("-7", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(text, now), expected.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn the_next_page_is_found() {
        for (text, expected) in [
            ("</v2/_catalog?last=b&n=2>; rel=\"next\"", Some("/v2/_catalog?last=b&n=2")),
            ("</a>; rel=prev, </b>; title=\"x, y\"; rel=next", Some("/b")),
            ("</a>; rel=\"last Next\"", Some("/a")),
            ("</a>; rel=\"prev\"", None),
            ("</a>", None),
            ("</a", None),
            ("rel=next", None),
            ("", None),
        ] {
            assert_eq!(next_page(text), expected, "{text}");
        }
    }

    #[test]
    fn the_rest_is_read_too() {
        assert_eq!(upload_range("0-99"), Some(99));
        assert_eq!(upload_range("bytes=0-0"), Some(0));
        assert_eq!(upload_range("5-9"), None);
        assert_eq!(upload_range("0--1"), None);
        assert_eq!(media_type("application/json; charset=utf-8"), "application/json");
        assert!(media_type("text/plain").contains("manifest.v1"));
    }
}
