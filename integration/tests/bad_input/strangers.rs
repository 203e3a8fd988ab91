//! One call of every method in namespaces that are none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use davit_integration::api::Call;
use davit_integration::{Daemon, Server};
use davit_protocols::grpc::containerd::services::content::v1 as content;
use davit_protocols::grpc::containerd::services::events::v1 as events;
use davit_protocols::grpc::containerd::services::images::v1 as images;
use davit_protocols::grpc::containerd::services::introspection::v1 as introspection;
use davit_protocols::grpc::containerd::services::leases::v1 as leases;
use davit_protocols::grpc::containerd::services::mounts::v1 as mounts;
use davit_protocols::grpc::containerd::services::namespaces::v1 as namespaces;
use davit_protocols::grpc::containerd::services::snapshots::v1 as snapshots;
use davit_protocols::grpc::containerd::services::streaming::v1::StreamInit;
use davit_protocols::grpc::containerd::services::tasks::v1 as tasks;
use davit_protocols::grpc::containerd::services::transfer::v1::TransferRequest;
use prost::Message;
use prost_types::Any;
use tonic::Code;

use crate::{Answers, records, tasks as rows};

/// Every method of every service that we have.
const METHODS: &[(&str, &[&str])] = &[
    ("containers", &["Get", "List", "ListStream", "Create", "Update", "Delete"]),
    (
        "content",
        &["Info", "Update", "List", "Delete", "Read", "Status", "ListStatuses", "Write", "Abort"],
    ),
    ("diff", &["Apply", "Diff"]),
    ("events", &["Publish", "Forward", "Subscribe"]),
    ("images", &["Get", "List", "Create", "Update", "Delete"]),
    ("introspection", &["Plugins", "Server", "PluginInfo"]),
    ("leases", &["Create", "Delete", "List", "AddResource", "DeleteResource", "ListResources"]),
    ("mounts", &["Activate", "Deactivate", "Info", "Update", "List"]),
    ("namespaces", &["Get", "List", "Create", "Update", "Delete"]),
    (
        "snapshots",
        &[
            "Prepare", "View", "Mounts", "Commit", "Remove", "Stat", "Update", "List", "Usage",
            "Cleanup",
        ],
    ),
    ("streaming", &["Stream"]),
    (
        "tasks",
        &[
            "Create",
            "Start",
            "Delete",
            "DeleteProcess",
            "Get",
            "List",
            "Kill",
            "Exec",
            "ResizePty",
            "CloseIO",
            "Pause",
            "Resume",
            "ListPids",
            "Checkpoint",
            "Update",
            "Metrics",
            "Wait",
        ],
    ),
    ("transfer", &["Transfer"]),
    ("version", &["Version"]),
];

