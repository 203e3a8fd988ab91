//! The events of tasks that matter here: the one that is looked at, and the
//! two that are published for a dead shim.

use std::time::SystemTime;

use davit_protocols::convert::grpc::{pack, time, timestamp, unpack};
use davit_protocols::convert::unset_time;
use davit_protocols::grpc::containerd::events;
use davit_types::{Any, ContainerId};

use crate::Exit;

/// The exit of a task's init, when `event` tells of one, with its id.
pub(crate) fn init_exit(event: &Any) -> Option<(ContainerId, Exit)> {
    let told: events::TaskExit = unpack(event).ok()?;
    if told.id != told.container_id {
        return None;
    }
    let at = told.exited_at.and_then(|stamp| time("exited_at", &stamp).ok());
    let exit = Exit { pid: told.pid, status: told.exit_status, at };
    Some((ContainerId::new(told.container_id).ok()?, exit))
}

/// Tells that the init of `id` has exited.
pub(crate) fn task_exit(id: &ContainerId, exit: &Exit) -> Any {
    pack(&events::TaskExit {
        container_id: id.to_string(),
        id: id.to_string(),
        pid: exit.pid,
        exit_status: exit.status,
        exited_at: Some(stamp(exit.at)),
    })
}

/// Tells that the task `id` was deleted.
pub(crate) fn task_delete(id: &ContainerId, exit: &Exit) -> Any {
    pack(&events::TaskDelete {
        container_id: id.to_string(),
        pid: exit.pid,
        exit_status: exit.status,
        exited_at: Some(stamp(exit.at)),
        id: String::new(),
    })
}

fn stamp(at: Option<SystemTime>) -> prost_types::Timestamp {
    timestamp(at.unwrap_or_else(unset_time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_inits_exit_counts() {
        let id = ContainerId::new("c1").unwrap();
        let exit = Exit { pid: 7, status: 137, at: Some(SystemTime::UNIX_EPOCH) };
        assert_eq!(init_exit(&task_exit(&id, &exit)), Some((id.clone(), exit.clone())));
        assert_eq!(init_exit(&task_delete(&id, &exit)), None);
        let exec =
            events::TaskExit { container_id: "c1".into(), id: "e1".into(), ..Default::default() };
        assert_eq!(init_exit(&pack(&exec)), None);
    }
}
