//! 10,000 images and 50,000 blobs, listed, filtered and collected, and what
//! another client notices of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use content::content_client::ContentClient;
use davit_integration::{Client, Daemon, Server, image};
use davit_protocols::grpc::containerd::services::content::v1 as content;
use davit_protocols::grpc::containerd::services::images::v1 as images;
use davit_protocols::grpc::containerd::services::snapshots::v1 as snapshots;
use davit_protocols::grpc::containerd::services::version::v1::version_client::VersionClient;
use davit_protocols::grpc::containerd::types::Descriptor;
use davit_protocols::grpc::davit::v1 as maintenance;
use images::images_client::ImagesClient;
use maintenance::maintenance_client::MaintenanceClient;
use sha2::{Digest, Sha256};
use snapshots::snapshots_client::SnapshotsClient;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::codegen::tokio_stream;
use tonic::transport::{Channel, Endpoint};

use crate::memory::{field, peak_rss, reset_peak};
use crate::{Figure, Promise, Report};

const IMAGES: usize = 10_000;
/// Blobs of an image: manifest, configuration, three layers.
const BLOBS: usize = 5;
/// Connections, and calls on each, that fill the daemon.
const FILLERS: (usize, usize) = (4, 16);
/// How often everything is listed and filtered.
const PASSES: usize = 3;
/// How long the other client is alone.
const IDLE: Duration = Duration::from_secs(5);
/// What the other client leaves between its calls.
const BREATH: Duration = Duration::from_millis(1);
/// What holds blobs that no image holds yet.
const LEASE: &str = "filling";
/// The largest message, as `ctr` allows it.
const MESSAGE_LIMIT: usize = 16 << 20;

/// A connection, and the namespace of all calls on it.
#[derive(Clone)]
struct Api {
    channel: Channel,
    namespace: String,
}

impl Api {
    async fn connect(daemon: &Daemon) -> Self {
        let address = format!("unix://{}", daemon.socket().display());
        let endpoint = Endpoint::try_from(address).expect("a socket's path is an address");
        let channel = endpoint.connect().await.expect("the daemon listens");
        Self { channel, namespace: daemon.namespace() }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let namespace = self.namespace.parse().expect("a namespace is ASCII");
        request.metadata_mut().insert("containerd-namespace", namespace);
        request
    }

    fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// Writes a blob in one message; its digest.
    async fn put(&self, data: String, labels: BTreeMap<String, String>) -> String {
        let digest = digest(data.as_bytes());
        let message = content::WriteContentRequest {
            action: content::WriteAction::Commit.into(),
            r#ref: digest.clone(),
            total: data.len() as i64,
            expected: digest.clone(),
            offset: 0,
            data: data.into_bytes().into(),
            labels,
        };
        let mut request = self.request(tokio_stream::iter([message]));
        // Until there is the image, nothing else holds it.
        let lease = LEASE.parse().expect("a lease's name is ASCII");
        request.metadata_mut().insert("containerd-lease", lease);
        let mut answers = self.content().write(request).await.expect("write").into_inner();
        while answers.message().await.expect("write").is_some() {}
        digest
    }

