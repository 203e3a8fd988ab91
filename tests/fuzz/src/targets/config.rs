//! containerd's `config.toml`. The parser takes files, so one is written; text
//! that imports others is left out, for it could name any file there is.

use davit_daemon::config::{Config, migrate};

use super::list;

/// Loads it. What was accepted must be printed as something that is accepted
/// and says the same.
pub fn run(data: &[u8]) {
    if data.windows(6).any(|part| part == b"import") || data.contains(&b'\\') {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = directory.path().join("config.toml");
    std::fs::write(&path, data).expect("the file can be written");
    let _ = migrate(&path);
    let Ok((config, _warnings)) = Config::load(&path) else { return };
    let printed = config.to_toml();
    std::fs::write(&path, &printed).expect("the file can be written");
    let (again, _) = Config::load(&path).expect("what is printed is accepted");
    assert_eq!(again.to_toml(), printed);
}

/// Versions 1, 2 and 3.
pub fn seeds() -> Vec<Vec<u8>> {
    list([
        b"version = 2\nroot = \"/r\"\n[grpc]\n  address = \"/a.sock\"\n  gid = 7\n",
        b"version = 3\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[timeouts]\n\"a.b\" = \"3s\"\n",
        b"version = 2\n[plugins.\"io.containerd.snapshotter.v1.overlayfs\"]\nroot_path = \"/x\"\n",
        b"[plugins.opt]\npath = \"/opt\"\n",
        b"version = 3\n[proxy_plugins.p]\ntype = \"snapshot\"\naddress = \"/p\"\n[debug]\nlevel = \"debug\"\n",
        b"version = 3\n[plugins.\"io.containerd.transfer.v1.local\"]\nmax_concurrent_downloads = 7\nconfig_path = \"/a:/b\"\n[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\nplatform = \"linux/arm/v7\"\nsnapshotter = \"native\"\n",
        b"version = 3\n[plugins.\"io.containerd.image-verifier.v1.bindir\"]\nmax_verifiers = -1\nper_verifier_timeout = \"3s\"\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/c\"\n",
        b"version = 2\n[stream_processors.s]\naccepts = [\"a\"]\nreturns = \"b\"\npath = \"p\"\nargs = [\"x\"]\n",
        b"",
    ])
}
