//! A program that is a subreaper and reaps everything itself, as a shim does:
//! it supplies its own spawner, and learns the exits of containers as well as
//! those of the runtime. Alone in its binary, because `waitpid` for any child
//! would take those of other tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use common::{Bed, DEADLINE, process_json};
use runc_client::{Child, ErrorKind, ExecOptions, Spawner};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, wait};

/// The exits that were reaped, and who waits for one.
#[derive(Debug, Default)]
struct Reaper {
    exits: Mutex<HashMap<u32, ExitStatus>>,
    waiting: Mutex<HashMap<u32, Waker>>,
}

impl Reaper {
    /// Reaps all that have exited.
    fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get().cast_unsigned();
            self.exits.lock().unwrap().insert(pid, ExitStatus::from_raw(status.as_raw()));
            if let Some(waker) = self.waiting.lock().unwrap().remove(&pid) {
                waker.wake();
            }
        }
    }

    async fn exit_of(&self, pid: u32) -> ExitStatus {
        let exit = std::future::poll_fn(|context| self.poll(pid, context));
        tokio::time::timeout(DEADLINE, exit).await.expect("it exits")
    }

    fn poll(&self, pid: u32, context: &Context<'_>) -> Poll<ExitStatus> {
        if let Some(exit) = self.exits.lock().unwrap().remove(&pid) {
            return Poll::Ready(exit);
        }
        self.waiting.lock().unwrap().insert(pid, context.waker().clone());
        Poll::Pending
    }
}

#[derive(Debug)]
struct OwnSpawner(Arc<Reaper>);

struct OwnChild {
    pid: u32,
    reaper: Arc<Reaper>,
}

impl Spawner for OwnSpawner {
    fn spawn(&self, mut command: Command) -> io::Result<Box<dyn Child>> {
        let pid = command.spawn()?.id();
        Ok(Box::new(OwnChild { pid, reaper: self.0.clone() }))
    }
}

impl Child for OwnChild {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn poll_exit(&mut self, context: &mut Context<'_>) -> Poll<io::Result<ExitStatus>> {
        self.reaper.poll(self.pid, context).map(Ok)
    }

    fn kill(&mut self) -> io::Result<()> {
        kill_process(Pid::from_raw(self.pid.cast_signed()).unwrap(), Signal::KILL)?;
        Ok(())
    }
}

#[tokio::test]
async fn a_subreaper_supplies_its_own_spawner() {
    set_child_subreaper(Some(Pid::INIT)).unwrap();
    let reaper = Arc::new(Reaper::default());
    let kind = tokio::signal::unix::SignalKind::child();
    let mut signals = tokio::signal::unix::signal(kind).unwrap();
    let loop_reaper = reaper.clone();
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            loop_reaper.reap();
        }
    });
    for name in ["runc", "crun", "newer_runc", "newer_crun"] {
        let mut bed = Bed::new(name);
        bed.runc = bed.runc.clone().spawner(Arc::new(OwnSpawner(reaper.clone())));
        one_container(&bed, &reaper).await;
        let before = descriptors();
        for _ in 0..5 {
            one_container(&bed, &reaper).await;
        }
        assert_eq!(descriptors(), before, "no descriptor is left open");
    }
}

/// From create to delete, with the container's own exit status.
async fn one_container(bed: &Bed, reaper: &Reaper) {
    let id = bed.running().await;
    let pid = bed.runc.state(&id).await.unwrap().pid;
    let process = process_json(&["sh", "-c", "exit 9"]);
    assert_eq!(bed.runc.exec(&id, &process, ExecOptions::default()).await.unwrap(), 9);
    let error = bed.runc.state("nonexistent").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let pid_file = bed.path("pid");
    let detached =
        ExecOptions { detach: true, pid_file: Some(pid_file.clone()), ..Default::default() };
    bed.runc.exec(&id, &process_json(&["sh", "-c", "exit 4"]), detached).await.unwrap();
    let exec_pid = runc_client::read_pid_file(&pid_file).unwrap();
    assert_eq!(reaper.exit_of(exec_pid).await.code(), Some(4));

    bed.runc.kill(&id, 9, false).await.unwrap();
    assert_eq!(reaper.exit_of(pid).await.signal(), Some(9));
    let error = bed.runc.kill(&id, 9, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotRunning, "{error}");
    bed.runc.delete(&id, false).await.unwrap();
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
