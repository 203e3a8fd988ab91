//! `davit inspect`, `info` and `version`.

use davit_client::Client;
use davit_protocols::grpc::containerd::services::introspection::v1::PluginsRequest;
use davit_protocols::grpc::containerd::services::namespaces::v1::ListNamespacesRequest;
use davit_types::ContainerId;
use serde_json::{Value, json};

use crate::args::{Format, Global, Inspect};
use crate::container::{self, Container, Defaults};
use crate::task::Process;
use crate::{Error, image, lifecycle, output};

/// `davit inspect`: a list with an object for each name.
///
/// # Errors
/// When nothing has one of the names.
pub async fn inspect(client: &Client, inspect: Inspect) -> Result<u8, Error> {
    let mut found = Vec::new();
    let mut missing = false;
    for name in &inspect.names {
        match one(client, name).await {
            Ok(value) => found.push(value),
            Err(error) => {
                output::complain(&error);
                missing = true;
            }
        }
    }
    output::json(&Value::Array(found))?;
    if missing { Err(Error::Told) } else { Ok(0) }
}

async fn one(client: &Client, name: &str) -> Result<Value, Error> {
    // A name with a slash or a colon cannot be a container's.
    if let Ok(id) = ContainerId::new(name) {
        let known = container::list(client).await?;
        if let Some(record) = known.into_iter().find(|container| container.id == name) {
            return container_json(client, &id, &record).await;
        }
    }
    image::inspect(client, name).await?.ok_or_else(|| {
        Error::usage(format!(
            "neither a container nor an image is called {name} in the namespace {}",
            client.namespace()
        ))
    })
}

async fn container_json(
    client: &Client,
    id: &ContainerId,
    record: &Container,
) -> Result<Value, Error> {
    let task = Process::first(client, id).state().await?.map(|state| {
        json!({
            "status": lifecycle::status_word(state.status()),
            "pid": state.pid,
            "exitCode": state.exit_status,
            "exitedAt": state.exited_at.as_ref().and_then(output::time).map(|t| t.to_string()),
            "terminal": state.terminal,
            "stdin": state.stdin, "stdout": state.stdout, "stderr": state.stderr,
        })
    });
    let runtime = record.runtime.clone().unwrap_or_default();
    Ok(json!({
        "type": "container",
        "name": record.id,
        "image": record.image,
        "labels": record.labels,
        "runtime": {
            "name": runtime.name,
            "options": runtime.options.map(|options| options.type_url),
        },
        "snapshotter": record.snapshotter,
        "snapshotKey": record.snapshot_key,
        "sandbox": record.sandbox,
        "extensions": record.extensions.keys().collect::<Vec<_>>(),
        "createdAt": record.created_at.as_ref().and_then(output::time).map(|t| t.to_string()),
        "updatedAt": record.updated_at.as_ref().and_then(output::time).map(|t| t.to_string()),
        "task": task,
        "spec": container::spec(record)?,
    }))
}

/// `davit info`.
///
/// # Errors
/// What the daemon answers.
pub async fn info(client: &Client, global: &Global) -> Result<u8, Error> {
    let server = client.introspection().server(()).await?.into_inner();
    let version = client.version().version(()).await?.into_inner();
    let plugins = client.introspection().plugins(PluginsRequest::default()).await?;
    let plugins = plugins.into_inner().plugins;
    let namespaces = client.namespaces().list(ListNamespacesRequest::default()).await?;
    let mut namespaces: Vec<String> =
        namespaces.into_inner().namespaces.into_iter().map(|namespace| namespace.name).collect();
    namespaces.sort();
    let defaults = Defaults::of(client).await?;
    // Plugins that leave themselves out say so with Unimplemented or as a skip.
    let well = |error: &Option<_>| error.is_none();
    let snapshotters: Vec<&str> = plugins
        .iter()
        .filter(|plugin| plugin.r#type.contains(".snapshotter.") && well(&plugin.init_err))
        .map(|plugin| plugin.id.as_str())
        .collect();
    let containers = container::list(client).await?.len();
    let value = json!({
        "address": global.address.display().to_string(),
        "version": version.version,
        "revision": version.revision,
        "uuid": server.uuid,
        "pid": server.pid,
        "namespace": client.namespace().as_str(),
        "namespaces": namespaces,
        "defaultRuntime": defaults.runtime,
        "defaultSnapshotter": defaults.snapshotter,
        "snapshotters": snapshotters,
        "plugins": plugins.len(),
        "containers": containers,
    });
    print_object(&value, global.format)?;
    Ok(0)
}

/// `davit version`: the daemon's too, where there is one.
///
/// # Errors
/// When the daemon cannot be asked; our own version is printed even so.
pub async fn version(client: Result<Client, Error>, format: Format) -> Result<u8, Error> {
    let server = async {
        let answer = client?.version().version(()).await?.into_inner();
        Ok::<_, Error>(json!({"version": answer.version, "revision": answer.revision}))
    };
    let server = server.await;
    let own = env!("CARGO_PKG_VERSION");
    match format {
        Format::Json => output::json(&json!({
            "client": {"version": own}, "server": server.as_ref().ok(),
        }))?,
        Format::Table => {
            output::line(&format!("Client: {own}"))?;
            if let Ok(server) = &server {
                let word = |key: &str| server[key].as_str().unwrap_or_default().to_owned();
                let text = format!("Server: {} {}", word("version"), word("revision"));
                output::line(text.trim_end())?;
            }
        }
    }
    server.map(|_| 0)
}

/// Prints the fields of an object, a line each, or the object.
fn print_object(value: &Value, format: Format) -> Result<(), Error> {
    if format == Format::Json {
        return output::json(value);
    }
    for (key, field) in value.as_object().into_iter().flatten() {
        let text = match field {
            Value::String(text) => text.clone(),
            Value::Array(list) => {
                list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        };
        output::line(&format!("{:22}{text}", format!("{}:", spaced(key))))?;
    }
    Ok(())
}

/// `defaultRuntime` as `Default runtime`.
fn spaced(key: &str) -> String {
    let mut text = String::new();
    for (index, c) in key.char_indices() {
        match c {
            c if index == 0 => text.extend(c.to_uppercase()),
            c if c.is_uppercase() => {
                text.push(' ');
                text.extend(c.to_lowercase());
            }
            c => text.push(c),
        }
    }
    text
}
