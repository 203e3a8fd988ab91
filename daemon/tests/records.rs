//! The services of namespaces, containers, images and leases, called as tonic
//! calls them, over a real index.

#![allow(clippy::unwrap_used, reason = "a failure is to end the test")]

use std::sync::Arc;

use davit_content::LocalStore;
use davit_daemon::services::containers::Containers;
use davit_daemon::services::images::Images;
use davit_daemon::services::leases::Leases;
use davit_daemon::services::namespaces::Namespaces;
use davit_events::{Exchange, Subscription};
use davit_index::{Collector, ContentStore, Index, LeaseId, Sharing, Snapshotter};
use davit_protocols::convert::grpc::unpack;
use davit_protocols::event_field;
use davit_protocols::grpc::containerd::services::containers::v1 as containers;
use davit_protocols::grpc::containerd::services::images::v1 as images;
use davit_protocols::grpc::containerd::services::leases::v1 as leases;
use davit_protocols::grpc::containerd::services::namespaces::v1 as namespaces;
use davit_protocols::grpc::containerd::{events, types};
use davit_snapshots::Native;
use davit_types::{Envelope, Labels, Namespace};
use futures::TryStreamExt;
use prost_types::FieldMask;
use tonic::{Code, Request, Status};

use containers::containers_server::Containers as _;
use images::images_server::Images as _;
use leases::leases_server::Leases as _;
use namespaces::namespaces_server::Namespaces as _;

struct Daemon {
    _dir: tempfile::TempDir,
    index: Arc<Index>,
    content: Arc<ContentStore>,
    snapshots: Arc<Snapshotter>,
    events: Subscription,
    containers: Containers,
    images: Images,
    leases: Leases,
    namespaces: Namespaces,
}

fn daemon() -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let index = Arc::new(Index::open(&dir.path().join("index.db")).unwrap());
    let local = Arc::new(LocalStore::open(&dir.path().join("content")).unwrap());
    let content = Arc::new(ContentStore::new(index.clone(), local, Sharing::Shared));
    let backend = Arc::new(Native::open(&dir.path().join("native")).unwrap());
    let snapshots = Arc::new(Snapshotter::new(index.clone(), backend));
    let collector =
        Arc::new(Collector::new(index.clone(), content.clone(), vec![snapshots.clone()]));
    let events = Arc::new(Exchange::new(event_field));
    Daemon {
        _dir: dir,
        content: content.clone(),
        snapshots,
        events: events.subscribe(&[]).unwrap(),
        containers: Containers { index: index.clone(), events: events.clone() },
        images: Images {
            index: index.clone(),
            events: events.clone(),
            collector: collector.clone(),
        },
        leases: Leases { index: index.clone(), events: events.clone(), collector },
        namespaces: Namespaces { index: index.clone(), content, events },
        index,
    }
}

impl Daemon {
    /// The next event: topic, namespace and payload.
    async fn event<M>(&mut self, topic: &str, namespace: &str) -> M
    where
        M: prost::Message + prost::Name + Default,
    {
        let envelope: Arc<Envelope> = self.events.next().await.unwrap().unwrap();
        assert_eq!((envelope.topic.as_str(), envelope.namespace.as_str()), (topic, namespace));
        unpack(&envelope.event).unwrap()
    }

    /// Nothing was published since the last event that was looked at.
    async fn no_event(&mut self) {
        let marker = namespaces::CreateNamespaceRequest {
            namespace: Some(namespaces::Namespace {
                name: "marker".to_owned(),
                labels: Labels::new(),
            }),
        };
        self.namespaces.create(Request::new(marker)).await.unwrap();
        self.event::<events::NamespaceCreate>("/namespaces/create", "marker").await;
        let name = "marker".to_owned();
        let marker = namespaces::DeleteNamespaceRequest { name };
        self.namespaces.delete(Request::new(marker)).await.unwrap();
        self.event::<events::NamespaceDelete>("/namespaces/delete", "marker").await;
    }
}

