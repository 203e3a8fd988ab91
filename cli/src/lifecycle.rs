//! `davit ps`, `start`, `stop`, `kill` and `rm`.

use std::collections::BTreeMap;
use std::time::Duration;

use davit_client::Client;
use davit_protocols::grpc::containerd::services::tasks::v1::ListTasksRequest;
use davit_protocols::grpc::containerd::v1::types::{Process as State, Status};
use davit_types::{ContainerId, ErrorKind};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::args::{Format, Global, Kill, Ps, Remove, Start, Stop};
use crate::attend::{self, Needs};
use crate::container::{self, Container};
use crate::run::{create_task, start_error};
use crate::signals::Signals;
use crate::streams::Streams;
use crate::table::{self, Table};
use crate::task::{Outcome, PATIENCE, Process, attach, wanted};
use crate::{Error, output, parse};

const SIGTERM: u32 = 15;

/// The word for how a task is; that of a container without one is told by
/// [`ended`].
pub fn status_word(status: Status) -> &'static str {
    match status {
        Status::Unknown => "unknown",
        Status::Created => "created",
        Status::Running => "running",
        Status::Stopped => "exited",
        Status::Paused => "paused",
        Status::Pausing => "pausing",
    }
}

/// How a container without a task is: never started, or exited with a code.
fn ended(container: &Container) -> (&'static str, Option<u32>) {
    match container.labels.get(container::EXIT_STATUS).and_then(|code| code.parse().ok()) {
        Some(code) => ("exited", Some(code)),
        None => ("created", None),
    }
}

/// `davit ps`.
///
/// # Errors
/// What the daemon answers.
pub async fn ps(client: &Client, ps: Ps, format: Format) -> Result<u8, Error> {
    let mut tasks_client = client.tasks();
    let tasks = tasks_client.list(ListTasksRequest::default());
    let (containers, tasks) = tokio::join!(container::list(client), tasks);
    let tasks: BTreeMap<String, State> =
        tasks?.into_inner().tasks.into_iter().map(|task| (task.id.clone(), task)).collect();
    let now = Timestamp::now();
    let mut table = Table::new(&["NAME", "IMAGE", "COMMAND", "CREATED", "STATUS", "PID"]);
    let (mut rows, mut ids) = (Vec::new(), Vec::new());
    for record in containers? {
        let task = tasks.get(&record.id);
        let alive = task.is_some_and(|task| task.status() != Status::Stopped);
        if !alive && !ps.all {
            continue;
        }
        let (word, code) = match task {
            Some(task) if !alive => (status_word(task.status()), Some(task.exit_status)),
            Some(task) => (status_word(task.status()), None),
            None => ended(&record),
        };
        let pid = task.filter(|_| alive).map(|task| task.pid);
        let created = record.created_at.as_ref().and_then(output::time);
        let command = command(&record);
        table.row([
            record.id.clone(),
            record.image.clone(),
            command.join(" "),
            format!("{} ago", table::age(created, now)),
            code.map_or_else(|| word.to_owned(), |code| format!("{word} ({code})")),
            pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        ]);
        rows.push(json!({
            "name": record.id,
            "image": record.image,
            "command": command,
            "createdAt": created.map(|time| time.to_string()),
            "status": word,
            "exitCode": code,
            "pid": pid,
            "runtime": record.runtime.as_ref().map(|runtime| &runtime.name),
            "labels": record.labels,
        }));
        ids.push(record.id);
    }
    if ps.quiet {
        output::names(format, "container", ids.iter().map(String::as_str))?;
    } else {
        output::rows(format, &table, rows)?;
    }
    Ok(0)
}

fn command(record: &Container) -> Vec<String> {
    let spec = container::spec(record).unwrap_or(Value::Null);
    serde_json::from_value(spec["process"]["args"].clone()).unwrap_or_default()
}

/// `davit start`.
///
/// # Errors
/// What the daemon answers.
pub async fn start(client: &Client, start: Start, global: &Global) -> Result<u8, Error> {
    if !start.attach {
        let action = async |id: &ContainerId| start_in_background(client, id).await;
        return output::each(global.format, "container", &start.containers, action).await;
    }
    let [id] = &start.containers[..] else {
        return Err(Error::usage("--attach takes one container"));
    };
    let record = startable(client, id).await?;
    let terminal = has_terminal(&record)?;
    let wanted = wanted(start.interactive, terminal)?;
    let mut signals = Signals::catch()?;
    let mounts = container::mounts(client, &record).await?;
    let streams = Streams::new(wanted)?;
    create_task(client, id, mounts, Some(&streams), terminal, None).await?;
    let process = Process::first(client, id);
    match attach(&process, streams, wanted, &start.detach_keys, &mut signals).await {
        Ok(Outcome::Exited(code)) => {
            process.delete().await?;
            container::set_label(client, id, container::EXIT_STATUS, &code.to_string()).await?;
            Ok(code as u8)
        }
        Ok(Outcome::Detached(streams)) => {
            let needs = Needs { exec: None, streams: Some(&streams), remove: false };
            attend::spawn(global, id, needs)?;
            Ok(0)
        }
        Err(error) => {
            // The first error is the one to tell.
            let _ = process.end().await;
            Err(start_error(id, error))
        }
    }
}

