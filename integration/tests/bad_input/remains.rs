//! What wrong calls may not leave behind.

use std::fs;
use std::path::{Path, PathBuf};

use davit_integration::api::{Api, Call};
use davit_integration::{Daemon, leftovers, wait_for};
use davit_protocols::grpc::containerd::services::containers::v1 as containers;
use davit_protocols::grpc::containerd::services::content::v1 as content;
use davit_protocols::grpc::containerd::services::images::v1 as images;
use davit_protocols::grpc::containerd::services::leases::v1 as leases;
use davit_protocols::grpc::containerd::services::snapshots::v1 as snapshots;
use davit_protocols::grpc::containerd::services::tasks::v1 as tasks;

/// Everything that is left of the daemon's namespace, waited for until there
/// is nothing: processes, mounts and directories go after the answer.
///
/// # Panics
/// When something stays; the message names it.
pub fn assert_none(daemon: &Daemon) {
    let mut left = Vec::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("nothing is left", 20, || {
            left = remains(daemon);
            left.is_empty().then_some(())
        });
    }));
    assert!(found.is_ok(), "left behind: {left:#?}");
    for group in leftovers::cgroups_with(&daemon.namespace()) {
        fs::remove_dir(&group).unwrap_or_else(|error| panic!("{}: {error}", group.display()));
    }
}

fn remains(daemon: &Daemon) -> Vec<String> {
    let mut left = records(daemon);
    let own = daemon.namespace();
    left.extend(leftovers::shims_of(daemon).iter().map(|pid| format!("shim {pid}")));
    let mounts = leftovers::mounts_below(&daemon.path(""));
    let disks = [daemon.path("root"), daemon.path("state")];
    left.extend(
        mounts.iter().filter(|at| !disks.contains(at)).map(|at| format!("mount {}", at.display())),
    );
    // The runtime leaves the group above the containers' own.
    let groups = leftovers::cgroups_with(&own);
    let groups = groups.iter().filter(|at| !at.ends_with(&own));
    left.extend(groups.map(|at| format!("cgroup {}", at.display())));
    let runtime_state = [daemon.runtime_state()];
    let [snapshots, native] = ["overlayfs", "native"]
        .map(|name| daemon.path(&format!("root/io.containerd.snapshotter.v1.{name}/snapshots")));
    let store = |name: &str| daemon.path("root/io.containerd.content.v1.content").join(name);
    let bundles =
        |base: &str| daemon.path(&format!("{base}/io.containerd.runtime.v2.task")).join(&own);
    let directories = [
        snapshots,
        native,
        store("ingest"),
        store("blobs/sha256"),
        bundles("root"),
        bundles("state"),
    ];
    for directory in directories.into_iter().chain(runtime_state) {
        left.extend(entries(&directory).iter().map(|at| at.display().to_string()));
    }
    left
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).collect()
}

/// What the API lists.
fn records(daemon: &Daemon) -> Vec<String> {
    let api = Api::connect(&daemon.socket());
    let own = daemon.namespace();
    let call = |service, method| Call::new(&own, (service, method), "", &());
    let mut left = Vec::new();
    let list: containers::ListContainersResponse = api.ask(&call("containers", "List")).unwrap();
    left.extend(list.containers.iter().map(|one| format!("container {:?}", one.id)));
    let list: images::ListImagesResponse = api.ask(&call("images", "List")).unwrap();
    left.extend(list.images.iter().map(|one| format!("image {:?}", one.name)));
    let list: leases::ListResponse = api.ask(&call("leases", "List")).unwrap();
    left.extend(list.leases.iter().map(|one| format!("lease {:?}", one.id)));
    let list: tasks::ListTasksResponse = api.ask(&call("tasks", "List")).unwrap();
    left.extend(list.tasks.iter().map(|one| format!("task {:?}", one.id)));
    let list: content::ListStatusesResponse = api.ask(&call("content", "ListStatuses")).unwrap();
    left.extend(list.statuses.iter().map(|one| format!("ingest {:?}", one.r#ref)));
    let list: content::ListContentResponse = api.ask(&call("content", "List")).unwrap();
    left.extend(list.info.iter().map(|one| format!("blob {}", one.digest)));
    for snapshotter in ["overlayfs", "native"] {
        let request = snapshots::ListSnapshotsRequest {
            snapshotter: snapshotter.into(),
            ..Default::default()
        };
        let call = Call::new(&own, ("snapshots", "List"), "", &request);
        let list: snapshots::ListSnapshotsResponse = api.ask(&call).unwrap();
        left.extend(list.info.iter().map(|one| format!("snapshot {:?}", one.name)));
    }
    left
}
