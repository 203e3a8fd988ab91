//! A place to make containers in: a root file system of busybox, bundles, a
//! state directory, all removed at the end together with the containers.
#![allow(dead_code)] // Each test binary uses its part.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as ProcessStdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use runc_client::{ErrorKind, Runc, Status, Stdio, Stream};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A runtime, and a directory of our own.
pub struct Bed {
    pub name: &'static str,
    /// Whether it is from the tree of newer peers, CRIU with it.
    pub is_newer: bool,
    binary: PathBuf,
    pub runc: Runc,
    pub dir: TempDir,
    ids: std::cell::RefCell<Vec<String>>,
}

impl Bed {
    /// A bed for a runtime on `PATH`, or with `newer_` before its name for the
    /// later version in the tree that `DAVIT_FORKY` names.
    ///
    /// # Panics
    /// When the runtime is not there: it is not tested then.
    pub fn new(peer: &'static str) -> Self {
        let (name, binary) = match peer.strip_prefix("newer_") {
            Some(name) => (name, newer(name)),
            None => (peer, on_path(peer)),
        };
        mount_hugetlb();
        let dir = tempfile::Builder::new().prefix("runc-client-").tempdir().unwrap();
        make_rootfs(&dir.path().join("rootfs"));
        fs::create_dir(dir.path().join("tmp")).unwrap();
        let mut runc = Runc::new(&binary)
            .root(dir.path().join("state"))
            .temp_dir(dir.path().join("tmp"))
            .timeout(DEADLINE);
        if peer != name {
            // CRIU is of the same age.
            let own = binary.parent().unwrap().to_owned();
            let path = std::env::var_os("PATH").unwrap_or_default();
            let all = std::iter::once(own).chain(std::env::split_paths(&path));
            runc = runc.env("PATH", std::env::join_paths(all).unwrap());
        }
        if name == "runsc" {
            let panics = format!("--panic-log={}", dir.path().join("panics").display());
            runc = runc.extra_arg("--network=none").extra_arg("--ignore-cgroups").extra_arg(panics);
        }
        Self { name, is_newer: peer != name, binary, runc, dir, ids: Default::default() }
    }

    /// Whether a sandbox of runsc has crashed by itself.
    fn has_panicked(&self) -> bool {
        fs::metadata(self.path("panics")).is_ok_and(|log| log.len() > 0)
    }

    pub fn is(&self, name: &str) -> bool {
        self.name == name
    }

    /// A new container id.
    pub fn id(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("rct-{}-{}-{number}", self.name, std::process::id());
        self.ids.borrow_mut().push(id.clone());
        id
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A bundle whose process is `args`.
    pub fn bundle(&self, id: &str, args: &[&str]) -> PathBuf {
        self.bundle_of(id, config(id, &self.path("rootfs"), args))
    }

    /// A bundle with that `config.json`.
    pub fn bundle_of(&self, id: &str, config: Value) -> PathBuf {
        let bundle = self.path(&format!("bundle-{id}"));
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        bundle
    }

    pub fn config(&self, id: &str, args: &[&str]) -> Value {
        config(id, &self.path("rootfs"), args)
    }

    /// A running container that does nothing; its id.
    pub async fn running(&self) -> String {
        let id = self.id();
        let bundle = self.bundle(&id, &["sleep", "1000"]);
        self.runc.create(&id, &bundle, Default::default()).await.unwrap();
        self.runc.start(&id).await.unwrap();
        id
    }

    /// Waits until the container is `status`.
    pub async fn until(&self, id: &str, status: Status) {
        let start = Instant::now();
        loop {
            let now = self.runc.state(id).await.unwrap().status;
            if now == status {
                return;
            }
            assert!(start.elapsed() < DEADLINE, "{id} is {now:?}, not {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills and deletes a container.
    pub async fn remove(&self, id: &str) {
        self.runc.kill(id, 9, false).await.unwrap();
        self.until(id, Status::Stopped).await;
        self.delete(id).await;
    }

    /// Deletes a stopped container.
    pub async fn delete(&self, id: &str) {
        let start = Instant::now();
        loop {
            match self.runc.delete(id, false).await {
                // runsc can call it stopped and a moment later not.
                Err(error) if self.is("runsc") && error.kind() == ErrorKind::NotRunning => {
                    assert!(start.elapsed() < DEADLINE, "{error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                deleted => return deleted.unwrap(),
            }
        }
    }
}

/// How often a test is begun whose sandbox crashes. Debian's runsc, of 2024 and
/// built with a later Go, does that once in a few hundred containers.
const ATTEMPTS: usize = 5;

/// Runs a test on a bed of its own; again when runsc itself was what failed.
pub fn with_bed(peer: &'static str, test: impl AsyncFn(&Bed)) {
    for attempt in 1.. {
        let bed = Bed::new(peer);
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let run = AssertUnwindSafe(|| tokio.block_on(test(&bed)));
        match catch_unwind(run) {
            Ok(()) => return,
            Err(_) if attempt < ATTEMPTS && bed.has_panicked() => {}
            Err(failure) => resume_unwind(failure),
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for id in self.ids.borrow().iter() {
            let mut delete = Command::new(&self.binary);
            delete.arg("--root").arg(self.path("state")).args(["delete", "--force", id]);
            let _ = delete.stdout(ProcessStdio::null()).stderr(ProcessStdio::null()).status();
        }
    }
}

/// The OCI process `args`.
pub fn process(args: &[&str]) -> Value {
    let capabilities = ["CAP_KILL", "CAP_AUDIT_WRITE"];
    json!({
        "terminal": false,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
        "noNewPrivileges": true,
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
    })
}

pub fn process_json(args: &[&str]) -> Vec<u8> {
    process(args).to_string().into_bytes()
}

fn config(id: &str, rootfs: &Path, args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": process(args),
        "root": {"path": rootfs, "readonly": true},
        "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"},
            ],
        },
    })
}

fn on_path(name: &str) -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&paths).map(|dir| dir.join(name));
    found.find(|path| path.is_file()).unwrap_or_else(|| panic!("{name} is needed for these tests"))
}

