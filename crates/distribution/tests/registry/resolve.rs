//! Tags, digests, and small documents.

use std::time::Duration;

use davit_distribution::hosts::{Capabilities, Host};
use davit_distribution::registry::{Error, Settings};
use davit_types::{ErrorKind, Kind};

use crate::server::{Ending, Reply, Server, nobody};
use crate::{MANIFEST, access, descriptor, hasty, host, mirror, on, open, quick, registry, text};

const BODY: &[u8] = b"{\"schemaVersion\":2}";

fn manifest(is_told: bool) -> Reply {
    let digest = descriptor(MANIFEST, BODY).digest;
    let reply = Reply::ok(BODY).with("Content-Type", format!("{MANIFEST}; charset=utf-8"));
    if is_told { reply.with("Docker-Content-Digest", digest.as_str()) } else { reply }
}

#[tokio::test]
async fn a_tag_is_resolved_by_its_headers() {
    let server = Server::start(|_| manifest(true)).await;
    let found = on([host(&server.address)]).resolve().await.unwrap();
    assert_eq!(found, descriptor(MANIFEST, BODY));
    assert_eq!(server.asked(), ["HEAD /v2/team/app/manifests/1"]);
    let seen = &server.seen()[0];
    let accepted = seen.header("accept").unwrap();
    assert!(accepted.contains(MANIFEST) && accepted.ends_with(", */*"), "{accepted}");
    assert_eq!(seen.header("authorization"), None);
    assert!(seen.header("user-agent").unwrap().starts_with("davit/"));
}

#[tokio::test]
async fn what_headers_do_not_tell_is_read() {
    let server = Server::start(|_| manifest(false)).await;
    let found = on([host(&server.address)]).resolve().await.unwrap();
    assert_eq!(found, descriptor(MANIFEST, BODY));
    let path = "/v2/team/app/manifests/1";
    assert_eq!(server.asked(), [format!("HEAD {path}"), format!("GET {path}")]);
}

#[tokio::test]
async fn a_registry_without_head_is_read() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => Reply::new("405 Method Not Allowed"),
        _ => manifest(true),
    })
    .await;
    let found = on([host(&server.address)]).resolve().await.unwrap();
    assert_eq!(found, descriptor(MANIFEST, BODY));
}

#[tokio::test]
async fn a_digest_that_is_not_the_contents_is_refused() {
    let server = Server::start(|seen| {
        let other = descriptor(MANIFEST, b"other").digest;
        let reply = match seen.method.as_str() {
            "HEAD" => Reply::new("405 Method Not Allowed"),
            _ => manifest(false),
        };
        reply.with("Docker-Content-Digest", other.as_str())
    })
    .await;
    let error = on([host(&server.address)]).resolve().await.unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");

    let server = Server::start(|_| Reply::ok(BODY).with("Docker-Content-Digest", "md5:x")).await;
    let error = on([host(&server.address)]).resolve().await.unwrap_err();
    assert!(text(&error).contains("in header not a valid digest"), "{error}");
}

#[tokio::test]
async fn a_digest_may_be_that_of_a_blob() {
    let digest = descriptor(MANIFEST, BODY).digest;
    let server = Server::start(|seen| match seen.path().contains("/blobs/") {
        true => manifest(true),
        false => Reply::not_found(),
    })
    .await;
    let name = format!("registry.test/team/app@{digest}");
    let repository = open(&registry(quick()), &name, access([host(&server.address)]));
    assert_eq!(repository.resolve().await.unwrap().digest, digest);
    let asked = ["manifests", "blobs"].map(|kind| format!("HEAD /v2/team/app/{kind}/{digest}"));
    assert_eq!(server.asked(), asked);
}

#[tokio::test]
async fn mirrors_come_first_and_are_told_whom_they_stand_for() {
    let empty = Server::start(|_| Reply::not_found()).await;
    let full = Server::start(|_| manifest(true)).await;
    let upstream = Server::start(|_| manifest(true)).await;
    let hosts = [mirror(&empty.address), mirror(&full.address), host(&upstream.address)];
    on(hosts).resolve().await.unwrap();
    let asked = ["HEAD /v2/team/app/manifests/1?ns=registry.test"];
    assert_eq!(empty.asked(), asked);
    assert_eq!(full.asked(), asked);
    assert_eq!(upstream.asked(), [""; 0]);
}

#[tokio::test]
async fn only_who_may_resolve_is_asked_for_tags() {
    let pulls = Server::start(|_| manifest(true)).await;
    let capabilities = Capabilities { pull: true, ..Capabilities::default() };
    let only = Host { capabilities, ..mirror(&pulls.address) };
    let error = on([only]).resolve().await.unwrap_err();
    assert_eq!(
        (text(&error).as_str(), error.kind()),
        ("no resolve hosts: not found", ErrorKind::NotFound)
    );
    assert_eq!(pulls.asked(), [""; 0]);
}

