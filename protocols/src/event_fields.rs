//! What filters can ask of an event's payload.
//!
//! containerd generates a `Field` method for the messages of its events
//! (`cmd/protoc-gen-go-fieldpath`). It finds strings, labels and what is
//! inside other messages; numbers, times, lists and opaque messages it does
//! not, and an empty string counts as absent. Sandboxes' events have no such
//! method.

use davit_types::Any;
use prost::Message;

use crate::grpc::containerd::events::*;
use crate::grpc::containerd::services::images::v1::{ImageCreate, ImageDelete, ImageUpdate};

/// A message that filters can look into.
trait Field {
    fn field(&self, path: &[&str]) -> Option<String>;
}

/// Lists, for each message, the fields of each sort that are found.
macro_rules! fields {
    ($($message:ty: [$($text:ident),*] [$($labels:ident),*] [$($inner:ident),*];)*) => {
        $(impl Field for $message {
            fn field(&self, path: &[&str]) -> Option<String> {
                let (first, _rest) = path.split_first()?;
                match *first {
                    $(stringify!($text) => Some(self.$text.clone()).filter(|text| !text.is_empty()),)*
                    $(stringify!($labels) => self.$labels.get(&_rest.join(".")).cloned(),)*
                    $(stringify!($inner) => self.$inner.as_ref()?.field(_rest),)*
                    _ => None,
                }
            }
        })*
    };
}

fields! {
    ContainerCreate: [id, image] [] [runtime];
    container_create::Runtime: [name] [] [];
    ContainerUpdate: [id, image, snapshot_key] [labels] [];
    ContainerDelete: [id] [] [];
    ContentCreate: [digest] [] [];
    ContentDelete: [digest] [] [];
    ImageCreate: [name] [labels] [];
    ImageUpdate: [name] [labels] [];
    ImageDelete: [name] [] [];
    NamespaceCreate: [name] [labels] [];
    NamespaceUpdate: [name] [labels] [];
    NamespaceDelete: [name] [] [];
    SnapshotPrepare: [key, parent, snapshotter] [] [];
    SnapshotCommit: [key, name, snapshotter] [] [];
    SnapshotRemove: [key, snapshotter] [] [];
    TaskCreate: [container_id, bundle, checkpoint] [] [io];
    TaskIo: [stdin, stdout, stderr] [] [];
    TaskStart: [container_id] [] [];
    TaskDelete: [container_id, id] [] [];
    TaskExit: [container_id, id] [] [];
    TaskOom: [container_id] [] [];
    TaskExecAdded: [container_id, exec_id] [] [];
    TaskExecStarted: [container_id, exec_id] [] [];
    TaskPaused: [container_id] [] [];
    TaskResumed: [container_id] [] [];
    TaskCheckpointed: [container_id, checkpoint] [] [];
}

const EVENTS: &str = "containerd.events";
const IMAGES: &str = "containerd.services.images.v1";

/// The value of the field at `path` in the event `any`: `["container_id"]`,
/// `["labels", "a", "b"]` for the label `a.b`. `None` when there is no such
/// field, when it is empty, and when the payload is no event or is damaged.
pub fn event_field(any: &Any, path: &[&str]) -> Option<String> {
    fn of<M: Message + Default + Field>(any: &Any, path: &[&str]) -> Option<String> {
        M::decode(any.value.as_slice()).ok()?.field(path)
    }
    let name = any.type_url.rsplit('/').next()?;
    let read = match name.rsplit_once('.')? {
        (EVENTS, "ContainerCreate") => of::<ContainerCreate>,
        (EVENTS, "ContainerUpdate") => of::<ContainerUpdate>,
        (EVENTS, "ContainerDelete") => of::<ContainerDelete>,
        (EVENTS, "ContentCreate") => of::<ContentCreate>,
        (EVENTS, "ContentDelete") => of::<ContentDelete>,
        (IMAGES, "ImageCreate") => of::<ImageCreate>,
        (IMAGES, "ImageUpdate") => of::<ImageUpdate>,
        (IMAGES, "ImageDelete") => of::<ImageDelete>,
        (EVENTS, "NamespaceCreate") => of::<NamespaceCreate>,
        (EVENTS, "NamespaceUpdate") => of::<NamespaceUpdate>,
        (EVENTS, "NamespaceDelete") => of::<NamespaceDelete>,
        (EVENTS, "SnapshotPrepare") => of::<SnapshotPrepare>,
        (EVENTS, "SnapshotCommit") => of::<SnapshotCommit>,
        (EVENTS, "SnapshotRemove") => of::<SnapshotRemove>,
        (EVENTS, "TaskCreate") => of::<TaskCreate>,
        (EVENTS, "TaskStart") => of::<TaskStart>,
        (EVENTS, "TaskDelete") => of::<TaskDelete>,
        (EVENTS, "TaskExit") => of::<TaskExit>,
        (EVENTS, "TaskOOM") => of::<TaskOom>,
        (EVENTS, "TaskExecAdded") => of::<TaskExecAdded>,
        (EVENTS, "TaskExecStarted") => of::<TaskExecStarted>,
        (EVENTS, "TaskPaused") => of::<TaskPaused>,
        (EVENTS, "TaskResumed") => of::<TaskResumed>,
        (EVENTS, "TaskCheckpointed") => of::<TaskCheckpointed>,
        _ => return None,
    };
    read(any, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::grpc::pack;

    #[test]
    fn finds_strings_labels_and_what_is_inside() {
        let exit = pack(&TaskExit { container_id: "c".into(), pid: 3, ..Default::default() });
        assert_eq!(event_field(&exit, &["container_id"]).as_deref(), Some("c"));
        assert_eq!(event_field(&exit, &["id"]), None, "empty");
        assert_eq!(event_field(&exit, &["pid"]), None, "a number");
        assert_eq!(event_field(&exit, &[]), None);

        let labels = [("a.b".to_owned(), "v".to_owned())].into();
        let update = pack(&ImageUpdate { name: "i".into(), labels });
        assert_eq!(event_field(&update, &["labels", "a", "b"]).as_deref(), Some("v"));
        assert_eq!(event_field(&update, &["labels", "a"]), None);

        let io = Some(TaskIo { stdout: "/o".into(), ..Default::default() });
        let create = pack(&TaskCreate { io, ..Default::default() });
        assert_eq!(event_field(&create, &["io", "stdout"]).as_deref(), Some("/o"));
    }

    #[test]
    fn what_is_no_event_has_no_fields() {
        let damaged = Any { type_url: "containerd.events.TaskExit".into(), value: vec![0xff] };
        assert_eq!(event_field(&damaged, &["container_id"]), None);
        assert_eq!(event_field(&Any::default(), &["container_id"]), None);
    }
}