/// A runtime of Debian forky.
fn newer(name: &str) -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/forky");
    let path = std::env::var_os("DAVIT_FORKY")
        .map_or_else(default, PathBuf::from)
        .join("peers")
        .join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `make test-setup`, or leave these tests out by `-- --skip newer_`",
        path.display()
    );
    path
}

fn make_rootfs(root: &Path) {
    for dir in ["bin", "proc", "dev", "etc", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in ["sh", "sleep", "true", "false", "cat", "echo", "stty", "tty", "env", "kill"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/not-executable"), "x").unwrap();
}

/// crun 1.8 wants every cgroup v1 controller that the kernel has.
fn mount_hugetlb() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let dir = Path::new("/sys/fs/cgroup/hugetlb");
        let known = fs::read_to_string("/proc/cgroups").unwrap_or_default().contains("hugetlb");
        if !known
            || dir.join("tasks").exists()
            || Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
        {
            return;
        }
        let _ = fs::create_dir(dir);
        let mount = ["-t", "cgroup", "-o", "hugetlb", "cgroup", "/sys/fs/cgroup/hugetlb"];
        let _ = Command::new("mount").args(mount).status();
    });
}

/// Streams with `stdout` on a pipe; reading it ends when nobody writes any more.
pub fn piped_stdout() -> (Stdio, File) {
    let (reader, writer) = std::io::pipe().unwrap();
    let stdio = Stdio { stdout: Stream::Fd(writer.into()), ..Default::default() };
    (stdio, File::from(OwnedFd::from(reader)))
}

/// Everything that comes out of `file`, without blocking the runtime's thread.
pub async fn read_all(mut file: File) -> String {
    let read = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        let mut buffer = [0; 1024];
        // A terminal ends with EIO.
        while let Ok(count) = file.read(&mut buffer)
            && count > 0
        {
            text.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    tokio::time::timeout(DEADLINE, read).await.expect("the other end is closed").unwrap()
}

/// The processes, zombies aside, whose command line holds `text`.
pub fn processes_with(text: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok());
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    })
    .collect()
}

/// The state letter of a process; `None` when it is gone.
pub fn process_state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "not within the deadline: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Directories of cgroups whose name is `id`.
pub fn cgroups_of(id: &str) -> Vec<PathBuf> {
    let top = fs::read_dir("/sys/fs/cgroup").map(|dir| dir.filter_map(|entry| entry.ok()));
    let controllers = top.into_iter().flatten().map(|entry| entry.path());
    let tops = controllers.chain([PathBuf::from("/sys/fs/cgroup")]);
    tops.map(|top| top.join(id)).filter(|dir| dir.is_dir()).collect()
}
