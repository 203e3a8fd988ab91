//! Through proxies.

use davit_distribution::hosts::{Host, Tls};
use davit_distribution::registry::{Registry, Repository};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{Reply, Server};
use crate::tls::{Identity, acceptor};
use crate::{LAYER, access, bytes, descriptor, host, open, quick, read, text};

fn through(proxy: &str, host: Host) -> Repository {
    let proxy = format!("http://user:s3cr3t@{proxy}");
    let variable = |name: &str| name.ends_with("_PROXY").then(|| proxy.clone());
    let variable = |name: &str| variable(name).filter(|_| !name.starts_with("NO"));
    let registry = Registry::with_environment(quick(), variable);
    open(&registry, "registry.test/a:1", access([host]))
}

const AUTHORIZATION: &str = "Basic dXNlcjpzM2NyM3Q=";

#[tokio::test]
async fn plain_requests_are_handed_to_the_proxy() {
    let blob = bytes(100_000);
    let wanted = descriptor(LAYER, &blob);
    let served = blob.clone();
    let proxy = Server::start(move |seen| Reply::part_of(&served, seen)).await;
    let repository = through(&proxy.address, host("registry.test:81"));
    assert_eq!(read(&repository, &wanted, 0).await.unwrap(), blob);
    let seen = &proxy.seen()[0];
    assert_eq!(seen.target, format!("http://registry.test:81/v2/a/blobs/{}", wanted.digest));
    assert_eq!(seen.header("proxy-authorization"), Some(AUTHORIZATION));
    assert_eq!(seen.header("host"), Some("registry.test:81"));
}

/// A proxy that lets `target` be all servers; hands back what it was asked.
async fn tunnel(target: String, answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        client.write_all(answer.as_bytes()).await.unwrap();
        let mut server = TcpStream::connect(target).await.unwrap();
        let _ = copy_bidirectional(&mut client, &mut server).await;
        String::from_utf8(head).unwrap()
    });
    (address, task)
}

#[tokio::test]
async fn secure_requests_go_through_a_tunnel_that_the_proxy_cannot_look_into() {
    let identity = Identity::new("registry.test");
    let blob = bytes(100_000);
    let wanted = descriptor(LAYER, &blob);
    let served = blob.clone();
    let tls = Some(acceptor(&identity, None));
    let server = Server::start_tls(tls, move |seen| Reply::part_of(&served, seen)).await;
    let established = "HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n";
    let (proxy, asked) = tunnel(server.address.clone(), established).await;
    let tls = Tls { ca: vec![identity.certificate.clone()], ..Tls::default() };
    let host = Host { scheme: "https".into(), tls, ..host("registry.test") };
    let repository = through(&proxy, host);
    assert_eq!(read(&repository, &wanted, 0).await.unwrap(), blob);
    assert_eq!(server.seen()[0].header("proxy-authorization"), None);
    // Its connection ends with the client's.
    drop(repository);
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("CONNECT registry.test:443 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("Proxy-Authorization: {AUTHORIZATION}\r\n")), "{asked}");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_quoted() {
    let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
    let (proxy, _asked) = tunnel("127.0.0.1:1".to_owned(), refusal).await;
    let host = Host { scheme: "https".into(), ..host("registry.test") };
    let error = through(&proxy, host).resolve().await.unwrap_err();
    let _ = text(&error);
    assert!(text(&error).contains("proxyconnect tcp: "), "{}", text(&error));
    assert!(!text(&error).contains("s3cr3t"));
}

#[tokio::test]
async fn a_proxy_that_we_cannot_use_is_named_by_what_would_go_through_it() {
    let value = "socks5://user:s3cr3t@127.0.0.1:1080";
    let variable = |name: &str| (name == "HTTPS_PROXY").then(|| value.to_owned());
    let registry = Registry::with_environment(quick(), variable);
    let host = |scheme: &str| Host { scheme: scheme.into(), ..host("registry.test") };
    let repository = open(&registry, "registry.test/a:1", access([host("https")]));
    let error = repository.resolve().await.unwrap_err();
    let expected = "HTTPS_PROXY=socks5://127.0.0.1:1080: unsupported protocol scheme";
    assert!(text(&error).contains(expected), "{}", text(&error));
    assert!(!text(&error).contains("s3cr3t"), "{}", text(&error));
    assert!(!error.is_temporary());
    // What goes past that proxy is none of its business.
    let server = Server::start(|_| Reply::ok("{}")).await;
    for scheme in ["http", "https"] {
        let host =
            Host { scheme: scheme.into(), http_fallback: true, ..crate::host(&server.address) };
        open(&registry, "registry.test/a:1", access([host])).resolve().await.unwrap();
    }
}
