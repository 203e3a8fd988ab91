//! `davit events`: what happens in the daemon, as lines or as JSON.

use davit_client::Client;
use davit_protocols::grpc::containerd::events::*;
use davit_protocols::grpc::containerd::services::events::v1::SubscribeRequest;
use davit_protocols::grpc::containerd::services::images::v1::{
    ImageCreate, ImageDelete, ImageUpdate,
};
use davit_protocols::grpc::containerd::types::{Envelope, Mount};
use prost::Message;
use serde_json::{Value, json};

use crate::args::{Events, Format};
use crate::{Error, output};

/// Prints events until the daemon goes away or davit is ended.
///
/// # Errors
/// What the daemon answers.
pub async fn events(client: &Client, events: Events, format: Format) -> Result<u8, Error> {
    let filters = filters(client.namespace().as_str(), &events);
    let subscribe = SubscribeRequest { filters };
    let mut stream = client.events().subscribe(subscribe).await?.into_inner();
    while let Some(envelope) = stream.message().await? {
        print(&envelope, format)?;
    }
    Ok(0)
}

/// Each filter, narrowed to the namespace.
fn filters(namespace: &str, events: &Events) -> Vec<String> {
    if events.all_namespaces {
        return events.filters.clone();
    }
    let own = format!("namespace=={namespace}");
    if events.filters.is_empty() {
        return vec![own];
    }
    events.filters.iter().map(|filter| format!("{own},{filter}")).collect()
}

fn print(envelope: &Envelope, format: Format) -> Result<(), Error> {
    let time = envelope.timestamp.as_ref().and_then(output::time);
    let time = time.map(|time| time.to_string()).unwrap_or_default();
    let event = envelope.event.clone().unwrap_or_default();
    let payload = payload(&event.type_url, &event.value);
    output::line(&match format {
        Format::Table => {
            format!("{time}  {}  {}  {payload}", envelope.namespace, envelope.topic)
        }
        Format::Json => json!({
            "timestamp": time,
            "namespace": envelope.namespace,
            "topic": envelope.topic,
            "type": event.type_url,
            "event": payload,
        })
        .to_string(),
    })
}

/// What JSON calls a field's value.
trait Json {
    fn json(&self) -> Value;
}

macro_rules! plain {
    ($($kind:ty),*) => { $(impl Json for $kind {
        fn json(&self) -> Value { json!(self) }
    })* };
}

plain!(String, u32, i64, davit_types::Labels);

impl<T: Json> Json for Option<T> {
    fn json(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::json)
    }
}

impl<T: Json> Json for Vec<T> {
    fn json(&self) -> Value {
        self.iter().map(T::json).collect()
    }
}

impl Json for prost_types::Timestamp {
    fn json(&self) -> Value {
        json!(output::time(self).map(|time| time.to_string()))
    }
}

impl Json for container_create::Runtime {
    fn json(&self) -> Value {
        json!({"name": self.name})
    }
}

impl Json for TaskIo {
    fn json(&self) -> Value {
        json!({
            "stdin": self.stdin, "stdout": self.stdout, "stderr": self.stderr,
            "terminal": self.terminal,
        })
    }
}