    /// Makes an image with all its blobs.
    async fn make_image(&self, number: usize) {
        let mut labels = BTreeMap::new();
        for part in 1..BLOBS {
            let layer = self.put(format!("{number} part {part}"), BTreeMap::new()).await;
            labels.insert(format!("containerd.io/gc.ref.content.l.{part}"), layer);
        }
        let manifest = format!("{number} manifest");
        let size = manifest.len() as i64;
        let digest = self.put(manifest, labels).await;
        let target = Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest,
            size,
            ..Default::default()
        };
        let group = (number % 100).to_string();
        let labels = BTreeMap::from([("group".to_owned(), group)]);
        let image = images::Image {
            name: name(number),
            labels,
            target: Some(target),
            ..Default::default()
        };
        let request = images::CreateImageRequest { image: Some(image), ..Default::default() };
        self.images().create(self.request(request)).await.expect("create");
    }

    async fn list_images(&self, filters: &[&str]) -> usize {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let request = self.request(images::ListImagesRequest { filters });
        self.images().list(request).await.expect("list").into_inner().images.len()
    }

    async fn list_content(&self, filters: &[&str]) -> usize {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let request = self.request(content::ListContentRequest { filters });
        let mut stream = self.content().list(request).await.expect("list").into_inner();
        let mut count = 0;
        while let Some(message) = stream.message().await.expect("list") {
            count += message.info.len();
        }
        count
    }

    /// Removes the names of half of the images, then what they held.
    async fn collect(&self) -> usize {
        let mut calls = JoinSet::new();
        for number in 0..IMAGES / 2 {
            if calls.len() == FILLERS.1 {
                calls.join_next().await.expect("there are some").expect("it is deleted");
            }
            let api = self.clone();
            calls.spawn(async move {
                let request =
                    images::DeleteImageRequest { name: name(number), ..Default::default() };
                api.images().delete(api.request(request)).await.expect("delete");
            });
        }
        calls.join_all().await;
        let request = self.request(maintenance::CollectRequest { dry_run: false });
        let mut client = MaintenanceClient::new(self.channel.clone());
        let mut stream = client.collect(request).await.expect("collect").into_inner();
        while stream.message().await.expect("collect").is_some() {}
        // The daemon collects by itself, too, so that we need not be told.
        self.list_content(&[]).await
    }
}

fn digest(data: &[u8]) -> String {
    let hex: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn name(number: usize) -> String {
    format!("registry.test/scale/{number:05}:1")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn fill(daemon: &Daemon) {
    daemon.ctr_ok(Client::Ctr16, &["leases", "create", "--id", LEASE, "--expires", "0s"]);
    std::thread::scope(|scope| {
        for filler in 0..FILLERS.0 {
            scope.spawn(move || {
                runtime().block_on(async {
                    let api = Api::connect(daemon).await;
                    let mut calls = JoinSet::new();
                    for number in (filler..IMAGES).step_by(FILLERS.0) {
                        if calls.len() == FILLERS.1 {
                            calls.join_next().await.expect("there are some").expect("it is made");
                        }
                        let api = api.clone();
                        calls.spawn(async move { api.make_image(number).await });
                    }
                    calls.join_all().await;
                });
            });
        }
    });
    daemon.ctr_ok(Client::Ctr16, &["leases", "rm", "--sync", LEASE]);
}

/// How long the calls of each kind took, in milliseconds.
type Laps = BTreeMap<&'static str, Vec<f64>>;

/// What a client does all the time.
async fn bystander(daemon: &Daemon, until: impl Fn() -> bool) -> Laps {
    let api = Api::connect(daemon).await;
    let last = name(IMAGES - 1);
    let target = digest(format!("{} manifest", IMAGES - 1).as_bytes());
    let (mut images, mut blobs) = (api.images(), api.content());
    let mut snapshotter = SnapshotsClient::new(api.channel.clone());
    let mut version = VersionClient::new(api.channel.clone());
    let mut took = Laps::new();
    let mut start = Instant::now();
    while !until() {
        let mut lap = |kind: &'static str| {
            took.entry(kind).or_default().push(start.elapsed().as_secs_f64() * 1000.0);
            std::thread::sleep(BREATH);
            start = Instant::now();
        };
        let get = images::GetImageRequest { name: last.clone() };
        images.get(api.request(get)).await.expect("get");
        lap("get an image");
        let info = content::InfoRequest { digest: target.clone() };
        blobs.info(api.request(info)).await.expect("info");
        lap("look at a blob");
        let (name, key) = ("overlayfs".to_owned(), "bystander".to_owned());
        let prepare = snapshots::PrepareSnapshotRequest {
            snapshotter: name.clone(),
            key: key.clone(),
            ..Default::default()
        };
        snapshotter.prepare(api.request(prepare)).await.expect("prepare");
        lap("prepare a snapshot");
        let remove = snapshots::RemoveSnapshotRequest { snapshotter: name, key };
        snapshotter.remove(api.request(remove)).await.expect("remove");
        lap("remove a snapshot");
        version.version(api.request(())).await.expect("version");
        lap("version");
    }
    took
}

/// The value that one in a hundred is above.
fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() * 99 / 100]
}

