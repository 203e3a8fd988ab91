//! davit: the command line for people. Talks to davitd, or to any containerd,
//! and keeps nothing of its own.

mod args;
mod attend;
mod container;
mod error;
mod events;
mod exec;
mod export;
mod gc;
mod image;
mod inspect;
mod lifecycle;
mod login;
mod names;
mod output;
mod parse;
mod progress;
mod run;
mod signals;
mod streams;
mod table;
mod task;
mod terminal;
mod transfer;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind as ClapError;
use davit_client::Client;

use crate::args::{Arguments, Command};
pub use crate::error::Error;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // There is nobody left to tell when the streams are gone.
            let _ = error.print();
            let asked = [ClapError::DisplayHelp, ClapError::DisplayVersion].contains(&error.kind());
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(error::FAILED) };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            output::complain(&Error::Io { what: "cannot start".into(), source });
            return ExitCode::from(error::FAILED);
        }
    };
    let result = runtime.block_on(perform(arguments));
    // A thread may still sit in a read of standard input.
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if !error.is_quiet() {
                output::complain(&error);
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Does what was asked and hands back what davit ends with.
async fn perform(arguments: Arguments) -> Result<u8, Error> {
    let (global, command) = arguments.split();
    let format = global.format;
    let connect = || async {
        let address = std::path::absolute(&global.address)
            .map_err(Error::io(global.address.display().to_string()))?;
        Ok::<_, Error>(Client::connect(&address, global.namespace.clone()).await?)
    };
    if let Command::Version = command {
        return inspect::version(connect().await, format).await;
    }
    let client = &connect().await?;
    match command {
        Command::Run(args) => run::run(client, *args, &global).await,
        Command::Exec(args) => exec::exec(client, args, &global).await,
        Command::Ps(args) => lifecycle::ps(client, args, format).await,
        Command::Start(args) => lifecycle::start(client, args, &global).await,
        Command::Stop(args) => lifecycle::stop(client, args, format).await,
        Command::Kill(args) => lifecycle::kill(client, args, format).await,
        Command::Rm(args) => lifecycle::remove(client, args, format).await,
        Command::Images(args) => image::images(client, args, format).await,
        Command::Pull(args) => transfer::pull(client, *args, format).await,
        Command::Push(args) => transfer::push(client, *args, format).await,
        Command::Export(args) => export::export(client, args, format).await,
        Command::Import(args) => image::import(client, args, format).await,
        Command::Rmi(args) => image::remove(client, args, format).await,
        Command::Tag(args) => image::tag(client, args, format).await,
        Command::Gc(args) => gc::collect(client, args, format).await,
        Command::Why(args) => gc::why(client, args, format).await,
        Command::Events(args) => events::events(client, args, format).await,
        Command::Inspect(args) => inspect::inspect(client, args).await,
        Command::Info => inspect::info(client, &global).await,
        Command::Version => unreachable!("answered above, with or without a daemon"),
        Command::Attend(args) => attend::attend(client, args).await,
    }
}