fn in_namespace<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "default".parse().unwrap());
    request
}

fn map(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, message: &str) {
    let status = result.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, message));
}

fn container(id: &str) -> containers::Container {
    let any = |text: &str| prost_types::Any {
        type_url: format!("types/{text}"),
        value: text.as_bytes().to_vec(),
    };
    containers::Container {
        id: id.to_owned(),
        labels: map(&[("k", "v")]),
        image: "image".to_owned(),
        runtime: Some(containers::container::Runtime {
            name: "io.containerd.runc.v2".to_owned(),
            options: Some(any("options")),
        }),
        spec: Some(any("spec")),
        snapshotter: "native".to_owned(),
        snapshot_key: id.to_owned(),
        created_at: None,
        updated_at: None,
        extensions: [("e".to_owned(), any("extension"))].into(),
        sandbox: "pod".to_owned(),
    }
}

fn image(name: &str, digest: &str) -> images::Image {
    images::Image {
        name: name.to_owned(),
        labels: map(&[("k", "v")]),
        target: Some(types::Descriptor {
            media_type: "media/type".to_owned(),
            digest: digest.to_owned(),
            size: 5,
            annotations: map(&[("a", "b")]),
        }),
        created_at: None,
        updated_at: None,
    }
}

const DIGEST: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

#[tokio::test]
async fn namespaces_over_the_wire() {
    let mut daemon = daemon();
    let create = |name: &str, labels: &[(&str, &str)]| {
        let namespace = namespaces::Namespace { name: name.to_owned(), labels: map(labels) };
        Request::new(namespaces::CreateNamespaceRequest { namespace: Some(namespace) })
    };
    let made = daemon.namespaces.create(create("one", &[("k", "v")])).await.unwrap().into_inner();
    assert_eq!(made.namespace.unwrap().name, "one");
    let event: events::NamespaceCreate = daemon.event("/namespaces/create", "one").await;
    assert_eq!((event.name.as_str(), event.labels), ("one", map(&[("k", "v")])));
    refused(
        daemon.namespaces.create(create("one", &[])).await,
        Code::AlreadyExists,
        r#"namespace "one": already exists"#,
    );
    refused(
        daemon.namespaces.create(create("", &[])).await,
        Code::InvalidArgument,
        "identifier must not be empty: invalid argument",
    );
    daemon.no_event().await;

    let update = |labels: &[(&str, &str)], update_mask| {
        let namespace = namespaces::Namespace { name: "one".to_owned(), labels: map(labels) };
        Request::new(namespaces::UpdateNamespaceRequest { namespace: Some(namespace), update_mask })
    };
    daemon.namespaces.update(update(&[("x", "y")], mask(&["labels.x"]))).await.unwrap();
    let event: events::NamespaceUpdate = daemon.event("/namespaces/update", "one").await;
    assert_eq!(event.labels, map(&[("x", "y")]));
    refused(
        daemon.namespaces.update(update(&[], mask(&["name"]))).await,
        Code::InvalidArgument,
        r#"cannot update "name" field"#,
    );
    let get = |name: &str| Request::new(namespaces::GetNamespaceRequest { name: name.to_owned() });
    let found = daemon.namespaces.get(get("one")).await.unwrap().into_inner().namespace.unwrap();
    assert_eq!(found.labels, map(&[("k", "v"), ("x", "y")]));
    let found = daemon.namespaces.get(get("../x")).await.unwrap().into_inner().namespace.unwrap();
    assert_eq!((found.name.as_str(), found.labels), ("../x", Labels::new()));

    let list = Request::new(namespaces::ListNamespacesRequest::default());
    assert_eq!(daemon.namespaces.list(list).await.unwrap().into_inner().namespaces.len(), 1);
    let delete =
        |name: &str| Request::new(namespaces::DeleteNamespaceRequest { name: name.to_owned() });
    daemon.namespaces.delete(delete("one")).await.unwrap();
    daemon.event::<events::NamespaceDelete>("/namespaces/delete", "one").await;
    for name in ["one", "", "../x"] {
        let message = format!("namespace {name:?}: not found");
        refused(daemon.namespaces.delete(delete(name)).await, Code::NotFound, &message);
    }
}

