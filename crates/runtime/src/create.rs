//! Making a task, and undoing it when something fails.

use std::path::PathBuf;
use std::sync::Arc;

use davit_types::{ContainerId, ErrorKind, Kind as _, Namespace};
use runc_client::SealedCopy;
use tokio::sync::oneshot;

use crate::bootstrap::Endpoint;
use crate::bundle::Bundle;
use crate::connection::Connection;
use crate::errands::{self, Errands, kill_strays};
use crate::shim::{End, Shim};
use crate::shim_log::ShimLog;
use crate::tasks::{blocking, to_the_end};
use crate::{Checkpoint, CreateOptions, Deadline, Error, Sandbox, Tasks, names, runtime_root};

/// In a bundle whose task is in a sandbox: the sandbox's id.
pub(crate) const SANDBOX_FILE: &str = "sandbox";

/// In a working directory: what the task is restored from.
const CHECKPOINT: &str = "restored-from";

/// What is to be undone when the rest fails.
#[derive(Default)]
struct Made {
    /// The binary, once it was run.
    program: Option<PathBuf>,
    /// The shim, once there is a connection.
    shim: Option<Arc<Shim>>,
    /// Whether the shim was asked for the container.
    asked: bool,
}

/// Where to make it, and what.
struct Order {
    namespace: Namespace,
    id: ContainerId,
    bundle: Bundle,
    options: CreateOptions,
    deadline: Deadline,
}

impl Tasks {
    /// Makes a task: the bundle, the shim, the container. Answers with the
    /// init's pid. When anything fails, when the time is up, or when the
    /// returned future is dropped, all of it is undone again; whoever creates
    /// a task of the same id meanwhile waits for that.
    pub async fn create(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        mut options: CreateOptions,
        deadline: Deadline,
    ) -> Result<u32, Error> {
        let sent = options.for_shim().cloned();
        let root = &self.config().runtime_root;
        options.task_options = runtime_root::fill(sent, &options.runtime, root);
        let bundle = Bundle::locate(self.config(), namespace, id);
        let (namespace, id) = (namespace.clone(), id.clone());
        let order = Order { namespace, id, bundle, options, deadline };
        let (_here, gone) = oneshot::channel::<()>();
        let tasks = self.clone();
        to_the_end(async move { tasks.create_or_undo(order, gone).await }).await
    }

    async fn create_or_undo(
        &self,
        order: Order,
        mut gone: oneshot::Receiver<()>,
    ) -> Result<u32, Error> {
        let _turn = tokio::select! {
            turn = order.deadline.limit(self.turn(&order.namespace, &order.id)) => turn?,
            _ = &mut gone => return Err(Error::Canceled),
        };
        if self.contains(&order.namespace, &order.id) {
            return Err(Error::AlreadyExists(order.id));
        }
        self.make_bundle(&order).await?;
        let mut made = Made::default();
        let result = tokio::select! {
            result = order.deadline.limit(self.make(&order, &mut made)) => result,
            _ = &mut gone => Err(Error::Canceled),
        };
        let error = match result.and_then(|result| result) {
            Ok(pid) => return Ok(self.keep(made, pid)),
            Err(error) => error,
        };
        let failures = self.undo(&order, made).await;
        if failures.is_empty() {
            return Err(error);
        }
        Err(Error::Rollback { first: Box::new(error), cleanup: failures.join("; ") })
    }

    /// From here on the task is one that lives.
    fn keep(&self, made: Made, pid: u32) -> u32 {
        if let Some(shim) = made.shim {
            self.watch(shim);
        }
        pid
    }

    /// Makes the bundle, once what an earlier task left in its place is gone.
    async fn make_bundle(&self, order: &Order) -> Result<(), Error> {
        if order.bundle.path.exists() {
            self.clear_leftover(&order.namespace, &order.id, &order.bundle).await?;
        }
        let (bundle, spec) = (order.bundle.clone(), order.options.spec.clone());
        let options = order.options.for_shim().cloned();
        blocking(move || {
            davit_sys::cgroup::hasten_moves();
            bundle.create(spec.as_ref())?;
            runtime_root::keep(options.as_ref(), &bundle).inspect_err(|_| {
                if let Err(error) = bundle.remove() {
                    log::warn!(path:? = bundle.path, error:% = error.full_message();
                        "cannot remove what was made");
                }
            })
        })
        .await
    }

