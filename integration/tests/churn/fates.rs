//! What each container is made to do, the stage at which it fails, and how
//! that must end.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use davit_integration::api::{Api, Call};
use davit_integration::{Client, Daemon, describe, image, terminal, wait_for};
use davit_protocols::grpc::containerd::services::containers::v1 as containers;
use davit_protocols::grpc::containerd::services::tasks::v1 as tasks;
use davit_protocols::grpc::containerd::types::Mount;
use tonic::Code;

const CTR: Client = Client::Ctr16;

/// How many fates there are, one container after the other.
const FATES: usize = 20;

/// Files that fates need, below the daemon's directory.
pub fn prepare(daemon: &Daemon) {
    let program = |name: &str, text: &str| {
        let path = daemon.path(name);
        fs::write(&path, text).expect("the directory is writable");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is ours");
    };
    // Found, and not to be executed: its interpreter is missing.
    program("broken", "#!/no/such/interpreter\n");
    // Ready, and gone before anything is written.
    program("brief-logger", "#!/bin/sh\nexec 3<&- 4<&- 5>&-\n");
}

/// Runs the container of this number to the end of its fate.
pub fn meet(daemon: &Daemon, number: usize) {
    let path = |name: &str| daemon.path(name).to_string_lossy().into_owned();
    let bind = format!("type=bind,src={},dst=/broken,options=bind:ro", path("broken"));
    let brief = format!("binary://{}", path("brief-logger"));
    let code = number % 200 + 1;
    let exit = format!("exit {code}");
    let one = One { daemon, number };
    match number % FATES {
        // Create: the shim, the runtime, what is to be mounted in it.
        0 => one.run(&["--runtime", "io.containerd.nosuch.v9"], &["true"], 1, "nosuch"),
        1 => one.run(&["--runc-binary", "/no/such/runtime"], &["true"], 1, "/no/such/runtime"),
        2 => {
            let mount = "type=bind,src=/no/such/dir,dst=/mnt,options=bind";
            one.run(&["--mount", mount], &["true"], 1, "/no/such/dir");
        }
        3 => one.run(&[], &["/no/such/program"], 1, "/no/such/program"),
        // Start.
        4 => one.fails(&["--mount", &bind], &["/broken"]),
        5 => one.fails(&["--runc-binary", "/usr/bin/crun", "--mount", &bind], &["/broken"]),
        6 => one.fails(&["--runc-binary", "/usr/bin/crun"], &["/no/such/program"]),
        // The streams.
        7 => one.run(&["--log-uri", "binary:///no/such/logger"], &["true"], 1, "/no/such/logger"),
        8 => one.run(&["--log-uri", "nosuch:///x"], &["true"], 1, "nosuch"),
        9 => one.run(&["--log-uri", "binary-v2:///bin/false"], &["true"], 1, ""),
        10 => one.run(&["--log-uri", &brief], &["sh", "-c", &exit], code as i32, ""),
        // The snapshot, and its mount.
        11 => one.run(&["--snapshotter", "nosuch"], &["true"], 1, "nosuch"),
        12 => one.mount(),
        13 => one.execs(),
        14 => one.on_terminal(&exit, code as i32),
        15 => one.abandoned(),
        // What ends as it should.
        16 => one.run(&[], &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137, ""),
        17 => one.run(&["--runc-binary", "/usr/bin/crun"], &["false"], 1, ""),
        _ => one.run(&[], &["sh", "-c", &exit], code as i32, ""),
    }
}

/// A container and its number.
struct One<'a> {
    daemon: &'a Daemon,
    number: usize,
}

