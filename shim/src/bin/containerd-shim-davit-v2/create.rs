//! Create: everything between the call and the container that could be
//! started (containerd, `runc/container.go` and `process/init.go`).
//!
//! Runs beside the loop and touches none of its state. When it fails, nothing
//! is left: no mount, no logger, no container in the runtime.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use davit_protocols::ttrpc::types;
use davit_shim::{Context, Failure, Watch, task};
use davit_sys::cgroup::{self, Cgroup};
use davit_sys::mount::Lingering;
use davit_types::{Any, ErrorKind, Kind, Mount};
use runc_client::{ConsoleSocket, CreateOptions, Stdio};

use crate::console::Console;
use crate::fixed::Fixed;
use crate::options::Options;
use crate::stdio::{self, Io, Request};
use crate::{blocking, runtime, spec, words};

/// Holds the pid of the init.
pub const PID_FILE: &str = "init.pid";
/// How long a runtime that has made a terminal may take to send it.
pub const CONSOLE_LIMIT: Duration = Duration::from_secs(10);

/// A container that was made.
pub struct Made {
    /// What does not change any more.
    pub fixed: Rc<Fixed>,
    /// The init's process id; 0 for one that Start will restore.
    pub pid: u32,
    /// The init's exit, to be awaited.
    pub exit: Option<Watch>,
    /// The shim's part of the init's streams.
    pub io: Io,
    /// The container's part, where Start needs it, for a restore.
    pub restore: Option<Restore>,
    /// Where its resources are accounted.
    pub cgroup: Option<Cgroup>,
    /// Whether other processes of it outlive its init.
    pub shares_pid_namespace: bool,
}

/// What Start needs to restore a container.
pub struct Restore {
    /// The directory of the checkpoint.
    pub image: PathBuf,
    /// The container's streams.
    pub stdio: Stdio,
}

/// What the client asked for of the init's streams.
pub fn streams(request: &task::CreateTaskRequest) -> Request {
    Request {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    }
}

/// Makes a container.
///
/// # Errors
/// Whatever fails on the way, in the Go shim's words.
pub async fn create(request: task::CreateTaskRequest, context: Context) -> Result<Made, Failure> {
    let bundle = PathBuf::from(&request.bundle);
    if !bundle.is_absolute() {
        return Err(Failure::invalid(format!("bundle {:?} is not absolute", request.bundle)));
    }
    let any = request
        .options
        .as_ref()
        .map(|any| Any { type_url: any.type_url.clone(), value: any.value.clone() });
    let options = Options::from_any(any.as_ref())?;
    options.save(&bundle).map_err(|e| failed("open", &bundle.join("options.json"), &e))?;
    let Context { reaper, sealed_runtime, .. } = context;
    let namespace = context.namespace.to_string();
    let mut runtime = runtime::client(&namespace, &bundle, &options, &reaper);
    if let Some(copy) = sealed_runtime {
        runtime = runtime.sealed_copy(copy);
    }
    let id = request.id.clone();
    let fixed = Fixed { id, namespace, bundle, options, runtime, reaper };
    let fixed = Rc::new(fixed);

    let mounts = request.rootfs.iter().map(mount).collect::<Vec<_>>();
    let rootfs = fixed.bundle.join("rootfs");
    let mounted = !mounts.is_empty();
    if mounted {
        let (mounts, rootfs) = (mounts, rootfs.clone());
        let run = blocking::run(move || mount_rootfs(&mounts, &rootfs)).await;
        run.map_err(|e| failed("mount", &fixed.bundle, &e))??;
    }
    let made = make(&request, fixed).await;
    if made.is_err() && mounted {
        unmount(rootfs).await;
    }
    made
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    let text = format!("{what} {}: {}", path.display(), words::of(error));
    Failure::new(ErrorKind::Unknown, text)
}

fn mount(mount: &types::Mount) -> Mount {
    Mount {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

fn mount_rootfs(mounts: &[Mount], rootfs: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o711).create(rootfs) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(failed("mkdir", rootfs, &e));
        }
        _ => {}
    }
    for (index, each) in mounts.iter().enumerate() {
        if let Err(error) = davit_sys::mount::mount(each, rootfs) {
            if index > 0 {
                // The first error is the one worth telling.
                let _ = unmount_rootfs(rootfs);
            }
            return Err(not_mounted(each, rootfs, &error));
        }
    }
    Ok(())
}

/// Says it as containerd 2.1 does (`core/mount/mount_linux.go`).
fn not_mounted(mount: &Mount, rootfs: &Path, error: &davit_sys::Error) -> Failure {
    let arguments = davit_sys::mount::arguments(&mount.options);
    let text = match (words::behind(error), arguments) {
        (Some(words), Ok((flags, data))) => format!(
            "mount source: {:?}, target: {:?}, fstype: {}, flags: {flags}, data: {data:?}, \
             err: {words}",
            mount.source,
            rootfs.join(mount.target.trim_start_matches('/')).components().as_path(),
            mount.kind,
        ),
        _ => error.full_message(),
    };
    Failure::new(ErrorKind::Unknown, format!("failed to mount rootfs component: {text}"))
}

/// Takes away every mount at or below `rootfs`; one that is in use is at
/// least taken out of the tree. What is answered may take long to drop.
pub fn unmount_rootfs(rootfs: &Path) -> Lingering {
    davit_sys::mount::unmount_early(rootfs).unwrap_or_else(|error| {
        log::warn!(rootfs:% = rootfs.display(), error:% = error.full_message(); "cannot unmount");
        Lingering::default()
    })
}

