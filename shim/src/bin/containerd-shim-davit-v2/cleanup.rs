//! The command `delete`: what is to be done when the shim is dead
//! (containerd, `manager/manager_linux.go`, Stop).

use std::path::{Path, PathBuf};

use davit_shim::cli::Invocation;
use davit_shim::{Cleaned, Failure, Reaper};

use crate::create::{PID_FILE, unmount_rootfs};
use crate::options::Options;
use crate::{exits, runtime};

/// Kills what is left of a container, deletes it in the runtime, unmounts its
/// root, and tells how it ended: as recorded, or killed just now.
///
/// # Errors
/// None: what fails is logged and the rest is done, because nobody else will.
pub async fn cleanup(invocation: &Invocation, reaper: &Reaper) -> Result<Cleaned, Failure> {
    let bundle = bundle(invocation);
    // What was recorded is read first: what is killed now was not recorded.
    let recorded = exits::recorded(&bundle, "");
    let options = Options::load(&bundle);
    let mut runtime = runtime::client(&invocation.namespace, &bundle, &options, reaper);
    if !bundle.is_dir() {
        // The runtime may still know a container whose bundle is gone.
        runtime = runtime.working_dir("/").temp_dir(std::env::temp_dir());
    }
    if let Err(error) = runtime.delete(&invocation.id, true).await
        && !runtime::is_not_found(&error)
    {
        log::warn!(container:% = invocation.id, error:%; "cannot delete the container");
    }
    drop(unmount_rootfs(&bundle.join("rootfs")));
    let pid = runc_client::read_pid_file(&bundle.join(PID_FILE)).unwrap_or_default();
    Ok(recorded.map_or_else(
        || Cleaned::killed(pid),
        |exit| Cleaned { pid: exit.pid, exit_status: exit.status, exited_at: exit.at },
    ))
}

/// The bundle: as named; or else the working directory, or its neighbour of
/// the container's id (a daemon that has lost the bundle runs the command
/// elsewhere in its state).
fn bundle(invocation: &Invocation) -> PathBuf {
    let cwd = std::env::current_dir().unwrap_or_default();
    if invocation.bundle.is_absolute() && invocation.bundle.is_dir() {
        return invocation.bundle.clone();
    }
    let neighbour = cwd.parent().unwrap_or(Path::new("/")).join(&invocation.id);
    if neighbour.is_dir() { neighbour } else { cwd }
}
