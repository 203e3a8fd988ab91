//! The worker process itself.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use davit_types::{Kind, Mount};

use super::mounts::{self, Target};
use super::{Answer, Request, WireMount, Work, failed, sandbox};
use crate::root::Root;
use crate::{Applied, ApplyOptions, CompareOptions, Error, Whiteouts};

/// The whole life of a worker: reads the request from standard input, does
/// it, and answers. The caller is `main`, with nothing else running yet.
pub fn main() -> ExitCode {
    let _ = log::set_logger(&Stderr).map(|()| log::set_max_level(log::LevelFilter::Warn));
    let mut socket = match rustix::io::dup(rustix::stdio::stdin()) {
        Ok(stdin) => UnixStream::from(stdin),
        Err(error) => return give_up(&error),
    };
    let (request, bytes) = match receive(&mut socket) {
        Ok(received) => received,
        Err(error) => return give_up(&error),
    };
    let answer = match work(request, bytes) {
        Ok(Applied { digest, size }) => Answer::Done { digest: digest.to_string(), size },
        Err(error) => failed(&error),
    };
    let text = serde_json::to_vec(&answer).unwrap_or_default();
    match socket.write_all(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => give_up(&error),
    }
}

fn give_up(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("unpack worker: {error}");
    ExitCode::FAILURE
}

fn receive(socket: &mut UnixStream) -> Result<(Request, OwnedFd), Error> {
    let broken = |error: &dyn std::fmt::Display| Error::Worker(format!("request: {error}"));
    let (count, fds) = davit_sys::socket::receive_descriptors(&*socket, &mut [0])
        .map_err(|error| Error::Worker(error.full_message()))?;
    let bytes = fds.into_iter().next().filter(|_| count == 1);
    let bytes = bytes.ok_or_else(|| broken(&"no descriptor came with it"))?;
    let mut text = Vec::new();
    socket.read_to_end(&mut text).map_err(|error| broken(&error))?;
    let request = serde_json::from_slice(&text).map_err(|error| broken(&error))?;
    Ok((request, bytes))
}

fn work(request: Request, bytes: OwnedFd) -> Result<Applied, Error> {
    sandbox::isolate(request.parent)?;
    let scratch = &request.scratch;
    match request.work {
        Work::Apply { compressed, mounts, limits, sync } => {
            let target = prepare(mounts, scratch)?;
            let root = Root::open(&target.root).map_err(Error::io("open", &target.root))?;
            let lower = crate::open_all(&target.lower)?;
            sandbox::confine(&[&root], &lower, sandbox::Need::Writing)?;
            let options =
                ApplyOptions { compressed, whiteouts: target.whiteouts, lower: Vec::new(), limits };
            let applied = crate::apply_in(File::from(bytes), &root, &lower, &options)?;
            if sync {
                rustix::fs::syncfs(root.dir()).map_err(Error::io("syncfs", &target.root))?;
            }
            Ok(applied)
        }
        Work::Compare { lower, upper, compression, newest } => {
            let scratch = sandbox::private_scratch(scratch)?;
            let open = |mounts, name| -> Result<Root, Error> {
                let mounts = mounts::read_only(to_mounts(mounts));
                let path = mounts::make(&mounts, scratch, name)?;
                Root::open(&path).map_err(Error::io("open", &path))
            };
            let roots = [open(lower, "lower")?, open(upper, "upper")?];
            sandbox::confine(&[], &roots, sandbox::Need::Reading)?;
            let output = BufWriter::with_capacity(1 << 18, File::from(bytes));
            let options = CompareOptions { compression, newest };
            crate::compare_in(&roots[0], &roots[1], output, options)
                .map_err(Error::io("compare", "layer".as_ref()))
        }
    }
}

fn to_mounts(mounts: Vec<WireMount>) -> Vec<Mount> {
    mounts.into_iter().map(Mount::from).collect()
}

/// Finds the tree to write to, and mounts it where that is needed.
fn prepare(mounts: Vec<WireMount>, scratch: &Path) -> Result<Target, Error> {
    let mounts = to_mounts(mounts);
    if let Some(target) = mounts::direct(&mounts) {
        return Ok(target);
    }
    let scratch = sandbox::private_scratch(scratch)?;
    let root = mounts::make(&mounts, scratch, "target")?;
    Ok(Target { root, lower: Vec::new(), whiteouts: Whiteouts::Remove })
}

/// Says warnings on standard error, which is the daemon's.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        struct Fields(String);
        impl<'kvs> log::kv::VisitSource<'kvs> for Fields {
            fn visit_pair(
                &mut self,
                key: log::kv::Key<'kvs>,
                value: log::kv::Value<'kvs>,
            ) -> Result<(), log::kv::Error> {
                self.0.push_str(&format!(" {key}={value:?}"));
                Ok(())
            }
        }
        if self.enabled(record.metadata()) {
            let mut fields = Fields(String::new());
            let _ = record.key_values().visit(&mut fields);
            eprintln!("unpack worker: {}{}", record.args(), fields.0);
        }
    }

    fn flush(&self) {}
}