    /// The directory that the task is restored from; empty where there is
    /// none. One that goes with the task is moved to its working directory.
    fn restored_from(order: &Order) -> Result<String, Error> {
        match &order.options.checkpoint {
            Checkpoint::None => Ok(String::new()),
            Checkpoint::Path(path) => Ok(path.clone()),
            Checkpoint::Owned(scratch) => {
                let path = order.bundle.work.join(CHECKPOINT);
                scratch.keep_as(&path)?;
                Ok(path.to_string_lossy().into_owned())
            }
        }
    }

    async fn make(&self, order: &Order, made: &mut Made) -> Result<u32, Error> {
        let checkpoint = Self::restored_from(order)?;
        let shim = match &order.options.sandbox {
            Some(sandbox) => self.join_sandbox(order, sandbox).await,
            None => self.start_shim(order, made).await,
        };
        let shim = Arc::new(shim.map_err(|error| error.doing("failed to start shim"))?);
        made.shim = Some(shim.clone());
        made.asked = true;
        // Known from now on: whoever hears of it from the shim's first event
        // may ask.
        self.register(shim.clone());
        let bundle = order.bundle.path.to_string_lossy();
        let created = shim.client(order.deadline).create(&bundle, checkpoint, &order.options).await;
        let pid = created.map_err(|error| error.doing("failed to create shim task"))?;
        shim.end.learn(pid);
        Ok(pid)
    }

    async fn start_shim(&self, order: &Order, made: &mut Made) -> Result<Shim, Error> {
        let copy = self.copy_of_runtime(order.options.for_shim());
        let (program, runtime) = tokio::join!(names::resolve(&order.options.runtime), copy);
        let program = program.map_err(|error| error.doing("failed to resolve runtime path"))?;
        self.run_shim(order, made, program, runtime)
            .await
            .map_err(|error| error.doing("start failed"))
    }

    async fn run_shim(
        &self,
        order: &Order,
        made: &mut Made,
        program: PathBuf,
        runtime: Option<Arc<SealedCopy>>,
    ) -> Result<Shim, Error> {
        let errands = self.errands(&order.namespace, &order.id, &order.bundle, &program);
        errands.save()?;
        let log = ShimLog::open(&order.bundle.path, &order.namespace, &order.id)?;
        made.program = Some(program.clone());
        let endpoint =
            errands.start(order.options.for_shim(), runtime.as_deref(), order.deadline).await?;
        endpoint.save(&order.bundle)?;
        let limit = order.deadline.at_most(self.config().limits.shim_load);
        let connection = Connection::open(&endpoint, &order.namespace, limit).await?;
        Ok(Shim {
            namespace: order.namespace.clone(),
            id: order.id.clone(),
            bundle: order.bundle.clone(),
            program: Some(program),
            endpoint,
            sandboxed: false,
            connection,
            _log: Some(log),
            end: End::new(None),
        })
    }

    /// Connects to the shim of a sandbox that runs already.
    async fn join_sandbox(&self, order: &Order, sandbox: &Sandbox) -> Result<Shim, Error> {
        let endpoint = if sandbox.address.is_empty() {
            self.endpoint_of(&order.namespace, &sandbox.id)?
        } else {
            Endpoint::of_sandbox(&sandbox.address, sandbox.version)?
        };
        order.bundle.write(SANDBOX_FILE, sandbox.id.as_bytes())?;
        endpoint.save(&order.bundle)?;
        let limit = order.deadline.at_most(self.config().limits.shim_load);
        let connection =
            Connection::open(&endpoint, &order.namespace, limit).await.map_err(|error| {
                error.doing(format!("failed to load sandbox task {:?}", sandbox.id))
            })?;
        Ok(Shim {
            namespace: order.namespace.clone(),
            id: order.id.clone(),
            bundle: order.bundle.clone(),
            program: None,
            endpoint,
            sandboxed: true,
            connection,
            _log: None,
            end: End::new(None),
        })
    }

