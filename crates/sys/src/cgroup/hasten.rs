//! Making a move to another group quick before it happens.
//!
//! The kernel moves processes under a lock that every fork takes too. While
//! nobody moves any, forks take it without touching shared memory; the first
//! move after a while has to wait until all processors know that it does not
//! rest any more (an RCU grace period, 5 to 20 ms). A runtime that creates a
//! container sits in that wait. Who knows that a container is about to be
//! made can begin the wait earlier, by moving itself to where it is.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::thread;

use super::{Cgroup, of_pid};

/// Its thread's stack, in bytes.
const STACK: usize = 64 << 10;

/// Says that processes will be moved to other groups in a moment. Returns at
/// once; nothing is different afterwards, but that the moves are quick. Where
/// that does not work (no control groups, no right to write to them), nothing
/// happens.
pub fn hasten_moves() {
    let Some(mut own) = own_group() else { return };
    // On a thread, for this is what takes long. It allocates nothing, so that
    // it costs its process no memory for having been there.
    // Without one, the moves take as long as they do.
    let _ = thread::Builder::new().stack_size(STACK).spawn(move || {
        // Zero stands for the writer.
        let _ = own.write_all(b"0");
    });
}

/// The list of processes of the group that we are in, in any hierarchy: they
/// share the lock.
fn own_group() -> Option<File> {
    let open = |dir: &Path| OpenOptions::new().write(true).open(dir.join("cgroup.procs")).ok();
    match of_pid(std::process::id()).ok()? {
        Cgroup::V2(dir) => open(&dir),
        Cgroup::V1(dirs) => dirs.values().find_map(|dir| open(dir)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_stay_where_we_are() {
        let before = of_pid(std::process::id()).unwrap();
        own_group().unwrap().write_all(b"0").unwrap();
        hasten_moves();
        assert_eq!(of_pid(std::process::id()).unwrap(), before);
    }
}
