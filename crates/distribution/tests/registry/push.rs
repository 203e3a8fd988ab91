//! Uploads, whole and in chunks, over connections that break.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use davit_distribution::push::Target;
use davit_distribution::registry::{BlobSource, Error, Pushed, Repository, Settings};
use davit_types::{Descriptor, Kind};

use crate::server::{Reply, Seen, Server};
use crate::{
    Known, LAYER, MANIFEST, access, basic, bytes, descriptor, host, impatient, mirror, on, open,
    quick, registry, text,
};

/// A registry of one repository, in memory.
#[derive(Default)]
struct Store {
    blobs: HashMap<String, Vec<u8>>,
    upload: Vec<u8>,
}

type Shared = Arc<Mutex<Store>>;

fn parameter(seen: &Seen, name: &str) -> Option<String> {
    let (_, query) = seen.target.split_once('?')?;
    let found = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")))?;
    Some(found.to_owned())
}

const UPLOAD: &str = "/v2/team/app/blobs/uploads/id?state=a";

/// What a registry that obeys the specification does.
fn obey(store: &Shared, seen: &Seen) -> Reply {
    let mut store = store.lock().unwrap();
    let digest = seen.path().rsplit('/').next().unwrap().to_owned();
    match seen.method.as_str() {
        "HEAD" if store.blobs.contains_key(&digest) => Reply::ok("x"),
        "HEAD" => Reply::not_found(),
        "POST" => {
            store.upload.clear();
            Reply::new("202 Accepted").with("Location", UPLOAD)
        }
        "GET" => {
            let reply = Reply::new("204 No Content").with("Location", UPLOAD);
            match store.upload.len() {
                0 => reply,
                length => reply.with("Range", format!("0-{}", length - 1)),
            }
        }
        "PATCH" => {
            let from = store.upload.len();
            let range = format!("{from}-{}", from + seen.body.len() - 1);
            if seen.header("content-range") != Some(range.as_str()) {
                return Reply::new("416 Range Not Satisfiable");
            }
            store.upload.extend_from_slice(&seen.body);
            let range = format!("0-{}", store.upload.len() - 1);
            Reply::new("202 Accepted").with("Location", UPLOAD).with("Range", range)
        }
        "PUT" => {
            let mut all = std::mem::take(&mut store.upload);
            all.extend_from_slice(&seen.body);
            let digest = parameter(seen, "digest").unwrap_or(digest);
            let actual = descriptor(LAYER, &all).digest;
            store.blobs.insert(digest, all);
            Reply::new("201 Created").with("Docker-Content-Digest", actual.as_str())
        }
        _ => Reply::new("405 Method Not Allowed"),
    }
}

async fn push(repository: &Repository, blob: &Descriptor, bytes: &[u8]) -> Result<Pushed, Error> {
    let source: Arc<dyn BlobSource> = Arc::new(Bytes::copy_from_slice(bytes));
    repository.push_blob(blob, source, &[], &|_| {}).await
}

#[tokio::test]
async fn a_blob_is_uploaded_in_one_piece_once() {
    let blob = bytes(1 << 20);
    let wanted = descriptor(LAYER, &blob);
    let store = Shared::default();
    let held = store.clone();
    let server = Server::start(move |seen| obey(&held, seen)).await;
    let upstream = host(&server.address);
    let repository = on([mirror("nobody.invalid"), upstream]);
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = |offset| told.lock().unwrap().push(offset);
    let source: Arc<dyn BlobSource> = Arc::new(Bytes::from(blob.clone()));
    let pushed = repository.push_blob(&wanted, source, &[], &tell).await.unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    assert_eq!(told.lock().unwrap().last(), Some(&(1 << 20)));
    assert_eq!(store.lock().unwrap().blobs[wanted.digest.as_str()], blob);
    assert_eq!(server.seen()[1].header("content-length"), Some("0"));
    let put = server.seen().pop().unwrap();
    assert_eq!(put.target, format!("{UPLOAD}&digest={}", wanted.digest));
    assert_eq!(put.header("content-type"), Some("application/octet-stream"));
    assert_eq!(push(&repository, &wanted, &blob).await.unwrap(), Pushed::Existed);
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let wanted = descriptor(LAYER, b"");
    let store = Shared::default();
    let held = store.clone();
    let server = Server::start(move |seen| obey(&held, seen)).await;
    assert_eq!(push(&on([host(&server.address)]), &wanted, b"").await.unwrap(), Pushed::Uploaded);
    assert!(store.lock().unwrap().blobs.contains_key(wanted.digest.as_str()));
}