    fn endpoint_of(&self, namespace: &Namespace, sandbox: &str) -> Result<Endpoint, Error> {
        let unknown = || Error::Binary(format!("can't find sandbox {sandbox}"));
        let id = ContainerId::new(sandbox).map_err(|_| unknown())?;
        let shim = self.shim(namespace, &id).map_err(|_| unknown())?;
        Endpoint::load(&shim.bundle)?.ok_or_else(unknown)
    }

    /// Undoes what was made; answers with what could not be undone.
    async fn undo(&self, order: &Order, made: Made) -> Vec<String> {
        let mut failures = Vec::new();
        let mut left = made.program.is_some();
        if let Some(shim) = &made.shim {
            shim.end.claim();
            self.unregister(shim);
            left = !self.dismiss(shim, made.asked).await && !shim.sandboxed;
        }
        if left {
            self.end_strays(&order.bundle, made.shim.as_ref().map(|shim| &shim.endpoint)).await;
            if let (Some(program), true) = (&made.program, made.asked) {
                let errands = self.errands(&order.namespace, &order.id, &order.bundle, program);
                let limit = Deadline::after(self.config().limits.shim_cleanup);
                if let Err(error) = errands.delete(limit).await {
                    failures.push(format!("shim delete: {}", error.full_message()));
                }
            }
        }
        self.remove_socket(&order.bundle).await;
        let bundle = order.bundle.clone();
        if let Err(error) = blocking(move || bundle.remove()).await {
            failures.push(error.full_message());
        }
        if let Some(shim) = made.shim {
            shim.end.finish(Default::default());
        }
        failures
    }

    /// Deletes the container of a shim and sends the shim away. False when
    /// either did not work.
    async fn dismiss(&self, shim: &Arc<Shim>, asked: bool) -> bool {
        let limits = self.config().limits;
        let deleted = !asked
            || match shim.client(Deadline::after(limits.shim_cleanup)).delete(None).await {
                Ok(_) => true,
                Err(error) => error.kind() == ErrorKind::NotFound,
            };
        let left = self.send_away(shim).await.is_fine();
        deleted && left
    }

    /// Kills what works in a bundle that is being given up; not where the
    /// shim, which listens at `endpoint`, has other tasks: it may work there,
    /// and whatever it runs for them.
    async fn end_strays(&self, bundle: &Bundle, endpoint: Option<&Endpoint>) {
        if endpoint.is_some_and(|endpoint| self.serves(endpoint)) {
            log::warn!(bundle:? = bundle.path; "leaving the shim of a bundle to its other tasks");
            return;
        }
        let path = bundle.path.clone();
        blocking(move || kill_strays(&path)).await;
    }

    /// Removes what an earlier task of this id left behind, its processes
    /// included.
    pub(crate) async fn clear_leftover(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        bundle: &Bundle,
    ) -> Result<(), Error> {
        log::warn!(namespace = namespace.as_str(), container = id.as_str();
            "removing a bundle that was left behind");
        // What cannot be read names nobody.
        let endpoint = Endpoint::load(bundle).ok().flatten();
        self.end_strays(bundle, endpoint.as_ref()).await;
        if let Some(program) = errands::program_of(bundle) {
            let limit = Deadline::after(self.config().limits.shim_cleanup);
            let deleted = self.errands(namespace, id, bundle, &program).delete(limit).await;
            if let Err(error) = deleted {
                log::warn!(namespace = namespace.as_str(), container = id.as_str(),
                    error:% = error.full_message(); "failed to clean up what was left behind");
            }
        }
        self.remove_socket(bundle).await;
        let bundle = bundle.clone();
        blocking(move || bundle.remove()).await
    }

    pub(crate) fn errands<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: &'a ContainerId,
        bundle: &'a Bundle,
        program: &'a std::path::Path,
    ) -> Errands<'a> {
        Errands { config: self.config(), namespace, id, bundle, program }
    }
}