async fn start_in_background(client: &Client, id: &ContainerId) -> Result<(), Error> {
    let record = startable(client, id).await?;
    if has_terminal(&record)? {
        return Err(Error::usage(format!(
            "{id} was made with --tty and wants somebody at it: davit start --attach -i {id}"
        )));
    }
    let mounts = container::mounts(client, &record).await?;
    create_task(client, id, mounts, None, false, None).await?;
    let process = Process::first(client, id);
    if let Err(error) = process.start().await {
        // The first error is the one to tell.
        let _ = process.end().await;
        return Err(start_error(id, error));
    }
    Ok(())
}

fn has_terminal(record: &Container) -> Result<bool, Error> {
    Ok(container::spec(record)?["process"]["terminal"] == true)
}

/// The record of a container that has no task any more, once the one that
/// ended is forgotten.
async fn startable(client: &Client, id: &ContainerId) -> Result<Container, Error> {
    let record = container::get(client, id).await?;
    let process = Process::first(client, id);
    match process.state().await? {
        Some(state) if state.status() == Status::Stopped => process.delete().await?,
        Some(state) => {
            let word = status_word(state.status());
            return Err(Error::usage(format!("{id} is {word} already")));
        }
        None => {}
    }
    Ok(record)
}

/// `davit stop`.
///
/// # Errors
/// [`Error::Told`] when some could not be stopped.
pub async fn stop(client: &Client, stop: Stop, format: Format) -> Result<u8, Error> {
    let grace = Duration::from_secs(stop.seconds);
    output::each(format, "container", &stop.containers, async |id| {
        stop_one(client, id, grace).await
    })
    .await
}

async fn stop_one(client: &Client, id: &ContainerId, grace: Duration) -> Result<(), Error> {
    const SIGKILL: u32 = 9;
    let record = container::get(client, id).await?;
    let process = Process::first(client, id);
    match process.state().await? {
        None => return Ok(()),
        Some(state) if state.status() == Status::Stopped => return Ok(()),
        Some(_) => {}
    }
    let wish = record.labels.get(container::STOP_SIGNAL);
    let signal = wish.and_then(|text| parse::signal(text).ok()).map_or(SIGTERM, |s| s.0);
    let gone = |result: Result<(), Error>| match result {
        // It ended by itself just now.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    };
    gone(process.kill(signal, false).await)?;
    let ended = async { gone(process.wait(PATIENCE).await.map(|_| ())) };
    match tokio::time::timeout(grace, ended).await {
        Ok(result) => result,
        Err(_) => {
            gone(process.kill(SIGKILL, true).await)?;
            gone(process.wait(PATIENCE).await.map(|_| ()))
        }
    }
}

/// `davit kill`.
///
/// # Errors
/// [`Error::Told`] when some got no signal.
pub async fn kill(client: &Client, kill: Kill, format: Format) -> Result<u8, Error> {
    output::each(format, "container", &kill.containers, async |id| {
        container::get(client, id).await?;
        match Process::first(client, id).kill(kill.signal.0, kill.all).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(Error::usage(format!("{id} does not run")))
            }
            other => other,
        }
    })
    .await
}

/// `davit rm`.
///
/// # Errors
/// [`Error::Told`] when some could not be removed.
pub async fn remove(client: &Client, remove: Remove, format: Format) -> Result<u8, Error> {
    output::each(format, "container", &remove.containers, async |id| {
        let record = container::get(client, id).await?;
        let process = Process::first(client, id);
        if let Some(state) = process.state().await? {
            let running = ![Status::Stopped, Status::Created].contains(&state.status());
            if running && !remove.force {
                return Err(Error::usage(format!(
                    "{id} is {}; stop it first (davit stop {id}), or use --force",
                    status_word(state.status())
                )));
            }
            process.end().await?;
        }
        container::remove(client, id, &record.snapshotter, &record.snapshot_key).await
    })
    .await
}
