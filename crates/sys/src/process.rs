//! Processes: the subreaper, collecting exits, pidfds.
//!
//! A pidfd names one process for as long as it is open, a pid only until the
//! process is reaped; signals to anything that is not the caller's own unreaped
//! child go through a [`PidFd`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::{Error, Result};

/// A child that has been waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// Its process id, free for reuse from now on.
    pub pid: u32,
    /// The exit code, or 128 + the signal's number.
    pub status: u32,
    /// The signal that ended it, 0 when it exited.
    pub signal: u32,
}

/// Makes this process the parent of its descendants' orphans
/// (`PR_SET_CHILD_SUBREAPER`).
///
/// # Errors
/// The kernel's.
pub fn set_subreaper() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).map_err(io::Error::from)
}

/// Collects one exited child, whichever. `None` when none has exited or there
/// is no child.
pub fn reap_any() -> Option<Reaped> {
    wait(libc::P_ALL, 0).ok().flatten()
}

/// One waitid(2) that waits for nothing. Called directly because the safe
/// wrapper loses the exit of a process killed by a real-time signal.
fn wait(id_type: libc::idtype_t, id: u32) -> io::Result<Option<Reaped>> {
    loop {
        // SAFETY: siginfo_t is plain data for which all zeroes is valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one siginfo_t, which outlives the call.
        let result =
            unsafe { libc::waitid(id_type, id, &raw mut info, libc::WEXITED | libc::WNOHANG) };
        if result != 0 {
            match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => continue,
                e => return Err(e),
            }
        }
        // SAFETY: waitid filled in the fields of SIGCHLD, or left zeroes.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        let (status, signal) = match info.si_code {
            libc::CLD_EXITED => (status as u32, 0),
            _ => (128 + status as u32, status as u32),
        };
        return Ok((pid != 0).then_some(Reaped { pid: pid as u32, status, signal }));
    }
}

/// Whether `pid` is a child of this process that has not exited. Waits for
/// nothing and reaps nothing.
pub fn is_living_child(pid: u32) -> bool {
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::WEXITED;
    matches!(waitid(Id::Pid(Pid::from_raw(pid as i32)), flags), Ok(WaitStatus::StillAlive))
}

/// A file descriptor that stands for one process. Readable (polls as
/// readable) once the process has exited.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
    pid: u32,
}

