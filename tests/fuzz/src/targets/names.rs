//! Names and digests, which become paths.

use davit_types::{ContainerId, Digest, Namespace};

use super::list;

/// Whatever is accepted is one harmless path component, and prints as it was.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for name in [
        Namespace::new(text).map(|name| name.to_string()),
        ContainerId::new(text).map(|name| name.to_string()),
    ]
    .into_iter()
    .flatten()
    {
        assert_eq!(name, text);
        assert!(is_one_component(&name), "{name:?}");
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
        assert!(is_one_component(digest.hex()), "{text:?}");
        assert_eq!(digest.hex().len(), digest.algorithm().hex_length());
    }
}

fn is_one_component(name: &str) -> bool {
    use std::path::{Component, Path};
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(Component::Normal(part)) if part == name)
        && components.next().is_none()
        && !name.contains('\0')
}

/// Good and nearly good ones.
pub fn seeds() -> Vec<Vec<u8>> {
    list([
        b"default",
        b"k8s.io",
        b"a-b_c.d",
        b"../a",
        b"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        b"sha512:0a",
    ])
}
