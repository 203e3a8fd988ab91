//! Names of images, which become URLs and the names of directories.

use davit_types::Reference;

use super::list;

/// Whatever is accepted prints as something that means the same, and leads
/// nowhere but to its own registry.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = Reference::parse(text) {
        check(&reference);
    }
    if let Ok(reference) = Reference::parse_familiar(text) {
        check(&reference);
        assert_eq!(Reference::parse_familiar(&reference.familiar()).as_ref(), Ok(&reference));
        assert!(reference.version().is_ok(), "{text:?}");
    }
}

fn check(reference: &Reference) {
    assert_eq!(Reference::parse(&reference.to_string()).as_ref(), Ok(reference));
    let (domain, path) = (reference.domain(), reference.path());
    assert!(!domain.is_empty() && !domain.starts_with('.') && !domain.contains('/'), "{domain:?}");
    assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")), "{path:?}");
    let harmless = |b: u8| b.is_ascii_graphic() && !b"?#%\\\"<>".contains(&b);
    assert!(reference.to_string().bytes().all(harmless), "{reference}");
}

/// Short ones, full ones, wrong ones.
pub fn seeds() -> Vec<Vec<u8>> {
    list([
        b"busybox",
        b"team/app:2",
        b"localhost:5000/a_b/c--d.e:V1.0",
        b"[2001:db8::1]:5000/app:1",
        b"docker.io/library/busybox:1@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        b"index.docker.io/busybox@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        b"r.test//a/./b/../c",
        b"user@r.test/app",
        b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ])
}
