//! The topics of containerd's events and the type that each carries.
//!
//! Sources in containerd: `core/runtime/events.go` for tasks,
//! `core/metadata/*.go` for what the index holds. The topics of sandboxes have
//! no slash in front there, which the exchange's rule for topics forbids; ours
//! have it. The events about images are in the package of their service, for
//! clients know them by that name.

macro_rules! topics {
    ($($(#[$doc:meta])* $name:ident = $topic:literal, $event:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $topic;)*

        /// Every topic with the full name of the message it carries.
        pub const TABLE: &[(&str, &str)] = &[$(($topic, $event)),*];
    };
}

topics! {
    /// A task was created; its process waits to be started.
    TASK_CREATE = "/tasks/create", "containerd.events.TaskCreate";
    /// A task's first process runs.
    TASK_START = "/tasks/start", "containerd.events.TaskStart";
    /// The kernel ran out of memory in a task's cgroup.
    TASK_OOM = "/tasks/oom", "containerd.events.TaskOOM";
    /// A process of a task ended, its first one or an exec.
    TASK_EXIT = "/tasks/exit", "containerd.events.TaskExit";
    /// A task, or an exec of it, was deleted.
    TASK_DELETE = "/tasks/delete", "containerd.events.TaskDelete";
    /// An exec was added and waits to be started.
    TASK_EXEC_ADDED = "/tasks/exec-added", "containerd.events.TaskExecAdded";
    /// An exec runs.
    TASK_EXEC_STARTED = "/tasks/exec-started", "containerd.events.TaskExecStarted";
    /// A task's processes were frozen.
    TASK_PAUSED = "/tasks/paused", "containerd.events.TaskPaused";
    /// A task's processes go on.
    TASK_RESUMED = "/tasks/resumed", "containerd.events.TaskResumed";
    /// A task was written to disk.
    TASK_CHECKPOINTED = "/tasks/checkpointed", "containerd.events.TaskCheckpointed";

    /// A container was added to the index.
    CONTAINER_CREATE = "/containers/create", "containerd.events.ContainerCreate";
    /// A container's record changed.
    CONTAINER_UPDATE = "/containers/update", "containerd.events.ContainerUpdate";
    /// A container was taken out of the index.
    CONTAINER_DELETE = "/containers/delete", "containerd.events.ContainerDelete";

    /// A blob was committed.
    CONTENT_CREATE = "/content/create", "containerd.events.ContentCreate";
    /// A blob was deleted.
    CONTENT_DELETE = "/content/delete", "containerd.events.ContentDelete";

    /// An image got its name.
    IMAGE_CREATE = "/images/create", "containerd.services.images.v1.ImageCreate";
    /// An image's target or labels changed.
    IMAGE_UPDATE = "/images/update", "containerd.services.images.v1.ImageUpdate";
    /// An image's name was deleted.
    IMAGE_DELETE = "/images/delete", "containerd.services.images.v1.ImageDelete";

    /// A namespace was created.
    NAMESPACE_CREATE = "/namespaces/create", "containerd.events.NamespaceCreate";
    /// A namespace's labels changed.
    NAMESPACE_UPDATE = "/namespaces/update", "containerd.events.NamespaceUpdate";
    /// A namespace was deleted.
    NAMESPACE_DELETE = "/namespaces/delete", "containerd.events.NamespaceDelete";

    /// A snapshot that can be written to was made.
    SNAPSHOT_PREPARE = "/snapshot/prepare", "containerd.events.SnapshotPrepare";
    /// A snapshot was given its lasting name.
    SNAPSHOT_COMMIT = "/snapshot/commit", "containerd.events.SnapshotCommit";
    /// A snapshot was removed.
    SNAPSHOT_REMOVE = "/snapshot/remove", "containerd.events.SnapshotRemove";

    /// A sandbox was created.
    SANDBOX_CREATE = "/sandboxes/create", "containerd.events.SandboxCreate";
    /// A sandbox runs.
    SANDBOX_START = "/sandboxes/start", "containerd.events.SandboxStart";
    /// A sandbox ended.
    SANDBOX_EXIT = "/sandboxes/exit", "containerd.events.SandboxExit";
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
        assert_eq!(of("containerd.services.images.v1.ImageCreate"), Some(IMAGE_CREATE));
    }

    #[test]
    fn topics_and_types_are_unique_and_well_formed() {
        use std::collections::BTreeSet;
        assert_eq!(TABLE.iter().map(|(t, _)| t).collect::<BTreeSet<_>>().len(), TABLE.len());
        assert_eq!(TABLE.iter().map(|(_, e)| e).collect::<BTreeSet<_>>().len(), TABLE.len());
        assert!(TABLE.iter().all(|(topic, _)| topic.starts_with('/')));
    }
}
