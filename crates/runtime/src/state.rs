//! What is known of a process in a task.

use std::time::SystemTime;

use davit_types::Any;

use crate::Stdio;

/// Where a process stands (`containerd.v1.types.Status`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// The shim did not say, or not in time.
    #[default]
    Unknown,
    /// Made and not started.
    Created,
    /// Running.
    Running,
    /// Exited.
    Stopped,
    /// Frozen.
    Paused,
    /// On the way to being frozen.
    Pausing,
}

/// What a shim says of a task's init or of an exec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessState {
    /// The container's id, or the exec's.
    pub id: String,
    /// Its pid in the shim's pid namespace; 0 before it has one.
    pub pid: u32,
    /// Where it stands.
    pub status: Status,
    /// Its streams, as they were asked for.
    pub stdio: Stdio,
    /// How it exited: the status, or 128 and the signal. 0 before.
    pub exit_status: u32,
    /// When it exited; `None` before.
    pub exited_at: Option<SystemTime>,
}

/// How a process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Its pid; 0 where nobody knows.
    pub pid: u32,
    /// The exit status, or 128 and the signal.
    pub status: u32,
    /// When; `None` where nobody knows.
    pub at: Option<SystemTime>,
}

/// One process of a container, whoever started it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Its pid in the shim's pid namespace.
    pub pid: u32,
    /// What the runtime adds: `containerd.runc.v1.ProcessDetails` for an exec.
    pub info: Option<Any>,
}