/// The same on a thread of its own, which alone waits for the disk.
pub async fn unmount(rootfs: PathBuf) {
    let shown = rootfs.display().to_string();
    if let Err(error) = blocking::run_first(move || ((), unmount_rootfs(&rootfs))).await {
        log::warn!(rootfs:% = shown, error:%; "cannot unmount");
    }
}

async fn make(request: &task::CreateTaskRequest, fixed: Rc<Fixed>) -> Result<Made, Failure> {
    let streams = streams(request);
    let shares_pid_namespace = spec::shares_pid_namespace(&fixed.bundle);
    let (stdio, io) = if streams.terminal {
        (Stdio::default(), Io::default())
    } else {
        let opened = stdio::open(&streams, &fixed.owner(&fixed.id), &fixed.reaper).await;
        opened.map_err(|e| stdio::not_opened(&e))?
    };
    let mut made =
        Made { fixed, pid: 0, exit: None, io, restore: None, cgroup: None, shares_pid_namespace };
    if request.checkpoint.is_empty() {
        match run_create(&mut made, &streams, stdio).await {
            Ok(()) => made.cgroup = cgroup_of(made.pid),
            Err(failure) => {
                made.io.close().await;
                return Err(failure);
            }
        }
    } else {
        made.restore = Some(Restore { image: request.checkpoint.clone().into(), stdio });
    }
    Ok(made)
}

async fn run_create(made: &mut Made, streams: &Request, stdio: Stdio) -> Result<(), Failure> {
    let fixed = made.fixed.clone();
    let socket = streams.terminal.then(|| console_socket(&fixed.bundle)).transpose()?;
    let options = CreateOptions {
        stdio,
        console_socket: socket.as_ref().map(|socket| socket.path().to_owned()),
        pid_file: Some(fixed.bundle.join(PID_FILE)),
        no_pivot: fixed.options.no_pivot_root,
        no_new_keyring: fixed.options.no_new_keyring,
        ..CreateOptions::default()
    };
    let window = fixed.reaper.keep_orphans();
    let created = fixed.runtime.create(&fixed.id, &fixed.bundle, options).await;
    created.map_err(|error| fixed.failed("OCI runtime create failed", &error))?;
    let taken = take_over(&fixed, socket, streams).await?;
    drop(window);
    made.pid = taken.pid;
    made.exit = Some(taken.exit);
    if let Some(io) = taken.io {
        made.io = io;
    }
    Ok(())
}

/// What a runtime has made, once it is ours.
pub struct Taken {
    /// The init's process id.
    pub pid: u32,
    /// The init's exit, to be awaited.
    pub exit: Watch,
    /// The shim's part of a terminal, if there is one.
    pub io: Option<Io>,
}

/// Takes over a container that the runtime has made. The window for its exit
/// is open.
///
/// # Errors
/// No pid file, no terminal, streams that cannot be opened; the container is
/// gone then.
pub async fn take_over(
    fixed: &Fixed,
    socket: Option<ConsoleSocket>,
    streams: &Request,
) -> Result<Taken, Failure> {
    let taken = async {
        let pid = read_pid(&fixed.bundle.join(PID_FILE))?;
        let io = match socket {
            Some(socket) => Some(take_console(&socket, streams, fixed, &fixed.id).await?),
            None => None,
        };
        Ok(Taken { pid, exit: fixed.reaper.watch(pid), io })
    };
    let taken: Result<Taken, Failure> = taken.await;
    if taken.is_err()
        && let Err(error) = fixed.runtime.delete(&fixed.id, true).await
    {
        log::warn!(container:% = fixed.id, error:%; "cannot delete what the runtime has made");
    }
    taken
}

/// A socket for the terminal.
///
/// # Errors
/// When it cannot be made.
pub fn console_socket(dir: &Path) -> Result<ConsoleSocket, Failure> {
    ConsoleSocket::new_in(dir)
        .map_err(|error| runtime::failed("failed to create OCI runtime console socket", &error))
}

/// Receives a terminal that the runtime has sent, and starts the copy.
///
/// # Errors
/// When none arrives, or the client's streams cannot be opened.
pub async fn take_console(
    socket: &ConsoleSocket,
    streams: &Request,
    fixed: &Fixed,
    id: &str,
) -> Result<Io, Failure> {
    let master = socket.receive(CONSOLE_LIMIT).await;
    let master =
        master.map_err(|error| runtime::failed("failed to retrieve console master", &error))?;
    Console::start(master, streams, &fixed.owner(id), &fixed.reaper).await
}

/// Reads a pid file.
///
/// # Errors
/// When the runtime has not written it.
pub fn read_pid(path: &Path) -> Result<u32, Failure> {
    runc_client::read_pid_file(path)
        .map_err(|error| runtime::failed("failed to retrieve OCI runtime container pid", &error))
}

/// Where a process's resources are accounted. That it cannot be found out
/// costs the container its statistics, no more.
pub fn cgroup_of(pid: u32) -> Option<Cgroup> {
    cgroup::of_pid(pid)
        .inspect_err(|error| log::warn!(pid, error:% = error.full_message(); "loading cgroup"))
        .ok()
}

/// The same failure with words before it.
pub fn prefixed(words: &str, failure: &Failure) -> Failure {
    Failure::new(failure.kind(), format!("{words}: {}", failure.message()))
}
