//! What becomes of what was set going: the ends of operations, and exits.
//!
//! Invariants: an exit is on disk before anybody is told of it. The event of
//! a start comes before that of the exit. The init's exit is published last,
//! when no exec lives any more, its output is with the client, and the last
//! notice of memory running out has been read.

use davit_protocols::ttrpc::events;
use davit_shim::{Exit, Failure, task};

use super::{Container, Ending};
use crate::event::{Event, Key, Outcome, Reply};
use crate::exits;
use crate::fixed::EXIT_LIMIT;
use crate::process::{Process, timestamp};
use crate::start::Started;
use crate::state::State;

const SIGKILL: u32 = nix::libc::SIGKILL.cast_unsigned();

impl Container {
    /// An operation has ended.
    pub fn done(&mut self, key: &Key, outcome: Outcome) {
        match outcome {
            Outcome::Started(result, reply) => self.started(key, result, reply),
            Outcome::Paused(result, reply) => self.paused(key, result, reply),
            Outcome::Resumed(result, reply) => self.resumed(key, result, reply),
            Outcome::Checkpointed(result, path, reply) => {
                if result.is_ok() {
                    let container_id = self.fixed.id.clone();
                    self.publish(&events::TaskCheckpointed {
                        container_id,
                        checkpoint: path,
                        ..Default::default()
                    });
                }
                let _ = reply.send(result);
            }
            Outcome::Updated(result, reply) => drop(reply.send(result)),
            Outcome::Deleted(result, reply) => self.deleted(key, result, reply),
            // The group handles it: there was no container.
            Outcome::Created(_) => {}
        }
        // A Delete that waits for the init's exit is still under way.
        if !key.is_init() || self.deleting.is_none() {
            self.end_flight(key);
        }
        self.try_publish_init_exit();
    }

    fn started(
        &mut self,
        key: &Key,
        result: Result<Started, Failure>,
        reply: Reply<task::StartResponse>,
    ) {
        let Some(process) = self.process(key) else { return };
        let Started { born, cgroup } = match result {
            Ok(started) => started,
            Err(failure) => {
                process.failed = !key.is_init();
                if process.failed {
                    process.wake_waiters();
                }
                let _ = reply.send(Err(failure));
                return;
            }
        };
        process.state = State::Running;
        let exit = born.map(|born| {
            process.pid = born.pid;
            process.io = born.io.unwrap_or(std::mem::take(&mut process.io));
            born.exit
        });
        let pid = process.pid;
        let replies = process.take_repeated_starts();
        if cgroup.is_some() {
            self.cgroup = cgroup;
            self.watch_oom();
        }
        self.publish_start(key, pid);
        if let Some(exit) = exit {
            self.shared.await_exit(key.clone(), exit);
        }
        if !key.is_init() && self.init.exit.is_some() {
            // It came when what the init had left was dead already.
            self.kill_execs();
        }
        for reply in std::iter::once(reply).chain(replies) {
            let _ = reply.send(Ok(task::StartResponse { pid, ..Default::default() }));
        }
    }

    fn publish_start(&self, key: &Key, pid: u32) {
        let container_id = self.fixed.id.clone();
        if key.is_init() {
            self.publish(&events::TaskStart { container_id, pid, ..Default::default() });
        } else {
            let exec_id = key.exec.clone();
            self.publish(&events::TaskExecStarted {
                container_id,
                exec_id,
                pid,
                ..Default::default()
            });
        }
    }

    fn paused(&mut self, key: &Key, result: Result<(), Failure>, reply: Reply<()>) {
        if result.is_ok() && key.is_init() && self.init.state == State::Running {
            self.init.state = State::Paused;
            let container_id = self.fixed.id.clone();
            self.publish(&events::TaskPaused { container_id, ..Default::default() });
        }
        let _ = reply.send(result);
    }

    fn resumed(&mut self, key: &Key, result: Result<(), Failure>, reply: Reply<()>) {
        if result.is_ok() && key.is_init() && self.init.state == State::Paused {
            self.init.state = State::Running;
            let container_id = self.fixed.id.clone();
            self.publish(&events::TaskResumed { container_id, ..Default::default() });
        }
        let _ = reply.send(result);
    }

    /// The runtime has deleted an init, or an exec has been closed.
    fn deleted(
        &mut self,
        key: &Key,
        result: Result<(), Failure>,
        reply: Reply<task::DeleteResponse>,
    ) {
        if let Err(failure) = result {
            let _ = reply.send(Err(failure));
        } else if !key.is_init() {
            exits::forget(&self.fixed.bundle, &key.exec);
            if let Some(mut exec) = self.execs.remove(&key.exec) {
                answer_delete(&mut exec.process, reply);
                self.ready.extend(exec.process.waiting);
            }
        } else if self.init.pid != 0 && self.init.state != State::Stopped {
            // Never started: its exit comes now, and is told first.
            self.deleting = Some(reply);
            let id = self.fixed.id.clone();
            self.shared.spawn(async move {
                tokio::time::sleep(EXIT_LIMIT).await;
                Event::Overdue(id)
            });
        } else {
            self.forget(reply);
        }
    }

