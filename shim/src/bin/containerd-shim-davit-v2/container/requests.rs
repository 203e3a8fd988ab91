//! Calls: what is answered at once, and what is set going.

use std::future::Future;
use std::time::Duration;

use davit_protocols::ttrpc::{events, options as runc, process as pb};
use davit_shim::{Failure, task};
use davit_types::{ErrorKind, ExecId, Kind};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};

use super::{Container, Exec};
use crate::console::DRAIN_LIMIT;
use crate::event::{Call, Event, Key, Outcome, Reply};
use crate::oom::OomMonitor;
use crate::process::Process;
use crate::state::{self, Operation, State};
use crate::stdio::{Io, Request};
use crate::{checkpoint, create, spec, start, stats};

const SIGKILL: u32 = nix::libc::SIGKILL.cast_unsigned();

impl Container {
    /// Sets an operation going that was admitted.
    pub(super) fn begin(&mut self, key: &Key, call: Call) {
        let fixed = self.fixed.clone();
        match call {
            Call::Start(_, reply) if key.is_init() => self.start_init(key, reply),
            Call::Start(_, reply) => self.start_exec(key, reply),
            Call::Delete(_, reply) if key.is_init() => self.delete_init(key, reply),
            Call::Delete(_, reply) => self.delete_exec(key, reply),
            Call::Pause(_, reply) => {
                self.run(key, async move { Outcome::Paused(fixed.pause().await, reply) });
            }
            Call::Resume(_, reply) => {
                self.run(key, async move { Outcome::Resumed(fixed.resume().await, reply) });
            }
            Call::Update(request, reply) => self.run(key, async move {
                let resources = request.resources.unwrap_or_default().value;
                Outcome::Updated(fixed.update(&resources).await, reply)
            }),
            Call::Checkpoint(request, reply) => {
                let pid = self.pid();
                self.run(key, async move {
                    let saved = checkpoint::checkpoint(&fixed, pid, &request).await;
                    Outcome::Checkpointed(saved, request.path, reply)
                });
            }
            // No other call is an operation.
            other => {
                self.end_flight(key);
                self.answer(other);
            }
        }
    }

    fn run(&self, key: &Key, job: impl Future<Output = Outcome> + 'static) {
        let key = key.clone();
        self.shared.spawn(async move { Event::Done(key, Box::new(job.await)) });
    }

    fn start_init(&mut self, key: &Key, reply: Reply<task::StartResponse>) {
        let fixed = self.fixed.clone();
        if self.init.state == State::Created {
            // Before it runs, or what it does first would not be noticed.
            self.watch_oom();
            self.run(key, async move {
                let started = fixed.start().await;
                Outcome::Started(started.map(|()| start::Started::default()), reply)
            });
        } else if let Some(restore) = self.restore.take() {
            let streams = self.init.streams.clone();
            self.run(key, async move {
                Outcome::Started(Box::pin(start::restore(fixed, restore, streams)).await, reply)
            });
        } else {
            self.end_flight(key);
            let text = "the checkpoint could not be restored before";
            let _ = reply.send(Err(Failure::precondition(text)));
        }
    }

    /// Starts to watch for the container running out of memory.
    pub(super) fn watch_oom(&mut self) {
        let events = self.shared.events.clone();
        let id = &self.fixed.id;
        self.oom = self.cgroup.as_ref().and_then(|cgroup| OomMonitor::new(id, cgroup, events));
    }

    fn start_exec(&mut self, key: &Key, reply: Reply<task::StartResponse>) {
        if self.init.exit.is_some() {
            self.end_flight(key);
            let text = format!("container {} init process is not running", self.fixed.id);
            let _ = reply.send(Err(Failure::precondition(text)));
            return;
        }
        let Some(exec) = self.execs.get_mut(&key.exec) else { return };
        exec.process.failed = false;
        let exec = start::Exec {
            fixed: self.fixed.clone(),
            id: key.exec.clone(),
            process: exec.spec.clone(),
            streams: exec.process.streams.clone(),
        };
        // On the heap, as Create is.
        self.run(
            key,
            async move { Outcome::Started(Box::pin(start::start_exec(exec)).await, reply) },
        );
    }

