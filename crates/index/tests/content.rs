//! Content, as namespaces see it.

#![allow(clippy::unwrap_used, reason = "a failure is to end the test")]

mod common;

use common::*;
use davit_index::{ContentWriter, LeaseId, Resource, Sharing, WriterRequest};
use davit_types::{Digest, ErrorKind, Kind, Labels, Namespace};

fn request(reference: &str, expected: Option<&Digest>) -> WriterRequest {
    WriterRequest { reference: reference.to_owned(), total: 0, expected: expected.cloned() }
}

/// Pages are a matter of the store's: a list has all, once, in order.
#[test]
fn a_list_of_many_pages_is_whole() {
    let stores = stores();
    let space = ns("default");
    let put = |number: usize| {
        let labels = [("even", if number.is_multiple_of(2) { "yes" } else { "no" })];
        stores.put(&space, number.to_string().as_bytes(), &labels, None).unwrap().digest
    };
    // Those who write at once wait for the disk together.
    let mut expected: Vec<Digest> = std::thread::scope(|scope| {
        let put = &put;
        let writers = Vec::from_iter((0..22).map(|writer| {
            let numbers = writer * 50..(writer + 1) * 50;
            scope.spawn(move || numbers.map(put).collect::<Vec<_>>())
        }));
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    let even: Vec<Digest> = expected.iter().step_by(2).cloned().collect();
    expected.sort();
    let list = |filters: &[&str]| stores.content.list(&space, &strings(filters)).unwrap();
    assert_eq!(Vec::from_iter(list(&[]).into_iter().map(|info| info.digest)), expected);
    let found = list(&["labels.even==yes"]);
    assert_eq!(found.len(), even.len());
    assert!(found.iter().all(|info| info.labels["even"] == "yes" && even.contains(&info.digest)));
    let (one, other) = (format!("digest=={}", even[3]), format!("digest=={}", even[5]));
    let found = list(&[&one, &format!("{other},labels.even==no"), "digest==sha256:nothing"]);
    assert_eq!(Vec::from_iter(found.into_iter().map(|info| info.digest)), [even[3].clone()]);
}

#[test]
fn a_blob_is_written_read_and_deleted() {
    let stores = stores();
    let space = ns("default");
    let blob = digest(b"hello");
    let mut writer = stores.content.writer(&space, request("r", None), None).unwrap();
    writer.write(b"hel").unwrap();
    let status = stores.content.status(&space, "r").unwrap();
    assert_eq!((status.reference.as_str(), status.offset), ("r", 3));
    writer.write(b"lo").unwrap();
    assert_eq!((writer.offset(), writer.digest()), (5, blob.clone()));
    let info = writer.commit(5, Some(&blob), &map(&[("k", "v"), ("none", "")])).unwrap();
    assert_eq!((&info.digest, info.size), (&blob, 5));
    assert_eq!(info.labels, map(&[("k", "v")]));

    let stores = reopen(stores);
    assert_eq!(stores.content.info(&space, &blob).unwrap(), info);
    assert_eq!(stores.content.list(&space, &[]).unwrap(), [info]);
    assert_eq!(stores.content.list_statuses(&space, &[]).unwrap(), []);
    let mut bytes = [0; 9];
    assert_eq!(stores.content.reader(&space, &blob).unwrap().read_at(&mut bytes, 1).unwrap(), 4);
    assert_eq!(&bytes[..4], b"ello");

    stores.content.delete(&space, &blob, None).unwrap();
    let missing = format!("content digest {blob}: not found");
    assert_eq!(refusal(stores.content.delete(&space, &blob, None)), missing);
    assert_eq!(refusal(stores.content.info(&space, &blob)), missing);
    assert_eq!(stores.local.walk().unwrap(), [], "the bytes stayed");
}

#[test]
fn an_ingest_is_resumed_also_after_a_restart() {
    let stores = stores();
    let space = ns("default");
    let mut writer = stores.content.writer(&space, request("r", None), None).unwrap();
    writer.write(b"one").unwrap();
    // Nobody else can write to it meanwhile.
    let second = stores.content.writer(&space, request("r", None), None);
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Unavailable);
    drop(writer);
    let stores = reopen(stores);
    let statuses = stores.content.list_statuses(&space, &strings(&["ref==r"])).unwrap();
    assert_eq!(statuses.len(), 1);
    assert_eq!((statuses[0].reference.as_str(), statuses[0].offset), ("r", 3));
    assert_eq!(stores.content.list_statuses(&space, &strings(&["ref==q"])).unwrap(), []);
    let mut writer = stores.content.writer(&space, request("r", None), None).unwrap();
    assert_eq!(writer.offset(), 3);
    writer.write(b"two").unwrap();
    assert_eq!(writer.commit(0, None, &Labels::new()).unwrap().digest, digest(b"onetwo"));
}

#[test]
fn ingests_of_the_same_name_are_apart() {
    let stores = stores();
    let mut writers = Vec::new();
    for name in ["a", "b"] {
        let mut writer = stores.content.writer(&ns(name), request("same", None), None).unwrap();
        writer.write(name.as_bytes()).unwrap();
        writers.push(writer);
    }
    for (writer, name) in writers.into_iter().zip(["a", "b"]) {
        let info = writer.commit(1, None, &Labels::new()).unwrap();
        assert_eq!(info.digest, digest(name.as_bytes()));
    }
    assert_eq!(stores.content.list(&ns("a"), &[]).unwrap().len(), 1);
}

#[test]
fn what_is_no_blob_is_refused() {
    let stores = stores();
    let space = ns("default");
    assert_eq!(
        refusal(stores.content.writer(&space, request("", None), None)),
        "ref must not be empty: invalid argument"
    );
    let write = || {
        let mut writer = stores.content.writer(&space, request("r", None), None).unwrap();
        writer.truncate(0).unwrap();
        writer.write(b"abc").unwrap();
        writer
    };
    assert_eq!(
        refusal(write().commit(4, None, &Labels::new())),
        "\"r\" failed size validation: 3 != 4: failed precondition"
    );
    let other = digest(b"other");
    let message = refusal(write().commit(0, Some(&other), &Labels::new()));
    assert_eq!(
        message,
        format!(
            "unexpected commit digest {}, expected {other}: failed precondition",
            digest(b"abc")
        )
    );
    let message = refusal(write().commit(0, None, &map(&[("k", &"v".repeat(5000))])));
    assert!(message.starts_with("info.Labels: label key and value length"), "{message}");
    assert_eq!(stores.content.list(&space, &[]).unwrap(), []);
    // The ingest is still there, and can be thrown away.
    stores.content.abort(&space, "r", None).unwrap();
    for message in [
        refusal(stores.content.abort(&space, "r", None)),
        refusal(stores.content.status(&space, "r")),
    ] {
        assert_eq!(message, "reference r: not found");
    }
    assert_eq!(stores.local.list_statuses().unwrap(), []);
}

#[test]
fn labels_change_as_the_mask_says() {
    let stores = stores();
    let space = ns("default");
    let blob = stores.put(&space, b"x", &[("a", "1")], None).unwrap().digest;
    let update = |labels: &[(&str, &str)], paths: &[&str]| {
        stores.content.update(&space, &blob, &map(labels), &strings(paths))
    };
    let updated = update(&[("b", "2"), ("c", "3")], &["labels.b", "labels.a"]).unwrap();
    assert_eq!(updated.labels, map(&[("b", "2")]));
    assert_eq!(update(&[("c", "3")], &["labels"]).unwrap().labels, map(&[("c", "3")]));
    assert_eq!(update(&[("d", "4")], &[]).unwrap().labels, map(&[("d", "4")]));
    assert_eq!(stores.content.info(&space, &blob).unwrap().labels, map(&[("d", "4")]));
    assert_eq!(
        refusal(update(&[], &["size"])),
        format!("cannot update \"size\" field on content info \"{blob}\": invalid argument")
    );
    let found = stores.content.list(&space, &strings(&["labels.d==4"])).unwrap();
    assert_eq!(found.len(), 1);
    let found = stores.content.list(&space, &strings(&[&format!("digest!={blob}")])).unwrap();
    assert_eq!(found, []);
    assert_eq!(
        refusal(stores.content.list(&space, &strings(&["="]))),
        "filters: parse error: [ >|=|< ]: expected field or quoted: invalid argument"
    );
}

#[test]
fn a_blob_that_the_namespace_has_is_not_written_again() {
    let stores = stores();
    let space = ns("default");
    let blob = stores.put(&space, b"x", &[], None).unwrap().digest;
    let exists = format!("content {blob}: already exists");
    stores.lease(&space, "l", &[]);
    let lease = LeaseId::new("l");
    let again = stores.content.writer(&space, request("r", Some(&blob)), Some(&lease));
    assert_eq!(refusal(again), exists);
    // The lease holds it all the same.
    let held = stores.index.leases().list_resources(&space, &lease).unwrap();
    assert_eq!(held, [Resource { id: blob.to_string(), kind: "content".to_owned() }]);
    // So does one of whoever says late what is to come.
    let late = LeaseId::new("late");
    stores.lease(&space, "late", &[]);
    assert!(stores.content.hold_whole(&space, &blob, Some(&late)).unwrap());
    assert_eq!(stores.index.leases().list_resources(&space, &late).unwrap(), held);
    assert!(!stores.content.hold_whole(&space, &digest(b"none"), Some(&late)).unwrap());
    // Who did not say what would come learns it at the end.
    let mut writer = stores.content.writer(&space, request("r", None), None).unwrap();
    writer.write(b"x").unwrap();
    assert_eq!(refusal(writer.commit(0, None, &Labels::new())), exists);
    assert_eq!(stores.content.list_statuses(&space, &[]).unwrap(), []);
}

#[test]
fn shared_content_needs_no_bytes() {
    let stores = stores();
    let (a, b) = (ns("a"), ns("b"));
    let blob = stores.put(&a, b"shared", &[("k", "v")], None).unwrap().digest;
    let writer = stores.content.writer(&b, request("r", Some(&blob)), None).unwrap();
    let status = writer.status();
    assert_eq!((status.offset, status.total, status.expected), (6, 6, Some(blob.clone())));
    // Until it is committed, the namespace has it not.
    assert!(stores.content.info(&b, &blob).is_err());
    let info = writer.commit(6, Some(&blob), &Labels::new()).unwrap();
    assert_eq!((info.size, info.labels), (6, Labels::new()));
    // It stays when the first namespace lets go of it.
    stores.content.delete(&a, &blob, None).unwrap();
    assert_eq!(stores.content.reader(&b, &blob).unwrap().size(), 6);
    stores.content.delete(&b, &blob, None).unwrap();
    assert_eq!(stores.local.walk().unwrap(), []);
}

#[test]
fn shared_content_is_checked_and_copied_when_written_to() {
    let stores = stores();
    let (a, b) = (ns("a"), ns("b"));
    let blob = stores.put(&a, b"shared", &[], None).unwrap().digest;
    let open = || stores.content.writer(&b, request("r", Some(&blob)), None).unwrap();
    assert_eq!(
        refusal(open().commit(7, None, &Labels::new())),
        "\"r\" failed size validation: 6 != 7: failed precondition"
    );
    assert_eq!(
        refusal(open().commit(0, Some(&digest(b"y")), &Labels::new())),
        "\"r\" unexpected digest: failed precondition"
    );
    let mut writer = open();
    writer.write(b" no more").unwrap();
    let info = writer.commit(0, None, &Labels::new()).unwrap();
    assert_eq!(info.digest, digest(b"shared no more"));
    assert_eq!(stores.content.reader(&a, &blob).unwrap().size(), 6);

    let mut writer = open();
    writer.truncate(0).unwrap();
    writer.write(b"new").unwrap();
    assert_eq!(writer.commit(3, None, &Labels::new()).unwrap().digest, digest(b"new"));
    // An ingest that shares keeps the bytes it waits for, until it is given up.
    let writer = open();
    stores.content.delete(&a, &blob, None).unwrap();
    assert!(stores.local.info(&blob).is_ok(), "the bytes went from under a writer");
    stores.content.abort(&b, "r", None).unwrap();
    assert!(stores.local.info(&blob).is_err(), "the bytes stayed");
    let gone = format!("content {blob}: not found");
    assert_eq!(refusal(writer.commit(6, Some(&blob), &Labels::new())), gone);
    assert!(stores.content.info(&b, &blob).is_err(), "a blob without bytes");
}

/// What an ingest had of its own when another namespace got the blob goes
/// with it, whatever becomes of it.
#[test]
fn an_ingest_that_comes_to_share_leaves_no_bytes_of_its_own() {
    type End = fn(&Stores, &Namespace, ContentWriter);
    let ends: [(&str, End); 7] = [
        ("commit", |_, _, writer| drop(writer.commit(0, None, &Labels::new()).unwrap())),
        ("abort", |stores, space, _| stores.content.abort(space, "r", None).unwrap()),
        ("collection", |stores, space, writer| {
            drop(writer);
            stores.index.leases().delete(space, &LeaseId::new("l")).unwrap();
            assert_eq!(stores.collect().len(), 1);
        }),
        ("its namespace", |stores, space, writer| {
            drop(writer);
            stores.index.namespaces().delete(space, &stores.content).unwrap();
        }),
        ("another blob", |stores, space, writer| {
            drop(writer);
            let mut writer = stores.content.writer(space, request("r", None), None).unwrap();
            writer.truncate(0).unwrap();
            let info = writer.commit(0, None, &Labels::new()).unwrap();
            stores.content.delete(space, &info.digest, None).unwrap();
        }),
        ("another size", |stores, space, writer| {
            let request = WriterRequest {
                reference: "r".into(),
                total: 99,
                expected: Some(digest(b"shared")),
            };
            drop(writer);
            drop(stores.content.writer(space, request, None).unwrap());
            stores.content.abort(space, "r", None).unwrap();
        }),
        ("writing anew", |stores, space, mut writer| {
            writer.truncate(0).unwrap();
            assert_eq!(writer.offset(), 0);
            writer.write(b"new").unwrap();
            let info = writer.commit(3, Some(&digest(b"new")), &Labels::new()).unwrap();
            stores.content.delete(space, &info.digest, None).unwrap();
        }),
    ];
    for (end, reach) in ends {
        let stores = stores();
        let (a, b) = (ns("a"), ns("b"));
        let (blob, lease) = (digest(b"shared"), stores.lease(&a, "l", &[]).id);
        let open = || stores.content.writer(&a, request("r", Some(&blob)), Some(&lease)).unwrap();
        let mut writer = open();
        writer.write(b"sha").unwrap();
        drop(writer);
        stores.put(&b, b"shared", &[], None).unwrap();
        let writer = open();
        assert_eq!(writer.offset(), 6);
        stores.content.delete(&b, &blob, None).unwrap();
        reach(&stores, &a, writer);
        assert_eq!(stores.local.list_statuses().unwrap(), [], "{end}");
        let has = stores.content.info(&a, &blob).is_ok();
        assert_eq!(stores.local.info(&blob).is_ok(), has, "{end}");
        assert_eq!(has, end == "commit", "{end}");
    }
}

#[test]
fn isolated_content_needs_its_bytes_unless_its_namespace_shares() {
    let stores = open(tempfile::tempdir().unwrap(), Sharing::Isolated);
    let (a, b, c) = (ns("a"), ns("b"), ns("c"));
    let blob = stores.put(&a, b"mine", &[], None).unwrap().digest;
    let writer = stores.content.writer(&b, request("r", Some(&blob)), None).unwrap();
    assert_eq!(writer.offset(), 0);
    let message = refusal(writer.commit(0, Some(&blob), &Labels::new()));
    assert!(message.starts_with("unexpected commit digest"), "{message}");
    assert!(stores.content.info(&b, &blob).is_err());
    // With the bytes it is as good as anybody's.
    stores.content.abort(&b, "r", None).unwrap();
    stores.put(&b, b"mine", &[], None).unwrap();
    assert_eq!(stores.local.walk().unwrap().len(), 1);

    let share = map(&[("containerd.io/namespace.shareable", "true")]);
    stores.index.namespaces().update(&a, &share, &[]).unwrap();
    let writer = stores.content.writer(&c, request("r", Some(&blob)), None).unwrap();
    assert_eq!(writer.offset(), 4);
    writer.commit(0, None, &Labels::new()).unwrap();
}

#[test]
fn leases_follow_an_ingest_to_its_blob() {
    let stores = stores();
    let space = ns("default");
    stores.lease(&space, "l", &[]);
    let lease = LeaseId::new("l");
    let held = || stores.index.leases().list_resources(&space, &lease).unwrap();
    let mut writer = stores.content.writer(&space, request("r", None), Some(&lease)).unwrap();
    writer.write(b"x").unwrap();
    assert_eq!(held(), [Resource { id: "r".to_owned(), kind: "ingests".to_owned() }]);
    let blob = writer.commit(1, None, &Labels::new()).unwrap().digest;
    assert_eq!(held(), [Resource { id: blob.to_string(), kind: "content".to_owned() }]);
    stores.content.delete(&space, &blob, Some(&lease)).unwrap();
    assert_eq!(held(), []);
    drop(stores.content.writer(&space, request("r", None), Some(&lease)).unwrap());
    stores.content.abort(&space, "r", Some(&lease)).unwrap();
    assert_eq!(held(), []);
    let gone = LeaseId::new("gone");
    assert_eq!(
        refusal(stores.content.writer(&space, request("s", None), Some(&gone))),
        "lease does not exist: not found"
    );
    assert!(stores.content.status(&space, "s").is_err(), "a refusal left something");
}

#[test]
fn bytes_that_a_crash_left_are_removed() {
    let stores = stores();
    let space = ns("default");
    let kept = stores.put(&space, b"kept", &[], None).unwrap().digest;
    let mut open = stores.content.writer(&space, request("open", None), None).unwrap();
    open.write(b"x").unwrap();
    // A crash between the blob store's commit and the index's; one between
    // the removal of an ingest's row and that of its bytes.
    let mut writer = stores.local.open_writer("orphan", 0, None).unwrap();
    writer.write(b"orphan").unwrap();
    writer.commit(0, None).unwrap();
    drop(stores.local.open_writer("orphaned ingest", 0, None).unwrap());
    stores.content.cleanup().unwrap();
    let left: Vec<Digest> = stores.local.walk().unwrap().into_iter().map(|b| b.digest).collect();
    assert_eq!(left, [kept]);
    assert_eq!(stores.local.list_statuses().unwrap().len(), 1);
    open.commit(1, None, &Labels::new()).unwrap();
}

#[test]
fn a_blob_that_cannot_be_written_down_does_not_stay() {
    let stores = stores();
    let space = ns("default");
    let sql = |text: &str| {
        let connection = rusqlite::Connection::open(stores.dir.path().join("index.db")).unwrap();
        connection.execute_batch(text).unwrap();
    };
    let put = || stores.put(&space, b"hello", &[], None);
    sql("CREATE TRIGGER full BEFORE INSERT ON blobs BEGIN SELECT RAISE(ABORT, 'is full'); END");
    let refused = refusal(put());
    assert!(refused.contains("is full"), "{refused}");
    assert_eq!(stores.local.walk().unwrap(), [], "the bytes stayed");
    sql("DROP TRIGGER full");
    put().unwrap();
}

#[test]
fn a_blob_that_has_lost_bytes_is_brought_again() {
    let stores = stores();
    let (space, other) = (ns("default"), ns("other"));
    let data: &[u8] = b"all of it";
    let digest = stores.put(&space, data, &[("k", "v")], None).unwrap().digest;
    let path = stores.dir.path().join("content/blobs/sha256").join(digest.hex());
    let damage = |left: Option<u64>| {
        std::fs::remove_file(&path).unwrap();
        if let Some(left) = left {
            std::fs::write(&path, &data[..usize::try_from(left).unwrap()]).unwrap();
        }
    };
    for (left, owner) in
        [(Some(0), &space), (Some(3), &space), (None, &space), (Some(0), &other), (Some(3), &other)]
    {
        damage(left);
        assert!(stores.content.reader(&space, &digest).is_err(), "{left:?} bytes were handed out");
        // Whoever has it not gets it; whoever has it, has it again.
        let answer = stores.put(owner, data, &[], None);
        if owner == &space {
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::AlreadyExists);
        } else {
            answer.unwrap();
            stores.content.delete(owner, &digest, None).unwrap();
        }
        assert_eq!(stores.content.reader(&space, &digest).unwrap().size(), 9, "{left:?}");
        assert_eq!(stores.content.info(&space, &digest).unwrap().labels, map(&[("k", "v")]));
    }
    // One that is whole is not written again.
    let request = WriterRequest { expected: Some(digest), ..request("r", None) };
    let refused = stores.content.writer(&space, request, None);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(stores.local.list_statuses().unwrap().is_empty());
}