    /// The end of a container: nobody has to know of it any more.
    fn forget(&mut self, reply: Reply<task::DeleteResponse>) {
        for exec in self.execs.keys() {
            exits::forget(&self.fixed.bundle, exec);
        }
        exits::forget(&self.fixed.bundle, "");
        let (exit_status, exited_at) = self.init.published_exit();
        self.publish(&events::TaskDelete {
            container_id: self.fixed.id.clone(),
            pid: self.init.pid,
            exit_status,
            exited_at,
            ..Default::default()
        });
        answer_delete(&mut self.init, reply);
        self.ready.append(&mut self.init.waiting);
        self.gone = true;
    }

    /// The exit of a deleted init does not come; somebody else is its parent.
    pub fn overdue(&mut self) {
        if let Some(reply) = self.deleting.take() {
            log::warn!(container:% = self.fixed.id, pid:% = self.init.pid; "deleted without an exit");
            self.forget(reply);
        }
    }

    /// A process has exited.
    pub fn exited(&mut self, key: &Key, exit: Exit) {
        if let Err(error) = exits::record(&self.fixed.bundle, &key.exec, &exit) {
            log::error!(container:% = key.container, exec:% = key.exec, error:%; "cannot record an exit");
        }
        let Some(process) = self.process(key) else { return };
        process.exit = Some(exit);
        process.io.settle();
        let drain = process.io.console.as_ref().map(|console| console.progress());
        let draining = drain.is_some();
        if let Some(progress) = drain {
            let key = key.clone();
            self.shared.spawn(async move {
                progress.drained().await;
                Event::Drained(key)
            });
        }
        if key.is_init() {
            self.init_exited(draining);
        } else if !draining {
            self.publish_exec_exit(key);
        }
    }

    fn init_exited(&mut self, draining: bool) {
        self.ending = Ending { killing: self.shares_pid_namespace, draining };
        if self.init.state == State::Paused {
            // What is frozen cannot die.
            let fixed = self.fixed.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = fixed.resume().await {
                    log::error!(container:% = fixed.id, error:%; "resuming exited container from paused state");
                }
            });
        }
        if self.shares_pid_namespace {
            let fixed = self.fixed.clone();
            self.shared.spawn(async move {
                if let Err(error) = fixed.kill(SIGKILL, true).await {
                    log::debug!(container:% = fixed.id, error:%; "killing what the init has left");
                }
                Event::KilledRest(fixed.id.clone())
            });
        }
        self.try_publish_init_exit();
    }

    /// The runtime has killed what it found; the execs are known here.
    pub fn killed_rest(&mut self) {
        self.ending.killing = false;
        self.kill_execs();
        self.try_publish_init_exit();
    }

    fn kill_execs(&self) {
        for exec in self.execs.values().filter(|exec| exec.process.is_alive()) {
            if let Ok(process) = davit_sys::process::PidFd::open(exec.process.pid) {
                let _ = process.send_signal(nix::libc::SIGKILL);
            }
        }
    }

    /// The terminal of a process that has exited is empty.
    pub fn drained(&mut self, key: &Key) {
        if key.is_init() {
            self.ending.draining = false;
            self.try_publish_init_exit();
        } else {
            self.publish_exec_exit(key);
        }
    }

    fn publish_exec_exit(&mut self, key: &Key) {
        let Some(exec) = self.execs.get_mut(&key.exec) else { return };
        let event = stop(&mut exec.process, &self.fixed.id, &key.exec);
        self.publish(&event);
        if let Some(exec) = self.execs.get_mut(&key.exec) {
            exec.process.wake_waiters();
        }
        self.try_publish_init_exit();
    }

    fn try_publish_init_exit(&mut self) {
        let waiting = self.init.exit.is_none()
            || self.init.state == State::Stopped
            || self.init.in_flight == Some(crate::state::Operation::Start)
            || self.ending.killing
            || self.ending.draining
            || self.execs.values().any(|exec| exec.process.is_live());
        if waiting {
            return;
        }
        self.publish_oom();
        self.oom = None;
        let event = stop(&mut self.init, &self.fixed.id, &self.fixed.id);
        self.publish(&event);
        self.init.wake_waiters();
        if let Some(reply) = self.deleting.take() {
            self.forget(reply);
        }
    }
}

/// Answers a Delete, and those that repeat it.
fn answer_delete(process: &mut Process, reply: Reply<task::DeleteResponse>) {
    let replies = process.take_repeated_deletes();
    for reply in std::iter::once(reply).chain(replies) {
        let _ = reply.send(Ok(process.delete_response()));
    }
}

/// Marks a process as stopped. The event says so to the world; it is to be
/// published before anybody who waits is answered.
fn stop(process: &mut Process, container: &str, id: &str) -> events::TaskExit {
    process.state = State::Stopped;
    let exit = process.exit.unwrap_or(Exit {
        pid: process.pid,
        status: 255,
        signal: 0,
        at: std::time::SystemTime::now(),
    });
    events::TaskExit {
        container_id: container.to_owned(),
        id: id.to_owned(),
        pid: exit.pid,
        exit_status: exit.status,
        exited_at: timestamp(exit.at),
        ..Default::default()
    }
}
