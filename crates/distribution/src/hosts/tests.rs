use std::fs;

use super::*;

fn config(directories: &[&Path]) -> Config {
    let directories = directories.iter().map(|path| path.to_path_buf()).collect();
    Config { directories, ..Config::default() }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Scheme and authority of all hosts of `domain`.
fn servers(config: &Config, domain: &str) -> Vec<String> {
    let hosts = config.hosts(domain).unwrap_or_else(|error| panic!("{domain}: {error}"));
    hosts.iter().map(|host| format!("{}://{}{}", host.scheme, host.authority, host.path)).collect()
}

#[test]
fn without_files_a_registry_is_where_its_name_says() {
    for (domain, scheme, tls, server, fallback, skip_verify) in [
        ("docker.io", None, false, "https://registry-1.docker.io/v2", false, false),
        ("docker.io", Some("http"), false, "https://registry-1.docker.io/v2", false, false),
        ("r.test", None, false, "https://r.test/v2", false, false),
        ("r.test:5000", None, false, "https://r.test:5000/v2", false, false),
        ("r.test", Some("http"), false, "http://r.test/v2", false, false),
        ("r.test:5000", Some("http"), true, "https://r.test:5000/v2", true, true),
        ("r.test:80", Some("http"), true, "http://r.test:80/v2", false, true),
        ("localhost", None, false, "https://localhost/v2", false, true),
        ("localhost", Some("http"), true, "https://localhost/v2", true, true),
        ("localhost:5000", None, false, "https://localhost:5000/v2", true, true),
        ("localhost:5000", Some("http"), false, "http://localhost:5000/v2", false, false),
        ("localhost:5000", Some("https"), true, "https://localhost:5000/v2", false, true),
        ("localhost:443", None, false, "https://localhost:443/v2", false, true),
        ("localhost:80", None, false, "http://localhost:80/v2", false, false),
        ("127.0.0.254:5000", None, false, "https://127.0.0.254:5000/v2", true, true),
        ("127.0.0.254", None, false, "https://127.0.0.254/v2", false, true),
        ("[::1]:5000", None, false, "https://[::1]:5000/v2", true, true),
        ("[::1]", None, false, "https://[::1]/v2", false, true),
        ("[::2]:5000", None, false, "https://[::2]:5000/v2", false, false),
        ("localhost.test:5000", None, false, "https://localhost.test:5000/v2", false, false),
    ] {
        let default_tls = tls.then(|| Tls { skip_verify: true, ..Tls::default() });
        let default_scheme = scheme.map(str::to_owned);
        let config = Config { default_scheme, default_tls, ..Config::default() };
        assert_eq!(servers(&config, domain), [server], "{domain} {scheme:?}");
        let host = config.hosts(domain).unwrap().remove(0);
        assert_eq!(host.http_fallback, fallback, "{domain} {scheme:?}");
        assert_eq!(host.tls.skip_verify, skip_verify, "{domain} {scheme:?}");
        assert_eq!(host.capabilities, Capabilities::ALL);
        assert!(!host.is_mirror, "{domain}");
    }
}

#[test]
fn the_first_directory_that_fits_counts() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    let server = |name: &str| format!("server = \"https://{name}\"");
    write(&one.join("r.test_5000_/hosts.toml"), &server("escaped.test"));
    write(&one.join("r.test:5000/hosts.toml"), &server("plain.test"));
    write(&one.join("s.test:5000/hosts.toml"), &server("colon.test"));
    write(&two.join("r.test:5000/hosts.toml"), &server("second.test"));
    write(&two.join("t.test/hosts.toml"), &server("only.test"));
    write(&two.join("_default/hosts.toml"), &server("default.test"));
    let config = config(&[Path::new(""), &root.path().join("missing"), &one, &two]);
    for (domain, server) in [
        ("r.test:5000", "https://escaped.test/v2"),
        ("s.test:5000", "https://colon.test/v2"),
        ("t.test", "https://only.test/v2"),
        ("r.test", "https://default.test/v2"),
        ("docker.io", "https://default.test/v2"),
    ] {
        assert_eq!(servers(&config, domain), [server], "{domain}");
    }
}

