//! Drives the real `containerd-shim-davit-v2` over ttrpc, with a real runtime
//! and a root filesystem made of busybox; takes the daemon's place as the one
//! who hears events.

#![allow(dead_code, reason = "every test file uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use davit_protocols::ttrpc::client::{Client, ClientError};
use davit_protocols::ttrpc::events_service::ForwardRequest;
use davit_protocols::ttrpc::server::{self, Metadata};
use davit_protocols::ttrpc::{events, options, task};
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use protobuf::{Message, MessageField};
use serde_json::{Value, json};

/// The program under test.
pub const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-davit-v2");
/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Waits until `condition` yields something.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A name nobody else uses.
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Makes a program of `text`. By a process of its own: what a test beside us
/// forks meanwhile would have the program open for writing, and nobody could
/// run it.
pub fn install(path: &Path, text: impl AsRef<[u8]>) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut child = install.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_ref()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// A root filesystem of busybox, made once for all tests.
pub fn rootfs() -> PathBuf {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("busybox-rootfs");
    if made.is_dir() {
        return made;
    }
    let making = made.with_file_name(unique("busybox-rootfs"));
    for dir in ["bin", "dev", "etc", "proc", "sys", "tmp", "mnt"] {
        fs::create_dir_all(making.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", making.join("bin/busybox")).unwrap();
    for applet in [
        "cat", "dd", "echo", "env", "false", "head", "id", "kill", "ls", "mkdir", "ps", "rm",
        "seq", "sh", "sleep", "stty", "tail", "test", "touch", "tr", "true", "tty", "usleep", "wc",
    ] {
        std::os::unix::fs::symlink("busybox", making.join("bin").join(applet)).unwrap();
    }
    fs::write(making.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    // Somebody else may have been faster.
    if fs::rename(&making, &made).is_err() {
        let _ = fs::remove_dir_all(&making);
    }
    made
}

/// A bundle: what a container is made from.
pub struct Bundle {
    /// The container's id.
    pub id: String,
    /// Its directory, in a directory of its own.
    pub path: PathBuf,
    /// `config.json`, written by [`Bundle::write`].
    pub config: Value,
}

impl Bundle {
    /// A bundle whose container runs `args`.
    pub fn new(dir: &Path, name: &str, args: &[&str]) -> Self {
        let id = unique(name);
        let path = dir.join(&id);
        fs::create_dir_all(&path).unwrap();
        let capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SYS_ADMIN"];
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "env": ["PATH=/bin", "TERM=dumb"],
                "cwd": "/",
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
            },
            "root": {"path": rootfs(), "readonly": false},
            "hostname": "box",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": format!("/davit-shim-test/{id}"),
                "resources": {"devices": [{"allow": true, "access": "rwm"}]},
                "namespaces": [
                    {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                ],
            },
        });
        let bundle = Self { id, path, config };
        bundle.write();
        bundle
    }

    /// Changes `config.json`.
    pub fn with(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.config);
        self.write();
        self
    }

    /// Shares the host's pid namespace.
    pub fn with_host_pids(self) -> Self {
        self.with(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "pid");
        })
    }

    /// Writes `config.json`.
    pub fn write(&self) {
        fs::write(self.path.join("config.json"), self.config.to_string()).unwrap();
    }

    /// The request that creates it, with no streams.
    pub fn create(&self, runtime: &str) -> task::CreateTaskRequest {
        task::CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.path.to_str().unwrap().into(),
            options: MessageField::some(runc_options(runtime)),
            ..Default::default()
        }
    }
}

/// `containerd.runc.v1.Options` that name the runtime.
pub fn runc_options(runtime: &str) -> Any {
    let options = options::Options { binary_name: runtime.into(), ..Default::default() };
    any("containerd.runc.v1.Options", &options)
}

/// A packed message.
pub fn any(type_url: &str, message: &impl Message) -> Any {
    Any {
        type_url: type_url.into(),
        value: message.write_to_bytes().unwrap(),
        ..Default::default()
    }
}

/// An event as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// `/tasks/exit`
    pub topic: String,
    /// `containerd.events.TaskExit`
    pub type_url: String,
    /// The message.
    pub value: Vec<u8>,
}

impl Heard {
    /// The message, decoded.
    pub fn message<M: Message>(&self) -> M {
        M::parse_from_bytes(&self.value).unwrap()
    }
}

/// A directory for a test with the daemon's part: who listens for events.
pub struct Daemon {
    /// The test's directory.
    pub dir: tempfile::TempDir,
    /// The namespace of all its containers.
    pub namespace: String,
    /// Async things run here.
    pub tokio: tokio::runtime::Runtime,
    events: Arc<Mutex<Vec<Heard>>>,
}

