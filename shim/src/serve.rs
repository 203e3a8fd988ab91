//! The serving process: from the inherited listener to the last container's
//! end.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use davit_protocols::ttrpc::server::{self, Call};
use davit_types::Namespace;
use nix::sys::socket::{getsockopt, sockopt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::cli::Invocation;
use crate::context::ShutdownHandle;
use crate::dispatch::{After, dispatch};
use crate::publisher::Destination;
use crate::{Context, Failure, Publisher, Reaper, Shim, logging, open_files, sealed, socket};

/// How long calls that still run get when the shim ends.
pub const CALLS_GRACE: Duration = Duration::from_millis(500);

/// How long events that are still queued get when the shim ends. The daemon
/// is there as a rule: it asked for the end.
pub const EVENTS_GRACE: Duration = Duration::from_secs(2);

/// How long after the last start or exec freed memory is given back.
pub const SETTLE_AFTER: Duration = Duration::from_millis(500);

/// Serves until the end.
pub(crate) fn serve<S: Shim>(invocation: &Invocation) -> Result<(), Failure> {
    // Not the leader of a process group as a child of `start`; when somebody
    // runs us by hand we may be, and then stay in that session.
    let _ = nix::unistd::setsid();
    let bundle = std::env::current_dir().map_err(|e| Failure::io("getwd", &e))?;
    logging::to_bundle(&bundle, invocation.debug);
    open_files::raise();
    let listener = listener(invocation)?;
    let result = run_local(serve_on::<S>(listener, invocation, bundle));
    if let Err(e) = &result {
        log::error!(error:% = e; "shim ends");
    }
    result
}

/// A listening socket and its name. Dropping it takes the name away *before*
/// the socket is closed: a closed socket under its name is a dead shim's to
/// the next `start`, which replaces it, and the name would then be that of
/// the next shim.
struct Named {
    listener: tokio::net::UnixListener,
    path: Option<PathBuf>,
}

impl Named {
    fn new(listener: UnixListener) -> io::Result<Self> {
        let path = listener.local_addr()?.as_pathname().map(Path::to_owned);
        Ok(Self { listener: tokio::net::UnixListener::from_std(listener)?, path })
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            socket::remove(path);
        }
    }
}

