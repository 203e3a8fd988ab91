//! Platforms, as people write them.

use davit_types::Platform;
use davit_types::platform::Matcher;

use super::list;

/// Whatever is accepted prints as something that means the same, and runs on
/// itself. Two platforms, separated by a space, are compared.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (one, other) = text.split_once(' ').unwrap_or((text, "linux"));
    let Ok(one) = Platform::parse(one) else { return };
    let printed = one.to_full_string();
    let again = Platform::parse(&printed).expect("what is printed is accepted");
    assert_eq!(again.normalized(), one.normalized(), "{printed:?}");
    assert_eq!(one.normalized().normalized(), one.normalized());
    let matchers = [Matcher::only(&one), Matcher::only_strict(&one), Matcher::all()];
    // A version that is none runs on no Windows, not even its own.
    if one.os != "windows" {
        assert!(matchers.iter().all(|matcher| matcher.matches(&one) && matcher.rank(&one) == 0));
    }
    let Ok(other) = Platform::parse(other) else { return };
    if matchers[1].matches(&other) {
        assert!(matchers[0].matches(&other), "{one} and {other}");
    }
}

/// One of each shape.
pub fn seeds() -> Vec<Vec<u8>> {
    list([
        b"linux",
        b"armhf linux/arm/v7",
        b"linux/arm64/v9.2 linux/arm64/v8.5",
        b"linux/amd64/v4 linux/386",
        b"windows(10.0.20348+win32k)/amd64 windows(10.0.17763)/amd64",
        b"windows(50%25%2Bx)/x86_64",
        b"linux(+gpu+simd)/riscv64",
    ])
}