#[tokio::test]
async fn chunks_are_as_long_as_asked_for() {
    let blob = bytes(1_000_000);
    let wanted = descriptor(LAYER, &blob);
    for (own, least, expected) in
        [(Some(300_000), None, 300_000), (Some(1), Some("400000"), 400_000)]
    {
        let store = Shared::default();
        let held = store.clone();
        let server = Server::start(move |seen| match (seen.method.as_str(), least) {
            ("POST", Some(least)) => obey(&held, seen).with("OCI-Chunk-Min-Length", least),
            _ => obey(&held, seen),
        })
        .await;
        let settings = Settings { upload_chunk: own, ..quick() };
        let hosts = access([host(&server.address)]);
        let repository = open(&registry(settings), "registry.test/team/app:1", hosts);
        push(&repository, &wanted, &blob).await.unwrap();
        assert_eq!(store.lock().unwrap().blobs[wanted.digest.as_str()], blob);
        let patches: Vec<_> =
            server.seen().into_iter().filter(|seen| seen.method == "PATCH").collect();
        assert!(patches[..patches.len() - 1].iter().all(|seen| seen.body.len() == expected));
        assert_eq!(server.seen().pop().unwrap().header("content-length"), Some("0"));
    }
}

#[tokio::test]
async fn a_chunk_that_breaks_is_resumed_where_the_registry_is() {
    let blob = bytes(1_000_000);
    let wanted = descriptor(LAYER, &blob);
    let (store, tries) = (Shared::default(), AtomicUsize::new(0));
    let held = store.clone();
    let server = Server::start(move |seen| {
        if seen.method != "PATCH" {
            return obey(&held, seen);
        }
        match tries.fetch_add(1, Ordering::Relaxed) {
            1 => {
                // A part of it has arrived.
                let part = &seen.body[..50_000];
                held.lock().unwrap().upload.extend_from_slice(part);
                Reply::new("502 Bad Gateway")
            }
            3 => Reply::new("416 Range Not Satisfiable"),
            _ => obey(&held, seen),
        }
    })
    .await;
    let settings = Settings { upload_chunk: Some(200_000), ..quick() };
    let hosts = access([host(&server.address)]);
    let repository = open(&registry(settings), "registry.test/team/app:1", hosts);
    push(&repository, &wanted, &blob).await.unwrap();
    assert_eq!(store.lock().unwrap().blobs[wanted.digest.as_str()], blob);
    let posts = server.asked().iter().filter(|asked| asked.starts_with("POST")).count();
    assert_eq!(posts, 1);
}

#[tokio::test]
async fn what_fails_is_tried_again_from_the_start() {
    let blob = bytes(100_000);
    let wanted = descriptor(LAYER, &blob);
    let (store, tries) = (Shared::default(), AtomicUsize::new(0));
    let held = store.clone();
    let server = Server::start(move |seen| {
        match (seen.method.as_str(), tries.fetch_add(1, Ordering::Relaxed)) {
            ("POST", 1) | ("PUT", 4) => Reply::new("503 Service Unavailable"),
            _ => obey(&held, seen),
        }
    })
    .await;
    push(&on([host(&server.address)]), &wanted, &blob).await.unwrap();
    assert_eq!(store.lock().unwrap().blobs[wanted.digest.as_str()], blob);
}

#[tokio::test]
async fn a_body_that_is_too_large_for_a_proxy_goes_in_chunks() {
    let blob = bytes(17 << 20);
    let wanted = descriptor(LAYER, &blob);
    let store = Shared::default();
    let held = store.clone();
    let server = Server::start(move |seen| match seen.body.len() > 16 << 20 {
        true => Reply::new("413 Request Entity Too Large"),
        false => obey(&held, seen),
    })
    .await;
    push(&on([host(&server.address)]), &wanted, &blob).await.unwrap();
    assert!(store.lock().unwrap().blobs[wanted.digest.as_str()] == blob);
}

#[tokio::test]
async fn uploads_go_where_the_registry_says_without_our_login() {
    let blob = bytes(1000);
    let wanted = descriptor(LAYER, &blob);
    let storage = Server::start(|_| Reply::new("201 Created")).await;
    let to = format!("http://{}/put?sig=x", storage.address);
    let server = Server::start(move |seen| match seen.header("authorization") {
        None => Reply::challenge("Basic realm=\"r\""),
        Some(_) if seen.method == "HEAD" => Reply::not_found(),
        Some(_) => Reply::new("202 Accepted").with("Location", &*to),
    })
    .await;
    let mut access = access([host(&server.address)]);
    access.credentials = Arc::new(Known(server.address.clone(), basic()));
    access.headers = vec![("X-Key".into(), "k".into())];
    let repository = open(&registry(quick()), "registry.test/team/app:1", access);
    push(&repository, &wanted, &blob).await.unwrap();
    let seen = &storage.seen()[0];
    assert_eq!(seen.target, format!("/put?sig=x&digest={}", wanted.digest));
    assert_eq!(seen.body, blob);
    assert_eq!((seen.header("authorization"), seen.header("x-key")), (None, None));
}

