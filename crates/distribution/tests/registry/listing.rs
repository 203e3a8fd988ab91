//! Tags and referrers.

use davit_distribution::hosts::{Capabilities, Host};
use davit_types::Kind;

use crate::server::{Reply, Server};
use crate::{descriptor, host, on, text};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[tokio::test]
async fn tags_come_page_by_page() {
    let server = Server::start(|seen| match seen.target.as_str() {
        "/v2/team/app/tags/list" => Reply::ok(r#"{"name":"team/app","tags":["1","2"]}"#)
            .with("Link", "</v2/team/app/tags/list?last=2&n=2>; rel=\"next\""),
        "/v2/team/app/tags/list?last=2&n=2" => {
            Reply::ok(r#"{"tags":["3"]}"#).with("Link", "<list?last=3>; rel=next")
        }
        _ => Reply::ok(r#"{"name":"team/app","tags":null}"#),
    })
    .await;
    assert_eq!(on([host(&server.address)]).tags().await.unwrap(), ["1", "2", "3"]);
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn a_list_without_end_is_left() {
    let server = Server::start(|seen| {
        let next = format!("<{}>; rel=\"next\"", seen.target);
        Reply::ok(r#"{"tags":["a"]}"#).with("Link", next)
    })
    .await;
    let tags = on([host(&server.address)]).tags().await.unwrap();
    assert_eq!(tags.len(), 1000);
}

#[tokio::test]
async fn what_is_no_list_is_refused() {
    let server = Server::start(|_| Reply::ok("<html>")).await;
    let error = on([host(&server.address)]).tags().await.unwrap_err();
    assert!(text(&error).ends_with("no list of tags"), "{error}");
    let server = Server::start(|_| Reply::not_found()).await;
    let error = on([host(&server.address)]).tags().await.unwrap_err();
    assert_eq!(error.kind(), davit_types::ErrorKind::NotFound);
}

fn index(types: &[&str]) -> String {
    let entry = |kind: &&str| {
        let digest = descriptor(INDEX, kind.as_bytes()).digest;
        let manifest = "application/vnd.oci.image.manifest.v1+json";
        format!(
            r#"{{"mediaType":"{manifest}","digest":"{digest}","size":2,"artifactType":"{kind}"}}"#
        )
    };
    let entries: Vec<String> = types.iter().map(entry).collect();
    let entries = entries.join(",");
    format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{entries}]}}"#)
}

#[tokio::test]
async fn referrers_are_listed_and_filtered() {
    let server = Server::start(|seen| match seen.target.contains("page=2") {
        false => Reply::ok(index(&["a/sbom", "a/signature"]))
            .with("Link", format!("<{}{}page=2>; rel=\"next\"", seen.target, '&')),
        true => Reply::ok(index(&["a/sbom"])),
    })
    .await;
    let digest = descriptor(INDEX, b"x").digest;
    let repository = on([host(&server.address)]);
    let found = repository.referrers(&digest, Some("a/sbom")).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].blob.digest, descriptor(INDEX, b"a/sbom").digest);
    let first = &server.asked()[0];
    assert_eq!(first, &format!("GET /v2/team/app/referrers/{digest}?artifactType=a/sbom"));
}

#[tokio::test]
async fn a_registry_that_knows_no_referrers_may_have_them_as_a_tag() {
    let digest = descriptor(INDEX, b"x").digest;
    let tag = format!("/v2/team/app/manifests/sha256-{}", digest.hex());
    let expected = tag.clone();
    let server = Server::start(move |seen| match seen.path() == tag {
        true => Reply::ok(index(&["a/sbom", "a/signature"])),
        false => Reply::not_found(),
    })
    .await;
    let found = on([host(&server.address)]).referrers(&digest, None).await.unwrap();
    assert_eq!(found.len(), 2);
    let capabilities = Capabilities { referrers: false, ..Capabilities::ALL };
    let without = Host { capabilities, ..host(&server.address) };
    let found = on([without]).referrers(&digest, Some("a/signature")).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(server.asked()[2], format!("GET {expected}"));
    let empty = Server::start(|_| Reply::not_found()).await;
    assert_eq!(on([host(&empty.address)]).referrers(&digest, None).await.unwrap(), []);
}

#[tokio::test]
async fn referrers_that_are_none_are_refused() {
    let digest = descriptor(INDEX, b"x").digest;
    for body in ["{", r#"{"manifests":[{"digest":"x"}]}"#, r#"{"config":{},"layers":[]}"#] {
        let server = Server::start(move |_| Reply::ok(body)).await;
        let error = on([host(&server.address)]).referrers(&digest, None).await.unwrap_err();
        assert!(text(&error).contains("failed to decode referrers index"), "{error}");
    }
}
