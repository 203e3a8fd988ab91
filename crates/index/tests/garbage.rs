//! What is collected, and what stays.

#![allow(clippy::unwrap_used, reason = "a failure is to end the test")]

mod common;

use std::time::{Duration, SystemTime};

use common::*;
use davit_index::{Garbage, LeaseId, Thing, WriterRequest};
use davit_types::{Digest, Labels, Namespace};

/// A time a day from now, in labels' form. (Tests may not depend on what day
/// it is; far ends do.)
const FUTURE: &str = "2200-01-01T00:00:00Z";
const PAST: &str = "2001-01-01T00:00:00Z";

fn blob(stores: &Stores, space: &Namespace, text: &str, labels: &[(&str, &str)]) -> Digest {
    stores.put(space, text.as_bytes(), labels, None).unwrap().digest
}

/// The names of those of a kind; snapshots with their snapshotter.
fn names(garbage: &[Garbage], kind: &str) -> Vec<String> {
    let name = |thing: &Thing| match thing.snapshotter.as_str() {
        "" => thing.name.clone(),
        snapshotter => format!("{snapshotter}/{}", thing.name),
    };
    garbage.iter().map(|g| &g.thing).filter(|thing| thing.kind == kind).map(name).collect()
}

fn sorted<const N: usize>(mut names: [&str; N]) -> [&str; N] {
    names.sort_unstable();
    names
}

fn left(stores: &Stores, space: &Namespace) -> Vec<String> {
    let mut left: Vec<String> = Vec::new();
    left.extend(stores.index.images().list(space, &[]).unwrap().into_iter().map(|i| i.name));
    left.extend(stores.snapshots.list(space, &[]).unwrap().into_iter().map(|s| s.name));
    for info in stores.content.list(space, &[]).unwrap() {
        let mut text = vec![0; usize::try_from(info.size).unwrap()];
        stores.local.reader(&info.digest).unwrap().read_at(&mut text, 0).unwrap();
        left.push(String::from_utf8(text).unwrap());
    }
    left.sort();
    left
}

#[test]
fn an_image_holds_what_its_labels_name() {
    let stores = stores();
    let space = ns("default");
    let none = Labels::new();
    for (key, parent) in [("chain1", ""), ("chain2", "chain1"), ("unused", "")] {
        stores.snapshots.prepare(&space, "extract", parent, &none, None).unwrap();
        stores.snapshots.commit(&space, key, "extract", "", &none, None).unwrap();
    }
    let layer = blob(&stores, &space, "layer", &[]);
    let config =
        blob(&stores, &space, "config", &[("containerd.io/gc.ref.snapshot.native", "chain2")]);
    let manifest = blob(
        &stores,
        &space,
        "manifest",
        &[
            ("containerd.io/gc.ref.content.config", config.as_str()),
            ("containerd.io/gc.ref.content.l.0", layer.as_str()),
        ],
    );
    blob(&stores, &space, "stray", &[]);
    blob(&stores, &space, "rooted", &[("containerd.io/gc.root", "yes")]);
    blob(&stores, &space, "attached", &[("containerd.io/gc.bref.content.x", manifest.as_str())]);
    blob(&stores, &space, "detached", &[("containerd.io/gc.bref.image", "none")]);
    stores.index.images().create(&space, image("image", &manifest), None, None).unwrap();

    let expected =
        ["attached", "chain1", "chain2", "config", "image", "layer", "manifest", "rooted"];
    let garbage = stores.garbage();
    let (detached, stray) = (digest(b"detached"), digest(b"stray"));
    assert_eq!(names(&garbage, "content"), sorted([detached.as_str(), stray.as_str()]));
    assert_eq!(names(&garbage, "snapshot"), ["native/unused"]);
    assert_eq!(garbage.len(), 3);
    assert_eq!(stores.collect(), garbage);
    assert_eq!(left(&stores, &space), expected);
    assert_eq!(stores.collect(), []);
    assert_eq!(stores.local.walk().unwrap().len(), 5);
    assert_eq!(stores.directories().len(), 2);

    stores.index.images().delete(&space, "image", None, None).unwrap();
    stores.collect();
    assert_eq!(left(&stores, &space), ["rooted"]);
    assert_eq!(stores.local.walk().unwrap().len(), 1);
    assert_eq!(stores.directories(), [""; 0]);
}

