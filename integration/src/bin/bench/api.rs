//! The API alone beside the runtime binary alone: what daemon and shim add to
//! a container's life and to an exec.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use davit_integration::{Client, Daemon, Runtime, image, must};
use davit_protocols::grpc::containerd::runc::v1::Options;
use davit_protocols::grpc::containerd::services::snapshots::v1::MountsRequest;
use davit_protocols::grpc::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use davit_protocols::grpc::containerd::services::tasks::v1 as tasks;
use davit_protocols::grpc::containerd::types::Mount;
use davit_sys::process::PidFd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};
use tasks::tasks_client::TasksClient;
use tonic::transport::{Channel, Endpoint};

use crate::{Figure, Promise, median, milliseconds};

/// What a raw bundle runs: `true`, in the namespaces that `ctr run` gives.
fn spec(rootfs: &Path, words: &[&str], cgroup: &str) -> Value {
    let namespaces = ["pid", "ipc", "uts", "mount", "network"];
    json!({
        "ociVersion": "1.0.2",
        "process": process(words),
        "root": {"path": rootfs, "readonly": false},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "namespaces": namespaces.map(|kind| json!({"type": kind})),
            "cgroupsPath": cgroup,
        },
    })
}

fn process(words: &[&str]) -> Value {
    json!({"args": words, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}})
}

/// The runtime binary by itself.
struct Raw<'a> {
    runtime: Runtime,
    directory: &'a Path,
}

impl Raw<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(self.runtime.path());
        command.arg("--root").arg(self.directory.join("state"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn ok(&self, words: &[&str]) {
        let status = self.command().args(words).status().expect("the runtime can be started");
        assert!(status.success(), "{words:?}: {status}");
    }

    fn create(&self, id: &str, words: &[&str]) -> u32 {
        let rootfs = self.directory.join("rootfs");
        let spec = spec(&rootfs, words, &format!("/davit-bench/{id}"));
        let bundle = self.directory.join("bundle");
        fs::create_dir_all(&bundle).expect("the directory is writable");
        fs::write(bundle.join("config.json"), spec.to_string()).expect("the bundle is writable");
        let pid_file = bundle.join("pid");
        let (bundle, pid) = (bundle.to_string_lossy(), pid_file.to_string_lossy());
        self.ok(&["create", "--bundle", &bundle, "--pid-file", &pid, id]);
        fs::read_to_string(&pid_file).expect("the runtime wrote it").trim().parse().expect("a pid")
    }

    /// create, start, exit, delete.
    fn life(&self, id: &str) {
        let process = PidFd::open(self.create(id, &["true"])).expect("it was created");
        self.ok(&["start", id]);
        wait_for_exit(&process);
        self.ok(&["delete", "--force", id]);
    }
}

/// Waits for a process that is not our child.
fn wait_for_exit(process: &PidFd) {
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::NONE).expect("poll of one descriptor");
}

/// The daemon's API, with nothing of a client around it.
struct Api {
    tokio: tokio::runtime::Runtime,
    tasks: TasksClient<Channel>,
    namespace: String,
    options: Any,
    mounts: Vec<Mount>,
}

