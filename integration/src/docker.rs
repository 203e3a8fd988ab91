//! A private dockerd on a private daemon.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Daemon, Runtime, image, must, peers, wait_for};

/// Whose docker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Debian 12's 20.10.
    V20,
    /// forky's 28.
    V28,
}

impl Version {
    fn program(self, name: &str) -> PathBuf {
        match (self, name) {
            (Self::V20, "dockerd") => "/usr/sbin/dockerd".into(),
            (Self::V20, _) => "/usr/bin/docker".into(),
            (Self::V28, _) => peers::forky(name),
        }
    }
}

/// Where docker keeps its images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// In a directory of its own, as it always has.
    Docker,
    /// In the daemon below (`containerd-snapshotter`), which 28 can.
    Daemon,
}

/// A dockerd without a network of its own. Dropping it removes its containers
/// and ends it, then the daemon below.
pub struct Docker {
    version: Version,
    store: Store,
    process: Option<Child>,
    /// What it runs its containers on.
    pub daemon: Daemon,
}

impl Docker {
    /// Starts dockerd on `daemon`, with the default runtime `runc` or `crun`,
    /// and waits until it answers.
    pub fn start(version: Version, daemon: Daemon, runtime: &str) -> Self {
        Self::with_store(version, daemon, runtime, Store::Docker)
    }

    /// The same with the images where `store` says.
    pub fn with_store(version: Version, daemon: Daemon, runtime: &str, store: Store) -> Self {
        // docker 28 writes specs that are too new for Debian 12's crun.
        let crun = match version {
            Version::V20 => Runtime::Crun.path(),
            Version::V28 => Runtime::NewCrun.path(),
        };
        let config = serde_json::json!({
            "runtimes": {"crun": {"path": crun}},
            "default-runtime": runtime,
            "features": {"containerd-snapshotter": store == Store::Daemon},
            "storage-driver": if store == Store::Daemon { "overlayfs" } else { "overlay2" },
        });
        std::fs::write(daemon.path("dockerd.json"), config.to_string())
            .expect("the directory is writable");
        let plugins = daemon.path("docker-config/cli-plugins");
        std::fs::create_dir_all(&plugins).expect("the directory is writable");
        std::os::unix::fs::symlink(peers::forky("docker-buildx"), plugins.join("docker-buildx"))
            .expect("the directory is new");
        let mut docker = Self { version, store, process: None, daemon };
        docker.launch();
        docker
    }

    fn launch(&mut self) {
        let log = File::create(self.daemon.path("dockerd.log")).expect("the directory is writable");
        let path = |name: &str| self.daemon.path(name);
        let search = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", path("bin").display());
        let mut command = Command::new(self.version.program("dockerd"));
        command
            .arg("--containerd")
            .arg(self.daemon.socket())
            .arg(format!("--containerd-namespace={}", self.daemon.namespace()))
            .arg(format!("--containerd-plugins-namespace={}-plugins", self.daemon.namespace()))
            .arg("--data-root")
            .arg(path("docker"))
            .arg("--exec-root")
            .arg(path("docker-run"))
            .arg("--pidfile")
            .arg(path("dockerd.pid"))
            .arg("--config-file")
            .arg(path("dockerd.json"))
            .arg(format!("--host=unix://{}", path("docker.sock").display()))
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            .args(["--userland-proxy=false", "--debug"])
            .env("PATH", search)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be duplicated"))
            .stderr(log);
        if self.version == Version::V20 {
            command.arg("--ip-forward=false");
        }
        self.process = Some(command.spawn().expect("dockerd is installed"));
        wait_for("dockerd answers", 60, || {
            let exited = self.process.as_mut().and_then(|child| child.try_wait().ok()).flatten();
            assert!(exited.is_none(), "dockerd ended: {exited:?}\n{}", self.log());
            let info = self.command(&["info"]).output().ok()?;
            info.status.success().then_some(())
        });
    }

    /// Where its images are.
    pub fn store(&self) -> Store {
        self.store
    }

    /// What dockerd has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.daemon.path("dockerd.log")).unwrap_or_default()
    }

    /// `docker` with these words.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.version.program("docker"));
        command
            .arg(format!("--host=unix://{}", self.daemon.path("docker.sock").display()))
            .args(words)
            .env("DOCKER_CONFIG", self.daemon.path("docker-config"))
            .stdin(Stdio::null());
        command
    }

    /// Stdout of a `docker` that must succeed.
    pub fn ok(&self, words: &[&str]) -> String {
        must(&mut self.command(words))
    }

    /// Loads the busybox image.
    pub fn load_image(&self) {
        let archive = self.daemon.path("image.tar");
        image::write_archive(&archive).expect("an archive can be written");
        self.ok(&["load", "-i", &archive.to_string_lossy()]);
    }

    /// A field of `docker inspect`, by its Go template.
    pub fn inspect(&self, container: &str, template: &str) -> String {
        self.ok(&["inspect", "--format", template, container]).trim().to_owned()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- log of dockerd\n{}", tail.join("\n"));
        }
        let list = self.command(&["ps", "-aq"]).output();
        for id in list
            .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
            .unwrap_or_default()
            .lines()
        {
            let _ = self.command(&["rm", "-f", id]).output();
        }
        if let Some(mut process) = self.process.take() {
            let pid = Pid::from_raw(process.id().try_into().expect("a pid fits"));
            let _ = kill(pid, Signal::SIGTERM);
            for _ in 0..1000 {
                if matches!(process.try_wait(), Ok(Some(_))) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
