//! What the shim's loop is told: calls of clients, exits, and the ends of
//! what it has set going.

use davit_shim::{AfterShutdown, Exit, Failure, task};
use tokio::sync::oneshot;

use crate::create::Made;
use crate::start::Started;

/// Where the answer to a call goes. A caller that has gone is no error.
pub type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// One process of one container: the init when `exec` is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The container's id.
    pub container: String,
    /// The exec's id; empty for the init.
    pub exec: String,
}

impl Key {
    /// The init of a container.
    pub fn init(container: &str) -> Self {
        Self { container: container.to_owned(), exec: String::new() }
    }

    /// Whether this is the init.
    pub fn is_init(&self) -> bool {
        self.exec.is_empty()
    }
}

/// What the loop reacts to. Small: the queue keeps room for many.
pub enum Event {
    /// A client wants something.
    Call(Box<Call>),
    /// A process has ended, and been collected.
    Exited(Key, Exit),
    /// The terminal of a process that has ended is empty, or has been given
    /// up on.
    Drained(Key),
    /// What the init left behind has been killed.
    KilledRest(String),
    /// The container may have run out of memory.
    Oom(String),
    /// The exit of a deleted init does not come.
    Overdue(String),
    /// An operation that was set going has ended.
    Done(Key, Box<Outcome>),
}

/// How an operation ended, and who is to be told.
pub enum Outcome {
    /// Create.
    Created(Result<Made, Failure>),
    /// Start, of an init or an exec.
    Started(Result<Started, Failure>, Reply<task::StartResponse>),
    /// Pause.
    Paused(Result<(), Failure>, Reply<()>),
    /// Resume.
    Resumed(Result<(), Failure>, Reply<()>),
    /// Update.
    Updated(Result<(), Failure>, Reply<()>),
    /// Checkpoint, and the directory it went to.
    Checkpointed(Result<(), Failure>, String, Reply<()>),
    /// Delete, of an init or an exec.
    Deleted(Result<(), Failure>, Reply<task::DeleteResponse>),
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $answer:ty, $exec:expr;)*) => {
        /// A call of the task service and where its answer goes.
        pub enum Call {
            $($(#[$doc])* $name($request, Reply<$answer>),)*
        }

        impl Call {
            /// The container it is about.
            pub fn container(&self) -> &str {
                match self {
                    $(Self::$name(request, _) => &request.id,)*
                }
            }

            /// The process it is about.
            pub fn key(&self) -> Key {
                let exec = match self {
                    $(Self::$name(request, _) => {
                        let exec: fn(&$request) -> &str = $exec;
                        exec(request).to_owned()
                    })*
                };
                Key { container: self.container().to_owned(), exec }
            }

            /// Answers with a failure.
            pub fn refuse(self, failure: Failure) {
                match self {
                    $(Self::$name(_, reply) => drop(reply.send(Err(failure))),)*
                }
            }
        }
    };
}

calls! {
    /// Make a container.
    Create(task::CreateTaskRequest) -> task::CreateTaskResponse, |_| "";
    /// Run an init or an exec.
    Start(task::StartRequest) -> task::StartResponse, |r| &r.exec_id;
    /// Forget an init or an exec.
    Delete(task::DeleteRequest) -> task::DeleteResponse, |r| &r.exec_id;
    /// Describe a process.
    State(task::StateRequest) -> task::StateResponse, |r| &r.exec_id;
    /// Signal a process.
    Kill(task::KillRequest) -> (), |r| &r.exec_id;
    /// Tell of a process's exit.
    Wait(task::WaitRequest) -> task::WaitResponse, |r| &r.exec_id;
    /// List process ids.
    Pids(task::PidsRequest) -> task::PidsResponse, |_| "";
    /// Tell the shim's process id.
    Connect(task::ConnectRequest) -> task::ConnectResponse, |_| "";
    /// End if nothing is left.
    Shutdown(task::ShutdownRequest) -> AfterShutdown, |_| "";
    /// Add a process.
    Exec(task::ExecProcessRequest) -> (), |_| "";
    /// Change a terminal's size.
    ResizePty(task::ResizePtyRequest) -> (), |r| &r.exec_id;
    /// Close standard input.
    CloseIo(task::CloseIORequest) -> (), |r| &r.exec_id;
    /// Freeze.
    Pause(task::PauseRequest) -> (), |_| "";
    /// Thaw.
    Resume(task::ResumeRequest) -> (), |_| "";
    /// Save.
    Checkpoint(task::CheckpointTaskRequest) -> (), |_| "";
    /// Change limits.
    Update(task::UpdateTaskRequest) -> (), |_| "";
    /// Tell resource usage.
    Stats(task::StatsRequest) -> task::StatsResponse, |_| "";
}
