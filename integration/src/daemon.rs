//! A private daemon in a directory of its own, ended with its test.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::peers::{self, Client};
use crate::{image, must, wait_for};

/// Whose daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Debian 12's containerd 1.6.
    Containerd16,
    /// forky's containerd 2.1.
    Containerd21,
    /// Ours.
    Davit,
}

impl Server {
    fn path(self) -> PathBuf {
        match self {
            Self::Containerd16 => "/usr/bin/containerd".into(),
            Self::Containerd21 => peers::forky("containerd"),
            Self::Davit => peers::ours("davitd"),
        }
    }

    /// The daemon that `client` was released with.
    pub fn reference_of(client: Client) -> Self {
        match client {
            Client::Ctr16 => Self::Containerd16,
            Client::Ctr21 | Client::Ctr21Local => Self::Containerd21,
        }
    }

    /// How often a test may ask it for what containerd now and then spoils by a
    /// race of its own. davitd has one attempt.
    pub fn attempts(self) -> u32 {
        match self {
            Self::Containerd16 | Self::Containerd21 => 10,
            Self::Davit => 1,
        }
    }
}

/// Which shim `io.containerd.runc.v2` means to a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shim {
    /// Ours, under the Go shim's name.
    Ours,
    /// The Go shim of Debian 12.
    Go16,
    /// The Go shim of forky.
    Go21,
}

impl Shim {
    fn path(self) -> PathBuf {
        match self {
            Self::Ours => peers::ours("containerd-shim-davit-v2"),
            Self::Go16 => "/usr/bin/containerd-shim-runc-v2".into(),
            Self::Go21 => peers::forky("containerd-shim-runc-v2"),
        }
    }
}

/// A running daemon with root, state and socket in a directory of its own.
/// Dropping it ends it and everything that it started.
pub struct Daemon {
    server: Server,
    shim: Shim,
    process: Option<Child>,
    directory: TempDir,
    state: String,
    environment: Vec<(String, String)>,
}

impl Daemon {
    /// Starts `server` with the shim that goes with it: ours under ours,
    /// containerd's own under containerd.
    pub fn start(server: Server) -> Self {
        let shim = match server {
            Server::Containerd16 => Shim::Go16,
            Server::Containerd21 => Shim::Go21,
            Server::Davit => Shim::Ours,
        };
        Self::with_shim(server, shim)
    }

    /// Starts `server` with `shim` installed as `containerd-shim-runc-v2`.
    pub fn with_shim(server: Server, shim: Shim) -> Self {
        Self::with_state(server, shim, "state")
    }

    /// The same with the state directory at `state`, a path relative to the
    /// daemon's own directory.
    pub fn with_state(server: Server, shim: Shim, state: &str) -> Self {
        let mut daemon = Self::new(server, shim, state);
        daemon.launch();
        daemon
    }

    /// The same with small disks of their own, tmpfs with the options given,
    /// for some of the directories `root` and `state`.
    pub fn on_disks(server: Server, shim: Shim, disks: &[(&str, &str)]) -> Self {
        Self::on_prepared(server, shim, |daemon| {
            for (name, options) in disks {
                let at = daemon.path(name);
                fs::create_dir(&at).expect("a new directory is empty");
                let none = nix::mount::MsFlags::empty();
                nix::mount::mount(Some("tmpfs"), &at, Some("tmpfs"), none, Some(*options))
                    .expect("root may mount");
            }
        })
    }

    /// The same after `prepare` has been at the daemon's directory.
    pub fn on_prepared(server: Server, shim: Shim, prepare: impl FnOnce(&Self)) -> Self {
        let mut daemon = Self::new(server, shim, "state");
        prepare(&daemon);
        daemon.launch();
        daemon
    }

    /// The same with further tables in its configuration.
    pub fn with_config(server: Server, tables: &str) -> Self {
        let shim = if server == Server::Davit { Shim::Ours } else { Shim::Go21 };
        let mut daemon = Self::new(server, shim, "state");
        let config = format!("{}{tables}", daemon.config());
        fs::write(daemon.path("config.toml"), config).expect("the directory is writable");
        daemon.launch();
        daemon
    }

