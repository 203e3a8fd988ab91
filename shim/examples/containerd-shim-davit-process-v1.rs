//! A complete shim that has nothing to do with containers: it runs the
//! process that a bundle's `config.json` names, on the host, as it is. Only
//! `process.args`, `process.env` and `process.cwd` are looked at; root
//! filesystem, namespaces and limits are not.
//!
//! Built and put on the daemon's PATH under its own name it is used by
//! `ctr run --runtime io.containerd.davit-process.v1 …`. It has standard
//! streams on FIFOs, exec, kill, wait, pids, stats, exit statuses that
//! survive it, and events; no terminals.
//!
//! It shows how little a runtime author writes; `tests/process_shim.rs` runs
//! it under containerd.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use davit_protocols::ttrpc::metrics::v1 as metrics;
use davit_protocols::ttrpc::{events, process};
use davit_shim::cli::Invocation;
use davit_shim::{AfterShutdown, Cleaned, Context, Exit, Failure, Reaper, Shim, task, timestamp};
use davit_sys::fifo;
use davit_sys::process::PidFd;
use davit_types::ErrorKind;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

fn main() -> ExitCode {
    davit_shim::run::<ProcessShim>()
}

/// The shim; what tasks of its own need is behind the `Rc`.
struct ProcessShim(Rc<Processes>);

struct Processes {
    context: Context,
    /// By container id and exec id; the init's exec id is empty.
    all: RefCell<HashMap<(String, String), Rc<Process>>>,
}

/// A process that was created, and perhaps started and ended.
struct Process {
    container: String,
    exec: String,
    bundle: PathBuf,
    spec: Spec,
    stdin: String,
    stdout: String,
    stderr: String,
    running: RefCell<Option<Running>>,
    exit: watch::Sender<Option<Exit>>,
}

/// What is held while the process runs.
struct Running {
    pid: PidFd,
    /// Keeps standard input from ending when a client detaches.
    stdin: Option<OwnedFd>,
    /// Keep the process from dying of a client that has gone.
    _outputs: Vec<OwnedFd>,
}

/// The parts of an OCI process that we use.
#[derive(Deserialize)]
struct Spec {
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    cwd: PathBuf,
    #[serde(default)]
    terminal: bool,
}

/// What is on disk about the init, for `delete` after this shim's death.
#[derive(Serialize, Deserialize)]
struct Record {
    pid: u32,
    /// When the process started, by the kernel's clock: pids come again.
    started: String,
    exit: Option<(u32, Duration)>,
}

impl Record {
    fn path(bundle: &Path) -> PathBuf {
        bundle.join("process.json")
    }

    fn write(&self, bundle: &Path) -> Result<(), Failure> {
        let failed = |e: std::io::Error| Failure::io("write process.json", &e);
        let temporary = bundle.join(".process.json");
        let json = serde_json::to_vec(self).map_err(|e| failed(e.into()))?;
        fs::write(&temporary, json).map_err(failed)?;
        fs::rename(&temporary, Self::path(bundle)).map_err(failed)
    }

    fn read(bundle: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::path(bundle)).ok()?).ok()
    }
}

/// One field of `/proc/PID/stat` behind the name, counted as proc(5) does.
fn stat_field(pid: u32, number: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number - 3).map(str::to_owned)
}

impl Processes {
    fn find(&self, container: &str, exec: &str) -> Result<Rc<Process>, Failure> {
        let all = self.all.borrow();
        let found = all.get(&(container.to_owned(), exec.to_owned()));
        found.cloned().ok_or_else(|| {
            let name = if exec.is_empty() { container } else { exec };
            Failure::not_found(format!("process does not exist {name}"))
        })
    }

    fn add(&self, process: Process) -> Result<(), Failure> {
        if process.spec.terminal {
            return Err(Failure::unimplemented("terminal"));
        }
        if process.spec.args.is_empty() {
            return Err(Failure::invalid("process.args is empty"));
        }
        let key = (process.container.clone(), process.exec.clone());
        let mut all = self.all.borrow_mut();
        if all.contains_key(&key) {
            let text = format!("id {}", if key.1.is_empty() { key.0 } else { key.1 });
            return Err(Failure::new(ErrorKind::AlreadyExists, text));
        }
        all.insert(key, Rc::new(process));
        Ok(())
    }