#[tokio::test]
async fn blobs_are_mounted_from_where_they_are() {
    let wanted = descriptor(LAYER, b"x");
    let server = Server::start(|seen| {
        let scopes = seen.target.contains("repository:team/app:pull%2Cpush");
        match (seen.path(), seen.header("authorization")) {
            ("/token", _) if seen.target.contains("repository:team/other:pull") && scopes => {
                Reply::ok(r#"{"token":"both"}"#)
            }
            ("/token", _) if seen.target.contains("closed") => Reply::new("403 Forbidden"),
            ("/token", _) => Reply::ok(r#"{"token":"one"}"#),
            (_, Some(_)) if seen.method == "HEAD" => Reply::not_found(),
            (_, Some("Bearer both")) if seen.method == "POST" => Reply::new("201 Created"),
            (_, Some(_)) if seen.method == "POST" => {
                Reply::new("202 Accepted").with("Location", UPLOAD)
            }
            (_, Some(_)) if seen.method == "DELETE" => Reply::new("204 No Content"),
            _ => {
                let host = seen.header("host").unwrap();
                let realm = format!("http://{host}/token");
                Reply::challenge(&format!("Bearer realm=\"{realm}\",service=\"s\""))
            }
        }
    })
    .await;
    let repository = on([host(&server.address)]);
    let from = ["team/closed", "team/empty", "team/other"].map(str::to_owned);
    let source: Arc<dyn BlobSource> = Arc::new(Bytes::from_static(b"x"));
    let pushed = repository.push_blob(&wanted, source, &from, &|_| {}).await.unwrap();
    assert_eq!(pushed, Pushed::Mounted { from: "team/other".into() });
    let uploads = "/v2/team/app/blobs/uploads/";
    let last = format!("POST {uploads}?mount={}&from=team/other", wanted.digest);
    assert_eq!(server.asked().pop().unwrap(), last);
    // The upload that came of the second try is taken back.
    assert!(server.asked().contains(&format!("DELETE {UPLOAD}")));
}

#[tokio::test]
async fn a_mount_that_becomes_an_upload_is_used_as_one() {
    let blob = bytes(1000);
    let wanted = descriptor(LAYER, &blob);
    let store = Shared::default();
    let held = store.clone();
    let server = Server::start(move |seen| obey(&held, seen)).await;
    let repository = on([host(&server.address)]);
    let source: Arc<dyn BlobSource> = Arc::new(Bytes::from(blob));
    let from = ["team/other".to_owned()];
    let pushed = repository.push_blob(&wanted, source, &from, &|_| {}).await.unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    let posts = server.asked().iter().filter(|asked| asked.starts_with("POST")).count();
    assert_eq!(posts, 1);
}

/// A file that is shorter than it should be.
struct Short;

impl BlobSource for Short {
    fn open(&self, _offset: u64) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(io::Cursor::new(vec![0; 70_000])))
    }
}

#[tokio::test]
async fn a_blob_that_cannot_be_read_is_named() {
    let mut wanted = descriptor(LAYER, b"x");
    wanted.size = 100_000;
    let store = Shared::default();
    let server = Server::start(move |seen| obey(&store, seen)).await;
    let repository = on([host(&server.address)]);
    let error = repository.push_blob(&wanted, Arc::new(Short), &[], &|_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Source { .. }), "{error}");
    assert!(text(&error).starts_with(&format!("read content {}: ", wanted.digest)));
    let posts = server.asked().iter().filter(|asked| asked.starts_with("POST")).count();
    assert_eq!(posts, 1);
}

#[tokio::test]
async fn a_registry_that_got_something_else_is_not_believed() {
    let wanted = descriptor(LAYER, b"x");
    let store = Shared::default();
    let server = Server::start(move |seen| obey(&store, seen)).await;
    let error = push(&on([host(&server.address)]), &wanted, b"y").await.unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
}

