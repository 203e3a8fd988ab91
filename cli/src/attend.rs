//! The davit process that stays behind in the background, for a container
//! that was detached from: it keeps its streams flowing, waits, and removes.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use davit_client::Client;
use davit_types::ContainerId;

use crate::args::{Attend, Global};
use crate::task::Process;
use crate::{Error, container, streams};

/// How long the daemon may be away before nobody attends any more.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// What a container in the background needs.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// The exec that is attended to; the first process without one.
    pub exec: Option<&'a str>,
    /// The FIFOs to go on reading.
    pub streams: Option<&'a Path>,
    /// Whether the container is removed at its end.
    pub remove: bool,
}

/// Starts such a process for a container, and returns once it holds the
/// streams.
///
/// # Errors
/// When it cannot be started.
pub fn spawn(global: &Global, id: &ContainerId, needs: Needs<'_>) -> Result<(), Error> {
    let failed = || Error::io("cannot start a davit in the background");
    let mut command = Command::new(std::env::current_exe().map_err(failed())?);
    let address = std::path::absolute(&global.address).map_err(failed())?;
    command.arg("--address").arg(address).args(["--namespace", global.namespace.as_str()]);
    command.arg("attend");
    if needs.remove {
        command.arg("--rm");
    }
    if let Some(exec) = needs.exec {
        command.args(["--exec", exec]);
    }
    if let Some(directory) = needs.streams {
        command.arg("--streams").arg(directory);
    }
    command.arg(id.as_str()).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed())?;
    let mut word = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut word).map_err(failed())?;
    }
    if word.is_empty() {
        return Err(failed()(std::io::Error::other("it ended at once")));
    }
    Ok(())
}

/// `davit attend`.
///
/// # Errors
/// What the daemon answers; there is nobody who reads it.
pub async fn attend(client: &Client, attend: Attend) -> Result<u8, Error> {
    // A session of its own: the terminal that davit was called on may go.
    let _ = nix::unistd::setsid();
    let held = attend.streams.as_deref().map(streams::discard).transpose()?;
    close_stdout()?;
    let process = match &attend.exec {
        Some(exec) => Process::exec(client, &attend.container, exec),
        None => Process::first(client, &attend.container),
    };
    let waited = process.wait(PATIENCE).await;
    drop(held);
    if let Some(directory) = &attend.streams {
        std::fs::remove_dir_all(directory).map_err(Error::io(directory.display().to_string()))?;
    }
    let code = waited?;
    if attend.exec.is_some() {
        process.delete().await?;
    } else if attend.rm {
        let record = container::get(client, &attend.container).await?;
        process.delete().await?;
        container::remove(client, &attend.container, &record.snapshotter, &record.snapshot_key)
            .await?;
    } else {
        process.delete().await?;
        let code = code.to_string();
        container::set_label(client, &attend.container, container::EXIT_STATUS, &code).await?;
    }
    Ok(0)
}

/// Tells the davit that started us to go on.
fn close_stdout() -> Result<(), Error> {
    let failed = || Error::io("standard output");
    let mut out = std::io::stdout();
    out.write_all(b".").and_then(|()| out.flush()).map_err(failed())?;
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").map_err(failed())?;
    rustix::stdio::dup2_stdout(null).map_err(|errno| failed()(errno.into()))
}