    fn delete_init(&mut self, key: &Key, reply: Reply<task::DeleteResponse>) {
        let fixed = self.fixed.clone();
        let io = std::mem::take(&mut self.init.io);
        let execs: Vec<Io> =
            self.execs.values_mut().map(|exec| std::mem::take(&mut exec.process.io)).collect();
        self.oom = None;
        let mounted = !self.request.rootfs.is_empty();
        let unstarted = self.init.state == State::Created && self.init.exit.is_none();
        let pid = self.init.pid;
        self.run(key, async move {
            if unstarted {
                fixed.end_unstarted(pid).await;
            }
            // As containerd does: the shim may end when this is done.
            close(io, DRAIN_LIMIT).await;
            for io in execs {
                close(io, Duration::ZERO).await;
            }
            let deleted = fixed.delete().await;
            if mounted {
                create::unmount(fixed.bundle.join("rootfs")).await;
            }
            Outcome::Deleted(deleted, reply)
        });
    }

    fn delete_exec(&mut self, key: &Key, reply: Reply<task::DeleteResponse>) {
        let Some(exec) = self.execs.get_mut(&key.exec) else { return };
        let io = std::mem::take(&mut exec.process.io);
        let pid_file = self.fixed.bundle.join(format!("{}.pid", key.exec));
        self.run(key, async move {
            close(io, Duration::ZERO).await;
            let _ = std::fs::remove_file(pid_file);
            Outcome::Deleted(Ok(()), reply)
        });
    }

    /// Answers a call that is no operation.
    pub(super) fn answer(&mut self, call: Call) {
        let key = call.key();
        match call {
            Call::State(_, reply) => drop(reply.send(self.state(&key))),
            Call::Kill(request, reply) => self.kill(&key, &request, reply),
            Call::Wait(_, reply) => {
                if let Some(process) = self.process(&key) {
                    process.wait(reply);
                }
            }
            Call::Pids(_, reply) => self.pids(reply),
            Call::Exec(request, reply) => drop(reply.send(self.add_exec(request))),
            Call::ResizePty(request, reply) => drop(reply.send(self.resize(&key, &request))),
            Call::CloseIo(_, reply) => {
                if let Some(process) = self.process(&key) {
                    process.io.stdin = None;
                }
                let _ = reply.send(Ok(()));
            }
            Call::Stats(_, reply) => drop(reply.send(self.stats())),
            other => other.refuse(Failure::new(ErrorKind::Internal, "not a container's call")),
        }
    }

    fn state(&mut self, key: &Key) -> Result<task::StateResponse, Failure> {
        let container_status = status(&self.init);
        let (id, bundle) = (self.fixed.id.clone(), self.request.bundle.clone());
        let Some(process) = self.process(key) else {
            return Err(Failure::not_found(format!("process does not exist {}", key.exec)));
        };
        // An exec is frozen with its container.
        let frozen = matches!(container_status, pb::Status::PAUSED | pb::Status::PAUSING);
        let status = if frozen { container_status } else { status(process) };
        let (exit_status, exited_at) = process.published_exit();
        Ok(task::StateResponse {
            id: if key.is_init() { id } else { key.exec.clone() },
            bundle,
            pid: process.pid,
            status: status.into(),
            stdin: process.streams.stdin.clone(),
            stdout: process.streams.stdout.clone(),
            stderr: process.streams.stderr.clone(),
            terminal: process.streams.terminal,
            exit_status,
            exited_at,
            ..Default::default()
        })
    }

    fn kill(&mut self, key: &Key, request: &task::KillRequest, reply: Reply<()>) {
        if !key.is_init() {
            let _ = reply.send(self.kill_exec(key, request.signal));
        } else if self.init.exit.is_some() && !request.all {
            let _ = reply.send(Err(Failure::not_found("process already finished")));
        } else {
            let (fixed, signal, all) = (self.fixed.clone(), request.signal, request.all);
            let frozen = self.init.state == State::Paused;
            tokio::task::spawn_local(async move {
                let killed = match signal {
                    SIGKILL if frozen => fixed.kill_frozen(all).await,
                    _ => fixed.kill(signal, all).await,
                };
                let _ = reply.send(killed);
            });
        }
    }

