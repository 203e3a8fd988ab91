//! Finding the tasks again after the daemon was restarted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use davit_protocols::topics;
use davit_types::{ContainerId, ErrorKind, Kind as _, Namespace};
use tokio::sync::Semaphore;

use crate::bootstrap::Endpoint;
use crate::bundle::{Bundle, hide, remove_hidden};
use crate::connection::Connection;
use crate::create::SANDBOX_FILE;
use crate::end::Leave;
use crate::errands::program_of;
use crate::shim::{End, Shim, recorded};
use crate::shim_log::ShimLog;
use crate::tasks::blocking;
use crate::{Config, Deadline, Error, Exit, Status, Tasks, told};

/// How many dead shims are cleaned up after at once: each takes a process or
/// two.
const CLEANUPS_AT_ONCE: usize = 16;

/// How long a shim may take to tell an exit that happened while the daemon
/// was away, before the daemon does.
const EXIT_GRACE: Duration = Duration::from_secs(10);

/// How long the daemon lets its clients wait for shims when it starts: it is
/// to answer within two seconds.
const LOAD_WAIT: Duration = Duration::from_secs(1);

/// What is on disk.
#[derive(Default)]
struct Found {
    bundles: Vec<(Namespace, ContainerId)>,
    /// What was being made or removed when the daemon went.
    remains: Vec<PathBuf>,
}

impl Tasks {
    /// Finds every bundle on disk and connects to its shim, all at once.
    /// Returns when each was found or cleaned up after, at the latest after
    /// a second: what takes longer goes on in the background, and a Create of
    /// the same id waits for it. To be called once, before the API answers.
    pub async fn load(&self) {
        let tasks = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(EXIT_GRACE).await;
            tasks.forget_early();
        });
        let config = self.config().clone();
        let found = blocking(move || search(&config)).await;
        tokio::task::spawn_blocking(move || sweep(&found.remains));
        let cleanups = Arc::new(Semaphore::new(CLEANUPS_AT_ONCE));
        let loads: Vec<_> = found
            .bundles
            .into_iter()
            .map(|(namespace, id)| {
                let (tasks, cleanups) = (self.clone(), cleanups.clone());
                tokio::spawn(async move { tasks.load_one(&namespace, &id, &cleanups).await })
            })
            .collect();
        let count = loads.len();
        let all = futures::future::join_all(loads);
        let limit = self.config().limits.shim_load.min(LOAD_WAIT);
        if Deadline::after(limit).limit(all).await.is_err() {
            log::warn!(bundles = count; "some shims do not answer; going on without them");
        }
    }

    async fn load_one(&self, namespace: &Namespace, id: &ContainerId, cleanups: &Semaphore) {
        let _turn = self.turn(namespace, id).await;
        let bundle = Bundle::locate(self.config(), namespace, id);
        let shim = match self.reconnect(namespace, id, &bundle).await {
            Ok(Some(shim)) => Arc::new(shim),
            Ok(None) => return self.discard(namespace, id, &bundle, cleanups).await,
            Err(error @ Error::Connect(_)) => {
                log::warn!(namespace = namespace.as_str(), container = id.as_str(),
                    error:% = error.full_message(); "unable to load shim");
                return self.discard_dead(namespace, id, &bundle, cleanups).await;
            }
            // We are short of something, or do not understand what another
            // version wrote: that is no reason to end a container. A Create of
            // this id is.
            Err(error) => {
                log::error!(namespace = namespace.as_str(), container = id.as_str(),
                    error:% = error.full_message();
                    "cannot tell whether there is a shim; its bundle is left alone");
                return;
            }
        };
        self.take_up(shim, cleanups).await;
    }

    /// Connects to the shim of a bundle; none where it has never answered.
    async fn reconnect(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        bundle: &Bundle,
    ) -> Result<Option<Shim>, Error> {
        let Some(endpoint) = Endpoint::load(bundle)? else { return Ok(None) };
        let sandboxed = bundle.look(SANDBOX_FILE)?.is_some();
        let log = match sandboxed {
            true => None,
            false => Some(ShimLog::open(&bundle.path, namespace, id)?),
        };
        // A socket that is there and whose queue is full has a shim behind it
        // that is stuck; it is waited for in the background.
        let connection = Connection::open(&endpoint, namespace, Deadline::NEVER).await?;
        Ok(Some(Shim {
            namespace: namespace.clone(),
            id: id.clone(),
            bundle: bundle.clone(),
            program: program_of(bundle),
            endpoint,
            sandboxed,
            connection,
            _log: log,
            end: End::new(recorded(bundle)),
        }))
    }

    /// Decides what a shim that was found is: one with a task, one that never
    /// got one, one that does not answer now, one that dies.
    async fn take_up(&self, shim: Arc<Shim>, cleanups: &Semaphore) {
        self.register(shim.clone());
        let limit = Deadline::after(self.config().limits.shim_load);
        let answer = shim.client(limit).state(None).await;
        if let Ok(state) = &answer {
            shim.end.learn(state.pid);
        }
        match answer {
            Ok(state) if state.status == Status::Stopped && shim.end.told().is_none() => {
                let exit = Exit { pid: state.pid, status: state.exit_status, at: state.exited_at };
                if self.was_early(&shim, &exit) {
                    self.note_exit(shim.clone(), exit).await;
                } else {
                    self.tell_later(shim.clone(), exit);
                }
            }
            Err(Error::Closed(_)) => {
                shim.connection.closed().await;
                let _place = cleanups.acquire().await;
                self.bury(&shim).await;
                return;
            }
            Err(error) if error.kind() == ErrorKind::NotFound && !shim.sandboxed => {
                log::info!(namespace = shim.namespace.as_str(), container = shim.id.as_str();
                    "cleaning leaked shim process");
                self.unregister(&shim);
                shim.end.claim();
                match self.send_away(&shim).await {
                    Leave::Gone | Leave::Silent => {
                        self.discard(&shim.namespace, &shim.id, &shim.bundle, cleanups).await;
                    }
                    // The first of a group has gone, and the shim, which works
                    // in its bundle, has the others.
                    Leave::Needed | Leave::Stays => {
                        self.remove_bundle(&shim.namespace, &shim.id, &shim.bundle).await;
                    }
                }
                return;
            }
            Ok(_) => {}
            Err(error) => {
                log::warn!(namespace = shim.namespace.as_str(), container = shim.id.as_str(),
                    error:% = error.full_message(); "a shim does not answer; keeping its task");
            }
        }
        self.watch(shim);
    }

    /// Tells an exit that happened while the daemon was away, unless the shim
    /// does.
    fn tell_later(&self, shim: Arc<Shim>, exit: Exit) {
        let tasks = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = shim.end.finished() => return,
                () = tokio::time::sleep(EXIT_GRACE) => {}
            }
            let event = told::task_exit(&shim.id, &exit);
            if tasks.note_exit(shim.clone(), exit).await {
                tasks.publish(&shim.namespace, topics::TASK_EXIT, event);
            }
        });
    }

    /// Removes a bundle that never had a task.
    async fn discard(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        bundle: &Bundle,
        cleanups: &Semaphore,
    ) {
        let _place = cleanups.acquire().await;
        if let Err(error) = self.clear_leftover(namespace, id, bundle).await {
            log::error!(namespace = namespace.as_str(), container = id.as_str(),
                error:% = error.full_message(); "failed to delete bundle");
        }
    }

    /// Cleans up after a shim that died while the daemon was away.
    async fn discard_dead(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        bundle: &Bundle,
        cleanups: &Semaphore,
    ) {
        let _place = cleanups.acquire().await;
        self.bury_unknown(namespace, id, bundle).await;
    }
}

