//! Bad input for the services that keep records: containers, content, images,
//! snapshots, diffs, leases, namespaces, events and introspection.

use std::collections::BTreeMap;

use davit_integration::api::Call;
use davit_protocols::grpc::containerd::services::containers::v1 as containers;
use davit_protocols::grpc::containerd::services::content::v1 as content;
use davit_protocols::grpc::containerd::services::diff::v1 as diff;
use davit_protocols::grpc::containerd::services::events::v1 as events;
use davit_protocols::grpc::containerd::services::images::v1 as images;
use davit_protocols::grpc::containerd::services::introspection::v1 as introspection;
use davit_protocols::grpc::containerd::services::leases::v1 as leases;
use davit_protocols::grpc::containerd::services::namespaces::v1 as namespaces;
use davit_protocols::grpc::containerd::services::snapshots::v1 as snapshots;
use davit_protocols::grpc::containerd::types::{Descriptor, Envelope, Mount};
use prost::Message;
use prost_types::{Any, FieldMask};

use crate::{FILTERS, NONE, ids};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Labels that keep what has them from being collected in the midst.
fn rooted() -> BTreeMap<String, String> {
    [("containerd.io/gc.root".to_owned(), "test".to_owned())].into()
}

/// Labels that break the rule of 4096 bytes for key and value.
fn oversize() -> BTreeMap<String, String> {
    [("k".repeat(100), "v".repeat(4000))].into()
}

fn mask(path: &str) -> Option<FieldMask> {
    (!path.is_empty()).then(|| FieldMask { paths: vec![path.to_owned()] })
}

/// Calls of one namespace, in the making.
struct Table<'a> {
    namespace: &'a str,
    calls: Vec<Call>,
}

impl Table<'_> {
    fn add(&mut self, service: &str, method: &str, what: &str, message: &impl Message) {
        self.calls.push(Call::new(self.namespace, (service, method), what, message));
    }
}

/// All rows, in the order in which they are sent.
pub fn calls(namespace: &str) -> Vec<Call> {
    let mut table = Table { namespace, calls: Vec::new() };
    seeds(&mut table);
    of_containers(&mut table);
    of_images(&mut table);
    of_content(&mut table);
    of_writes(&mut table);
    of_snapshots(&mut table);
    of_diffs(&mut table);
    of_leases(&mut table);
    of_namespaces(&mut table);
    of_events(&mut table);
    of_introspection(&mut table);
    unseeded(&mut table);
    table.calls
}

/// One record of each kind: containerd finds other words where it has never
/// kept anything.
fn seeds(t: &mut Table<'_>) {
    let create = containers::CreateContainerRequest { container: Some(container("seed")) };
    t.add("containers", "Create", "seed", &create);
    let create = images::CreateImageRequest { image: Some(image("seed")), source_date_epoch: None };
    t.add("images", "Create", "seed", &create);
    let create = leases::CreateRequest { id: "seed".into(), labels: BTreeMap::new() };
    t.add("leases", "Create", "seed", &create);
    let write = content::WriteContentRequest {
        action: content::WriteAction::Commit.into(),
        r#ref: "seed".into(),
        data: b"seed".to_vec().into(),
        labels: rooted(),
        ..Default::default()
    };
    t.add("content", "Write", "seed", &write);
    for snapshotter in ["overlayfs", "native"] {
        let prepare = snapshots::PrepareSnapshotRequest {
            snapshotter: snapshotter.into(),
            key: "seed".into(),
            parent: String::new(),
            labels: rooted(),
        };
        t.add("snapshots", "Prepare", &format!("{snapshotter} seed"), &prepare);
    }
}

