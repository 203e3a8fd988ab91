//! When a group runs out of memory.
//!
//! Version 1 tells by an eventfd that is registered for `memory.oom_control`.
//! It fires when the limit is hit, which is before the victim dies, and once
//! more when the group is removed. Version 2 counts kills in `memory.events`,
//! whose changes inotify reports.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::Cgroup;
use crate::{Error, Result};

/// What an [`OomWatch`] has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomEvent {
    /// Nothing since the last look.
    None,
    /// At least one process was killed.
    Kill,
    /// The group has been removed; nothing more will come.
    Gone,
}

/// Watches a group for kills. Its descriptor is non-blocking and becomes
/// readable when there may be something to [`read`](Self::read).
#[derive(Debug)]
pub struct OomWatch {
    source: Source,
    /// The file with the counter `oom_kill`.
    counter: PathBuf,
    /// Its value at the last look.
    killed: u64,
    /// A notification was reported that the counter does not show yet.
    ahead: bool,
}

#[derive(Debug)]
enum Source {
    Eventfd(EventFd),
    Inotify(Inotify),
}

impl OomWatch {
    pub(super) fn new(group: &Cgroup) -> Result<Self> {
        let (source, counter) = match group {
            Cgroup::V1(dirs) => {
                let dir = dirs.get("memory").ok_or(Error::Unsupported("no memory controller"))?;
                (register(dir)?, dir.join("memory.oom_control"))
            }
            Cgroup::V2(dir) => (watch(dir)?, dir.join("memory.events")),
        };
        let killed = kills(&counter)?.unwrap_or_default();
        Ok(Self { source, counter, killed, ahead: false })
    }

    /// What has happened since the last call. Does not wait. Also to be
    /// called once after the container's exit, before that is published.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&mut self) -> Result<OomEvent> {
        let notified = self.drain()?;
        let Some(killed) = kills(&self.counter)? else { return Ok(OomEvent::Gone) };
        let counted = killed > std::mem::replace(&mut self.killed, killed);
        let seen = match (notified, counted) {
            (true, counted) => {
                self.ahead = !counted;
                true
            }
            // The death that an earlier notification announced.
            (false, true) => !std::mem::take(&mut self.ahead),
            (false, false) => false,
        };
        Ok(if seen { OomEvent::Kill } else { OomEvent::None })
    }

    /// Empties the descriptor. Whether what was in it means a kill by itself.
    fn drain(&mut self) -> Result<bool> {
        match &self.source {
            Source::Eventfd(fd) => match fd.read() {
                Ok(count) => Ok(count > 0),
                Err(Errno::EAGAIN) => Ok(false),
                Err(e) => Err(Error::path("read events of", &self.counter, e)),
            },
            Source::Inotify(inotify) => loop {
                match inotify.read_events() {
                    Ok(events) if !events.is_empty() => {}
                    // The counter is what tells.
                    Ok(_) | Err(Errno::EAGAIN) => return Ok(false),
                    Err(e) => return Err(Error::path("read events of", &self.counter, e)),
                }
            },
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::Eventfd(fd) => fd.as_fd(),
            Source::Inotify(inotify) => inotify.as_fd(),
        }
    }
}

fn register(dir: &Path) -> Result<Source> {
    let path = dir.join("memory.oom_control");
    let control = std::fs::File::open(&path).map_err(|e| Error::path("open", &path, e))?;
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let fd = EventFd::from_value_and_flags(0, flags).map_err(|e| Error::call("eventfd", e))?;
    let path = dir.join("cgroup.event_control");
    std::fs::write(&path, format!("{} {}", fd.as_fd().as_raw_fd(), control.as_raw_fd()))
        .map_err(|e| Error::path("write", path, e))?;
    Ok(Source::Eventfd(fd))
}

fn watch(dir: &Path) -> Result<Source> {
    let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
    let inotify = Inotify::init(flags).map_err(|e| Error::call("inotify_init", e))?;
    // cgroup.events changes when the last process leaves, which is when the
    // group may be removed.
    for name in ["memory.events", "cgroup.events"] {
        let path = dir.join(name);
        inotify
            .add_watch(&path, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_DELETE_SELF)
            .map_err(|e| Error::path("watch", path, e))?;
    }
    Ok(Source::Inotify(inotify))
}