/// The p99 when idle and the p99 under load of the kind of call that the load
/// delays most, so that quick calls do not hide slow ones.
fn most_delayed(idle: &Laps, loaded: &Laps) -> (f64, f64) {
    let both = |(kind, values): (_, &Vec<f64>)| (p99(idle[kind].clone()), p99(values.clone()));
    let delay = |(idle, loaded): &(f64, f64)| loaded - idle;
    let kinds = loaded.iter().map(both);
    kinds.max_by(|one, other| delay(one).total_cmp(&delay(other))).expect("there were calls")
}

/// Lists, filters and collects; what took how long.
fn load(daemon: &Daemon) -> Vec<String> {
    runtime().block_on(async {
        let api = Api::connect(daemon).await;
        let mut told = Vec::new();
        for _ in 0..PASSES {
            told.clear();
            let mut tell = |what: &str, start: Instant, found: usize, expected: usize| {
                assert_eq!(found, expected, "{what}");
                told.push(format!("{what}: {} ms", start.elapsed().as_millis()));
            };
            let start = Instant::now();
            let found = api.list_images(&[]).await;
            tell("list 10,000 images", start, found, IMAGES);
            let start = Instant::now();
            let found = api.list_images(&["labels.group==7"]).await;
            tell("filter them by a label", start, found, IMAGES / 100);
            let start = Instant::now();
            let found = api.list_images(&[&format!("name=={}", name(5))]).await;
            tell("one of them by its name", start, found, 1);
            let start = Instant::now();
            let found = api.list_content(&[]).await;
            tell("list 50,000 blobs", start, found, IMAGES * BLOBS);
            let start = Instant::now();
            let filter = "labels.\"containerd.io/gc.ref.content.l.1\"";
            let found = api.list_content(&[filter]).await;
            tell("filter them by a label", start, found, IMAGES);
        }
        let start = Instant::now();
        assert_eq!(api.collect().await, IMAGES * BLOBS / 2, "blobs left");
        let took = start.elapsed().as_millis();
        told.push(format!("remove 5,000 images and collect their 25,000 blobs: {took} ms"));
        told
    })
}

/// Fills a daemon, and measures a client of it, alone and beside the load.
pub fn measure(report: &mut Report) {
    let daemon = Daemon::start(Server::Davit);
    daemon.import_image(Client::Ctr16);
    daemon.ctr_ok(Client::Ctr16, &["image", "rm", "--sync", image::NAME]);
    let start = Instant::now();
    fill(&daemon);
    report.note(format!("10,000 images with 50,000 blobs made in {} s", start.elapsed().as_secs()));
    let end = Instant::now() + IDLE;
    let alone = runtime().block_on(bystander(&daemon, || Instant::now() >= end));
    reset_peak(&daemon);
    let done = Arc::new(AtomicBool::new(false));
    let (beside, told) = std::thread::scope(|scope| {
        let until = Arc::clone(&done);
        let daemon = &daemon;
        let watching = scope
            .spawn(move || runtime().block_on(bystander(daemon, || until.load(Ordering::Relaxed))));
        let told = scope.spawn(|| load(daemon)).join();
        done.store(true, Ordering::Relaxed);
        (watching.join().expect("the other client has no errors"), told.expect("the load is done"))
    });
    told.into_iter().for_each(|line| report.note(line));
    let calls: usize = beside.values().map(Vec::len).sum();
    let worst = beside.values().flatten().copied().fold(0.0, f64::max);
    report.note(format!("{calls} calls of another client meanwhile, the slowest {worst:.1} ms"));
    let resident = field(daemon.pid() as i32, "status", &["VmRSS"]);
    report.note(format!(
        "davitd meanwhile: {:.1} MB resident at most, {resident:.1} MB at the end",
        peak_rss(&daemon)
    ));
    for (kind, values) in &beside {
        let (idle, loaded) = (p99(alone[kind].clone()), p99(values.clone()));
        let calls = values.len();
        report.note(format!("{kind}: p99 {loaded:.1} ms of {calls} calls, {idle:.1} ms when idle"));
    }
    let (reference, ours) = most_delayed(&alone, &beside);
    report.figure(Figure {
        what: "another client's calls while 10,000 images and 50,000 blobs are listed, filtered \
               and collected, p99 of the kind delayed most, beside the same when idle"
            .into(),
        reference,
        ours,
        unit: "ms",
        promise: Promise::Above(50.0),
    });
}
