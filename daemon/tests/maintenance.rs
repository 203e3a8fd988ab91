//! Collecting garbage: by itself, when asked to, and asking about it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use common::{Home, LIMIT};
use content::content_client::ContentClient;
use davit_protocols::grpc::containerd::services::content::v1 as content;
use davit_protocols::grpc::containerd::services::images::v1 as images;
use davit_protocols::grpc::containerd::services::leases::v1 as leases;
use davit_protocols::grpc::containerd::types::Descriptor;
use davit_protocols::grpc::davit::v1 as maintenance;
use images::images_client::ImagesClient;
use leases::leases_client::LeasesClient;
use maintenance::maintenance_client::MaintenanceClient;
use sha2::{Digest, Sha256};
use tonic::transport::Channel;
use tonic::{Code, Request};

/// A client in the namespace `test`.
struct Api(Channel);

impl Api {
    fn request<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", "test".parse().unwrap());
        request
    }

    /// Writes a blob that `lease` holds; its digest.
    async fn put(&self, text: &str, labels: &[(&str, &str)], lease: &str) -> String {
        let hex: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = format!("sha256:{hex}");
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let message = content::WriteContentRequest {
            action: content::WriteAction::Commit.into(),
            r#ref: text.to_owned(),
            total: text.len() as i64,
            expected: digest.clone(),
            data: text.as_bytes().to_vec().into(),
            labels,
            ..Default::default()
        };
        let mut request = Self::request(tokio_stream::iter([message]));
        request.metadata_mut().insert("containerd-lease", lease.parse().unwrap());
        let mut client = ContentClient::new(self.0.clone());
        let mut answers = client.write(request).await.unwrap().into_inner();
        while answers.message().await.unwrap().is_some() {}
        digest
    }

    async fn lease(&self, id: &str, expires: Option<SystemTime>) {
        let expire = expires.map(|time| {
            let stamp = prost_types::Timestamp::from(time).to_string();
            ("containerd.io/gc.expire".to_owned(), stamp)
        });
        let labels = BTreeMap::from_iter(expire);
        let request = leases::CreateRequest { id: id.to_owned(), labels };
        LeasesClient::new(self.0.clone()).create(Self::request(request)).await.unwrap();
    }

    async fn delete_lease(&self, id: &str) {
        let request = leases::DeleteRequest { id: id.to_owned(), sync: false };
        LeasesClient::new(self.0.clone()).delete(Self::request(request)).await.unwrap();
    }

    async fn name(&self, name: &str, digest: &str) {
        let target = Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: digest.to_owned(),
            size: 8,
            ..Default::default()
        };
        let image =
            images::Image { name: name.to_owned(), target: Some(target), ..Default::default() };
        let request = images::CreateImageRequest { image: Some(image), ..Default::default() };
        ImagesClient::new(self.0.clone()).create(Self::request(request)).await.unwrap();
    }

    async fn blobs(&self) -> Vec<String> {
        let request = Self::request(content::ListContentRequest::default());
        let mut stream =
            ContentClient::new(self.0.clone()).list(request).await.unwrap().into_inner();
        let mut digests = Vec::new();
        while let Some(message) = stream.message().await.unwrap() {
            digests.extend(message.info.into_iter().map(|info| info.digest));
        }
        digests
    }

    /// Waits until there are no blobs, changing nothing.
    async fn until_empty(&self) {
        let deadline = Instant::now() + LIMIT;
        while !self.blobs().await.is_empty() {
            assert!(Instant::now() < deadline, "blobs are left");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `KIND NAME SIZE` of each.
    async fn collect(&self, dry_run: bool) -> Vec<String> {
        let request = maintenance::CollectRequest { dry_run };
        let mut client = MaintenanceClient::new(self.0.clone());
        let mut stream = client.collect(request).await.unwrap().into_inner();
        let mut told = Vec::new();
        while let Some(message) = stream.message().await.unwrap() {
            for garbage in message.garbage {
                assert_eq!(garbage.namespace, "test");
                let thing = garbage.thing.unwrap();
                told.push(format!("{} {} {}", thing.kind, thing.name, garbage.size));
            }
        }
        told.sort();
        told
    }

    async fn explain(&self, name: &str) -> Result<Vec<maintenance::Explanation>, tonic::Status> {
        let request = Self::request(maintenance::ExplainRequest { name: name.to_owned() });
        let answer = MaintenanceClient::new(self.0.clone()).explain(request).await?;
        Ok(answer.into_inner().explanations)
    }

    /// The only chain of the only thing called `name`: `KIND NAME: WHY`.
    async fn chain(&self, name: &str) -> Vec<String> {
        let explanations = self.explain(name).await.unwrap();
        assert_eq!(explanations.len(), 1, "{explanations:?}");
        let chains = &explanations[0].chains;
        assert_eq!((chains.len(), explanations[0].roots), (1, 1), "{explanations:?}");
        let links = chains[0].links.iter().map(|link| {
            let thing = link.thing.clone().unwrap();
            format!("{} {}: {}", thing.kind, thing.name, link.held_by)
        });
        links.collect()
    }
}

#[tokio::test]
async fn what_a_lease_held_goes_soon_after_it_although_nobody_does_anything() {
    let home = Home::new();
    let daemon = home.start();
    let api = Api(daemon.channel().await);
    api.lease("ends", Some(SystemTime::now() + Duration::from_secs(5))).await;
    api.put("held until it ends", &[], "ends").await;
    api.until_empty().await;
    let list = Api::request(leases::ListRequest::default());
    let left = LeasesClient::new(api.0.clone()).list(list).await.unwrap().into_inner().leases;
    assert_eq!(left, [], "the lease goes, too");

    api.lease("removed", None).await;
    api.put("held until it is removed", &[], "removed").await;
    assert_eq!(api.blobs().await.len(), 1);
    api.delete_lease("removed").await;
    api.until_empty().await;
}

#[tokio::test]
async fn tells_what_would_go_and_what_went() {
    let home = Home::new();
    // It is not to collect before we do.
    std::fs::write(
        home.path("config.toml"),
        "version = 3\n[plugins.\"io.containerd.gc.v1.scheduler\"]\nschedule_delay = \"1h\"\n\
         startup_delay = \"1h\"\n",
    )
    .unwrap();
    let mut command = home.command();
    let daemon = home.start_with(command.arg("--config").arg(home.path("config.toml")));
    let api = Api(daemon.channel().await);
    api.lease("l", None).await;
    let layer = api.put("a layer", &[], "l").await;
    let label = [("containerd.io/gc.ref.content.l.0", layer.as_str())];
    let manifest = api.put("manifest", &label, "l").await;
    assert_eq!(api.collect(true).await, [""; 0]);
    assert_eq!(api.collect(false).await, [""; 0]);

    api.delete_lease("l").await;
    let mut expected = [format!("content {layer} 7"), format!("content {manifest} 8")];
    expected.sort();
    assert_eq!(api.collect(true).await, expected);
    assert_eq!(api.blobs().await.len(), 2, "nothing went");
    let explanations = api.explain(&layer).await.unwrap();
    assert_eq!((explanations.len(), explanations[0].chains.len()), (1, 0));
    assert_eq!(api.collect(false).await, expected);
    assert_eq!(api.blobs().await, [""; 0]);
}

#[tokio::test]
async fn explains_what_keeps_a_thing() {
    let home = Home::new();
    let daemon = home.start();
    let api = Api(daemon.channel().await);
    api.lease("pull-7", None).await;
    let layer = api.put("a layer", &[], "pull-7").await;
    let label = [("containerd.io/gc.ref.content.l.0", layer.as_str())];
    let manifest = api.put("manifest", &label, "pull-7").await;
    assert_eq!(
        api.chain(&layer).await,
        [
            "lease pull-7: leases stay by themselves".to_owned(),
            format!("content {layer}: held by the lease"),
        ]
    );
    api.name("image.test/a:1", &manifest).await;
    api.delete_lease("pull-7").await;
    let expected = [
        "image image.test/a:1: images stay by themselves".to_owned(),
        format!("content {manifest}: its target"),
        format!("content {layer}: label containerd.io/gc.ref.content.l.0"),
    ];
    let hex = &layer["sha256:".len()..];
    for name in [&layer, hex, &hex[..12], &layer[..20]] {
        assert_eq!(api.chain(name).await, expected, "{name}");
    }
    assert_eq!(api.chain("image.t").await, expected[..1]);

    let refusal = api.explain("sha256:").await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    for digest in [&layer, &manifest] {
        assert!(refusal.message().contains(digest.as_str()), "{refusal:?}");
    }
    let refusal = api.explain("nothing").await.unwrap_err();
    assert_eq!(refusal.code(), Code::NotFound);
    assert_eq!(refusal.message(), "\"nothing\" in namespace \"test\": not found");
    assert_eq!(api.explain("").await.unwrap_err().code(), Code::InvalidArgument);
}
