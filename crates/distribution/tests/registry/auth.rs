//! Who we are, and to whom we say it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use davit_distribution::credentials::{Credentials, Login};
use davit_distribution::registry::{Access, Error, Repository};
use davit_types::Kind;

use crate::server::{Ending, Reply, Seen, Server};
use crate::{
    Broken, Known, LAYER, access, basic, bytes, descriptor, host, open, quick, read, registry, text,
};

const BASIC: &str = "Basic dXNlcjpzM2NyM3Q=";

fn as_user(server: &Server, credentials: impl Credentials + 'static) -> Access {
    Access { credentials: Arc::new(credentials), ..access([host(&server.address)]) }
}

fn repository(server: &Server, credentials: impl Credentials + 'static) -> Repository {
    open(&registry(quick()), "registry.test/team/app:1", as_user(server, credentials))
}

fn challenge(seen: &Seen) -> Reply {
    let host = seen.header("host").unwrap();
    let scope = "scope=\"repository:team/app:pull\"";
    Reply::challenge(&format!("Bearer realm=\"http://{host}/token\",service=\"s v\",{scope}"))
}

/// Lets in who has the token that `tokens` gives.
fn guarded(tokens: impl Fn(&Seen) -> Reply + Send + Sync, seen: &Seen) -> Reply {
    match (seen.path(), seen.header("authorization")) {
        ("/token", _) => tokens(seen),
        (_, Some("Bearer t0k3n")) => {
            Reply::ok("{}").with("Docker-Content-Digest", descriptor(LAYER, b"{}").digest.as_str())
        }
        _ => challenge(seen),
    }
}

const TOKEN: &str = r#"{"token":"t0k3n","expires_in":300}"#;

#[tokio::test]
async fn anybody_gets_a_token_where_anybody_may_read() {
    let server = Server::start(|seen| guarded(|_| Reply::ok(TOKEN), seen)).await;
    let repository = repository(&server, davit_distribution::credentials::Anonymous);
    repository.resolve().await.unwrap();
    repository.resolve().await.unwrap();
    let asked = [
        "HEAD /v2/team/app/manifests/1",
        "GET /token?service=s%20v&scope=repository:team/app:pull",
        "HEAD /v2/team/app/manifests/1",
        "HEAD /v2/team/app/manifests/1",
    ];
    assert_eq!(server.asked(), asked);
    assert_eq!(server.seen()[1].header("authorization"), None);
}

