//! The daemon's two sockets: gRPC for clients, ttrpc for shims.

use std::future::Future;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use davit_protocols::grpc::containerd::services as api;
use davit_protocols::grpc::grpc::health::v1::health_server::HealthServer;
use davit_protocols::ttrpc::server::{Call, Status, serve};
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::codegen::http;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;

use crate::app::App;
use crate::error::Error;
use crate::gc::Schedule;
use crate::proxy;
use crate::restart::Monitor;
use crate::services::events_ttrpc::{self, EventIntake};
use crate::services::{
    containers, content, events, health, images, introspection, leases, maintenance, mounts,
    namespaces, snapshots, streaming, tasks, transfer, version,
};
use crate::{listen, notify};
use davit_protocols::grpc::davit::v1::maintenance_server::MaintenanceServer;

/// How long calls that are under way may take when the daemon is told to end.
/// Waits and subscriptions never end by themselves; their callers reconnect.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// How many calls one client may have under way. It has one Wait for each
/// process of its containers, on one connection.
pub const CALLS_MAX: u32 = 1 << 16;

/// How many calls a client may have given up that were not looked at yet. Go
/// clients give up many at once when they are stopped.
pub const ABANDONED_CALLS_MAX: usize = 4096;

/// How long the API waits for shims to be found again. Those that take longer
/// are found while it answers.
pub const LOAD_LIMIT: Duration = Duration::from_secs(1);

/// The sockets, open. Their files are removed when this is dropped.
#[derive(Debug)]
pub struct Sockets {
    grpc: Option<StdListener>,
    ttrpc: Option<StdListener>,
    paths: Vec<PathBuf>,
}

impl Sockets {
    /// Listens at both.
    ///
    /// # Errors
    /// One of them is in use or cannot be made.
    pub fn open(app: &App) -> Result<Self, Error> {
        let (grpc, ttrpc) = (&app.config.grpc, &app.config.ttrpc);
        let mut sockets = Self { grpc: None, ttrpc: None, paths: Vec::new() };
        sockets.grpc = Some(listen::at(&grpc.address, grpc.uid, grpc.gid)?);
        sockets.paths.push(grpc.address.clone());
        sockets.ttrpc = Some(listen::at(&ttrpc.address, ttrpc.uid, ttrpc.gid)?);
        sockets.paths.push(ttrpc.address.clone());
        Ok(sockets)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.paths {
            if let Err(error) = std::fs::remove_file(path) {
                log::warn!(path:% = path.display(), error:%; "cannot remove a socket");
            }
        }
    }
}

