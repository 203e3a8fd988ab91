//! What a shim's binary is run for: to start the shim, and to clean up after
//! it (containerd, `core/runtime/v2/binary.go`).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use davit_protocols::convert::ttrpc::any;
use davit_protocols::ttrpc::task::DeleteResponse;
use davit_types::{Any, ContainerId, Kind as _, Namespace};
use protobuf::Message as _;
use runc_client::SealedCopy;
use tokio::process::Command;

use crate::bootstrap::Endpoint;
use crate::bundle::Bundle;
use crate::command::{self, Output};
use crate::{Config, Deadline, Error, Exit, client, runtime_root, sealed};

/// The file in a bundle that names the binary.
const FILE: &str = "shim-binary-path";
/// The binary may answer in any of the dialects up to this one.
const MAX_VERSION: &str = "2";
/// Tells a shim where to bind its socket: ours, and those of containerd from
/// 2.3 on. Older ones always use `/run/containerd/s`.
const SOCKETS_VARIABLE: &str = "SHIM_SOCKET_DIR";

/// How long what is killed may take to die.
const STRAYS_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks at what has been killed.
const STRAYS_PAUSE: Duration = Duration::from_millis(2);
const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;

/// The binary of one task's shim, ready to be run.
pub(crate) struct Errands<'a> {
    pub config: &'a Config,
    pub namespace: &'a Namespace,
    pub id: &'a ContainerId,
    pub bundle: &'a Bundle,
    pub program: &'a Path,
}

impl Errands<'_> {
    /// Keeps the binary's path in the bundle, so that whoever finds the bundle
    /// can clean up.
    pub fn save(&self) -> Result<(), Error> {
        self.bundle.write(FILE, self.program.as_os_str().as_encoded_bytes())
    }

    /// Starts the shim, with a copy of the runtime where there is one; answers
    /// where it listens.
    pub async fn start(
        &self,
        options: Option<&Any>,
        runtime: Option<&SealedCopy>,
        deadline: Deadline,
    ) -> Result<Endpoint, Error> {
        let mut command = self.command();
        command.args(["-id", self.id.as_str()]);
        if self.config.debug {
            command.arg("-debug");
        }
        command
            .arg("start")
            .env(SOCKETS_VARIABLE, &self.config.sockets)
            .envs(runtime.map(|copy| (sealed::VARIABLE, sealed::told(copy))))
            .envs(self.config.shim_env.iter().filter_map(|pair| pair.split_once('=')));
        let input = options.map(encoded).unwrap_or_default();
        let deadline = deadline.at_most(self.config.limits.shim_start);
        let output = command::run(command, &input, deadline).await?;
        succeeded(&output)?;
        self.warn(&output, "the shim's start wrote to stderr");
        Endpoint::parse(&output.stdout)
    }

    /// Cleans up after a shim that is gone: what the runtime knows of the
    /// container is deleted, what is left of it is killed. Answers with the
    /// exit that the shim recorded.
    ///
    /// A bundle that somebody has taken away is made again, for the place of
    /// the runtime's state that the shim reads there.
    pub async fn delete(&self, deadline: Deadline) -> Result<Exit, Error> {
        if !self.bundle.path.is_dir() {
            self.bundle.create(None)?;
        }
        runtime_root::restore(self.bundle, self.program, &self.config.runtime_root)?;
        let mut command = self.command();
        command.args(["-id", self.id.as_str(), "-bundle"]).arg(&self.bundle.path);
        if self.config.debug {
            command.arg("-debug");
        }
        command.arg("delete");
        let output = command::run(command, &[], deadline).await?;
        succeeded(&output)?;
        self.warn(&output, "warnings while cleaning up dead shim");
        let answer = DeleteResponse::parse_from_bytes(&output.stdout)
            .map_err(|error| Error::Binary(format!("the shim's delete answered: {error}")))?;
        Ok(client::exit(answer))
    }

    fn command(&self) -> Command {
        let directory = self.bundle.path.is_dir().then_some(self.bundle.path.as_path());
        let mut command = command::prepare(self.program, directory);
        command
            .args(["-namespace", self.namespace.as_str(), "-address", &self.config.grpc_address])
            .arg("-publish-binary")
            .arg(&self.config.publish_binary)
            .env("GOMAXPROCS", "2")
            .env("MAX_SHIM_VERSION", MAX_VERSION)
            .env("TTRPC_ADDRESS", &self.config.ttrpc_address)
            .env("GRPC_ADDRESS", &self.config.grpc_address)
            .env("NAMESPACE", self.namespace.as_str());
        command
    }

    fn warn(&self, output: &Output, words: &str) {
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !stderr.trim().is_empty() {
            log::warn!(namespace = self.namespace.as_str(), container = self.id.as_str(),
                stderr = stderr.trim(); "{words}");
        }
    }
}

