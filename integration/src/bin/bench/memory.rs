//! Memory of idle processes, as the kernel accounts for it.

use std::fs;

use davit_integration::leftovers::shims_of;
use davit_integration::{Client, Daemon, image, wait_for};

use crate::{Figure, Promise};

/// How many idle containers there are when shims are measured.
const CONTAINERS: usize = 20;

/// Sums fields of a `/proc/PID/smaps_rollup` or `status`, in megabytes.
pub fn field(pid: i32, file: &str, names: &[&str]) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let kilobytes: f64 = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| names.contains(name))
        .filter_map(|(_, value)| value.split_whitespace().next()?.parse::<f64>().ok())
        .sum();
    kilobytes / 1024.0
}

/// Forgets how much a daemon has had resident.
pub fn reset_peak(daemon: &Daemon) {
    fs::write(format!("/proc/{}/clear_refs", daemon.pid()), "5").expect("we are root");
}

/// How much a daemon has had resident at most, in megabytes.
pub fn peak_rss(daemon: &Daemon) -> f64 {
    field(daemon.pid() as i32, "status", &["VmHWM"])
}

fn rss(daemon: &Daemon) -> f64 {
    field(daemon.pid() as i32, "status", &["VmRSS"])
}

/// Resident memory of the daemons, idle.
pub fn daemons(reference: &Daemon, ours: &Daemon) -> Figure {
    std::thread::sleep(std::time::Duration::from_secs(2));
    Figure {
        what: "idle daemon, resident".into(),
        reference: rss(reference),
        ours: rss(ours),
        unit: "MB",
        promise: Promise::AtMost(12.0),
    }
}

/// Mean private memory and mean proportional share of the shims of
/// [`CONTAINERS`] idle containers.
fn shim_memory(daemon: &Daemon) -> (f64, f64) {
    for number in 0..CONTAINERS {
        let id = format!("idle-{number}");
        daemon.ctr_ok(Client::Ctr16, &["run", "-d", image::NAME, &id, "sleep", "1000"]);
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    let shims = wait_for("a shim for every container", 10, || {
        let shims = shims_of(daemon);
        (shims.len() == CONTAINERS).then_some(shims)
    });
    let mean = |names: &[&str]| {
        let sum: f64 = shims.iter().map(|pid| field(*pid, "smaps_rollup", names)).sum();
        sum / shims.len() as f64
    };
    let result = (mean(&["Private_Clean", "Private_Dirty"]), mean(&["Pss"]));
    for number in 0..CONTAINERS {
        let id = format!("idle-{number}");
        daemon.ctr_ok(Client::Ctr16, &["task", "rm", "-f", &id]);
        daemon.ctr_ok(Client::Ctr16, &["container", "rm", &id]);
    }
    result
}

/// Memory of an idle shim, private and proportional.
pub fn shims(reference: &Daemon, ours: &Daemon) -> [Figure; 2] {
    let (their_private, their_share) = shim_memory(reference);
    let (private, share) = shim_memory(ours);
    let figure = |what: &str, reference, ours, limit| Figure {
        what: what.into(),
        reference,
        ours,
        unit: "MB",
        promise: Promise::AtMost(limit),
    };
    [
        figure("idle shim, private, of 20", their_private, private, 0.30),
        figure("idle shim, PSS, of 20", their_share, share, 0.40),
    ]
}