impl PidFd {
    /// Opens the process that has this pid now.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn open(pid: u32) -> Result<Self> {
        // SAFETY: the call takes two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
        if fd < 0 {
            return Err(Error::process("pidfd_open", pid, io::Error::last_os_error()));
        }
        // SAFETY: the kernel just returned this descriptor to us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Self { fd, pid })
    }

    /// The pid it was opened with.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal; 0 only checks.
    ///
    /// # Errors
    /// `NotFound` when the process has exited, `InvalidArgument` for a number
    /// that is no signal.
    pub fn send_signal(&self, signal: i32) -> Result<()> {
        // SAFETY: a null siginfo is documented to mean "as kill(2) does";
        // the descriptor is open as long as `self` is.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(Error::process("pidfd_send_signal", self.pid, io::Error::last_os_error())),
        }
    }

    /// Waits until the process, a child, has exited, and collects it.
    ///
    /// # Errors
    /// `ECHILD` when it is no child, or was collected elsewhere.
    pub fn wait(&self) -> Result<Reaped> {
        loop {
            if let Some(reaped) = self.try_wait()? {
                return Ok(reaped);
            }
            let mut poll = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            match nix::poll::poll(&mut poll, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(Error::process("poll", self.pid, e)),
            }
        }
    }

    /// Collects the process if it is a child and has exited. `None` while it
    /// runs.
    ///
    /// # Errors
    /// `ECHILD` when it is no child, or was collected elsewhere.
    pub fn try_wait(&self) -> Result<Option<Reaped>> {
        wait(libc::P_PIDFD, self.fd.as_raw_fd() as u32)
            .map_err(|e| Error::process("waitid", self.pid, e))
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sets how readily the kernel kills `pid` when memory is short, -1000 to
/// 1000 (`/proc/PID/oom_score_adj`).
///
/// # Errors
/// Lowering needs CAP_SYS_RESOURCE.
pub fn set_oom_score_adj(pid: u32, score: i32) -> Result<()> {
    let path = format!("/proc/{pid}/oom_score_adj");
    std::fs::write(&path, score.to_string()).map_err(|e| Error::path("write", path, e))
}

/// Reads what [`set_oom_score_adj`] sets.
///
/// # Errors
/// When there is no such process.
pub fn oom_score_adj(pid: u32) -> Result<i32> {
    let path = format!("/proc/{pid}/oom_score_adj");
    let text = std::fs::read_to_string(&path).map_err(|e| Error::path("read", &path, e))?;
    text.trim()
        .parse()
        .map_err(|_| Error::Malformed { path: path.into(), reason: format!("{text:?}") })
}

/// Puts this process into a core-scheduling group of its own
/// (`PR_SCHED_CORE_CREATE` for the process group), so that it shares no CPU
/// core with strangers.
///
/// # Errors
/// `ENODEV` or `EINVAL` where the kernel or the CPU has no such thing.
pub fn create_sched_core() -> Result<()> {
    const PIDTYPE_PGID: libc::c_ulong = 2;
    // SAFETY: with these arguments the call takes integers only.
    let result =
        unsafe { libc::prctl(libc::PR_SCHED_CORE, libc::PR_SCHED_CORE_CREATE, 0, PIDTYPE_PGID, 0) };
    match result {
        0 => Ok(()),
        _ => Err(Error::call("prctl PR_SCHED_CORE", io::Error::last_os_error())),
    }
}

/// Marks every descriptor from `first` on close-on-exec, so that none of them
/// reaches a program that is started from now on. Descriptors that are
/// handed over as standard streams are not affected. Does nothing on kernels
/// before 5.11.
pub fn close_on_exec_from(first: u32) {
    // SAFETY: integers only; with this flag no descriptor is closed now.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// How many files this process may open at most after [`raise_open_files`].
const OPEN_FILES_MAX: u64 = 1 << 20;

/// The limit that this process was started with, once it was raised.
static OPEN_FILES_BEFORE: OnceLock<u64> = OnceLock::new();

/// Lets this process open as many files as it is allowed to, up to 2^20
/// (`RLIMIT_NOFILE`; what services are started with, 1024, is meant for
/// programs that use select(2)). Go programs do the same when they start.
///
/// # Errors
/// The kernel's.
pub fn raise_open_files() -> Result<()> {
    let failed = |errno: nix::Error| Error::call("raise RLIMIT_NOFILE", errno);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    let wanted = hard.min(OPEN_FILES_MAX);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).map_err(failed)?;
        OPEN_FILES_BEFORE.get_or_init(|| soft);
    }
    Ok(())
}

/// Has `command` start with the limit that this process was started with,
/// where [`raise_open_files`] has raised it: containers inherit it.
pub fn restore_open_files(command: &mut Command) {
    let Some(&before) = OPEN_FILES_BEFORE.get() else { return };
    let restore = move || {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        Ok(setrlimit(Resource::RLIMIT_NOFILE, before.min(hard), hard)?)
    };
    // SAFETY: runs between fork and exec, and does nothing there but two
    // system calls on values that were copied: it allocates and locks nothing.
    unsafe {
        command.pre_exec(restore);
    }
}

/// Has threads share two heaps, in place of up to eight for each CPU, none of
/// which ever shrinks to nothing. For programs with many threads that hardly
/// allocate at the same time; to be called before they start. A no-op with C
/// libraries other than glibc.
pub fn share_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes integers, and its own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Gives freed heap memory back to the kernel. Worth calling once after
/// start-up, before a process settles down to wait. A no-op with C libraries
/// other than glibc.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's malloc_trim takes its own locks and frees only what is
    // free already.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of this program's code, as far as it is mapped: what is still in
