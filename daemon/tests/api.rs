//! The services that are the daemon's own, through their sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;

use common::{Home, davitd};
use davit_protocols::grpc::containerd::services::events::v1 as events;
use davit_protocols::grpc::containerd::services::introspection::v1 as introspection;
use davit_protocols::grpc::containerd::services::mounts::v1 as mounts;
use davit_protocols::grpc::containerd::services::namespaces::v1 as namespaces;
use davit_protocols::grpc::containerd::services::sandbox::v1 as sandbox;
use davit_protocols::grpc::containerd::services::version::v1 as version;
use davit_protocols::grpc::containerd::types;
use davit_protocols::grpc::grpc::health::v1 as health;
use prost::Message;
use tonic::{Code, Request};

fn in_namespace<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "test".parse().unwrap());
    request
}

#[tokio::test]
async fn says_a_version_that_clients_can_compare() {
    let home = Home::new();
    let daemon = home.start();
    let mut client = version::version_client::VersionClient::new(daemon.channel().await);
    let answer = client.version(()).await.unwrap().into_inner();
    // Semantic versioning, with our own version where it is not compared.
    assert_eq!(answer.version, concat!("v2.2.0+davit.", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn is_healthy_as_a_whole() {
    let home = Home::new();
    let daemon = home.start();
    let mut client = health::health_client::HealthClient::new(daemon.channel().await);
    let ask = |service: &str| health::HealthCheckRequest { service: service.to_owned() };
    let serving = health::health_check_response::ServingStatus::Serving as i32;
    assert_eq!(client.check(ask("")).await.unwrap().into_inner().status, serving);
    assert_eq!(client.check(ask("x")).await.unwrap_err().code(), Code::NotFound);
    let mut watch = client.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, serving);
}

#[tokio::test]
async fn tells_of_its_plugins_and_of_itself() {
    let home = Home::new();
    let daemon = home.start();
    let channel = daemon.channel().await;
    let mut client = introspection::introspection_client::IntrospectionClient::new(channel);
    let server = client.server(()).await.unwrap().into_inner();
    assert_eq!(server.pid, u64::from(daemon.pid()));
    let link = std::fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(link.to_str().unwrap(), format!("pid:[{}]", server.pidns));

    let find = |filter: &str| introspection::PluginsRequest { filters: vec![filter.to_owned()] };
    let snapshotters = find("type==io.containerd.snapshotter.v1");
    let plugins = client.plugins(snapshotters).await.unwrap().into_inner().plugins;
    let ids: Vec<&str> = plugins.iter().map(|plugin| plugin.id.as_str()).collect();
    assert_eq!(ids, ["btrfs", "erofs", "native", "overlayfs"]);
    for plugin in &plugins {
        match &plugin.init_err {
            None => {}
            // By these words `ctr` tells what is not for this machine.
            Some(error) => {
                assert!(["btrfs", "erofs"].contains(&plugin.id.as_str()), "{plugin:?}");
                assert!(error.message.ends_with(": skip plugin"), "{error:?}");
            }
        }
        let root = home.path("root").join(format!("io.containerd.snapshotter.v1.{}", plugin.id));
        assert_eq!(plugin.exports["root"], root.to_str().unwrap());
        assert_eq!(plugin.platforms[0].os, "linux");
    }
    assert_eq!(client.plugins(find("type=")).await.unwrap_err().code(), Code::InvalidArgument);

    let info = |kind: &str, id: &str, options| introspection::PluginInfoRequest {
        r#type: kind.to_owned(),
        id: id.to_owned(),
        options,
    };
    let options = || Some(prost_types::Any { type_url: "x".into(), value: Vec::new() });
    let runtime = "io.containerd.runtime.v2";
    for (request, code, message) in [
        (info("a", "b", None), Code::NotFound, "plugin a.b not found: not found"),
        (
            info("io.containerd.grpc.v1", "version", options()),
            Code::Unimplemented,
            "plugin does not provided extra information: not implemented",
        ),
        (
            info(runtime, "task", options()),
            Code::Unimplemented,
            "unknown request type x: not implemented",
        ),
    ] {
        let error = client.plugin_info(request).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (code, message));
    }
    let found = client.plugin_info(info(runtime, "task", None)).await.unwrap().into_inner();
    assert_eq!(found.plugin.unwrap().id, "task");
    assert_eq!(found.extra, None);
}

#[tokio::test]
async fn an_unknown_service_is_named() {
    let home = Home::new();
    let daemon = home.start();
    let mut client = sandbox::store_client::StoreClient::new(daemon.channel().await);
    let error = client.list(in_namespace(sandbox::StoreListRequest::default())).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    assert_eq!(error.message(), "unknown service containerd.services.sandbox.v1.Store");
}

#[tokio::test]
async fn calls_about_things_need_a_namespace() {
    let home = Home::new();
    let daemon = home.start();
    let mut client = mounts::mounts_client::MountsClient::new(daemon.channel().await);
    let request = || mounts::InfoRequest { name: "x".to_owned() };
    let error = client.info(request()).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(error.message(), "namespace is required: failed precondition");
    let error = client.info(in_namespace(request())).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::NotFound, "mount \"x\" not found"));
}