/// Runs a future on this thread, with the place for tasks that stay on it.
pub(crate) fn run_local<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|e| Failure::io("start the runtime", &e))?;
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// The listener that `start` left as standard input, or one on `-socket`.
fn listener(invocation: &Invocation) -> Result<UnixListener, Failure> {
    let failed = |e: io::Error| Failure::io("take over the socket", &e);
    let listener = if invocation.socket.is_empty() {
        let inherited = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
        if !getsockopt(&inherited, sockopt::AcceptConn).unwrap_or(false) {
            return Err(Failure::invalid(
                "no listening socket was inherited; use the action start",
            ));
        }
        let null = File::open("/dev/null").map_err(failed)?;
        nix::unistd::dup2_stdin(&null).map_err(|e| failed(e.into()))?;
        UnixListener::from(inherited)
    } else {
        let path = invocation.socket.strip_prefix(socket::SCHEME).unwrap_or(&invocation.socket);
        match socket::bind(Path::new(path))? {
            socket::Bound::Here(listener) => listener,
            socket::Bound::Elsewhere => {
                return Err(Failure::precondition(format!("{path}: another shim listens")));
            }
        }
    };
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

async fn serve_on<S: Shim>(
    listener: UnixListener,
    invocation: &Invocation,
    bundle: PathBuf,
) -> Result<(), Failure> {
    let named = Named::new(listener).map_err(|e| Failure::io("take over the socket", &e))?;
    let signals = Signals::new().map_err(|e| Failure::io("install signal handlers", &e))?;
    let context = context(invocation, bundle)?;
    let publisher = context.publisher.clone();
    let shutdown = context.shutdown.clone();
    let shim = Rc::new(S::new(context).await?);
    tokio::task::spawn_local(signals.watch(shim.clone(), shutdown.clone()));
    let settle = Rc::new(Notify::new());
    tokio::task::spawn_local(settle_down(settle.clone()));
    log::debug!(pid = std::process::id(); "serving");

    let connections = Connections::default();
    tokio::select! {
        result = accept_all(&named.listener, &connections, shim, shutdown.clone(), settle) => {
            result.map_err(|e| Failure::io("accept", &e))?;
        }
        () = shutdown.requested() => {}
    }
    // Nobody can connect from here on; who does joins no dying shim.
    drop(named);
    connections.close().await;
    let _ = tokio::time::timeout(EVENTS_GRACE, publisher.drained()).await;
    Ok(())
}

fn context(invocation: &Invocation, bundle: PathBuf) -> Result<Context, Failure> {
    let namespace = Namespace::new(invocation.namespace.as_str())?;
    let reaper = Reaper::new().map_err(|e| Failure::io("become a subreaper", &e))?;
    let ttrpc_address = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    let destination = destination(invocation, &ttrpc_address, &reaper);
    Ok(Context {
        publisher: Publisher::new(namespace.clone(), &bundle, destination),
        namespace,
        id: invocation.id.clone(),
        bundle,
        debug: invocation.debug,
        grpc_address: invocation.address.clone(),
        ttrpc_address,
        sealed_runtime: sealed::inherited(invocation),
        reaper,
        shutdown: ShutdownHandle::new(),
    })
}

fn destination(invocation: &Invocation, ttrpc_address: &str, reaper: &Reaper) -> Destination {
    if !ttrpc_address.is_empty() {
        let path = ttrpc_address.strip_prefix(socket::SCHEME).unwrap_or(ttrpc_address);
        Destination::Socket(path.into())
    } else if !invocation.publish_binary.is_empty() {
        Destination::Command {
            binary: invocation.publish_binary.clone(),
            address: invocation.address.clone(),
            reaper: reaper.clone(),
        }
    } else {
        log::warn!("the daemon named no way for events; there will be none");
        Destination::Nowhere
    }
}

/// The open connections, to be waited for.
#[derive(Clone, Default)]
struct Connections {
    open: Rc<Cell<usize>>,
    closed: Rc<Notify>,
    closing: Rc<watch::Sender<bool>>,
}

impl Connections {
    /// Ends connections as soon as they have nothing to do; gives running
    /// calls a bounded time.
    async fn close(&self) {
        self.closing.send_replace(true);
        let all_closed = async {
            while self.open.get() > 0 {
                self.closed.notified().await;
            }
        };
        let _ = tokio::time::timeout(CALLS_GRACE, all_closed).await;
    }
}

async fn accept_all<S: Shim>(
    listener: &tokio::net::UnixListener,
    connections: &Connections,
    shim: Rc<S>,
    shutdown: ShutdownHandle,
    settle: Rc<Notify>,
) -> io::Result<()> {
    loop {
        let stream = server::accept(listener).await?;
        let connections = connections.clone();
        let (shim, shutdown, settle) = (shim.clone(), shutdown.clone(), settle.clone());
        let handler = move |call: Call| {
            let (shutdown, settle) = (shutdown.clone(), settle.clone());
            let dispatched = dispatch(shim.clone(), call);
            async move {
                let (result, after) = dispatched.await;
                match after {
                    After::Nothing => {}
                    After::Settle => settle.notify_one(),
                    After::Exit => shutdown.request(),
                }
                result
            }
        };
        connections.open.set(connections.open.get() + 1);
        tokio::task::spawn_local(async move {
            let closing = connections.closing.subscribe();
            server::serve_connection_until(stream, handler, closing).await;
            connections.open.set(connections.open.get() - 1);
            connections.closed.notify_one();
        });
    }
}

/// Gives memory back once things have calmed down after a start or an exec.
async fn settle_down(asked: Rc<Notify>) {
    loop {
        asked.notified().await;
        while tokio::time::timeout(SETTLE_AFTER, asked.notified()).await.is_ok() {}
        davit_sys::process::trim_heap();
    }
}

/// The signals that must not end a shim that has containers. The handlers
/// exist so that the default action does not apply, and are reset in
/// children.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    _ignored: [Signal; 3],
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            // SIGUSR1 makes Go's shim write down its stacks; operators try it.
            _ignored: [
                signal(SignalKind::hangup())?,
                signal(SignalKind::pipe())?,
                signal(SignalKind::user_defined1())?,
            ],
        })
    }

    async fn watch<S: Shim>(mut self, shim: Rc<S>, shutdown: ShutdownHandle) {
        loop {
            let name = tokio::select! {
                Some(()) = self.terminate.recv() => "SIGTERM",
                Some(()) = self.interrupt.recv() => "SIGINT",
                else => return,
            };
            if shim.is_idle() {
                shutdown.request();
            } else {
                log::info!(signal = name; "ignored: there are containers to look after");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one who comes next must find either a live socket or none at all.
    #[test]
    fn the_name_goes_before_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _inside = runtime.enter();
        let first = UnixListener::bind(&path).unwrap();
        first.set_nonblocking(true).unwrap();
        let kept = first.try_clone().unwrap();
        drop(Named::new(first).unwrap());
        // The socket itself still listens, and its name is free.
        assert!(!path.exists());
        let _next = UnixListener::bind(&path).unwrap();
        drop(kept);
        assert!(path.exists());
    }
}
