//! Applies a layer as the daemon does, through a worker process, and says how
//! long that took:
//!
//! ```text
//! cargo run --release -p davit-diff --example apply -- layer.tar.gz directory [times]
//! ```
//!
//! Each time the layer is written into a new directory below the given one,
//! which is removed afterwards.

use std::error::Error;
use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use davit_diff::worker::{ARGUMENT, Apply, Program, main as worker};
use davit_diff::{Applied, Limits, Processing};
use davit_types::Mount;

fn apply(
    layer: &Path,
    below: &Path,
    program: &Program,
) -> Result<(Applied, Duration), Box<dyn Error>> {
    let root = below.join("tree");
    fs::create_dir_all(&root)?;
    let started = Instant::now();
    let apply = Apply {
        input: File::open(layer)?.into(),
        compressed: true,
        processing: Processing::default(),
        mounts: vec![Mount {
            kind: "bind".into(),
            source: root.display().to_string(),
            target: String::new(),
            options: vec!["rw".into(), "rbind".into()],
        }],
        lower_later: None,
        limits: Limits::default(),
        sync: false,
    };
    let applied = apply.spawn(program)?.wait();
    let taken = started.elapsed();
    fs::remove_dir_all(&root)?;
    Ok((applied?, taken))
}

fn run() -> Result<(), Box<dyn Error>> {
    let usage = "usage: apply LAYER DIRECTORY [TIMES]";
    let mut arguments = std::env::args_os().skip(1);
    let (Some(layer), Some(below)) = (arguments.next(), arguments.next()) else {
        return Err(usage.into());
    };
    let times = match arguments.next() {
        Some(times) => times.to_str().ok_or(usage)?.parse()?,
        None => 1,
    };
    let scratch = Path::new(&below).join("scratch");
    fs::create_dir_all(&scratch)?;
    let program = Program::this(scratch);
    for _ in 0..times {
        let (applied, taken) = apply(layer.as_ref(), below.as_ref(), &program)?;
        let megabytes = applied.size as f64 / 1e6;
        let seconds = taken.as_secs_f64();
        println!("{seconds:.3} s {:.0} MB/s {}", megabytes / seconds, applied.digest);
    }
    Ok(())
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT) {
        return worker();
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("apply: {error}");
            ExitCode::FAILURE
        }
    }
}