#[tokio::test]
async fn who_may_not_push_is_told_so() {
    let server = Server::start(|seen| match (seen.path(), seen.method.as_str()) {
        ("/token", _) => Reply::ok(r#"{"token":"t"}"#),
        (_, "HEAD") => Reply::not_found(),
        _ => {
            let host = seen.header("host").unwrap();
            let error = "error=\"insufficient_scope\"";
            Reply::challenge(&format!("Bearer realm=\"http://{host}/token\",{error}"))
        }
    })
    .await;
    let expected = "push access denied, repository does not exist or may require authorization: \
                    server message: insufficient_scope: authorization failed";
    let repository = on([host(&server.address)]);
    let error = push(&repository, &descriptor(LAYER, b"x"), b"x").await.unwrap_err();
    assert_eq!(text(&error), expected);
    let manifest = descriptor(MANIFEST, b"{}");
    let error = repository.push_manifest(&manifest, Bytes::from_static(b"{}"), None).await;
    assert_eq!(text(&error.unwrap_err()), expected);
    let error = push(&on([mirror(&server.address)]), &descriptor(LAYER, b"x"), b"x").await;
    assert_eq!(error.unwrap_err().full_message(), "no push hosts: not found");
}

#[tokio::test]
async fn manifests_go_by_tag_and_by_digest_once() {
    let body = Bytes::from_static(b"{\"schemaVersion\":2}");
    let manifest = descriptor(MANIFEST, &body);
    let digest = manifest.digest.clone();
    let tagged = AtomicUsize::new(0);
    let told = digest.clone();
    let server = Server::start(move |seen| match seen.method.as_str() {
        "PUT" => {
            tagged.fetch_add(1, Ordering::Relaxed);
            Reply::new("201 Created").with("Docker-Content-Digest", told.as_str())
        }
        _ if tagged.load(Ordering::Relaxed) == 0 => {
            Reply::ok("x").with("Docker-Content-Digest", descriptor(MANIFEST, b"x").digest.as_str())
        }
        _ => Reply::ok("x").with("Docker-Content-Digest", told.as_str()),
    })
    .await;
    let repository = on([host(&server.address)]);
    for _ in 0..2 {
        repository.push_manifest(&manifest, body.clone(), Some("v1")).await.unwrap();
    }
    repository.push_manifest(&manifest, body.clone(), None).await.unwrap();
    let path = "/v2/team/app/manifests";
    let asked = [
        format!("HEAD {path}/v1"),
        format!("PUT {path}/v1"),
        format!("HEAD {path}/v1"),
        format!("HEAD {path}/{digest}"),
    ];
    assert_eq!(server.asked(), asked);
    assert_eq!(server.seen()[1].header("content-type"), Some(MANIFEST));
    assert_eq!(server.seen()[1].body, body);
}

#[tokio::test]
async fn what_a_mirror_has_or_refuses_says_nothing_of_the_registry() {
    let manifest = descriptor(MANIFEST, b"{}");
    let registry = Server::start(|_| Reply::not_found()).await;
    for reply in [Reply::ok("{}"), Reply::new("403 Forbidden"), Reply::not_found()] {
        let other = Server::start(move |_| reply.clone()).await;
        let repository = on([mirror(&other.address), host(&registry.address)]);
        assert!(!Target::has(&repository, &manifest).await.unwrap());
        assert_eq!(other.asked(), [""; 0]);
    }
    let holder = Server::start(|_| Reply::ok("{}")).await;
    let mut host = host(&holder.address);
    (host.capabilities.pull, host.capabilities.resolve) = (false, false);
    assert!(Target::has(&on([host]), &manifest).await.unwrap());
    let error = Target::has(&on([mirror(&holder.address)]), &manifest).await.unwrap_err();
    assert!(error.to_string().contains("no push hosts"), "{error}");
}

#[tokio::test]
async fn a_registry_may_take_long_to_store_what_it_has_got() {
    let blob = bytes(1000);
    let (wanted, manifest) = (descriptor(LAYER, &blob), descriptor(MANIFEST, b"{}"));
    let store = Shared::default();
    let server = Server::start(move |seen| {
        let reply = obey(&store, seen);
        // The request that completes the chunks, or brings the manifest.
        if seen.method == "PUT" { reply.after(Duration::from_secs(1)) } else { reply }
    })
    .await;
    let settings = Settings { upload_chunk: Some(600), retries: 0, ..impatient() };
    let hosts = access([host(&server.address)]);
    let repository = open(&registry(settings), "registry.test/team/app:1", hosts);
    push(&repository, &wanted, &blob).await.unwrap();
    let body = Bytes::from_static(b"{}");
    repository.push_manifest(&manifest, body, Some("v1")).await.unwrap();
}

/// Says no as soon as it has seen an upload's headers, and hangs up.
async fn rude(answer: &'static str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                loop {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let reply = match head[0] {
                        b'H' => "404 Not Found",
                        b'P' if head[1] == b'O' => "202 Accepted\r\nLocation: /upload",
                        _ => answer,
                    };
                    let reply = format!("HTTP/1.1 {reply}\r\nContent-Length: 0\r\n\r\n");
                    stream.write_all(reply.as_bytes()).await.unwrap();
                    if reply.contains(answer) {
                        return;
                    }
                    head.clear();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_registry_that_hangs_up_in_the_middle_is_heard() {
    let blob = bytes(8 << 20);
    let wanted = descriptor(LAYER, &blob);
    let address = rude("400 Bad Request").await;
    let error = push(&on([host(&address)]), &wanted, &blob).await.unwrap_err();
    assert_eq!(error.status(), Some(400), "{}", text(&error));
}
