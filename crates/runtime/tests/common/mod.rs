//! What the tests share: a daemon's half of the world without the daemon. An
//! exchange, the intake for shims' events on a real ttrpc socket, a busybox
//! root filesystem, and a look at what is left at the end.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its part; tests panic")]

use std::cell::RefCell;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio as Streams};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use davit_events::Exchange;
use davit_protocols::convert::grpc::unpack;
use davit_protocols::event_field;
use davit_protocols::grpc::containerd::events::TaskExit;
use davit_protocols::ttrpc::events_service::ForwardRequest;
use davit_protocols::ttrpc::options::Options;
use davit_protocols::ttrpc::server::{self, Call, Status};
use davit_runtime::{Config, CreateOptions, Deadline, ExecOptions, Limits, Stdio, Tasks};
use davit_types::{Any, ContainerId, Envelope, Mount, Namespace};
use protobuf::Message as _;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::{Handle, Runtime};

/// Debian's shim.
pub const GO_SHIM: &str = "/usr/bin/containerd-shim-runc-v2";

/// No condition of a test takes this long on a machine that works.
const PATIENCE: Duration = Duration::from_secs(60);

/// Our own shim.
///
/// # Panics
/// When it has not been built: half of the tests would test nothing.
pub fn own_shim() -> PathBuf {
    let mut directory = std::env::current_exe().unwrap();
    directory.pop();
    directory.pop();
    let path = directory.join("containerd-shim-davit-v2");
    assert!(path.exists(), "{} is missing: run `cargo build -p davit-shim` first", path.display());
    path
}

/// Debian's shim behind one that speaks gRPC.
pub struct Front {
    _directory: TempDir,
    pub path: PathBuf,
}

impl Front {
    pub fn new() -> Self {
        let name = GRPC_FRONT;
        let examples = std::env::current_exe().unwrap().parent().unwrap().join("../examples");
        let program = examples.join(name).canonicalize().expect("cargo test builds the examples");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        symlink(program, &path).unwrap();
        fs::write(directory.path().join(format!("{name}.behind")), GO_SHIM).unwrap();
        Self { _directory: directory, path }
    }
}

pub fn id(name: &str) -> ContainerId {
    ContainerId::new(name).unwrap()
}

/// Makes a program of `text`. By a process of its own: what a test beside us
/// forks meanwhile would have the program open for writing, and nobody could
/// run it.
pub fn install(path: &Path, text: impl AsRef<[u8]>) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Streams::piped());
    let mut child = install.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_ref()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A caller who waits for as long as a test may take.
pub fn patient() -> Deadline {
    Deadline::after(PATIENCE)
}

/// The name of the shim that speaks gRPC in front of Debian's.
const GRPC_FRONT: &str = "containerd-shim-grpc-front-v1";

/// The options of a runtime like runc; they tell that a shim of another name is
/// for one.
pub fn runtime_options(binary: &str) -> Any {
    let options = Options { binary_name: binary.into(), ..Options::default() };
    Any { type_url: "containerd.runc.v1.Options".into(), value: options.write_to_bytes().unwrap() }
}

/// One daemon's worth of tasks, in a directory and a namespace of its own.
pub struct World {
    pub directory: TempDir,
    pub namespace: Namespace,
    pub shim: PathBuf,
    pub config: Config,
    pub daemon: Option<Daemon>,
    /// Every socket that a shim has ever answered with.
    sockets: Mutex<Vec<PathBuf>>,
}

/// What a restart of the daemon replaces.
pub struct Daemon {
    pub exchange: Arc<Exchange>,
    pub tasks: Tasks,
    /// Every event so far.
    pub events: Arc<Mutex<Vec<Arc<Envelope>>>>,
    /// Everything that the daemon does runs here, and ends with it.
    runtime: Option<Runtime>,
}