/// use comes back from the page cache by itself, at some microseconds a piece;
/// what only a rare job has called does not. For after such a job.
pub fn unmap_idle_code() {
    let Ok(program) = std::fs::read_link("/proc/self/exe") else { return };
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    let suffix = format!(" {}", program.display());
    for line in maps.lines().filter(|line| line.ends_with(&suffix) && line.contains(" r-xp ")) {
        let Some((start, end)) = line.split(' ').next().and_then(|range| range.split_once('-'))
        else {
            continue;
        };
        let address = |text| usize::from_str_radix(text, 16);
        let (Ok(start), Ok(end)) = (address(start), address(end)) else { continue };
        // SAFETY: the range is a mapping of our own program's file that cannot
        // be written to and never was, being position-independent: whatever is
        // dropped is read again from the file, with the same contents, when
        // any thread touches it. Code is not unmapped before we end.
        unsafe {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use davit_types::{ErrorKind, Kind};

    /// Kilobytes of this process's code that are mapped.
    fn code_mapped() -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let program = std::env::current_exe().unwrap().display().to_string();
        let of_code = maps.split_inclusive("VmFlags").find(|map| {
            map.lines().any(|line| line.contains(" r-xp ") && line.ends_with(&program))
        });
        let size = of_code.unwrap().lines().rev().find_map(|line| line.strip_prefix("Rss:"));
        size.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn code_that_was_let_go_of_still_runs() {
        let before = code_mapped();
        unmap_idle_code();
        let after = code_mapped();
        assert!(after < before, "{before} kB before, {after} kB after");
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "waited for through the pidfd")]
    fn exits_and_signals_are_told_apart() {
        let child = Command::new("sh").args(["-c", "exit 9"]).spawn().unwrap();
        let process = PidFd::open(child.id()).unwrap();
        let reaped = process.wait().unwrap();
        assert_eq!((reaped.pid, reaped.status, reaped.signal), (child.id(), 9, 0));

        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = PidFd::open(child.id()).unwrap();
        assert!(is_living_child(child.id()));
        assert_eq!(process.try_wait().unwrap(), None);
        // A real-time signal, which has no name.
        process.send_signal(40).unwrap();
        let reaped = process.wait().unwrap();
        assert_eq!((reaped.status, reaped.signal), (168, 40));
        assert!(!is_living_child(child.id()));
        assert_eq!(process.send_signal(0).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(process.wait().unwrap_err().errno(), Some(libc::ECHILD));
    }

    #[test]
    fn missing_processes_and_bad_signals_are_errors() {
        let missing = u32::MAX >> 1;
        assert_eq!(PidFd::open(missing).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(oom_score_adj(missing).is_err());
        let ours = PidFd::open(std::process::id()).unwrap();
        assert_eq!(ours.send_signal(1000).unwrap_err().kind(), ErrorKind::InvalidArgument);
        ours.send_signal(0).unwrap();
    }

    #[test]
    fn scores_are_read_back() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        set_oom_score_adj(child.id(), 700).unwrap();
        assert_eq!(oom_score_adj(child.id()).unwrap(), 700);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn this_process_becomes_a_subreaper() {
        set_subreaper().unwrap();
        assert!(nix::sys::prctl::get_child_subreaper().unwrap());
    }

    #[test]
    fn a_raised_limit_is_not_inherited() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        // Other tests of this process need fewer than that.
        let low = soft.min(hard - 1).min(512);
        setrlimit(Resource::RLIMIT_NOFILE, low, hard).unwrap();
        raise_open_files().unwrap();
        let raised = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raised, (hard.min(OPEN_FILES_MAX), hard));
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -S -n"]);
        restore_open_files(&mut command);
        let seen = command.output().unwrap().stdout;
        assert_eq!(String::from_utf8(seen).unwrap().trim(), low.to_string());
    }
}
