//! Redirects, which nothing of ours follows to another server.

use std::sync::Arc;

use davit_distribution::credentials::Login;
use davit_distribution::registry::Access;

use crate::server::{Reply, Server};
use crate::{
    Careless, LAYER, access, basic, bytes, descriptor, host, on, open, quick, read, registry, text,
};

const SECRETS: &[&str] = &["authorization", "cookie", "x-key", "proxy-authorization"];

#[tokio::test]
async fn nothing_of_ours_follows_to_another_server() {
    let blob = bytes(100_000);
    let wanted = descriptor(LAYER, &blob);
    let served = blob.clone();
    let storage = Server::start(move |seen| Reply::part_of(&served, seen)).await;
    let to = format!("http://{}/storage?X-Signature=abc", storage.address);
    for status in ["301 Moved Permanently", "302 Found", "303 See Other", "308 Permanent Redirect"]
    {
        let to = to.clone();
        let server = Server::start(move |seen| match seen.header("authorization") {
            None => Reply::challenge("Basic realm=\"r\""),
            Some(_) => Reply { status, ..Reply::redirect(&to) }.with("Set-Cookie", "c=1"),
        })
        .await;
        let access = Access {
            credentials: Arc::new(Careless(basic())),
            headers: vec![("X-Key".into(), "k".into()), ("Cookie".into(), "mine".into())],
            ..access([host(&server.address)])
        };
        let repository = open(&registry(quick()), "registry.test/a:1", access);
        assert_eq!(read(&repository, &wanted, 10).await.unwrap(), blob[10..]);
        assert!(server.seen().iter().all(|seen| seen.header("x-key") == Some("k")));
    }
    let seen = storage.seen();
    assert_eq!(seen.len(), 4);
    for seen in seen {
        assert_eq!(seen.header("range"), Some("bytes=10-"));
        for secret in SECRETS {
            assert_eq!(seen.header(secret), None, "{secret}");
        }
    }
}

#[tokio::test]
async fn another_server_that_demands_a_password_gets_none() {
    let thief = Server::start(|_| Reply::challenge("Basic realm=\"give\"")).await;
    let to = format!("http://{}/", thief.address);
    let server = Server::start(move |_| Reply::redirect(&to)).await;
    let wanted = descriptor(LAYER, b"x");
    for login in [basic(), Login::Bearer("b".into()), Login::Header("h".into())] {
        let access =
            Access { credentials: Arc::new(Careless(login)), ..access([host(&server.address)]) };
        let repository = open(&registry(quick()), "registry.test/a:1", access);
        let error = repository.download(&wanted, 0).await.unwrap_err();
        assert_eq!(error.status(), Some(401), "{error}");
    }
    assert!(thief.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test]
async fn another_server_may_want_a_token_that_anybody_can_have() {
    let blob = bytes(1000);
    let wanted = descriptor(LAYER, &blob);
    let other = Server::start(move |seen| match (seen.path(), seen.header("authorization")) {
        ("/token", None) if seen.method == "GET" => Reply::ok(r#"{"token":"any"}"#),
        (_, Some("Bearer any")) => Reply::part_of(&blob, seen),
        (_, None) => {
            let host = seen.header("host").unwrap();
            Reply::challenge(&format!("Bearer realm=\"http://{host}/token\",service=\"s\""))
        }
        _ => Reply::new("400 Bad Request"),
    })
    .await;
    let to = format!("http://{}/blob", other.address);
    let server = Server::start(move |_| Reply::redirect(&to)).await;
    let access =
        Access { credentials: Arc::new(Careless(basic())), ..access([host(&server.address)]) };
    let repository = open(&registry(quick()), "registry.test/a:1", access);
    assert_eq!(descriptor(LAYER, &read(&repository, &wanted, 0).await.unwrap()), wanted);
}

#[tokio::test]
async fn only_the_web_is_followed_to() {
    for to in ["file:///etc/passwd", "ftp://host/x", "gopher://h/", "http://u:p@h/", "http://"] {
        let server = Server::start(move |_| Reply::redirect(to)).await;
        let error = on([host(&server.address)]).resolve().await.unwrap_err();
        assert!(text(&error).contains(": redirect: "), "{error}");
        assert_eq!(server.asked().len(), 1);
    }
}

#[tokio::test]
async fn circles_are_left() {
    let server = Server::start(|seen| Reply::redirect(&seen.target)).await;
    let error = on([host(&server.address)]).resolve().await.unwrap_err();
    assert!(text(&error).ends_with("stopped after 10 redirects"), "{error}");
    assert_eq!(server.asked().len(), 11);
}

#[tokio::test]
async fn signatures_are_not_told() {
    let storage = Server::start(|_| Reply::new("403 Forbidden")).await;
    let to = format!("http://{}/storage?X-Signature=abc&digest=d", storage.address);
    let server = Server::start(move |_| Reply::redirect(&to)).await;
    let wanted = descriptor(LAYER, b"x");
    let error = on([host(&server.address)]).download(&wanted, 0).await.unwrap_err();
    let expected = format!("http://{}/storage?digest=d: 403 Forbidden", storage.address);
    assert!(text(&error).ends_with(&expected), "{error}");
}
