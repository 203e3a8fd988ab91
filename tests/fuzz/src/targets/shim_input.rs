//! What clients and images make our shim read: addresses of streams, options,
//! specifications, and the record of a checkpoint's streams. The modules are
//! those of its binary, which has no library of its own.

use std::fs;
use std::path::Path;

use davit_protocols::ttrpc::{options as runc, runtimeoptions};
use davit_types::Any;
use protobuf::Message as _;
use runc_client::Runc;

use super::list;

#[path = "../../../../shim/src/bin/containerd-shim-davit-v2/criu.rs"]
#[allow(dead_code, reason = "the shim uses the rest")]
mod criu;
#[path = "../../../../shim/src/bin/containerd-shim-davit-v2/options.rs"]
#[allow(dead_code, reason = "the shim uses the rest")]
mod options;
#[path = "../../../../shim/src/bin/containerd-shim-davit-v2/spec.rs"]
mod spec;
#[path = "../../../../shim/src/bin/containerd-shim-davit-v2/uri.rs"]
#[allow(dead_code, reason = "the shim uses the rest")]
mod uri;

use options::Options;
use uri::Sink;

/// An address of output: what is parsed has no path but where it says so, and
/// a logger gets pairs of arguments.
pub fn uris(data: &[u8]) {
    let Ok(address) = std::str::from_utf8(data) else { return };
    match Sink::parse(address) {
        Ok(Sink::Null) => assert!(address.is_empty()),
        Ok(Sink::Fifo(path)) if !address.contains(':') => assert_eq!(path, Path::new(address)),
        Ok(Sink::Logger(program)) => {
            assert!(program.args.len() + program.env.len() <= 2 * address.len());
            assert!(address.to_ascii_lowercase().starts_with("binary"), "{program:?}");
        }
        Ok(Sink::Fifo(_) | Sink::File(_)) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Addresses of each scheme.
pub fn uri_seeds() -> Vec<Vec<u8>> {
    list([
        b"/run/containerd/fifo/1/c-stdout",
        b"fifo:///run/fifo",
        b"file:///var/log/a%20b.log",
        b"file:relative",
        b"binary:///usr/bin/logger?id=a&env.PATH=%2Fbin&flag",
        b"binary-v2:///usr/bin/logger?a=1;b=2",
        b"nosuch:///x",
    ])
}

/// Options in both messages: what is read is kept in the bundle and read from
/// there again, and the runtime's state is below the namespace.
pub fn runtime_options(data: &[u8]) {
    let toml = runtimeoptions::Options { config_body: data.to_vec(), ..Default::default() };
    let toml = toml.write_to_bytes().expect("a message encodes");
    for (kind, value) in
        [("containerd.runc.v1.Options", data), ("runtimeoptions.v1.Options", toml.as_slice())]
    {
        let any = Any { type_url: kind.into(), value: value.to_vec() };
        let Ok(read) = Options::from_any(Some(&any)) else { continue };
        let bundle = directory();
        read.save(bundle.path()).expect("the directory is writable");
        assert_eq!(Options::load(bundle.path()), read);
        assert!(read.state_root("ns").ends_with("ns"));
    }
    // The copy itself, which other shims write too.
    let bundle = directory();
    fs::write(bundle.path().join("options.json"), data).expect("the directory is writable");
    let _ = Options::load(bundle.path());
}

/// Both messages, and the copy.
pub fn option_seeds() -> Vec<Vec<u8>> {
    let message = runc::Options {
        binary_name: "crun".into(),
        root: "/run/x".into(),
        systemd_cgroup: true,
        ..Default::default()
    };
    let mut seeds = list([
        b"BinaryName = \"/usr/bin/crun\"\nSystemdCgroup = true\nIoUid = 3\nTaskAPIAddress = \"a\"\n",
        b"Root = '/x'\n[other]\na = [1, 2]\n",
        br#"{"binary_name":"crun","root":"/run/x","systemd_cgroup":true,"io_uid":7}"#,
    ]);
    seeds.push(message.write_to_bytes().expect("a message encodes"));
    seeds
}

/// The specification of an exec and that of a container: an exec has the
/// terminal that the call says, whatever its JSON does.
pub fn specs(data: &[u8]) {
    for terminal in [true, false] {
        let Ok(process) = spec::exec_process(data, terminal) else { continue };
        let process: serde_json::Value =
            serde_json::from_slice(&process).expect("what is written can be read");
        assert_eq!(process["terminal"], terminal);
    }
    let bundle = directory();
    fs::write(bundle.path().join("config.json"), data).expect("the directory is writable");
    let _ = spec::shares_pid_namespace(bundle.path());
}

/// A process and a configuration.
pub fn spec_seeds() -> Vec<Vec<u8>> {
    list([
        br#"{"args":["sh"],"cwd":"/","env":["A=b"],"user":{"uid":0},"terminal":true}"#,
        br#"{"linux":{"namespaces":[{"type":"pid"},{"type":"net","path":"/x"}]}}"#,
        br#"{"linux":null}"#,
        b"[]",
    ])
}

/// The record of a checkpoint's streams: nothing but numbers reaches CRIU.
pub fn streams(data: &[u8]) {
    let (bundle, image) = (directory(), directory());
    fs::write(image.path().join("davit-streams.json"), data).expect("the directory is writable");
    let runtime = Runc::new("runc");
    if criu::to_restore(&runtime, bundle.path(), image.path()).is_err() {
        assert!(!bundle.path().join("criu.conf").exists());
        return;
    }
    let config = fs::read_to_string(bundle.path().join("criu.conf")).expect("it is written");
    for line in config.lines() {
        let numbers = line.strip_prefix("inherit-fd fd[").and_then(|rest| rest.strip_suffix(']'));
        let (fd, file) = numbers.and_then(|n| n.split_once("]:file[")).expect("an option of ours");
        assert!(["0", "1", "2"].contains(&fd), "{line}");
        let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(file.split_once(':').is_some_and(|(a, b)| hex(a) && hex(b)), "{line}");
    }
}

/// A record, and what is none.
pub fn stream_seeds() -> Vec<Vec<u8>> {
    list([
        br#"[{"fd":0,"mount":23,"inode":4711},{"fd":2,"mount":23,"inode":18446744073709551615}]"#,
        br#"[{"fd":3,"mount":1,"inode":1}]"#,
        b"[]",
    ])
}

/// In memory, where that can be had.
fn directory() -> tempfile::TempDir {
    let made = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    made.expect("a directory can be made")
}
