//! The worker process itself.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use davit_types::{Kind, Mount};

use super::mounts::{self, Target};
use super::{Answer, Reply, Request, WireMount, Work, failed, path_of, sandbox, text_of};
use crate::root::Root;
use crate::{Applied, ApplyOptions, CompareOptions, Error, Limits, Whiteouts, implied};

/// The whole life of a worker: reads the request from standard input, does
/// it, and answers. The caller is `main`, with nothing else running yet.
pub fn main() -> ExitCode {
    // Modes are made as they are asked for.
    rustix::process::umask(rustix::fs::Mode::empty());
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
        Ok(answer) => Reply::Answer(answer),
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

fn receive(socket: &mut UnixStream) -> Result<(Request, Option<OwnedFd>), Error> {
    let broken = |error: &dyn std::fmt::Display| Error::Worker(format!("request: {error}"));
    let (count, fds) = davit_sys::socket::receive_descriptors(&*socket, &mut [0])
        .map_err(|error| Error::Worker(error.full_message()))?;
    if count != 1 {
        return Err(broken(&"none came"));
    }
    let mut text = Vec::new();
    socket.read_to_end(&mut text).map_err(|error| broken(&error))?;
    let request = serde_json::from_slice(&text).map_err(|error| broken(&error))?;
    Ok((request, fds.into_iter().next()))
}

fn work(request: Request, bytes: Option<OwnedFd>) -> Result<Answer, Error> {
    sandbox::isolate(request.parent)?;
    let scratch = &request.scratch;
    let bytes = || bytes.ok_or_else(|| Error::Worker("no descriptor came".to_owned()));
    match request.work {
        Work::Apply { compressed, mounts, lower_later, limits, sync } => {
            let mut target = prepare(mounts, scratch)?;
            target.whiteouts = lower_later.unwrap_or(target.whiteouts);
            let lower_later = lower_later.is_some();
            apply(File::from(bytes()?), &target, lower_later, (compressed, limits), sync).map(done)
        }
        Work::Settle { mounts, paths, sync } => {
            let target = prepare(mounts, scratch)?;
            let paths: Option<Vec<_>> = paths.iter().map(|text| path_of(text)).collect();
            let paths = paths.ok_or_else(|| Error::Worker("a path that is none".to_owned()))?;
            let (root, lower) = open(&target)?;
            implied::settle(&root, &lower, &paths)?;
            sync_tree(&root, &target, sync).map(|()| Answer::Settled)
        }
        Work::Compare { lower, upper, compression, newest } => {
            let trees = (to_mounts(lower), to_mounts(upper));
            let output = BufWriter::with_capacity(1 << 18, File::from(bytes()?));
            compare(trees, scratch, output, CompareOptions { compression, newest }).map(done)
        }
    }
}

fn compare(
    (lower, upper): (Vec<Mount>, Vec<Mount>),
    scratch: &Path,
    output: impl Write,
    options: CompareOptions,
) -> Result<Applied, Error> {
    // Looked at only to save work: without it, both trees are walked.
    let layer = mounts::top_layer(&lower, &upper).and_then(|path| Root::open(&path).ok());
    let scratch = sandbox::private_scratch(scratch)?;
    let open = |mounts, name| -> Result<Root, Error> {
        let path = mounts::make(&mounts::read_only(mounts), scratch, name)?;
        Root::open(&path).map_err(Error::io("open", &path))
    };
    let (lower, upper) = (open(lower, "lower")?, open(upper, "upper")?);
    let need = match layer {
        Some(_) => sandbox::Need::ReadingMarks,
        None => sandbox::Need::Reading,
    };
    let trees: Vec<&Root> = [&lower, &upper].into_iter().chain(&layer).collect();
    sandbox::confine(&[], &trees, need)?;
    crate::compare_in([&lower, &upper], layer.as_ref(), output, options)
        .map_err(Error::io("compare", "layer".as_ref()))
}

fn done(applied: Applied) -> Answer {
    let Applied { digest, size, implied } = applied;
    let implied = implied.iter().map(|path| text_of(path)).collect();
    Answer::Done { digest: digest.to_string(), size, implied }
}

/// Opens the tree and what lies below it, and gives up all else.
fn open(target: &Target) -> Result<(Root, Vec<Root>), Error> {
    let root = Root::open(&target.root).map_err(Error::io("open", &target.root))?;
    let lower = crate::open_all(&target.lower)?;
    let below: Vec<&Root> = lower.iter().collect();
    sandbox::confine(&[&root], &below, sandbox::Need::Writing)?;
    Ok((root, lower))
}

fn apply(
    bytes: File,
    target: &Target,
    lower_later: bool,
    (compressed, limits): (bool, Limits),
    sync: bool,
) -> Result<Applied, Error> {
    let (root, lower) = open(target)?;
    let whiteouts = target.whiteouts;
    let options = ApplyOptions { compressed, whiteouts, lower: Vec::new(), lower_later, limits };
    let applied = crate::apply_in(bytes, &root, &lower, &options)?;
    sync_tree(&root, target, sync).map(|()| applied)
}

fn sync_tree(root: &Root, target: &Target, sync: bool) -> Result<(), Error> {
    if !sync {
        return Ok(());
    }
    rustix::fs::syncfs(root.dir()).map_err(Error::io("syncfs", &target.root))
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
