//! From the image store to a registry (containerd,
//! `core/transfer/local/push.go`).

use std::sync::Arc;

use davit_distribution::push::Push;
use davit_protocols::grpc::containerd::types::transfer as types;
use davit_types::platform::Matcher;
use davit_types::{Descriptor, Namespace, Platform};
use tonic::Status;

use super::progress::Progress;
use super::registry::Remote;
use super::tracker::Watch;
use super::{Transfer, target};
use crate::pull::Contents;
use crate::services::status;

impl Transfer {
    /// Pushes the image that `store` names.
    pub(super) async fn push(
        &self,
        namespace: &Namespace,
        store: &types::ImageStore,
        remote: Remote,
        progress: &Progress,
    ) -> Result<(), Status> {
        let client = self.client(namespace, None).await?;
        let wire = target(&client, &store.name).await?;
        let root = Descriptor::try_from(wire.clone()).map_err(status)?;
        let title = remote.title();
        progress.tell(&format!("Pushing to {title}")).await;
        progress.about("pushing content", &store.name, wire.clone()).await;
        let watch = Watch::of(progress, "uploading");
        let push = Push {
            source: Arc::new(Contents {
                content: Arc::clone(&self.images.content),
                events: Arc::clone(&self.images.events),
                namespace: namespace.clone(),
                lease: None,
            }),
            target: Arc::new(remote.repository),
            observer: watch.observer(),
            uploads: self.images.uploads.clone(),
            reference: remote.reference,
            platforms: match store.platforms.as_slice() {
                [] => Matcher::all(),
                given => {
                    let given = given.iter().cloned().map(Platform::from);
                    Matcher::any(&given.collect::<Vec<_>>())
                }
            },
        };
        let result = watch.during(push.run(&root, &store.name), progress).await;
        davit_sys::process::trim_heap();
        davit_sys::process::unmap_idle_code();
        result.map_err(status)?;
        progress.about("pushed content", &store.name, wire.clone()).await;
        progress.about(&format!("Completed push to {title}"), "", wire).await;
        Ok(())
    }
}