impl Daemon {
    /// Listens for events.
    pub fn new() -> Self {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let events: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let heard = events.clone();
        let socket = dir.path().join("events.sock");
        tokio.block_on(async {
            let listener = tokio::net::UnixListener::bind(&socket).unwrap();
            tokio::spawn(server::serve(listener, move |call: server::Call| {
                let heard = heard.clone();
                async move {
                    assert_eq!(call.service, "containerd.services.events.ttrpc.v1.Events");
                    assert_eq!(call.method, "Forward");
                    let request = ForwardRequest::parse_from_bytes(&call.payload).unwrap();
                    let envelope = request.envelope.unwrap();
                    let event = envelope.event.unwrap();
                    let (type_url, value) = (event.type_url, event.value);
                    heard.lock().unwrap().push(Heard { topic: envelope.topic, type_url, value });
                    Ok(Empty::new().write_to_bytes().unwrap())
                }
            }));
        });
        Self { dir, namespace: unique("ns"), tokio, events }
    }

    /// A bundle in the test's directory.
    pub fn bundle(&self, args: &[&str]) -> Bundle {
        Bundle::new(self.dir.path(), "c", args)
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Heard> {
        self.events.lock().unwrap().clone()
    }

    /// The topics of all events so far, without `/tasks/`.
    pub fn topics(&self) -> Vec<String> {
        self.events().iter().map(|e| e.topic.trim_start_matches("/tasks/").to_owned()).collect()
    }

    /// Waits until the topics of all events are these.
    pub fn expect_topics(&self, wanted: &[&str]) {
        let deadline = Instant::now() + LIMIT;
        while self.topics().len() < wanted.len() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        // One too many would come right behind.
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(self.topics(), wanted);
    }

    /// Waits for the exit event of a process; `id` is the container's or the
    /// exec's.
    pub fn exit_of(&self, id: &str) -> events::TaskExit {
        wait_for(&format!("exit of {id}"), || {
            self.events()
                .iter()
                .filter(|event| event.topic == "/tasks/exit")
                .map(Heard::message::<events::TaskExit>)
                .find(|exit| exit.id == id)
        })
    }

    /// The program's command line for this daemon, in a bundle.
    pub fn shim_command(&self, program: &str, bundle: &Bundle, action: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args(["-namespace", &self.namespace, "-id", &bundle.id])
            .arg("-address")
            .arg(self.dir.path().join("containerd.sock"))
            .args(["-publish-binary", "/bin/false", action])
            .current_dir(&bundle.path)
            .env("TTRPC_ADDRESS", self.dir.path().join("events.sock"))
            .env("SHIM_SOCKET_DIR", self.dir.path().join("s"))
            .env_remove("MAX_SHIM_VERSION");
        command
    }

    /// Starts a shim, as containerd 1.6 does, and connects to it.
    pub fn start(&self, bundle: &Bundle) -> Shim<'_> {
        self.start_with(SHIM, bundle)
    }

    /// The same with another name for the program.
    pub fn start_with(&self, program: &str, bundle: &Bundle) -> Shim<'_> {
        let output = self.shim_command(program, bundle, "start").stdin(Stdio::null()).output();
        let address = answer(&output.unwrap());
        self.connect(&address, bundle)
    }

    /// Connects to a shim at a bare address.
    pub fn connect(&self, address: &str, bundle: &Bundle) -> Shim<'_> {
        let path = PathBuf::from(address.strip_prefix("unix://").unwrap());
        let client = self.tokio.block_on(Client::connect(&path)).unwrap();
        let mut shim = Shim { daemon: self, client, pid: 0, socket: path, bundles: Vec::new() };
        let request = task::ConnectRequest { id: bundle.id.clone(), ..Default::default() };
        let connected: task::ConnectResponse = shim.call("Connect", &request).unwrap();
        shim.pid = connected.shim_pid;
        shim.bundles.push((bundle.id.clone(), bundle.path.clone()));
        shim
    }
}

/// What `start` has answered; nothing may be on stderr.
pub fn answer(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A running shim. Dropping it ends it and what it has left.
pub struct Shim<'a> {
    /// Whose it is.
    pub daemon: &'a Daemon,
    /// The connection.
    pub client: Client,
    /// The process.
    pub pid: u32,
    /// Its socket.
    pub socket: PathBuf,
    bundles: Vec<(String, PathBuf)>,
}

/// What a call fails with: the text.
pub type Called<T> = Result<T, String>;

