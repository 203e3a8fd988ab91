//! Shim binaries that do not do what they should.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use common::{GO_SHIM, World, id, install, patient, runtime_options, with_daemons};
use davit_runtime::{CreateOptions, Deadline};
use davit_types::{ErrorKind, Kind as _};

/// A world whose shim is this shell script.
async fn scripted(script: &str) -> World {
    let mut world = World::new(GO_SHIM.as_ref()).await;
    let path = world.directory.path().join("shim");
    install(&path, format!("#!/bin/sh\n{script}\n"));
    world.shim = path;
    world
}

/// The message with which a create fails, after which nothing is left.
async fn failure(world: &World, options: CreateOptions) -> (ErrorKind, String) {
    let created = world.tasks().create(&world.namespace, &id("c1"), options, patient()).await;
    let error = created.unwrap_err();
    world.check_empty().await;
    (error.kind(), error.full_message())
}

#[test]
fn a_binary_that_is_not_there() {
    with_daemons(async {
        let world = World::new(GO_SHIM.as_ref()).await;
        for (runtime, words) in [
            (
                "io.containerd.nothing.v7",
                "failed to start shim: failed to resolve runtime path: runtime \
                 \"io.containerd.nothing.v7\" binary not installed \
                 \"containerd-shim-nothing-v7\": file does not exist",
            ),
            (
                "/nowhere/shim",
                "failed to start shim: failed to resolve runtime path: invalid custom binary path: \
                 stat /nowhere/shim: no such file or directory",
            ),
            ("", "failed to start shim: failed to resolve runtime path: no runtime name"),
            (
                "/etc/passwd",
                "failed to start shim: start failed: fork/exec /etc/passwd: permission denied",
            ),
        ] {
            let options = CreateOptions { runtime: runtime.into(), ..world.options("true") };
            assert_eq!(failure(&world, options).await, (ErrorKind::Unknown, words.into()));
        }
    });
}

#[test]
fn a_binary_that_fails() {
    with_daemons(async {
        let world = scripted("echo it broke >&2; exit 3").await;
        let (_, words) = failure(&world, world.options("true")).await;
        assert_eq!(words, "failed to start shim: start failed: it broke: exit status 3");
    });
}

#[test]
fn a_binary_that_prints_garbage() {
    with_daemons(async {
        let world = scripted("head -c 300000 /dev/zero; sleep 1000 >/dev/null 2>&1 &").await;
        let (_, words) = failure(&world, world.options("true")).await;
        let start = "failed to start shim: start failed: no shim address in \"";
        assert!(words.starts_with(start) && words.len() < 9000, "{words}");
    });
}

#[test]
fn a_binary_that_names_a_socket_without_a_shim() {
    with_daemons(async {
        let world = scripted("echo unix:///nowhere/s").await;
        let (_, words) = failure(&world, world.options("true")).await;
        assert_eq!(
            words,
            "failed to start shim: start failed: failed to create TTRPC connection: \
             dial unix /nowhere/s: connect: no such file or directory"
        );
    });
}

#[test]
fn a_grpc_shim_that_is_none() {
    with_daemons(async {
        let answer = |socket: &str| {
            format!("echo '{{\"version\":3,\"address\":\"{socket}\",\"protocol\":\"grpc\"}}'")
        };
        let world = scripted(&answer("/nowhere/s")).await;
        let (_, words) = failure(&world, world.options("true")).await;
        assert_eq!(
            words,
            "failed to start shim: start failed: failed to create GRPC connection: \
             dial unix /nowhere/s: connect: no such file or directory"
        );
        // Hangs up on everybody.
        let socket = world.directory.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        install(&world.shim, format!("#!/bin/sh\n{}\n", answer(socket.to_str().unwrap())));
        let (_, words) = failure(&world, world.options("true")).await;
        assert!(words.contains("grpc: closed"), "{words}");
    });
}

#[test]
fn a_binary_that_hangs() {
    with_daemons(async {
        let world = scripted("sleep 1000 & wait").await;
        let limit = Deadline::after(Duration::from_millis(300));
        let options = world.options("true");
        let created = world.tasks().create(&world.namespace, &id("c1"), options, limit).await;
        assert_eq!(created.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
        world.check_empty().await;
    });
}

#[test]
fn a_shim_that_never_answers_is_given_up() {
    for protocol in ["ttrpc", "grpc"] {
        with_daemons(given_up(protocol));
    }
}

async fn given_up(protocol: &str) {
    // Listens, and accepts nothing.
    let mut world = scripted("true").await;
    let socket = world.directory.path().join("s");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let answer = serde_json::json!({
        "version": 3,
        "address": format!("unix://{}", socket.display()),
        "protocol": protocol,
    });
    install(&world.shim, format!("#!/bin/sh\n[ \"$9\" = delete ] || echo '{answer}'\n"));
    world.config.limits.shim_cleanup = Duration::from_millis(200);
    world.config.limits.shim_shutdown = Duration::from_millis(200);
    world.stop().await;
    world.start().await;
    let limit = Deadline::after(Duration::from_millis(300));
    let options = world.options("true");
    let created = world.tasks().create(&world.namespace, &id("c1"), options, limit).await;
    let error = created.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    world.check_empty().await;
}

#[test]
fn a_runtime_that_is_a_fifo() {
    with_daemons(async {
        let world = World::new(GO_SHIM.as_ref()).await;
        let fifo = world.directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for _ in 0..2 {
            let task_options = Some(runtime_options(fifo.to_str().unwrap()));
            let options = CreateOptions { task_options, ..world.options("true") };
            let (_, words) = failure(&world, options).await;
            assert!(words.contains("permission denied"), "{words}");
        }
    });
}

#[test]
fn a_broken_spec() {
    with_daemons(async {
        let world = World::new(GO_SHIM.as_ref()).await;
        let mut options = world.options("true");
        options.spec.as_mut().unwrap().value = b"{\"linux\": 5".to_vec();
        let (kind, words) = failure(&world, options).await;
        assert_eq!(kind, ErrorKind::InvalidArgument, "{words}");
    });
}

#[test]
fn a_directory_that_cannot_be_written() {
    with_daemons(async {
        let world = World::new(GO_SHIM.as_ref()).await;
        let state: PathBuf = world.config.state.join(world.namespace.as_str());
        fs::write(&state, "a file").unwrap();
        let options = world.options("true");
        let created = world.tasks().create(&world.namespace, &id("c1"), options, patient()).await;
        let words = created.unwrap_err().full_message();
        assert!(words.contains(state.to_str().unwrap()), "{words}");
        fs::remove_file(&state).unwrap();
        world.check_empty().await;
    });
}

#[test]
fn what_a_binary_says_of_itself() {
    with_daemons(async {
        let world = scripted("cat; echo $1").await;
        let path = world.shim.to_str().unwrap();
        let info = world.tasks().runtime_info(path, None, patient()).await.unwrap();
        assert_eq!(info, b"-info\n");
        let missing = world.tasks().runtime_info("a.b", None, patient()).await.unwrap_err();
        let words = "failed to resolve runtime path: runtime \"a.b\" binary not installed";
        assert!(missing.full_message().starts_with(words));
    });
}