#[tokio::test]
async fn containers_over_the_wire() {
    let mut daemon = daemon();
    let create =
        |c: containers::Container| containers::CreateContainerRequest { container: Some(c) };
    let made = daemon.containers.create(in_namespace(create(container("c")))).await.unwrap();
    let made = made.into_inner().container.unwrap();
    assert!(made.created_at.is_some() && made.created_at == made.updated_at);
    let sent = containers::Container {
        created_at: made.created_at,
        updated_at: made.updated_at,
        ..container("c")
    };
    assert_eq!(made, sent);
    let event: events::ContainerCreate = daemon.event("/containers/create", "default").await;
    assert_eq!((event.id.as_str(), event.image.as_str()), ("c", "image"));
    assert_eq!(event.runtime.unwrap().options, made.runtime.as_ref().unwrap().options);
    refused(
        daemon.containers.create(in_namespace(create(container("c")))).await,
        Code::AlreadyExists,
        r#"container "c": already exists"#,
    );
    let nothing = containers::CreateContainerRequest::default();
    refused(
        daemon.containers.create(in_namespace(nothing)).await,
        Code::InvalidArgument,
        "create container failed validation: container.ID: identifier must not be empty: \
         invalid argument",
    );
    refused(
        daemon.containers.create(Request::new(create(container("d")))).await,
        Code::FailedPrecondition,
        "namespace is required: failed precondition",
    );
    daemon.no_event().await;

    let get = |id: &str| in_namespace(containers::GetContainerRequest { id: id.to_owned() });
    let found = daemon.containers.get(get("c")).await.unwrap().into_inner();
    assert_eq!(found.container, Some(made.clone()));
    refused(
        daemon.containers.get(get("d")).await,
        Code::NotFound,
        r#"container "d" in namespace "default": not found"#,
    );
    let list = |filters: &[&str]| {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        in_namespace(containers::ListContainersRequest { filters })
    };
    let found = daemon.containers.list(list(&["id==c", "id==d"])).await.unwrap().into_inner();
    assert_eq!(found.containers, std::slice::from_ref(&made));
    let streamed = daemon.containers.list_stream(list(&[])).await.unwrap().into_inner();
    let streamed: Vec<_> = streamed.try_collect().await.unwrap();
    assert_eq!(streamed.len(), 1);
    assert_eq!(streamed[0].container, Some(made));
    let refusal = daemon.containers.list(list(&["id="])).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);

    let update = |change: containers::Container, paths: &[&str]| {
        in_namespace(containers::UpdateContainerRequest {
            container: Some(change),
            update_mask: mask(paths),
        })
    };
    let change = containers::Container { labels: map(&[("new", "1")]), ..container("c") };
    daemon.containers.update(update(change.clone(), &["labels.new"])).await.unwrap();
    let event: events::ContainerUpdate = daemon.event("/containers/update", "default").await;
    assert_eq!(event.labels, map(&[("k", "v"), ("new", "1")]));
    assert_eq!((event.id.as_str(), event.snapshot_key.as_str()), ("c", "c"));
    refused(
        daemon.containers.update(update(containers::Container::default(), &[])).await,
        Code::InvalidArgument,
        "Container.ID required",
    );
    let delete = || in_namespace(containers::DeleteContainerRequest { id: "c".to_owned() });
    daemon.containers.delete(delete()).await.unwrap();
    let event: events::ContainerDelete = daemon.event("/containers/delete", "default").await;
    assert_eq!(event.id, "c");
    refused(daemon.containers.delete(delete()).await, Code::NotFound, "container c: not found");
}

