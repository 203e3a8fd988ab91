//! `hosts.toml`. The parser takes directories, so one is made.

use davit_distribution::hosts::Config;
use tempfile::TempDir;

use super::{list, renew};

thread_local! {
    /// One for all inputs; what is outside of `certs.d` may not be found.
    static ROOT: TempDir = {
        let root = tempfile::tempdir().expect("a temporary directory can be made");
        std::fs::create_dir_all(root.path().join("certs.d/r.test")).expect("so can others");
        std::fs::write(root.path().join("hosts.toml"), "out of bounds").expect("and a file");
        root
    };
}

/// Whatever is accepted names servers that can be asked. The text is also
/// taken for a registry's name, which must not lead out of the directory.
pub fn run(data: &[u8]) {
    let root = ROOT.with(|root| root.path().join("certs.d"));
    renew(&root.join("r.test/hosts.toml"), data);
    let config = Config { directories: vec![root], ..Config::default() };
    if let Ok(hosts) = config.hosts("r.test") {
        assert!(!hosts.is_empty());
        for host in hosts {
            assert!(matches!(host.scheme.as_str(), "http" | "https"), "{host:?}");
            assert!(!host.authority.is_empty() && !host.authority.contains('/'), "{host:?}");
            assert!(host.path.is_empty() || host.path.starts_with('/'), "{host:?}");
            assert!(!host.path.ends_with('/') && !host.path.contains("/../"), "{host:?}");
            let text = |text: &str| !text.chars().any(char::is_control);
            assert!(host.headers.iter().all(|(name, value)| text(name) && text(value)));
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = config.hosts(text) {
        assert!(!error.to_string().contains("out of bounds"), "{text:?}: {error}");
    }
}

/// All settings that there are.
pub fn seeds() -> Vec<Vec<u8>> {
    list([
        b"server = \"https://up.test\"\n[host.\"https://m.test/a\"]\ncapabilities = [\"pull\"]\n",
        b"[host.\"http://m.test:5000\"]\nskip_verify = true\noverride_path = true\ndial_timeout = \"3s\"\n",
        b"ca = \"a.pem\"\nclient = [[\"c.cert\", \"c.key\"], \"d.pem\"]\n[header]\nx-a = [\"1\", \"2\"]\n",
        b"[host.\"h.test\".header]\nx = \"y\"\n[host.\"h.test\"]\nca = [\"a\"]\n",
        b"localhost:5000",
        b"..",
    ])
}
