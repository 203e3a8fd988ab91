//! `davitd`. See the library for what it does.

use std::process::ExitCode;
use std::time::Instant;

use davit_daemon::app::App;
use davit_daemon::args::{Args, Command, ConfigCommand, version};
use davit_daemon::config::{Config, DEFAULT_PATH, migrate};
use davit_daemon::error::Error;
use davit_daemon::services::version::{REVISION, VERSION};
use davit_daemon::{logging, oci_hook, proxy, publish, server};
use davit_diff::worker;
use davit_types::Kind;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// Threads that move images between registries and the content store: what
/// they decrypt must not keep a call waiting.
const TRANSFER_THREADS: usize = 2;
/// Threads for files, mounts and the index, of those that run calls and of
/// those that move images each. The latter have one more for each layer that
/// is being unpacked: it waits for the worker.
const BLOCKING_THREADS_MAX: usize = 64;
/// How long such a thread waits for more to do before it ends.
const BLOCKING_THREAD_IDLE: std::time::Duration = std::time::Duration::from_secs(5);

fn main() -> ExitCode {
    let started = Instant::now();
    if std::env::args_os().nth(1).is_some_and(|argument| argument == worker::ARGUMENT) {
        return worker::main();
    }
    let args = Args::of_process();
    if args.version {
        println!("{}", version());
        return ExitCode::SUCCESS;
    }
    match run(args, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("davitd: {}", error.full_message());
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args, started: Instant) -> Result<(), Error> {
    match &args.command {
        None => daemon(&args, started),
        Some(Command::Config(ConfigCommand::Default)) => {
            print!("{}", Config::default().to_toml());
            Ok(())
        }
        Some(Command::Config(ConfigCommand::Dump)) => {
            let (config, warnings) = configuration(&args)?;
            warnings.iter().for_each(|warning| eprintln!("{warning}"));
            print!("{}", config.to_toml());
            Ok(())
        }
        Some(Command::Config(ConfigCommand::Migrate)) => {
            let path = args.config.clone().unwrap_or_else(|| DEFAULT_PATH.into());
            print!("{}", migrate(&path)?);
            Ok(())
        }
        Some(Command::Publish { namespace, topic }) => {
            let address = args.address.clone().unwrap_or(Config::default().grpc.address);
            publish::run(&address, namespace, topic)
        }
        Some(Command::OciHook { program }) => Err(oci_hook::run(program)),
    }
}

/// File, imports and flags together, and what to warn of. A file that is named
/// must be there; the default one may be missing.
fn configuration(args: &Args) -> Result<(Config, Vec<String>), Error> {
    let (mut config, warnings) = match &args.config {
        Some(path) => Config::load(path)?,
        None if std::path::Path::new(DEFAULT_PATH).exists() => Config::load(DEFAULT_PATH.as_ref())?,
        None => Default::default(),
    };
    config.override_with(args)?;
    config.complete()?;
    Ok((config, warnings))
}

fn daemon(args: &Args, started: Instant) -> Result<(), Error> {
    davit_sys::process::share_heaps();
    let (config, warnings) = configuration(args)?;
    logging::start(&config.debug.level, &config.debug.format);
    log::info!(version = VERSION, revision = REVISION; "starting davitd");
    for warning in warnings {
        log::warn!("configuration: {warning}");
    }
    // Every task takes two: the connection to its shim, and the shim's log.
    if let Err(error) = davit_sys::process::raise_open_files() {
        log::warn!(error = error.full_message().as_str(); "cannot open as many files as allowed");
    }
    if config.oom_score != 0
        && let Err(error) =
            davit_sys::process::set_oom_score_adj(std::process::id(), config.oom_score)
    {
        log::warn!(error:%; "cannot set the OOM score");
    }
    // Those that wait for another process's content are not there for others.
    let waiting = config.proxied_content().next().map_or(0, |_| proxy::THREADS_MAX);
    let blocking = BLOCKING_THREADS_MAX + waiting;
    // One thread runs all calls, which wait much more than they compute: a
    // second one would mostly be woken to find nothing to do.
    let calls = start(Builder::new_current_thread(), "davitd", blocking)?;
    let transfers = {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(TRANSFER_THREADS);
        let unpacking = config.plugins.transfer.unpacks_at_once().saturating_mul(2);
        start(builder, "transfers", blocking.saturating_add(unpacking))?
    };
    // Before there is a socket: who sees one may already send a signal.
    let stop = calls.block_on(async { stop() })?;
    let app = App::build(config)?;
    let sockets = server::Sockets::open(&app)?;
    log::debug!(seconds = started.elapsed().as_secs_f64(); "built");
    let result = calls.block_on(server::run(&app, sockets, transfers.handle(), stop));
    // What blocks for longer (a mount of a dead server) does not keep us.
    transfers.shutdown_timeout(server::DRAIN_LIMIT);
    calls.shutdown_timeout(server::DRAIN_LIMIT);
    // Nor does the next daemon begin before we are gone: the index is closed,
    // and the directories stay ours as long as there is a process.
    let App { claims, .. } = app;
    std::mem::forget(claims);
    log::info!("ended");
    result
}

fn start(mut builder: Builder, name: &str, blocking: usize) -> Result<Runtime, Error> {
    builder.max_blocking_threads(blocking).thread_keep_alive(BLOCKING_THREAD_IDLE);
    builder.thread_name(name).enable_all().build().map_err(Error::io("start", "the runtime"))
}

/// Ready when the daemon is told to end. Until then, SIGUSR1 logs how busy it
/// is (containerd logs all stacks).
fn stop() -> Result<impl Future<Output = ()> + Send, Error> {
    let wait_for = |kind| signal(kind).map_err(Error::io("wait for", "signals"));
    let mut terminate = wait_for(SignalKind::terminate())?;
    let mut interrupt = wait_for(SignalKind::interrupt())?;
    let mut describe = wait_for(SignalKind::user_defined1())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return log::info!(signal = "SIGTERM"; "ending"),
                _ = interrupt.recv() => return log::info!(signal = "SIGINT"; "ending"),
                _ = describe.recv() => describe_runtime(),
            }
        }
    })
}

fn describe_runtime() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let (alive, queued) = (metrics.num_alive_tasks(), metrics.global_queue_depth());
    log::info!(tasks_alive = alive, tasks_queued = queued; "asked how it goes");
}