fn unseeded(t: &mut Table<'_>) {
    let id = || "seed".to_owned();
    t.add("containers", "Delete", "seed", &containers::DeleteContainerRequest { id: id() });
    let delete = images::DeleteImageRequest { name: id(), ..Default::default() };
    t.add("images", "Delete", "seed", &delete);
    t.add("leases", "Delete", "seed", &leases::DeleteRequest { id: id(), sync: true });
    let digest = "sha256:19b25856e1c150ca834cffc8b59b23adbd0ec0389e58eb22b3b64768098d002b";
    t.add("content", "Delete", "seed", &content::DeleteContentRequest { digest: digest.into() });
    for snapshotter in ["overlayfs", "native"] {
        let remove =
            snapshots::RemoveSnapshotRequest { snapshotter: snapshotter.into(), key: id() };
        t.add("snapshots", "Remove", &format!("{snapshotter} seed"), &remove);
    }
}

fn container(id: &str) -> containers::Container {
    containers::Container {
        id: id.to_owned(),
        runtime: Some(containers::container::Runtime {
            name: "io.containerd.runc.v2".into(),
            options: None,
        }),
        spec: Some(Any { type_url: "spec".into(), value: b"{}".to_vec() }),
        ..Default::default()
    }
}

fn of_containers(t: &mut Table<'_>) {
    use containers::{
        CreateContainerRequest, DeleteContainerRequest, GetContainerRequest, ListContainersRequest,
        UpdateContainerRequest,
    };
    for (what, id) in ids() {
        let create = CreateContainerRequest { container: Some(container(&id)) };
        t.add("containers", "Create", what, &create);
        t.add("containers", "Create", &format!("{what}, again"), &create);
        t.add("containers", "Get", what, &GetContainerRequest { id: id.clone() });
        let update = UpdateContainerRequest { container: Some(container(&id)), update_mask: None };
        t.add("containers", "Update", what, &update);
        t.add("containers", "Delete", what, &DeleteContainerRequest { id: id.clone() });
        t.add("containers", "Delete", &format!("{what}, again"), &DeleteContainerRequest { id });
    }
    type Change = fn(&mut containers::Container);
    let changes: [(&str, Change); 6] = [
        ("no runtime", |c| c.runtime = None),
        ("no runtime's name", |c| c.runtime = Some(Default::default())),
        ("no spec", |c| c.spec = None),
        ("oversize labels", |c| c.labels = oversize()),
        ("no snapshotter", |c| c.snapshot_key = "key".into()),
        ("no name of an extension", |c| {
            c.extensions = [(String::new(), Any::default())].into();
        }),
    ];
    for (what, change) in changes {
        let mut odd = container("odd");
        change(&mut odd);
        t.add("containers", "Create", what, &CreateContainerRequest { container: Some(odd) });
        t.add("containers", "Delete", what, &DeleteContainerRequest { id: "odd".into() });
    }
    t.add("containers", "Create", "nothing", &CreateContainerRequest { container: None });
    t.add("containers", "Update", "nothing", &UpdateContainerRequest::default());
    let good = CreateContainerRequest { container: Some(container("good")) };
    t.add("containers", "Create", "good", &good);
    let paths = [
        "",
        "nosuch",
        "id",
        "labels.",
        "labels",
        "spec",
        "runtime",
        "image",
        "created_at",
        "extensions.",
    ];
    for path in paths {
        let mut changed = container("good");
        changed.snapshotter = "other".into();
        changed.labels = oversize();
        let update = UpdateContainerRequest { container: Some(changed), update_mask: mask(path) };
        t.add("containers", "Update", &format!("of {path:?}"), &update);
    }
    t.add("containers", "Delete", "good", &DeleteContainerRequest { id: "good".into() });
    for filter in FILTERS {
        let list = ListContainersRequest { filters: vec![(*filter).to_owned()] };
        t.add("containers", "List", filter, &list);
        t.add("containers", "ListStream", filter, &list);
    }
}

