//! Checkpoints by CRIU.

use std::sync::atomic::{AtomicU32, Ordering};

use super::Seat;
use crate::{Runtime, describe, wait_for};

/// A checkpoint by CRIU, and a container that goes on from one.
pub fn task_checkpoint(seat: &Seat) -> String {
    // Debian 12's crun was built without CRIU. forky's finds no place for the
    // paths that ctr's containers hide, when it restores one.
    let saves = seat.runtime != Some(Runtime::Crun);
    let restores = saves && seat.runtime != Some(Runtime::NewCrun);
    seat.daemon.import_image(seat.client);
    let script = "n=0; while :; do n=$((n+1)); echo $n >/count; sleep 0.05; done";
    seat.ok(&seat.run(&["-d"], "frozen", &["sh", "-c", script]));
    wait_for("the file is there", 20, || {
        let look = ["task", "exec", "--exec-id", "look", "frozen", "test", "-s", "/count"];
        seat.command(&look).status().is_ok_and(|status| status.success()).then_some(())
    });
    wait_for("it counts", 20, || (counted(seat, "frozen") > 2).then_some(()));
    let mut out = String::new();
    if restores {
        let words = ["container", "checkpoint", "--rw", "--image", "--task", "frozen", "point"];
        seat.ok(&words);
        seat.wait_status("frozen", "RUNNING");
    }
    let written = seat.daemon.path("checkpoint");
    std::fs::create_dir(&written).expect("a new directory");
    let path = written.to_string_lossy().into_owned();
    let mut command =
        seat.command(&["task", "checkpoint", "--exit", "--image-path", &path, "frozen"]);
    let output = command.output().expect("ctr can be started");
    assert_eq!(output.status.success(), saves, "{}", describe(&command, &output));
    let files = std::fs::read_dir(&written).map(|entries| entries.count()).unwrap_or(0);
    assert_eq!(files > 5, saves, "{files} files");
    if saves {
        seat.wait_status("frozen", "STOPPED");
    }
    out += &seat.tasks();
    if restores {
        seat.ok(&["container", "restore", "--live", "--rw", "again", "point"]);
        let first = counted(seat, "again");
        assert!(first > 2, "it began anew");
        wait_for("it counts on", 20, || (counted(seat, "again") > first).then_some(()));
        out += &seat.tasks();
    }
    out
}

/// What the file `/count` of a container says, which is empty while it is
/// being written.
fn counted(seat: &Seat, id: &str) -> u32 {
    static EXECS: AtomicU32 = AtomicU32::new(0);
    wait_for("a whole number", 20, || {
        let exec = format!("count-{}", EXECS.fetch_add(1, Ordering::Relaxed));
        let text = seat.ok(&["task", "exec", "--exec-id", &exec, id, "cat", "/count"]);
        text.trim().parse().ok()
    })
}
