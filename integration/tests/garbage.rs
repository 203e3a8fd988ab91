//! What is garbage: the same for davitd as for forky's containerd; and what
//! `davit gc` and `davit why` tell of it.

#![allow(clippy::unwrap_used)]

#[path = "cli/seat.rs"]
#[allow(dead_code, reason = "this test uses its part")]
mod seat;

use std::collections::BTreeMap;
use std::time::SystemTime;

use davit_integration::{Daemon, Server, image, must, wait_for};
use davit_protocols::grpc::containerd::services::containers::v1 as containers;
use davit_protocols::grpc::containerd::services::content::v1 as content;
use davit_protocols::grpc::containerd::services::images::v1 as images;
use davit_protocols::grpc::containerd::services::leases::v1 as leases;
use davit_protocols::grpc::containerd::services::snapshots::v1 as snapshots;
use davit_protocols::grpc::containerd::types::Descriptor;
use seat::Seat;
use sha2::{Digest, Sha256};
use tonic::Request;
use tonic::codegen::tokio_stream::{self, StreamExt};
use tonic::transport::{Channel, Endpoint};

use containers::containers_client::ContainersClient;
use content::content_client::ContentClient;
use images::images_client::ImagesClient;
use leases::leases_client::LeasesClient;
use snapshots::snapshots_client::SnapshotsClient;

const SNAPSHOTTER: &str = "native";
const ROOT: &str = "containerd.io/gc.root";
const FLAT: &str = "containerd.io/gc.flat";
const EXPIRE: &str = "containerd.io/gc.expire";
/// Settings of a daemon that collects nothing by itself: some of what is made
/// has expired already.
const KEEPING: &str = "[plugins.\"io.containerd.gc.v1.scheduler\"]\nmutation_threshold = 0\n\
                       deletion_threshold = 0\nstartup_delay = \"10h\"\n";
/// Everything is made on behalf of this one, and then it goes.
const SETUP: &str = "setup";

