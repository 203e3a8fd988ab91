//! What a call can be told beside the container's id.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// One of the three standard streams of a process in a container.
#[derive(Debug, Default)]
pub enum Stream {
    /// `/dev/null`.
    #[default]
    Null,
    /// The calling program's own stream.
    Inherit,
    /// This descriptor. The client closes it once the runtime has been started.
    Fd(OwnedFd),
}

impl From<OwnedFd> for Stream {
    fn from(fd: OwnedFd) -> Self {
        Self::Fd(fd)
    }
}

/// The standard streams of a process in a container; `/dev/null` by default.
///
/// Ignored where a console socket is given: the process then gets the terminal.
#[derive(Debug, Default)]
pub struct Stdio {
    /// What the process reads.
    pub stdin: Stream,
    /// Where its output goes.
    pub stdout: Stream,
    /// Where its errors go. The runtime itself shares it (a descriptor that is
    /// given to a container is given to the runtime first), so a runtime may
    /// write its own error there; the client learns of errors from the log.
    pub stderr: Stream,
}

impl Stdio {
    /// The three streams of the calling program.
    pub fn inherit() -> Self {
        Self { stdin: Stream::Inherit, stdout: Stream::Inherit, stderr: Stream::Inherit }
    }
}

/// Options of [`Runc::create`](crate::Runc::create).
#[derive(Debug, Default)]
pub struct CreateOptions {
    /// The container's standard streams, when it has no terminal.
    pub stdio: Stdio,
    /// Socket that receives the terminal, see [`ConsoleSocket`](crate::ConsoleSocket).
    /// Needed when the process in `config.json` asks for a terminal.
    pub console_socket: Option<PathBuf>,
    /// File that receives the init process' pid, in the caller's pid namespace.
    pub pid_file: Option<PathBuf>,
    /// Descriptors that the container gets as 3, 4, and so on.
    pub preserved_fds: Vec<OwnedFd>,
    /// Do not use `pivot_root` (the root is on a ramdisk).
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Arguments put before the container's id.
    pub extra_args: Vec<OsString>,
}

/// Options of [`Runc::run`](crate::Runc::run). runc takes a console socket only
/// together with `detach`.
#[derive(Debug, Default)]
pub struct RunOptions {
    /// What creating the container needs.
    pub create: CreateOptions,
    /// Return as soon as the container runs, instead of when it has exited.
    pub detach: bool,
}

/// Options of [`Runc::exec`](crate::Runc::exec).
#[derive(Debug, Default)]
pub struct ExecOptions {
    /// The process' standard streams, when it has no terminal.
    pub stdio: Stdio,
    /// Socket that receives the terminal. Needed when the process asks for one
    /// and `detach` is set; runc takes it only then.
    pub console_socket: Option<PathBuf>,
    /// File that receives the process' pid, in the caller's pid namespace.
    pub pid_file: Option<PathBuf>,
    /// Descriptors that the process gets as 3, 4, and so on.
    pub preserved_fds: Vec<OwnedFd>,
    /// Return as soon as the process runs, instead of when it has exited.
    pub detach: bool,
    /// Arguments put before the container's id.
    pub extra_args: Vec<OsString>,
}

/// What CRIU does with cgroups (`--manage-cgroups-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CgroupsMode {
    /// Restore properties of what did not exist.
    Soft,
    /// Restore everything.
    Full,
    /// Restore everything and require that nothing existed.
    Strict,
    /// Leave cgroups alone.
    Ignore,
}

impl CgroupsMode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Full => "full",
            Self::Strict => "strict",
            Self::Ignore => "ignore",
        }
    }
}

/// Options of [`Runc::checkpoint`](crate::Runc::checkpoint).
///
/// A runtime that lacks an option refuses the call as unsupported.
#[derive(Debug, Default)]
pub struct CheckpointOptions {
    /// Directory that receives the images.
    pub image_path: Option<PathBuf>,
    /// Directory for CRIU's work files and log.
    pub work_path: Option<PathBuf>,
    /// Directory of an earlier pre-dump, relative to `image_path`.
    pub parent_path: Option<PathBuf>,
    /// Let the container run on.
    pub leave_running: bool,
    /// Allow open TCP connections.
    pub tcp_established: bool,
    /// Allow Unix sockets whose peer is outside.
    pub ext_unix_sockets: bool,
    /// Allow a process whose session leader is outside (a terminal).
    pub shell_job: bool,
    /// Dump file locks.
    pub file_locks: bool,
    /// Dump memory only; the container runs on.
    pub pre_dump: bool,
    /// Leave memory to be fetched by the restored side (userfaultfd).
    pub lazy_pages: bool,
    /// Descriptor to which CRIU writes a NUL byte when lazy pages are ready.
    pub status_fd: Option<OwnedFd>,
    /// `ADDRESS:PORT` of a page server.
    pub page_server: Option<String>,
    /// What to do with cgroups.
    pub cgroups_mode: Option<CgroupsMode>,
    /// Namespaces that are restored empty (`network`).
    pub empty_namespaces: Vec<String>,
    /// Deduplicate memory images.
    pub auto_dedup: bool,
    /// Arguments put before the container's id.
    pub extra_args: Vec<OsString>,
}

/// Options of [`Runc::restore`](crate::Runc::restore).
#[derive(Debug, Default)]
pub struct RestoreOptions {
    /// The container's standard streams, when it has no terminal.
    pub stdio: Stdio,
    /// Socket that receives the terminal.
    pub console_socket: Option<PathBuf>,
    /// File that receives the init process' pid.
    pub pid_file: Option<PathBuf>,
    /// Return as soon as the container runs, instead of when it has exited.
    pub detach: bool,
    /// Directory of the images.
    pub image_path: Option<PathBuf>,
    /// Directory for CRIU's work files and log.
    pub work_path: Option<PathBuf>,
    /// Restore open TCP connections.
    pub tcp_established: bool,
    /// Allow Unix sockets whose peer is outside.
    pub ext_unix_sockets: bool,
    /// Allow a process whose session leader is outside (a terminal).
    pub shell_job: bool,
    /// Restore file locks.
    pub file_locks: bool,
    /// Do not use `pivot_root`.
    pub no_pivot: bool,
    /// Do not adopt orphaned processes of the container.
    pub no_subreaper: bool,
    /// Fetch memory lazily.
    pub lazy_pages: bool,
    /// What to do with cgroups.
    pub cgroups_mode: Option<CgroupsMode>,
    /// Namespaces that are restored empty.
    pub empty_namespaces: Vec<String>,
    /// Deduplicate memory images.
    pub auto_dedup: bool,
    /// Security module profile to restore with, `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// Security module mount context to restore with.
    pub lsm_mount_context: Option<String>,
    /// Arguments put before the container's id.
    pub extra_args: Vec<OsString>,
}
