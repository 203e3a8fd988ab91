//! Measures what docs/SPEC.md promises, beside Debian's containerd 1.6 and its
//! Go shim, in one run and in turns, and prints a table in Markdown.
//!
//! Machines are noisy: times are medians, and what is promised is a ratio or
//! a difference of two medians of this run. Exit status 1 when a promise is
//! not kept.

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Instant;

use davit_integration::daemon::{Daemon, Server};
use davit_integration::{Client, Runtime, image, must};

mod api;
mod memory;

/// One line of the table.
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// The reference's value.
    pub reference: f64,
    /// Ours.
    pub ours: f64,
    /// The unit of both.
    pub unit: &'static str,
    /// What is promised.
    pub promise: Promise,
}

/// What docs/SPEC.md says of a figure.
pub enum Promise {
    /// Ours is at most this.
    AtMost(f64),
    /// Ours divided by the reference is at most this.
    Ratio(f64),
    /// Ours is at most this much above the reference.
    Above(f64),
}

impl Figure {
    fn kept(&self) -> bool {
        match self.promise {
            Promise::AtMost(limit) => self.ours <= limit,
            Promise::Ratio(limit) => self.ours / self.reference <= limit,
            Promise::Above(limit) => self.ours - self.reference <= limit,
        }
    }

    fn row(&self) -> String {
        let (promised, is) = match self.promise {
            Promise::AtMost(limit) => (format!("≤ {limit} {}", self.unit), self.ours),
            Promise::Ratio(limit) => (format!("ratio ≤ {limit}"), self.ours / self.reference),
            Promise::Above(limit) => {
                (format!("≤ {limit} {} above", self.unit), self.ours - self.reference)
            }
        };
        let verdict = if self.kept() { "kept" } else { "NOT KEPT" };
        format!(
            "| {} | {:.2} {unit} | {:.2} {unit} | {promised} | {is:.2} | {verdict} |",
            self.what,
            self.reference,
            self.ours,
            unit = self.unit
        )
    }
}

/// The middle of the values.
pub fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "nothing was measured");
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How long something takes, in milliseconds.
pub fn milliseconds(action: impl FnOnce()) -> f64 {
    let start = Instant::now();
    action();
    start.elapsed().as_secs_f64() * 1000.0
}

fn run_true(daemon: &Daemon, runtime: Runtime, id: &str) {
    let binary = runtime.path().to_string_lossy().into_owned();
    must(daemon.ctr(Client::Ctr16).args(["run", "--rm", "--runc-binary", &binary]).args([
        image::NAME,
        id,
        "true",
    ]));
}

/// `ctr run --rm … true`, in turns on both daemons.
fn run_rm(
    reference: &Daemon,
    ours: &Daemon,
    runtime: Runtime,
    limit: f64,
    rounds: usize,
) -> Figure {
    let (mut theirs, mut own) = (Vec::new(), Vec::new());
    for round in 0..rounds + 2 {
        let id = format!("bench-{round}");
        let there = milliseconds(|| run_true(reference, runtime, &id));
        let here = milliseconds(|| run_true(ours, runtime, &id));
        // The first two warm the caches.
        if round >= 2 {
            theirs.push(there);
            own.push(here);
        }
    }
    Figure {
        what: format!("`ctr run --rm … true`, {}", format!("{runtime:?}").to_lowercase()),
        reference: median(theirs),
        ours: median(own),
        unit: "ms",
        promise: Promise::Ratio(limit),
    }
}

fn machine() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = |program: &str| {
        let text = must(Command::new(program).arg("--version"));
        text.lines().next().unwrap_or_default().to_owned()
    };
    format!(
        "Linux {}, {} cores; {}; {}; {}",
        kernel.trim(),
        std::thread::available_parallelism().map_or(0, usize::from),
        version("/usr/bin/containerd"),
        version("/usr/sbin/runc"),
        version("/usr/bin/crun"),
    )
}

fn main() -> ExitCode {
    let rounds = std::env::var("BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let reference = Daemon::start(Server::Containerd16);
    let ours = Daemon::start(Server::Davit);
    let mut figures = vec![memory::daemons(&reference, &ours)];
    reference.import_image(Client::Ctr16);
    ours.import_image(Client::Ctr16);
    figures.extend(memory::shims(&reference, &ours));
    figures.push(run_rm(&reference, &ours, Runtime::Crun, 0.45, rounds));
    figures.push(run_rm(&reference, &ours, Runtime::Runc, 0.65, rounds));
    figures.extend(api::above_runtime(&ours, Runtime::Crun, rounds));
    figures.extend(api::above_runtime(&ours, Runtime::Runc, rounds));

    println!("{}\n", machine());
    println!("| figure | reference | Davit | promised | is | |\n|---|---|---|---|---|---|");
    for figure in &figures {
        println!("{}", figure.row());
    }
    if figures.iter().all(Figure::kept) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
