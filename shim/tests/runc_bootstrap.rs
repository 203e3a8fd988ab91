//! How daemons of different ages start a shim, and what they ask it besides.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod runc_harness;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use davit_protocols::ttrpc::bootstrap::{BootstrapParams, BootstrapResult};
use davit_protocols::ttrpc::types::RuntimeInfo;
use davit_protocols::ttrpc::{options, runtimeoptions};
use protobuf::{Message, MessageField};
use runc_harness::{
    Bundle, Daemon, LIMIT, SHIM, answer, any, is_alive, must, runc_options, wait_for,
};

fn run(command: &mut Command, stdin: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

/// A container runs through the shim at this address.
fn lives(daemon: &Daemon, address: &str, bundle: &Bundle) {
    let mut shim = daemon.connect(address, bundle);
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&shim.socket) & 0o777, 0o600);
    assert_eq!(mode(shim.socket.parent().unwrap()) & 0o777, 0o700);
    shim.run(&bundle.create("runc"));
    shim.end(&bundle.id);
    shim.shutdown(&bundle.id).unwrap();
    wait_for("the shim's end", || (!is_alive(shim.pid)).then_some(()));
}

#[test]
fn an_old_daemon_gets_the_bare_address() {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let stdin = runc_options("runc").write_to_bytes().unwrap();
    let address = answer(&run(&mut daemon.shim_command(SHIM, &bundle, "start"), &stdin));
    let text = std::fs::read_to_string(bundle.path.join("address")).unwrap();
    assert_eq!(address, text);
    lives(&daemon, &address, &bundle);
}

#[test]
fn a_newer_daemon_gets_json() {
    for (asked, version) in [("2", 2), ("3", 3), ("4", 3)] {
        let daemon = Daemon::new();
        let bundle = daemon.bundle(&["sleep", "1000"]);
        let mut command = daemon.shim_command(SHIM, &bundle, "start");
        command.env("MAX_SHIM_VERSION", asked);
        let text = answer(&run(&mut command, b""));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["version"], &json["protocol"]), (&version.into(), &"ttrpc".into()));
        lives(&daemon, json["address"].as_str().unwrap(), &bundle);
    }
}

#[test]
fn the_newest_daemon_gets_a_message() {
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let params = BootstrapParams {
        instance_id: bundle.id.clone(),
        namespace: daemon.namespace.clone(),
        containerd_ttrpc_address: daemon.dir.path().join("events.sock").to_str().unwrap().into(),
        socket_dir: Some(daemon.dir.path().join("t").to_str().unwrap().into()),
        ..Default::default()
    };
    let mut command = daemon.shim_command(SHIM, &bundle, "start");
    command.env_remove("TTRPC_ADDRESS");
    let output = run(&mut command, &params.write_to_bytes().unwrap());
    assert!(output.status.success() && output.stderr.is_empty());
    let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
    assert!(result.address.contains("/t/"), "{}", result.address);
    lives(&daemon, &result.address, &bundle);
    daemon.expect_topics(&["create", "start", "exit", "delete"]);
}