#[test]
fn a_container_holds_its_snapshot() {
    let stores = stores();
    let space = ns("default");
    let none = Labels::new();
    stores.snapshots.prepare(&space, "base", "", &none, None).unwrap();
    stores.snapshots.commit(&space, "base-c", "base", "", &none, None).unwrap();
    stores.snapshots.prepare(&space, "c", "base-c", &none, None).unwrap();
    let mut attached = map(&[("containerd.io/gc.bref.container", "c")]);
    stores.snapshots.prepare(&space, "scratch", "", &attached, None).unwrap();
    attached = map(&[("containerd.io/gc.ref.content.checkpoint", digest(b"kept").as_str())]);
    blob(&stores, &space, "kept", &[]);
    let mut wanted = container("c");
    wanted.labels = attached;
    stores.index.containers().create(&space, wanted).unwrap();
    stores.collect();
    assert_eq!(left(&stores, &space), ["base-c", "c", "kept", "scratch"]);
    stores.index.containers().delete(&space, "c").unwrap();
    stores.collect();
    assert_eq!(left(&stores, &space), [""; 0]);
}

#[test]
fn a_lease_holds_until_it_expires_or_goes() {
    let stores = stores();
    let space = ns("default");
    let layer = blob(&stores, &space, "layer", &[]);
    let labels = [("containerd.io/gc.ref.content.l", layer.as_str())];
    let manifest = blob(&stores, &space, "manifest", &labels);
    let hold = |id: &str, labels: &[(&str, &str)]| {
        stores.lease(&space, id, labels);
        let kind = "content".to_owned();
        let resource = davit_index::Resource { id: manifest.to_string(), kind };
        stores.index.leases().add_resource(&space, &LeaseId::new(id), &resource).unwrap();
    };
    let drop_lease = |id: &str| stores.index.leases().delete(&space, &LeaseId::new(id)).unwrap();

    hold("future", &[("containerd.io/gc.expire", FUTURE)]);
    hold("past", &[("containerd.io/gc.expire", PAST)]);
    assert_eq!(names(&stores.collect(), "lease"), ["past"]);
    assert_eq!(left(&stores, &space), ["layer", "manifest"]);

    // What is no time does not end.
    hold("odd", &[("containerd.io/gc.expire", "soon")]);
    drop_lease("future");
    stores.collect();
    assert_eq!(left(&stores, &space), ["layer", "manifest"]);

    // A flat one holds no more than what it names.
    hold("flat", &[("containerd.io/gc.flat", "yes")]);
    stores.collect();
    assert_eq!(left(&stores, &space), ["layer", "manifest"]);
    drop_lease("odd");
    stores.collect();
    assert_eq!(left(&stores, &space), ["manifest"]);
    drop_lease("flat");
    stores.collect();
    assert_eq!(left(&stores, &space), [""; 0]);
}

#[test]
fn a_flat_lease_keeps_parents_and_targets() {
    let stores = stores();
    let space = ns("default");
    stores.lease(&space, "flat", &[("containerd.io/gc.flat", "yes")]);
    let flat = LeaseId::new("flat");
    blob(&stores, &space, "config", &[]);
    let labels = [("containerd.io/gc.ref.content", digest(b"config").to_string())];
    let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let manifest = blob(&stores, &space, "manifest", &labels);
    let mut expired = image("expired", &manifest);
    expired.labels = map(&[("containerd.io/gc.expire", PAST)]);
    stores.index.images().create(&space, expired, None, Some(&flat)).unwrap();
    stores.snapshots.prepare(&space, "p", "", &Labels::new(), None).unwrap();
    stores.snapshots.commit(&space, "parent", "p", "", &Labels::new(), None).unwrap();
    stores.snapshots.prepare(&space, "child", "parent", &Labels::new(), Some(&flat)).unwrap();
    stores.collect();
    assert_eq!(left(&stores, &space), ["child", "expired", "manifest", "parent"]);
}

#[test]
fn an_image_goes_when_it_expires() {
    let stores = stores();
    let space = ns("default");
    let manifest = blob(&stores, &space, "manifest", &[]);
    for (name, expire) in [("past", PAST), ("future", FUTURE)] {
        let mut expiring = image(name, &manifest);
        expiring.labels = map(&[("containerd.io/gc.expire", expire)]);
        stores.index.images().create(&space, expiring, None, None).unwrap();
    }
    assert_eq!(names(&stores.collect(), "image"), ["past"]);
    assert_eq!(left(&stores, &space), ["future", "manifest"]);
}

#[test]
fn ingests_stay_a_day_or_as_long_as_their_lease() {
    let stores = stores();
    let space = ns("default");
    stores.lease(&space, "l", &[]);
    let lease = LeaseId::new("l");
    for (reference, lease) in [("plain", None), ("leased", Some(&lease))] {
        let request = WriterRequest { reference: reference.to_owned(), ..Default::default() };
        let mut writer = stores.content.writer(&space, request, lease).unwrap();
        writer.write(b"x").unwrap();
    }
    assert_eq!(stores.collect(), []);
    stores.index.leases().delete(&space, &lease).unwrap();
    assert_eq!(names(&stores.collect(), "ingest"), ["leased"]);
    assert_eq!(stores.local.list_statuses().unwrap().len(), 1);
}

