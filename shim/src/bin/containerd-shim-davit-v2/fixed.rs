//! What does not change in a container's life, and the runtime's commands on
//! it, with their failures in the Go shim's words (`process/init.go`).

use std::path::PathBuf;
use std::time::Duration;

use davit_shim::{Failure, Reaper};
use davit_sys::process::{self, PidFd};
use runc_client::Runc;

use crate::options::Options;
use crate::runtime;
use crate::stdio::Owner;

/// How long the exit of an init that never ran is waited for, once it was
/// killed.
pub const EXIT_LIMIT: Duration = Duration::from_secs(5);

/// A container, as far as it never changes.
pub struct Fixed {
    /// Its id.
    pub id: String,
    /// Its namespace.
    pub namespace: String,
    /// Its bundle, absolute.
    pub bundle: PathBuf,
    /// How to use the runtime.
    pub options: Options,
    /// The runtime.
    pub runtime: Runc,
    /// The one who collects exits.
    pub reaper: Reaper,
}

impl Fixed {
    /// For whom the streams of a process of this container are opened.
    pub fn owner<'a>(&'a self, id: &'a str) -> Owner<'a> {
        let (uid, gid) = (self.options.io_uid, self.options.io_gid);
        Owner { id, namespace: &self.namespace, uid, gid }
    }

    /// Where CRIU works.
    pub fn criu_work_path(&self) -> PathBuf {
        match self.options.criu_work_path.as_str() {
            "" => self.bundle.join("work"),
            path => path.into(),
        }
    }

    /// Words for a call of the runtime that has failed, for whatever reason.
    pub fn failed(&self, what: &str, error: &runc_client::Error) -> Failure {
        runtime::failed_silently(what, &self.bundle, self.options.binary(), error)
            .unwrap_or_else(|| runtime::failed(what, error))
    }

    /// Starts the init.
    ///
    /// # Errors
    /// The runtime's; so for all that follow.
    pub async fn start(&self) -> Result<(), Failure> {
        let started = self.runtime.start(&self.id).await;
        started.map_err(|error| self.failed("OCI runtime start failed", &error))
    }

    /// Freezes the container.
    pub async fn pause(&self) -> Result<(), Failure> {
        let paused = self.runtime.pause(&self.id).await;
        paused.map_err(|error| self.failed("OCI runtime pause failed", &error))
    }

    /// Thaws the container.
    pub async fn resume(&self) -> Result<(), Failure> {
        let resumed = self.runtime.resume(&self.id).await;
        resumed.map_err(|error| self.failed("OCI runtime resume failed", &error))
    }

    /// Changes limits; `resources` is the JSON of an OCI `LinuxResources`.
    pub async fn update(&self, resources: &[u8]) -> Result<(), Failure> {
        let updated = self.runtime.update(&self.id, resources).await;
        updated.map_err(|error| self.failed("OCI runtime update failed", &error))
    }

    /// Signals the init, or with `all` every process.
    pub async fn kill(&self, signal: u32, all: bool) -> Result<(), Failure> {
        let signal = i32::try_from(signal).unwrap_or(i32::MAX);
        let killed = self.runtime.kill(&self.id, signal, all).await;
        killed.map_err(|error| runtime::failed_kill(&error))
    }

    /// Kills what is frozen. Some runtimes signal it and leave it frozen, in
    /// which state it cannot die.
    pub async fn kill_frozen(&self, all: bool) -> Result<(), Failure> {
        self.kill(nix::libc::SIGKILL.cast_unsigned(), all).await?;
        if let Err(error) = self.runtime.resume(&self.id).await {
            log::debug!(container:% = self.id, error:%; "thawing what was killed");
        }
        Ok(())
    }

    /// The process ids in the container.
    pub async fn pids(&self) -> Result<Vec<u32>, Failure> {
        let pids = self.runtime.ps(&self.id).await;
        pids.map_err(|error| self.failed("OCI runtime ps failed", &error))
    }

    /// Kills an init that never ran and waits until all of it is gone. Deleting
    /// would kill it, too, but runc does not wait for its last thread: it
    /// finds the control groups in use then, leaves them, and calls that a
    /// success.
    pub async fn end_unstarted(&self, pid: u32) {
        let gone = self.reaper.watch(pid);
        if !process::is_living_child(pid) {
            return;
        }
        let killed = PidFd::open(pid).and_then(|init| init.send_signal(nix::libc::SIGKILL));
        if killed.is_err() || tokio::time::timeout(EXIT_LIMIT, gone).await.is_err() {
            log::warn!(container:% = self.id, pid; "an init that never ran does not end");
        }
    }

    /// Deletes the container in the runtime. That it is gone is no error: a
    /// checkpoint that ends the container deletes it.
    pub async fn delete(&self) -> Result<(), Failure> {
        match self.runtime.delete(&self.id, false).await {
            Err(error) if !runtime::is_not_found(&error) => {
                Err(runtime::failed("failed to delete task", &error))
            }
            _ => Ok(()),
        }
    }
}
