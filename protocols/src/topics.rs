//! The topics of containerd's events and the type that each carries.
//!
//! Sources in containerd: `core/runtime/events.go` for tasks,
//! `core/metadata/*.go` for what the index holds. Sandboxes' topics differ
//! there from all others in having no slash in front, so that the exchange
//! refuses them; ours have it.

macro_rules! topics {
    ($($(#[$doc:meta])* $name:ident = $topic:literal, $event:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $topic;)*

        /// Every topic with the full name of the message it carries.
        pub const TABLE: &[(&str, &str)] = &[$(($topic, concat!("containerd.events.", $event))),*];
    };
}

topics! {
    /// A task was created; its process waits to be started.
    TASK_CREATE = "/tasks/create", "TaskCreate";
    /// A task's first process runs.
    TASK_START = "/tasks/start", "TaskStart";
    /// The kernel ran out of memory in a task's cgroup.
    TASK_OOM = "/tasks/oom", "TaskOOM";
    /// A process of a task ended, its first one or an exec.
    TASK_EXIT = "/tasks/exit", "TaskExit";
    /// A task, or an exec of it, was deleted.
    TASK_DELETE = "/tasks/delete", "TaskDelete";
    /// An exec was added and waits to be started.
    TASK_EXEC_ADDED = "/tasks/exec-added", "TaskExecAdded";
    /// An exec runs.
    TASK_EXEC_STARTED = "/tasks/exec-started", "TaskExecStarted";
    /// A task's processes were frozen.
    TASK_PAUSED = "/tasks/paused", "TaskPaused";
    /// A task's processes go on.
    TASK_RESUMED = "/tasks/resumed", "TaskResumed";
    /// A task was written to disk.
    TASK_CHECKPOINTED = "/tasks/checkpointed", "TaskCheckpointed";

    /// A container was added to the index.
    CONTAINER_CREATE = "/containers/create", "ContainerCreate";
    /// A container's record changed.
    CONTAINER_UPDATE = "/containers/update", "ContainerUpdate";
    /// A container was taken out of the index.
    CONTAINER_DELETE = "/containers/delete", "ContainerDelete";

    /// A blob was committed.
    CONTENT_CREATE = "/content/create", "ContentCreate";
    /// A blob was deleted.
    CONTENT_DELETE = "/content/delete", "ContentDelete";

    /// An image got its name.
    IMAGE_CREATE = "/images/create", "ImageCreate";
    /// An image's target or labels changed.
    IMAGE_UPDATE = "/images/update", "ImageUpdate";
    /// An image's name was deleted.
    IMAGE_DELETE = "/images/delete", "ImageDelete";

    /// A namespace was created.
    NAMESPACE_CREATE = "/namespaces/create", "NamespaceCreate";
    /// A namespace's labels changed.
    NAMESPACE_UPDATE = "/namespaces/update", "NamespaceUpdate";
    /// A namespace was deleted.
    NAMESPACE_DELETE = "/namespaces/delete", "NamespaceDelete";

    /// A snapshot that can be written to was made.
    SNAPSHOT_PREPARE = "/snapshot/prepare", "SnapshotPrepare";
    /// A snapshot was given its lasting name.
    SNAPSHOT_COMMIT = "/snapshot/commit", "SnapshotCommit";
    /// A snapshot was removed.
    SNAPSHOT_REMOVE = "/snapshot/remove", "SnapshotRemove";

    /// A sandbox was created.
    SANDBOX_CREATE = "/sandboxes/create", "SandboxCreate";
    /// A sandbox runs.
    SANDBOX_START = "/sandboxes/start", "SandboxStart";
    /// A sandbox ended.
    SANDBOX_EXIT = "/sandboxes/exit", "SandboxExit";
}

/// The topic of events whose type nobody knows.
pub const TASK_UNKNOWN: &str = "/tasks/?";

/// The topic that events of the type `name` are published under; `name` is
/// full, `containerd.events.TaskExit`.
pub fn of(name: &str) -> Option<&'static str> {
    TABLE.iter().find(|(_, event)| *event == name).map(|(topic, _)| *topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_finds_its_topic() {
        assert_eq!(of("containerd.events.TaskExit"), Some(TASK_EXIT));
        assert_eq!(of("containerd.events.TaskIO"), None);
        assert_eq!(of("TaskExit"), None);
    }

    #[test]
    fn topics_and_types_are_unique_and_well_formed() {
        use std::collections::BTreeSet;
        assert_eq!(TABLE.iter().map(|(t, _)| t).collect::<BTreeSet<_>>().len(), TABLE.len());
        assert_eq!(TABLE.iter().map(|(_, e)| e).collect::<BTreeSet<_>>().len(), TABLE.len());
        assert!(TABLE.iter().all(|(topic, _)| topic.starts_with('/')));
    }
}