#[test]
fn references_do_not_leave_their_namespace() {
    let stores = stores();
    let (a, b) = (ns("a"), ns("b"));
    let shared = blob(&stores, &a, "shared", &[]);
    stores.put(&b, b"shared", &[], None).unwrap();
    stores.index.images().create(&a, image("i", &shared), None, None).unwrap();
    stores.collect();
    assert_eq!(left(&stores, &a), ["i", "shared"]);
    assert_eq!(left(&stores, &b), [""; 0]);
}

#[test]
fn a_circle_is_no_hold() {
    let stores = stores();
    let space = ns("default");
    let (one, two) = (digest(b"one"), digest(b"two"));
    blob(&stores, &space, "one", &[("containerd.io/gc.ref.content", two.as_str())]);
    blob(&stores, &space, "two", &[("containerd.io/gc.ref.content", one.as_str())]);
    stores.collect();
    assert_eq!(left(&stores, &space), [""; 0]);
}

/// Writers go on while garbage is collected, and nothing that they hold goes.
#[test]
fn collection_and_writers_do_not_harm_each_other() {
    let stores = stores();
    let end = SystemTime::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        let stores = &stores;
        for worker in 0..4 {
            scope.spawn(move || {
                let space = ns(&format!("space{worker}"));
                let mut round = 0;
                while SystemTime::now() < end {
                    round += 1;
                    let id = format!("lease{round}");
                    stores.lease(&space, &id, &[]);
                    let lease = LeaseId::new(id);
                    // The same bytes everywhere, so that namespaces share.
                    let data = format!("blob {}", round % 3);
                    let info = stores.put(&space, data.as_bytes(), &[], Some(&lease)).unwrap();
                    stores.content.reader(&space, &info.digest).unwrap();
                    let image = image("i", &info.digest);
                    stores.index.images().create(&space, image, None, None).unwrap();
                    stores.index.leases().delete(&space, &lease).unwrap();
                    stores.content.reader(&space, &info.digest).unwrap();
                    stores.content.delete(&space, &info.digest, None).unwrap();
                    stores.index.images().delete(&space, "i", None, None).unwrap();
                }
            });
        }
        scope.spawn(move || {
            while SystemTime::now() < end {
                stores.collect();
                stores.collector.cleanup().unwrap();
            }
        });
    });
    stores.collect();
    stores.collector.cleanup().unwrap();
    assert_eq!(stores.local.walk().unwrap(), []);
    assert_eq!(stores.local.list_statuses().unwrap(), []);
}

/// Leases end by the clock, which can be set, and goes on while the machine
/// sleeps.
#[test]
fn a_lease_that_somebody_lives_for_does_not_end() {
    let stores = stores();
    let space = ns("default");
    let past = [("containerd.io/gc.expire", "2020-01-01T00:00:00Z")];
    let id = LeaseId::new("l");
    let (first, second) =
        (stores.index.leases().pin(&space, &id), stores.index.leases().pin(&space, &id));
    stores.lease(&space, "l", &past);
    let held = stores.put(&space, b"held", &[], Some(&id)).unwrap().digest.to_string();
    for pin in [first, second] {
        assert_eq!(stores.collect(), []);
        assert_eq!(stores.collector.explain(&space, &held).unwrap()[0].roots, 1);
        drop(pin);
    }
    assert_eq!(stores.collector.explain(&space, &held).unwrap()[0].roots, 0);
    stores.collect();
    assert_eq!(left(&stores, &space), Vec::<String>::new());
}

#[test]
fn labels_attach_to_what_exists_alone() {
    let stores = stores();
    let (a, b) = (ns("a"), ns("b"));
    stores.index.containers().create(&a, container("c")).unwrap();
    let attached =
        |space, labels: &[(&str, &str)]| stores.index.is_attached(space, &map(labels)).unwrap();
    let (to, other) = ("containerd.io/gc.bref.container", "containerd.io/gc.bref.container.x");
    assert!(attached(&a, &[(to, "c")]));
    assert!(attached(&a, &[(to, "gone"), (other, "c")]));
    assert!(!attached(&a, &[(to, "gone"), ("c", "c"), ("containerd.io/gc.ref.image", "c")]));
    assert!(!attached(&b, &[(to, "c")]));
    stores.index.containers().delete(&a, "c").unwrap();
    assert!(!attached(&a, &[(to, "c")]));
}
