//! Finding groups.
use super::Cgroup;
use crate::Result;

/// The group a process is in.
///
/// # Errors
/// `NotFound` when there is no such process.
pub fn of_pid(_pid: u32) -> Result<Cgroup> {
    todo!()
}

pub(super) fn add_process(_group: &Cgroup, _pid: u32) -> Result<()> {
    todo!()
}

pub(super) fn processes(_group: &Cgroup) -> Result<Vec<u32>> {
    todo!()
}

/// The group of this path below every hierarchy's mount point.
///
/// # Errors
/// `NotFound` when no hierarchy has it.
pub fn at(_path: &std::path::Path) -> Result<Cgroup> {
    todo!()
}