#[tokio::test]
async fn what_is_nowhere_is_not_found() {
    let server = Server::start(|_| Reply::not_found()).await;
    let error = on([host(&server.address)]).resolve().await.unwrap_err();
    assert_eq!(text(&error), "registry.test/team/app:1: not found");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn errors_are_told_in_containerds_words() {
    let server = Server::start(|_| Reply::new("500 Internal Server Error")).await;
    let settings = Settings { retries: 2, ..quick() };
    let repository =
        open(&registry(settings), "registry.test/a:1", access([host(&server.address)]));
    let error = repository.resolve().await.unwrap_err();
    let url = format!("http://{}/v2/a/manifests/1", server.address);
    let expected =
        format!("unexpected status from HEAD request to {url}: 500 Internal Server Error");
    assert_eq!(text(&error), expected);
    assert_eq!(server.asked().len(), 3);

    let address = nobody().await;
    let repository = open(&registry(quick()), "registry.test/a:1", access([host(&address)]));
    let error = repository.resolve().await.unwrap_err();
    let expected = format!(
        "failed to do request: Head \"http://{address}/v2/a/manifests/1\": \
         dial tcp {address}: connect: connection refused"
    );
    assert_eq!(text(&error), expected);
}

#[tokio::test]
async fn the_registrys_own_words_are_told() {
    let server = Server::start(|_| {
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"later\u001b[2J"}]}"#;
        Reply { body: body.into(), ..Reply::new("403 Forbidden") }
    })
    .await;
    let wanted = descriptor(MANIFEST, BODY);
    let error = on([host(&server.address)]).document(&wanted, 1 << 20).await.unwrap_err();
    assert_eq!(error.status(), Some(403));
    assert!(text(&error).ends_with(": 403 Forbidden\ntoomanyrequests: later [2J"), "{error}");
}

#[tokio::test]
async fn who_asks_for_patience_gets_it_within_limits() {
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let server =
        Server::start(move |_| match tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => Reply::new("429 Too Many Requests").with("Retry-After", "1"),
            1 => Reply::new("503 Service Unavailable")
                .with("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT"),
            2 => Reply::new("408 Request Timeout"),
            _ => manifest(true),
        })
        .await;
    on([host(&server.address)]).resolve().await.unwrap();
    assert_eq!(server.asked().len(), 4);

    let server =
        Server::start(|_| Reply::new("429 Too Many Requests").with("Retry-After", "3600")).await;
    let error = on([host(&server.address)]).resolve().await.unwrap_err();
    assert!(text(&error).contains(": 429 Too Many Requests (Retry-After: 20"), "{error}");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_dead_mirror_is_asked_last_from_then_on() {
    let dead = nobody().await;
    let slow = Server::start(|_| manifest(true).ending(Ending::Stall(0))).await;
    let good = Server::start(|_| manifest(true)).await;
    let registry = registry(hasty());
    let hosts = || [mirror(&dead), mirror(&slow.address), host(&good.address)];
    let wanted = descriptor(MANIFEST, BODY);
    for _ in 0..3 {
        let repository = open(&registry, "registry.test/a:1", access(hosts()));
        repository.document(&wanted, 1 << 20).await.unwrap();
    }
    assert_eq!(slow.asked().len(), 1);
    assert_eq!(good.asked().len(), 3);
}

#[tokio::test]
async fn a_manifest_of_excessive_size_is_refused() {
    let server = Server::start(|_| {
        let digest = descriptor(MANIFEST, BODY).digest;
        let reply = Reply::new("200 OK").with("Docker-Content-Digest", digest.as_str());
        reply.with("Content-Length", "5000000")
    })
    .await;
    let error = on([host(&server.address)]).resolve().await.unwrap_err();
    let expected = "rejecting 5000000 byte manifest for registry.test/team/app:1: not found";
    assert_eq!(text(&error), expected);

    let server = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => Reply::new("405 Method Not Allowed"),
        _ => Reply::ok("").open_ended().ending(Ending::Endless),
    })
    .await;
    let error = on([host(&server.address)]).resolve().await.unwrap_err();
    assert!(text(&error).starts_with("rejecting "), "{error}");
}