/// The binary that a bundle names.
pub(crate) fn program_of(bundle: &Bundle) -> Option<PathBuf> {
    bundle.read(FILE).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// What the binary of `runtime` says of itself, encoded.
pub(crate) async fn info(
    program: &Path,
    options: Option<&Any>,
    deadline: Deadline,
) -> Result<Vec<u8>, Error> {
    let mut command = command::prepare(program, None);
    command.arg("-info");
    let input = options.map(encoded).unwrap_or_default();
    let output = command::run(command, &input, deadline).await?;
    if !output.status.success() {
        return Err(Error::Binary(format!(
            "failed to run [{} -info]: {} (stderr: {:?})",
            program.display(),
            ending(&output),
            String::from_utf8_lossy(&output.stderr)
        )));
    }
    Ok(output.stdout)
}

fn encoded(options: &Any) -> Vec<u8> {
    any(options.clone()).write_to_bytes().expect("a message of two plain fields encodes")
}

fn succeeded(output: &Output) -> Result<(), Error> {
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Binary(format!("{}: {}", output.text(), ending(output))))
}

/// How a program ended, in Go's words.
fn ending(output: &Output) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (output.status.code(), output.status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal: {signal}"),
        (None, None) => output.status.to_string(),
    }
}

/// Kills every process whose working directory is the bundle: a shim that
/// could not be asked to go, and what it had run. Only for a bundle that is
/// being given up. Returns when none is left; one that does not die within a
/// limit is named in the log. Blocks.
pub(crate) fn kill_strays(bundle: &Path) {
    let start = Instant::now();
    // A process that is found may have a child that the same look has missed,
    // so the last two looks must find none.
    let mut clean = 0;
    while clean < 2 {
        let strays = processes().into_iter().filter(|pid| kill_if_inside(*pid, bundle)).count();
        clean = if strays == 0 { clean + 1 } else { 0 };
        if start.elapsed() > STRAYS_LIMIT {
            log::error!(bundle:? = bundle, count = strays; "processes in a bundle do not die");
            return;
        }
        if strays > 0 {
            std::thread::sleep(STRAYS_PAUSE);
        }
    }
}

/// Whether the process works in the bundle; it is killed then. What has died
/// works nowhere.
fn kill_if_inside(pid: u32, bundle: &Path) -> bool {
    // Opened first and looked at then, so that the process that is signalled
    // is the one that was looked at.
    let Ok(process) = davit_sys::process::PidFd::open(pid) else { return false };
    let inside = std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == bundle);
    if inside {
        log::warn!(pid = pid, bundle:? = bundle; "killing a process that was left in a bundle");
        if let Err(error) = process.send_signal(SIGKILL) {
            log::warn!(pid = pid, error:% = error.full_message(); "cannot kill it");
        }
    }
    inside
}

fn processes() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pid = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    entries.filter_map(Result::ok).filter_map(pid).filter(|p| *p != std::process::id()).collect()
}
