//! What a process in a container is told and asked: wait, kill, resize,
//! delete; and being attached to one.

use std::path::PathBuf;
use std::time::Duration;

use davit_client::Client;
use davit_protocols::grpc::containerd::services::tasks::v1 as api;
use davit_protocols::grpc::containerd::v1::types::{Process as State, Status};
use davit_types::{ContainerId, ErrorKind};
use tokio::time::Instant;

use crate::Error;
use crate::signals::{Received, Signals};
use crate::streams::{Input, Streams, Wanted};
use crate::terminal::{self, DetachKeys, RawMode};

/// How long a daemon may be away before somebody who waits for a process
/// gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The signal that nobody survives.
const SIGKILL: u32 = 9;

/// How often it is looked for meanwhile.
const RETRY: Duration = Duration::from_millis(200);

/// A process in a container.
#[derive(Clone, Debug)]
pub struct Process<'a> {
    client: &'a Client,
    container: String,
    /// Empty for the container's first process.
    exec: String,
}

impl<'a> Process<'a> {
    /// The first process of a container.
    pub fn first(client: &'a Client, container: &ContainerId) -> Self {
        Self { client, container: container.to_string(), exec: String::new() }
    }

    /// A further one.
    pub fn exec(client: &'a Client, container: &ContainerId, exec: &str) -> Self {
        Self { client, container: container.to_string(), exec: exec.to_owned() }
    }

    /// How it is; `None` when there is no task.
    ///
    /// # Errors
    /// What the daemon answers.
    pub async fn state(&self) -> Result<Option<State>, Error> {
        let request =
            api::GetRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        match self.client.tasks().get(request).await.map_err(Error::from) {
            Ok(response) => Ok(response.into_inner().process),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs it. When the daemon went away meanwhile, asks it afterwards whether
    /// it runs.
    ///
    /// # Errors
    /// What the daemon answers.
    pub async fn start(&self) -> Result<(), Error> {
        let request =
            api::StartRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        let error = match self.client.tasks().start(request.clone()).await {
            Ok(_) => return Ok(()),
            Err(status) => Error::from(status),
        };
        if error.kind() != ErrorKind::Unavailable {
            return Err(error);
        }
        let state = patiently(PATIENCE, async || self.state().await).await?.ok_or(error)?;
        if state.status() == Status::Created {
            self.client.tasks().start(request).await?;
        }
        Ok(())
    }

    /// Waits for its end and hands back the exit code. A daemon that is being
    /// restarted is waited for as long as `patience`.
    ///
    /// # Errors
    /// What the daemon answers.
    pub async fn wait(&self, patience: Duration) -> Result<u32, Error> {
        patiently(patience, async || {
            let request = api::WaitRequest {
                container_id: self.container.clone(),
                exec_id: self.exec.clone(),
            };
            Ok(self.client.tasks().wait(request).await?.into_inner().exit_status)
        })
        .await
    }

    /// Sends it a signal; with `all`, every process of the container.
    ///
    /// # Errors
    /// What the daemon answers.
    pub async fn kill(&self, signal: u32, all: bool) -> Result<(), Error> {
        let request = api::KillRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            signal,
            all,
        };
        self.client.tasks().kill(request).await?;
        Ok(())
    }

    /// Tells it how large its terminal is, if we are on one.
    pub async fn resize(&self) {
        let Some((width, height)) = terminal::size() else { return };
        let request = api::ResizePtyRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            width: width.into(),
            height: height.into(),
        };
        // It may have ended meanwhile, and nothing depends on it.
        let _ = self.client.tasks().resize_pty(request).await;
    }

