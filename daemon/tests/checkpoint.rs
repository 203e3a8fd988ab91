//! Checkpoints through the content store. CRIU does not run on every kernel,
//! so that runc is asked through a script that stands in for CRIU alone: it
//! writes a file where a checkpoint goes, and restores by running afresh once
//! it has found that file again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};

use common::{Daemon, Home};
use davit_protocols::grpc::containerd::services::tasks::v1 as api;
use davit_protocols::grpc::containerd::types::Descriptor;
use prost::Message as _;
use tonic::{Code, Request, Status};

const RUNC: &str = r#"#!/bin/sh
for a; do
  case $before in --image-path) path=$a ;; esac
  case $a in checkpoint|restore) verb=$a ;; esac
  before=$a
done
case $verb in
checkpoint) mkdir "$path/sub" && echo frozen > "$path/sub/pages-1.img"; exit ;;
restore)
  [ "$(cat "$path/sub/pages-1.img")" = frozen ] || exit 9
  left=$#
  while [ "$left" -gt 0 ]; do
    a=$1; shift; left=$((left - 1))
    [ -z "$skip" ] || { skip=; continue; }
    case $a in
      restore) set -- "$@" run ;;
      --image-path|--work-path|--manage-cgroups-mode) skip=1 ;;
      *) set -- "$@" "$a" ;;
    esac
  done ;;
esac
exec runc "$@"
"#;

fn rootfs(path: &Path) {
    for name in ["bin", "proc", "dev", "sys"] {
        std::fs::create_dir_all(path.join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", path.join("bin/sleep")).unwrap();
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "default".parse().unwrap());
    request
}

/// Waits until nothing is below the directories of the tasks' bundles and work.
fn until_nothing_is_left(home: &Home) {
    let tops = ["root", "state"];
    let tops = tops.map(|top| home.path(top).join("io.containerd.runtime.v2.task/default"));
    let count = |path: &PathBuf| std::fs::read_dir(path).map_or(0, Iterator::count);
    common::wait_for("the bundles go", || {
        (tops.iter().map(count).sum::<usize>() == 0).then_some(())
    });
}

fn end(daemon: &Daemon<'_>, id: &str) {
    daemon.ctr(&["task", "kill", "-s", "KILL", id]);
    common::wait_for("the task stops", || {
        daemon.try_ctr(&["task", "rm", id]).status.success().then_some(())
    });
}

async fn restore(
    daemon: &Daemon<'_>,
    id: &str,
    checkpoint: Option<Descriptor>,
) -> Result<(), Status> {
    let mut tasks = api::tasks_client::TasksClient::new(daemon.channel().await);
    let container_id = id.to_owned();
    let create = api::CreateTaskRequest { container_id, checkpoint, ..Default::default() };
    tasks.create(request(create)).await?;
    let start = api::StartRequest { container_id: id.to_owned(), ..Default::default() };
    tasks.start(request(start)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_to_the_content_store_and_comes_back() {
    let home = Home::new();
    // Nothing holds a checkpoint that somebody asked for without a lease.
    std::fs::write(
        home.path("config.toml"),
        "version = 3\n[plugins.\"io.containerd.gc.v1.scheduler\"]\nstartup_delay = \"1h\"\n",
    )
    .unwrap();
    let mut command = home.command();
    let daemon = home.start_with(command.arg("--config").arg(home.path("config.toml")));
    let runc = home.path("runc");
    common::install(&runc, RUNC);
    let image = home.path("rootfs");
    rootfs(&image);
    let id = format!("daemon-checkpoint-{}", std::process::id());
    let [runc, image] = [&runc, &image].map(|path| path.to_str().unwrap());
    daemon.ctr(&["run", "-d", "--rootfs", "--runc-binary", runc, image, &id, "/bin/sleep", "1000"]);

    let mut tasks = api::tasks_client::TasksClient::new(daemon.channel().await);
    let ask = api::CheckpointTaskRequest { container_id: id.clone(), ..Default::default() };
    let answer = tasks.checkpoint(request(ask)).await.unwrap().into_inner();
    let [archive, config] = &answer.descriptors[..] else { panic!("{answer:?}") };
    assert_eq!(archive.media_type, "application/vnd.containerd.container.criu.checkpoint.criu.tar");
    assert_eq!(
        config.media_type,
        "application/vnd.containerd.container.checkpoint.config.v1+proto"
    );
    let spec = daemon.try_ctr(&["content", "get", &config.digest]).stdout;
    assert_eq!(spec.len(), usize::try_from(config.size).unwrap());
    let spec = prost_types::Any::decode(spec.as_slice()).unwrap();
    assert_eq!(spec.type_url, "types.containerd.io/opencontainers/runtime-spec/1/Spec");
    end(&daemon, &id);
    until_nothing_is_left(&home);

    restore(&daemon, &id, Some(archive.clone())).await.unwrap();
    assert!(daemon.ctr(&["task", "ls"]).contains("RUNNING"));
    end(&daemon, &id);
    until_nothing_is_left(&home);

    let other = Descriptor { media_type: "text/plain".into(), ..archive.clone() };
    let refusal = restore(&daemon, &id, Some(other)).await.unwrap_err();
    assert_eq!(refusal.message(), "unsupported checkpoint type \"text/plain\"");
    let digest = format!("sha256:{}", "0".repeat(64));
    let missing = Descriptor { digest, ..archive.clone() };
    assert_eq!(restore(&daemon, &id, Some(missing)).await.unwrap_err().code(), Code::NotFound);
    until_nothing_is_left(&home);
    daemon.ctr(&["container", "rm", &id]);
}
