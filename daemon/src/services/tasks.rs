//! The service `containerd.services.tasks.v1.Tasks` (containerd,
//! `plugins/services/tasks/local.go`).
//!
//! A call names a container; what runs is its task. Where there is no task,
//! the error says whether there is a container, as containerd's does; where
//! there is one, the index is not asked.

mod checkpoint;
mod wire;

pub use checkpoint::extract;

use std::sync::Arc;

use davit_index::{Container, ContentStore, Index};
use davit_protocols::convert::grpc::{any, any_from};
use davit_protocols::grpc::containerd::services::tasks::v1 as api;
use davit_protocols::grpc::containerd::types::Metric;
use davit_runtime::{
    Checkpoint, CreateOptions, Deadline, Error, ExecOptions, Sandbox, Stdio, Tasks as Domain,
};
use davit_types::filter::{Adaptor, Filter};
use davit_types::{ContainerId, ErrorKind, ExecId, Kind as _, Namespace};
use tonic::{Request, Response, Status};

use super::{blocking, brief, lease, namespace, status};
use wire::{deadline, exec_id, process, stamp};

/// How long one task's statistics may take; the others do not wait longer.
const METRICS_LIMIT: std::time::Duration = std::time::Duration::from_secs(2);

/// Runs containers.
#[derive(Clone)]
pub struct Tasks {
    /// Says what the containers are.
    pub index: Arc<Index>,
    /// Keeps checkpoints.
    pub content: Arc<ContentStore>,
    /// Keeps what runs.
    pub tasks: Domain,
}

/// What every call to one task says.
struct Target {
    namespace: Namespace,
    /// As it was sent; no container has a name that is no identifier.
    name: String,
    id: Option<ContainerId>,
    exec: Option<ExecId>,
    deadline: Deadline,
}

impl Target {
    fn of<T>(request: &Request<T>, container: &str, exec: &str) -> Result<Self, Status> {
        Ok(Self {
            namespace: namespace(request)?,
            name: container.to_owned(),
            id: ContainerId::new(container).ok(),
            exec: exec_id(exec)?,
            deadline: deadline(request),
        })
    }

    /// The task's id; one that nobody has where the name is no identifier.
    fn id(&self) -> Result<&ContainerId, Missing> {
        self.id.as_ref().ok_or(Missing)
    }
}

/// There can be no task of this name.
struct Missing;

/// A failed call to a task, or none to call.
enum Failure {
    Missing,
    Task(Error),
}

impl From<Missing> for Failure {
    fn from(_: Missing) -> Self {
        Self::Missing
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound(_) => Self::Missing,
            error => Self::Task(error),
        }
    }
}

impl Tasks {
    fn container(&self, namespace: &Namespace, name: &str) -> Result<Container, Status> {
        brief(|| self.index.containers().get(namespace, name))
    }

    /// What the caller reads: no container, or a container without a task, or
    /// what went wrong.
    fn refusal(&self, target: &Target, failure: impl Into<Failure>) -> Status {
        match failure.into() {
            Failure::Task(error) => status(error),
            Failure::Missing => match self.container(&target.namespace, &target.name) {
                Err(refusal) => refusal,
                Ok(_) => Status::not_found(format!("task {} not found", target.name)),
            },
        }
    }

    /// Puts together what a new task is to be.
    async fn create_options(
        &self,
        target: &Target,
        request: api::CreateTaskRequest,
    ) -> Result<CreateOptions, Status> {
        let container = self.container(&target.namespace, &target.name)?;
        let named = wire::TaskOptions::of(request.options.as_ref());
        let checkpoint = match request.checkpoint {
            _ if !named.criu_image_path.is_empty() => Checkpoint::Path(named.criu_image_path),
            Some(descriptor) => self.unpack(&target.namespace, descriptor).await?,
            None => Checkpoint::None,
        };
        let sandbox = (!container.sandbox_id.is_empty()).then(|| Sandbox {
            id: container.sandbox_id.clone(),
            address: named.api_address,
            version: named.api_version,
        });
        let runtime = match request.runtime_path.is_empty() {
            true => container.runtime.name,
            false => request.runtime_path,
        };
        Ok(CreateOptions {
            spec: container.spec,
            rootfs: request.rootfs.into_iter().map(Into::into).collect(),
            stdio: Stdio {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            checkpoint,
            runtime,
            runtime_options: container.runtime.options,
            task_options: request.options.map(any_from),
            sandbox,
        })
    }
}

/// Calls one method of the domain on the target's task.
macro_rules! call {
    ($self:ident, $target:ident, $method:ident($($argument:expr),*)) => {{
        let answer = async {
            let (namespace, id) = (&$target.namespace, $target.id()?);
            let answer = $self.tasks.$method(namespace, id, $($argument,)* $target.deadline).await;
            Ok(answer?)
        };
        let answer: Result<_, Failure> = answer.await;
        match answer {
            Ok(answer) => answer,
            Err(failure) => return Err($self.refusal(&$target, failure)),
        }
    }};
}

#[tonic::async_trait]
impl api::tasks_server::Tasks for Tasks {
    async fn create(
        &self,
        request: Request<api::CreateTaskRequest>,
    ) -> Result<Response<api::CreateTaskResponse>, Status> {
        let target = Target::of(&request, &request.get_ref().container_id, "")?;
        let options = self.create_options(&target, request.into_inner()).await?;
        let pid = call!(self, target, create(options));
        Ok(Response::new(api::CreateTaskResponse { container_id: target.name, pid }))
    }

