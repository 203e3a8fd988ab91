//! Manifests with a subject, and the lists that they get into.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use davit_distribution::registry::{Error, Repository};
use davit_types::Descriptor;
use serde_json::{Value, json};

use crate::server::{Reply, Seen, Server};
use crate::{MANIFEST, descriptor, host, on, text};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Manifests by tag and digest, and what is done before the next PUT of a
/// list.
#[derive(Default)]
struct Store {
    manifests: HashMap<String, Vec<u8>>,
    others: Vec<Value>,
    /// Whether it says which list it gave, and takes changes of that alone.
    has_versions: bool,
}

type Shared = Arc<Mutex<Store>>;

impl Store {
    fn version(&self, name: &str) -> Option<String> {
        let bytes = self.manifests.get(name)?;
        Some(format!("\"{}\"", descriptor(INDEX, bytes).digest))
    }

    /// Whether a change is of what is there.
    fn fits(&self, name: &str, seen: &Seen) -> bool {
        match (self.has_versions, self.version(name)) {
            (false, _) => true,
            (true, None) => seen.header("if-none-match") == Some("*"),
            (true, version) => seen.header("if-match") == version.as_deref(),
        }
    }

    fn add(&mut self, name: &str, entry: Value) {
        let mut list = self.list(name);
        list["manifests"].as_array_mut().unwrap().push(entry);
        self.manifests.insert(name.to_owned(), list.to_string().into_bytes());
    }

    fn list(&self, name: &str) -> Value {
        let empty = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
        self.manifests.get(name).map_or(empty, |bytes| serde_json::from_slice(bytes).unwrap())
    }
}

/// A registry that keeps no lists.
fn obey(store: &Shared, seen: &Seen) -> Reply {
    let mut store = store.lock().unwrap();
    let name = seen.path().rsplit('/').next().unwrap().to_owned();
    if !seen.path().contains("/manifests/") {
        return Reply::not_found();
    }
    match seen.method.as_str() {
        "PUT" => {
            let is_list = name.starts_with("sha256-");
            if is_list && let Some(other) = store.others.pop() {
                store.add(&name, other);
            }
            if is_list && !store.fits(&name, seen) {
                return Reply::new("412 Precondition Failed");
            }
            store.manifests.insert(name, seen.body.clone());
            Reply::new("201 Created")
        }
        _ => match store.manifests.get(&name) {
            None => Reply::not_found(),
            Some(bytes) => {
                let reply = Reply::ok(bytes.clone()).with("Content-Type", INDEX);
                let version = store.version(&name).filter(|_| store.has_versions);
                version.into_iter().fold(reply, |reply, version| reply.with("ETag", version))
            }
        },
    }
}

/// An artifact about `subject`.
fn artifact(subject: &Descriptor, own: &str) -> (Descriptor, Bytes) {
    let blob = descriptor("application/vnd.test.config", b"{}");
    let entry = json!({"mediaType": blob.media_type, "digest": blob.digest.as_str(), "size": 2});
    let body = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": own,
        "config": entry, "layers": [],
        "subject": {"mediaType": MANIFEST, "digest": subject.digest.as_str(), "size": subject.size},
        "annotations": {"a": "b"},
    });
    let bytes = Bytes::from(body.to_string());
    (descriptor(MANIFEST, &bytes), bytes)
}

fn tag(subject: &Descriptor) -> String {
    subject.digest.as_str().replace(':', "-")
}

async fn push(repository: &Repository, artifact: &(Descriptor, Bytes)) -> Result<(), Error> {
    repository.push_manifest(&artifact.0, artifact.1.clone(), None).await
}

