//! Rows in which davitd answers otherwise than containerd, on purpose. Each
//! is in `docs/DEVIATIONS.md`, too, where clients could notice.

use tonic::Code;

use super::Answer;

/// Some rows that differ, and why.
#[derive(Debug)]
pub struct Difference {
    /// How the rows' labels begin.
    rows: &'static str,
    /// What is in their labels behind that.
    with: &'static str,
    /// What is other about them.
    what: What,
    /// Why ours stays.
    #[allow(dead_code, reason = "shown when a test fails")]
    reason: &'static str,
}

/// What may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Only the words.
    Words,
    /// The code, which is this one with us.
    Code(Code),
}

use What::{Code as Is, Words};

impl Difference {
    const fn new(rows: &'static str, with: &'static str, what: What, reason: &'static str) -> Self {
        Self { rows, with, what, reason }
    }

    /// Whether this is the reason why the row's answers are not the same.
    pub fn covers(&self, label: &str, ours: &Answer, theirs: &Answer) -> bool {
        let labelled = label.strip_prefix(self.rows).is_some_and(|rest| rest.contains(self.with));
        labelled
            && match self.what {
                Words => ours.code == theirs.code,
                Is(code) => ours.code == code,
            }
    }
}

/// A filter that cannot be read is the caller's mistake; the other services
/// of containerd say so.
const FILTER: &str = "a broken filter is an invalid argument in every service";
/// What the kernel said is there, and on what.
const MOUNT: &str = "no temporary directory of the daemon's is named";
/// The names of Go's types and functions.
const GO: &str = "the reason is the same, without Go's words";

/// Of the services that keep records.
pub const RECORDS: &[Difference] = &[
    Difference::new("diff.Diff of an unknown type", "", Words, MOUNT),
    Difference::new("diff.Diff of no source", "", Words, MOUNT),
    Difference::new("diff.Diff of junk for options", "", Words, MOUNT),
    Difference::new("events.Forward no timestamp", "", Is(Code::InvalidArgument), "as in 1.6"),
    Difference::new("events.Subscribe ", "", Is(Code::InvalidArgument), FILTER),
    Difference::new("introspection.Plugins ", "", Words, "the kind is said once"),
    Difference::new(
        "namespaces.Update ",
        "",
        Is(Code::InvalidArgument),
        "containerd makes a namespace that nobody can name",
    ),
    Difference::new("snapshots.List ", "", Is(Code::InvalidArgument), FILTER),
    Difference::new("snapshots.Prepare ", "empty", Words, "what is missing is the key"),
    Difference::new(
        "snapshots.View ",
        "empty",
        Is(Code::Unknown),
        "the key is looked at before the parent",
    ),
];

/// A namespace that is none is refused alike by every service.
const NAMESPACE: &str = "the namespace is looked at, and has the code of its message";
/// No namespace.
const REQUIRED: What = Is(Code::FailedPrecondition);

/// Of namespaces that are none.
pub const NAMESPACES: &[Difference] = &[
    Difference::new("content.Status ", "", Words, "the namespace is looked at first"),
    Difference::new("diff.Apply ", "", Words, "the namespace is looked at first"),
    Difference::new(
        "diff.Diff ",
        " in namespace none",
        Is(Code::FailedPrecondition),
        "the namespace is looked at first",
    ),
    Difference::new(
        "diff.Diff ",
        " in namespace empty",
        Is(Code::FailedPrecondition),
        "the namespace is looked at first",
    ),
    Difference::new(
        "diff.Diff ",
        "",
        Is(Code::InvalidArgument),
        "the namespace is looked at first",
    ),
    Difference::new("events.Subscribe ", "", Is(Code::InvalidArgument), FILTER),
    Difference::new("snapshots.Cleanup ", "", Is(Code::Ok), "it is about no namespace"),
    Difference::new("snapshots.Commit ", "", Words, "the snapshotter is there"),
    Difference::new("snapshots.List ", " in namespace none", REQUIRED, NAMESPACE),
    Difference::new("snapshots.List ", " in namespace empty", REQUIRED, NAMESPACE),
    Difference::new("snapshots.List ", "", Is(Code::InvalidArgument), NAMESPACE),
    Difference::new("tasks.Metrics ", " in namespace none", REQUIRED, NAMESPACE),
    Difference::new("tasks.Metrics ", " in namespace empty", REQUIRED, NAMESPACE),
    Difference::new("tasks.Metrics ", "", Is(Code::InvalidArgument), NAMESPACE),
    Difference::new("transfer.Transfer ", " in namespace none", REQUIRED, NAMESPACE),
    Difference::new("transfer.Transfer ", " in namespace empty", REQUIRED, NAMESPACE),
    Difference::new("transfer.Transfer ", "", Is(Code::InvalidArgument), NAMESPACE),
];

/// Of tasks that are none.
pub const UNKNOWN: &[Difference] =
    &[Difference::new("tasks.Metrics ", "", Is(Code::InvalidArgument), FILTER)];

/// A spec that is broken is the caller's mistake.
const SPEC: &str = "a container that cannot be run as described is an invalid argument";

/// Of tasks whose parts are missing or broken.
pub const BROKEN: &[Difference] = &[
    Difference::new("tasks.Create a spec that is a list", "", Is(Code::InvalidArgument), SPEC),
    Difference::new("tasks.Create a spec that is no JSON", "", Is(Code::InvalidArgument), SPEC),
    Difference::new("tasks.Create options", "junk", Is(Code::InvalidArgument), SPEC),
    Difference::new(
        "tasks.Create no checkpoint",
        "",
        Is(Code::NotFound),
        "the code of its message",
    ),
    Difference::new("tasks.Create a directory as shim", "", Words, GO),
    Difference::new("tasks.Create a shim that is none", "", Words, "what it said is shown"),
    Difference::new(
        "tasks.Create options of an unknown type",
        "",
        Words,
        "the shim decides what options it takes",
    ),
];

/// Of tasks in the wrong state.
pub const LIFE: &[Difference] = &[
    Difference::new("tasks.Kill by ", "", Words, "the binary's name is no news"),
    Difference::new("tasks.Exec exec with ", "", Words, GO),
    Difference::new("tasks.Update ", "", Words, "what was attempted is said"),
    Difference::new("tasks.Get stopped", "", Is(Code::Ok), "2.1's shim has crashed by then"),
];