impl Json for Mount {
    fn json(&self) -> Value {
        json!({"type": self.r#type, "source": self.source, "options": self.options})
    }
}

/// Lists the messages with their full names and fields, and makes of them the
/// function that turns a payload into JSON. Empty fields are left out.
macro_rules! payloads {
    ($($name:literal $message:ident: $($field:ident),*;)*) => {
        fn known(name: &str, bytes: &[u8]) -> Option<Value> {
            match name {
                $($name => {
                    let message = $message::decode(bytes).ok()?;
                    let mut object = serde_json::Map::new();
                    $(object.insert(stringify!($field).to_owned(), message.$field.json());)*
                    object.retain(|_, value| !is_empty(value));
                    Some(Value::Object(object))
                })*
                _ => None,
            }
        }
    };
}

payloads! {
    "containerd.events.ContainerCreate" ContainerCreate: id, image, runtime;
    "containerd.events.ContainerUpdate" ContainerUpdate: id, image, labels, snapshot_key;
    "containerd.events.ContainerDelete" ContainerDelete: id;
    "containerd.events.ContentCreate" ContentCreate: digest, size;
    "containerd.events.ContentDelete" ContentDelete: digest;
    "containerd.services.images.v1.ImageCreate" ImageCreate: name, labels;
    "containerd.services.images.v1.ImageUpdate" ImageUpdate: name, labels;
    "containerd.services.images.v1.ImageDelete" ImageDelete: name;
    "containerd.events.NamespaceCreate" NamespaceCreate: name, labels;
    "containerd.events.NamespaceUpdate" NamespaceUpdate: name, labels;
    "containerd.events.NamespaceDelete" NamespaceDelete: name;
    "containerd.events.SnapshotPrepare" SnapshotPrepare: key, parent, snapshotter;
    "containerd.events.SnapshotCommit" SnapshotCommit: key, name, snapshotter;
    "containerd.events.SnapshotRemove" SnapshotRemove: key, snapshotter;
    "containerd.events.SandboxCreate" SandboxCreate: sandbox_id;
    "containerd.events.SandboxStart" SandboxStart: sandbox_id;
    "containerd.events.SandboxExit" SandboxExit: sandbox_id, exit_status, exited_at;
    "containerd.events.TaskCreate" TaskCreate: container_id, bundle, rootfs, io, checkpoint, pid;
    "containerd.events.TaskStart" TaskStart: container_id, pid;
    "containerd.events.TaskDelete" TaskDelete: container_id, pid, exit_status, exited_at, id;
    "containerd.events.TaskExit" TaskExit: container_id, id, pid, exit_status, exited_at;
    "containerd.events.TaskOOM" TaskOom: container_id;
    "containerd.events.TaskExecAdded" TaskExecAdded: container_id, exec_id;
    "containerd.events.TaskExecStarted" TaskExecStarted: container_id, exec_id, pid;
    "containerd.events.TaskPaused" TaskPaused: container_id;
    "containerd.events.TaskResumed" TaskResumed: container_id;
    "containerd.events.TaskCheckpointed" TaskCheckpointed: container_id, checkpoint;
}

/// Whether a field says nothing; numbers always say something.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}

/// What happened, as JSON; for an unknown type its name and size.
fn payload(type_url: &str, bytes: &[u8]) -> Value {
    let name = type_url.rsplit('/').next().unwrap_or(type_url);
    known(name, bytes).unwrap_or_else(|| json!({"type": name, "bytes": bytes.len()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_become_json() {
        let exit = TaskExit {
            container_id: "c".into(),
            pid: 7,
            exited_at: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            ..Default::default()
        };
        assert_eq!(
            payload("containerd.events.TaskExit", &exit.encode_to_vec()),
            json!({
                "container_id": "c", "pid": 7, "exit_status": 0,
                "exited_at": "1970-01-01T00:00:01Z",
            })
        );
        assert_eq!(payload("x/Other", b"ab"), json!({"type": "Other", "bytes": 2}));
    }

    #[test]
    fn every_event_that_has_a_topic_is_known() {
        for (_, name) in davit_protocols::topics::TABLE {
            assert!(known(name, &[]).is_some(), "{name}");
        }
    }

    #[test]
    fn filters_stay_in_the_namespace() {
        let events = |filters: &[&str], all_namespaces| Events {
            filters: filters.iter().map(|text| text.to_string()).collect(),
            all_namespaces,
        };
        assert_eq!(filters("a", &events(&[], false)), ["namespace==a"]);
        assert_eq!(
            filters("a", &events(&["topic==/x", "topic==/y"], false)),
            ["namespace==a,topic==/x", "namespace==a,topic==/y"]
        );
        assert_eq!(filters("a", &events(&["topic==/x"], true)), ["topic==/x"]);
    }
}