fn listed(store: &Shared, subject: &Descriptor) -> Vec<String> {
    let list = store.lock().unwrap().list(&tag(subject));
    let entries = list["manifests"].as_array().unwrap().iter();
    entries.map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_list_is_begun_and_gone_on_with() {
    let (subject, store) = (descriptor(MANIFEST, b"subject"), Shared::default());
    let held = store.clone();
    let server = Server::start(move |seen| obey(&held, seen)).await;
    let repository = on([host(&server.address)]);
    let (first, second) = (artifact(&subject, "a/sbom"), artifact(&subject, ""));
    push(&repository, &first).await.unwrap();
    let entry = json!({
        "mediaType": MANIFEST, "digest": first.0.digest.as_str(), "size": first.0.size,
        "artifactType": "a/sbom", "annotations": {"a": "b"},
    });
    let list = store.lock().unwrap().list(&tag(&subject));
    let expected = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
    assert_eq!(list, expected);
    let path = "/v2/team/app/manifests";
    let (digest, tag) = (&first.0.digest, tag(&subject));
    let asked = [
        format!("HEAD {path}/{digest}"),
        format!("PUT {path}/{digest}"),
        format!("GET {path}/{tag}"),
        format!("PUT {path}/{tag}"),
        format!("GET {path}/{tag}"),
    ];
    assert_eq!(server.asked(), asked);

    // What others have written into it stays.
    {
        let mut store = store.lock().unwrap();
        let mut list = store.list(&tag);
        list["annotations"] = json!({"of": "others"});
        store.manifests.insert(tag.clone(), list.to_string().into_bytes());
    }
    push(&repository, &second).await.unwrap();
    let list = store.lock().unwrap().list(&tag);
    assert_eq!(list["annotations"]["of"], "others");
    assert_eq!(list["manifests"][0], entry);
    // Its configuration says what it is.
    assert_eq!(list["manifests"][1]["artifactType"], "application/vnd.test.config");
    let found = repository.referrers(&subject.digest, Some("a/sbom")).await.unwrap();
    assert_eq!(found.len(), 1);
}

#[tokio::test]
async fn nothing_is_listed_twice_and_what_was_forgotten_is_added() {
    let (subject, store) = (descriptor(MANIFEST, b"subject"), Shared::default());
    let held = store.clone();
    let server = Server::start(move |seen| obey(&held, seen)).await;
    let repository = on([host(&server.address)]);
    let one = artifact(&subject, "a/sbom");
    for _ in 0..3 {
        push(&repository, &one).await.unwrap();
        assert_eq!(listed(&store, &subject), [one.0.digest.as_str()]);
    }
    // Whoever pushed it first went no further.
    store.lock().unwrap().manifests.remove(&tag(&subject));
    push(&repository, &one).await.unwrap();
    assert_eq!(listed(&store, &subject), [one.0.digest.as_str()]);
}

#[tokio::test]
async fn a_registry_that_keeps_lists_is_left_to_it() {
    let subject = descriptor(MANIFEST, b"subject");
    let one = artifact(&subject, "a/sbom");
    let digest = subject.digest.to_string();
    let server = Server::start(move |seen| match seen.method.as_str() {
        "PUT" => Reply::new("201 Created").with("OCI-Subject", digest.as_str()),
        "GET" if seen.path().contains("/referrers/") => Reply::ok("{}"),
        _ => Reply::not_found(),
    })
    .await;
    push(&on([host(&server.address)]), &one).await.unwrap();
    assert_eq!(server.asked().len(), 2, "{:?}", server.asked());
    // One that has it already does not say so again.
    let server = Server::start(|seen| match seen.method.as_str() {
        "GET" if !seen.path().contains("/referrers/") => Reply::not_found(),
        "PUT" => Reply::new("500 Internal Server Error"),
        _ => Reply::ok("{}"),
    })
    .await;
    push(&on([host(&server.address)]), &one).await.unwrap();
    let path = "/v2/team/app";
    let asked = [
        format!("HEAD {path}/manifests/{}", one.0.digest),
        format!("GET {path}/referrers/{}", subject.digest),
    ];
    assert_eq!(server.asked(), asked);
}

#[tokio::test]
async fn what_others_write_meanwhile_is_not_lost() {
    for has_versions in [true, false] {
        let subject = descriptor(MANIFEST, b"subject");
        let others = ["x", "y"].map(|name| {
            let digest = descriptor(MANIFEST, name.as_bytes()).digest;
            json!({"mediaType": MANIFEST, "digest": digest.as_str(), "size": 1})
        });
        let store: Shared = Arc::new(Mutex::new(Store {
            others: others.to_vec(),
            has_versions,
            ..Store::default()
        }));
        let held = store.clone();
        let server = Server::start(move |seen| obey(&held, seen)).await;
        let one = artifact(&subject, "a/sbom");
        push(&on([host(&server.address)]), &one).await.unwrap();
        let listed = listed(&store, &subject);
        assert!(listed.contains(&one.0.digest.to_string()), "{listed:?}");
        if has_versions {
            assert_eq!(listed.len(), 3, "{listed:?}");
        }
    }
}

#[tokio::test]
async fn a_list_that_others_never_leave_alone_is_given_up() {
    let subject = descriptor(MANIFEST, b"subject");
    let server = Server::start(|seen| match (seen.method.as_str(), seen.path()) {
        ("PUT", path) if path.contains("sha256-") => Reply::new("412 Precondition Failed"),
        ("PUT", _) => Reply::new("201 Created"),
        _ => Reply::not_found(),
    })
    .await;
    let one = artifact(&subject, "a/sbom");
    let error = push(&on([host(&server.address)]), &one).await.unwrap_err();
    let message = text(&error);
    let expected = format!("add to the list of what refers to {}: ", subject.digest);
    assert!(message.starts_with(&expected), "{message}");
    assert!(message.contains("others have written it 5 times"), "{message}");
}

#[tokio::test]
async fn what_is_no_list_is_left_as_it_is() {
    let subject = descriptor(MANIFEST, b"subject");
    let server = Server::start(|seen| match (seen.method.as_str(), seen.path()) {
        ("GET", path) if path.contains("sha256-") => Reply::ok(r#"{"config":{},"layers":[]}"#),
        ("PUT", path) if !path.contains("sha256-") => Reply::new("201 Created"),
        _ => Reply::not_found(),
    })
    .await;
    let one = artifact(&subject, "a/sbom");
    let error = push(&on([host(&server.address)]), &one).await.unwrap_err();
    assert!(text(&error).contains("no list of referrers"), "{error:?}");
    assert!(
        !server.asked().iter().any(|asked| asked.starts_with("PUT") && asked.contains("sha256-"))
    );
}