/// Lists what is on disk. Working directories without a bundle, which a
/// reboot leaves, are taken out of the way at once.
fn search(config: &Config) -> Found {
    let mut found = Found::default();
    for (namespace, id, path) in entries(&config.state, &mut found.remains) {
        log::debug!(path:? = path; "found a bundle");
        found.bundles.push((namespace, id));
    }
    for (namespace, id, path) in entries(&config.root, &mut found.remains) {
        if Bundle::locate(config, &namespace, &id).path.exists() {
            continue;
        }
        match hide(&path) {
            Ok(hidden) => found.remains.push(hidden),
            Err(error) => {
                log::error!(path:? = path, error:% = error; "cleanup working directory");
            }
        }
    }
    found
}

/// Every `<namespace>/<id>` below `top`; hidden directories go to `remains`.
fn entries(top: &Path, remains: &mut Vec<PathBuf>) -> Vec<(Namespace, ContainerId, PathBuf)> {
    let mut entries = Vec::new();
    for (name, path) in directories(top) {
        let Ok(namespace) = Namespace::new(name) else {
            log::warn!(path:? = path; "not the name of a namespace; left alone");
            continue;
        };
        for (name, path) in directories(&path) {
            if name.starts_with('.') {
                remains.push(path);
            } else if let Ok(id) = ContainerId::new(name) {
                entries.push((namespace.clone(), id, path));
            } else {
                log::warn!(path:? = path; "not the name of a task; left alone");
            }
        }
    }
    entries
}

fn directories(path: &Path) -> Vec<(String, PathBuf)> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            log::error!(path:? = path, error:% = error; "cannot read a directory of bundles");
            return Vec::new();
        }
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect()
}

fn sweep(remains: &[PathBuf]) {
    for path in remains {
        if let Err(error) = remove_hidden(path) {
            log::error!(path:? = path, error:% = error.full_message(); "cannot remove remains");
        }
    }
}
