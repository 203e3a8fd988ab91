//! Tables of platforms, by containerd's rules.

use super::*;

fn parsed(text: &str) -> Platform {
    Platform::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn what_people_type_is_understood() {
    for (text, os, architecture, variant) in [
        ("linux/arm64", "linux", "arm64", ""),
        ("linux/arm64/v8", "linux", "arm64", "v8"),
        ("linux/arm64/v9", "linux", "arm64", "v9"),
        ("linux/arm64/9.0", "linux", "arm64", "v9"),
        ("linux/arm", "linux", "arm", ""),
        ("linux/arm/v7", "linux", "arm", "v7"),
        ("linux/arm/7", "linux", "arm", "v7"),
        ("linux/arm/v6", "linux", "arm", "v6"),
        ("arm", "linux", "arm", ""),
        ("armel", "linux", "arm", "v6"),
        ("armhf", "linux", "arm", ""),
        ("Aarch64", "linux", "arm64", ""),
        ("x86_64", "linux", "amd64", ""),
        ("Linux/x86-64", "linux", "amd64", ""),
        ("linux/amd64/v1", "linux", "amd64", ""),
        ("linux/amd64/v3", "linux", "amd64", "v3"),
        ("i386", "linux", "386", ""),
        ("s390x", "linux", "s390x", ""),
        ("macOS/arm64", "darwin", "arm64", ""),
        ("anything/goes", "anything", "goes", ""),
    ] {
        assert_eq!(parsed(text), Platform::new(os, architecture, variant), "{text}");
    }
    let host = Platform::host();
    assert_eq!(parsed("linux").architecture, host.architecture);
    assert_eq!(parsed("macos").os, "darwin");
}

#[test]
fn versions_and_features_of_systems_are_read_and_written() {
    for (text, version, features) in [
        ("windows(10.0.17763)/amd64", "10.0.17763", &[][..]),
        ("windows(10.0.17763+win32k)/amd64", "10.0.17763", &["win32k"]),
        ("linux(+gpu+simd)/amd64", "", &["gpu", "simd"]),
        ("windows(10.0%2Bbuild+feat%2B1)/amd64", "10.0+build", &["feat+1"]),
        ("windows(50%25done)/amd64", "50%done", &[]),
        ("windows(1.0%28a%2Fb%29)/amd64", "1.0(a/b)", &[]),
        ("windows(a%20%C3%A4)/amd64", "a \u{e4}", &[]),
    ] {
        let platform = parsed(text);
        assert_eq!(platform.os_version, version, "{text}");
        assert_eq!(platform.os_features, features, "{text}");
        assert_eq!(platform.to_full_string(), text);
    }
    assert_eq!(parsed("windows()/amd64").to_full_string(), "windows/amd64");
    assert_eq!(parsed("linux(+b+a)/amd64").to_full_string(), "linux(+a+b)/amd64");
    assert_eq!(parsed("windows(10.0.17763)/amd64").to_string(), "windows/amd64");
    assert_eq!(parsed("linux/arm/v6").to_string(), "linux/arm/v6");
    assert_eq!(Platform::default().to_full_string(), "unknown");
}

#[test]
fn what_is_no_platform_is_refused_in_containerd_s_words() {
    let os = |part: &str, whole: &str| {
        format!(
            "{part:?} is an invalid OS component of {whole:?}: OSAndVersion specifier component \
             must match {OS_PATTERN:?}: invalid argument"
        )
    };
    for (text, message) in [
        ("", os("", "")),
        ("/linux/arm", os("", "/linux/arm")),
        ("linux /arm", os("linux ", "linux /arm")),
        ("windows(10/amd64", os("windows(10", "windows(10/amd64")),
        ("windows(10)x/amd64", os("windows(10)x", "windows(10)x/amd64")),
        ("windows(a(b))/amd64", os("windows(a(b))", "windows(a(b))/amd64")),
        ("windows(1++a)/amd64", os("windows(1++a)", "windows(1++a)/amd64")),
        (
            "windows(%zz)/amd64",
            "\"windows(%zz)/amd64\" has an invalid OS version \"%zz\": invalid URL escape \"%zz\""
                .into(),
        ),
        (
            "linux(+a%)/amd64",
            "\"linux(+a%)/amd64\" has an invalid OS feature \"a%\": invalid URL escape \"%\""
                .into(),
        ),
        (
            "linux(%FF)/amd64",
            "\"linux(%FF)/amd64\" has an invalid OS version \"%FF\": invalid URL escape \"%FF\""
                .into(),
        ),
        (
            "linux/&arm",
            "\"&arm\" is an invalid component of \"linux/&arm\": platform specifier component \
             must match \"^[A-Za-z0-9_.-]+$\": invalid argument"
                .into(),
        ),
        (
            "linux/arm/",
            "\"\" is an invalid component of \"linux/arm/\": platform specifier component must \
             match \"^[A-Za-z0-9_.-]+$\": invalid argument"
                .into(),
        ),
        (
            "linux/arm/v7/x",
            "\"linux/arm/v7/x\": cannot parse platform specifier: invalid argument".into(),
        ),
        ("pdp11", "\"pdp11\": unknown operating system or architecture: invalid argument".into()),
        ("linux/*", "\"linux/*\": wildcards not yet supported: invalid argument".into()),
    ] {
        let error = Platform::parse(text).expect_err(text);
        assert_eq!(error.to_string(), message);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn a_platform_runs_what_is_older_than_itself() {
    for (host, runs, does_not) in [
        (
            "linux/amd64",
            "linux/amd64 linux/amd64/v1 linux/386",
            "linux/amd64/v2 linux/arm/v7 linux/arm64 windows/amd64",
        ),
        (
            "linux/amd64/v3",
            "linux/amd64/v3 linux/amd64/v2 linux/amd64 linux/386",
            "linux/amd64/v4 linux/arm64",
        ),
        ("linux/386", "linux/386", "linux/amd64 linux/arm/v7"),
        (
            "linux/arm/v8",
            "linux/arm/v8 linux/arm linux/arm/v7 linux/arm/v6 linux/arm/v5",
            "linux/arm/v4 linux/arm64",
        ),
        (
            "linux/arm/v7",
            "linux/arm linux/arm/v7 linux/arm/v6 linux/arm/v5",
            "linux/arm/v8 linux/arm/v4 linux/arm64",
        ),
        ("linux/arm/v6", "linux/arm/v6 linux/arm/v5", "linux/arm linux/arm/v7"),
        ("linux/arm/v5", "linux/arm/v5", "linux/arm linux/arm/v4"),
        ("linux/arm/v4", "linux/arm/v4", "linux/arm/v5"),
        (
            "linux/arm64",
            "linux/arm64 linux/arm64/v8 linux/arm/v8 linux/arm linux/arm/v5",
            "linux/arm/v4 linux/arm/v9 linux/arm64/v9 linux/arm64/v8.1 linux/amd64",
        ),
        (
            "linux/arm64/v8.1",
            "linux/arm64/v8.1 linux/arm64 linux/arm/v8 linux/arm",
            "linux/arm64/v8.2 linux/arm64/v9 linux/arm/v9",
        ),
        (
            "linux/arm64/v9",
            "linux/arm64/v9 linux/arm64/v8.5 linux/arm64/v8.1 linux/arm64 linux/arm",
            "linux/arm64/v8.6 linux/arm64/v9.1 linux/arm/v4",
        ),
        (
            "linux/arm64/v9.2",
            "linux/arm64/v9.1 linux/arm64/v9 linux/arm64/v8.7 linux/arm64 linux/arm/v8",
            "linux/arm64/v8.8 linux/arm64/v9.3",
        ),
        ("linux/riscv64", "linux/riscv64", "linux/riscv64/rva23u64 linux/amd64"),
    ] {
        let matcher = Matcher::only(&parsed(host));
        for platform in runs.split(' ') {
            assert!(matcher.matches(&parsed(platform)), "{host} does not run {platform}");
        }
        for platform in does_not.split(' ') {
            assert!(!matcher.matches(&parsed(platform)), "{host} runs {platform}");
        }
        let best: Vec<usize> = runs.split(' ').map(|p| matcher.rank(&parsed(p))).collect();
        assert!(best.is_sorted(), "{host}: {runs}: {best:?}");
    }
}

#[test]
fn strictly_a_platform_runs_its_own_alone() {
    for (host, runs, does_not) in [
        ("linux/amd64", "linux/amd64 linux/x86_64/v1", "linux/386 linux/amd64/v2"),
        ("linux/arm", "linux/arm/v7 linux/armhf", "linux/arm/v6 linux/arm64"),
        ("linux/arm64", "linux/arm64/v8 linux/aarch64", "linux/arm/v8 linux/arm64/v8.1"),
    ] {
        let matcher = Matcher::only_strict(&parsed(host));
        assert!(runs.split(' ').all(|platform| matcher.matches(&parsed(platform))), "{host}");
        assert!(!does_not.split(' ').any(|platform| matcher.matches(&parsed(platform))), "{host}");
    }
}

#[test]
fn windows_runs_its_own_build_and_new_ones_older_builds() {
    for (host, image, runs) in [
        ("10.0.17763", "10.0.17763.5458", true),
        ("10.0.17763.1", "10.0.17763", true),
        ("10.0.17763", "10.0.17764", false),
        ("10.0.17763", "", true),
        ("", "10.0.17763", true),
        ("10.0.17763", "nonsense", false),
        ("10.0.20348", "10.0.20348.169", true),
        ("10.0.26100", "10.0.20348.169", true),
        ("10.0.26100", "10.0.17763", false),
        ("10.0.20348", "10.0.26100", false),
        ("10.0.26100", "11.0.26100", false),
    ] {
        let windows = |version: &str| Platform {
            os_version: version.into(),
            ..Platform::new("windows", "amd64", "")
        };
        let matcher = Matcher::only(&windows(host));
        assert_eq!(matcher.matches(&windows(image)), runs, "{image} on {host}");
    }
    let linux = Platform { os_version: "6.1".into(), ..Platform::new("linux", "amd64", "") };
    assert!(Matcher::only(&Platform::new("linux", "amd64", "")).matches(&linux));
}

#[test]
fn an_image_s_features_must_all_be_there() {
    let matcher = Matcher::only_strict(&parsed("linux(+simd+gpu)/amd64"));
    assert!(matcher.matches(&parsed("linux/amd64")));
    assert!(matcher.matches(&parsed("linux(+gpu)/amd64")));
    assert!(matcher.matches(&parsed("linux(+gpu+simd)/amd64")));
    assert!(!matcher.matches(&parsed("linux(+gpu+npu)/amd64")));
}

#[test]
fn several_platforms_are_liked_in_their_order_or_all_the_same() {
    let list = [parsed("linux/arm64"), parsed("linux/amd64")];
    let (arm, amd, other) = (&list[0], &list[1], parsed("linux/s390x"));
    let ordered = Matcher::ordered(&list);
    assert!(ordered.rank(arm) < ordered.rank(amd) && ordered.rank(amd) < ordered.rank(&other));
    assert!(ordered.matches(amd) && !ordered.matches(&other));
    let any = Matcher::any(&list);
    assert_eq!(any.rank(arm), any.rank(amd));
    assert!(any.rank(amd) < any.rank(&other) && !any.matches(&other));
    assert!(Matcher::all().matches(&other));
    assert_eq!(Matcher::all().rank(arm), Matcher::all().rank(&other));
    assert!(!Matcher::any(&[]).matches(arm));
}

#[test]
fn a_variant_makes_no_endless_list() {
    let platform = Platform::new("linux", "amd64", "v4000000000");
    let matcher = Matcher::only(&platform);
    assert!(matcher.matches(&platform) && matcher.matches(&parsed("linux/386")));
    assert!(!matcher.matches(&parsed("linux/amd64")));
}

#[test]
fn attestations_are_of_no_platform() {
    let attestation = Platform::new("unknown", "unknown", "");
    assert!(attestation.is_unknown());
    assert!(!Matcher::host().matches(&attestation));
    assert!(!Platform::host().is_unknown());
}
