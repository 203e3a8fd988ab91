//! Records of containers: finding them, their root filesystem, removing them.

use davit_client::Client;
use davit_protocols::grpc::containerd::services::containers::v1 as api;
use davit_protocols::grpc::containerd::services::namespaces::v1::GetNamespaceRequest;
use davit_protocols::grpc::containerd::services::snapshots::v1 as snapshots;
use davit_protocols::grpc::containerd::types::Mount;
use davit_types::{ContainerId, ErrorKind, Labels, labels};
use serde_json::Value;

use crate::task::{PATIENCE, missing_is_fine, patiently};
use crate::{Error, names};

pub use api::Container;

/// The label for the exit code of a container whose task is forgotten.
pub const EXIT_STATUS: &str = "davit/exit-status";
/// containerd's label for the signal that asks the container to end.
pub const STOP_SIGNAL: &str = "io.containerd.image.config.stop-signal";

const RUNTIME: &str = "io.containerd.davit.v2";
const SNAPSHOTTER: &str = "overlayfs";

/// What containers of the namespace get when nobody says otherwise.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// The shim.
    pub runtime: String,
    /// The snapshotter.
    pub snapshotter: String,
}

impl Defaults {
    /// Asks for the namespace's labels.
    ///
    /// # Errors
    /// What the daemon answers.
    pub async fn of(client: &Client) -> Result<Self, Error> {
        let request = GetNamespaceRequest { name: client.namespace().to_string() };
        let labels = match client.namespaces().get(request).await.map_err(Error::from) {
            Ok(response) => response.into_inner().namespace.unwrap_or_default().labels,
            // It comes into being with the first thing in it.
            Err(error) if error.kind() == ErrorKind::NotFound => Labels::default(),
            Err(error) => return Err(error),
        };
        let label = |key: &str, default: &str| {
            labels.get(key).filter(|value| !value.is_empty()).map_or(default, |v| v).to_owned()
        };
        Ok(Self {
            runtime: label(labels::DEFAULT_RUNTIME, RUNTIME),
            snapshotter: label(labels::DEFAULT_SNAPSHOTTER, SNAPSHOTTER),
        })
    }
}

/// The record of a container.
///
/// # Errors
/// When there is none, with names that could have been meant.
pub async fn get(client: &Client, id: &ContainerId) -> Result<Container, Error> {
    let request = api::GetContainerRequest { id: id.to_string() };
    match client.containers().get(request).await.map_err(Error::from) {
        Ok(response) => Ok(response.into_inner().container.unwrap_or_default()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(not_found(client, id).await),
        Err(error) => Err(error),
    }
}

async fn not_found(client: &Client, id: &ContainerId) -> Error {
    let known = list(client).await.unwrap_or_default();
    let near = names::near(id.as_str(), known.iter().map(|container| container.id.as_str()));
    let hint = if near.is_empty() {
        "`davit ps --all` lists what there is".to_owned()
    } else {
        format!("did you mean {}?", near.join(" or "))
    };
    Error::usage(format!(
        "no container is called {id} in the namespace {}; {hint}",
        client.namespace()
    ))
}

/// Every container of the namespace, by name.
///
/// # Errors
/// What the daemon answers.
pub async fn list(client: &Client) -> Result<Vec<Container>, Error> {
    let request = api::ListContainersRequest::default();
    let mut containers = client.containers().list(request).await?.into_inner().containers;
    containers.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(containers)
}

/// Adds labels to a container.
///
/// # Errors
/// What the daemon answers.
pub async fn set_label(
    client: &Client,
    id: &ContainerId,
    key: &str,
    value: &str,
) -> Result<(), Error> {
    let request = api::UpdateContainerRequest {
        container: Some(Container {
            id: id.to_string(),
            labels: [(key.to_owned(), value.to_owned())].into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec![format!("labels.{key}")] }),
    };
    client.containers().update(request).await?;
    Ok(())
}

/// Removes the record and the root filesystem. That either is gone already is
/// fine.
///
/// # Errors
/// What the daemon answers.
pub async fn remove(
    client: &Client,
    id: &ContainerId,
    snapshotter: &str,
    key: &str,
) -> Result<(), Error> {
    let record = patiently(PATIENCE, async || {
        let request = api::DeleteContainerRequest { id: id.to_string() };
        missing_is_fine(client.containers().delete(request).await)
    });
    let snapshot = patiently(PATIENCE, async || {
        if key.is_empty() {
            return Ok(());
        }
        let request = snapshots::RemoveSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        missing_is_fine(client.snapshots().remove(request).await)
    });
    let (record, snapshot) = tokio::join!(record, snapshot);
    record.and(snapshot)
}

/// The mounts of a container's root filesystem.
///
/// # Errors
/// What the daemon answers.
pub async fn mounts(client: &Client, container: &Container) -> Result<Vec<Mount>, Error> {
    if container.snapshot_key.is_empty() {
        return Ok(Vec::new());
    }
    let request = snapshots::MountsRequest {
        snapshotter: container.snapshotter.clone(),
        key: container.snapshot_key.clone(),
    };
    Ok(client.snapshots().mounts(request).await?.into_inner().mounts)
}

/// The specification of a container; null where it has none.
///
/// # Errors
/// When it is no JSON.
pub fn spec(container: &Container) -> Result<Value, Error> {
    let Some(any) = &container.spec else { return Ok(Value::Null) };
    serde_json::from_slice(&any.value)
        .map_err(|error| Error::usage(format!("the specification of {}: {error}", container.id)))
}