#[test]
fn mirrors_come_first_and_know_that_they_are() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("docker.io/hosts.toml");
    write(&file, "[host.\"https://m.test\"]\ncapabilities = [\"pull\"]\nskip_verify = true\n");
    let hosts = config(&[root.path()]).hosts("docker.io").unwrap();
    let found: Vec<(&str, bool, bool)> = hosts
        .iter()
        .map(|host| (host.authority.as_str(), host.is_mirror, host.tls.skip_verify))
        .collect();
    assert_eq!(found, [("m.test", true, true), ("registry-1.docker.io", false, false)]);
    // Without a restart.
    write(&file, "server = \"https://n.test\"\n");
    assert_eq!(servers(&config(&[root.path()]), "docker.io"), ["https://n.test/v2"]);
    // The registry itself under its own name is no mirror.
    write(
        &root.path().join("r.test/hosts.toml"),
        "[host.\"http://r.test\"]\nskip_verify = false\n",
    );
    let hosts = config(&[root.path()]).hosts("r.test").unwrap();
    assert!(hosts.iter().all(|host| !host.is_mirror && host.scheme == "https"));
    assert!(hosts[0].http_fallback && !hosts[1].http_fallback);
}

#[test]
fn settings_without_a_server_are_the_registry_s_own() {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("localhost:5000/hosts.toml"), "ca = \"ca.pem\"\nskip_verify = false\n");
    let common = Tls { ca: vec!["/common.pem".into()], skip_verify: true, ..Tls::default() };
    let config = Config { default_tls: Some(common), ..config(&[root.path()]) };
    let host = config.hosts("localhost:5000").unwrap().remove(0);
    let ca = root.path().join("localhost:5000/ca.pem");
    let wanted = Tls { ca: vec!["/common.pem".into(), ca], ..Tls::default() };
    assert_eq!(host.tls, wanted);
    assert!(host.http_fallback && host.scheme == "https");
}

#[test]
fn docker_s_files_say_which_certificates_there_are() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("r.test");
    for name in ["b.crt", "a.crt", "us.cert", "us.key", "alone.cert", "readme", "x.key"] {
        write(&directory.join(name), "-");
    }
    fs::create_dir(directory.join("directory.crt")).unwrap();
    let host = config(&[root.path()]).hosts("r.test").unwrap().remove(0);
    let there = |name: &str| directory.join(name);
    assert_eq!(host.tls.ca, [there("a.crt"), there("b.crt")]);
    let client = [(there("alone.cert"), None), (there("us.cert"), Some(there("us.key")))];
    assert_eq!(host.tls.client, client);
    assert_eq!(host.authority, "r.test");
    // They count only where there is nothing else.
    write(&there("hosts.toml"), "");
    assert_eq!(config(&[root.path()]).hosts("r.test").unwrap()[0].tls.ca.len(), 2);
    write(&there("hosts.toml"), "skip_verify = false");
    assert_eq!(config(&[root.path()]).hosts("r.test").unwrap()[0].tls, Tls::default());
}

#[test]
fn what_cannot_be_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let message = |config: &Config, domain: &str| config.hosts(domain).unwrap_err().full_message();
    for domain in ["", "..", ".", "a/b", "../x", "a\0b"] {
        let words = format!("{domain:?} is no host of a registry");
        assert_eq!(message(&config(&[root.path()]), domain), words);
    }
    let odd = Config { default_scheme: Some("ftp".into()), ..Config::default() };
    assert_eq!(message(&odd, "r.test"), "scheme \"ftp\" is neither \"http\" nor \"https\"");
    let file = root.path().join("r.test/hosts.toml");
    write(&file, "server = \"https://r.test\"\nskip_verify = 1\n");
    let error = config(&[root.path()]).hosts("r.test").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let place = format!("{}:2:15: skip_verify: expected a boolean, found integer", file.display());
    assert_eq!(error.to_string(), place);
    write(&file, &"#".repeat((1 << 20) + 1));
    let error = config(&[root.path()]).hosts("r.test").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.full_message().ends_with("longer than 1048576 bytes"), "{error}");
    fs::write(root.path().join("file"), "").unwrap();
    let error = config(&[root.path()]).hosts("file").unwrap_err();
    assert!(error.to_string().ends_with("/file"), "{error}");
}
