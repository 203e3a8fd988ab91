//! Checkpoint (containerd, `process/init.go`).

use std::path::PathBuf;

use davit_protocols::ttrpc::options as runc;
use davit_shim::{Failure, task};
use davit_types::ErrorKind;
use protobuf::Message;
use runc_client::CheckpointOptions;

use crate::criu;
use crate::fixed::Fixed;

/// Saves the container whose init is `pid`. CRIU's log goes to the bundle when
/// that fails.
///
/// # Errors
/// Options that cannot be read; the first line of what the runtime says.
pub async fn checkpoint(
    fixed: &Fixed,
    pid: u32,
    request: &task::CheckpointTaskRequest,
) -> Result<(), Failure> {
    let asked = options(request)?;
    let own_work = asked.work_path.is_empty();
    let work: PathBuf = match asked.work_path.as_str() {
        "" => fixed.bundle.join("work/criu-work"),
        path => path.into(),
    };
    let options = CheckpointOptions {
        image_path: Some(request.path.clone().into()),
        work_path: Some(work.clone()),
        leave_running: !asked.exit,
        tcp_established: asked.open_tcp,
        ext_unix_sockets: asked.external_unix_sockets,
        shell_job: asked.terminal,
        file_locks: asked.file_locks,
        empty_namespaces: asked.empty_namespaces,
        ..CheckpointOptions::default()
    };
    let image = PathBuf::from(&request.path);
    let runtime = criu::external_streams(pid)
        .and_then(|streams| criu::to_save(&fixed.runtime, &fixed.bundle, &image, &streams))
        .map_err(|error| Failure::new(ErrorKind::Unknown, format!("checkpoint: {error}")))?;
    let saved = runtime.checkpoint(&fixed.id, options).await;
    let saved = saved.map_err(|error| {
        let log = fixed.bundle.join("criu-dump.log");
        if let Err(error) = std::fs::copy(work.join("dump.log"), &log) {
            log::error!(container:% = fixed.id, error:%; "failed to copy dump.log to criu-dump.log");
        }
        let said = error.to_string();
        let first = said.lines().next().unwrap_or_default();
        Failure::new(ErrorKind::Unknown, format!("{first} path= {}", log.display()))
    });
    if own_work {
        let _ = std::fs::remove_dir_all(&work);
    }
    saved
}

fn options(request: &task::CheckpointTaskRequest) -> Result<runc::CheckpointOptions, Failure> {
    let Some(any) = request.options.as_ref() else {
        return Ok(runc::CheckpointOptions::default());
    };
    runc::CheckpointOptions::parse_from_bytes(&any.value)
        .map_err(|error| Failure::invalid(format!("checkpoint options: {error}")))
}