    async fn close_stdin(&self) {
        let request = api::CloseIoRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            stdin: true,
        };
        // It may have ended meanwhile.
        let _ = self.client.tasks().close_io(request).await;
    }

    /// Forgets it once it has ended. That it is forgotten already is fine.
    ///
    /// # Errors
    /// What the daemon answers.
    pub async fn delete(&self) -> Result<(), Error> {
        patiently(PATIENCE, async || {
            let container_id = self.container.clone();
            missing_is_fine(if self.exec.is_empty() {
                self.client.tasks().delete(api::DeleteTaskRequest { container_id }).await
            } else {
                let exec_id = self.exec.clone();
                let request = api::DeleteProcessRequest { container_id, exec_id };
                self.client.tasks().delete_process(request).await
            })
        })
        .await
    }

    /// Kills it with all that it started, waits for its end and forgets it.
    ///
    /// # Errors
    /// What the daemon answers.
    pub async fn end(&self) -> Result<(), Error> {
        let Some(state) = self.state().await? else { return Ok(()) };
        // One that was made and never started can be deleted as it is.
        if ![Status::Stopped, Status::Created].contains(&state.status()) {
            match self.kill(SIGKILL, self.exec.is_empty()).await {
                Ok(()) => {
                    self.wait(PATIENCE).await?;
                }
                // It ended by itself just now.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.delete().await
    }
}

/// Asks again when the daemon is away, which a restart makes it for a moment.
///
/// # Errors
/// What the daemon answers, and that it stayed away for longer than `patience`.
pub async fn patiently<T>(
    patience: Duration,
    call: impl AsyncFn() -> Result<T, Error>,
) -> Result<T, Error> {
    let mut away_since = Instant::now();
    loop {
        let asked = Instant::now();
        let error = match call().await {
            Err(error) if error.kind() == ErrorKind::Unavailable => error,
            other => return other,
        };
        // A call that was held for a while had a daemon at its other end.
        if asked.elapsed() > RETRY {
            away_since = Instant::now();
        }
        if away_since.elapsed() > patience {
            return Err(error);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Being in the end what was wanted, whoever did it.
pub fn missing_is_fine<T>(result: Result<T, tonic::Status>) -> Result<(), Error> {
    match result.map_err(Error::from) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map(|_| ()),
    }
}

/// How being attached ended.
#[derive(Debug)]
pub enum Outcome {
    /// The process ended, with this code.
    Exited(u32),
    /// The detach keys were typed. The directory has the FIFOs, which somebody
    /// must go on reading.
    Detached(PathBuf),
}

/// Says what streams a process gets.
///
/// # Errors
/// When a terminal is wanted and our input is none.
pub fn wanted(interactive: bool, terminal: bool) -> Result<Wanted, Error> {
    if interactive && terminal && !terminal::is_input() {
        return Err(Error::usage(
            "--tty and --interactive want a terminal, and standard input is none; leave --tty out",
        ));
    }
    Ok(Wanted { stdin: interactive, terminal })
}

/// Starts a process that was made with `streams`, and stays with it: its
/// output, our input, the terminal's size and signals, until it ends.
///
/// # Errors
/// What the daemon answers; the process is then left as it is.
pub async fn attach(
    process: &Process<'_>,
    mut streams: Streams,
    wanted: Wanted,
    keys: &DetachKeys,
    signals: &mut Signals,
) -> Result<Outcome, Error> {
    if wanted.terminal && process.exec.is_empty() {
        process.resize().await;
    }
    process.start().await?;
    let on_terminal = wanted.stdin && wanted.terminal;
    let raw = on_terminal
        .then(RawMode::enter)
        .transpose()
        .map_err(Error::io("cannot make the terminal raw"))?;
    let mut input = streams.copy(on_terminal.then_some(keys));
    if wanted.terminal && !process.exec.is_empty() {
        process.resize().await;
    }
    let waiting = process.wait(PATIENCE);
    tokio::pin!(waiting);
    let exit_code = loop {
        tokio::select! {
            code = &mut waiting => break code?,
            Some(met) = input.recv() => match met {
                Input::End => process.close_stdin().await,
                // As a pipeline ends who writes to nobody. It may have ended
                // meanwhile.
                Input::Unread => drop(process.kill(SIGKILL, false).await),
                Input::Detached => {
                    drop(raw);
                    return Ok(Outcome::Detached(streams.leave()));
                }
            },
            signal = signals.next() => match signal {
                Received::Resized if wanted.terminal => process.resize().await,
                Received::Resized => {}
                // It may have ended meanwhile; the loop sees that.
                Received::Forward(number) => drop(process.kill(number, false).await),
            },
        }
    };
    streams.drain().await;
    Ok(Outcome::Exited(exit_code))
}