#[tokio::test]
async fn mounts_are_made_kept_over_a_crash_and_removed() {
    let home = Home::new();
    let daemon = home.start();
    let mut client = mounts::mounts_client::MountsClient::new(daemon.channel().await);
    let tmpfs = types::Mount { r#type: "tmpfs".into(), source: "x".into(), ..Default::default() };
    let request = mounts::ActivateRequest {
        name: "m".into(),
        mounts: vec![tmpfs],
        labels: BTreeMap::from([("k".into(), "v".into())]),
        temporary: true,
    };
    let made = client.activate(in_namespace(request.clone())).await.unwrap().into_inner().info;
    let made = made.unwrap();
    let point = made.active[0].mount_point.clone();
    assert_eq!(made.system[0].source, point);
    let again = client.activate(in_namespace(request)).await.unwrap_err();
    assert_eq!(
        (again.code(), again.message()),
        (Code::AlreadyExists, "mount \"m\": already exists")
    );
    daemon.kill();

    let daemon = home.start();
    let mut client = mounts::mounts_client::MountsClient::new(daemon.channel().await);
    let mut list =
        client.list(in_namespace(mounts::ListRequest::default())).await.unwrap().into_inner();
    assert_eq!(list.message().await.unwrap().unwrap().info.unwrap(), made);
    assert!(list.message().await.unwrap().is_none());
    let name = || mounts::DeactivateRequest { name: "m".into() };
    client.deactivate(in_namespace(name())).await.unwrap();
    assert!(!std::path::Path::new(&point).exists());
    assert_eq!(client.deactivate(in_namespace(name())).await.unwrap_err().code(), Code::NotFound);
    let update = client.update(in_namespace(mounts::UpdateRequest::default())).await.unwrap_err();
    assert_eq!((update.code(), update.message()), (Code::Unimplemented, "not implemented"));
}

#[tokio::test]
async fn what_a_shim_publishes_by_command_reaches_subscribers() {
    let home = Home::new();
    let daemon = home.start();
    let mut client = events::events_client::EventsClient::new(daemon.channel().await);
    let filters = vec!["topic==\"/tasks/exit\"".to_owned()];
    let mut stream =
        client.subscribe(events::SubscribeRequest { filters }).await.unwrap().into_inner();
    let event = prost_types::Any { type_url: "a.b".into(), value: vec![1, 2] };
    let publish = |topic: &str| {
        let mut child = davitd()
            .arg("--address")
            .arg(home.socket())
            .args(["publish", "--topic", topic, "--namespace", "test"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let written = child.stdin.take().unwrap().write_all(&event.encode_to_vec());
        let is_taken = child.wait().unwrap().success();
        // Who refuses the topic may not read the rest.
        assert!(written.is_ok() || !is_taken);
        is_taken
    };
    assert!(!publish(""));
    assert!(!publish("no-slash"));
    assert!(publish("/tasks/exit"));
    let envelope = stream.message().await.unwrap().unwrap();
    assert_eq!((envelope.namespace.as_str(), envelope.topic.as_str()), ("test", "/tasks/exit"));
    assert_eq!(envelope.event.unwrap(), event);
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_and_the_connection_stays() {
    let home = Home::new();
    let daemon = home.start();
    let mut client = namespaces::namespaces_client::NamespacesClient::new(daemon.channel().await);
    let labels = BTreeMap::from([("k".to_owned(), "v".repeat(17 << 20))]);
    let namespace = namespaces::Namespace { name: "big".into(), labels };
    let request = namespaces::CreateNamespaceRequest { namespace: Some(namespace) };
    let error = client.create(request).await.unwrap_err();
    assert!(matches!(error.code(), Code::ResourceExhausted | Code::OutOfRange), "{error}");
    client.list(namespaces::ListNamespacesRequest::default()).await.unwrap();
}

#[tokio::test]
async fn one_connection_has_room_for_many_waits() {
    let home = Home::new();
    let daemon = home.start();
    let channel = daemon.channel().await;
    let mut streams = Vec::new();
    for _ in 0..1000 {
        let mut client = health::health_client::HealthClient::new(channel.clone());
        let request = health::HealthCheckRequest { service: String::new() };
        let mut stream = client.watch(request).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        streams.push(stream);
    }
    let mut client = version::version_client::VersionClient::new(channel);
    client.version(()).await.unwrap();
    drop(streams);
    client.version(()).await.unwrap();
}