/// What stands for a namespace that is none.
fn names() -> [(&'static str, Option<String>); 7] {
    [
        ("none", None),
        ("empty", Some(String::new())),
        ("unknown", Some("nosuch-namespace".to_owned())),
        ("a slash", Some("a/b".to_owned())),
        ("a path", Some("../../etc".to_owned())),
        ("a space", Some("a b".to_owned())),
        ("of 77 letters", Some("a".repeat(77))),
    ]
}

/// Calls of the methods that the other tables have no fitting row for.
fn more(own: &str) -> Vec<Call> {
    let call = |service: &str, method: &str, message: &dyn Encode| {
        let mut call = Call::new(own, (service, method), "unknown", &());
        call.messages = vec![message.encoded()];
        call
    };
    let event = Some(Any { type_url: "containerd.events.ImageDelete".into(), value: vec![] });
    let topic = "/images/delete".to_owned();
    let init = StreamInit { id: "x".into() }.encode_to_vec();
    let kind = "containerd.services.streaming.v1.StreamInit".into();
    let snapshotter = || "overlayfs".to_owned();
    vec![
        call("containers", "List", &()),
        call("containers", "ListStream", &()),
        call("content", "List", &content::ListContentRequest::default()),
        call("content", "ListStatuses", &content::ListStatusesRequest::default()),
        call("events", "Publish", &events::PublishRequest { topic, event }),
        // One that is answered: a good filter would be listened for in vain.
        call("events", "Subscribe", &events::SubscribeRequest { filters: vec!["id==".into()] }),
        call("images", "List", &images::ListImagesRequest::default()),
        call("introspection", "Plugins", &introspection::PluginsRequest::default()),
        call("introspection", "Server", &()),
        call("leases", "List", &leases::ListRequest::default()),
        call(
            "mounts",
            "Activate",
            &mounts::ActivateRequest { name: "x".into(), ..Default::default() },
        ),
        call("mounts", "Deactivate", &mounts::DeactivateRequest { name: "x".into() }),
        call("mounts", "Info", &mounts::InfoRequest { name: "x".into() }),
        call("mounts", "Update", &mounts::UpdateRequest::default()),
        call("mounts", "List", &mounts::ListRequest::default()),
        call("namespaces", "List", &namespaces::ListNamespacesRequest::default()),
        call(
            "snapshots",
            "List",
            &snapshots::ListSnapshotsRequest { snapshotter: snapshotter(), ..Default::default() },
        ),
        call("snapshots", "Cleanup", &snapshots::CleanupRequest { snapshotter: snapshotter() }),
        // It is held open where it is not refused.
        call("streaming", "Stream", &Any { type_url: kind, value: init })
            .patience(Duration::from_secs(10)),
        call("tasks", "List", &tasks::ListTasksRequest::default()),
        call("tasks", "Metrics", &tasks::MetricsRequest::default()),
        call("transfer", "Transfer", &TransferRequest::default()),
        call("version", "Version", &()),
    ]
}

/// Messages of different types in one list.
trait Encode {
    fn encoded(&self) -> Vec<u8>;
}

impl<T: Message> Encode for T {
    fn encoded(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

/// One call of every method, in each of the namespaces.
pub fn calls(daemon: &Daemon) -> Vec<Call> {
    let own = &daemon.namespace();
    let mut all = more(own);
    all.extend(records::calls(own));
    all.extend(rows::unknown(own));
    // The first call of a method that names something that could be there.
    let mut firsts: BTreeMap<String, Call> = BTreeMap::new();
    for call in all.into_iter().filter(|call| call.label.contains("unknown")) {
        firsts.entry(method(&call.label).to_owned()).or_insert(call);
    }
    let called: BTreeSet<String> = firsts.keys().cloned().collect();
    let every = METHODS.iter().flat_map(|(service, methods)| {
        methods.iter().map(move |method| format!("{service}.{method}"))
    });
    assert_eq!(called, every.collect(), "every method is called");
    if daemon.server() == Server::Containerd21 {
        firsts.remove("streaming.Stream");
    }
    let pairs = firsts
        .into_values()
        .flat_map(|call| names().map(|(what, name)| call.clone().namespace(what, name.as_deref())));
    pairs.collect()
}

/// `service.Method` of a row.
fn method(label: &str) -> &str {
    label.split(' ').next().unwrap_or_default()
}

/// The services that are not compared: mounts are newer than the containerds
/// here, and in containerd a stream is held open for anybody. With us they look
/// at the namespace as the others do. Their rows are taken out.
pub fn check_ours(answers: [&mut Answers; 3]) {
    let [old, new, ours] = answers;
    let alone = |label: &str| label.starts_with("mounts.") || label.starts_with("streaming.");
    for theirs in [old, new] {
        theirs.retain(|label, answer| {
            assert!(!alone(label) || answer.code == Code::Unimplemented, "{label}: {answer}");
            !alone(label)
        });
    }
    let rows: Vec<_> = ours.keys().filter(|label| alone(label)).cloned().collect();
    assert_eq!(rows.len(), 6 * names().len());
    for label in rows {
        let answer = ours.remove(&label).expect("it is there");
        let namespace = label.rsplit(" in namespace ").next().unwrap_or_default();
        let expected = match (namespace, method(&label)) {
            (_, "mounts.Update") => Code::Unimplemented,
            ("none" | "empty", _) => Code::FailedPrecondition,
            ("unknown", "mounts.List") => Code::Ok,
            ("unknown", "mounts.Activate") => Code::Unimplemented,
            // It is held open until the harness gives up.
            ("unknown", "streaming.Stream") => Code::DeadlineExceeded,
            ("unknown", _) => Code::NotFound,
            _ => Code::InvalidArgument,
        };
        assert_eq!(answer.code, expected, "{label}: {answer}");
    }
}
