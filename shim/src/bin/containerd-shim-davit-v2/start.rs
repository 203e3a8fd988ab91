//! Start: what runs beside the loop to start an init, to restore one and to
//! run an exec (containerd, `process/{init_state,exec}.go`).

use std::rc::Rc;

use davit_shim::{Failure, Watch};
use davit_sys::cgroup::Cgroup;
use davit_types::ErrorKind;
use runc_client::{ExecOptions, RestoreOptions, Stdio};

use crate::create::{
    PID_FILE, Restore, Taken, cgroup_of, console_socket, read_pid, take_console, take_over,
};
use crate::criu;
use crate::fixed::Fixed;
use crate::stdio::{self, Io, Request};

/// A process that runs now.
#[derive(Default)]
pub struct Started {
    /// What is new of it, unless it was an init that Create has made.
    pub born: Option<Born>,
    /// Where the container's resources are accounted, if that was not known.
    pub cgroup: Option<Cgroup>,
}

/// A process that Start has made.
pub struct Born {
    /// Its id.
    pub pid: u32,
    /// Its exit, to be awaited.
    pub exit: Watch,
    /// The shim's part of its streams; `None`: as they were.
    pub io: Option<Io>,
}

/// Restores an init from a checkpoint.
///
/// # Errors
/// The runtime's, CRIU's, or those of the streams; nothing is left running then.
pub async fn restore(
    fixed: Rc<Fixed>,
    restore: Restore,
    streams: Request,
) -> Result<Started, Failure> {
    let socket = streams.terminal.then(|| console_socket(&fixed.bundle)).transpose()?;
    let options = RestoreOptions {
        stdio: restore.stdio,
        console_socket: socket.as_ref().map(|socket| socket.path().to_owned()),
        pid_file: Some(fixed.bundle.join(PID_FILE)),
        detach: true,
        work_path: Some(fixed.criu_work_path()),
        no_pivot: fixed.options.no_pivot_root,
        // Not `no_subreaper`, which crun does not know: a runtime that detaches
        // leaves its children to us whether it is one or not.
        ..RestoreOptions::default()
    };
    let runtime = criu::to_restore(&fixed.runtime, &fixed.bundle, &restore.image)
        .map_err(|error| Failure::new(ErrorKind::Unknown, format!("restore: {error}")))?;
    let options = RestoreOptions { image_path: Some(restore.image), ..options };
    let window = fixed.reaper.keep_orphans();
    let restored = runtime.restore(&fixed.id, &fixed.bundle, options).await;
    restored.map_err(|error| fixed.failed("OCI runtime restore failed", &error))?;
    let Taken { pid, exit, io } = take_over(&fixed, socket, &streams).await?;
    drop(window);
    Ok(Started { born: Some(Born { pid, exit, io }), cgroup: cgroup_of(pid) })
}

/// What is needed to run an exec.
pub struct Exec {
    /// Its container.
    pub fixed: Rc<Fixed>,
    /// Its id.
    pub id: String,
    /// The OCI `Process`, as JSON.
    pub process: Vec<u8>,
    /// Its streams.
    pub streams: Request,
}

/// Runs an exec.
///
/// # Errors
/// The runtime's, or those of the streams; nothing is left running then.
pub async fn start_exec(exec: Exec) -> Result<Started, Failure> {
    let (stdio, mut io) = if exec.streams.terminal {
        (Stdio::default(), Io::default())
    } else {
        let owner = exec.fixed.owner(&exec.id);
        let opened = stdio::open(&exec.streams, &owner, &exec.fixed.reaper).await;
        opened.map_err(|e| stdio::not_opened(&e))?
    };
    match run_exec(&exec, stdio, &mut io).await {
        Ok((pid, exit)) => {
            let born = Born { pid, exit, io: Some(io) };
            Ok(Started { born: Some(born), cgroup: None })
        }
        Err(failure) => {
            io.close().await;
            Err(failure)
        }
    }
}

async fn run_exec(exec: &Exec, stdio: Stdio, io: &mut Io) -> Result<(u32, Watch), Failure> {
    let fixed = &exec.fixed;
    let socket = exec.streams.terminal.then(|| console_socket(&fixed.bundle)).transpose()?;
    let pid_file = fixed.bundle.join(format!("{}.pid", exec.id));
    let options = ExecOptions {
        stdio,
        console_socket: socket.as_ref().map(|socket| socket.path().to_owned()),
        pid_file: Some(pid_file.clone()),
        detach: true,
        ..ExecOptions::default()
    };
    let window = fixed.reaper.keep_orphans();
    let run = fixed.runtime.exec(&fixed.id, &exec.process, options).await;
    run.map_err(|error| fixed.failed("OCI runtime exec failed", &error))?;
    let pid = read_pid(&pid_file)?;
    let exit = fixed.reaper.watch(pid);
    drop(window);
    if let Some(socket) = socket {
        match take_console(&socket, &exec.streams, fixed, &exec.id).await {
            Ok(console) => *io = console,
            Err(failure) => {
                // Nobody could ever talk to it.
                if davit_sys::process::is_living_child(pid)
                    && let Ok(process) = davit_sys::process::PidFd::open(pid)
                {
                    let _ = process.send_signal(nix::libc::SIGKILL);
                }
                return Err(failure);
            }
        }
    }
    Ok((pid, exit))
}
