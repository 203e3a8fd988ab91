//! Measures what docs/SPEC.md promises, beside Debian's containerd 1.6 and its
//! Go shim, in one run and in turns, and prints a table in Markdown.
//!
//! Machines are noisy: times are medians, and what is promised is a ratio or
//! a difference of two medians of this run. Exit status 1 when a promise is
//! not kept. Arguments choose what is measured; everything without.

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Instant;

use davit_integration::daemon::{Daemon, Server};
use davit_integration::{Client, Runtime, image, must};

mod api;
mod memory;
mod pull;
mod scale;

/// What can be measured by itself: `bench memory api run scale pull`.
const PARTS: [&str; 5] = ["memory", "run", "api", "scale", "pull"];

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

/// What was measured so far.
#[derive(Default)]
pub struct Report {
    figures: Vec<Figure>,
    notes: Vec<String>,
}

impl Report {
    /// Adds a line to the table.
    pub fn figure(&mut self, figure: Figure) {
        eprintln!("{}", figure.row());
        self.figures.push(figure);
    }

    /// Adds what is worth knowing and not promised.
    pub fn note(&mut self, note: String) {
        eprintln!("{note}");
        self.notes.push(note);
    }

    fn print(&self) {
        println!("{}\n", machine());
        println!("| figure | reference | Davit | promised | is | |\n|---|---|---|---|---|---|");
        for figure in &self.figures {
            println!("{}", figure.row());
        }
        if !self.notes.is_empty() {
            println!();
        }
        for note in &self.notes {
            println!("- {note}");
        }
    }
}

/// How often something is measured: as `BENCH_ROUNDS` says, or `default`.
pub fn rounds(default: usize) -> usize {
    std::env::var("BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Containers on both daemons: what idle processes take, runs by `ctr`, and
/// the API alone.
fn containers(report: &mut Report, parts: &[String]) {
    let wanted = |part: &str| parts.iter().any(|wanted| wanted == part);
    let rounds = rounds(20);
    let reference = Daemon::start(Server::Containerd16);
    let ours = Daemon::start(Server::Davit);
    if wanted("memory") {
        report.figure(memory::daemons(&reference, &ours));
    }
    reference.import_image(Client::Ctr16);
    ours.import_image(Client::Ctr16);
    if wanted("memory") {
        memory::shims(&reference, &ours).into_iter().for_each(|figure| report.figure(figure));
    }
    if wanted("run") {
        report.figure(run_rm(&reference, &ours, Runtime::Crun, 0.45, rounds));
        report.figure(run_rm(&reference, &ours, Runtime::Runc, 0.65, rounds));
    }
    if wanted("api") {
        for runtime in [Runtime::Crun, Runtime::Runc] {
            let figures = api::above_runtime(&ours, runtime, rounds);
            figures.into_iter().for_each(|figure| report.figure(figure));
        }
    }
}

fn main() -> ExitCode {
    let mut parts: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        eprintln!("there is no part {unknown:?}; there are {}", PARTS.join(", "));
        return ExitCode::FAILURE;
    }
    if parts.is_empty() {
        parts = PARTS.map(str::to_owned).into();
    }
    let wanted = |part: &str| parts.iter().any(|wanted| wanted == part);
    let mut report = Report::default();
    if ["memory", "run", "api"].into_iter().any(wanted) {
        containers(&mut report, &parts);
    }
    if wanted("scale") {
        scale::measure(&mut report);
    }
    if wanted("pull") {
        pull::measure(&mut report);
    }
    report.print();
    if report.figures.iter().all(Figure::kept) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
