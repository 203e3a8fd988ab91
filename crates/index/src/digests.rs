//! Digests that come as text: from the database, and from clients whose
//! mistakes are to be named as Go's digest library names them.

use davit_types::{Algorithm, Digest};

use crate::{Error, Result};

/// A digest that was valid when it was stored.
pub(crate) fn stored(text: &str) -> Result<Digest> {
    text.parse().map_err(|_| Error::Unknown(format!("the index holds a malformed digest {text:?}")))
}

/// What is wrong with a digest that does not parse.
pub(crate) fn fault(text: &str) -> &'static str {
    const FORMAT: &str = "invalid checksum digest format";
    let Some((name, encoded)) = text.split_once(':') else { return FORMAT };
    if name.is_empty() || encoded.is_empty() {
        return FORMAT;
    }
    let known = [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512]
        .into_iter()
        .find(|algorithm| algorithm.as_str() == name);
    match known {
        Some(algorithm) if algorithm.hex_length() != encoded.len() => {
            "invalid checksum digest length"
        }
        Some(_) => FORMAT,
        None if is_well_formed(name, encoded) => "unsupported digest algorithm",
        None => FORMAT,
    }
}

/// Whether a digest of an unknown algorithm has the form of one.
fn is_well_formed(name: &str, encoded: &str) -> bool {
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.split(['.', '+', '_', '-']).all(|part| !part.is_empty() && part.bytes().all(lower))
        && encoded.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_as_go_names_them() {
        for (text, expected) in [
            ("", "invalid checksum digest format"),
            ("sha256", "invalid checksum digest format"),
            ("sha256:", "invalid checksum digest format"),
            (":abc", "invalid checksum digest format"),
            ("sha256:abc", "invalid checksum digest length"),
            ("md5:0123", "unsupported digest algorithm"),
            ("MD5:0123", "invalid checksum digest format"),
            ("md5:01/23", "invalid checksum digest format"),
        ] {
            assert_eq!(fault(text), expected, "{text:?}");
        }
        assert_eq!(fault(&format!("sha256:{}", "G".repeat(64))), "invalid checksum digest format");
    }
}