impl One<'_> {
    fn id(&self) -> String {
        format!("c{}", self.number)
    }

    fn ctr(&self, words: &[&str]) -> Command {
        let mut command = self.daemon.ctr(CTR);
        command.args(words);
        command
    }

    /// `ctr run`, with FIFOs where they are looked for afterwards.
    fn command(&self, flags: &[&str], words: &[&str]) -> Command {
        let fifos = self.daemon.path("fifos");
        let mut command = self.ctr(&["run"]);
        command.arg("--fifo-dir").arg(fifos).args(flags).args([image::NAME, &self.id()]);
        command.args(words);
        command
    }

    /// Runs it; the exit code and a text that stderr holds must be these.
    fn run(&self, flags: &[&str], words: &[&str], code: i32, text: &str) {
        let mut command = self.command(&[&["--rm"], flags].concat(), words);
        let output = command.output().expect("ctr can be started");
        let told = describe(&command, &output);
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(text), "{told}");
    }

    /// Runs what cannot succeed. Whether the runtime notices at create, at
    /// start, or leaves it to the exit status is its own affair.
    fn fails(&self, flags: &[&str], words: &[&str]) {
        let mut command = self.command(&[&["--rm"], flags].concat(), words);
        let output = command.output().expect("ctr can be started");
        assert!(output.status.code().is_some_and(|c| c != 0), "{}", describe(&command, &output));
    }

    fn on_terminal(&self, script: &str, code: i32) {
        let command = self.command(&["--rm", "--tty"], &["sh", "-c", script]);
        let (text, status) = terminal::run(&command, "");
        assert_eq!(status, Some(code), "{text}");
    }

    /// A container that works, and execs in it that do not.
    fn execs(&self) {
        let mut run = self.command(&["-d"], &["sleep", "1000"]);
        let output = run.output().expect("ctr can be started");
        assert!(output.status.success(), "{}", describe(&run, &output));
        let id = self.id();
        let fifos = self.daemon.path("fifos").to_string_lossy().into_owned();
        let exec = |flags: &[&str], word: &str, code: i32| {
            let base = ["task", "exec", "--fifo-dir", &fifos, "--exec-id", "e"];
            let mut command = self.ctr(&[&base[..], flags, &[id.as_str(), word]].concat());
            let output = command.output().expect("ctr can be started");
            assert_eq!(output.status.code(), Some(code), "{}", describe(&command, &output));
        };
        exec(&[], "/no/such/program", 1);
        exec(&["--log-uri", "binary:///no/such/logger"], "true", 1);
        exec(&["--cwd", "/no/such/dir"], "true", 1);
        exec(&[], "false", 1);
        exec(&[], "true", 0);
        for words in [&["task", "rm", "-f", &id][..], &["container", "rm", &id]] {
            let output = self.ctr(words).output().expect("ctr can be started");
            assert!(output.status.success(), "{}", describe(&self.ctr(words), &output));
        }
    }

    /// A root filesystem that cannot be mounted: no client's flag makes one.
    fn mount(&self) {
        let api = Api::connect(&self.daemon.socket());
        let (own, id) = (&self.daemon.namespace(), self.id());
        let runtime =
            containers::container::Runtime { name: "io.containerd.runc.v2".into(), options: None };
        let spec = prost_types::Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
            value: b"{\"ociVersion\":\"1.0.2\"}".to_vec(),
        };
        let container = containers::Container {
            id: id.clone(),
            runtime: Some(runtime),
            spec: Some(spec),
            ..Default::default()
        };
        let record = containers::CreateContainerRequest { container: Some(container) };
        let good = Mount { r#type: "tmpfs".into(), source: "tmpfs".into(), ..Default::default() };
        let options = vec!["lowerdir=/no/such/dir".into()];
        let bad = Mount { r#type: "overlay".into(), options, ..good.clone() };
        let create = tasks::CreateTaskRequest {
            container_id: id.clone(),
            rootfs: vec![good, bad],
            ..Default::default()
        };
        let delete = containers::DeleteContainerRequest { id };
        let call = |method, message: &dyn Fn(&str) -> Call| api.call(&message(method));
        let made = call("Create", &|m| Call::new(own, ("containers", m), "it", &record));
        made.expect("the record is right");
        let refused = call("Create", &|m| Call::new(own, ("tasks", m), "it", &create));
        let status = refused.expect_err("nothing can be mounted so");
        assert_ne!(status.code(), Code::Ok);
        assert!(status.message().contains("mount"), "{}", status.message());
        let gone = call("Delete", &|m| Call::new(own, ("containers", m), "it", &delete));
        gone.expect("it has no task");
    }

    /// A client that is killed on its way, somewhere. What it had made by then
    /// is removed at the end, by [`sweep`].
    fn abandoned(&self) {
        let dropped = self.daemon.path("dropped").to_string_lossy().into_owned();
        let mut command = self.ctr(&["run", "--rm", "--fifo-dir", &dropped, image::NAME]);
        command.args([&self.id(), "sleep", "1000"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut client = command.spawn().expect("ctr can be started");
        sleep(Duration::from_millis((self.number / FATES * 61 % 3000) as u64));
        client.kill().expect("it is ours");
        client.wait().expect("it is ours");
    }
}

/// Removes what clients that were killed have left to us: their tasks,
/// records, snapshots and FIFOs.
pub fn sweep(daemon: &Daemon) {
    let list = |words: &[&str]| -> Vec<String> {
        let text = daemon.ctr_ok(CTR, words);
        let names = text.lines().filter_map(|line| line.split_whitespace().next());
        names.filter(|name| name.starts_with('c')).map(str::to_owned).collect()
    };
    // What one of them had asked for may still be on its way.
    wait_for("what is left over is removed", 60, || {
        let mut clean = true;
        for (ls, rm) in [
            (&["task", "ls", "-q"][..], &["task", "rm", "-f"][..]),
            (&["container", "ls", "-q"], &["container", "rm"]),
            (&["snapshot", "ls"], &["snapshot", "rm"]),
        ] {
            for id in list(ls) {
                clean = false;
                let _ = daemon.ctr(CTR).args(rm).arg(id).output();
            }
        }
        clean.then_some(())
    });
    let dropped = daemon.path("dropped");
    if dropped.exists() {
        fs::remove_dir_all(dropped).expect("it is ours");
    }
}