    fn running_pids(&self, container: &str) -> Vec<u32> {
        let all = self.all.borrow();
        let ours = all.values().filter(|process| process.container == container);
        ours.filter(|p| p.status() == process::Status::RUNNING).map(|p| p.pid()).collect()
    }

    fn publish_start(&self, process: &Process, pid: u32) {
        let (container_id, exec_id) = (process.container.clone(), process.exec.clone());
        let publisher = &self.context.publisher;
        if exec_id.is_empty() {
            publisher.publish(&events::TaskStart { container_id, pid, ..Default::default() });
        } else {
            let event =
                events::TaskExecStarted { container_id, exec_id, pid, ..Default::default() };
            publisher.publish(&event);
        }
    }

    /// The end of a process: on disk first, then to whoever waits, then to
    /// the daemon.
    fn exited(&self, process: &Process, exit: Exit) {
        if process.exec.is_empty()
            && let Some(mut record) = Record::read(&process.bundle)
        {
            record.exit =
                Some((exit.status, exit.at.duration_since(UNIX_EPOCH).unwrap_or_default()));
            if let Err(e) = record.write(&process.bundle) {
                log::error!(error:% = e, id = process.container.as_str(); "the exit status is not on disk");
            }
        }
        *process.running.borrow_mut() = None;
        process.exit.send_replace(Some(exit));
        self.context.publisher.publish(&events::TaskExit {
            container_id: process.container.clone(),
            id: if process.exec.is_empty() { &process.container } else { &process.exec }.clone(),
            pid: exit.pid,
            exit_status: exit.status,
            exited_at: Some(timestamp(exit.at)).into(),
            ..Default::default()
        });
    }
}

impl Process {
    fn pid(&self) -> u32 {
        let exited = self.exit.borrow().map(|exit| exit.pid);
        exited.or(self.running.borrow().as_ref().map(|r| r.pid.pid())).unwrap_or_default()
    }

    fn status(&self) -> process::Status {
        match (self.exit.borrow().is_some(), self.running.borrow().is_some()) {
            (true, _) => process::Status::STOPPED,
            (false, true) => process::Status::RUNNING,
            (false, false) => process::Status::CREATED,
        }
    }

    /// The command, and what has to stay open while it runs. The FIFOs
    /// themselves become the process's streams; no byte passes through us.
    fn command(&self) -> Result<(Command, Option<OwnedFd>, Vec<OwnedFd>), Failure> {
        let mut command = Command::new(&self.spec.args[0]);
        command.args(&self.spec.args[1..]).env_clear().process_group(0);
        command.envs(self.spec.env.iter().filter_map(|pair| pair.split_once('=')));
        if !self.spec.cwd.as_os_str().is_empty() {
            command.current_dir(&self.spec.cwd);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (mut stdin, mut outputs) = (None, Vec::new());
        if !self.stdin.is_empty() {
            let input = fifo::open_input(Path::new(&self.stdin))?;
            command.stdin(input.container);
            stdin = Some(input.spare);
        }
        if !self.stdout.is_empty() {
            let output = fifo::open_output(Path::new(&self.stdout))?;
            command.stdout(output.container);
            outputs.push(output.spare);
        }
        if !self.stderr.is_empty() {
            let output = fifo::open_output(Path::new(&self.stderr))?;
            command.stderr(output.container);
            outputs.push(output.spare);
        }
        Ok((command, stdin, outputs))
    }
}

impl Shim for ProcessShim {
    const NAME: &'static str = "io.containerd.davit-process.v1";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    async fn new(context: Context) -> Result<Self, Failure> {
        Ok(Self(Rc::new(Processes { context, all: RefCell::default() })))
    }

    async fn create(
        &self,
        request: task::CreateTaskRequest,
    ) -> Result<task::CreateTaskResponse, Failure> {
        #[derive(Deserialize)]
        struct Config {
            process: Spec,
        }
        let path = Path::new(&request.bundle).join("config.json");
        let json =
            fs::read(&path).map_err(|e| Failure::io(format!("open {}", path.display()), &e))?;
        let config: Config = serde_json::from_slice(&json)
            .map_err(|e| Failure::invalid(format!("parse {}: {e}", path.display())))?;
        self.0.add(Process {
            container: request.id.clone(),
            exec: String::new(),
            bundle: request.bundle.clone().into(),
            spec: config.process,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            running: RefCell::default(),
            exit: watch::Sender::new(None),
        })?;
        self.0.context.publisher.publish(&events::TaskCreate {
            container_id: request.id,
            bundle: request.bundle,
            ..Default::default()
        });
        // There is no process before Start, and so no pid.
        Ok(task::CreateTaskResponse::new())
    }