    async fn start(
        &self,
        request: Request<api::StartRequest>,
    ) -> Result<Response<api::StartResponse>, Status> {
        let message = request.get_ref();
        let target = Target::of(&request, &message.container_id, &message.exec_id)?;
        let pid = call!(self, target, start(target.exec.as_ref()));
        Ok(Response::new(api::StartResponse { pid }))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteTaskRequest>,
    ) -> Result<Response<api::DeleteResponse>, Status> {
        let target = Target::of(&request, &request.get_ref().container_id, "")?;
        let exit = call!(self, target, delete());
        Ok(Response::new(wire::deleted(String::new(), exit)))
    }

    async fn delete_process(
        &self,
        request: Request<api::DeleteProcessRequest>,
    ) -> Result<Response<api::DeleteResponse>, Status> {
        let message = request.get_ref();
        let target = Target::of(&request, &message.container_id, &message.exec_id)?;
        let exec = target.exec.clone().ok_or_else(wire::no_exec_id)?;
        let exit = call!(self, target, delete_exec(&exec));
        Ok(Response::new(wire::deleted(exec.to_string(), exit)))
    }

    async fn get(
        &self,
        request: Request<api::GetRequest>,
    ) -> Result<Response<api::GetResponse>, Status> {
        let message = request.get_ref();
        let target = Target::of(&request, &message.container_id, &message.exec_id)?;
        let state = call!(self, target, status(target.exec.as_ref()));
        Ok(Response::new(api::GetResponse { process: Some(process(state)) }))
    }

    /// All of the namespace; containerd does not look at the filter either.
    async fn list(
        &self,
        request: Request<api::ListTasksRequest>,
    ) -> Result<Response<api::ListTasksResponse>, Status> {
        let namespace = namespace(&request)?;
        let states = self.tasks.list(&namespace, deadline(&request)).await;
        let tasks = states.into_iter().map(process).collect();
        Ok(Response::new(api::ListTasksResponse { tasks }))
    }

    async fn kill(&self, request: Request<api::KillRequest>) -> Result<Response<()>, Status> {
        let message = request.get_ref();
        let (signal, all) = (message.signal, message.all);
        let target = Target::of(&request, &message.container_id, &message.exec_id)?;
        call!(self, target, kill(target.exec.as_ref(), signal, all));
        Ok(Response::new(()))
    }

    async fn exec(
        &self,
        request: Request<api::ExecProcessRequest>,
    ) -> Result<Response<()>, Status> {
        let target = Target::of(&request, &request.get_ref().container_id, "")?;
        let message = request.into_inner();
        if message.exec_id.is_empty() {
            return Err(wire::no_exec_id());
        }
        let exec = ExecId::new(message.exec_id.as_str())
            .map_err(|fault| status(Error::ExecId { id: message.exec_id, fault }))?;
        let stdio = Stdio {
            stdin: message.stdin,
            stdout: message.stdout,
            stderr: message.stderr,
            terminal: message.terminal,
        };
        let options = ExecOptions { spec: message.spec.map(any_from), stdio };
        call!(self, target, exec(&exec, options));
        Ok(Response::new(()))
    }

    async fn resize_pty(
        &self,
        request: Request<api::ResizePtyRequest>,
    ) -> Result<Response<()>, Status> {
        let message = request.get_ref();
        let size = (message.width, message.height);
        let target = Target::of(&request, &message.container_id, &message.exec_id)?;
        call!(self, target, resize_pty(target.exec.as_ref(), size));
        Ok(Response::new(()))
    }