impl Shim<'_> {
    /// Calls a method of the task service, version 2.
    pub fn call<Q: Message, A: Message>(&self, method: &str, request: &Q) -> Called<A> {
        self.call_service("containerd.task.v2.Task", method, request)
    }

    /// Calls a method of any service.
    pub fn call_service<Q: Message, A: Message>(
        &self,
        service: &str,
        method: &str,
        request: &Q,
    ) -> Called<A> {
        let metadata =
            Metadata(vec![("containerd-namespace-ttrpc".into(), self.daemon.namespace.clone())]);
        let call = self.client.call(service, method, request, &metadata, Some(LIMIT));
        self.daemon.tokio.block_on(call).map_err(|error| text_of(&error))
    }

    /// Creates a container; its pid.
    pub fn create(&mut self, request: &task::CreateTaskRequest) -> Called<u32> {
        self.bundles.push((request.id.clone(), request.bundle.clone().into()));
        self.call("Create", request).map(|response: task::CreateTaskResponse| response.pid)
    }

    /// Starts a process; its pid.
    pub fn start(&self, id: &str, exec_id: &str) -> Called<u32> {
        let request =
            task::StartRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() };
        self.call("Start", &request).map(|response: task::StartResponse| response.pid)
    }

    /// Waits for an exit.
    pub fn wait(&self, id: &str, exec_id: &str) -> Called<task::WaitResponse> {
        let request =
            task::WaitRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() };
        self.call("Wait", &request)
    }

    /// Deletes a process.
    pub fn delete(&self, id: &str, exec_id: &str) -> Called<task::DeleteResponse> {
        let request =
            task::DeleteRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() };
        self.call("Delete", &request)
    }

    /// The state of a process.
    pub fn state(&self, id: &str, exec_id: &str) -> Called<task::StateResponse> {
        let request =
            task::StateRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() };
        self.call("State", &request)
    }

    /// Signals a process.
    pub fn kill(&self, id: &str, exec_id: &str, signal: u32, all: bool) -> Called<()> {
        let request = task::KillRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            signal,
            all,
            ..Default::default()
        };
        self.call("Kill", &request).map(|_: Empty| ())
    }

    /// Adds an exec.
    pub fn exec(&self, request: &task::ExecProcessRequest) -> Called<()> {
        self.call("Exec", request).map(|_: Empty| ())
    }

    /// Closes standard input.
    pub fn close_io(&self, id: &str, exec_id: &str) -> Called<()> {
        let request = task::CloseIORequest {
            id: id.into(),
            exec_id: exec_id.into(),
            stdin: true,
            ..Default::default()
        };
        self.call("CloseIO", &request).map(|_: Empty| ())
    }

    /// Calls that carry an id only: Pause, Resume.
    pub fn pause(&self, id: &str, pause: bool) -> Called<()> {
        let request = task::PauseRequest { id: id.into(), ..Default::default() };
        self.call(if pause { "Pause" } else { "Resume" }, &request).map(|_: Empty| ())
    }

    /// Asks it to end.
    pub fn shutdown(&self, id: &str) -> Called<()> {
        let request = task::ShutdownRequest { id: id.into(), ..Default::default() };
        self.call("Shutdown", &request).map(|_: Empty| ())
    }

    /// Creates and starts a container.
    pub fn run(&mut self, request: &task::CreateTaskRequest) -> u32 {
        let created = self.create(request).unwrap();
        let started = self.start(&request.id, "").unwrap();
        assert_eq!(created, started);
        created
    }

    /// Kills what is left of a container, waits for it and deletes it.
    pub fn end(&self, id: &str) {
        let _ = self.kill(id, "", 9, true);
        self.wait(id, "").unwrap();
        self.delete(id, "").unwrap();
    }

    /// Open descriptors of the shim.
    pub fn descriptors(&self) -> BTreeMap<u32, String> {
        let dir = format!("/proc/{}/fd", self.pid);
        let entries = fs::read_dir(dir).unwrap().filter_map(Result::ok);
        entries
            .filter_map(|entry| {
                let fd = entry.file_name().to_str()?.parse().ok()?;
                let target = fs::read_link(entry.path()).ok()?;
                Some((fd, target.to_string_lossy().into_owned()))
            })
            .collect()
    }

    /// Processes whose parent it is.
    pub fn children(&self) -> Vec<String> {
        let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid));
        list.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }

    /// Kills it, as nobody should.
    pub fn sigkill(&self) {
        must(Command::new("kill").args(["-9", &self.pid.to_string()]));
        wait_for("the shim's death", || (!is_alive(self.pid)).then_some(()));
    }
}

