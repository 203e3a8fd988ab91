//! A standalone buildkitd whose worker is a daemon: containerd 2.1, which it
//! was made for, and davitd. The same assertions hold on both.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use davit_integration::daemon::{Daemon, Server};
use davit_integration::layout::{self, CHECK, Layout};
use davit_integration::registry::Registry;
use davit_integration::{Client, describe, leftovers, must, peers, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const CTR: Client = Client::Ctr21;
const BUILT: &str = "registry.test/davit/built:1";

/// A buildkitd on a daemon, and a registry that both know.
struct Buildkit {
    process: Child,
    daemon: Daemon,
    registry: Registry,
    /// The image that builds begin with.
    base: String,
}

impl Buildkit {
    fn start(server: Server) -> Self {
        let (daemon, registry) = (Daemon::start(server), Registry::start());
        let base = Layout::of(&layout::GZIP).push(&registry, "some/image:1");
        let config = format!("[registry.{:?}]\nhttp = true\n", registry.host());
        fs::write(daemon.path("buildkitd.toml"), config).unwrap();
        fs::create_dir(daemon.path("context")).unwrap();
        let log = fs::File::create(daemon.path("buildkitd.log")).unwrap();
        let process = Command::new(peers::forky("buildkitd"))
            .arg("--config")
            .arg(daemon.path("buildkitd.toml"))
            .arg("--root")
            .arg(daemon.path("buildkit"))
            .arg(format!("--addr=unix://{}", daemon.path("buildkit.sock").display()))
            .arg(format!("--containerd-worker-addr={}", daemon.socket().display()))
            .arg(format!("--containerd-worker-namespace={}", daemon.namespace()))
            .args(["--containerd-worker=true", "--containerd-worker-net=host"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let buildkit = Self { process, daemon, registry, base };
        wait_for("buildkitd answers", 60, || {
            let output = buildkit.buildctl(&["debug", "workers"]).output().ok()?;
            output.status.success().then_some(())
        });
        buildkit
    }

    fn path(&self, name: &str) -> PathBuf {
        self.daemon.path(name)
    }

    fn buildctl(&self, words: &[&str]) -> Command {
        let mut command = Command::new(peers::forky("buildctl"));
        command.arg(format!("--addr=unix://{}", self.path("buildkit.sock").display()));
        // Where it would look for logins.
        command.args(words).env("DOCKER_CONFIG", self.path("docker-config")).stdin(Stdio::null());
        command
    }

    /// Builds a Dockerfile into what `output` says; the log of the build.
    fn build(&self, dockerfile: &str, output: &str) -> (bool, String) {
        let context = self.path("context");
        fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        let mut command = self.buildctl(&["build", "--progress=plain"]);
        command.args(["--frontend", "dockerfile.v0", "--output", output]);
        for name in ["context", "dockerfile"] {
            command.arg("--local").arg(format!("{name}={}", context.display()));
        }
        let output = command.output().unwrap();
        (output.status.success(), describe(&command, &output))
    }

    fn builds(&self, dockerfile: &str, output: &str) -> String {
        let (done, told) = self.build(dockerfile, output);
        assert!(done, "{told}");
        told
    }

    fn ctr(&self, words: &[&str]) -> String {
        self.daemon.ctr_ok(CTR, words)
    }

    fn run(&self, reference: &str, words: &[&str]) -> String {
        self.ctr(&[&["run", "--rm", reference, "c1"], words].concat())
    }

    /// When builds are forgotten, the daemon's disk is as it was.
    fn nothing_left(&self) {
        must(&mut self.buildctl(&["prune", "--all"]));
        must(&mut self.buildctl(&["prune-histories"]));
        let blobs = self.path("root/io.containerd.content.v1.content/blobs/sha256");
        wait_for("content and snapshots are collected", 30, || {
            let content = self.ctr(&["content", "ls", "-q"]);
            let snapshots = self.ctr(&["snapshot", "ls"]);
            let clean = content.is_empty() && snapshots.lines().count() <= 1;
            (clean && leftovers::names_in(&blobs).is_empty()).then_some(())
        });
        assert_eq!(self.ctr(&["container", "ls", "-q"]), "");
        assert_eq!(self.ctr(&["task", "ls", "-q"]), "");
    }
}

impl Drop for Buildkit {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("buildkitd.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!("--- log of buildkitd\n{last}");
        }
        let _ = kill(Pid::from_raw(self.process.id().try_into().unwrap()), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

fn images_are_built_and_run(buildkit: &Buildkit) {
    fs::write(buildkit.path("context/file"), "from the context\n").unwrap();
    let dockerfile = format!(
        "FROM {} AS first\n\
         RUN echo made >/made && rm /data/link && id -u >/who\n\
         COPY file /copied/file\n\
         FROM first\n\
         RUN --mount=type=cache,target=/cache echo x >>/cache/x && wc -l </cache/x >/count\n\
         RUN --mount=type=bind,from=first,source=/copied,target=/bound cat /bound/file >/bound.txt\n\
         USER nobody\nENV NAME=value\nCMD [\"cat\", \"/made\"]\n",
        buildkit.base
    );
    let told = buildkit.builds(&dockerfile, &format!("type=image,name={BUILT}"));
    assert!(!told.contains("CACHED"), "{told}");
    assert_eq!(buildkit.run(BUILT, &[]), "made\n");
    let words = "cat /who /count /bound.txt /copied/file; id -un; echo $NAME; ls /data/link 2>&1";
    let printed = "0\n1\nfrom the context\nfrom the context\nnobody\nvalue\n\
                   ls: /data/link: No such file or directory\n";
    let said = buildkit.run(BUILT, &["sh", "-c", &format!("{words} || true")]);
    assert_eq!(said, printed);

    // Once more, and with a change in the middle.
    let told = buildkit.builds(&dockerfile, &format!("type=image,name={BUILT}"));
    assert!(told.contains("CACHED"), "{told}");
    fs::write(buildkit.path("context/file"), "changed\n").unwrap();
    buildkit.builds(&dockerfile, &format!("type=image,name={BUILT}"));
    assert_eq!(buildkit.run(BUILT, &["cat", "/bound.txt"]), "changed\n");
    buildkit.ctr(&["image", "rm", "--sync", BUILT]);
    buildkit.nothing_left();
}

fn failures_are_told_and_leave_nothing(buildkit: &Buildkit) {
    let dockerfile = format!("FROM {}\nRUN echo said before; exit 7\n", buildkit.base);
    let (done, told) = buildkit.build(&dockerfile, &format!("type=image,name={BUILT}"));
    assert!(!done && told.contains("said before") && told.contains("exit code: 7"), "{told}");
    let (done, told) = buildkit.build("FROM 127.0.0.1:1/none:1\n", "type=image,name=x");
    assert!(!done && told.contains("connection refused"), "{told}");
    buildkit.nothing_left();
}

fn images_are_pushed_and_written_out(buildkit: &Buildkit) {
    let pushed = buildkit.registry.reference("built/image:1");
    let dockerfile = format!("FROM {}\nRUN echo pushed >/made\n", buildkit.base);
    buildkit.builds(&dockerfile, &format!("type=image,name={pushed},push=true"));
    buildkit.ctr(&["image", "rm", "--sync", &pushed]);
    buildkit.nothing_left();
    buildkit.ctr(&["image", "pull", "--plain-http", &pushed]);
    assert_eq!(buildkit.run(&pushed, &["cat", "/made"]), "pushed\n");
    assert_eq!(buildkit.run(&pushed, CHECK), "whole\n");
    buildkit.ctr(&["image", "rm", "--sync", &pushed]);

    let archive = buildkit.path("built.tar");
    let output = format!("type=oci,name={BUILT},dest={}", archive.display());
    buildkit.builds(&dockerfile, &output);
    buildkit.ctr(&["image", "import", archive.to_str().unwrap()]);
    assert_eq!(buildkit.run(BUILT, &["cat", "/made"]), "pushed\n");
    buildkit.ctr(&["image", "rm", "--sync", BUILT]);
    buildkit.nothing_left();
}

macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_davitd {
            use super::{Buildkit, Server};
            $(#[test] fn $name() { super::$name(&Buildkit::start(Server::Davit)); })+
        }
        mod on_containerd {
            use super::{Buildkit, Server};
            $(#[test] fn $name() { super::$name(&Buildkit::start(Server::Containerd21)); })+
        }
    };
}

on_both!(
    images_are_built_and_run,
    failures_are_told_and_leave_nothing,
    images_are_pushed_and_written_out,
);
