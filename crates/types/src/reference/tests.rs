//! Tables of names, many of them from docker's and containerd's own rules.

use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn sha() -> String {
    format!("sha256:{HEX}")
}

fn parsed(name: &str) -> Reference {
    Reference::parse(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn familiar(name: &str) -> Reference {
    Reference::parse_familiar(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn what_people_type_is_filled_in() {
    let sha = sha();
    for (typed, full, short) in [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("team/app", "docker.io/team/app:latest", "team/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/busybox:1", "docker.io/library/busybox:1", "busybox:1"),
        ("index.docker.io/team/app:1", "docker.io/team/app:1", "team/app:1"),
        ("docker.io/library/busybox:1", "docker.io/library/busybox:1", "busybox:1"),
        ("library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/library/a/b:1", "docker.io/library/a/b:1", "library/a/b:1"),
        ("docker.io/r.test/app", "docker.io/r.test/app:latest", "docker.io/r.test/app:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
        ("localhost", "docker.io/library/localhost:latest", "localhost:latest"),
        ("Team/app", "Team/app:latest", "Team/app:latest"),
        ("registry.test/a_b/c__d/e--f.g:V_1.0-x", "registry.test/a_b/c__d/e--f.g:V_1.0-x", ""),
        ("[2001:db8::1]:5000/app", "[2001:db8::1]:5000/app:latest", ""),
        ("[::1]/app:2", "[::1]/app:2", ""),
        ("127.0.0.1/app", "127.0.0.1/app:latest", ""),
        ("xn--7o8h.com/app:1", "xn--7o8h.com/app:1", ""),
    ] {
        let reference = familiar(typed);
        assert_eq!(reference.to_string(), full, "{typed}");
        let short = if short.is_empty() { full } else { short };
        assert_eq!(reference.familiar(), short, "{typed}");
        assert_eq!(familiar(&reference.familiar()), reference, "{typed}");
    }
    assert_eq!(parsed("docker.io/library/busybox").familiar(), "busybox");
    assert_eq!(parsed("docker.io/library/App:1").familiar(), "docker.io/library/App:1");
    let both = familiar(&format!("busybox:1@{sha}"));
    assert_eq!(both.to_string(), format!("docker.io/library/busybox:1@{sha}"));
    assert_eq!(both.familiar(), format!("busybox:1@{sha}"));
    let bare = format!("docker.io/library/busybox@{sha}");
    assert_eq!(both.without_needless_tag().to_string(), bare);
    assert_eq!(familiar(&format!("busybox@{sha}")).to_string(), bare);
    assert_eq!(familiar("busybox:1").without_needless_tag().tag(), Some("1"));
}

#[test]
fn what_nobody_should_type_is_refused_in_docker_s_words() {
    let sha = sha();
    let long = format!("a/{}", "b".repeat(MAX_PATH));
    let upper = sha.to_uppercase();
    for (typed, message) in [
        (
            HEX,
            format!("invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        ),
        (
            "Busybox",
            "invalid reference format: repository name (library/Busybox) must be lowercase".into(),
        ),
        (
            "a/Busybox:1",
            "invalid reference format: repository name (a/Busybox) must be lowercase".into(),
        ),
        ("", "invalid reference format".into()),
        (":1", "invalid reference format".into()),
        ("a//b", "invalid reference format".into()),
        ("a/", "invalid reference format".into()),
        ("/a", "invalid reference format".into()),
        ("-a", "invalid reference format".into()),
        ("a-", "invalid reference format".into()),
        ("a..b", "invalid reference format".into()),
        ("a___b", "invalid reference format".into()),
        ("a._b", "invalid reference format".into()),
        ("a b", "invalid reference format".into()),
        ("a:", "invalid reference format".into()),
        ("a:-1", "invalid reference format".into()),
        ("a:1:2", "invalid reference format".into()),
        (&format!("a:{}", "x".repeat(129)), "invalid reference format".into()),
        ("a@sha256:00", "invalid reference format".into()),
        ("a@latest", "invalid reference format".into()),
        (&format!("a@{sha}@{sha}"), "invalid reference format".into()),
        ("foo_bar.com/a", "invalid reference format".into()),
        ("-host.com/a", "invalid reference format".into()),
        ("registry.test:/a", "invalid reference format".into()),
        ("registry.test:x/a", "invalid reference format".into()),
        ("[fe80::1%eth0]/a", "invalid reference format".into()),
        ("https://registry.test/a", "invalid reference format".into()),
        ("a\u{e4}", "invalid reference format".into()),
        (&long, "repository name must not be more than 255 characters".into()),
        (&format!("a:1@{upper}"), "invalid checksum digest format".into()),
    ] {
        let error = Reference::parse_familiar(typed).expect_err(typed);
        assert_eq!(error.to_string(), message, "{typed}");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn full_names_come_apart_and_together_again() {
    let sha = sha();
    for (name, domain, path, object) in [
        ("docker.io/library/busybox:1", "docker.io", "library/busybox", "1".to_owned()),
        ("docker.io/library/busybox", "docker.io", "library/busybox", String::new()),
        ("registry.test:5000/app:1", "registry.test:5000", "app", "1".into()),
        ("my_registry:5000/App:V1", "my_registry:5000", "App", "V1".into()),
        ("[::1]:5000/app:1", "[::1]:5000", "app", "1".into()),
        (&format!("r.test/app@{sha}"), "r.test", "app", format!("@{sha}")),
        (&format!("r.test/app:1@{sha}"), "r.test", "app", format!("1@{sha}")),
    ] {
        let reference = parsed(name);
        assert_eq!(reference.domain(), domain, "{name}");
        assert_eq!(reference.path(), path, "{name}");
        assert_eq!(reference.object(), object, "{name}");
        assert_eq!(reference.locator(), format!("{domain}/{path}"), "{name}");
        assert_eq!(reference.to_string(), name);
        assert_eq!(parsed(&reference.to_string()), reference);
    }
    assert_eq!(parsed("r.test//a/./b/:1").to_string(), "r.test/a/b:1");
    assert_eq!(parsed(&format!("r.test/a:@{sha}")).to_string(), format!("r.test/a@{sha}"));
}

#[test]
fn a_digest_says_more_than_a_tag() {
    let sha = sha();
    let both = parsed(&format!("r.test/app:1@{sha}"));
    assert_eq!(both.version(), Ok(sha.as_str()));
    assert_eq!((both.tag(), both.digest().map(Digest::as_str)), (Some("1"), Some(sha.as_str())));
    assert_eq!(parsed("r.test/app:1").version(), Ok("1"));
    assert_eq!(parsed("r.test/app").version(), Err(InvalidReference::ObjectRequired));
    let digest: Digest = sha.parse().unwrap();
    assert_eq!(parsed("r.test/app:1").with_digest(digest).to_string(), format!("r.test/app@{sha}"));
}

#[test]
fn full_names_are_refused_in_containerd_s_words() {
    for (name, message) in [
        ("", "hostname required"),
        ("/library/busybox:1", "hostname required"),
        (":5000/app", "hostname required"),
        ("docker.io", "object required"),
        ("docker.io/", "object required"),
        ("docker.io/:1", "invalid reference"),
        ("https://docker.io/library/busybox:1", "invalid reference"),
        ("busybox:latest", "parse \"dummy://busybox:latest\": invalid port \":latest\" after host"),
        ("r.test:/app:1", "parse \"dummy://r.test:/app:1\": invalid port \":\" after host"),
        ("[::1]x/app:1", "parse \"dummy://[::1]x/app:1\": invalid port \"x\" after host"),
        ("r.test/../other/app:1", "invalid reference"),
        ("r.test/a/..:1", "invalid reference"),
        ("../app:1", "invalid reference"),
        ("./app:1", "invalid reference"),
        ("user@r.test/app:1", "invalid reference"),
        ("r.test/app:1/2", "invalid reference"),
        ("r.test/app:1:2", "invalid reference"),
        ("r.test/app?x=1:1", "invalid reference"),
        ("r.test/a%2fb:1", "invalid reference"),
        ("r.test/a b:1", "invalid reference"),
        ("r.test/a\nb:1", "invalid reference"),
        ("r.test/a@sha256:00", "invalid checksum digest length"),
        ("r.test/a@00", "invalid checksum digest format"),
        ("r.test/a@", "invalid checksum digest format"),
        ("r.test/a@md5:00", "unsupported digest algorithm"),
        ("r.test/a@MD5:00", "invalid checksum digest format"),
        ("busybox:3", "object required"),
    ] {
        let error = Reference::parse(name).expect_err(name);
        assert_eq!(error.to_string(), message, "{name}");
    }
    let long = format!("r.test/{}:1", "a/".repeat(MAX_PATH / 2 + 2));
    assert_eq!(Reference::parse(&long), Err(InvalidReference::TooLong));
}