/// The counter, 0 where the kernel has none (before 4.13). `None`: the group
/// is gone.
fn kills(path: &Path) -> Result<Option<u64>> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let lines = text.lines().filter_map(|line| line.strip_prefix("oom_kill "));
            Ok(Some(lines.filter_map(|count| count.trim().parse::<u64>().ok()).sum()))
        }
        Err(e) if is_gone(&e) => Ok(None),
        Err(e) => Err(Error::path("read", path, e)),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn wait_readable(watch: &OomWatch) {
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(20_000u16)).unwrap(), 1, "nothing came");
    }

    /// A group that may have 8 MB, of the version that this machine has.
    fn small_group(name: &str) -> (Cgroup, PathBuf) {
        let name = format!("davit-{name}-{}", std::process::id());
        match super::super::of_pid(std::process::id()).unwrap() {
            Cgroup::V1(dirs) => {
                let dir = dirs.get("memory").expect("a memory controller").join(name);
                fs::create_dir(&dir).unwrap();
                fs::write(dir.join("memory.limit_in_bytes"), "8M").unwrap();
                (Cgroup::V1([("memory".to_owned(), dir.clone())].into()), dir)
            }
            Cgroup::V2(_) => {
                // Only the root may have processes and hand out controllers.
                let root = Path::new("/sys/fs/cgroup");
                fs::write(root.join("cgroup.subtree_control"), "+memory").unwrap();
                let dir = root.join(name);
                fs::create_dir(&dir).unwrap();
                fs::write(dir.join("memory.max"), "8M").unwrap();
                // There is none without swap.
                let _ = fs::write(dir.join("memory.swap.max"), "0");
                (Cgroup::V2(dir.clone()), dir)
            }
        }
    }

    /// Waits for a kill; version 2 also says that memory is short.
    fn wait_kill(watch: &mut OomWatch) {
        loop {
            wait_readable(watch);
            match watch.read().unwrap() {
                OomEvent::None => {}
                seen => return assert_eq!(seen, OomEvent::Kill),
            }
        }
    }

    fn remove(dir: &Path) {
        let deadline = Instant::now() + std::time::Duration::from_secs(10);
        while let Err(e) = fs::remove_dir(dir) {
            assert!(Instant::now() < deadline, "{e}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn kills_are_reported_once_and_removal_too() {
        let (group, dir) = small_group("oom");
        let mut watch = group.watch_oom().unwrap();
        assert_eq!(watch.read().unwrap(), OomEvent::None);
        let script = "echo $$ > \"$0\"/cgroup.procs && exec tail /dev/zero";
        let mut victim = Command::new("sh")
            .args(["-c", script])
            .arg(&dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_kill(&mut watch);
        victim.wait().unwrap();
        assert_eq!(watch.read().unwrap(), OomEvent::None, "one death, one report");
        remove(&dir);
        if matches!(group, Cgroup::V1(_)) {
            wait_readable(&watch);
        }
        assert_eq!(watch.read().unwrap(), OomEvent::Gone);
    }

    #[test]
    fn version_2_counts() {
        // The kernel's files stood in for by plain ones: this machine need
        // not have version 2. integration/ has the real thing, in a VM.
        let dir = tempfile::tempdir().unwrap();
        let write = |count| {
            let text = format!("low 0\nhigh 0\nmax 9\noom 1\noom_kill {count}\n");
            fs::write(dir.path().join("memory.events"), text).unwrap();
        };
        fs::write(dir.path().join("cgroup.events"), "populated 1\n").unwrap();
        write(2);
        let mut watch = Cgroup::V2(dir.path().to_owned()).watch_oom().unwrap();
        assert_eq!(watch.read().unwrap(), OomEvent::None);
        write(3);
        wait_readable(&watch);
        assert_eq!(watch.read().unwrap(), OomEvent::Kill);
        assert_eq!(watch.read().unwrap(), OomEvent::None);
        fs::remove_file(dir.path().join("memory.events")).unwrap();
        wait_readable(&watch);
        assert_eq!(watch.read().unwrap(), OomEvent::Gone);
    }
}