/// Serves until `stop` is ready, and then until what is under way has ended,
/// at most for [`DRAIN_LIMIT`]. Images are moved on `transfers`.
///
/// # Errors
/// A socket fails.
pub async fn run(
    app: &App,
    mut sockets: Sockets,
    transfers: &Handle,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let address = app.config.grpc.address.clone();
    let ttrpc = tokio_listener(sockets.ttrpc.take(), &app.config.ttrpc.address)?;
    let grpc = tokio_listener(sockets.grpc.take(), &address)?;
    // Shims that have waited for us deliver their events before they are
    // looked for, so that no exit is told twice.
    let intake = EventIntake { exchange: Arc::clone(&app.events), tasks: app.tasks.clone() };
    let intake = tokio::spawn(serve(ttrpc, move |call| take_in(intake.clone(), call)));
    find_tasks(app).await;
    let (stopped, when_stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = Server::builder()
        .max_concurrent_streams(CALLS_MAX)
        .http2_max_pending_accept_reset_streams(Some(ABANDONED_CALLS_MAX))
        .add_routes(routes(app, transfers))
        .serve_with_incoming_shutdown(UnixListenerStream::new(grpc), async {
            // A sender that is dropped means the same.
            let _ = when_stopped.await;
        });
    let mut serving = std::pin::pin!(serving);
    let collecting = tokio::spawn(schedule(app).run());
    let monitored = app.config.enabled("io.containerd.monitor.container.v1.restart");
    let restarting = monitored.then(|| tokio::spawn(monitor(app).run()));
    let sweep = |proxy: &Arc<proxy::Snapshotter>| {
        tokio::spawn(Arc::clone(proxy).keep_swept(Arc::clone(&app.events)))
    };
    let sweeping: Vec<_> = app.proxies.snapshotters.values().map(sweep).collect();
    notify::supervisor("READY=1");
    log::info!(address:% = address.display(); "serving");
    let failed = |error| Error::io("serve at", address.clone())(std::io::Error::other(error));
    tokio::select! {
        result = &mut serving => return result.map_err(failed),
        () = stop => {}
    }
    notify::supervisor("STOPPING=1");
    drop(stopped);
    // What has not ended by then waits for something that we do not end.
    let draining = async {
        let result = serving.await;
        app.tasks.settled().await;
        result
    };
    let drained = tokio::time::timeout(DRAIN_LIMIT, draining).await;
    intake.abort();
    collecting.abort();
    sweeping.iter().for_each(tokio::task::JoinHandle::abort);
    if let Some(restarting) = restarting {
        restarting.abort();
    }
    drop(sockets);
    drained.unwrap_or(Ok(())).map_err(failed)
}

fn tokio_listener(
    listener: Option<StdListener>,
    path: &std::path::Path,
) -> Result<UnixListener, Error> {
    let listener = listener.expect("a socket is served once");
    UnixListener::from_std(listener).map_err(Error::io("serve at", path))
}

async fn find_tasks(app: &App) {
    let tasks = app.tasks.clone();
    let finding = tokio::spawn(async move { tasks.load().await });
    if tokio::time::timeout(LOAD_LIMIT, finding).await.is_err() {
        log::warn!("some shims take long to answer; they are found later");
    }
}

fn schedule(app: &App) -> Schedule {
    Schedule {
        settings: app.config.plugins.gc.clone(),
        collector: Arc::clone(&app.collector),
        index: Arc::clone(&app.index),
        events: Arc::clone(&app.events),
        mounts: Arc::clone(&app.mounts),
    }
}

fn monitor(app: &App) -> Monitor {
    Monitor {
        interval: app.config.plugins.restart.interval,
        index: Arc::clone(&app.index),
        content: Arc::clone(&app.content),
        snapshotters: app.snapshotters.clone(),
        proxies: app.proxies.snapshotters.clone(),
        tasks: app.tasks.clone(),
        events: Arc::clone(&app.events),
        busy: Arc::default(),
    }
}

async fn take_in(intake: EventIntake, call: Call) -> Result<Vec<u8>, Status> {
    match call.service.as_str() {
        events_ttrpc::SERVICE => intake.handle(call).await,
        unknown => Err(Status::unknown_service(unknown)),
    }
}

/// Adds the service of the plugin `io.containerd.grpc.v1.<id>`, unless that
/// is disabled, with the configured sizes of messages.
macro_rules! add {
    ($routes:ident, $app:ident, $id:literal, $server:ty, $service:expr) => {
        if $app.config.enabled(concat!("io.containerd.grpc.v1.", $id)) {
            let grpc = &$app.config.grpc;
            $routes.add_service(
                <$server>::new($service)
                    .max_decoding_message_size(grpc.max_recv_message_size)
                    .max_encoding_message_size(grpc.max_send_message_size),
            );
        }
    };
}

fn routes(app: &App, transfers: &Handle) -> Routes {
    let mut routes = Routes::builder();
    add_records(&mut routes, app);
    add_storage(&mut routes, app);
    add_transfers(&mut routes, app, transfers);
    let (index, exchange) = (Arc::clone(&app.index), Arc::clone(&app.events));
    let (content, tasks) = (Arc::clone(&app.content), app.tasks.clone());
    add!(routes, app, "events", api::events::v1::events_server::EventsServer<_>, {
        events::Events { exchange }
    });
    add!(routes, app, "tasks", api::tasks::v1::tasks_server::TasksServer<_>, {
        tasks::Tasks { index, content, tasks }
    });
    add!(routes, app, "version", api::version::v1::version_server::VersionServer<_>, {
        version::Version
    });
    add!(
        routes,
        app,
        "introspection",
        api::introspection::v1::introspection_server::IntrospectionServer<_>,
        introspection::Introspection {
            plugins: app.plugins.clone(),
            uuid: app.uuid.clone(),
            pidns: app.pidns,
            tasks: app.tasks.clone(),
        }
    );
    add!(routes, app, "healthcheck", HealthServer<_>, health::Health);
    // No plugin of containerd's.
    let (collector, events) = (Arc::clone(&app.collector), Arc::clone(&app.events));
    let maintenance = maintenance::Maintenance { collector, events };
    routes.add_service(MaintenanceServer::new(maintenance));
    Routes::from(routes.routes().into_axum_router().fallback(unknown_service))
}

/// Names the service that is not there, in the words of Go's server.
async fn unknown_service(uri: http::Uri) -> http::Response<tonic::body::Body> {
    let service = uri.path().trim_start_matches('/').rsplit_once('/').map_or("", |path| path.0);
    tonic::Status::unimplemented(format!("unknown service {service}")).into_http()
}

/// What is rows of the index.
fn add_records(routes: &mut RoutesBuilder, app: &App) {
    let index = || Arc::clone(&app.index);
    let events = || Arc::clone(&app.events);
    let collector = || Arc::clone(&app.collector);
    use api::containers::v1::containers_server::ContainersServer;
    add!(routes, app, "containers", ContainersServer<_>, {
        containers::Containers { index: index(), events: events() }
    });
    add!(routes, app, "images", api::images::v1::images_server::ImagesServer<_>, {
        images::Images { index: index(), events: events(), collector: collector() }
    });
    add!(routes, app, "leases", api::leases::v1::leases_server::LeasesServer<_>, {
        leases::Leases { index: index(), events: events(), collector: collector() }
    });
    use api::namespaces::v1::namespaces_server::NamespacesServer;
    add!(routes, app, "namespaces", NamespacesServer<_>, {
        let content = Arc::clone(&app.content);
        namespaces::Namespaces { index: index(), content, events: events() }
    });
}

/// What is bytes on disk.
fn add_storage(routes: &mut RoutesBuilder, app: &App) {
    let (content, events) = (|| Arc::clone(&app.content), || Arc::clone(&app.events));
    add!(routes, app, "content", api::content::v1::content_server::ContentServer<_>, {
        content::Content { content: content(), events: events() }
    });
    use api::snapshots::v1::snapshots_server::SnapshotsServer;
    add!(routes, app, "snapshots", SnapshotsServer<_>, {
        snapshots::Snapshots {
            snapshotters: app.snapshotters.clone(),
            proxies: app.proxies.snapshotters.clone(),
            events: events(),
        }
    });
    add!(routes, app, "diff", api::diff::v1::diff_server::DiffServer<_>, app.differs.clone());
    add!(routes, app, "mounts", api::mounts::v1::mounts_server::MountsServer<_>, {
        mounts::Mounts { mounts: Arc::clone(&app.mounts) }
    });
}

/// What moves images, and the streams that it does so on.
fn add_transfers(routes: &mut RoutesBuilder, app: &App, runtime: &Handle) {
    let streams = Arc::new(streaming::Streams::default());
    use api::streaming::v1::streaming_server::StreamingServer;
    add!(routes, app, "streaming", StreamingServer<_>, {
        streaming::Streaming { streams: Arc::clone(&streams) }
    });
    use api::transfer::v1::transfer_server::TransferServer;
    add!(routes, app, "transfer", TransferServer<_>, {
        transfer::Transfer {
            runtime: runtime.clone(),
            streams,
            address: app.config.grpc.address.clone(),
            connection: Arc::default(),
            images: app.images.clone(),
            registry: app.registry.clone(),
            settings: transfer::Settings::of(&app.config),
        }
    });
}
