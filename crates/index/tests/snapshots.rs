//! Snapshots, as namespaces see them.

#![allow(clippy::unwrap_used, reason = "a failure is to end the test")]

mod common;

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use common::*;
use davit_index::{LeaseId, Resource};
use davit_snapshots::{Backend, SnapshotId, SnapshotKind, Usage};
use davit_types::{Labels, Mount};

fn none() -> Labels {
    Labels::new()
}

/// Where a mount of the native backend shows the snapshot's files.
fn path(mounts: &[Mount]) -> std::path::PathBuf {
    mounts[0].source.clone().into()
}

#[test]
fn layers_are_stacked_committed_and_removed() {
    let stores = stores();
    let space = ns("default");
    let snapshots = &stores.snapshots;
    let mounts = snapshots.prepare(&space, "a1", "", &map(&[("k", "v")]), None).unwrap();
    std::fs::write(path(&mounts).join("one"), b"1").unwrap();
    assert_eq!(snapshots.mounts(&space, "a1").unwrap(), mounts);
    let info = snapshots.stat(&space, "a1").unwrap();
    assert_eq!((info.kind, info.parent.as_str()), (SnapshotKind::Active, ""));
    assert_eq!((info.name.as_str(), &info.labels), ("a1", &map(&[("k", "v")])));
    assert!(snapshots.usage(&space, "a1").unwrap().inodes >= 2);

    snapshots.commit(&space, "c1", "a1", "", &map(&[("l", "w")]), None).unwrap();
    let info = snapshots.stat(&space, "c1").unwrap();
    assert_eq!((info.kind, &info.labels), (SnapshotKind::Committed, &map(&[("l", "w")])));
    assert_eq!(refusal(snapshots.stat(&space, "a1")), "snapshot a1 does not exist: not found");

    let mounts = snapshots.prepare(&space, "a2", "c1", &none(), None).unwrap();
    assert_eq!(std::fs::read(path(&mounts).join("one")).unwrap(), b"1");
    std::fs::write(path(&mounts).join("two"), b"22").unwrap();
    snapshots.commit(&space, "c2", "a2", "", &none(), None).unwrap();
    let view = snapshots.view(&space, "v", "c2", &none(), None).unwrap();
    assert_eq!(std::fs::read(path(&view).join("two")).unwrap(), b"22");
    assert!(view[0].options.contains(&"ro".to_owned()));
    assert_eq!(snapshots.stat(&space, "v").unwrap().parent, "c2");

    let stores = reopen(stores);
    let snapshots = &stores.snapshots;
    assert_eq!(snapshots.mounts(&space, "v").unwrap(), view);
    let names: Vec<String> =
        snapshots.list(&space, &[]).unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(names, ["c1", "c2", "v"]);
    assert!(snapshots.usage(&space, "c2").unwrap().size > 0);
    let busy = "cannot remove snapshot with child: failed precondition";
    assert_eq!(refusal(snapshots.remove(&space, "c1", None)), busy);
    assert_eq!(refusal(snapshots.remove(&space, "c2", None)), busy);
    for key in ["v", "c2", "c1"] {
        snapshots.remove(&space, key, None).unwrap();
    }
    assert_eq!(
        refusal(snapshots.remove(&space, "v", None)),
        "snapshot v does not exist: not found"
    );
    assert_eq!(stores.directories(), [""; 0]);
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let stores = stores();
    let space = ns("default");
    let snapshots = &stores.snapshots;
    snapshots.prepare(&space, "a", "", &none(), None).unwrap();
    snapshots.prepare(&space, "b", "", &none(), None).unwrap();
    snapshots.commit(&space, "c", "b", "", &none(), None).unwrap();
    snapshots.view(&space, "v", "c", &none(), None).unwrap();
    let before = stores.directories();
    let prepare =
        |key: &str, parent: &str| refusal(snapshots.prepare(&space, key, parent, &none(), None));
    let commit = |name: &str, key: &str, parent: &str| {
        refusal(snapshots.commit(&space, name, key, parent, &none(), None))
    };
    for (message, expected) in [
        (prepare("a", ""), r#"snapshot "a": already exists"#),
        (prepare("c", "c"), r#"snapshot "c": already exists"#),
        (prepare("x", "none"), "parent snapshot none does not exist: not found"),
        (
            prepare("x", "a"),
            r#"failed to create snapshot: parent "a" is not committed snapshot: invalid argument"#,
        ),
        (prepare("", ""), "key required"),
        (commit("c", "a", ""), r#"snapshot "c": already exists"#),
        (commit("d", "none", ""), "snapshot none does not exist: not found"),
        (
            commit("d", "v", ""),
            r#"failed to commit snapshot v: snapshot "v" is not active: failed precondition"#,
        ),
        (
            commit("d", "c", ""),
            r#"failed to commit snapshot c: snapshot "c" is not active: failed precondition"#,
        ),
        (commit("d", "a", "none"), "parent snapshot none does not exist: not found"),
        (
            commit("d", "a", "v"),
            r#"failed to commit snapshot a: parent "v" is not committed: failed precondition"#,
        ),
        (commit("", "a", ""), "key required"),
        (
            refusal(snapshots.mounts(&space, "c")),
            "failed to get active mount: requested snapshot c not active nor view: \
             failed precondition",
        ),
        (refusal(snapshots.mounts(&space, "x")), "snapshot x does not exist: not found"),
        (refusal(snapshots.usage(&space, "x")), "snapshot x does not exist: not found"),
        (
            refusal(snapshots.update(&space, "x", &none(), &[])),
            "snapshot x does not exist: not found",
        ),
        (
            refusal(snapshots.update(&space, "a", &none(), &strings(&["parent"]))),
            r#"cannot update "parent" field on snapshot "a": invalid argument"#,
        ),
    ] {
        assert_eq!(message, expected);
    }
    let large = map(&[("k", &"v".repeat(5000))]);
    assert!(
        refusal(snapshots.prepare(&space, "x", "", &large, None)).starts_with("info.Labels: label")
    );
    assert_eq!(stores.directories(), before);
    assert_eq!(snapshots.list(&space, &[]).unwrap().len(), 3);
}

#[test]
fn a_snapshot_is_put_on_a_parent_when_it_is_committed() {
    let stores = stores();
    let space = ns("default");
    let snapshots = &stores.snapshots;
    for name in ["1", "2"] {
        snapshots.prepare(&space, &format!("a{name}"), "", &none(), None).unwrap();
    }
    snapshots.commit(&space, "c1", "a1", "", &none(), None).unwrap();
    snapshots.commit(&space, "c2", "a2", "c1", &none(), None).unwrap();
    assert_eq!(snapshots.stat(&space, "c2").unwrap().parent, "c1");
    assert_eq!(
        refusal(snapshots.remove(&space, "c1", None)),
        "cannot remove snapshot with child: failed precondition"
    );
}

#[test]
fn a_target_that_is_there_already_is_held_and_said() {
    let stores = stores();
    let space = ns("default");
    let snapshots = &stores.snapshots;
    stores.lease(&space, "l", &[]);
    let lease = LeaseId::new("l");
    let held = || stores.index.leases().list_resources(&space, &lease).unwrap();
    let resource = |id: &str| Resource { id: id.to_owned(), kind: "snapshots/native".to_owned() };
    snapshots.prepare(&space, "a", "", &none(), None).unwrap();
    snapshots.commit(&space, "chain", "a", "", &none(), None).unwrap();

    let target = map(&[("containerd.io/snapshot.ref", "chain")]);
    assert_eq!(
        refusal(snapshots.prepare(&space, "extract", "", &target, Some(&lease))),
        r#"target snapshot "chain": already exists"#
    );
    assert_eq!(held(), [resource("chain")]);
    // Without the target the label changes nothing.
    let target = map(&[("containerd.io/snapshot.ref", "other")]);
    snapshots.prepare(&space, "extract", "chain", &target, Some(&lease)).unwrap();
    assert_eq!(held(), [resource("chain"), resource("extract")]);
    snapshots.commit(&space, "other", "extract", "", &target, Some(&lease)).unwrap();
    assert_eq!(held(), [resource("chain"), resource("other")]);
    snapshots.remove(&space, "other", Some(&lease)).unwrap();
    assert_eq!(held(), [resource("chain")]);
    let gone = LeaseId::new("gone");
    assert_eq!(
        refusal(snapshots.prepare(&space, "x", "", &none(), Some(&gone))),
        "lease does not exist: not found"
    );
    assert_eq!(stores.directories().len(), 1, "a refusal left a directory");
}

#[test]
fn labels_change_as_the_mask_says_and_are_filtered_by() {
    let stores = stores();
    let space = ns("default");
    let snapshots = &stores.snapshots;
    snapshots.prepare(&space, "a", "", &map(&[("a", "1")]), None).unwrap();
    snapshots.commit(&space, "c", "a", "", &map(&[("a", "1")]), None).unwrap();
    snapshots.prepare(&space, "b", "c", &none(), None).unwrap();
    let update = |labels: &[(&str, &str)], paths: &[&str]| {
        snapshots.update(&space, "c", &map(labels), &strings(paths)).unwrap().labels
    };
    assert_eq!(update(&[("b", "2"), ("c", "3")], &["labels.b"]), map(&[("a", "1"), ("b", "2")]));
    assert_eq!(update(&[("c", "3")], &["labels"]), map(&[("c", "3")]));
    assert_eq!(update(&[("d", "4")], &[]), map(&[("d", "4")]));
    let names = |filter: &str| -> Vec<String> {
        let found = snapshots.list(&space, &strings(&[filter])).unwrap();
        found.into_iter().map(|info| info.name).collect()
    };
    assert_eq!(names("kind==committed"), ["c"]);
    assert_eq!(names("kind==active"), ["b"]);
    assert_eq!(names("parent==c"), ["b"]);
    assert_eq!(names("parent==\"\""), ["c"]);
    assert_eq!(names("name~=[bc],labels.d"), ["c"]);
}

#[test]
fn directories_that_a_crash_left_are_removed() {
    let stores = stores();
    let space = ns("default");
    stores.snapshots.prepare(&space, "a", "", &none(), None).unwrap();
    let kept = stores.directories();
    std::fs::create_dir(stores.dir.path().join("native/snapshots/999")).unwrap();
    let stores = reopen(stores);
    stores.snapshots.cleanup().unwrap();
    assert_eq!(stores.directories(), kept);
    // Numbers are not given out again.
    stores.snapshots.remove(&space, "a", None).unwrap();
    stores.snapshots.prepare(&space, "b", "", &none(), None).unwrap();
    assert_ne!(stores.directories(), kept);
}

#[test]
fn of_many_who_make_the_same_snapshot_one_does() {
    let stores = stores();
    let space = ns("default");
    let results: Vec<bool> = std::thread::scope(|scope| {
        let make = || stores.snapshots.prepare(&space, "same", "", &none(), None).is_ok();
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(make)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|made| **made).count(), 1);
    assert_eq!(stores.directories().len(), 1);
}

/// Takes down what it is asked to do, and stays with each a while, in which
/// another call would be seen.
#[derive(Default)]
struct Witness {
    calls: Mutex<(Vec<String>, usize)>,
    came: Condvar,
}

impl Witness {
    fn meet(&self, call: String) {
        let mut calls = self.calls.lock().unwrap();
        calls.0.push(call);
        calls.1 += 1;
        self.came.notify_all();
        let alone = |calls: &mut (Vec<String>, usize)| calls.1 < 2;
        let (mut calls, waited) =
            self.came.wait_timeout_while(calls, Duration::from_millis(300), alone).unwrap();
        if !waited.timed_out() {
            calls.0.push("two at once".to_owned());
        } else {
            calls.1 -= 1;
        }
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap().0)
    }
}

impl Backend for Witness {
    fn name(&self) -> &'static str {
        "witness"
    }

    fn create(
        &self,
        _: SnapshotId,
        _: SnapshotKind,
        _: &[SnapshotId],
        _: &Labels,
    ) -> Result<(), davit_snapshots::Error> {
        Ok(())
    }

    fn mounts(
        &self,
        _: SnapshotId,
        _: SnapshotKind,
        _: &[SnapshotId],
        _: &Labels,
    ) -> Result<Vec<Mount>, davit_snapshots::Error> {
        Ok(Vec::new())
    }

    fn usage(&self, _: SnapshotId) -> Result<Usage, davit_snapshots::Error> {
        Ok(Usage::default())
    }

    fn commit(&self, _: SnapshotId) -> Result<Usage, davit_snapshots::Error> {
        self.meet("commit".to_owned());
        Ok(Usage::default())
    }

    fn committed(&self, _: SnapshotId) -> Result<(), davit_snapshots::Error> {
        self.calls.lock().unwrap().0.push("committed".to_owned());
        Ok(())
    }

    fn remove(&self, _: SnapshotId) -> Result<(), davit_snapshots::Error> {
        Ok(())
    }

    fn cleanup(&self, live: &[SnapshotId]) -> Result<(), davit_snapshots::Error> {
        self.meet(format!("cleanup {}", live.len()));
        Ok(())
    }
}

#[test]
fn one_cleanup_or_commit_of_a_snapshot_at_a_time() {
    let stores = stores();
    let space = ns("default");
    let witness = Arc::new(Witness::default());
    let snapshots = davit_index::Snapshotter::new(stores.index.clone(), witness.clone());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| snapshots.cleanup().unwrap());
        }
    });
    assert_eq!(witness.calls(), ["cleanup 0"; 2]);

    snapshots.prepare(&space, "a", "", &none(), None).unwrap();
    let commit = |name| snapshots.commit(&space, name, "a", "", &none(), None);
    let mut ends = std::thread::scope(|scope| {
        let other = scope.spawn(|| commit("c1"));
        [commit("c2"), other.join().unwrap()].map(|end| end.map_err(|error| error.to_string()))
    });
    ends.sort();
    assert_eq!(ends, [Ok(()), Err("snapshot a does not exist: not found".to_owned())]);
    assert_eq!(witness.calls(), ["commit", "committed"]);
}

#[test]
fn a_commit_that_is_refused_does_not_reach_the_backend() {
    let stores = stores();
    let space = ns("default");
    let witness = Arc::new(Witness::default());
    let snapshots = davit_index::Snapshotter::new(stores.index.clone(), witness.clone());
    snapshots.prepare(&space, "a", "", &none(), None).unwrap();
    let gone = LeaseId::new("gone");
    let commit =
        |parent, lease| refusal(snapshots.commit(&space, "c", "a", parent, &none(), lease));
    assert_eq!(commit("", Some(&gone)), "lease does not exist: not found");
    assert_eq!(commit("none", None), "parent snapshot none does not exist: not found");
    assert_eq!(witness.calls(), [""; 0]);
}