impl Api {
    /// Connects, and makes the container record that the lives below need.
    fn new(daemon: &Daemon, runtime: Runtime) -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let tokio = tokio.expect("a runtime can be built");
        let address = format!("unix://{}", daemon.socket().display());
        let channel = tokio.block_on(async {
            let endpoint = Endpoint::try_from(address).expect("a socket's path is an address");
            endpoint.connect().await.expect("the daemon listens")
        });
        let options = Options {
            binary_name: runtime.path().to_string_lossy().into_owned(),
            ..Options::default()
        };
        let options =
            Any { type_url: "containerd.runc.v1.Options".into(), value: options.encode_to_vec() };
        let tasks = TasksClient::new(channel.clone());
        let mut api =
            Self { tokio, tasks, namespace: daemon.namespace(), options, mounts: Vec::new() };
        api.mounts = api.snapshot(daemon, channel);
        api
    }

    /// Makes the container; its snapshot's mounts.
    fn snapshot(&self, daemon: &Daemon, channel: Channel) -> Vec<Mount> {
        daemon.ctr_ok(Client::Ctr16, &["container", "create", image::NAME, "bench-true", "true"]);
        let request = self
            .request(MountsRequest { snapshotter: "overlayfs".into(), key: "bench-true".into() });
        let mut snapshots = SnapshotsClient::new(channel);
        let response = self.tokio.block_on(snapshots.mounts(request)).expect("the snapshot exists");
        response.into_inner().mounts
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let namespace = self.namespace.parse().expect("a namespace is ASCII");
        request.metadata_mut().insert("containerd-namespace", namespace);
        request
    }

    fn create(&self, id: &str) {
        let request = self.request(tasks::CreateTaskRequest {
            container_id: id.into(),
            rootfs: self.mounts.clone(),
            options: Some(self.options.clone()),
            ..Default::default()
        });
        self.tokio.block_on(self.tasks.clone().create(request)).expect("create");
    }

    fn start(&self, id: &str, exec: &str) {
        let request =
            self.request(tasks::StartRequest { container_id: id.into(), exec_id: exec.into() });
        self.tokio.block_on(self.tasks.clone().start(request)).expect("start");
    }

    fn wait(&self, id: &str, exec: &str) {
        let request =
            self.request(tasks::WaitRequest { container_id: id.into(), exec_id: exec.into() });
        let response = self.tokio.block_on(self.tasks.clone().wait(request)).expect("wait");
        assert_eq!(response.into_inner().exit_status, 0, "{id} {exec}");
    }

    fn delete(&self, id: &str) {
        let request = self.request(tasks::DeleteTaskRequest { container_id: id.into() });
        self.tokio.block_on(self.tasks.clone().delete(request)).expect("delete");
    }

    /// create, start, exit, delete.
    fn life(&self, id: &str) {
        self.create(id);
        self.start(id, "");
        self.wait(id, "");
        self.delete(id);
    }

    /// exec, start, exit, delete of `true`.
    fn exec(&self, id: &str, exec: &str) {
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process(&["true"]).to_string().into_bytes(),
        };
        let request = self.request(tasks::ExecProcessRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            spec: Some(spec),
            ..Default::default()
        });
        self.tokio.block_on(self.tasks.clone().exec(request)).expect("exec");
        self.start(id, exec);
        self.wait(id, exec);
        let request = self
            .request(tasks::DeleteProcessRequest { container_id: id.into(), exec_id: exec.into() });
        self.tokio.block_on(self.tasks.clone().delete_process(request)).expect("delete process");
    }
}

/// What daemon and shim add to the runtime binary, in milliseconds.
pub fn above_runtime(daemon: &Daemon, runtime: Runtime, rounds: usize) -> [Figure; 2] {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    image::write_rootfs(&directory.path().join("rootfs")).expect("a root filesystem");
    let raw = Raw { runtime, directory: directory.path() };
    let api = Api::new(daemon, runtime);

    let mut lives = (Vec::new(), Vec::new());
    for round in 0..rounds + 2 {
        let there = milliseconds(|| raw.life(&format!("raw-{round}")));
        let here = milliseconds(|| api.life("bench-true"));
        if round >= 2 {
            lives.0.push(there);
            lives.1.push(here);
        }
    }

    daemon.ctr_ok(Client::Ctr16, &["container", "rm", "bench-true"]);
    let execs = execs(daemon, runtime, &raw, &api, rounds);
    let name = format!("{runtime:?}").to_lowercase();
    let figure = |what: &str, (theirs, ours): (Vec<f64>, Vec<f64>), limit| Figure {
        what: format!("{what} by the API, beside {name} alone"),
        reference: median(theirs),
        ours: median(ours),
        unit: "ms",
        promise: Promise::Above(limit),
    };
    [figure("create + start + exit + delete", lives, 8.0), figure("exec", execs, 5.0)]
}

/// `exec … true` in a container that sleeps, both ways in turns.
fn execs(
    daemon: &Daemon,
    runtime: Runtime,
    raw: &Raw,
    api: &Api,
    rounds: usize,
) -> (Vec<f64>, Vec<f64>) {
    let binary = runtime.path().to_string_lossy().into_owned();
    let run = ["run", "-d", "--runc-binary", &binary, image::NAME, "bench-host", "sleep", "1000"];
    daemon.ctr_ok(Client::Ctr16, &run);
    let host = PidFd::open(raw.create("raw-host", &["sleep", "1000"])).expect("it runs");
    raw.ok(&["start", "raw-host"]);
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for round in 0..rounds + 2 {
        let there = milliseconds(|| raw.ok(&["exec", "raw-host", "/bin/true"]));
        let here = milliseconds(|| api.exec("bench-host", &format!("exec-{round}")));
        if round >= 2 {
            theirs.push(there);
            ours.push(here);
        }
    }
    raw.ok(&["kill", "raw-host", "KILL"]);
    wait_for_exit(&host);
    raw.ok(&["delete", "--force", "raw-host"]);
    must(daemon.ctr(Client::Ctr16).args(["task", "rm", "-f", "bench-host"]));
    must(daemon.ctr(Client::Ctr16).args(["container", "rm", "bench-host"]));
    (theirs, ours)
}
