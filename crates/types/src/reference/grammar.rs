//! Docker's grammar of references (`distribution/reference`, `regexp.go`),
//! piece by piece and without a regex engine.

/// An image's id: 64 lower-case hexadecimal digits.
pub fn is_identifier(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A host with or without a port.
pub fn is_domain(text: &str) -> bool {
    let port_at = match text.rfind(']') {
        Some(bracket) => bracket + 1,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, port) = text.split_at(port_at);
    (port.is_empty() || is_port(port)) && is_host(host, false)
}

/// A name of labels, an IPv4 address, or an IPv6 address in brackets. Docker
/// knows no underscores in labels.
pub fn is_host(text: &str, underscores: bool) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    let is_label = |label: &str| {
        let fine = |b: u8| b.is_ascii_alphanumeric() || (underscores && b == b'_');
        !label.is_empty()
            && label.bytes().all(|b| fine(b) || b == b'-')
            && label.bytes().next().is_some_and(fine)
            && label.bytes().last().is_some_and(fine)
    };
    text.split('.').all(is_label)
}

/// A port with the colon before it.
pub fn is_port(text: &str) -> bool {
    text.strip_prefix(':')
        .is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// The path of a repository.
pub fn is_path(text: &str) -> bool {
    text.split('/').all(is_component)
}

/// Runs of lower-case letters and digits with one separator between each two:
/// `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = text.as_bytes();
    loop {
        let length = rest.iter().take_while(|b| word(b)).count();
        if length == 0 {
            return false;
        }
        rest = &rest[length..];
        if rest.is_empty() {
            return true;
        }
        let length = rest.iter().take_while(|b| !word(b)).count();
        let separator = &rest[..length];
        let dashes = separator.iter().all(|b| *b == b'-');
        if !dashes && !matches!(separator, b"." | b"_" | b"__") {
            return false;
        }
        rest = &rest[length..];
    }
}

/// A tag.
pub fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// What looks like a digest; whether it is one, [`crate::Digest`] says.
pub fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let is_part = |part: &str| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(is_part)
        && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The two halves of what `go-digest` takes for a digest by a hash function
/// that it does not know.
pub fn is_foreign_digest(name: &str, encoded: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    name.split(['.', '+', '_', '-']).all(is_part)
        && encoded.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'_' | b'-'))
}

/// A byte that can be in a path of containerd's grammar and needs no escape
/// in a URL. More than registries accept (OCI distribution specification).
pub fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'~' | b'+')
}
