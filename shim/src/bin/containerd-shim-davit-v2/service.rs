//! The task service: every method is one event for the shim's loop.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;

use davit_shim::cli::Invocation;
use davit_shim::{AfterShutdown, Cleaned, Context, Failure, Reaper, Shim, task};
use davit_types::{Any, ErrorKind};
use tokio::sync::{mpsc, oneshot};

use crate::event::{Call, Event, Reply};
use crate::group::Group;
use crate::options::Options;
use crate::{cleanup, info};

/// How many events may wait for the loop; further senders wait, too.
const EVENT_QUEUE: usize = 64;

/// The shim for runc-compatible runtimes.
pub struct RuncShim {
    events: mpsc::Sender<Event>,
    containers: Rc<Cell<usize>>,
}

impl RuncShim {
    /// Hands a call to the loop and waits for its answer.
    async fn call<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let ended = |_| Failure::new(ErrorKind::Unavailable, "the shim is ending");
        let event = Event::Call(Box::new(call(reply)));
        self.events.send(event).await.map_err(|_| ended(()))?;
        answer.await.map_err(|_| ended(()))?
    }
}

impl Shim for RuncShim {
    const NAME: &'static str = "io.containerd.davit.v2";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    async fn new(context: Context) -> Result<Self, Failure> {
        // Whoever starts a shim creates a container next.
        davit_sys::cgroup::hasten_moves();
        let (events, queue) = mpsc::channel(EVENT_QUEUE);
        let containers = Rc::new(Cell::new(0));
        let group = Group::new(context, events.clone(), containers.clone());
        tokio::task::spawn_local(group.run(queue));
        Ok(Self { events, containers })
    }

    fn is_idle(&self) -> bool {
        self.containers.get() == 0
    }

    async fn create(
        &self,
        request: task::CreateTaskRequest,
    ) -> Result<task::CreateTaskResponse, Failure> {
        self.call(|reply| Call::Create(request, reply)).await
    }

    async fn start(&self, request: task::StartRequest) -> Result<task::StartResponse, Failure> {
        self.call(|reply| Call::Start(request, reply)).await
    }

    async fn delete(&self, request: task::DeleteRequest) -> Result<task::DeleteResponse, Failure> {
        self.call(|reply| Call::Delete(request, reply)).await
    }

    async fn state(&self, request: task::StateRequest) -> Result<task::StateResponse, Failure> {
        self.call(|reply| Call::State(request, reply)).await
    }

    async fn kill(&self, request: task::KillRequest) -> Result<(), Failure> {
        self.call(|reply| Call::Kill(request, reply)).await
    }

    async fn wait(&self, request: task::WaitRequest) -> Result<task::WaitResponse, Failure> {
        self.call(|reply| Call::Wait(request, reply)).await
    }

    async fn pids(&self, request: task::PidsRequest) -> Result<task::PidsResponse, Failure> {
        self.call(|reply| Call::Pids(request, reply)).await
    }

    async fn connect(
        &self,
        request: task::ConnectRequest,
    ) -> Result<task::ConnectResponse, Failure> {
        self.call(|reply| Call::Connect(request, reply)).await
    }

    async fn shutdown(&self, request: task::ShutdownRequest) -> Result<AfterShutdown, Failure> {
        self.call(|reply| Call::Shutdown(request, reply)).await
    }

    async fn exec(&self, request: task::ExecProcessRequest) -> Result<(), Failure> {
        self.call(|reply| Call::Exec(request, reply)).await
    }

    async fn resize_pty(&self, request: task::ResizePtyRequest) -> Result<(), Failure> {
        self.call(|reply| Call::ResizePty(request, reply)).await
    }

    async fn close_io(&self, request: task::CloseIORequest) -> Result<(), Failure> {
        self.call(|reply| Call::CloseIo(request, reply)).await
    }

    async fn pause(&self, request: task::PauseRequest) -> Result<(), Failure> {
        self.call(|reply| Call::Pause(request, reply)).await
    }

    async fn resume(&self, request: task::ResumeRequest) -> Result<(), Failure> {
        self.call(|reply| Call::Resume(request, reply)).await
    }

    async fn checkpoint(&self, request: task::CheckpointTaskRequest) -> Result<(), Failure> {
        self.call(|reply| Call::Checkpoint(request, reply)).await
    }

    async fn update(&self, request: task::UpdateTaskRequest) -> Result<(), Failure> {
        self.call(|reply| Call::Update(request, reply)).await
    }

    async fn stats(&self, request: task::StatsRequest) -> Result<task::StatsResponse, Failure> {
        self.call(|reply| Call::Stats(request, reply)).await
    }

    async fn cleanup(invocation: &Invocation, reaper: &Reaper) -> Result<Cleaned, Failure> {
        cleanup::cleanup(invocation, reaper).await
    }

    async fn info(
        options: Option<Any>,
        reaper: &Reaper,
    ) -> Result<(Option<Any>, Option<Any>), Failure> {
        info::info(options, reaper).await
    }

    fn cgroup(options: &Any) -> Option<PathBuf> {
        // Options that cannot be read fail Create, with words.
        let group = Options::from_any(Some(options)).ok()?.shim_cgroup;
        (!group.is_empty()).then(|| group.into())
    }
}