    async fn exec(&self, request: task::ExecProcessRequest) -> Result<(), Failure> {
        let init = self.0.find(&request.id, "")?;
        if init.status() != process::Status::RUNNING {
            return Err(Failure::precondition(format!("task {} is not running", request.id)));
        }
        let spec = request.spec.unwrap_or_default();
        let spec = serde_json::from_slice(&spec.value)
            .map_err(|e| Failure::invalid(format!("parse process spec: {e}")))?;
        self.0.add(Process {
            container: request.id.clone(),
            exec: request.exec_id.clone(),
            bundle: init.bundle.clone(),
            spec,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            running: RefCell::default(),
            exit: watch::Sender::new(None),
        })?;
        self.0.context.publisher.publish(&events::TaskExecAdded {
            container_id: request.id,
            exec_id: request.exec_id,
            ..Default::default()
        });
        Ok(())
    }

    async fn start(&self, request: task::StartRequest) -> Result<task::StartResponse, Failure> {
        let process = self.0.find(&request.id, &request.exec_id)?;
        if process.status() != process::Status::CREATED {
            return Err(Failure::precondition("cannot start a process that was started"));
        }
        let (mut command, stdin, outputs) = process.command()?;
        let name = format!("start {}", process.spec.args[0]);
        let spawned = self.0.context.reaper.spawn(&mut command);
        // Our copies of the streams must go: the client waits for their end.
        drop(command);
        let mut child = spawned.map_err(|e| Failure::io(name, &e))?;
        let pid = child.pid;
        let running = Running { pid: PidFd::open(pid)?, stdin, _outputs: outputs };
        *process.running.borrow_mut() = Some(running);
        if process.exec.is_empty() {
            let started = stat_field(pid, 22).unwrap_or_default();
            Record { pid, started, exit: None }.write(&process.bundle)?;
        }
        self.0.publish_start(&process, pid);
        let processes = self.0.clone();
        tokio::task::spawn_local(async move {
            let exit = child.exit().await;
            processes.exited(&process, exit);
        });
        Ok(task::StartResponse { pid, ..Default::default() })
    }

    async fn delete(&self, request: task::DeleteRequest) -> Result<task::DeleteResponse, Failure> {
        let process = self.0.find(&request.id, &request.exec_id)?;
        if process.status() == process::Status::RUNNING {
            return Err(Failure::precondition("cannot delete a running process"));
        }
        self.0.all.borrow_mut().remove(&(request.id.clone(), request.exec_id));
        let exit = *process.exit.borrow();
        let mut response = task::DeleteResponse::new();
        if let Some(exit) = exit {
            response.pid = exit.pid;
            response.exit_status = exit.status;
            response.exited_at = Some(timestamp(exit.at)).into();
        }
        if process.exec.is_empty() {
            let _ = fs::remove_file(Record::path(&process.bundle));
            self.0.context.publisher.publish(&events::TaskDelete {
                container_id: request.id,
                pid: response.pid,
                exit_status: response.exit_status,
                exited_at: response.exited_at.clone(),
                ..Default::default()
            });
        }
        Ok(response)
    }

    async fn state(&self, request: task::StateRequest) -> Result<task::StateResponse, Failure> {
        let process = self.0.find(&request.id, &request.exec_id)?;
        let exit = *process.exit.borrow();
        Ok(task::StateResponse {
            id: process.container.clone(),
            exec_id: process.exec.clone(),
            bundle: process.bundle.to_string_lossy().into_owned(),
            pid: process.pid(),
            status: process.status().into(),
            stdin: process.stdin.clone(),
            stdout: process.stdout.clone(),
            stderr: process.stderr.clone(),
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(|exit| timestamp(exit.at)).into(),
            ..Default::default()
        })
    }

    async fn kill(&self, request: task::KillRequest) -> Result<(), Failure> {
        let process = self.0.find(&request.id, &request.exec_id)?;
        let running = process.running.borrow();
        let Some(running) = running.as_ref() else {
            return Err(Failure::not_found("process already finished"));
        };
        if request.all {
            // The process leads a group of its own.
            let group = nix::unistd::Pid::from_raw(running.pid.pid() as i32);
            let signal = nix::sys::signal::Signal::try_from(request.signal as i32)
                .map_err(|_| Failure::invalid(format!("signal {}", request.signal)))?;
            return nix::sys::signal::killpg(group, signal)
                .map_err(|e| Failure::io("kill", &e.into()));
        }
        Ok(running.pid.send_signal(request.signal as i32)?)
    }

