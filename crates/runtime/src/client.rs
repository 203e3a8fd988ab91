//! The task service's methods, from our types to its messages and back.

use davit_protocols::convert::ttrpc::{any, any_from, time};
use davit_protocols::convert::unset_time;
use davit_protocols::ttrpc::process::Status as WireStatus;
use davit_protocols::ttrpc::task;
use davit_types::{Any, ContainerId, ExecId, Labels};
use protobuf::well_known_types::any::Any as WireAny;
use protobuf::well_known_types::empty::Empty;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{EnumOrUnknown, MessageField};

use crate::connection::Connection;
use crate::{
    CreateOptions, Deadline, Error, ExecOptions, Exit, Process, ProcessState, Status, Stdio,
};

/// The calls to one task of a shim.
pub(crate) struct Client<'a> {
    pub connection: &'a Connection,
    pub id: &'a ContainerId,
    pub deadline: Deadline,
}

impl Client<'_> {
    /// The id, as it is sent.
    fn id(&self) -> String {
        self.id.to_string()
    }

    pub async fn create(
        &self,
        bundle: &str,
        checkpoint: String,
        options: &CreateOptions,
    ) -> Result<u32, Error> {
        let stdio = options.stdio.clone();
        let request = task::CreateTaskRequest {
            id: self.id(),
            bundle: bundle.to_owned(),
            rootfs: options.rootfs.iter().cloned().map(Into::into).collect(),
            terminal: stdio.terminal,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            checkpoint,
            options: optional(options.for_shim().cloned()),
            ..Default::default()
        };
        let answer: task::CreateTaskResponse = self.call("Create", &request).await?;
        Ok(answer.pid)
    }

    pub async fn start(&self, exec: Option<&ExecId>) -> Result<u32, Error> {
        let request =
            task::StartRequest { id: self.id(), exec_id: text(exec), ..Default::default() };
        let answer: task::StartResponse = self.call("Start", &request).await?;
        Ok(answer.pid)
    }

    pub async fn delete(&self, exec: Option<&ExecId>) -> Result<Exit, Error> {
        let request =
            task::DeleteRequest { id: self.id(), exec_id: text(exec), ..Default::default() };
        Ok(exit(self.call("Delete", &request).await?))
    }

    pub async fn exec(&self, exec: &ExecId, options: ExecOptions) -> Result<(), Error> {
        let request = task::ExecProcessRequest {
            id: self.id(),
            exec_id: exec.to_string(),
            terminal: options.stdio.terminal,
            stdin: options.stdio.stdin,
            stdout: options.stdio.stdout,
            stderr: options.stdio.stderr,
            spec: optional(options.spec),
            ..Default::default()
        };
        self.order("Exec", &request).await
    }

    pub async fn state(&self, exec: Option<&ExecId>) -> Result<ProcessState, Error> {
        let request =
            task::StateRequest { id: self.id(), exec_id: text(exec), ..Default::default() };
        let answer: task::StateResponse = self.call("State", &request).await?;
        Ok(ProcessState {
            id: exec.map_or_else(|| self.id(), ToString::to_string),
            pid: answer.pid,
            status: status(answer.status),
            exit_status: answer.exit_status,
            exited_at: moment(&answer.exited_at),
            stdio: Stdio {
                stdin: answer.stdin,
                stdout: answer.stdout,
                stderr: answer.stderr,
                terminal: answer.terminal,
            },
        })
    }

    pub async fn kill(&self, exec: Option<&ExecId>, signal: u32, all: bool) -> Result<(), Error> {
        let request = task::KillRequest {
            id: self.id(),
            exec_id: text(exec),
            signal,
            all,
            ..Default::default()
        };
        self.order("Kill", &request).await
    }

    pub async fn pause(&self) -> Result<(), Error> {
        self.order("Pause", &task::PauseRequest { id: self.id(), ..Default::default() }).await
    }

    pub async fn resume(&self) -> Result<(), Error> {
        self.order("Resume", &task::ResumeRequest { id: self.id(), ..Default::default() }).await
    }

    pub async fn processes(&self) -> Result<Vec<Process>, Error> {
        let request = task::PidsRequest { id: self.id(), ..Default::default() };
        let answer: task::PidsResponse = self.call("Pids", &request).await?;
        let process = |found: davit_protocols::ttrpc::process::ProcessInfo| Process {
            pid: found.pid,
            info: found.info.into_option().map(any_from),
        };
        Ok(answer.processes.into_iter().map(process).collect())
    }

    pub async fn resize_pty(
        &self,
        exec: Option<&ExecId>,
        width: u32,
        height: u32,
    ) -> Result<(), Error> {
        let request = task::ResizePtyRequest {
            id: self.id(),
            exec_id: text(exec),
            width,
            height,
            ..Default::default()
        };
        self.order("ResizePty", &request).await
    }

    pub async fn close_stdin(&self, exec: Option<&ExecId>) -> Result<(), Error> {
        let request = task::CloseIORequest {
            id: self.id(),
            exec_id: text(exec),
            stdin: true,
            ..Default::default()
        };
        self.order("CloseIO", &request).await
    }

    pub async fn checkpoint(&self, path: String, options: Option<Any>) -> Result<(), Error> {
        let request = task::CheckpointTaskRequest {
            id: self.id(),
            path,
            options: optional(options),
            ..Default::default()
        };
        self.order("Checkpoint", &request).await
    }

    pub async fn update(&self, resources: Option<Any>, annotations: &Labels) -> Result<(), Error> {
        let request = task::UpdateTaskRequest {
            id: self.id(),
            resources: optional(resources),
            annotations: annotations.clone().into_iter().collect(),
            ..Default::default()
        };
        self.order("Update", &request).await
    }

    pub async fn wait(&self, exec: Option<&ExecId>) -> Result<Exit, Error> {
        let request =
            task::WaitRequest { id: self.id(), exec_id: text(exec), ..Default::default() };
        let answer: task::WaitResponse = self.call("Wait", &request).await?;
        Ok(Exit { pid: 0, status: answer.exit_status, at: moment(&answer.exited_at) })
    }

    pub async fn stats(&self) -> Result<Option<Any>, Error> {
        let request = task::StatsRequest { id: self.id(), ..Default::default() };
        let answer: task::StatsResponse = self.call("Stats", &request).await?;
        Ok(answer.stats.into_option().map(any_from))
    }

    /// Asks the shim to go, unless other containers are left in it.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let request = task::ShutdownRequest { id: self.id(), ..Default::default() };
        self.order("Shutdown", &request).await
    }

    async fn order<Q: protobuf::Message>(&self, method: &str, request: &Q) -> Result<(), Error> {
        self.call::<Q, Empty>(method, request).await.map(drop)
    }

    async fn call<Q: protobuf::Message, A: protobuf::Message>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<A, Error> {
        self.connection.call(method, request, self.deadline).await
    }
}

/// What a Delete answered, by call or by command.
pub(crate) fn exit(answer: task::DeleteResponse) -> Exit {
    Exit { pid: answer.pid, status: answer.exit_status, at: moment(&answer.exited_at) }
}

fn text(exec: Option<&ExecId>) -> String {
    exec.map(ToString::to_string).unwrap_or_default()
}

fn optional(message: Option<Any>) -> MessageField<WireAny> {
    message.map(any).into()
}

/// The moment, unless it is Go's zero time or none at all.
fn moment(stamp: &MessageField<Timestamp>) -> Option<std::time::SystemTime> {
    let stamp = stamp.as_ref()?;
    time("exited_at", stamp).ok().filter(|at| *at != unset_time())
}

fn status(status: EnumOrUnknown<WireStatus>) -> Status {
    match status.enum_value() {
        Ok(WireStatus::CREATED) => Status::Created,
        Ok(WireStatus::RUNNING) => Status::Running,
        Ok(WireStatus::STOPPED) => Status::Stopped,
        Ok(WireStatus::PAUSED) => Status::Paused,
        Ok(WireStatus::PAUSING) => Status::Pausing,
        Ok(WireStatus::UNKNOWN) | Err(_) => Status::Unknown,
    }
}