#[tokio::test]
async fn a_name_and_a_password_go_to_the_token_server_in_the_body() {
    let server =
        Server::start(|seen| guarded(|_| Reply::ok(r#"{"access_token":"t0k3n"}"#), seen)).await;
    repository(&server, Known(server.address.clone(), basic())).resolve().await.unwrap();
    let seen = &server.seen()[1];
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/token"));
    let body = String::from_utf8(seen.body.clone()).unwrap();
    for pair in [
        "grant_type=password",
        "username=user",
        "password=s3cr3t",
        "service=s%20v",
        "client_id=containerd-client",
        "scope=repository:team/app:pull",
    ] {
        assert!(body.split('&').any(|found| found == pair), "{pair} in {body}");
    }
}

#[tokio::test]
async fn a_token_server_of_the_older_kind_is_asked_its_way() {
    for status in ["404 Not Found", "405 Method Not Allowed", "401 Unauthorized", "400 Bad Request"]
    {
        let tokens = move |seen: &Seen| match (seen.method.as_str(), seen.header("authorization")) {
            ("POST", _) => Reply::new(status),
            (_, Some(BASIC)) => Reply::ok(TOKEN),
            _ => Reply::new("403 Forbidden"),
        };
        let server = Server::start(move |seen| guarded(tokens, seen)).await;
        repository(&server, Known(server.address.clone(), basic())).resolve().await.unwrap();
    }
}

#[tokio::test]
async fn a_token_server_of_the_registrys_own_gets_the_hosts_headers() {
    for login in [None, Some(basic())] {
        let server = Server::start(|seen| guarded(|_| Reply::ok(TOKEN), seen)).await;
        let mut access = access([host(&server.address)]);
        access.hosts[0].headers = vec![("X-Key".into(), "k".into())];
        access.headers = vec![("X-Client".into(), "c".into())];
        if let Some(login) = login {
            access.credentials = Arc::new(Known(server.address.clone(), login));
        }
        open(&registry(quick()), "registry.test/team/app:1", access).resolve().await.unwrap();
        let seen = &server.seen()[1];
        assert_eq!(seen.path(), "/token");
        assert_eq!(seen.header("user-agent"), Some(&*quick().user_agent));
        assert_eq!((seen.header("x-key"), seen.header("x-client")), (Some("k"), None));
    }
}

#[tokio::test]
async fn a_token_server_elsewhere_gets_none_of_them() {
    let tokens = Server::start(|_| Reply::ok(TOKEN)).await;
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", tokens.address);
    let server = Server::start(move |seen| match seen.header("authorization") {
        Some("Bearer t0k3n") => guarded(|_| Reply::not_found(), seen),
        _ => Reply::challenge(&realm),
    })
    .await;
    let mut access = access([host(&server.address)]);
    access.hosts[0].headers =
        vec![("X-Key".into(), "k".into()), ("User-Agent".into(), "u/1".into())];
    open(&registry(quick()), "registry.test/team/app:1", access).resolve().await.unwrap();
    let seen = &tokens.seen()[0];
    assert_eq!((seen.header("user-agent"), seen.header("x-key")), (Some("u/1"), None));
}

#[tokio::test]
async fn other_headers_may_mean_another_token() {
    let server = Server::start(|seen| guarded(|_| Reply::ok(TOKEN), seen)).await;
    let registry = registry(quick());
    let fetched = || server.seen().iter().filter(|seen| seen.path() == "/token").count();
    for (key, expected) in [("one", 1), ("one", 1), ("two", 2)] {
        let mut access = access([host(&server.address)]);
        access.hosts[0].headers = vec![("X-Key".into(), key.into())];
        open(&registry, "registry.test/team/app:1", access).resolve().await.unwrap();
        assert_eq!(fetched(), expected);
    }
}

#[tokio::test]
async fn a_server_that_we_are_redirected_to_gets_no_headers_with_its_token_either() {
    let storage = Server::start(|seen| guarded(|_| Reply::ok(TOKEN), seen)).await;
    let to = format!("http://{}/x", storage.address);
    let server = Server::start(move |_| Reply::redirect(&to)).await;
    let mut access = access([host(&server.address)]);
    access.hosts[0].headers = vec![("X-Key".into(), "k".into())];
    open(&registry(quick()), "registry.test/team/app:1", access).resolve().await.unwrap();
    assert!(storage.seen().iter().any(|seen| seen.path() == "/token"));
    assert!(storage.seen().iter().all(|seen| seen.header("x-key").is_none()));
}

#[tokio::test]
async fn a_refresh_token_is_exchanged() {
    let server = Server::start(|seen| guarded(|_| Reply::ok(TOKEN), seen)).await;
    let login = Login::Refresh("r3fr3sh".into());
    repository(&server, Known(server.address.clone(), login)).resolve().await.unwrap();
    let body = String::from_utf8(server.seen()[1].body.clone()).unwrap();
    assert!(body.contains("grant_type=refresh_token&refresh_token=r3fr3sh"), "{body}");
}

#[tokio::test]
async fn passwords_and_ready_made_headers_are_sent_when_asked_for() {
    for (login, expected) in [
        (basic(), BASIC),
        (Login::Bearer("b34r3r".into()), "Bearer b34r3r"),
        (Login::Header("Custom c".into()), "Custom c"),
    ] {
        let server = Server::start(move |seen| match seen.header("authorization") {
            Some(header) if header == expected => Reply::ok("{}"),
            _ => Reply::challenge("Basic realm=\"r\""),
        })
        .await;
        repository(&server, Known(server.address.clone(), login)).resolve().await.unwrap();
        assert_eq!(server.seen()[0].header("authorization"), None, "nobody asked for it yet");
    }
}

#[tokio::test]
async fn nobody_uses_the_token_of_another() {
    let server = Server::start(|seen| guarded(|_| Reply::ok(TOKEN), seen)).await;
    let registry = registry(quick());
    let name = "registry.test/team/app:1";
    let fetched = || server.seen().iter().filter(|seen| seen.path() == "/token").count();
    let user = || Known(server.address.clone(), basic());
    for _ in 0..2 {
        open(&registry, name, as_user(&server, user())).resolve().await.unwrap();
    }
    assert_eq!(fetched(), 1, "the same user has the same token");
    let nobody = davit_distribution::credentials::Anonymous;
    open(&registry, name, as_user(&server, nobody)).resolve().await.unwrap();
    assert_eq!(fetched(), 2);
    let other = Login::Basic { username: "user".into(), password: "other".into() };
    let other = Known(server.address.clone(), other);
    open(&registry, name, as_user(&server, other)).resolve().await.unwrap();
    assert_eq!(fetched(), 3);
}

#[tokio::test]
async fn many_who_ask_at_once_share_one_token() {
    let server = Server::start(|seen| guarded(|_| Reply::ok(TOKEN), seen)).await;
    let repository = repository(&server, davit_distribution::credentials::Anonymous);
    let all = (0..20).map(|_| {
        let repository = repository.clone();
        tokio::spawn(async move { repository.resolve().await })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.unwrap().unwrap();
    }
    let fetched = server.seen().iter().filter(|seen| seen.path() == "/token").count();
    assert_eq!(fetched, 1);
}

#[tokio::test]
async fn a_token_that_ends_in_the_middle_of_a_blob_is_replaced() {
    let blob = bytes(1 << 20);
    let wanted = descriptor(LAYER, &blob);
    let given = AtomicUsize::new(0);
    let server = Server::start(move |seen| {
        let current = format!("Bearer token-{}", given.load(Ordering::Relaxed));
        match (seen.path(), seen.header("authorization")) {
            ("/token", _) => {
                let number = given.fetch_add(1, Ordering::Relaxed) + 1;
                Reply::ok(format!(r#"{{"token":"token-{number}"}}"#))
            }
            // Each token is good for one request alone.
            (_, Some(token)) if token == current => {
                given.fetch_add(1, Ordering::Relaxed);
                Reply::part_of(&blob, seen).ending(Ending::Reset(300_000))
            }
            _ => challenge(seen),
        }
    })
    .await;
    let repository = repository(&server, davit_distribution::credentials::Anonymous);
    let got = read(&repository, &wanted, 0).await.unwrap();
    assert_eq!(descriptor(LAYER, &got), wanted);
}

#[tokio::test]
async fn a_registry_that_lets_nobody_in_is_believed() {
    let server = Server::start(|seen| match seen.path() {
        "/token" => Reply::ok(TOKEN),
        _ => {
            let host = seen.header("host").unwrap();
            let error = "error=\"insufficient_scope\"";
            Reply::challenge(&format!("Bearer realm=\"http://{host}/token\",service=\"s\",{error}"))
        }
    })
    .await;
    let user = Known(server.address.clone(), basic());
    let error = repository(&server, user).resolve().await.unwrap_err();
    let expected = "pull access denied, repository does not exist or may require authorization: \
                    server message: insufficient_scope: authorization failed";
    assert_eq!(text(&error), expected);
    assert!(server.asked().len() <= 5, "{:?}", server.asked());
}

#[tokio::test]
async fn without_a_login_a_password_cannot_be_given() {
    let server = Server::start(|_| Reply::challenge("Basic realm=\"r\"")).await;
    let nobody = davit_distribution::credentials::Anonymous;
    let error = repository(&server, nobody).resolve().await.unwrap_err();
    let expected = "pull access denied, repository does not exist or may require authorization: \
                    authorization failed: no basic auth credentials";
    assert_eq!(text(&error), expected);

    let user = Known(server.address.clone(), basic());
    let error = repository(&server, user).resolve().await.unwrap_err();
    assert_eq!(error.status(), Some(401));
    assert!(text(&error).ends_with(": 401 Unauthorized"), "{error}");

    let error = repository(&server, Broken).resolve().await.unwrap_err();
    assert!(text(&error).ends_with(": the helper is gone"), "{error}");
}

#[tokio::test]
async fn a_token_server_that_refuses_is_named() {
    let server = Server::start(|seen| match seen.path() {
        "/token" => Reply::new("401 Unauthorized"),
        _ => challenge(seen),
    })
    .await;
    let url = format!("http://{}/token", server.address);
    let query = "?service=s%20v&scope=repository:team/app:pull";
    let nobody = davit_distribution::credentials::Anonymous;
    let error = repository(&server, nobody).resolve().await.unwrap_err();
    let expected = format!(
        "failed to authorize: failed to fetch anonymous token: \
         unexpected status from GET request to {url}{query}: 401 Unauthorized"
    );
    assert_eq!(text(&error), expected);
    let user = Known(server.address.clone(), basic());
    let error = repository(&server, user).resolve().await.unwrap_err();
    assert!(text(&error).starts_with("failed to authorize: failed to fetch oauth token: "));
}

#[tokio::test]
async fn token_servers_talk_nonsense_too() {
    for (reply, expected) in [
        (Reply::ok("{}"), "authorization server did not include a token in the response"),
        (Reply::ok("<html>"), "unable to decode token response"),
        (Reply::ok("").open_ended().ending(Ending::Endless), "rejecting "),
        (Reply::ok(r#"{"token":"a\nb"}"#), "fit into no header"),
    ] {
        let server = Server::start(move |seen| guarded(|_| reply.clone(), seen)).await;
        let nobody = davit_distribution::credentials::Anonymous;
        let error = repository(&server, nobody).resolve().await.unwrap_err();
        assert!(text(&error).contains(expected), "{}", text(&error));
    }
    let server = Server::start(|_| Reply::challenge("Bearer service=\"s\"")).await;
    let nobody = davit_distribution::credentials::Anonymous;
    let error = repository(&server, nobody).resolve().await.unwrap_err();
    assert!(text(&error).contains("no realm specified for token auth challenge"), "{error}");
}

#[tokio::test]
async fn no_secret_is_told() {
    let server = Server::start(|seen| match seen.path() {
        "/token" => Reply::new("500 Internal Server Error"),
        _ => challenge(seen),
    })
    .await;
    let mut access = as_user(&server, Known(server.address.clone(), basic()));
    access.headers = vec![("X-Key".into(), "s3cr3t".into())];
    assert!(!format!("{access:?}").contains("s3cr3t"));
    let repository = open(&registry(quick()), "registry.test/a:1", access);
    let error: Error = repository.resolve().await.unwrap_err();
    for text in [error.full_message(), format!("{error:?}"), format!("{repository:?}")] {
        assert!(!text.contains("s3cr3t") && !text.contains("dXNlcjpzM2NyM3Q"), "{text}");
    }
}