    async fn wait(&self, request: task::WaitRequest) -> Result<task::WaitResponse, Failure> {
        let process = self.0.find(&request.id, &request.exec_id)?;
        let mut exits = process.exit.subscribe();
        let exit = exits.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        let exit = exit.ok_or_else(|| Failure::not_found("process was deleted"))?;
        Ok(task::WaitResponse {
            exit_status: exit.status,
            exited_at: Some(timestamp(exit.at)).into(),
            ..Default::default()
        })
    }

    async fn pids(&self, request: task::PidsRequest) -> Result<task::PidsResponse, Failure> {
        self.0.find(&request.id, "")?;
        let info = |pid| process::ProcessInfo { pid, ..Default::default() };
        let processes = self.0.running_pids(&request.id).into_iter().map(info).collect();
        Ok(task::PidsResponse { processes, ..Default::default() })
    }

    async fn close_io(&self, request: task::CloseIORequest) -> Result<(), Failure> {
        let process = self.0.find(&request.id, &request.exec_id)?;
        if let (true, Some(running)) = (request.stdin, process.running.borrow_mut().as_mut()) {
            running.stdin = None;
        }
        Ok(())
    }

    async fn stats(&self, request: task::StatsRequest) -> Result<task::StatsResponse, Failure> {
        self.0.find(&request.id, "")?;
        let pids = self.0.running_pids(&request.id);
        let (mut cpu, mut memory) = (metrics::CPUUsage::new(), metrics::MemoryStat::new());
        for pid in &pids {
            let number = |field| stat_field(*pid, field).and_then(|n| n.parse::<u64>().ok());
            // Ticks of ten milliseconds, pages of four kilobytes.
            cpu.user += number(14).unwrap_or_default() * 10_000_000;
            cpu.kernel += number(15).unwrap_or_default() * 10_000_000;
            memory.rss += number(24).unwrap_or_default() * 4096;
        }
        cpu.total = cpu.user + cpu.kernel;
        let mut all = metrics::Metrics::new();
        all.cpu = Some(metrics::CPUStat { usage: Some(cpu).into(), ..Default::default() }).into();
        let usage = metrics::MemoryEntry { usage: memory.rss, ..Default::default() };
        memory.usage = Some(usage).into();
        // Clients read this one without looking whether it is there.
        memory.swap = Some(metrics::MemoryEntry::new()).into();
        all.memory = Some(memory).into();
        let count = metrics::PidsStat { current: pids.len() as u64, ..Default::default() };
        all.pids = Some(count).into();
        let value = all.write_to_bytes().map_err(|e| Failure::invalid(e.to_string()))?;
        let type_url = "io.containerd.cgroups.v1.Metrics".to_owned();
        let stats = Some(Any { type_url, value, ..Default::default() }).into();
        Ok(task::StatsResponse { stats, ..Default::default() })
    }

    async fn connect(
        &self,
        request: task::ConnectRequest,
    ) -> Result<task::ConnectResponse, Failure> {
        let task_pid = self.0.find(&request.id, "").map(|process| process.pid());
        Ok(task::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: task_pid.unwrap_or_default(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _request: task::ShutdownRequest) -> Result<AfterShutdown, Failure> {
        Ok(if self.is_idle() { AfterShutdown::Exit } else { AfterShutdown::Stay })
    }

    fn is_idle(&self) -> bool {
        self.0.all.borrow().is_empty()
    }

    async fn cleanup(invocation: &Invocation, _reaper: &Reaper) -> Result<Cleaned, Failure> {
        let bundle = match invocation.bundle.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => invocation.bundle.clone(),
        };
        let Some(record) = Record::read(&bundle) else { return Ok(Cleaned::killed(0)) };
        if let Some((exit_status, at)) = record.exit {
            return Ok(Cleaned { pid: record.pid, exit_status, exited_at: UNIX_EPOCH + at });
        }
        if let Ok(process) = PidFd::open(record.pid)
            && stat_field(record.pid, 22).as_ref() == Some(&record.started)
        {
            process.send_signal(nix::libc::SIGKILL)?;
        }
        Ok(Cleaned::killed(record.pid))
    }
}