thread_local! {
    /// The runtime of the daemon that the test on this thread talks to.
    static DAEMON: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// Runs a test that starts and stops daemons: whatever it has them do runs on
/// their runtime, so that it ends with them, as in a process of their own.
pub fn with_daemons(test: impl Future<Output = ()>) {
    let runtime = Runtime::new().unwrap();
    let mut test = pin!(test);
    runtime.block_on(std::future::poll_fn(|context| {
        let daemon = DAEMON.with_borrow(Clone::clone);
        let _entered = daemon.as_ref().map(Handle::enter);
        test.as_mut().poll(context)
    }));
}

impl World {
    /// A world in which nothing runs yet.
    pub async fn new(shim: &Path) -> Self {
        // With RUST_LOG set, a failed test shows what the daemon had to say.
        let _ = env_logger::builder().format_timestamp_micros().is_test(true).try_init();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::tempdir().unwrap();
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let name = format!("t{}-{number}-{}", std::process::id(), time.subsec_micros());
        busybox(&directory.path().join("image"));
        let top = directory.path();
        let config = Config {
            state: top.join("state/io.containerd.runtime.v2.task"),
            root: top.join("root/io.containerd.runtime.v2.task"),
            sockets: top.join("state/s"),
            runtime_root: top.join("state/runc"),
            grpc_address: top.join("davit.sock").to_str().unwrap().into(),
            ttrpc_address: top.join("davit.sock.ttrpc").to_str().unwrap().into(),
            publish_binary: "/bin/false".into(),
            shim_env: vec![],
            debug: false,
            limits: Limits::default(),
        };
        let mut world = Self {
            namespace: Namespace::new(name).unwrap(),
            shim: shim.to_owned(),
            config,
            directory,
            daemon: None,
            sockets: Mutex::default(),
        };
        world.start().await;
        world
    }

    /// Starts the daemon, as after a boot or a crash.
    pub async fn start(&mut self) {
        let runtime = Runtime::new().unwrap();
        DAEMON.set(Some(runtime.handle().clone()));
        let _ = fs::remove_file(&self.config.ttrpc_address);
        let config = self.config.clone();
        let started = runtime.spawn(async move {
            let exchange = Arc::new(Exchange::new(event_field));
            let tasks = Tasks::new(config.clone(), exchange.clone()).unwrap();
            let events = Arc::new(Mutex::new(Vec::new()));
            let mut subscription = exchange.subscribe(&[]).unwrap();
            let seen = events.clone();
            tokio::spawn(async move {
                while let Some(Ok(event)) = subscription.next().await {
                    seen.lock().unwrap().push(event);
                }
            });
            let listener = UnixListener::bind(&config.ttrpc_address).unwrap();
            tokio::spawn(take_in(listener, exchange.clone(), tasks.clone()));
            tasks.load().await;
            Daemon { exchange, tasks, events, runtime: None }
        });
        let mut daemon = started.await.unwrap();
        // What follows is polled inside of the daemon's runtime.
        tokio::task::yield_now().await;
        daemon.runtime = Some(runtime);
        self.daemon = Some(daemon);
    }

    /// The daemon goes without a word, as if killed.
    pub async fn stop(&mut self) {
        log::debug!("the daemon is to stop");
        self.end_daemon();
        log::debug!("the daemon has stopped");
        DAEMON.set(None);
        // What follows is polled outside of the runtime that has ended.
        tokio::task::yield_now().await;
    }

    fn end_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        let runtime = daemon.runtime.take().unwrap();
        let ended = std::thread::spawn(move || runtime.shutdown_timeout(PATIENCE));
        ended.join().unwrap();
    }

    pub fn tasks(&self) -> &Tasks {
        &self.daemon.as_ref().unwrap().tasks
    }

    /// What a container that runs `script` is made of.
    pub fn options(&self, script: &str) -> CreateOptions {
        CreateOptions {
            spec: Some(spec(&self.namespace, script)),
            rootfs: vec![Mount {
                kind: "bind".into(),
                source: self.directory.path().join("image").to_str().unwrap().into(),
                target: String::new(),
                options: vec!["rbind".into(), "ro".into()],
            }],
            runtime: self.shim.to_str().unwrap().into(),
            task_options: self.shim.ends_with(GRPC_FRONT).then(|| runtime_options("runc")),
            ..Default::default()
        }
    }

    /// A file for a container's output, and the URI that names it.
    pub fn output(&self, name: &str) -> (PathBuf, Stdio) {
        let path = self.directory.path().join(name);
        let stdout = format!("file://{}", path.display());
        (path, Stdio { stdout: stdout.clone(), stderr: stdout, ..Default::default() })
    }

    pub async fn create(&self, name: &str, options: CreateOptions) -> u32 {
        let pid = self.tasks().create(&self.namespace, &id(name), options, patient()).await;
        let pid = pid.unwrap();
        self.remember_socket(name);
        pid
    }

    /// Creates and starts.
    pub async fn run(&self, name: &str, script: &str) -> u32 {
        let pid = self.create(name, self.options(script)).await;
        let started = self.tasks().start(&self.namespace, &id(name), None, patient()).await;
        assert_eq!(started.unwrap(), pid);
        pid
    }

    pub fn bundle(&self, name: &str) -> PathBuf {
        self.config.state.join(self.namespace.as_str()).join(name)
    }

    fn remember_socket(&self, name: &str) {
        let text = fs::read(self.bundle(name).join("bootstrap.json")).unwrap();
        let kept: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let address = kept["address"].as_str().unwrap();
        let path = address.trim_start_matches("unix://").into();
        self.sockets.lock().unwrap().push(path);
    }

    /// The pid of the process that has the bundle as its working directory.
    pub fn shim_pid(&self, name: &str) -> u32 {
        let bundle = self.bundle(name);
        let found: Vec<u32> = processes_in(&bundle);
        assert_eq!(found.len(), 1, "the shim alone works in {}", bundle.display());
        found[0]
    }

    /// The topics so far, in order.
    pub fn topics(&self) -> Vec<String> {
        let events = self.daemon.as_ref().unwrap().events.lock().unwrap();
        events.iter().map(|event| event.topic.clone()).collect()
    }

    /// The exits that were told so far: (process, status).
    pub fn exits(&self) -> Vec<(String, u32)> {
        let events = self.daemon.as_ref().unwrap().events.lock().unwrap();
        let exit = |event: &Arc<Envelope>| unpack::<TaskExit>(&event.event).ok();
        events.iter().filter_map(exit).map(|exit| (exit.id, exit.exit_status)).collect()
    }

    /// Nothing may be left of what ran here.
    pub async fn check_empty(&self) {
        let state = self.config.state.join(self.namespace.as_str());
        let root = self.config.root.join(self.namespace.as_str());
        let is_empty =
            |path: &Path| fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
        eventually("the end of all bundles", || is_empty(&state) && is_empty(&root)).await;
        let top = self.directory.path().to_owned();
        eventually("the end of all processes", || processes_in(&top).is_empty()).await;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(top.to_str().unwrap()), "mounts are left: {mounts}");
        let sockets = self.sockets.lock().unwrap().clone();
        eventually("the end of all sockets", || !sockets.iter().any(|path| path.exists())).await;
        for controller in fs::read_dir("/sys/fs/cgroup").unwrap() {
            // The runtime makes the parent and leaves it; what is removable
            // is empty.
            let cgroup = controller.unwrap().path().join(self.namespace.as_str());
            if cgroup.exists() {
                fs::remove_dir(&cgroup).unwrap();
            }
        }
        let runc = self.config.runtime_root.join(self.namespace.as_str());
        assert!(is_empty(&runc), "{} has something left", runc.display());
        let shared = Path::new("/run/containerd/runc").join(self.namespace.as_str());
        assert!(!shared.exists(), "{} was used", shared.display());
    }
}

