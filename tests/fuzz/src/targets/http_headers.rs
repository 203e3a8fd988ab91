//! The headers of registries that steer what we do next.

use davit_distribution::registry::challenge::{self, Scheme};
use davit_distribution::registry::header::{ContentRange, next_page};

use super::list;

/// What is read makes sense, and reads the same once it is written properly.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let challenges = challenge::parse([text]);
    assert!(challenges.is_sorted_by_key(|challenge| challenge.scheme));
    for challenge in &challenges {
        for name in ["realm", "service", "scope", "error"] {
            let Some(value) = challenge.parameter(name) else { continue };
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let again = challenge::parse([format!("Bearer {name}=\"{quoted}\"").as_str()]);
            assert_eq!(again.len(), 1);
            assert_eq!((again[0].scheme, again[0].parameter(name)), (Scheme::Bearer, Some(value)));
        }
    }
    if let Some(range) = ContentRange::parse(text) {
        let ContentRange { first, last, total } = range;
        assert!(first <= last && total.is_none_or(|total| last < total), "{text:?}");
        let total = total.map_or("*".to_owned(), |total| total.to_string());
        assert_eq!(ContentRange::parse(&format!("bytes {first}-{last}/{total}")), Some(range));
    }
    if let Some(next) = next_page(text) {
        assert!(text.contains(next) && !next.contains('>'), "{text:?}");
    }
}

/// One of each header, good and odd.
pub fn seeds() -> Vec<Vec<u8>> {
    list([
        b"Bearer realm=\"https://auth.example/token\",service=\"s\",scope=\"repository:a/b:pull\"",
        b"Basic realm=x, Negotiate, bearer realm=\"a\\\"b\" , error=\"insufficient_scope\"",
        b"Digest nonce=\"n\", Bearer",
        b"bytes 0-99/100",
        b"bytes 5-9/*",
        b"</v2/a/tags/list?last=b&n=2>; rel=\"next\"",
        b"</a>; title=\"x, y\"; rel=prev, </b>; rel=\"last next\"",
    ])
}
