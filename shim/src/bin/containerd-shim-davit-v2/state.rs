//! What may be done to a process in which state: the whole table.
//!
//! The texts are those of containerd's Go shim
//! (`cmd/containerd-shim-runc-v2/process/{init,exec}_state.go`); clients
//! match some of them.

use davit_shim::Failure;
use davit_types::ErrorKind;

/// Where a process is in its life. A container's init may go through all of
/// them; an exec is never paused and never restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made (an exec: added), not running.
    Created,
    /// To be restored from a checkpoint; the runtime knows nothing of it yet.
    Restorable,
    /// Running.
    Running,
    /// Frozen.
    Paused,
    /// Its exit has been published.
    Stopped,
}

/// What may be asked of a process and depends on its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Run it.
    Start,
    /// Forget it.
    Delete,
    /// Freeze the container.
    Pause,
    /// Thaw the container.
    Resume,
    /// Change the container's limits.
    Update,
    /// Save the container.
    Checkpoint,
    /// Add a process to the container.
    Exec,
    /// Change the size of an exec's terminal.
    ResizeExec,
}

/// Whether `operation` may begin in `state`; the text of the refusal if not.
///
/// # Errors
/// The refusal, of kind unknown as the Go shim's plain errors are.
pub fn admit(state: State, operation: Operation) -> Result<(), Failure> {
    use Operation as O;
    use State as S;
    let refusal = match (state, operation) {
        (S::Created | S::Restorable, O::Start | O::Delete | O::Update)
        | (S::Created, O::Exec)
        | (S::Running, O::Pause | O::Update | O::Checkpoint | O::Exec)
        | (S::Paused, O::Resume | O::Update | O::Checkpoint)
        | (S::Stopped, O::Delete)
        | (S::Created | S::Running, O::ResizeExec) => return Ok(()),

        (S::Created | S::Restorable, O::Pause) => "cannot pause task in created state",
        (S::Created | S::Restorable, O::Resume) => "cannot resume task in created state",
        (S::Created | S::Restorable, O::Checkpoint) => "cannot checkpoint a task in created state",
        (S::Restorable, O::Exec) => "cannot exec in a created state",
        (S::Restorable | S::Paused, O::ResizeExec) => "process not created",

        (S::Running, O::Start) => "cannot start a running process",
        (S::Running, O::Delete) => "cannot delete a running process",
        (S::Running, O::Resume) => "cannot resume a running process",

        (S::Paused, O::Start) => "cannot start a paused process",
        (S::Paused, O::Delete) => "cannot delete a paused process",
        (S::Paused, O::Pause) => "cannot pause a paused container",
        (S::Paused, O::Exec) => "cannot exec in a paused state",

        (S::Stopped, O::Start) => "cannot start a stopped process",
        (S::Stopped, O::Pause) => "cannot pause a stopped container",
        (S::Stopped, O::Resume) => "cannot resume a stopped container",
        (S::Stopped, O::Update) => "cannot update a stopped container",
        (S::Stopped, O::Checkpoint) => "cannot checkpoint a stopped container",
        (S::Stopped, O::Exec) => "cannot exec in a stopped state",
        (S::Stopped, O::ResizeExec) => "cannot resize a stopped container",
    };
    Err(Failure::new(ErrorKind::Unknown, refusal))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows: states; columns: operations; `+` admitted, otherwise the words
    /// that the refusal has.
    #[test]
    fn the_table_is_the_go_shims() {
        use Operation as O;
        use State as S;
        let rows: &[(State, &[(Operation, &str)])] = &[
            (
                S::Created,
                &[
                    (O::Start, "+"),
                    (O::Delete, "+"),
                    (O::Pause, "cannot pause task in created state"),
                    (O::Resume, "cannot resume task in created state"),
                    (O::Update, "+"),
                    (O::Checkpoint, "cannot checkpoint a task in created state"),
                    (O::Exec, "+"),
                ],
            ),
            (
                S::Restorable,
                &[(O::Start, "+"), (O::Delete, "+"), (O::Exec, "cannot exec in a created state")],
            ),
            (
                S::Running,
                &[
                    (O::Start, "cannot start a running process"),
                    (O::Delete, "cannot delete a running process"),
                    (O::Pause, "+"),
                    (O::Resume, "cannot resume a running process"),
                    (O::Update, "+"),
                    (O::Checkpoint, "+"),
                    (O::Exec, "+"),
                ],
            ),
            (
                S::Paused,
                &[
                    (O::Start, "cannot start a paused process"),
                    (O::Delete, "cannot delete a paused process"),
                    (O::Pause, "cannot pause a paused container"),
                    (O::Resume, "+"),
                    (O::Update, "+"),
                    (O::Checkpoint, "+"),
                    (O::Exec, "cannot exec in a paused state"),
                ],
            ),
            (
                S::Stopped,
                &[
                    (O::Start, "cannot start a stopped process"),
                    (O::Delete, "+"),
                    (O::Pause, "cannot pause a stopped container"),
                    (O::Resume, "cannot resume a stopped container"),
                    (O::Update, "cannot update a stopped container"),
                    (O::Checkpoint, "cannot checkpoint a stopped container"),
                    (O::Exec, "cannot exec in a stopped state"),
                    (O::ResizeExec, "cannot resize a stopped container"),
                ],
            ),
        ];
        for (state, columns) in rows {
            for (operation, wanted) in *columns {
                let got = match admit(*state, *operation) {
                    Ok(()) => "+".to_owned(),
                    Err(refusal) => refusal.to_string(),
                };
                assert_eq!(got, *wanted, "{state:?} x {operation:?}");
            }
        }
    }
}