    async fn close_io(
        &self,
        request: Request<api::CloseIoRequest>,
    ) -> Result<Response<()>, Status> {
        let message = request.get_ref();
        let target = Target::of(&request, &message.container_id, &message.exec_id)?;
        if message.stdin {
            call!(self, target, close_stdin(target.exec.as_ref()));
        } else {
            call!(self, target, status(target.exec.as_ref()));
        }
        Ok(Response::new(()))
    }

    async fn pause(&self, request: Request<api::PauseTaskRequest>) -> Result<Response<()>, Status> {
        let target = Target::of(&request, &request.get_ref().container_id, "")?;
        call!(self, target, pause());
        Ok(Response::new(()))
    }

    async fn resume(
        &self,
        request: Request<api::ResumeTaskRequest>,
    ) -> Result<Response<()>, Status> {
        let target = Target::of(&request, &request.get_ref().container_id, "")?;
        call!(self, target, resume());
        Ok(Response::new(()))
    }

    async fn list_pids(
        &self,
        request: Request<api::ListPidsRequest>,
    ) -> Result<Response<api::ListPidsResponse>, Status> {
        let target = Target::of(&request, &request.get_ref().container_id, "")?;
        let found = call!(self, target, processes());
        let processes = found.into_iter().map(wire::process_info).collect();
        Ok(Response::new(api::ListPidsResponse { processes }))
    }

    async fn checkpoint(
        &self,
        request: Request<api::CheckpointTaskRequest>,
    ) -> Result<Response<api::CheckpointTaskResponse>, Status> {
        let target = Target::of(&request, &request.get_ref().container_id, "")?;
        let lease = lease(&request);
        let options = request.into_inner().options;
        let path = wire::checkpoint_path(options.as_ref())?;
        let options = options.map(any_from);
        if let Some(path) = path {
            call!(self, target, checkpoint(path.as_ref(), options));
            return Ok(Response::new(api::CheckpointTaskResponse::default()));
        }
        let container = self.container(&target.namespace, &target.name)?;
        let scratch = self.scratch(&target.namespace).await?;
        call!(self, target, checkpoint(scratch.path(), options));
        let descriptors = self.pack(target.namespace, scratch, container.spec, lease).await?;
        Ok(Response::new(api::CheckpointTaskResponse { descriptors }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateTaskRequest>,
    ) -> Result<Response<()>, Status> {
        let target = Target::of(&request, &request.get_ref().container_id, "")?;
        let message = request.into_inner();
        let resources = message.resources.map(any_from);
        call!(self, target, update(resources, &message.annotations));
        Ok(Response::new(()))
    }

    async fn metrics(
        &self,
        request: Request<api::MetricsRequest>,
    ) -> Result<Response<api::MetricsResponse>, Status> {
        let namespace = namespace(&request)?;
        let deadline = deadline(&request).at_most(METRICS_LIMIT);
        let filter = Filter::parse_all(&request.get_ref().filters).map_err(status)?;
        let mut ids = self.tasks.ids(&namespace);
        ids.retain(|id| filter.matches(&Name { namespace: &namespace, id }));
        let collect = ids.iter().map(|id| self.metric(&namespace, id, deadline));
        let metrics = futures::future::join_all(collect).await.into_iter().flatten().collect();
        Ok(Response::new(api::MetricsResponse { metrics }))
    }

    async fn wait(
        &self,
        request: Request<api::WaitRequest>,
    ) -> Result<Response<api::WaitResponse>, Status> {
        let message = request.get_ref();
        let target = Target::of(&request, &message.container_id, &message.exec_id)?;
        let exit = call!(self, target, wait(target.exec.as_ref()));
        let exited_at = Some(stamp(exit.at));
        Ok(Response::new(api::WaitResponse { exit_status: exit.status, exited_at }))
    }
}

impl Tasks {
    /// The statistics of one task; none where it has gone or does not answer.
    async fn metric(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        deadline: Deadline,
    ) -> Option<Metric> {
        let timestamp = Some(stamp(Some(std::time::SystemTime::now())));
        match self.tasks.stats(namespace, id, deadline).await {
            Ok(data) => Some(Metric { timestamp, id: id.to_string(), data: data.map(any) }),
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    log::error!(namespace = namespace.as_str(), container = id.as_str(),
                        error:% = error.full_message(); "collecting metrics");
                }
                None
            }
        }
    }
}

/// A task as the filters of Metrics see it.
struct Name<'a> {
    namespace: &'a Namespace,
    id: &'a ContainerId,
}

impl Adaptor for Name<'_> {
    fn field(&self, path: &[&str]) -> Option<std::borrow::Cow<'_, str>> {
        match path.first() {
            Some(&"id") => Some(self.id.as_str().into()),
            Some(&"namespace") => Some(self.namespace.as_str().into()),
            _ => None,
        }
    }
}