/// A bundle whose configuration is missing or broken: the file is named, nobody
/// listens, nothing runs.
#[test]
fn a_broken_bundle_is_refused_and_leaves_nothing() {
    type Break = (&'static str, fn(&std::path::Path));
    let breaks: [Break; 4] = [
        ("open", |path| std::fs::remove_file(path).unwrap()),
        ("parse", |path| std::fs::write(path, "{\"annotations\": ").unwrap()),
        ("parse", |path| std::fs::write(path, r#"{"annotations": {"a": 1}}"#).unwrap()),
        ("longer than", |path| std::fs::File::create(path).unwrap().set_len(33 << 20).unwrap()),
    ];
    for (words, change) in breaks {
        let daemon = Daemon::new();
        let bundle = daemon.bundle(&["true"]);
        let config = bundle.path.join("config.json");
        change(&config);
        let output = run(&mut daemon.shim_command(SHIM, &bundle, "start"), b"");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(output.stdout.is_empty());
        assert!(stderr.contains(words) && stderr.contains(config.to_str().unwrap()), "{stderr}");
        let sockets = std::fs::read_dir(daemon.dir.path().join("s"));
        assert_eq!(sockets.map_or(0, Iterator::count), 0);
        assert!(!bundle.path.join("address").exists());
    }
}

/// The same program under the name of the one it replaces, with the options
/// of a CRI configuration.
#[test]
fn it_is_the_same_under_the_other_name() {
    let daemon = Daemon::new();
    let other = daemon.dir.path().join("containerd-shim-runc-v2");
    std::os::unix::fs::symlink(SHIM, &other).unwrap();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let mut shim = daemon.start_with(other.to_str().unwrap(), &bundle);
    let toml = runtimeoptions::Options {
        type_url: "io.containerd.cri.runc.v1".into(),
        config_body: b"BinaryName = \"runc\"\nSystemdCgroup = false\n".to_vec(),
        ..Default::default()
    };
    let mut request = bundle.create("unused");
    request.options = MessageField::some(any("runtimeoptions.v1.Options", &toml));
    shim.run(&request);
    shim.end(&bundle.id);
}

/// The shim itself is put where the options want it, in either form of these.
#[test]
fn it_goes_into_the_control_group_of_its_options() {
    let name = runc_harness::unique("davit-shim");
    let group = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
        .map(|dir| std::path::Path::new(dir).join(&name))
        .into_iter()
        .find(|dir| dir.parent().unwrap().join("cgroup.procs").exists())
        .unwrap();
    std::fs::create_dir(&group).unwrap();
    let own = options::Options { shim_cgroup: format!("/{name}"), ..Default::default() };
    let toml = runtimeoptions::Options {
        config_body: format!("ShimCgroup = \"/{name}\"\n").into_bytes(),
        ..Default::default()
    };
    for wanted in [any("containerd.runc.v1.Options", &own), any("runtimeoptions.v1.Options", &toml)]
    {
        let daemon = Daemon::new();
        let bundle = daemon.bundle(&["true"]);
        let stdin = wanted.write_to_bytes().unwrap();
        let output = run(&mut daemon.shim_command(SHIM, &bundle, "start"), &stdin);
        let shim = daemon.connect(&answer(&output), &bundle);
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", shim.pid)).unwrap();
        assert!(groups.contains(&format!(":/{name}\n")), "{groups}");
        shim.shutdown(&bundle.id).unwrap();
        wait_for("the shim's end", || (!is_alive(shim.pid)).then_some(()));
    }
    wait_for("an empty group", || std::fs::remove_dir(&group).ok());

    // Where it cannot go, nothing is left of it.
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["true"]);
    let stdin = any("containerd.runc.v1.Options", &own).write_to_bytes().unwrap();
    let output = run(&mut daemon.shim_command(SHIM, &bundle, "start"), &stdin);
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains(&name));
    assert_eq!(std::fs::read_dir(daemon.dir.path().join("s")).unwrap().count(), 0);
}

#[test]
fn it_tells_about_itself() {
    let version = must(Command::new(SHIM).arg("-v"));
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    for binary in ["", "runc", "crun"] {
        let wanted = options::Options { binary_name: binary.into(), ..Default::default() };
        let stdin = any("containerd.runc.v1.Options", &wanted).write_to_bytes().unwrap();
        let output = run(Command::new(SHIM).arg("-info"), &stdin);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let info = RuntimeInfo::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!(info.version.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(info.options.type_url, "containerd.runc.v1.Options");
        // Debian's crun knows no `features`.
        if binary != "crun" {
            let name = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
            assert_eq!(info.features.type_url, name);
            let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
            assert!(features["ociVersionMin"].is_string());
        }
    }
    let missing = options::Options { binary_name: "no-such-runtime".into(), ..Default::default() };
    let stdin = any("containerd.runc.v1.Options", &missing).write_to_bytes().unwrap();
    let output = run(Command::new(SHIM).arg("-info"), &stdin);
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("no-such-runtime"), "{stderr}");
}

/// Sends an empty request as a user, who may open the socket's file; how
/// many bytes are answered.
fn ask_as(user: u32, socket: &Path) -> usize {
    let socket = socket.to_owned();
    let asked = std::thread::spawn(move || {
        // Of this thread alone, which ends with the question.
        let id = rustix::thread::Uid::from_raw(user);
        rustix::thread::set_thread_res_uid(id, id, id).unwrap();
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        // Length 0, stream 1, a request without flags.
        let _ = stream.write_all(&[0, 0, 0, 0, 0, 0, 0, 1, 1, 0]);
        match stream.read(&mut [0; 64]) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("neither answered nor refused: {error}"),
        }
    });
    asked.join().unwrap()
}

/// Even when the socket's permissions have been opened.
#[test]
fn other_users_are_not_answered() {
    const NOBODY: u32 = 65534;
    let daemon = Daemon::new();
    let bundle = daemon.bundle(&["sleep", "1000"]);
    let shim = daemon.start(&bundle);
    for (path, mode) in
        [(daemon.dir.path(), 0o711), (shim.socket.parent().unwrap(), 0o711), (&shim.socket, 0o666)]
    {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    assert_eq!(ask_as(NOBODY, &shim.socket), 0);
    assert!(ask_as(0, &shim.socket) > 0, "root is answered");
    shim.shutdown(&bundle.id).unwrap();
}
