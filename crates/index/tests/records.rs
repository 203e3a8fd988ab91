//! Namespaces, containers, images, leases and sandboxes.

#![allow(clippy::unwrap_used, reason = "a failure is to end the test")]

mod common;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::*;
use davit_index::{ImageUpdate, LeaseId, Resource, Runtime, Sandbox, image_target};
use davit_types::Labels;

#[test]
fn namespaces_come_and_go() {
    let stores = stores();
    let namespaces = stores.index.namespaces();
    let (a, b) = (ns("a"), ns("b"));
    namespaces.create(&b, &map(&[("k", "v"), ("empty", "")])).unwrap();
    namespaces.create(&a, &Labels::new()).unwrap();
    assert_eq!(
        namespaces.list().unwrap(),
        [(a.clone(), Labels::new()), (b.clone(), map(&[("k", "v")]))]
    );
    assert_eq!(refusal(namespaces.create(&a, &Labels::new())), r#"namespace "a": already exists"#);
    assert_eq!(namespaces.labels(&ns("none")).unwrap(), Labels::new());

    namespaces.update(&b, &map(&[("x", "1"), ("y", "2")]), &[]).unwrap();
    assert_eq!(namespaces.labels(&b).unwrap(), map(&[("x", "1"), ("y", "2")]));
    let paths = strings(&["labels.x", "labels.z", "labels.y"]);
    namespaces.update(&b, &map(&[("x", "3"), ("z", "4")]), &paths).unwrap();
    assert_eq!(namespaces.labels(&b).unwrap(), map(&[("x", "3"), ("z", "4")]));
    assert_eq!(
        refusal(namespaces.update(&b, &Labels::new(), &strings(&["name"]))),
        r#"cannot update "name" field"#
    );

    let long = "v".repeat(4096);
    let message = refusal(namespaces.create(&ns("c"), &map(&[("k", &long)])));
    assert!(message.starts_with("namespace.Labels: label key and value length (4097 bytes)"));
    assert_eq!(namespaces.list().unwrap().len(), 2);

    namespaces.delete(&a, &stores.content).unwrap();
    assert_eq!(refusal(namespaces.delete(&a, &stores.content)), r#"namespace "a": not found"#);
}

#[test]
fn a_namespace_with_something_in_it_stays() {
    let stores = stores();
    let space = ns("full");
    // What is made in a namespace makes the namespace.
    let blob = stores.put(&space, b"manifest", &[], None).unwrap();
    stores.index.images().create(&space, image("i", &blob.digest), None, None).unwrap();
    stores.index.containers().create(&space, container("c")).unwrap();
    stores.snapshots.prepare(&space, "s", "", &Labels::new(), None).unwrap();
    stores.lease(&space, "l", &[]);
    let delete = || stores.index.namespaces().delete(&space, &stores.content);
    assert_eq!(
        refusal(delete()),
        r#"namespace "full" must be empty, but it still has images, blobs, containers, "#
            .to_owned()
            + r#"snapshots on "native" snapshotter: failed precondition"#
    );
    stores.index.images().delete(&space, "i", None, None).unwrap();
    stores.content.delete(&space, &blob.digest, None).unwrap();
    stores.snapshots.remove(&space, "s", None).unwrap();
    assert_eq!(
        refusal(delete()),
        r#"namespace "full" must be empty, but it still has containers: failed precondition"#
    );
    stores.index.containers().delete(&space, "c").unwrap();
    // Leases do not count.
    delete().unwrap();
    assert!(stores.index.namespaces().list().unwrap().is_empty());
    assert!(stores.index.leases().list(&space, &[]).unwrap().is_empty());
}

#[test]
fn containers_are_kept_to_the_bit() {
    let stores = stores();
    let space = ns("default");
    let before = SystemTime::now();
    let mut wanted = container("one");
    wanted.labels.insert("dropped".to_owned(), String::new());
    let created = stores.index.containers().create(&space, wanted).unwrap();
    assert!(created.created_at >= before && created.updated_at == created.created_at);
    assert_eq!(created.labels, map(&[("name", "one")]));
    let stores = reopen(stores);
    let containers = stores.index.containers();
    assert_eq!(containers.get(&space, "one").unwrap(), created);
    assert_eq!(containers.list(&space, &[]).unwrap(), [created]);
    assert_eq!(
        refusal(containers.create(&space, container("one"))),
        r#"container "one": already exists"#
    );
    assert_eq!(
        refusal(containers.get(&space, "two")),
        r#"container "two" in namespace "default": not found"#
    );
    containers.delete(&space, "one").unwrap();
    assert_eq!(refusal(containers.delete(&space, "one")), "container one: not found");
}

#[test]
fn containers_that_cannot_be_are_refused() {
    let stores = stores();
    let space = ns("default");
    let create = |change: &dyn Fn(&mut davit_index::Container)| {
        let mut wanted = container("c");
        change(&mut wanted);
        refusal(stores.index.containers().create(&space, wanted))
    };
    let prefix = "create container failed validation: ";
    for (expected, message) in [
        ("container.ID: identifier must not be empty: invalid argument", create(&|c| c.id.clear())),
        (
            "container.ID: identifier \"../x\" must match \
             ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$: invalid argument",
            create(&|c| c.id = "../x".to_owned()),
        ),
        (
            "container.Extension keys must not be zero-length: invalid argument",
            create(&|c| drop(c.extensions.insert(String::new(), any("x")))),
        ),
        (
            "container.Runtime.Name must be set: invalid argument",
            create(&|c| c.runtime.name.clear()),
        ),
        (
            "container.Snapshotter must be set if container.SnapshotKey is set: invalid argument",
            create(&|c| c.snapshotter.clear()),
        ),
    ] {
        assert_eq!(message, format!("{prefix}{expected}"));
    }
    let message = create(&|c| drop(c.labels.insert("k".to_owned(), "v".repeat(4096))));
    assert!(message.contains("containers.Labels: label key and value length"), "{message}");
    assert!(stores.index.namespaces().list().unwrap().is_empty(), "a refusal left something");
}

#[test]
fn containers_change_as_the_mask_says() {
    let stores = stores();
    let space = ns("default");
    let containers = stores.index.containers();
    let created = containers.create(&space, container("c")).unwrap();

    // Without a mask: everything that may change.
    let mut wanted = container("c");
    wanted.labels = map(&[("new", "1")]);
    wanted.spec = Some(any("new spec"));
    wanted.image = "new".to_owned();
    wanted.snapshot_key = "new".to_owned();
    wanted.extensions.clear();
    wanted.runtime.options = None;
    wanted.sandbox_id = "other".to_owned();
    let updated = containers.update(&space, wanted.clone(), &[]).unwrap();
    assert_eq!(updated.created_at, created.created_at);
    assert!(updated.updated_at >= created.updated_at);
    wanted.runtime.options.clone_from(&created.runtime.options);
    wanted.sandbox_id.clone_from(&created.sandbox_id);
    wanted.created_at = updated.created_at;
    wanted.updated_at = updated.updated_at;
    assert_eq!(updated, wanted);
    assert_eq!(containers.get(&space, "c").unwrap(), updated);

    // With a mask: what it names.
    let mut wanted = container("c");
    wanted.labels = map(&[("a", "1"), ("b", "2")]);
    let paths = strings(&["labels.a", "labels.new", "extensions.some.extension"]);
    let updated = containers.update(&space, wanted.clone(), &paths).unwrap();
    assert_eq!(updated.labels, map(&[("a", "1")]));
    assert_eq!(updated.extensions, wanted.extensions);
    assert_eq!(updated.image, "new");
    let paths = strings(&["labels", "image", "spec", "snapshotkey", "extensions"]);
    let updated = containers.update(&space, wanted.clone(), &paths).unwrap();
    assert_eq!(updated.labels, wanted.labels);
    assert_eq!(updated.spec, wanted.spec);
}

#[test]
fn containers_keep_what_may_not_change() {
    let stores = stores();
    let space = ns("default");
    let containers = stores.index.containers();
    let created = containers.create(&space, container("c")).unwrap();
    let update = |change: &dyn Fn(&mut davit_index::Container), paths: &[&str]| {
        let mut wanted = container("c");
        change(&mut wanted);
        refusal(containers.update(&space, wanted, &strings(paths)))
    };
    assert_eq!(
        update(&|c| c.snapshotter = "x".to_owned(), &[]),
        "container.Snapshotter field is immutable: invalid argument"
    );
    assert_eq!(
        update(&|c| c.runtime.name = "x".to_owned(), &[]),
        "container.Runtime.Name field is immutable: invalid argument"
    );
    assert_eq!(
        update(&|_| (), &["runtime"]),
        r#"cannot update "runtime" field on "c": invalid argument"#
    );
    assert_eq!(
        update(&|_| (), &["extensions."]),
        "update failed validation: container.Extension keys must not be zero-length: invalid argument"
    );
    assert_eq!(update(&|c| c.id.clear(), &[]), "must specify a container id: invalid argument");
    assert_eq!(update(&|c| c.id = "d".to_owned(), &[]), r#"container "d": not found"#);
    assert_eq!(containers.get(&space, "c").unwrap(), created);
}

#[test]
fn containers_are_filtered() {
    let stores = stores();
    let space = ns("default");
    for id in ["a", "b", "c"] {
        let mut wanted = container(id);
        wanted.image = format!("image-{id}");
        stores.index.containers().create(&space, wanted).unwrap();
    }
    let ids = |filters: &[&str]| -> Vec<String> {
        let found = stores.index.containers().list(&space, &strings(filters)).unwrap();
        found.into_iter().map(|container| container.id).collect()
    };
    assert_eq!(ids(&["id==b"]), ["b"]);
    assert_eq!(ids(&["id==b", "labels.name==c"]), ["b", "c"]);
    assert_eq!(ids(&["image~=/-[ab]$/"]), ["a", "b"]);
    assert_eq!(ids(&["runtime.name==io.containerd.runc.v2"]), ["a", "b", "c"]);
    assert_eq!(ids(&["runtime"]), [""; 0]);
    assert_eq!(
        refusal(stores.index.containers().list(&space, &strings(&["id="]))),
        "filters: parse error: [id >|=|< ]: unsupported operator \"=\": invalid argument: \
         invalid argument"
    );
}

#[test]
fn images_come_change_and_go() {
    let stores = stores();
    let space = ns("default");
    let images = stores.index.images();
    let (one, two) = (digest(b"one"), digest(b"two"));
    let epoch = UNIX_EPOCH + Duration::from_secs(5);
    let created = images.create(&space, image("i", &one), Some(epoch), None).unwrap();
    assert_eq!((created.created_at, created.updated_at), (epoch, epoch));
    assert_eq!(images.get(&space, "i").unwrap(), created);
    assert_eq!(
        refusal(images.create(&space, image("i", &two), None, None)),
        r#"image "i": already exists"#
    );
    assert_eq!(refusal(images.get(&space, "j")), r#"image "j": not found"#);

    let update = |update: ImageUpdate, paths: &[&str]| {
        images.update(&space, update, &strings(paths), None, None)
    };
    let named = || ImageUpdate { name: "i".to_owned(), ..ImageUpdate::default() };
    let labelled = ImageUpdate { labels: map(&[("x", "1"), ("y", "2")]), ..named() };
    let updated = update(labelled.clone(), &["labels.x", "labels.name"]).unwrap();
    assert_eq!(updated.labels, map(&[("x", "1")]));
    assert_eq!((&updated.target, updated.created_at), (&created.target, epoch));
    assert_eq!(update(labelled, &["labels"]).unwrap().labels, map(&[("x", "1"), ("y", "2")]));
    let annotated = ImageUpdate { annotations: map(&[("c", "d")]), ..named() };
    let updated = update(annotated.clone(), &["annotations.c"]).unwrap();
    assert_eq!(updated.target.annotations, map(&[("a", "b"), ("c", "d")]));
    let updated = update(annotated, &["annotations"]).unwrap();
    assert_eq!(updated.target.annotations, map(&[("c", "d")]));
    let target = Some(image("i", &two).target);
    let updated = update(ImageUpdate { target: target.clone(), ..named() }, &["target"]).unwrap();
    assert_eq!(Some(updated.target), target);
    let replaced = update(ImageUpdate { target: target.clone(), ..named() }, &[]).unwrap();
    assert_eq!(replaced.labels, Labels::new());
    assert_eq!(images.get(&space, "i").unwrap(), replaced);
    assert_eq!(
        refusal(update(named(), &["size"])),
        r#"cannot update "size" field on image "i": invalid argument"#
    );
    assert_eq!(
        refusal(update(named(), &["target"])),
        r#"Target.Digest "" invalid: invalid checksum digest format: invalid argument"#
    );
    assert_eq!(
        refusal(update(ImageUpdate::default(), &[])),
        "image name is required for update: invalid argument"
    );

    assert_eq!(
        refusal(images.delete(&space, "i", Some(one.as_str()), None)),
        format!("image \"i\" has target {two}, not {one}: not found")
    );
    images.delete(&space, "i", Some(two.as_str()), None).unwrap();
    assert_eq!(refusal(images.delete(&space, "i", None, None)), r#"image "i": not found"#);
}

#[test]
fn images_that_cannot_be_are_refused() {
    let stores = stores();
    let space = ns("default");
    let ok = digest(b"x");
    let target = |media: &str, digest: &str, size| {
        refusal(image_target(media.to_owned(), digest, size, Labels::new()))
    };
    for (message, expected) in [
        (target("m", "x", 1), r#"Target.Digest "x" invalid: invalid checksum digest format"#),
        (target("m", ok.as_str(), 0), "Target.Size must be greater than zero"),
        (target("m", ok.as_str(), -1), "Target.Size must be greater than zero"),
        (target("", ok.as_str(), 1), "Target.MediaType must be set"),
        (
            refusal(stores.index.images().create(&space, image("", &ok), None, None)),
            "image name must not be empty",
        ),
    ] {
        assert_eq!(message, format!("{expected}: invalid argument"));
    }
}

#[test]
fn images_are_filtered() {
    let stores = stores();
    let space = ns("default");
    let one = digest(b"one");
    for name in ["docker.io/library/a:1", "docker.io/library/b:1"] {
        let target = digest(name.as_bytes());
        stores.index.images().create(&space, image(name, &target), None, None).unwrap();
    }
    stores.index.images().create(&space, image("c", &one), None, None).unwrap();
    let names = |filter: &str| -> Vec<String> {
        let found = stores.index.images().list(&space, &strings(&[filter])).unwrap();
        found.into_iter().map(|image| image.name).collect()
    };
    assert_eq!(
        names("name~=^docker.io/library/"),
        ["docker.io/library/a:1", "docker.io/library/b:1"]
    );
    assert_eq!(names(&format!("target.digest=={one}")), ["c"]);
    assert_eq!(names("annotations.a==b,name==c"), ["c"]);
    assert_eq!(names("target.mediatype~=manifest").len(), 3);
    assert_eq!(names("labels.\"name\"==c"), ["c"]);
}

#[test]
fn leases_hold_what_they_are_told_to() {
    let stores = stores();
    let space = ns("default");
    let leases = stores.index.leases();
    let id = LeaseId::new("l");
    let lease = stores.lease(&space, "l", &[("k", "v")]);
    assert_eq!(leases.list(&space, &[]).unwrap(), [lease]);
    assert_eq!(leases.list(&space, &strings(&["labels.k==w"])).unwrap(), []);
    assert_eq!(refusal(leases.create(&space, &id, &Labels::new())), r#"lease "l": already exists"#);
    let resource = |kind: &str, id: &str| Resource { id: id.to_owned(), kind: kind.to_owned() };
    let blob = digest(b"x");
    let resources = [
        resource("content", blob.as_str()),
        resource("images", "i"),
        resource("ingests", "r"),
        resource("snapshots/native", "a/b"),
        resource("snapshots/overlayfs", "s"),
    ];
    for resource in resources.iter().rev() {
        leases.add_resource(&space, &id, resource).unwrap();
        leases.add_resource(&space, &id, resource).unwrap();
    }
    assert_eq!(leases.list_resources(&space, &id).unwrap(), resources);
    leases.delete_resource(&space, &id, &resources[1]).unwrap();
    leases.delete_resource(&space, &id, &resources[1]).unwrap();
    assert_eq!(leases.list_resources(&space, &id).unwrap().len(), 4);

    let add =
        |kind: &str, key: &str| refusal(leases.add_resource(&space, &id, &resource(kind, key)));
    assert_eq!(
        add("content/x", blob.as_str()),
        "invalid resource type content/x: invalid argument"
    );
    assert_eq!(
        add("content", "x"),
        "invalid content resource id x: invalid checksum digest format: invalid argument"
    );
    assert_eq!(add("snapshots", "x"), "invalid snapshot resource type snapshots: invalid argument");
    assert_eq!(
        add("snapshots/a/b", "x"),
        "invalid snapshot resource type snapshots/a/b: invalid argument"
    );
    assert_eq!(add("tasks", "x"), "resource type tasks not supported yet: not implemented");
    leases.delete(&space, &id).unwrap();
    for message in [
        refusal(leases.delete(&space, &id)),
        refusal(leases.list_resources(&space, &id)),
        refusal(leases.add_resource(&space, &id, &resources[0])),
        refusal(leases.delete_resource(&space, &id, &resources[0])),
    ] {
        assert_eq!(message, r#"lease "l": not found"#);
    }
}

#[test]
fn an_image_is_leased_only_if_it_expires() {
    let stores = stores();
    let space = ns("default");
    stores.lease(&space, "l", &[]);
    let lease = LeaseId::new("l");
    let held = || stores.index.leases().list_resources(&space, &lease).unwrap();
    let plain = image("plain", &digest(b"x"));
    stores.index.images().create(&space, plain, None, Some(&lease)).unwrap();
    assert_eq!(held(), []);
    let mut expiring = image("expiring", &digest(b"x"));
    expiring.labels = map(&[("containerd.io/gc.expire", "2001-01-01T00:00:00Z")]);
    stores.index.images().create(&space, expiring.clone(), None, Some(&lease)).unwrap();
    assert_eq!(held(), [Resource { id: "expiring".to_owned(), kind: "images".to_owned() }]);
    expiring.name = "other".to_owned();
    let gone = LeaseId::new("gone");
    assert_eq!(
        refusal(stores.index.images().create(&space, expiring, None, Some(&gone))),
        "lease does not exist: not found"
    );
    stores.index.images().delete(&space, "expiring", None, Some(&lease)).unwrap();
    assert_eq!(held(), []);
}

#[test]
fn sandboxes_come_change_and_go() {
    let stores = stores();
    let space = ns("default");
    let sandboxes = stores.index.sandboxes();
    let sandbox = |id: &str| Sandbox {
        id: id.to_owned(),
        labels: map(&[("k", "v")]),
        runtime: Runtime { name: "r".to_owned(), options: Some(any("o")) },
        spec: Some(any("s")),
        sandboxer: "shim".to_owned(),
        created_at: UNIX_EPOCH,
        updated_at: UNIX_EPOCH,
        extensions: [("e".to_owned(), any("e"))].into(),
    };
    let created = sandboxes.create(&space, sandbox("s")).unwrap();
    assert_eq!(sandboxes.get(&space, "s").unwrap(), created);
    assert_eq!(sandboxes.list(&space, &strings(&["id==s"])).unwrap(), [created]);
    assert_eq!(sandboxes.list(&space, &strings(&["labels.k==w"])).unwrap(), []);
    assert_eq!(
        refusal(sandboxes.create(&space, sandbox("s"))),
        r#"write error: sandbox bucket "s" already exists: already exists"#
    );
    assert!(
        refusal(sandboxes.create(&space, sandbox("")))
            .starts_with("failed to validate sandbox: invalid sandbox ID: identifier must not")
    );
    let mut wanted = sandbox("s");
    wanted.spec = None;
    wanted.labels = map(&[("a", "1")]);
    let updated =
        sandboxes.update(&space, wanted.clone(), &strings(&["labels.a", "spec"])).unwrap();
    assert_eq!(updated.labels, map(&[("a", "1"), ("k", "v")]));
    assert_eq!(updated.spec, None);
    wanted.runtime.name = "other".to_owned();
    assert_eq!(
        refusal(sandboxes.update(&space, wanted, &[])),
        "sandbox.Runtime.Name field is immutable: invalid argument"
    );
    sandboxes.delete(&space, "s").unwrap();
    assert_eq!(refusal(sandboxes.get(&space, "s")), r#"bucket "s" not found: not found"#);
    assert_eq!(
        refusal(sandboxes.delete(&space, "s")),
        r#"failed to delete sandbox "s": not found"#
    );
}

#[test]
fn namespaces_do_not_see_each_other() {
    let stores = stores();
    let (a, b) = (ns("a"), ns("b"));
    let blob = digest(b"x");
    for space in [&a, &b] {
        stores.index.containers().create(space, container("same")).unwrap();
        stores.index.images().create(space, image("same", &blob), None, None).unwrap();
        stores.snapshots.prepare(space, "same", "", &Labels::new(), None).unwrap();
        stores.lease(space, "same", &[]);
        stores.put(space, b"x", &[], None).unwrap();
    }
    stores.index.containers().delete(&a, "same").unwrap();
    stores.index.images().delete(&a, "same", None, None).unwrap();
    stores.snapshots.remove(&a, "same", None).unwrap();
    stores.content.delete(&a, &blob, None).unwrap();
    stores.index.leases().delete(&a, &LeaseId::new("same")).unwrap();
    for (space, expected) in [(&a, 0), (&b, 1)] {
        assert_eq!(stores.index.containers().list(space, &[]).unwrap().len(), expected);
        assert_eq!(stores.index.images().list(space, &[]).unwrap().len(), expected);
        assert_eq!(stores.snapshots.list(space, &[]).unwrap().len(), expected);
        assert_eq!(stores.content.list(space, &[]).unwrap().len(), expected);
        assert_eq!(stores.index.leases().list(space, &[]).unwrap().len(), expected);
    }
    assert_eq!(stores.content.reader(&b, &blob).unwrap().size(), 1);
    assert!(refusal(stores.content.reader(&a, &blob)).starts_with("content digest sha256:"));
}
