//! Which event goes to which topic
//! (containerd's `core/runtime/events.go`).

use davit_protocols::ttrpc::events;
use protobuf::Message;

/// A message that can be published.
pub trait Event: Message {
    /// Where subscribers find it.
    const TOPIC: &'static str;
    /// The message's full name, with no `type.googleapis.com/`.
    const TYPE_NAME: &'static str;
}

macro_rules! task_events {
    ($($message:ident $topic:literal),* $(,)?) => {$(
        impl Event for events::$message {
            const TOPIC: &'static str = concat!("/tasks/", $topic);
            const TYPE_NAME: &'static str = concat!("containerd.events.", stringify!($message));
        }
    )*};
}

task_events! {
    TaskCreate "create",
    TaskStart "start",
    TaskOOM "oom",
    TaskExit "exit",
    TaskDelete "delete",
    TaskExecAdded "exec-added",
    TaskExecStarted "exec-started",
    TaskPaused "paused",
    TaskResumed "resumed",
    TaskCheckpointed "checkpointed",
}