type Labels = BTreeMap<String, String>;

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn digest(data: &str) -> String {
    let hex: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A time so many seconds from now, as labels have it.
fn in_seconds(seconds: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let at = u64::try_from(now as i64 + seconds).unwrap();
    let at = format!("@{at}");
    let time = must(std::process::Command::new("date").args(["-u", "-d", &at, "+%FT%TZ"]));
    time.trim().to_owned()
}

/// A client of one daemon, with names for blobs.
struct Api {
    channel: Channel,
    namespace: String,
    /// What blobs are called here, by digest.
    names: BTreeMap<String, &'static str>,
}

impl Api {
    async fn on(daemon: &Daemon) -> Self {
        let address = format!("unix://{}", daemon.socket().display());
        let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
        Self { channel, namespace: daemon.namespace(), names: BTreeMap::new() }
    }

    fn ask<T>(&self, lease: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.parse().unwrap());
        if !lease.is_empty() {
            request.metadata_mut().insert("containerd-lease", lease.parse().unwrap());
        }
        request
    }

    async fn lease(&self, id: &str, labels: Labels) {
        let request = leases::CreateRequest { id: id.to_owned(), labels };
        LeasesClient::new(self.channel.clone()).create(self.ask("", request)).await.unwrap();
    }

    async fn hold(&self, lease: &str, kind: &str, id: &str) {
        let resource = Some(leases::Resource { id: id.to_owned(), r#type: kind.to_owned() });
        let request = leases::AddResourceRequest { id: lease.to_owned(), resource };
        let mut client = LeasesClient::new(self.channel.clone());
        client.add_resource(self.ask("", request)).await.unwrap();
    }

    /// A blob whose content is its name.
    async fn blob(&mut self, name: &'static str, labels: Labels) -> String {
        self.blob_in(SETUP, name, labels).await
    }

    async fn blob_in(&mut self, lease: &str, name: &'static str, labels: Labels) -> String {
        let digest = digest(name);
        let message = content::WriteContentRequest {
            action: content::WriteAction::Commit.into(),
            r#ref: name.to_owned(),
            total: name.len() as i64,
            expected: digest.clone(),
            offset: 0,
            data: name.as_bytes().to_vec().into(),
            labels,
        };
        let request = self.ask(lease, tokio_stream::iter([message]));
        let mut client = ContentClient::new(self.channel.clone());
        let mut answers = client.write(request).await.unwrap().into_inner();
        while answers.message().await.unwrap().is_some() {}
        self.names.insert(digest.clone(), name);
        digest
    }

    async fn ingest(&self, lease: &str, name: &str) {
        let message = content::WriteContentRequest {
            action: content::WriteAction::Write.into(),
            r#ref: name.to_owned(),
            total: 1000,
            data: vec![7; 10].into(),
            ..Default::default()
        };
        let request = self.ask(lease, tokio_stream::iter([message]));
        let mut client = ContentClient::new(self.channel.clone());
        let mut answers = client.write(request).await.unwrap().into_inner();
        // It stays when its writer goes.
        while let Ok(Some(_)) = answers.message().await {}
    }

    async fn snapshot(&self, key: &str, parent: &str, labels: Labels) {
        let request = snapshots::PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels,
        };
        let mut client = SnapshotsClient::new(self.channel.clone());
        client.prepare(self.ask(SETUP, request)).await.unwrap();
    }

    async fn committed(&self, name: &str, parent: &str, labels: Labels) {
        let key = format!("making {name}");
        self.snapshot(&key, parent, Labels::new()).await;
        let request = snapshots::CommitSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            name: name.to_owned(),
            key,
            labels,
            ..Default::default()
        };
        let mut client = SnapshotsClient::new(self.channel.clone());
        client.commit(self.ask(SETUP, request)).await.unwrap();
    }

    async fn image(&self, name: &str, target: &str, labels: Labels) {
        let target = Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: target.to_owned(),
            size: 1,
            ..Default::default()
        };
        let image = images::Image {
            name: name.to_owned(),
            labels,
            target: Some(target),
            ..Default::default()
        };
        let request = images::CreateImageRequest { image: Some(image), ..Default::default() };
        ImagesClient::new(self.channel.clone()).create(self.ask("", request)).await.unwrap();
    }

    async fn container(&self, id: &str, snapshot: &str, labels: Labels) {
        let runtime =
            containers::container::Runtime { name: "io.containerd.runc.v2".into(), options: None };
        let container = containers::Container {
            id: id.to_owned(),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: snapshot.to_owned(),
            runtime: Some(runtime),
            labels,
            ..Default::default()
        };
        let request = containers::CreateContainerRequest { container: Some(container) };
        ContainersClient::new(self.channel.clone()).create(self.ask("", request)).await.unwrap();
    }

    async fn end_lease(&self, id: &str, sync: bool) {
        let request = leases::DeleteRequest { id: id.to_owned(), sync };
        LeasesClient::new(self.channel.clone()).delete(self.ask("", request)).await.unwrap();
    }

    /// Everything that there is.
    async fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let request = self.ask("", content::ListContentRequest::default());
        let mut list =
            ContentClient::new(self.channel.clone()).list(request).await.unwrap().into_inner();
        while let Some(part) = list.next().await {
            let names = part.unwrap().info.into_iter().map(|info| self.names[&info.digest]);
            left.extend(names.map(|name| format!("blob {name}")));
        }
        let request = self.ask("", content::ListStatusesRequest::default());
        let statuses = ContentClient::new(self.channel.clone()).list_statuses(request).await;
        let statuses = statuses.unwrap().into_inner().statuses;
        left.extend(statuses.into_iter().map(|status| format!("ingest {}", status.r#ref)));
        let snapshotter = SNAPSHOTTER.to_owned();
        let request = snapshots::ListSnapshotsRequest { snapshotter, ..Default::default() };
        let request = self.ask("", request);
        let mut list =
            SnapshotsClient::new(self.channel.clone()).list(request).await.unwrap().into_inner();
        while let Some(part) = list.next().await {
            let infos = part.unwrap().info.into_iter();
            left.extend(infos.map(|info| format!("snapshot {}", info.name)));
        }
        let request = self.ask("", images::ListImagesRequest::default());
        let list = ImagesClient::new(self.channel.clone()).list(request).await.unwrap();
        let list = list.into_inner().images.into_iter();
        left.extend(list.map(|image| format!("image {}", image.name)));
        let request = self.ask("", leases::ListRequest::default());
        let list = LeasesClient::new(self.channel.clone()).list(request).await.unwrap();
        left.extend(
            list.into_inner().leases.into_iter().map(|lease| format!("lease {}", lease.id)),
        );
        left.sort();
        left
    }
}

/// Makes one of everything and has it collected; what is left. Back references
/// are not among it: 2.1 does not know those of content.
async fn scenario(daemon: &Daemon) -> Vec<String> {
    let mut api = Api::on(daemon).await;
    api.lease(SETUP, Labels::new()).await;

    // Labels.
    api.blob("nobody's", Labels::new()).await;
    api.blob("a root", labels([(ROOT, "yes")])).await;
    let leaf = api.blob("a leaf", Labels::new()).await;
    let by_one = api.blob("by one", labels([("containerd.io/gc.ref.content", &leaf)])).await;
    let numbered = [
        ("containerd.io/gc.ref.content.l.0", by_one.as_str()),
        ("containerd.io/gc.ref.content.m.1", &digest("not there")),
        (ROOT, "yes"),
    ];
    api.blob("a tree", labels(numbered)).await;
    let cut = api.blob("of garbage", Labels::new()).await;
    api.blob("garbage", labels([("containerd.io/gc.ref.content.0", &cut)])).await;
    let near = api.blob("nearly", Labels::new()).await;
    api.blob("no label", labels([("containerd.io/gc.reference.content", &near), (ROOT, "")])).await;

    // Snapshots.
    api.committed("base", "", Labels::new()).await;
    api.committed("middle", "base", Labels::new()).await;
    api.snapshot("top", "middle", labels([(ROOT, "yes")])).await;
    api.snapshot("loose", "base", Labels::new()).await;
    api.committed("by blob", "", Labels::new()).await;
    let to = format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}");
    api.blob("of snapshot", labels([(&to, "by blob"), (ROOT, "yes")])).await;
    api.committed("gone", "", Labels::new()).await;
    api.snapshot("of container", "", Labels::new()).await;
    let named = api.blob("of container's label", Labels::new()).await;
    let to_blob = labels([("containerd.io/gc.ref.content", &named)]);
    api.container("box", "of container", to_blob).await;

    // Images.
    let config = api.blob("config", Labels::new()).await;
    let to_config = labels([("containerd.io/gc.ref.content.config", &config)]);
    let manifest = api.blob("manifest", to_config).await;
    api.image("image", &manifest, Labels::new()).await;
    let stale = api.blob("of stale image", Labels::new()).await;
    api.image("stale", &stale, labels([(EXPIRE, &in_seconds(-10))])).await;
    let fresh = api.blob("of fresh image", Labels::new()).await;
    api.image("fresh", &fresh, labels([(EXPIRE, &in_seconds(3600))])).await;

    // Leases.
    api.lease("held", Labels::new()).await;
    let child = api.blob("of held", Labels::new()).await;
    let parent = api.blob("held", labels([("containerd.io/gc.ref.content.0", &child)])).await;
    api.hold("held", "content", &parent).await;
    api.lease("flat", labels([(FLAT, "yes")])).await;
    let child = api.blob("of flat", Labels::new()).await;
    let parent = api.blob("flat", labels([("containerd.io/gc.ref.content.0", &child)])).await;
    api.hold("flat", "content", &parent).await;
    api.committed("flat base", "", Labels::new()).await;
    api.snapshot("flat top", "flat base", Labels::new()).await;
    api.hold("flat", &format!("snapshots/{SNAPSHOTTER}"), "flat top").await;
    api.lease("past", labels([(EXPIRE, &in_seconds(-10))])).await;
    let blob = api.blob("of past", Labels::new()).await;
    api.hold("past", "content", &blob).await;
    api.lease("future", labels([(EXPIRE, &in_seconds(3600))])).await;
    let blob = api.blob("of future", Labels::new()).await;
    api.hold("future", "content", &blob).await;
    api.ingest("future", "ingest of future").await;
    api.ingest("past", "ingest of past").await;

    let all = api.left().await;
    api.end_lease(SETUP, true).await;
    let left = api.left().await;
    assert!(left.len() < all.len(), "nothing was collected");
    left
}