    /// The same with further variables in its environment.
    pub fn with_environment(server: Server, variables: &[(&str, &str)]) -> Self {
        let shim = if server == Server::Davit { Shim::Ours } else { Shim::Go21 };
        let mut daemon = Self::new(server, shim, "state");
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        daemon.environment = variables.collect();
        daemon.launch();
        daemon
    }

    /// Stops it, changes its configuration and launches it again.
    pub fn reconfigure(&mut self, change: impl FnOnce(String) -> String) {
        self.stop();
        let path = self.path("config.toml");
        let config = fs::read_to_string(&path).expect("it was written");
        fs::write(&path, change(config)).expect("the directory is writable");
        self.launch();
    }

    /// A daemon that has yet to be launched.
    fn new(server: Server, shim: Shim, state: &str) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("davit-it-")
            .rand_bytes(8)
            .tempdir()
            .expect("a temporary directory can be made");
        let bin = directory.path().join("bin");
        fs::create_dir(&bin).expect("a new directory is empty");
        let link = |name: &str, target: PathBuf| {
            std::os::unix::fs::symlink(target, bin.join(name)).expect("a new directory is empty");
        };
        link("containerd-shim-runc-v2", shim.path());
        // This machine's may be older than its kernel.
        link("criu", peers::forky("criu"));
        if peers::bin_dir().join("containerd-shim-davit-v2").exists() {
            link("containerd-shim-davit-v2", peers::ours("containerd-shim-davit-v2"));
        }
        let (process, state, environment) = (None, state.to_owned(), Vec::new());
        let daemon = Self { server, shim, process, directory, state, environment };
        fs::write(daemon.path("config.toml"), daemon.config()).expect("the directory is writable");
        daemon
    }

    /// What differs from the defaults: nothing that needs a network or CRI.
    fn config(&self) -> String {
        let root = self.path("root");
        let state = self.path(&self.state);
        let disabled = match self.server {
            Server::Containerd16 => {
                r#"["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]"#
            }
            Server::Containerd21 => {
                r#"["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]"#
            }
            Server::Davit => "[]",
        };
        format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = {disabled}\n\
             [grpc]\naddress = {:?}\n",
            self.socket()
        )
    }

    /// Starts the process; again, after [`Daemon::stop`] or [`Daemon::kill`].
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "{:?} runs already", self.server);
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.path("log"))
            .expect("the directory is writable");
        let search = format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            self.path("bin").display()
        );
        let process = Command::new(self.server.path())
            .arg("--config")
            .arg(self.path("config.toml"))
            .args(["--log-level", "debug"])
            .env("PATH", search)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be duplicated"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.server.path().display()));
        self.process = Some(process);
        wait_for(&format!("{:?} accepts connections", self.server), 30, || {
            let exited = self.process.as_mut().and_then(|child| child.try_wait().ok()).flatten();
            assert!(exited.is_none(), "{:?} ended: {exited:?}\n{}", self.server, self.log());
            UnixStream::connect(self.socket()).ok()
        });
    }

    /// Whose daemon this is.
    pub fn server(&self) -> Server {
        self.server
    }

    /// The shim it starts for `io.containerd.runc.v2`.
    pub fn shim(&self) -> Shim {
        self.shim
    }

    /// The daemon's process id.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the daemon runs").id()
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_none_or(|process| !matches!(process.try_wait(), Ok(None)))
    }

    /// A path in the daemon's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.path("daemon.sock")
    }

    /// The namespace of this daemon's containers. Cgroups and the runtime's
    /// state are named after it and shared by the whole machine, so every
    /// daemon has one of its own.
    pub fn namespace(&self) -> String {
        let name = self.directory.path().file_name().unwrap_or_default().to_string_lossy();
        name.to_string()
    }

    /// Where runc keeps what it knows of this daemon's containers, when a
    /// client does not say.
    pub fn runtime_state(&self) -> PathBuf {
        let base = match self.server {
            Server::Davit => self.path(&self.state),
            _ => "/run/containerd".into(),
        };
        base.join("runc").join(self.namespace())
    }

    /// Where the sockets of our shims are; with a deep state directory,
    /// elsewhere.
    pub fn sockets(&self) -> PathBuf {
        match self.server {
            Server::Davit => self.path(&self.state).join("s"),
            _ => "/run/containerd/s".into(),
        }
    }

    /// What the daemon has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Asks the daemon to end (SIGTERM) and waits until it has.
    pub fn stop(&mut self) {
        self.end(Signal::SIGTERM);
    }

    /// Ends the daemon at once (SIGKILL).
    pub fn kill(&mut self) {
        self.end(Signal::SIGKILL);
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut process) = self.process.take() else { return };
        let _ = kill(pid(&process), signal);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for("the daemon ends", 20, || process.try_wait().ok().flatten())
        }));
        if ended.is_err() {
            let _ = process.kill();
            let _ = process.wait();
            panic!("the daemon did not end after {signal}\n{}", self.log());
        }
    }

    /// `ctr` of the version wanted, on this daemon.
    pub fn ctr(&self, client: Client) -> Command {
        let mut command = Command::new(client.path());
        command.arg("--address").arg(self.socket()).env("CONTAINERD_NAMESPACE", self.namespace());
        command.stdin(Stdio::null());
        command
    }

    /// `davit` on this daemon.
    pub fn davit(&self, words: &[&str]) -> Command {
        let mut command = Command::new(peers::ours("davit"));
        command.env("DAVIT_ADDRESS", self.socket());
        command.env("CONTAINERD_NAMESPACE", self.namespace());
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Runs `ctr` with `words` and hands back its stdout.
    ///
    /// # Panics
    /// When it fails.
    pub fn ctr_ok(&self, client: Client, words: &[&str]) -> String {
        must(self.ctr(client).args(words))
    }

    /// Runs `export`, a `ctr image export` to `file`.
    ///
    /// containerd 2.1 now and then says that it is done before the client has
    /// the end of the archive, which then is missing.
    ///
    /// # Panics
    /// When it fails, or the archive has no end.
    pub fn export(&self, export: &mut Command, file: &Path) {
        for _ in 0..self.server.attempts() {
            must(export);
            let archive = fs::read(file).expect("the archive can be read");
            if archive.ends_with(&[0; 1024]) {
                return;
            }
        }
        panic!("{} has no end", file.display());
    }

    /// Imports the busybox image, under the name [`image::NAME`].
    pub fn import_image(&self, client: Client) {
        let archive = self.path("image.tar");
        image::write_archive(&archive).expect("an archive can be written");
        must(self.ctr(client).args(["image", "import"]).arg(&archive));
    }

    /// Ends every container of the daemon's namespace, as far as it can.
    fn remove_containers(&self) {
        let ctr = |words: &[&str]| {
            let output = self.ctr(Client::Ctr16).args(words).output();
            output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
        };
        for task in ctr(&["task", "ls", "-q"]).lines() {
            ctr(&["task", "rm", "-f", task]);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.remove_containers();
            if std::thread::panicking() {
                eprintln!("--- log of {:?}\n{}", self.server, tail(&self.log(), 60));
            }
        }
        if let Some(mut process) = self.process.take() {
            let _ = kill(pid(&process), Signal::SIGTERM);
            for _ in 0..500 {
                if matches!(process.try_wait(), Ok(Some(_))) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        end_shims_of(self.directory.path());
        unmount_below(self.directory.path());
    }
}

fn pid(process: &Child) -> Pid {
    Pid::from_raw(process.id().try_into().expect("a pid fits"))
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Ends shims whose working directory lies below `directory`.
fn end_shims_of(directory: &Path) {
    for (pid, cwd) in crate::leftovers::working_directories() {
        if cwd.starts_with(directory) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn unmount_below(directory: &Path) {
    for target in crate::leftovers::mounts_below(directory).into_iter().rev() {
        let _ = nix::mount::umount2(&target, nix::mount::MntFlags::MNT_DETACH);
    }
}
