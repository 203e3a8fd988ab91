//! What a container's labels want, and what is to be done about it.
//!
//! Inherited from containerd 2 (`core/runtime/restart`): the labels, the
//! policies, and the error texts.

use davit_runtime::Status;
use davit_types::Labels;

/// The state that a container is to be kept in: `running` or `stopped`.
pub const STATUS: &str = "containerd.io/restart.status";
/// When it is started again.
pub const POLICY: &str = "containerd.io/restart.policy";
/// How often it was.
pub const COUNT: &str = "containerd.io/restart.count";
/// That somebody has stopped it on purpose.
pub const EXPLICITLY_STOPPED: &str = "containerd.io/restart.explicitly-stopped";
/// Where its output goes.
pub const LOG_URI: &str = "containerd.io/restart.loguri";
/// What all of them start with.
pub const PREFIX: &str = "containerd.io/restart.";

/// What is to be done about a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Leave,
    /// Make a new task and start it; this is the how-manieth time.
    Start {
        /// The new value of [`COUNT`].
        count: u64,
    },
    /// End its task.
    Stop,
}

/// Decides. `task` is the status of the container's task and its exit status;
/// `None` where it has none.
///
/// # Errors
/// In words, what is wrong with the labels.
pub fn decide(labels: &Labels, task: Option<(Status, u32)>) -> Result<Action, String> {
    let (status, exit_status) = task.unwrap_or((Status::Unknown, 0));
    match (labels.get(STATUS).map(String::as_str), status) {
        (Some("running"), Status::Running | Status::Paused | Status::Pausing) => Ok(Action::Leave),
        (Some("running"), _) if wants_restart(labels, exit_status)? => {
            Ok(Action::Start { count: count(labels).unwrap_or(0) + 1 })
        }
        (Some("stopped"), Status::Stopped) => Ok(Action::Leave),
        (Some("stopped"), _) if task.is_some() => Ok(Action::Stop),
        _ => Ok(Action::Leave),
    }
}

fn wants_restart(labels: &Labels, exit_status: u32) -> Result<bool, String> {
    let policy = labels.get(POLICY).map_or("", String::as_str);
    let (name, limit) = match policy.split_once(':') {
        Some((name, limit)) => (name, Some(limit)),
        None => (policy, None),
    };
    match (name, limit) {
        ("" | "always", None) => Ok(true),
        ("no", None) => Ok(false),
        ("unless-stopped", None) => {
            let stopped = labels.get(EXPLICITLY_STOPPED).map_or("", String::as_str);
            Ok(!is_true(stopped))
        }
        ("on-failure", limit) => {
            let limit = match limit {
                None => 0,
                Some(text) => {
                    text.parse().map_err(|_| format!("invalid max retry count: {text}"))?
                }
            };
            Ok(exit_status != 0 && (limit == 0 || count(labels)? < limit))
        }
        ("" | "always" | "no" | "unless-stopped", Some(_)) => {
            Err(format!("restart policy {name:?} not support max retry count"))
        }
        _ => Err(format!("restart policy {policy:?} not supported")),
    }
}

fn count(labels: &Labels) -> Result<u64, String> {
    match labels.get(COUNT).map(String::as_str) {
        None | Some("") => Ok(0),
        Some(text) => text.parse().map_err(|_| format!("restart count {text:?} is no number")),
    }
}

/// As Go's `strconv.ParseBool`.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE: Option<(Status, u32)> = None;
    const RUNNING: Option<(Status, u32)> = Some((Status::Running, 0));
    const FAILED: Option<(Status, u32)> = Some((Status::Stopped, 7));
    const ENDED: Option<(Status, u32)> = Some((Status::Stopped, 0));
    const PAUSED: Option<(Status, u32)> = Some((Status::Paused, 0));

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned())).collect()
    }

    #[test]
    fn every_policy_does_what_containerd_does() {
        let start = |count| Action::Start { count };
        for (pairs, task, expected) in [
            (&[][..], GONE, Action::Leave),
            (&[("status", "running")], GONE, start(1)),
            (&[("status", "running")], ENDED, start(1)),
            (&[("status", "running")], RUNNING, Action::Leave),
            (&[("status", "running")], PAUSED, Action::Leave),
            (&[("status", "running"), ("count", "4")], FAILED, start(5)),
            (&[("status", "running"), ("policy", "always")], ENDED, start(1)),
            (&[("status", "running"), ("policy", "no")], FAILED, Action::Leave),
            (&[("status", "running"), ("policy", "on-failure")], ENDED, Action::Leave),
            (&[("status", "running"), ("policy", "on-failure")], FAILED, start(1)),
            (
                &[("status", "running"), ("policy", "on-failure:3"), ("count", "2")],
                FAILED,
                start(3),
            ),
            (
                &[("status", "running"), ("policy", "on-failure:3"), ("count", "3")],
                FAILED,
                Action::Leave,
            ),
            (&[("status", "running"), ("policy", "unless-stopped")], ENDED, start(1)),
            (
                &[
                    ("status", "running"),
                    ("policy", "unless-stopped"),
                    ("explicitly-stopped", "true"),
                ],
                ENDED,
                Action::Leave,
            ),
            (&[("status", "stopped")], RUNNING, Action::Stop),
            (&[("status", "stopped")], PAUSED, Action::Stop),
            (&[("status", "stopped")], ENDED, Action::Leave),
            (&[("status", "stopped")], GONE, Action::Leave),
            (&[("status", "other")], RUNNING, Action::Leave),
        ] {
            assert_eq!(decide(&labels(pairs), task), Ok(expected), "{pairs:?} {task:?}");
        }
    }

    #[test]
    fn labels_that_make_no_sense_are_named() {
        for (policy, expected) in [
            ("sometimes", "restart policy \"sometimes\" not supported"),
            ("always:3", "restart policy \"always\" not support max retry count"),
            ("on-failure:x", "invalid max retry count: x"),
        ] {
            let labels = labels(&[("status", "running"), ("policy", policy)]);
            assert_eq!(decide(&labels, FAILED), Err(expected.to_owned()));
        }
    }
}
