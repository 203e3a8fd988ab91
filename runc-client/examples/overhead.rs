//! What the client costs above the runtime binary alone: the fastest and the
//! median time of create, start, kill and delete, and of exec, each way. As root, with the
//! bundle of a container that sleeps:
//!
//! ```sh
//! cargo run --release -p runc-client --example overhead -- crun BUNDLE 50
//! ```

use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use runc_client::{ExecOptions, Runc, Status};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PROCESS: &str = r#"{"args": ["true"], "cwd": "/", "env": ["PATH=/bin"], "user": {}}"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [runtime, bundle, rounds] = &args[..] else {
        return Err("usage: overhead RUNTIME BUNDLE ROUNDS".into());
    };
    let (bundle, rounds) = (Path::new(bundle), rounds.parse()?);
    let dir = tempfile::tempdir()?;
    let process = dir.path().join("process.json");
    std::fs::write(&process, PROCESS)?;
    let raw = Raw { runtime, root: dir.path() };
    let runc = Runc::new(runtime).root(dir.path()).log(dir.path().join("log"));
    let id = format!("overhead-{}", std::process::id());
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        let [raw_life, life, raw_exec, exec] = &mut times;
        let start = Instant::now();
        raw.run(&["create", "--bundle", &bundle.to_string_lossy(), &id])?;
        raw.run(&["start", &id])?;
        let created = start.elapsed();
        raw_exec.push(timed(|| raw.run(&["exec", "--process", &process.to_string_lossy(), &id]))?);
        let start = Instant::now();
        raw.run(&["kill", &id, "9"])?;
        let killed = start.elapsed();
        stopped(&runc, &id).await?;
        raw_life.push(created + killed + timed(|| raw.run(&["delete", &id]))?);

        let start = Instant::now();
        runc.create(&id, bundle, Default::default()).await?;
        runc.start(&id).await?;
        let created = start.elapsed();
        let start = Instant::now();
        runc.exec(&id, PROCESS.as_bytes(), ExecOptions::default()).await?;
        exec.push(start.elapsed());
        let start = Instant::now();
        runc.kill(&id, 9, false).await?;
        let killed = start.elapsed();
        stopped(&runc, &id).await?;
        let start = Instant::now();
        runc.delete(&id, false).await?;
        life.push(created + killed + start.elapsed());
    }
    let names =
        ["binary: create+start+kill+delete", "client: the same", "binary: exec", "client: exec"];
    for (name, mut times) in names.iter().zip(times) {
        times.sort();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!("{name:34} {:7.2} ms {:7.2} ms", ms(times[0]), ms(times[times.len() / 2]));
    }
    Ok(())
}

struct Raw<'a> {
    runtime: &'a str,
    root: &'a Path,
}

impl Raw<'_> {
    fn run(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new(self.runtime);
        command.arg("--root").arg(self.root).args(args);
        let null = || Stdio::null();
        match command.stdin(null()).stdout(null()).stderr(null()).status()?.success() {
            true => Ok(()),
            false => Err(format!("{} failed", args[0]).into()),
        }
    }
}

fn timed(run: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    run().map(|()| start.elapsed())
}

/// Waits, outside of what is measured, until the container has stopped.
async fn stopped(runc: &Runc, id: &str) -> Result<()> {
    while runc.state(id).await?.status != Status::Stopped {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
