//! A server that passes the calls of the Snapshots service on, under another
//! name for the snapshotter: a proxy calls a plugin by the plugin's own name.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use davit_protocols::grpc::containerd::services::snapshots::v1 as wire;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use wire::snapshots_client::SnapshotsClient;
use wire::snapshots_server::{Snapshots, SnapshotsServer};

/// The server, until it is dropped.
pub struct Renaming {
    _directory: tempfile::TempDir,
    address: PathBuf,
    keys: Arc<Mutex<Vec<String>>>,
    _runtime: Runtime,
}

impl Renaming {
    /// Passes calls on to the snapshotter `name` at the socket `to`.
    pub fn start(to: &Path, name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys = Arc::new(Mutex::new(Vec::new()));
        let runtime = Runtime::new().unwrap();
        let endpoint = Endpoint::from_shared(format!("unix://{}", to.display())).unwrap();
        let inside = runtime.enter();
        let client = SnapshotsClient::new(endpoint.connect_lazy());
        let service = Service { client, name: name.to_owned(), keys: Arc::clone(&keys) };
        let address = directory.path().join("renaming.sock");
        let listener = tokio::net::UnixListener::bind(&address).unwrap();
        runtime.spawn(
            Server::builder()
                .add_service(SnapshotsServer::new(service))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        drop(inside);
        Self { _directory: directory, address, keys, _runtime: runtime }
    }

    /// Where it listens.
    pub fn address(&self) -> &Path {
        &self.address
    }

    /// The keys of the snapshots that were to be made, and the names of those
    /// that were to be committed.
    pub fn keys(&self) -> Vec<String> {
        self.keys.lock().unwrap().clone()
    }
}

struct Service {
    client: SnapshotsClient<Channel>,
    name: String,
    keys: Arc<Mutex<Vec<String>>>,
}

impl Service {
    fn note(&self, key: &str) {
        self.keys.lock().unwrap().push(key.to_owned());
    }
}

macro_rules! pass_on {
    ($($method:ident: $request:ident => $response:ty $(, $key:ident)?;)*) => {
        #[tonic::async_trait]
        impl Snapshots for Service {
            $(async fn $method(
                &self,
                mut request: Request<wire::$request>,
            ) -> Result<Response<$response>, Status> {
                $(self.note(&request.get_ref().$key);)?
                request.get_mut().snapshotter = self.name.clone();
                let answer = self.client.clone().$method(request).await?;
                Ok(Response::new(answer.into_inner()))
            })*

            type ListStream = tonic::Streaming<wire::ListSnapshotsResponse>;

            async fn list(
                &self,
                mut request: Request<wire::ListSnapshotsRequest>,
            ) -> Result<Response<Self::ListStream>, Status> {
                request.get_mut().snapshotter = self.name.clone();
                let answer = self.client.clone().list(request).await?;
                Ok(Response::new(answer.into_inner()))
            }
        }
    };
}

pass_on! {
    prepare: PrepareSnapshotRequest => wire::PrepareSnapshotResponse, key;
    view: ViewSnapshotRequest => wire::ViewSnapshotResponse, key;
    mounts: MountsRequest => wire::MountsResponse;
    commit: CommitSnapshotRequest => (), name;
    remove: RemoveSnapshotRequest => ();
    stat: StatSnapshotRequest => wire::StatSnapshotResponse;
    update: UpdateSnapshotRequest => wire::UpdateSnapshotResponse;
    usage: UsageRequest => wire::UsageResponse;
    cleanup: CleanupRequest => ();
}
