//! `davit exec`: another process in a running container.

use davit_client::spec::PROCESS_TYPE;
use davit_client::{Client, user};
use davit_protocols::grpc::containerd::services::tasks::v1::ExecProcessRequest;
use serde_json::{Value, json};

use crate::args::{Exec, Format, Global};
use crate::attend::{self, Needs};
use crate::container::{self, Container};
use crate::run::{start_error, user_json};
use crate::signals::Signals;
use crate::streams::Streams;
use crate::task::{Outcome, Process, attach, wanted};
use crate::{Error, names, output, parse};

/// Runs a program in a container and hands back what davit ends with.
///
/// # Errors
/// Whatever fails; the process that had been added is deleted again.
pub async fn exec(client: &Client, exec: Exec, global: &Global) -> Result<u8, Error> {
    let wanted = wanted(exec.interactive, exec.tty)?;
    let record = container::get(client, &exec.container).await?;
    let spec = process_spec(client, &record, &exec).await?;
    let exec_id = format!("exec-{:016x}", names::random());
    let process = Process::exec(client, &exec.container, &exec_id);
    let streams = if exec.detach { None } else { Some(Streams::new(wanted)?) };
    let request = ExecProcessRequest {
        container_id: exec.container.to_string(),
        exec_id: exec_id.clone(),
        stdin: streams.as_ref().map(Streams::stdin).unwrap_or_default(),
        stdout: streams.as_ref().map(Streams::stdout).unwrap_or_default(),
        stderr: streams.as_ref().map(Streams::stderr).unwrap_or_default(),
        terminal: exec.tty,
        spec: Some(prost_types::Any {
            type_url: PROCESS_TYPE.to_owned(),
            value: spec.to_string().into_bytes(),
        }),
    };
    let mut signals = Signals::catch()?;
    client.tasks().exec(request).await?;
    let result = match streams {
        Some(streams) => {
            attach(&process, streams, wanted, &exec.detach_keys, &mut signals).await.map(Some)
        }
        None => process.start().await.map(|()| None),
    };
    let left = |streams| Needs { exec: Some(&exec_id), streams, remove: false };
    match result {
        Ok(Some(Outcome::Exited(code))) => {
            process.delete().await?;
            Ok(code as u8)
        }
        Ok(Some(Outcome::Detached(streams))) => {
            attend::spawn(global, &exec.container, left(Some(&streams)))?;
            Ok(0)
        }
        Ok(None) => {
            attend::spawn(global, &exec.container, left(None))?;
            if global.format == Format::Json {
                output::json(&json!({"container": exec.container.as_str(), "exec": exec_id}))?;
            }
            Ok(0)
        }
        Err(error) => {
            // The first error is the one to tell.
            let _ = process.end().await;
            Err(start_error(&exec.container, error))
        }
    }
}

/// The container's own process, changed as the command line says.
async fn process_spec(client: &Client, record: &Container, exec: &Exec) -> Result<Value, Error> {
    let mut process = container::spec(record)?["process"].take();
    if !process.is_object() {
        return Err(Error::usage(format!(
            "{} has no specification of a process to start from",
            record.id
        )));
    }
    process["args"] = json!(exec.command);
    process["terminal"] = json!(exec.tty);
    let mut env: Vec<String> = serde_json::from_value(process["env"].take()).unwrap_or_default();
    let own = parse::environment(&exec.env_file, &exec.env, |name| std::env::var(name).ok())?;
    let terminal = exec.tty.then(|| "TERM=xterm".to_owned());
    for variable in terminal.into_iter().chain(own) {
        let name = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
        env.retain(|old| name(old) != name(&variable));
        env.push(variable);
    }
    process["env"] = json!(env);
    if let Some(cwd) = &exec.workdir {
        process["cwd"] = json!(cwd);
    }
    if let Some(name) = &exec.user {
        let layers = user::layers(&container::mounts(client, record).await?);
        process["user"] = user_json(&user::find(name, &layers)?);
    }
    Ok(process)
}
