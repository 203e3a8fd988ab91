//! What depends on the shim more than on the daemon.

use std::os::unix::fs::PermissionsExt;

use super::{Seat, shape};
use crate::{leftovers, wait_for};

/// Several containers in one shim, which outlives the first of them.
pub fn one_shim_for_a_pod(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    let pod = ["-d", "--annotation", "io.kubernetes.cri.sandbox-id=pod"];
    let shims = || format!("{} shims\n", leftovers::shims_of(&seat.daemon).len());
    let run = |id: &str| seat.any(&seat.run(&pod, id, &["sleep", "1000"]));
    let mut out = run("one") + &run("two") + &shims();
    // What the runtime says of a missing program is its own wording.
    let missing = seat.run(&pod, "three", &["/no/such/program"]);
    let missing = seat.command(&missing).output().expect("ctr can be started");
    assert!(!missing.status.success(), "a missing program ran");
    out += &shims();
    out += &seat.tasks();
    seat.ok(&["task", "kill", "-s", "KILL", "one"]);
    seat.wait_status("one", "STOPPED");
    out += &seat.any(&["task", "rm", "one"]);
    out += &seat.any(&["task", "exec", "--exec-id", "e", "two", "echo", "goes on"]);
    out += &run("four");
    out += &shims();
    out += &seat.any(&["task", "rm", "-f", "two"]);
    out += &seat.any(&["task", "rm", "-f", "four"]);
    wait_for("the shim ends", 20, || leftovers::shims_of(&seat.daemon).is_empty().then_some(()));
    out + &seat.tasks()
}

/// A container whose root is nobody outside, its files mapped by the
/// snapshotter or changed by the client.
pub fn run_in_a_user_namespace(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    // Its users have to get to its root filesystem.
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(seat.daemon.path(""), open).expect("our directory");
    let maps = ["--rm", "--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536"];
    // In one piece: of several, containerd's shim has lost the last.
    let look = "echo new >/made; set -- $(cat /proc/self/uid_map /proc/self/gid_map) \
                $(stat -c '%u %g' /bin/busybox /made); echo $*; exit 3";
    let run = |id: &str, flags: &[&str]| {
        seat.any(&seat.run(&[&maps, flags].concat(), id, &["sh", "-c", look]))
    };
    run("mapped", &["--remap-labels"]) + &run("changed", &[]) + &seat.tasks()
}

/// What a runtime says of itself, in its shape: names and versions differ.
pub fn plugins_inspect_runtime(seat: &Seat) -> String {
    let text = seat.ok(&["plugins", "inspect-runtime"]);
    let value: serde_json::Value = serde_json::from_str(&text).expect("ctr prints JSON");
    seat.any(&["plugins", "inspect-runtime", "--runtime", "io.containerd.nothing.v7"])
        + &shape(&value, "")
}
