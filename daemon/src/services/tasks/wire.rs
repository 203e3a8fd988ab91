//! What the tasks service reads and writes.

use std::time::{Duration, SystemTime};

use davit_protocols::convert::grpc::{any, any_from, timestamp, unpack};
use davit_protocols::convert::{is, unset_time};
use davit_protocols::grpc::containerd::runc::v1 as runc;
use davit_protocols::grpc::containerd::services::tasks::v1 as api;
use davit_protocols::grpc::containerd::v1::types as wire;
use davit_runtime::{Deadline, Exit, Process, ProcessState, Status as TaskStatus};
use davit_types::ExecId;
use tonic::{Request, Status};

/// When the caller gives up: its `grpc-timeout`, as gRPC over HTTP/2 has it
/// (at most eight digits and a unit).
pub(super) fn deadline<T>(request: &Request<T>) -> Deadline {
    let header = request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok());
    header.and_then(timeout).map_or(Deadline::NEVER, Deadline::after)
}

fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The exec that a call names; none for the init. A name that no exec can
/// have does not exist.
pub(super) fn exec_id(name: &str) -> Result<Option<ExecId>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    let unknown = |_| Status::not_found(format!("process does not exist {name}: not found"));
    ExecId::new(name).map(Some).map_err(unknown)
}

pub(super) fn no_exec_id() -> Status {
    Status::invalid_argument("exec id cannot be empty")
}

/// A moment; Go's zero time where there is none.
pub(super) fn stamp(at: Option<SystemTime>) -> prost_types::Timestamp {
    timestamp(at.unwrap_or_else(unset_time))
}

pub(super) fn deleted(id: String, exit: Exit) -> api::DeleteResponse {
    api::DeleteResponse {
        id,
        pid: exit.pid,
        exit_status: exit.status,
        exited_at: Some(stamp(exit.at)),
    }
}

pub(super) fn process(state: ProcessState) -> wire::Process {
    let status = match state.status {
        TaskStatus::Unknown => wire::Status::Unknown,
        TaskStatus::Created => wire::Status::Created,
        TaskStatus::Running => wire::Status::Running,
        TaskStatus::Stopped => wire::Status::Stopped,
        TaskStatus::Paused => wire::Status::Paused,
        TaskStatus::Pausing => wire::Status::Pausing,
    };
    wire::Process {
        id: state.id,
        pid: state.pid,
        status: status.into(),
        stdin: state.stdio.stdin,
        stdout: state.stdio.stdout,
        stderr: state.stdio.stderr,
        terminal: state.stdio.terminal,
        exit_status: state.exit_status,
        exited_at: Some(stamp(state.exited_at)),
        ..Default::default()
    }
}

pub(super) fn process_info(process: Process) -> wire::ProcessInfo {
    wire::ProcessInfo { pid: process.pid, info: process.info.map(any) }
}

/// What the daemon itself takes from a task's options, where they are runc's.
#[derive(Default)]
pub(super) struct TaskOptions {
    pub criu_image_path: String,
    pub api_address: String,
    pub api_version: u32,
}

impl TaskOptions {
    pub fn of(options: Option<&prost_types::Any>) -> Self {
        let Some(options) = options.cloned().map(any_from) else { return Self::default() };
        let Ok(options) = unpack::<runc::Options>(&options) else { return Self::default() };
        Self {
            criu_image_path: options.criu_image_path,
            api_address: options.task_api_address,
            api_version: options.task_api_version,
        }
    }
}

/// Where the caller wants a checkpoint, when it does not want it in the
/// content store.
pub(super) fn checkpoint_path(
    options: Option<&prost_types::Any>,
) -> Result<Option<String>, Status> {
    let Some(options) = options.cloned().map(any_from) else { return Ok(None) };
    if !is(&options, "containerd.runc.v1.CheckpointOptions") {
        return Err(Status::invalid_argument(format!(
            "invalid task checkpoint option {:?}: invalid argument",
            options.type_url
        )));
    }
    let options: runc::CheckpointOptions = unpack(&options).map_err(super::status)?;
    Ok(Some(options.image_path).filter(|path| !path.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("15m", Some(Duration::from_millis(15))),
            ("7u", Some(Duration::from_micros(7))),
            ("100n", Some(Duration::from_nanos(100))),
            ("", None),
            ("S", None),
            ("12", None),
            ("123456789S", None),
            ("-1S", None),
            ("1é", None),
        ] {
            assert_eq!(timeout(text), expected, "{text}");
        }
    }

    #[test]
    fn a_name_that_no_exec_has_is_not_found() {
        assert_eq!(exec_id("").unwrap(), None);
        let refusal = exec_id("../x").unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::NotFound);
        assert_eq!(refusal.message(), "process does not exist ../x: not found");
    }
}