#[test]
fn containerd_keeps_the_same() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let [theirs, ours] = [Server::Containerd21, Server::Davit]
        .map(|server| runtime.block_on(scenario(&Daemon::with_config(server, KEEPING))));
    for kept in ["blob a leaf", "snapshot base", "blob of held", "blob flat", "image fresh"] {
        assert!(theirs.iter().any(|left| left == kept), "{kept}: {theirs:#?}");
    }
    for gone in ["blob nobody's", "snapshot loose", "blob of flat", "lease past", "image stale"] {
        assert!(!theirs.iter().any(|left| left == gone), "{gone}: {theirs:#?}");
    }
    assert_eq!(ours, theirs);
}

#[test]
fn garbage_is_listed_explained_and_freed() {
    let seat = Seat::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut api = runtime.block_on(Api::on(&seat.daemon));
    let blob = runtime.block_on(async {
        api.lease("keep", Labels::new()).await;
        api.blob_in("keep", "what a lease holds", Labels::new()).await
    });
    let path = seat.daemon.path("root/io.containerd.content.v1.content/blobs/sha256");
    let path = path.join(blob.trim_start_matches("sha256:"));
    assert_eq!(seat.ok(&["gc", "--dry-run"]), "nothing to collect\n");
    let held = seat.ok(&["why", &blob]);
    assert!(held.contains("lease keep") && held.contains("held by the lease"), "{held}");
    // The beginning of a digest will do.
    let of_image = seat.json(&["inspect", seat::IMAGE])[0]["configDigest"].clone();
    let of_image = of_image.as_str().unwrap();
    let why = seat.ok(&["why", &of_image[..20]]);
    assert!(why.contains(of_image) && why.contains(&format!("image {}", image::NAME)), "{why}");

    runtime.block_on(api.end_lease("keep", false));
    let list = seat.ok(&["gc", "--dry-run"]);
    assert!(list.contains(&blob) && list.contains("1 thing would go"), "{list}");
    let json = seat.json(&["gc", "--dry-run"]);
    assert_eq!(json["garbage"][0]["name"], *blob);
    assert_eq!((&json["dryRun"], &json["size"]), (&true.into(), &18.into()));
    let why = seat.ok(&["why", &blob]);
    assert!(why.ends_with("nothing holds it: it goes at the next collection\n"), "{why}");
    assert!(path.exists(), "nothing is removed by asking");
    let gone = seat.ok(&["gc"]);
    assert!(gone.contains(&blob) && gone.contains("1 thing gone, which freed 18 B"), "{gone}");
    wait_for("the file is removed", 10, || (!path.exists()).then_some(()));
    assert_eq!(seat.ok(&["gc"]), "nothing to collect\n");
    seat.fails(&["why", &blob], 125, &blob[..20]);
    // An image that is removed takes all of its own along, at once or later.
    seat.ok(&["rmi", image::NAME]);
    assert_eq!(seat.ok(&["gc"]), "nothing to collect\n");
}