impl Drop for Shim<'_> {
    fn drop(&mut self) {
        if is_alive(self.pid) {
            let _ = Command::new("kill").args(["-9", &self.pid.to_string()]).output();
        }
        for (id, path) in &self.bundles {
            let bundle = Bundle { id: id.clone(), path: path.clone(), config: Value::Null };
            let _ = self.daemon.shim_command(SHIM, &bundle, "delete").output();
        }
    }
}

fn text_of(error: &ClientError) -> String {
    match error {
        ClientError::Status(status) => {
            format!("{:?}: {}", davit_types::Kind::kind(error), status)
        }
        other => format!("{other:?}"),
    }
}

/// Whether a process exists and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Runs a command that has to succeed; its output.
pub fn must(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An exec that runs `args`, with no streams.
pub fn exec(id: &str, exec_id: &str, args: &[&str]) -> task::ExecProcessRequest {
    let process = json!({
        "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/", "env": ["PATH=/bin", "TERM=dumb"],
    });
    task::ExecProcessRequest {
        id: id.into(),
        exec_id: exec_id.into(),
        spec: MessageField::some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process.to_string().into_bytes(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A FIFO that a client has made.
pub fn fifo(daemon: &Daemon, name: &str) -> PathBuf {
    let path = daemon.dir.path().join(unique(name));
    davit_sys::fifo::make(&path, 0o700).unwrap();
    path
}

/// A client that reads a FIFO, or any file, to its end.
pub struct Reader(std::sync::mpsc::Receiver<Vec<u8>>, Vec<u8>);

impl Reader {
    /// Opens it on a thread, waiting for a writer, as clients do.
    pub fn open(path: &Path) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        let path = path.to_owned();
        std::thread::spawn(move || {
            let mut file = fs::File::open(path).unwrap();
            let mut buffer = [0; 65536];
            while let Ok(count) = file.read(&mut buffer) {
                let sent = sender.send(buffer[..count].to_vec());
                if count == 0 || sent.is_err() {
                    break;
                }
            }
        });
        Self(receiver, Vec::new())
    }

    /// Everything up to the end.
    pub fn read_to_end(mut self) -> String {
        loop {
            let chunk = self.0.recv_timeout(LIMIT).expect("no end of output");
            if chunk.is_empty() {
                return String::from_utf8_lossy(&self.1).into_owned();
            }
            self.1.extend(chunk);
        }
    }

    /// Reads until what was read has `text` in it.
    pub fn until(&mut self, text: &str) -> String {
        loop {
            let so_far = String::from_utf8_lossy(&self.1).into_owned();
            if so_far.contains(text) {
                return so_far;
            }
            let chunk = self.0.recv_timeout(LIMIT);
            let chunk = chunk.unwrap_or_else(|_| panic!("no {text:?} in {so_far:?}"));
            assert!(!chunk.is_empty(), "the end, but no {text:?} in {so_far:?}");
            self.1.extend(chunk);
        }
    }
}

/// Opens a FIFO for writing, waiting for a reader.
pub fn writer(path: &Path) -> fs::File {
    fs::OpenOptions::new().write(true).open(path).unwrap()
}

/// Writes text.
pub fn write(mut file: &fs::File, text: &str) {
    file.write_all(text.as_bytes()).unwrap();
}

/// A program of the tree of newer peers.
///
/// # Panics
/// When there is no such tree: what needs it is not tested then.
pub fn forky(name: &str) -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/forky");
    let tree = std::env::var_os("DAVIT_FORKY").map_or_else(default, PathBuf::from);
    let path = tree.join("peers").join(name);
    let path = path.canonicalize().unwrap_or(path);
    assert!(path.is_file(), "{} is missing: run `make test-setup` first", path.display());
    path
}

/// Whether a runtime is there and works here.
pub fn has(runtime: &str) -> bool {
    if runtime == "crun" {
        // crun refuses a hierarchy of version 1 without hugetlb.
        let hugetlb = Path::new("/sys/fs/cgroup/hugetlb");
        if Path::new("/sys/fs/cgroup/memory").is_dir() && !hugetlb.join("tasks").exists() {
            let _ = fs::create_dir_all(hugetlb);
            let _ = Command::new("mount")
                .args(["-t", "cgroup", "-o", "hugetlb", "cgroup", "/sys/fs/cgroup/hugetlb"])
                .output();
        }
    }
    Command::new(runtime).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Runs each function as a test, with runc and with crun.
#[macro_export]
macro_rules! with_each_runtime {
    ($($name:ident),* $(,)?) => {
        mod runc { $(#[test] fn $name() { super::$name("runc"); })* }
        mod crun { $(#[test] fn $name() {
            assert!($crate::runc_harness::has("crun"), "crun is needed");
            super::$name("crun");
        })* }
    };
}