impl Drop for World {
    /// Whatever happened, no process of ours goes on.
    fn drop(&mut self) {
        if self.daemon.is_some() {
            self.end_daemon();
        }
        for pid in processes_in(self.directory.path()) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid as i32),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

/// Serves the events' intake as the daemon does.
async fn take_in(listener: UnixListener, exchange: Arc<Exchange>, tasks: Tasks) {
    let handler = move |call: Call| {
        let (exchange, tasks) = (exchange.clone(), tasks.clone());
        async move {
            assert_eq!(call.method, "Forward");
            let request = ForwardRequest::parse_from_bytes(&call.payload).unwrap();
            let envelope = Envelope::try_from(request.envelope.unwrap()).unwrap();
            if tasks.observe(&envelope).await {
                exchange.forward(envelope).unwrap();
            }
            Ok::<_, Status>(Vec::new())
        }
    };
    server::serve(listener, handler).await.unwrap();
}

/// Every process whose working directory is at or below `path`.
pub fn processes_in(path: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let inside = |pid: &u32| {
        *pid != std::process::id()
            && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(path))
    };
    pids.filter(inside).collect()
}

fn busybox(path: &Path) {
    for directory in ["bin", "proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(path.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", path.join("bin/busybox")).unwrap();
    for name in ["sh", "sleep", "echo", "cat", "true", "ps"] {
        symlink("busybox", path.join("bin").join(name)).unwrap();
    }
}

/// A specification that runs `script` in a shell.
fn spec(namespace: &Namespace, script: &str) -> Any {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let cgroup = format!("/{namespace}/{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let json = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": process(script),
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]
        }
    });
    let type_url = "types.containerd.io/opencontainers/runtime-spec/1/Spec".into();
    Any { type_url, value: json.to_string().into_bytes() }
}

fn process(script: &str) -> serde_json::Value {
    serde_json::json!({
        "user": {"uid": 0, "gid": 0},
        "args": ["/bin/sh", "-c", script],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "noNewPrivileges": true
    })
}

/// An additional process that runs `script`.
pub fn exec_options(script: &str) -> ExecOptions {
    let type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process".into();
    let value = process(script).to_string().into_bytes();
    ExecOptions { spec: Some(Any { type_url, value }), stdio: Stdio::default() }
}
