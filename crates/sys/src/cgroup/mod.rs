//! Control groups, versions 1, hybrid and 2: where a process is, what it
//! uses, and when it runs out of memory.

mod files;
mod hasten;
mod locate;
mod oom;
pub mod v1;
pub mod v2;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use hasten::hasten_moves;
pub use locate::{at, of_pid};
pub use oom::{OomEvent, OomWatch};

/// Where a process is. Hybrid hierarchies are version 1: the controllers are
/// there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroup {
    /// A directory per controller: `memory` to
    /// `/sys/fs/cgroup/memory/NAMESPACE/ID`.
    V1(BTreeMap<String, PathBuf>),
    /// The one directory.
    V2(PathBuf),
}

/// What a control group uses, by version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stats {
    /// Version 1 and hybrid.
    V1(Box<v1::Stats>),
    /// Version 2.
    V2(Box<v2::Stats>),
}

impl Cgroup {
    /// Reads what the group uses. A controller or file that is missing leaves
    /// its part empty.
    ///
    /// # Errors
    /// When the whole group is gone, or a file is malformed.
    pub fn stats(&self) -> crate::Result<Stats> {
        match self {
            Self::V1(controllers) => v1::read(controllers).map(|s| Stats::V1(Box::new(s))),
            Self::V2(path) => v2::read(path).map(|s| Stats::V2(Box::new(s))),
        }
    }

    /// Watches for processes killed because the group's memory limit was
    /// reached.
    ///
    /// # Errors
    /// `NotFound` when the group is gone; `Unsupported` when it has no memory
    /// controller.
    pub fn watch_oom(&self) -> crate::Result<OomWatch> {
        OomWatch::new(self)
    }

    /// Moves a process into the group.
    ///
    /// # Errors
    /// When the group or the process is gone.
    pub fn add_process(&self, pid: u32) -> crate::Result<()> {
        locate::add_process(self, pid)
    }

    /// The processes of the group and of all groups below it.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn processes(&self) -> crate::Result<Vec<u32>> {
        locate::processes(self)
    }
}
