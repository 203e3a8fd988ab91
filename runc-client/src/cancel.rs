//! Ending a runtime process early.
//!
//! A runtime that is killed has no chance to undo what it did: cgroups and
//! mounts stay. But most of its time it waits for a child: a hook, the
//! container's init, a process that was executed. So its children are killed
//! first; it then sees a failure, cleans up and exits. Only if it does not do
//! so in time is it killed itself.

use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Signal, getpgid, kill_process_group, pidfd_open, pidfd_send_signal,
};

/// How long a runtime may take to clean up once its children were killed.
pub(crate) const CLEANUP_LIMIT: Duration = Duration::from_secs(2);

/// Kills the children of process `pid`, which is not yet reaped, and the other
/// members of the process group that it leads.
pub(crate) fn kill_children(pid: u32) {
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for child in pids.filter(|child| belongs_to(*child, pid)) {
        let Some(child_pid) = to_pid(child) else { continue };
        let Ok(pidfd) = pidfd_open(child_pid, PidfdFlags::empty()) else { continue };
        // The descriptor may be of another process that got the number since.
        if belongs_to(child, pid) {
            // It fails only when the process has exited.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

/// Whether `child` is another process, with `pid` as its parent or its group.
fn belongs_to(child: u32, pid: u32) -> bool {
    child != pid
        && std::fs::read_to_string(format!("/proc/{child}/stat"))
            .is_ok_and(|stat| parent_and_group(&stat).is_some_and(|ids| ids.contains(&pid)))
}

/// The parent's pid and the group from `/proc/PID/stat`.
fn parent_and_group(stat: &str) -> Option<[u32; 2]> {
    // The name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(1);
    Some([fields.next()?.parse().ok()?, fields.next()?.parse().ok()?])
}

/// Kills the group that process `pid`, not yet reaped, leads; if it leads one.
pub(crate) fn kill_group(pid: u32) {
    let Some(pid) = to_pid(pid) else { return };
    if getpgid(Some(pid)) == Ok(pid) {
        // It fails only when there is nobody left to be killed.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_parent_and_group() {
        let stat = "12 (a) b (c) S 34 56 78 0 -1";
        assert_eq!(parent_and_group(stat), Some([34, 56]));
        for broken in ["", "12 (a) S", "12 (a) S x 1", "12 (a S 1 2"] {
            assert_eq!(parent_and_group(broken), None);
        }
    }
}