#[tokio::test]
async fn documents_are_whole_and_right_or_refused() {
    let good = Server::start(|_| manifest(true)).await;
    let wanted = descriptor(MANIFEST, BODY);
    for (wrong, expected) in [
        (Reply::ok("{\"schemaVersion\":3}"), "unexpected commit digest sha256:"),
        (Reply::ok("{}"), "unexpected commit size 2, expected 19"),
        (Reply::ok("").open_ended().ending(Ending::Endless), "unexpected commit size "),
    ] {
        let liar = Server::start(move |_| wrong.clone()).await;
        let error = on([host(&liar.address)]).document(&wanted, 1 << 20).await.unwrap_err();
        assert!(text(&error).starts_with(expected), "{error}");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        let both = on([mirror(&liar.address), host(&good.address)]);
        for _ in 0..2 {
            assert_eq!(both.document(&wanted, 1 << 20).await.unwrap(), BODY);
        }
        // Who lies once is asked last.
        assert_eq!(liar.asked().len(), 2);
    }
    let error = on([host(&good.address)]).document(&wanted, 5).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { size: 19, .. }), "{error}");
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let server = Server::start(|_| manifest(true).with("X-Padding", "a".repeat(1 << 20))).await;
    let error = on([host(&server.address)]).resolve().await.unwrap_err();
    assert!(text(&error).starts_with("failed to do request: Head "), "{error}");

    let server = Server::start(|_| {
        (0..1000).fold(manifest(true), |reply, at| reply.with(&format!("X-{at}"), "a"))
    })
    .await;
    assert!(on([host(&server.address)]).resolve().await.is_err());
}

#[tokio::test]
async fn what_is_there_is_known() {
    let server = Server::start(|seen| match seen.path().ends_with('0') {
        true => Reply::ok("x"),
        false => Reply::not_found(),
    })
    .await;
    let repository = on([host(&server.address)]);
    let mut wanted = descriptor(MANIFEST, BODY);
    for digit in ["0", "1"] {
        let hex = format!("{}{digit}", "a".repeat(63));
        wanted.digest = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(repository.has(&wanted).await.unwrap(), digit == "0");
    }
}

#[tokio::test]
async fn a_host_that_makes_no_sense_is_named() {
    let bad = |host| {
        let reference = davit_types::Reference::parse("registry.test/a:1").unwrap();
        let error = registry(quick()).repository(&reference, access([host])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        text(&error)
    };
    let scheme = Host { scheme: "gopher".into(), ..host("r.test") };
    assert!(bad(scheme).starts_with("host r.test: unsupported protocol scheme"));
    let headers = vec![("X-Secret".to_owned(), "s3cr3t\n".to_owned())];
    let header = bad(Host { headers, ..host("r.test") });
    assert!(header.contains("\"X-Secret\"") && !header.contains("s3cr3t"), "{header}");
    assert!(bad(host("r.test:x")).contains("invalid port"));
}

#[test]
fn the_defaults_are_what_is_documented() {
    let text = include_str!("../../../../docs/DEVIATIONS.md");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let settings = Settings::default();
    let seconds = |time: Duration| time.as_secs();
    for sentence in [
        format!("a mirror has {} s to connect", seconds(settings.mirror_connect_timeout)),
        format!("{} s to speak", seconds(settings.mirror_timeout)),
        format!("less than {} KiB/s", settings.slow_rate >> 10),
        format!("asked last for the next {} s", seconds(settings.bad_host_memory)),
        format!("more than {} s fails at once", seconds(settings.retry_after_limit)),
    ] {
        assert!(text.contains(&sentence), "{sentence:?} is not in DEVIATIONS.md");
    }
    assert_eq!((settings.retries, settings.slow_rest), (5, Duration::from_secs(60)));
    assert!(settings.mirror_timeout < settings.stall_timeout, "who is alone has more time");
}

#[tokio::test]
async fn a_mirror_that_swallows_everything_costs_little_and_once() {
    let good = Server::start(|_| manifest(true)).await;
    // Nobody accepts, and few may wait for it.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let hole = socket.listen(1).unwrap();
    let address = hole.local_addr().unwrap();
    let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50));
    let waiting: Vec<_> = (0..64).map_while(|_| connect().ok()).collect();
    assert!(waiting.len() < 64, "it is never full");
    let settings = Settings {
        mirror_connect_timeout: Duration::from_millis(50),
        connect_timeout: Duration::from_secs(3600),
        mirror_timeout: Duration::from_secs(3600),
        ..quick()
    };
    let registry = registry(settings);
    for _ in 0..2 {
        let hosts = access([mirror(&address.to_string()), host(&good.address)]);
        open(&registry, "registry.test/a:1", hosts).resolve().await.unwrap();
    }
}

#[tokio::test]
async fn a_document_that_trickles_in_is_had_from_elsewhere() {
    let slow = Server::start(|_| manifest(true).ending(Ending::Trickle)).await;
    let good = Server::start(|_| manifest(true)).await;
    let hosts = access([mirror(&slow.address), host(&good.address)]);
    let repository = open(&registry(hasty()), "registry.test/a:1", hosts);
    let wanted = descriptor(MANIFEST, BODY);
    for _ in 0..2 {
        assert_eq!(repository.document(&wanted, 1 << 20).await.unwrap(), BODY);
    }
    assert_eq!((slow.asked().len(), good.asked().len()), (1, 2));
}
