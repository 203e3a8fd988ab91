//! Blobs, over connections that break.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use davit_distribution::registry::{Error, Ranges, Registry, Repository, Settings};
use davit_types::{ErrorKind, Kind};

use crate::server::{Ending, Reply, Server, nobody};
use crate::{
    LAYER, access, bytes, descriptor, hasty, host, impatient, mirror, on, open, quick, read,
    registry, text,
};

const SIZE: usize = 1 << 20;

#[tokio::test]
async fn a_blob_is_read_from_any_position() {
    let blob = bytes(SIZE);
    let wanted = descriptor(LAYER, &blob);
    let served = blob.clone();
    let server = Server::start(move |seen| Reply::part_of(&served, seen)).await;
    let repository = on([host(&server.address)]);
    for from in [0, 1, SIZE / 2, SIZE - 1, SIZE] {
        assert_eq!(read(&repository, &wanted, from as u64).await.unwrap(), blob[from..]);
    }
    let asked = server.seen();
    assert_eq!(asked.len(), 4, "for nothing, nobody is asked");
    assert_eq!(asked[0].path(), format!("/v2/team/app/blobs/{}", wanted.digest));
    assert_eq!(asked[0].header("range"), None);
    assert_eq!(asked[1].header("range"), Some("bytes=1-"));
    assert_eq!(asked[0].header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn broken_connections_are_resumed_where_they_broke() {
    let blob = bytes(SIZE);
    let wanted = descriptor(LAYER, &blob);
    for ending in [Ending::Reset as fn(usize) -> Ending, Ending::Cut, Ending::Stall] {
        let served = blob.clone();
        let server = Server::start(move |seen| {
            let reply = Reply::part_of(&served, seen).with("ETag", "\"one\"");
            reply.ending(ending(150_000))
        })
        .await;
        let hosts = access([host(&server.address)]);
        let repository = open(&registry(impatient()), "registry.test/team/app:1", hosts);
        assert_eq!(read(&repository, &wanted, 0).await.unwrap(), blob);
        let seen = server.seen();
        assert!(seen.len() > 5, "{} requests", seen.len());
        assert!(seen[1..].iter().all(|seen| seen.header("if-range") == Some("\"one\"")));
        assert!(server.served() < SIZE + SIZE / 20, "{} bytes for {SIZE}", server.served());
    }
}

#[tokio::test]
async fn the_only_host_may_have_to_fetch_a_blob_before_it_answers() {
    let blob = bytes(1000);
    let wanted = descriptor(LAYER, &blob);
    let served = blob.clone();
    let server =
        Server::start(move |seen| Reply::part_of(&served, seen).after(Duration::from_secs(1)))
            .await;
    let hosts = access([host(&server.address)]);
    let settings = Settings { stall_timeout: Duration::from_millis(300), ..impatient() };
    let repository = open(&registry(settings), "registry.test/team/app:1", hosts);
    assert_eq!(read(&repository, &wanted, 0).await.unwrap(), blob);
    assert!(server.seen().len() >= 3, "it was not hurried at first");
    // What is small has to come soon.
    let error = repository.resolve().await.unwrap_err();
    assert!(text(&error).ends_with("no answer came in time"), "{}", text(&error));
}

#[tokio::test]
async fn another_name_for_the_same_bytes_costs_no_bytes() {
    let blob = bytes(SIZE);
    let wanted = descriptor(LAYER, &blob);
    let (served, tries) = (blob.clone(), AtomicUsize::new(0));
    let server = Server::start(move |seen| {
        let tag = format!("\"{}\"", tries.fetch_add(1, Ordering::Relaxed));
        match seen.header("if-range") {
            // The client is gone long before so many bytes are out.
            Some(_) => Reply::ok(served.clone()).ending(Ending::Stall(0)),
            None => Reply::part_of(&served, seen).with("ETag", tag).ending(Ending::Cut(300_000)),
        }
    })
    .await;
    assert_eq!(read(&on([host(&server.address)]), &wanted, 0).await.unwrap(), blob);
    assert!(server.served() < SIZE + SIZE / 20, "{} bytes for {SIZE}", server.served());
}

#[tokio::test]
async fn a_future_that_is_dropped_loses_nothing() {
    let blob = bytes(SIZE);
    let wanted = descriptor(LAYER, &blob);
    let served = blob.clone();
    let server = Server::start(move |seen| Reply::part_of(&served, seen)).await;
    let repository = on([host(&server.address)]);
    let mut download = repository.download(&wanted, 0).await.unwrap();
    let mut all = Vec::new();
    loop {
        // Polled once and dropped, unless there is something to have.
        let polled = tokio::select! {
            biased;
            piece = download.next() => Some(piece.unwrap()),
            () = tokio::task::yield_now() => None,
        };
        match polled {
            Some(Some(piece)) => all.extend_from_slice(&piece),
            Some(None) => break,
            None => {}
        }
    }
    assert_eq!(all, blob);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_body_without_a_length_may_break_too() {
    let blob = bytes(SIZE);
    let wanted = descriptor(LAYER, &blob);
    let (served, tries) = (blob.clone(), AtomicUsize::new(0));
    let server = Server::start(move |seen| {
        let reply = Reply::part_of(&served, seen).open_ended();
        let is_first = tries.fetch_add(1, Ordering::Relaxed) == 0;
        if is_first { reply.ending(Ending::Cut(100_000)) } else { reply }
    })
    .await;
    assert_eq!(read(&on([host(&server.address)]), &wanted, 0).await.unwrap(), blob);
    assert_eq!(server.seen()[1].header("range"), Some("bytes=100000-"));
}

#[tokio::test]
async fn a_server_that_ignores_ranges_sends_nothing_twice_to_us() {
    let blob = bytes(SIZE);
    let wanted = descriptor(LAYER, &blob);
    let (served, tries) = (blob.clone(), AtomicUsize::new(0));
    let server = Server::start(move |_| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::ok(served.clone()).ending(Ending::Reset(300_000)),
        _ => Reply::ok(served.clone()),
    })
    .await;
    assert_eq!(read(&on([host(&server.address)]), &wanted, 0).await.unwrap(), blob);
    assert_eq!(read(&on([host(&server.address)]), &wanted, 77).await.unwrap(), blob[77..]);
}

#[tokio::test]
async fn a_server_that_gets_never_further_is_given_up() {
    let served = bytes(SIZE);
    let wanted = descriptor(LAYER, &served);
    let server =
        Server::start(move |_| Reply::ok(served.clone()).ending(Ending::Cut(300_000))).await;
    let error = read(&on([host(&server.address)]), &wanted, 0).await.unwrap_err();
    assert!(text(&error).ends_with("unexpected EOF"), "{error}");
    assert!(server.seen().len() < 10, "{} requests", server.seen().len());
}

#[tokio::test]
async fn a_range_that_nobody_asked_for_is_refused() {
    let blob = bytes(SIZE);
    let wanted = descriptor(LAYER, &blob);
    for range in ["bytes 0-9/1048576", "bytes 101-1048575/1048576", "bytes 100-", "", "rubbish"] {
        let served = blob.clone();
        let liar = Server::start(move |_| {
            let reply = Reply { status: "206 Partial Content", ..Reply::ok(&served[100..]) };
            reply.with("Content-Range", range)
        })
        .await;
        let error = read(&on([host(&liar.address)]), &wanted, 100).await.unwrap_err();
        assert!(text(&error).contains("unhandled content range in response"), "{error}");
        let served = blob.clone();
        let good = Server::start(move |seen| Reply::part_of(&served, seen)).await;
        let both = on([mirror(&liar.address), host(&good.address)]);
        assert_eq!(read(&both, &wanted, 100).await.unwrap(), blob[100..]);
    }
}

#[tokio::test]
async fn a_blob_is_never_longer_than_promised() {
    let blob = bytes(SIZE);
    let wanted = descriptor(LAYER, &blob[..1000]);
    for reply in [
        Reply::ok(blob.clone()),
        Reply::ok(blob.clone()).open_ended(),
        Reply::ok("").open_ended().ending(Ending::Endless),
        Reply::ok(&blob[..999]),
    ] {
        let server = Server::start(move |_| reply.clone()).await;
        let repository = on([host(&server.address)]);
        let mut got = 0;
        let error = match repository.download(&wanted, 0).await {
            Err(error) => error,
            Ok(mut download) => loop {
                match download.next().await {
                    Ok(Some(piece)) => got += piece.len(),
                    Ok(None) => panic!("{got} bytes were taken for all"),
                    Err(error) => break error,
                }
            },
        };
        assert!(got <= 1000);
        assert!(matches!(error, Error::Size { expected: 1000, .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    }
}

#[tokio::test]
async fn the_next_host_goes_on_where_one_has_died() {
    let blob = bytes(SIZE);
    let wanted = descriptor(LAYER, &blob);
    let (half, rest) = (blob.clone(), blob.clone());
    let tries = AtomicUsize::new(0);
    let dying = Server::start(move |seen| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::part_of(&half, seen).ending(Ending::Reset(500_000)),
        _ => Reply::new("500 Internal Server Error"),
    })
    .await;
    let good = Server::start(move |seen| Reply::part_of(&rest, seen)).await;
    let repository = on([mirror(&nobody().await), mirror(&dying.address), host(&good.address)]);
    let mut download = repository.download(&wanted, 0).await.unwrap();
    let mut all = Vec::new();
    while let Some(piece) = download.next().await.unwrap() {
        all.extend_from_slice(&piece);
    }
    assert_eq!(all, blob);
    assert_eq!(download.sources(), [dying.address.clone(), good.address.clone()]);
    assert!(dying.served() + good.served() < SIZE + SIZE / 20);
}

#[tokio::test]
async fn a_slow_mirror_is_left_for_a_better_one() {
    let blob = bytes(100_000);
    let wanted = descriptor(LAYER, &blob);
    let (slow, fast) = (blob.clone(), blob.clone());
    let trickle =
        Server::start(move |seen| Reply::part_of(&slow, seen).ending(Ending::Trickle)).await;
    let good = Server::start(move |seen| Reply::part_of(&fast, seen)).await;
    let hosts = access([mirror(&trickle.address), host(&good.address)]);
    let repository = open(&registry(hasty()), "registry.test/team/app:1", hosts);
    assert_eq!(read(&repository, &wanted, 0).await.unwrap(), blob);
    assert_eq!(read(&repository, &wanted, 0).await.unwrap(), blob);
    assert_eq!(trickle.seen().len(), 1, "it is remembered to be slow");
}

#[tokio::test]
async fn a_mirror_that_would_take_long_is_left_unless_others_would_take_longer() {
    let blob = bytes(300_000);
    let wanted = descriptor(LAYER, &blob);
    let paced = async |bytes: usize| {
        let blob = blob.clone();
        Server::start(move |seen| Reply::part_of(&blob, seen).ending(Ending::Pace(bytes))).await
    };
    let settings = || Settings { slow_rest: Duration::from_millis(800), ..hasty() };
    let (slow, slower, fast) = (paced(1000).await, paced(100).await, paced(100_000).await);
    let ask = async |hosts, registry: &Registry| {
        let repository = open(registry, "registry.test/team/app:1", access(hosts));
        assert_eq!(read(&repository, &wanted, 0).await.unwrap(), blob);
    };
    ask([mirror(&slow.address), host(&fast.address)], &registry(settings())).await;
    assert_eq!((slow.seen().len(), fast.seen().len()), (1, 1));
    // It goes on where the mirror was.
    assert!(fast.served() < blob.len(), "{} bytes", fast.served());
    let registry = registry(settings());
    ask([mirror(&slow.address), host(&slower.address)], &registry).await;
    assert_eq!((slow.seen().len(), slower.seen().len()), (3, 1));
    // Whoever is slower still is asked last.
    ask([mirror(&slow.address), host(&slower.address)], &registry).await;
    assert_eq!((slow.seen().len(), slower.seen().len()), (4, 1));
}

#[tokio::test]
async fn a_distrusted_host_is_asked_last() {
    let blob = bytes(1000);
    let wanted = descriptor(LAYER, &blob);
    let (wrong, right) = (vec![0; 1000], blob.clone());
    let liar = Server::start(move |seen| Reply::part_of(&wrong, seen)).await;
    let good = Server::start(move |seen| Reply::part_of(&right, seen)).await;
    let repository = on([mirror(&liar.address), host(&good.address)]);
    let mut download = repository.download(&wanted, 0).await.unwrap();
    while download.next().await.unwrap().is_some() {}
    for host in download.sources() {
        repository.distrust(host);
    }
    assert_eq!(read(&repository, &wanted, 0).await.unwrap(), blob);
}

#[tokio::test]
async fn a_blob_that_is_nowhere_is_not_found() {
    let server = Server::start(|_| Reply::not_found()).await;
    let wanted = descriptor(LAYER, b"x");
    let error = on([host(&server.address)]).download(&wanted, 0).await.unwrap_err();
    let expected = format!(
        "could not fetch content descriptor {} ({LAYER}) from remote: not found",
        wanted.digest
    );
    assert_eq!(text(&error), expected);
}

#[tokio::test]
async fn a_foreign_layer_is_where_its_urls_say_and_learns_nothing_of_us() {
    let blob = bytes(200_000);
    let wanted = descriptor(LAYER, &blob);
    let registry_server = Server::start(|_| Reply::not_found()).await;
    let gone = Server::start(|_| Reply::not_found()).await;
    let served = blob.clone();
    let foreign =
        Server::start(move |seen| Reply::part_of(&served, seen).ending(Ending::Reset(100_000)))
            .await;
    let mut access = access([host(&registry_server.address)]);
    access.headers = vec![("X-Token".into(), "s3cr3t".into())];
    let repository = open(&registry(quick()), "registry.test/a:1", access);
    let urls = [
        "file:///etc/passwd".to_owned(),
        format!("http://{}/layer", gone.address),
        format!("http://{}/layer?sig=x", foreign.address),
    ];
    let mut download = repository.download_with(&wanted, 0, &urls).await.unwrap();
    let mut all = Vec::new();
    while let Some(piece) = download.next().await.unwrap() {
        all.extend_from_slice(&piece);
    }
    assert_eq!(all, blob);
    assert_eq!(registry_server.seen()[0].header("x-token"), Some("s3cr3t"));
    for seen in gone.seen().iter().chain(&foreign.seen()) {
        assert_eq!(seen.header("x-token"), None);
        assert!(seen.target.starts_with("/layer"), "{}", seen.target);
    }
}

#[tokio::test]
async fn downloads_from_one_host_queue() {
    let blob = bytes(1000);
    let wanted = descriptor(LAYER, &blob);
    let served = blob.clone();
    let server = Server::start(move |seen| Reply::part_of(&served, seen)).await;
    let registry = registry(Settings { downloads: 1, ..quick() });
    let repository = open(&registry, "registry.test/a:1", access([host(&server.address)]));
    let first = repository.download(&wanted, 0).await.unwrap();
    let second = tokio::spawn({
        let (repository, wanted) = (repository.clone(), wanted.clone());
        async move { read(&repository, &wanted, 0).await }
    });
    // The second one has no way to get to the server meanwhile.
    tokio::task::yield_now().await;
    assert_eq!(server.seen().len(), 1);
    drop(first);
    let limit = Duration::from_secs(10);
    let second = tokio::time::timeout(limit, second).await.unwrap().unwrap();
    assert_eq!(second.unwrap(), blob);
}

/// Four stretches of 128 KiB at a time.
fn in_parallel(hosts: impl IntoIterator<Item = davit_distribution::hosts::Host>) -> Repository {
    let ranges = Some(Ranges { count: 4, size: 128 << 10 });
    let registry = registry(Settings { ranges, ..quick() });
    open(&registry, "registry.test/team/app:1", access(hosts))
}

#[tokio::test]
async fn a_large_blob_may_come_in_parallel_and_goes_out_in_order() {
    let blob = bytes(SIZE + 12_345);
    let wanted = descriptor(LAYER, &blob);
    let (served, tries) = (blob.clone(), AtomicUsize::new(0));
    let server = Server::start(move |seen| {
        let reply = Reply::part_of(&served, seen);
        let is_third = tries.fetch_add(1, Ordering::Relaxed) % 3 == 2;
        if is_third { reply.ending(Ending::Reset(70_000)) } else { reply }
    })
    .await;
    let repository = in_parallel([host(&server.address)]);
    for from in [0, 5, SIZE / 2] {
        assert_eq!(read(&repository, &wanted, from as u64).await.unwrap(), blob[from..]);
    }
    let stretches = server.seen().iter().filter(|seen| seen.range_end().is_some()).count();
    assert!(stretches >= 8 + 8 + 4, "{stretches}");
    let all = SIZE + 12_345;
    let wished = all + (all - 5) + (all - SIZE / 2);
    assert!(server.served() < wished + wished / 20, "{} bytes for {wished}", server.served());
}

#[tokio::test]
async fn where_ranges_are_ignored_a_blob_comes_one_after_the_other() {
    let blob = bytes(SIZE);
    let wanted = descriptor(LAYER, &blob);
    let served = blob.clone();
    let server = Server::start(move |_| Reply::ok(served.clone())).await;
    assert_eq!(read(&in_parallel([host(&server.address)]), &wanted, 0).await.unwrap(), blob);
    assert_eq!(server.seen().len(), 1);

    // One that learns of ranges and forgets them again.
    let (served, tries) = (blob.clone(), AtomicUsize::new(0));
    let server = Server::start(move |seen| match tries.fetch_add(1, Ordering::Relaxed) {
        0..=2 => Reply::part_of(&served, seen),
        _ => Reply::ok(served.clone()),
    })
    .await;
    assert_eq!(read(&in_parallel([host(&server.address)]), &wanted, 0).await.unwrap(), blob);
}
