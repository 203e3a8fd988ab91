//! Rows of snapshots that are kept elsewhere.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, UNIX_EPOCH};

use common::*;
use davit_index::{NewRemote, RemoteSnapshots};
use davit_snapshots::SnapshotKind;
use davit_types::Labels;

fn rows(stores: &Stores) -> RemoteSnapshots {
    RemoteSnapshots::new(stores.index.clone(), "far".to_owned())
}

fn layer(key: &str, parent: &str, remote: &str, remote_parent: &str) -> NewRemote {
    NewRemote {
        key: key.to_owned(),
        parent: parent.to_owned(),
        kind: SnapshotKind::Committed,
        labels: Labels::new(),
        remote: remote.to_owned(),
        remote_parent: remote_parent.to_owned(),
        created_at: UNIX_EPOCH + Duration::from_secs(1),
        updated_at: UNIX_EPOCH + Duration::from_secs(2),
    }
}

#[test]
fn a_layer_of_two_namespaces_is_known_until_both_have_gone() {
    let stores = stores();
    let rows = rows(&stores);
    let (one, two) = (ns("one"), ns("two"));
    for namespace in [&one, &two] {
        rows.add(namespace, layer("chain", "", "sha256:shared", ""), None).unwrap();
    }
    let known = rows.find(&one, "chain").unwrap();
    assert_eq!(known.remote, "sha256:shared");
    assert_eq!(known.info.updated_at, UNIX_EPOCH + Duration::from_secs(2));
    rows.remove(&one, "chain", None).unwrap();
    assert!(rows.knows("sha256:shared").unwrap());
    rows.remove(&two, "chain", None).unwrap();
    assert!(!rows.knows("sha256:shared").unwrap());
    assert!(rows.names().unwrap().is_empty());
}

#[test]
fn names_are_never_given_twice_and_survive_a_restart() {
    let stores = stores();
    let space = ns("default");
    let begin = |stores: &Stores| rows(stores).begin(&space, "a", "", &Labels::new(), None);
    let first = begin(&stores).unwrap().remote;
    let stores = reopen(stores);
    let second = begin(&stores).unwrap().remote;
    assert_ne!(first, second);
    let mut parts = second.splitn(3, '/');
    assert_eq!((parts.next(), parts.nth(1)), (Some("default"), Some("a")));
}

#[test]
fn a_layer_on_another_parent_is_refused_and_leaves_nothing() {
    let stores = stores();
    let rows = rows(&stores);
    let space = ns("default");
    rows.add(&space, layer("below", "", "far-below", ""), None).unwrap();
    let wrong = rows.add(&space, layer("chain", "below", "far-chain", "far-other"), None);
    assert_eq!(refusal(wrong), "mismatched parent below from target chain: invalid argument");
    assert!(!rows.knows("far-chain").unwrap());
    rows.add(&space, layer("chain", "below", "far-chain", "far-below"), None).unwrap();
    let wanted = rows.begin(&space, "new", "chain", &Labels::new(), None).unwrap();
    assert_eq!(wanted.remote_parent, "far-chain");
    assert_eq!(
        refusal(rows.remove(&space, "below", None)),
        "cannot remove snapshot with child: failed precondition"
    );
}

#[test]
fn a_collection_takes_the_rows_and_says_which() {
    let stores = stores();
    let rows = rows(&stores);
    let space = ns("default");
    rows.add(&space, layer("chain", "", "far-chain", ""), None).unwrap();
    let collected = stores.collect();
    let things: Vec<(&str, &str)> =
        collected.iter().map(|g| (g.thing.snapshotter.as_str(), g.thing.name.as_str())).collect();
    assert_eq!(things, [("far", "chain")]);
    assert!(!rows.knows("far-chain").unwrap());
}