#[tokio::test]
async fn images_over_the_wire() {
    let mut daemon = daemon();
    let create = |image: images::Image| {
        let epoch = prost_types::Timestamp { seconds: 7, nanos: 0 };
        in_namespace(images::CreateImageRequest {
            image: Some(image),
            source_date_epoch: Some(epoch),
        })
    };
    let made = daemon.images.create(create(image("i", DIGEST))).await.unwrap();
    let made = made.into_inner().image.unwrap();
    assert_eq!(made.created_at.as_ref().unwrap().seconds, 7);
    assert_eq!(made.target, image("i", DIGEST).target);
    let event: images::ImageCreate = daemon.event("/images/create", "default").await;
    assert_eq!((event.name.as_str(), event.labels), ("i", map(&[("k", "v")])));
    refused(
        daemon.images.create(create(image("i", DIGEST))).await,
        Code::AlreadyExists,
        r#"image "i": already exists"#,
    );
    refused(
        daemon.images.create(create(image("", DIGEST))).await,
        Code::InvalidArgument,
        "Image.Name required",
    );
    refused(
        daemon.images.create(create(image("j", "sha256:x"))).await,
        Code::InvalidArgument,
        r#"Target.Digest "sha256:x" invalid: invalid checksum digest length: invalid argument"#,
    );
    daemon.no_event().await;

    // A client that changes labels leaves the target out.
    let update = |labels: &[(&str, &str)], paths: &[&str]| {
        let image =
            images::Image { name: "i".to_owned(), labels: map(labels), ..Default::default() };
        in_namespace(images::UpdateImageRequest {
            image: Some(image),
            update_mask: mask(paths),
            source_date_epoch: None,
        })
    };
    let updated = daemon.images.update(update(&[("x", "y")], &["labels.x"])).await.unwrap();
    let updated = updated.into_inner().image.unwrap();
    assert_eq!((updated.target, updated.created_at), (made.target, made.created_at));
    let event: images::ImageUpdate = daemon.event("/images/update", "default").await;
    assert_eq!(event.labels, map(&[("k", "v"), ("x", "y")]));
    refused(
        daemon.images.update(update(&[], &[])).await,
        Code::InvalidArgument,
        r#"Target.Digest "" invalid: invalid checksum digest format: invalid argument"#,
    );
    let get = |name: &str| in_namespace(images::GetImageRequest { name: name.to_owned() });
    refused(daemon.images.get(get("j")).await, Code::NotFound, r#"image "j": not found"#);
    assert!(daemon.images.get(get("i")).await.is_ok());
    let filters = vec!["name~=^i$".to_owned()];
    let list = in_namespace(images::ListImagesRequest { filters });
    assert_eq!(daemon.images.list(list).await.unwrap().into_inner().images.len(), 1);

    let delete = |digest: Option<&str>| {
        let target = digest
            .map(|digest| types::Descriptor { digest: digest.to_owned(), ..Default::default() });
        in_namespace(images::DeleteImageRequest { name: "i".to_owned(), sync: false, target })
    };
    refused(
        daemon.images.delete(delete(Some("sha256:other"))).await,
        Code::NotFound,
        &format!("image \"i\" has target {DIGEST}, not sha256:other: not found"),
    );
    daemon.images.delete(delete(Some(DIGEST))).await.unwrap();
    daemon.event::<images::ImageDelete>("/images/delete", "default").await;
    refused(daemon.images.delete(delete(None)).await, Code::NotFound, r#"image "i": not found"#);
}

#[tokio::test]
async fn a_synchronous_delete_takes_everything_along() {
    let mut daemon = daemon();
    let space = Namespace::new("default").unwrap();
    let request = davit_index::WriterRequest { reference: "r".to_owned(), ..Default::default() };
    let mut writer = daemon.content.writer(&space, request, None).unwrap();
    writer.write(b"hello").unwrap();
    let labels = map(&[("containerd.io/gc.ref.snapshot.native", "layer")]);
    let blob = writer.commit(5, None, &labels).unwrap().digest;
    assert_eq!(blob.as_str(), DIGEST);
    daemon.snapshots.prepare(&space, "layer", "", &Labels::new(), None).unwrap();
    let create =
        images::CreateImageRequest { image: Some(image("i", DIGEST)), source_date_epoch: None };
    daemon.images.create(in_namespace(create)).await.unwrap();
    daemon.event::<images::ImageCreate>("/images/create", "default").await;
    let delete = images::DeleteImageRequest { name: "i".to_owned(), sync: true, target: None };
    daemon.images.delete(in_namespace(delete)).await.unwrap();
    daemon.event::<images::ImageDelete>("/images/delete", "default").await;
    let event: events::SnapshotRemove = daemon.event("/snapshot/remove", "default").await;
    assert_eq!((event.key.as_str(), event.snapshotter.as_str()), ("layer", "native"));
    assert!(daemon.content.info(&space, &blob).is_err());
    assert!(daemon.snapshots.stat(&space, "layer").is_err());
}

#[tokio::test]
async fn leases_over_the_wire() {
    let daemon = daemon();
    let create = |id: &str| {
        in_namespace(leases::CreateRequest { id: id.to_owned(), labels: map(&[("k", "v")]) })
    };
    let made = daemon.leases.create(create("l")).await.unwrap().into_inner().lease.unwrap();
    assert_eq!((made.id.as_str(), &made.labels), ("l", &map(&[("k", "v")])));
    let named = daemon.leases.create(create("")).await.unwrap().into_inner().lease.unwrap();
    assert!(named.id.contains('-'), "{}", named.id);
    refused(
        daemon.leases.create(create("l")).await,
        Code::AlreadyExists,
        r#"lease "l": already exists"#,
    );
    let list = in_namespace(leases::ListRequest { filters: vec!["id==l".to_owned()] });
    assert_eq!(daemon.leases.list(list).await.unwrap().into_inner().leases, [made]);

    let resource = |kind: &str| leases::Resource { id: DIGEST.to_owned(), r#type: kind.to_owned() };
    let add = |id: &str, kind: &str| {
        in_namespace(leases::AddResourceRequest {
            id: id.to_owned(),
            resource: Some(resource(kind)),
        })
    };
    daemon.leases.add_resource(add("l", "content")).await.unwrap();
    refused(
        daemon.leases.add_resource(add("none", "content")).await,
        Code::NotFound,
        r#"lease "none": not found"#,
    );
    refused(
        daemon.leases.add_resource(add("l", "tasks")).await,
        Code::Unimplemented,
        "resource type tasks not supported yet: not implemented",
    );
    let held = || in_namespace(leases::ListResourcesRequest { id: "l".to_owned() });
    let resources = daemon.leases.list_resources(held()).await.unwrap().into_inner().resources;
    assert_eq!(resources, [resource("content")]);
    let remove =
        leases::DeleteResourceRequest { id: "l".to_owned(), resource: Some(resource("content")) };
    daemon.leases.delete_resource(in_namespace(remove)).await.unwrap();
    let resources = daemon.leases.list_resources(held()).await.unwrap().into_inner().resources;
    assert_eq!(resources, []);

    let space = Namespace::new("default").unwrap();
    let lease = LeaseId::new("l");
    daemon.snapshots.prepare(&space, "s", "", &Labels::new(), Some(&lease)).unwrap();
    let delete = || in_namespace(leases::DeleteRequest { id: "l".to_owned(), sync: true });
    daemon.leases.delete(delete()).await.unwrap();
    assert!(daemon.snapshots.stat(&space, "s").is_err(), "the snapshot outlived its lease");
    refused(daemon.leases.delete(delete()).await, Code::NotFound, r#"lease "l": not found"#);
    assert_eq!(daemon.index.leases().list(&space, &[]).unwrap().len(), 1);
}