fn image(name: &str) -> images::Image {
    images::Image {
        name: name.to_owned(),
        target: Some(Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: NONE.into(),
            size: 3,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn of_images(t: &mut Table<'_>) {
    use images::{
        CreateImageRequest, DeleteImageRequest, GetImageRequest, ListImagesRequest,
        UpdateImageRequest,
    };
    let create = |image| CreateImageRequest { image, source_date_epoch: None };
    let update = |image, path| UpdateImageRequest {
        image,
        update_mask: mask(path),
        source_date_epoch: None,
    };
    let delete = |name: &str| DeleteImageRequest { name: name.to_owned(), ..Default::default() };
    for (what, name) in ids() {
        t.add("images", "Create", what, &create(Some(image(&name))));
        t.add("images", "Create", &format!("{what}, again"), &create(Some(image(&name))));
        t.add("images", "Get", what, &GetImageRequest { name: name.clone() });
        t.add("images", "Update", what, &update(Some(image(&name)), ""));
        t.add("images", "Delete", what, &delete(&name));
        t.add("images", "Delete", &format!("{what}, again"), &delete(&name));
        t.add("images", "Update", &format!("{what}, gone"), &update(Some(image(&name)), ""));
    }
    type Change = fn(&mut Descriptor);
    let changes: [(&str, Change); 6] = [
        ("no digest", |d| d.digest.clear()),
        ("garbage for a digest", |d| d.digest = "garbage".into()),
        ("a short digest", |d| d.digest = "sha256:abc".into()),
        ("an unknown algorithm", |d| d.digest = "md5:d41d8cd98f00b204e9800998ecf8427e".into()),
        ("no size", |d| d.size = 0),
        ("a negative size", |d| d.size = -1),
    ];
    t.add("images", "Create", "good", &create(Some(image("good"))));
    for (what, change) in changes {
        let mut odd = image("odd");
        odd.target.iter_mut().for_each(change);
        t.add("images", "Create", what, &create(Some(odd.clone())));
        odd.name = "good".into();
        t.add("images", "Update", what, &update(Some(odd), ""));
        t.add("images", "Delete", what, &delete("odd"));
    }
    let odd = images::Image { labels: oversize(), ..image("odd") };
    t.add("images", "Create", "oversize labels", &create(Some(odd)));
    let odd = images::Image { target: None, ..image("odd") };
    t.add("images", "Create", "no target", &create(Some(odd)));
    t.add("images", "Create", "nothing", &create(None));
    t.add("images", "Update", "nothing", &update(None, ""));
    for path in ["nosuch", "name", "labels.", "labels.x", "target"] {
        let changed = images::Image { labels: oversize(), ..image("good") };
        t.add("images", "Update", &format!("of {path:?}"), &update(Some(changed), path));
    }
    let other = Descriptor { digest: format!("sha256:{}", "1".repeat(64)), ..Default::default() };
    let moved = DeleteImageRequest { target: Some(other), ..delete("good") };
    t.add("images", "Delete", "of another target", &moved);
    t.add("images", "Delete", "good", &delete("good"));
    for filter in FILTERS {
        let list = ListImagesRequest { filters: vec![(*filter).to_owned()] };
        t.add("images", "List", filter, &list);
    }
}

fn of_content(t: &mut Table<'_>) {
    let digests = [
        ("none", NONE),
        ("no hex", "sha256:xyz"),
        ("no hex of the right length", &format!("sha256:{}", "x".repeat(64))),
        ("capitals", &format!("sha256:{}", "A".repeat(64))),
        ("a short one", "sha256:abc"),
        ("md5", "md5:d41d8cd98f00b204e9800998ecf8427e"),
        ("a path", "sha256:../../../../etc/passwd"),
        ("a path as algorithm", "../../x:abc"),
        ("two colons", "sha256:a:b"),
    ];
    let ids = ids();
    let ids = ids.iter().map(|(what, id)| (*what, id.as_str()));
    for (what, digest) in digests.into_iter().chain(ids) {
        let digest = digest.to_owned();
        t.add("content", "Info", what, &content::InfoRequest { digest: digest.clone() });
        let read = content::ReadContentRequest { digest: digest.clone(), ..Default::default() };
        t.add("content", "Read", what, &read);
        t.add("content", "Delete", what, &content::DeleteContentRequest { digest: digest.clone() });
        for (path, labels) in [("", rooted()), ("labels", oversize()), ("size", rooted())] {
            let info = content::Info { digest: digest.clone(), labels, ..Default::default() };
            let update = content::UpdateRequest { info: Some(info), update_mask: mask(path) };
            t.add("content", "Update", &format!("{what} of {path:?}"), &update);
        }
    }
    t.add("content", "Update", "nothing", &content::UpdateRequest::default());
    for filter in FILTERS {
        let filters = vec![(*filter).to_owned()];
        t.add("content", "List", filter, &content::ListContentRequest { filters: filters.clone() });
        t.add("content", "ListStatuses", filter, &content::ListStatusesRequest { filters });
    }
}

fn of_writes(t: &mut Table<'_>) {
    use content::WriteAction::{Commit, Stat, Write};
    let hello = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let message = |action: content::WriteAction, name: &str| content::WriteContentRequest {
        action: action.into(),
        r#ref: name.to_owned(),
        ..Default::default()
    };
    for (what, id) in ids() {
        let r#ref = || id.clone();
        t.add("content", "Status", what, &content::StatusRequest { r#ref: r#ref() });
        t.add("content", "Write", what, &message(Stat, &id));
        t.add("content", "Abort", what, &content::AbortRequest { r#ref: r#ref() });
        t.add(
            "content",
            "Abort",
            &format!("{what}, again"),
            &content::AbortRequest { r#ref: r#ref() },
        );
    }
    type Change = fn(&mut content::WriteContentRequest);
    let changes: [(&str, Change); 12] = [
        ("a gap", |m| m.offset = 9),
        ("a negative offset", |m| m.offset = -1),
        ("a negative total", |m| m.total = -1),
        ("a wrong total", |m| m.total = 3),
        ("a wrong digest", |m| m.expected = NONE.into()),
        ("garbage for a digest", |m| m.expected = "garbage".into()),
        ("an unknown algorithm", |m| m.expected = "md5:d41d8cd98f00b204e9800998ecf8427e".into()),
        ("a path for a digest", |m| m.expected = "sha256:../../x".into()),
        ("oversize labels", |m| m.labels = oversize()),
        ("an unknown action", |m| m.action = 9),
        ("a negative action", |m| m.action = -1),
        ("more than the total", |m| {
            m.total = 3;
            m.action = Write.into();
        }),
    ];
    for (what, change) in changes {
        let mut odd = content::WriteContentRequest {
            data: b"hello".to_vec().into(),
            ..message(Commit, "odd")
        };
        change(&mut odd);
        t.add("content", "Write", what, &odd);
        t.add("content", "Abort", what, &content::AbortRequest { r#ref: "odd".into() });
        let digest = hello.to_owned();
        t.add("content", "Delete", what, &content::DeleteContentRequest { digest });
    }
    let mut none = Call::new(t.namespace, ("content", "Write"), "nothing", &message(Stat, "x"));
    none.messages.clear();
    t.calls.push(none);
    let mut two = Call::new(t.namespace, ("content", "Write"), "two refs", &message(Write, "x"));
    two.messages.push(message(Write, "y").encode_to_vec());
    t.calls.push(two);
    for name in ["x", "y"] {
        t.add("content", "Abort", name, &content::AbortRequest { r#ref: name.into() });
    }
}

fn of_snapshots(t: &mut Table<'_>) {
    for snapshotter in ["overlayfs", "native"] {
        for (what, key) in ids() {
            let what = format!("{snapshotter}, {what}");
            of_one_snapshot(t, snapshotter, &what, &key);
        }
    }
    for snapshotter in ["", "nosuch", "../overlayfs"] {
        let what = format!("snapshotter {snapshotter:?}");
        of_one_snapshot(t, snapshotter, &what, "key");
    }
    let info = || snapshots::Info { name: "odd".into(), ..Default::default() };
    let prepare = snapshots::PrepareSnapshotRequest {
        snapshotter: "overlayfs".into(),
        key: "odd".into(),
        parent: String::new(),
        labels: oversize(),
    };
    t.add("snapshots", "Prepare", "oversize labels", &prepare);
    t.add(
        "snapshots",
        "Prepare",
        "odd",
        &snapshots::PrepareSnapshotRequest { labels: rooted(), ..prepare },
    );
    for path in ["", "nosuch", "name", "kind", "parent", "labels", "labels."] {
        let update = snapshots::UpdateSnapshotRequest {
            snapshotter: "overlayfs".into(),
            info: Some(snapshots::Info { labels: oversize(), ..info() }),
            update_mask: mask(path),
        };
        t.add("snapshots", "Update", &format!("of {path:?}"), &update);
    }
    let remove =
        snapshots::RemoveSnapshotRequest { snapshotter: "overlayfs".into(), key: "odd".into() };
    t.add("snapshots", "Remove", "odd", &remove);
    for filter in FILTERS {
        let list = snapshots::ListSnapshotsRequest {
            snapshotter: "overlayfs".into(),
            filters: vec![(*filter).to_owned()],
        };
        t.add("snapshots", "List", filter, &list);
    }
}

/// Every method with the key: where there is none, as a parent of none, and
/// where there is one.
fn of_one_snapshot(t: &mut Table<'_>, snapshotter: &str, what: &str, key: &str) {
    let (name, key) = (|| snapshotter.to_owned(), || key.to_owned());
    for round in ["", ", there"] {
        let what = format!("{what}{round}");
        let update = snapshots::UpdateSnapshotRequest {
            snapshotter: name(),
            info: Some(snapshots::Info { name: key(), labels: rooted(), ..Default::default() }),
            update_mask: mask("labels"),
        };
        t.add(
            "snapshots",
            "Stat",
            &what,
            &snapshots::StatSnapshotRequest { snapshotter: name(), key: key() },
        );
        t.add(
            "snapshots",
            "Mounts",
            &what,
            &snapshots::MountsRequest { snapshotter: name(), key: key() },
        );
        t.add(
            "snapshots",
            "Usage",
            &what,
            &snapshots::UsageRequest { snapshotter: name(), key: key() },
        );
        t.add("snapshots", "Update", &what, &update);
        if round.is_empty() {
            let commit = snapshots::CommitSnapshotRequest {
                snapshotter: name(),
                name: "new".into(),
                key: key(),
                labels: rooted(),
                ..Default::default()
            };
            t.add("snapshots", "Commit", &what, &commit);
        }
        let mut view = snapshots::ViewSnapshotRequest {
            snapshotter: name(),
            key: "child".into(),
            parent: key(),
            labels: rooted(),
        };
        if !view.parent.is_empty() {
            t.add("snapshots", "View", &format!("{what}, of it"), &view);
        }
        (view.key, view.parent) = (key(), "nosuch".into());
        t.add("snapshots", "View", &format!("{what}, of none"), &view);
        let prepare = snapshots::PrepareSnapshotRequest {
            snapshotter: name(),
            key: key(),
            parent: String::new(),
            labels: rooted(),
        };
        t.add("snapshots", "Prepare", &what, &prepare);
    }
    for again in ["", ", again"] {
        let remove = snapshots::RemoveSnapshotRequest { snapshotter: name(), key: key() };
        t.add("snapshots", "Remove", &format!("{what}{again}"), &remove);
    }
}

fn of_diffs(t: &mut Table<'_>) {
    let mounts = [
        ("no mounts", vec![]),
        ("an unknown type", vec![mount("nosuch", "/nosuch", &[])]),
        ("no source", vec![mount("bind", "/nosuch", &["rbind"])]),
        ("junk for options", vec![mount("overlay", "overlay", &["lowerdir=/nosuch"])]),
    ];
    for (what, mounts) in &mounts {
        let targets = [
            ("none", LAYER, NONE),
            ("garbage", LAYER, "garbage"),
            ("no digest", LAYER, ""),
            ("an unknown media type", "text/plain", NONE),
            ("no media type", "", NONE),
        ];
        for (which, media_type, digest) in targets {
            let apply = diff::ApplyRequest {
                diff: Some(Descriptor {
                    media_type: media_type.into(),
                    digest: digest.into(),
                    ..Default::default()
                }),
                mounts: mounts.clone(),
                ..Default::default()
            };
            t.add("diff", "Apply", &format!("{which} to {what}"), &apply);
        }
        for media_type in ["text/plain", LAYER, ""] {
            let request = diff::DiffRequest {
                left: mounts.clone(),
                right: mounts.clone(),
                media_type: media_type.into(),
                labels: rooted(),
                ..Default::default()
            };
            if !mounts.is_empty() {
                t.add("diff", "Diff", &format!("of {what} as {media_type:?}"), &request);
            }
        }
    }
    t.add("diff", "Apply", "nothing", &diff::ApplyRequest::default());
}

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        r#type: kind.into(),
        source: source.into(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..Default::default()
    }
}

fn of_leases(t: &mut Table<'_>) {
    let create = |id: &str, labels| leases::CreateRequest { id: id.to_owned(), labels };
    for (what, id) in ids() {
        let id = id.as_str();
        if !id.is_empty() {
            t.add("leases", "Create", what, &create(id, BTreeMap::new()));
            t.add("leases", "Create", &format!("{what}, again"), &create(id, BTreeMap::new()));
        }
        t.add("leases", "ListResources", what, &leases::ListResourcesRequest { id: id.into() });
        let delete = leases::DeleteRequest { id: id.into(), sync: true };
        t.add("leases", "Delete", what, &delete);
        t.add("leases", "Delete", &format!("{what}, again"), &delete);
        let gone = format!("{what}, gone");
        let resource = Some(leases::Resource { id: NONE.into(), r#type: "content".into() });
        let add = leases::AddResourceRequest { id: id.into(), resource: resource.clone() };
        t.add("leases", "AddResource", &gone, &add);
        let delete = leases::DeleteResourceRequest { id: id.into(), resource };
        t.add("leases", "DeleteResource", &gone, &delete);
        t.add("leases", "ListResources", &gone, &leases::ListResourcesRequest { id: id.into() });
        let snapshot = snapshots::PrepareSnapshotRequest {
            snapshotter: "overlayfs".into(),
            key: "leased".into(),
            ..Default::default()
        };
        if !id.is_empty() && id.is_ascii() && !id.contains(char::is_control) && id.len() < 1000 {
            let what = format!("on behalf of lease {what}");
            let call = Call::new(t.namespace, ("snapshots", "Prepare"), &what, &snapshot);
            t.calls.push(call.lease(id));
        }
    }
    t.add("leases", "Create", "oversize labels", &create("odd", oversize()));
    let odd = leases::DeleteRequest { id: "odd".into(), sync: true };
    t.add("leases", "Delete", "oversize labels", &odd);
    t.add("leases", "Create", "good", &create("good", BTreeMap::new()));
    let resources = [
        ("no resource", "", ""),
        ("an unknown kind", "x", "nosuch"),
        ("no kind", "x", ""),
        ("garbage for a digest", "garbage", "content"),
        ("none of the content", NONE, "content"),
        ("an unknown ingest", "x", "ingests"),
        ("snapshots of nobody", "x", "snapshots"),
        ("an unknown snapshotter", "x", "snapshots/nosuch"),
        ("an unknown snapshot", "x", "snapshots/overlayfs"),
        ("a path", "x", "snapshots/../../x"),
        ("an unknown image", "x", "images"),
    ];
    for (what, id, kind) in resources {
        let resource = Some(leases::Resource { id: id.into(), r#type: kind.into() });
        let add = leases::AddResourceRequest { id: "good".into(), resource: resource.clone() };
        t.add("leases", "AddResource", what, &add);
        let delete = leases::DeleteResourceRequest { id: "good".into(), resource };
        t.add("leases", "DeleteResource", what, &delete);
    }
    t.add("leases", "Delete", "good", &leases::DeleteRequest { id: "good".into(), sync: true });
    for filter in FILTERS {
        let list = leases::ListRequest { filters: vec![(*filter).to_owned()] };
        t.add("leases", "List", filter, &list);
    }
}

fn of_namespaces(t: &mut Table<'_>) {
    use namespaces::{
        CreateNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest, Namespace,
        UpdateNamespaceRequest,
    };
    let named = |name: &str, labels| Some(Namespace { name: name.into(), labels });
    for (what, name) in ids() {
        let namespace = || named(&name, BTreeMap::new());
        let delete = DeleteNamespaceRequest { name: name.clone() };
        let update = UpdateNamespaceRequest { namespace: namespace(), update_mask: None };
        t.add("namespaces", "Get", what, &GetNamespaceRequest { name: name.clone() });
        t.add("namespaces", "Update", what, &update);
        t.add("namespaces", "Delete", &format!("{what}, none"), &delete);
        let create = CreateNamespaceRequest { namespace: namespace() };
        t.add("namespaces", "Create", what, &create);
        t.add("namespaces", "Create", &format!("{what}, again"), &create);
        t.add("namespaces", "Delete", what, &delete);
    }
    let create = CreateNamespaceRequest { namespace: named("odd", oversize()) };
    t.add("namespaces", "Create", "oversize labels", &create);
    t.add("namespaces", "Delete", "odd", &DeleteNamespaceRequest { name: "odd".into() });
    t.add("namespaces", "Create", "nothing", &CreateNamespaceRequest::default());
    t.add("namespaces", "Update", "nothing", &UpdateNamespaceRequest::default());
    let create = CreateNamespaceRequest { namespace: named("used", BTreeMap::new()) };
    t.add("namespaces", "Create", "used", &create);
    for path in ["", "nosuch", "name", "labels", "labels."] {
        let namespace = named("used", oversize());
        let update = UpdateNamespaceRequest { namespace, update_mask: mask(path) };
        t.add("namespaces", "Update", &format!("of {path:?}"), &update);
    }
    let delete = DeleteNamespaceRequest { name: "used".into() };
    t.add("namespaces", "Delete", "used", &delete);
    t.add(
        "namespaces",
        "Delete",
        "that has things",
        &DeleteNamespaceRequest { name: t.namespace.to_owned() },
    );
}

fn of_events(t: &mut Table<'_>) {
    let event = || Some(Any { type_url: "containerd.events.ImageDelete".into(), value: vec![] });
    let topics = [
        ("no topic", ""),
        ("the root", "/"),
        ("no slash", "images"),
        ("a slash at the end", "/images/"),
        ("two slashes", "/images//x"),
        ("an odd part", "/images/a b"),
        ("a path", "/../x"),
        ("an over-long part", &format!("/{}", "a".repeat(80))),
    ];
    for (what, topic) in topics {
        let publish = events::PublishRequest { topic: topic.into(), event: event() };
        t.add("events", "Publish", what, &publish);
        let envelope = Envelope {
            namespace: t.namespace.into(),
            topic: topic.into(),
            event: event(),
            timestamp: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        };
        t.add("events", "Forward", what, &events::ForwardRequest { envelope: Some(envelope) });
    }
    for (what, namespace) in ids() {
        let envelope = Envelope {
            namespace,
            topic: "/images/delete".into(),
            event: event(),
            timestamp: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        };
        t.add("events", "Forward", what, &events::ForwardRequest { envelope: Some(envelope) });
    }
    let envelope = Envelope {
        namespace: t.namespace.into(),
        topic: "/images/delete".into(),
        event: event(),
        timestamp: None,
    };
    let untimed = events::ForwardRequest { envelope: Some(envelope) };
    t.add("events", "Forward", "no timestamp", &untimed);
    for filter in FILTERS.iter().filter(|filter| crate::is_broken(filter)) {
        let subscribe = events::SubscribeRequest { filters: vec![(*filter).to_owned()] };
        t.add("events", "Subscribe", filter, &subscribe);
    }
}

fn of_introspection(t: &mut Table<'_>) {
    for filter in FILTERS {
        let plugins = introspection::PluginsRequest { filters: vec![(*filter).to_owned()] };
        t.add("introspection", "Plugins", filter, &plugins);
    }
    for (what, id) in ids() {
        let info = introspection::PluginInfoRequest {
            r#type: "io.containerd.runtime.v2".into(),
            id: id.clone(),
            options: None,
        };
        t.add("introspection", "PluginInfo", what, &info);
    }
}