    fn kill_exec(&mut self, key: &Key, signal: u32) -> Result<(), Failure> {
        let Some(exec) = self.execs.get(&key.exec) else { return Ok(()) };
        let process = &exec.process;
        if process.pid == 0 {
            return Err(Failure::precondition("process not created"));
        }
        if !process.is_alive() {
            return Err(Failure::not_found("process already finished"));
        }
        let signal = i32::try_from(signal).unwrap_or(i32::MAX);
        let sent = davit_sys::process::PidFd::open(process.pid)
            .and_then(|process| process.send_signal(signal));
        sent.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Failure::not_found("exec kill error: process already finished"),
            _ => {
                let text = error.full_message();
                Failure::new(
                    ErrorKind::Unknown,
                    format!("exec kill error: unknown error after kill: {text}"),
                )
            }
        })
    }

    fn pids(&self, reply: Reply<task::PidsResponse>) {
        let fixed = self.fixed.clone();
        let execs: Vec<(u32, String)> =
            self.execs.iter().map(|(id, exec)| (exec.process.pid, id.clone())).collect();
        tokio::task::spawn_local(async move {
            let answer = fixed.pids().await.map(|pids| task::PidsResponse {
                processes: pids.into_iter().map(|pid| process_info(pid, &execs)).collect(),
                ..Default::default()
            });
            let _ = reply.send(answer);
        });
    }

    fn add_exec(&mut self, request: task::ExecProcessRequest) -> Result<(), Failure> {
        let id = ExecId::new(&request.exec_id)?.to_string();
        if self.execs.contains_key(&id) {
            return Err(Failure::new(ErrorKind::AlreadyExists, format!("id {id}")));
        }
        state::admit(self.init.state, Operation::Exec)?;
        let json = request.spec.unwrap_or_default().value;
        let spec = spec::exec_process(&json, request.terminal)?;
        let streams = Request {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let process = Process::new(State::Created, 0, streams, Io::default());
        self.execs.insert(id.clone(), Exec { process, spec });
        self.publish(&events::TaskExecAdded {
            container_id: self.fixed.id.clone(),
            exec_id: id,
            ..Default::default()
        });
        Ok(())
    }

    fn resize(&mut self, key: &Key, request: &task::ResizePtyRequest) -> Result<(), Failure> {
        let Some(process) = self.process(key) else { return Ok(()) };
        if !key.is_init() {
            state::admit(process.state, Operation::ResizeExec)?;
        }
        match &process.io.console {
            Some(console) => Ok(console.resize(request.width, request.height)?),
            None => Ok(()),
        }
    }

    fn stats(&self) -> Result<task::StatsResponse, Failure> {
        let Some(cgroup) = &self.cgroup else {
            return Err(Failure::not_found("cgroup does not exist"));
        };
        let packed = stats::packed(&cgroup.stats()?)
            .map_err(|error| Failure::new(ErrorKind::Internal, format!("metrics: {error}")))?;
        let any = any(&packed.type_url, packed.value);
        Ok(task::StatsResponse { stats: MessageField::some(any), ..Default::default() })
    }
}

/// Closes the streams of a process that is being deleted, its terminal not
/// before the client has what was written to it. A client that is slow is
/// waited for no longer than `patience`.
async fn close(mut io: Io, patience: Duration) {
    if let Some(console) = io.console.take() {
        io.abandon_outputs();
        console.finish(patience).await;
    }
    io.close().await;
}

fn status(process: &Process) -> pb::Status {
    match (process.state, process.in_flight) {
        (State::Running, Some(Operation::Pause)) => pb::Status::PAUSING,
        (State::Created | State::Restorable, _) => pb::Status::CREATED,
        (State::Running, _) => pb::Status::RUNNING,
        (State::Paused, _) => pb::Status::PAUSED,
        (State::Stopped, _) => pb::Status::STOPPED,
    }
}

fn process_info(pid: u32, execs: &[(u32, String)]) -> pb::ProcessInfo {
    let details = execs.iter().find(|(exec_pid, _)| *exec_pid == pid).and_then(|(_, id)| {
        let details = runc::ProcessDetails { exec_id: id.clone(), ..Default::default() };
        Some(any("containerd.runc.v1.ProcessDetails", details.write_to_bytes().ok()?))
    });
    pb::ProcessInfo { pid, info: details.into(), ..Default::default() }
}

fn any(type_url: &str, value: Vec<u8>) -> Any {
    Any { type_url: type_url.to_owned(), value, ..Default::default() }
}
