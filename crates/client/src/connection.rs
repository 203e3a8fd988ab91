//! The connection, and what every call carries.

use std::path::Path;

use davit_protocols::grpc::containerd::services as api;
use davit_protocols::grpc::davit::v1::maintenance_client::MaintenanceClient as Maintenance;
use davit_protocols::grpc::grpc::health::v1::health_client::HealthClient;
use davit_types::Namespace;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::Error;

/// The largest message that either side sends (containerd's
/// `defaults.DefaultMaxRecvMsgSize`), in bytes.
const MESSAGE_LIMIT: usize = 16 << 20;

/// Adds the namespace and the lease to every call.
#[derive(Clone, Debug)]
pub struct Metadata {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Metadata {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            metadata.insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}

/// A connection to a daemon, seen from one namespace. Cheap to clone; clones
/// share the connection, which comes back by itself after the daemon was away.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    namespace: Namespace,
    metadata: Metadata,
}

type Intercepted = InterceptedService<Channel, Metadata>;

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident: $client:ty = $path:path;)*) => {
        $($(#[$doc])*
        pub fn $name(&self) -> $client {
            use $path as Service;
            Service::with_interceptor(self.channel.clone(), self.metadata.clone())
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(MESSAGE_LIMIT)
        })*
    };
}

impl Client {
    /// Connects to the socket at `address`.
    ///
    /// # Errors
    /// [`Error::Connect`] when nobody listens there.
    pub async fn connect(address: &Path, namespace: Namespace) -> Result<Self, Error> {
        let failed = |source| Error::Connect { address: address.to_owned(), source };
        let uri = format!("unix://{}", address.display());
        let endpoint = Endpoint::try_from(uri).map_err(failed)?;
        let channel = endpoint.connect().await.map_err(failed)?;
        Ok(Self { channel, metadata: Metadata::of(&namespace), namespace })
    }

    /// The same connection, seen from another namespace and without a lease.
    pub fn in_namespace(&self, namespace: Namespace) -> Self {
        Self { channel: self.channel.clone(), metadata: Metadata::of(&namespace), namespace }
    }

    /// The same connection, with everything that is made held by a lease.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an id that no header can carry.
    pub fn with_lease(&self, id: &str) -> Result<Self, Error> {
        let lease = id.parse().map_err(|error| Error::invalid(format!("lease {id:?}"), error))?;
        let metadata = Metadata { lease: Some(lease), ..self.metadata.clone() };
        Ok(Self { metadata, ..self.clone() })
    }

    /// Whether a lease holds everything that is made.
    pub fn is_leased(&self) -> bool {
        self.metadata.lease.is_some()
    }

    /// The namespace that calls are about.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    services! {
        /// Container records.
        containers: api::containers::v1::containers_client::ContainersClient<Intercepted>
            = api::containers::v1::containers_client::ContainersClient;
        /// Blobs.
        content: api::content::v1::content_client::ContentClient<Intercepted>
            = api::content::v1::content_client::ContentClient;
        /// Applying and comparing layers.
        diff: api::diff::v1::diff_client::DiffClient<Intercepted>
            = api::diff::v1::diff_client::DiffClient;
        /// Events, to read and to publish.
        events: api::events::v1::events_client::EventsClient<Intercepted>
            = api::events::v1::events_client::EventsClient;
        /// Whether the daemon is well.
        health: HealthClient<Intercepted> = HealthClient;
        /// Images by name.
        images: api::images::v1::images_client::ImagesClient<Intercepted>
            = api::images::v1::images_client::ImagesClient;
        /// The daemon's plugins and itself.
        introspection: api::introspection::v1::introspection_client::IntrospectionClient<Intercepted>
            = api::introspection::v1::introspection_client::IntrospectionClient;
        /// Leases; see [`crate::Lease`] for holding one.
        leases: api::leases::v1::leases_client::LeasesClient<Intercepted>
            = api::leases::v1::leases_client::LeasesClient;
        /// Collecting and explaining; davitd's alone.
        maintenance: Maintenance<Intercepted> = Maintenance;
        /// Namespaces.
        namespaces: api::namespaces::v1::namespaces_client::NamespacesClient<Intercepted>
            = api::namespaces::v1::namespaces_client::NamespacesClient;
        /// Snapshots.
        snapshots: api::snapshots::v1::snapshots_client::SnapshotsClient<Intercepted>
            = api::snapshots::v1::snapshots_client::SnapshotsClient;
        /// Streams that a transfer uses.
        streaming: api::streaming::v1::streaming_client::StreamingClient<Intercepted>
            = api::streaming::v1::streaming_client::StreamingClient;
        /// Running containers.
        tasks: api::tasks::v1::tasks_client::TasksClient<Intercepted>
            = api::tasks::v1::tasks_client::TasksClient;
        /// Moving images; [`crate::transfer`] makes it easy.
        transfer: api::transfer::v1::transfer_client::TransferClient<Intercepted>
            = api::transfer::v1::transfer_client::TransferClient;
        /// The daemon's version.
        version: api::version::v1::version_client::VersionClient<Intercepted>
            = api::version::v1::version_client::VersionClient;
    }
}

impl Metadata {
    fn of(namespace: &Namespace) -> Self {
        let namespace =
            namespace.as_str().parse().expect("names are letters, digits and separators");
        Self { namespace, lease: None }
    }
}
