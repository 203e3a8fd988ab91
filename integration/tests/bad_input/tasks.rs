//! Bad input for the tasks service.

use std::path::Path;

use davit_integration::api::Call;
use davit_protocols::grpc::containerd::runc::v1::Options;
use davit_protocols::grpc::containerd::services::containers::v1 as containers;
use davit_protocols::grpc::containerd::services::tasks::v1 as tasks;
use davit_protocols::grpc::containerd::types::{Descriptor, Mount};
use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};

use crate::{FILTERS, NONE, ids};

const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const OPTIONS: &str = "containerd.runc.v1.Options";

/// Calls about one container, in the making.
struct Table<'a> {
    namespace: &'a str,
    /// The daemon's own directory; `rootfs` is in it.
    directory: &'a Path,
    calls: Vec<Call>,
}

impl Table<'_> {
    fn add(&mut self, method: &str, what: &str, message: &impl Message) {
        self.calls.push(Call::new(self.namespace, ("tasks", method), what, message));
    }

    /// Every method that takes a container's id and can be called at any time.
    fn every(&mut self, what: &str, id: &str, exec: &str) {
        let id = || id.to_owned();
        let exec_id = || exec.to_owned();
        self.add("Get", what, &tasks::GetRequest { container_id: id(), exec_id: exec_id() });
        let kill = tasks::KillRequest {
            container_id: id(),
            exec_id: exec_id(),
            signal: 0,
            ..Default::default()
        };
        self.add("Kill", what, &kill);
        let size = tasks::ResizePtyRequest {
            container_id: id(),
            exec_id: exec_id(),
            width: u32::MAX,
            height: u32::MAX,
        };
        self.add("ResizePty", what, &size);
        let close = tasks::CloseIoRequest { container_id: id(), exec_id: exec_id(), stdin: true };
        self.add("CloseIO", what, &close);
        if !exec.is_empty() {
            return;
        }
        self.add("Resume", what, &tasks::ResumeTaskRequest { container_id: id() });
        self.add("ListPids", what, &tasks::ListPidsRequest { container_id: id() });
        let resources = Some(Any { type_url: "junk".into(), value: b"junk".to_vec() });
        let update =
            tasks::UpdateTaskRequest { container_id: id(), resources, ..Default::default() };
        self.add("Update", what, &update);
    }

    fn start(&mut self, what: &str, id: &str, exec: &str) {
        let start = tasks::StartRequest { container_id: id.into(), exec_id: exec.into() };
        self.add("Start", what, &start);
    }

    /// Ends what runs and waits for it.
    fn end(&mut self, what: &str, id: &str, exec: &str) {
        let kill = tasks::KillRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            signal: 9,
            all: false,
        };
        self.add("Kill", &format!("{what}, by 9"), &kill);
        let wait = tasks::WaitRequest { container_id: id.into(), exec_id: exec.into() };
        self.add("Wait", what, &wait);
    }

    fn delete(&mut self, what: &str, id: &str, exec: &str) {
        if exec.is_empty() {
            self.add("Delete", what, &tasks::DeleteTaskRequest { container_id: id.into() });
        } else {
            let delete =
                tasks::DeleteProcessRequest { container_id: id.into(), exec_id: exec.into() };
            self.add("DeleteProcess", what, &delete);
        }
    }

    fn record(&mut self, what: &str, container: containers::Container) {
        let create = containers::CreateContainerRequest { container: Some(container) };
        self.calls.push(Call::new(self.namespace, ("containers", "Create"), what, &create));
    }

    fn forget(&mut self, what: &str, id: &str) {
        let delete = containers::DeleteContainerRequest { id: id.into() };
        self.calls.push(Call::new(self.namespace, ("containers", "Delete"), what, &delete));
    }

    /// A spec that works.
    fn spec(&self, id: &str) -> Value {
        let namespaces = ["pid", "ipc", "uts", "mount", "network"];
        json!({
            "ociVersion": "1.0.2",
            "process": process(&["sleep", "1000"]),
            "root": {"path": self.directory.join("rootfs"), "readonly": true},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {
                "namespaces": namespaces.map(|kind| json!({"type": kind})),
                "cgroupsPath": format!("/{}/{id}", self.namespace),
            },
        })
    }

    /// A container that works.
    fn container(&self, id: &str) -> containers::Container {
        containers::Container {
            id: id.to_owned(),
            runtime: Some(containers::container::Runtime {
                name: "io.containerd.runc.v2".into(),
                options: None,
            }),
            spec: Some(any(SPEC, &self.spec(id))),
            ..Default::default()
        }
    }

    fn task(&self, id: &str) -> tasks::CreateTaskRequest {
        tasks::CreateTaskRequest { container_id: id.into(), ..Default::default() }
    }
}

/// The record of a container that works, for a daemon whose own directory
/// has a `rootfs`.
pub fn working(namespace: &str, id: &str, directory: &Path) -> containers::Container {
    Table { namespace, directory, calls: Vec::new() }.container(id)
}

fn process(words: &[&str]) -> Value {
    json!({"args": words, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}})
}

fn any(kind: &str, value: &Value) -> Any {
    Any { type_url: kind.into(), value: value.to_string().into_bytes() }
}

fn options(options: Options) -> Option<Any> {
    Some(Any { type_url: OPTIONS.into(), value: options.encode_to_vec() })
}

/// Every method, about containers that are none.
pub fn unknown(namespace: &str) -> Vec<Call> {
    let mut t = Table { namespace, directory: Path::new(""), calls: Vec::new() };
    for (what, id) in ids() {
        t.add("Create", what, &t.task(&id));
        t.every(what, &id, "");
        t.every(&format!("exec of {what}"), &id, "e");
        for exec in ["", "e"] {
            let what = format!("{what} {exec}");
            t.start(&what, &id, exec);
            t.end(&what, &id, exec);
            t.delete(&what, &id, exec);
        }
        let exec = tasks::ExecProcessRequest {
            container_id: id.clone(),
            exec_id: "e".into(),
            spec: Some(Any::default()),
            ..Default::default()
        };
        t.add("Exec", what, &exec);
        t.add("Pause", what, &tasks::PauseTaskRequest { container_id: id.clone() });
        let checkpoint = tasks::CheckpointTaskRequest { container_id: id, ..Default::default() };
        t.add("Checkpoint", what, &checkpoint);
    }
    for filter in FILTERS {
        t.add("List", filter, &tasks::ListTasksRequest { filter: (*filter).to_owned() });
        t.add("Metrics", filter, &tasks::MetricsRequest { filters: vec![(*filter).to_owned()] });
    }
    t.calls
}

/// What is wrong with a container or its task.
type Broken = (&'static str, fn(&mut containers::Container, &mut tasks::CreateTaskRequest));

fn runtime(container: &mut containers::Container, name: &str) {
    container.runtime.get_or_insert_default().name = name.into();
}

fn respec(container: &mut containers::Container, change: impl FnOnce(&mut Value)) {
    let spec = container.spec.get_or_insert_default();
    let mut value = serde_json::from_slice(&spec.value).unwrap();
    change(&mut value);
    spec.value = value.to_string().into_bytes();
}

fn rootfs(task: &mut tasks::CreateTaskRequest, kind: &str, source: &str, option: &str) {
    let mount = Mount {
        r#type: kind.into(),
        source: source.into(),
        options: vec![option.into()],
        ..Default::default()
    };
    task.rootfs.push(mount);
}

const BROKEN: &[Broken] = &[
    ("an empty spec", |c, _| c.spec = Some(Any { type_url: SPEC.into(), value: vec![] })),
    ("a spec that is no JSON", |c, _| {
        c.spec = Some(Any { type_url: SPEC.into(), value: b"no JSON".to_vec() });
    }),
    ("a spec that is a list", |c, _| c.spec = Some(any(SPEC, &json!([])))),
    ("a spec that is empty", |c, _| c.spec = Some(any(SPEC, &json!({})))),
    ("a spec of an unknown type", |c, _| c.spec = Some(any("nosuch", &json!({})))),
    ("no process", |c, _| respec(c, |s| drop(s["process"].take()))),
    ("no root", |c, _| respec(c, |s| drop(s["root"].take()))),
    ("no rootfs", |c, _| respec(c, |s| s["root"]["path"] = "/nosuch".into())),
    ("no words", |c, _| respec(c, |s| s["process"]["args"] = json!([]))),
    ("no program", |c, _| respec(c, |s| s["process"]["args"] = json!(["nosuch"]))),
    ("no directory", |c, _| respec(c, |s| s["process"]["cwd"] = "nosuch".into())),
    ("a process of the wrong type", |c, _| respec(c, |s| s["process"] = json!(7))),
    ("no such mount", |c, _| {
        respec(c, |s| s["mounts"][0]["type"] = "nosuch".into());
    }),
    ("no such namespace", |c, _| {
        respec(c, |s| s["linux"]["namespaces"][0]["path"] = "/nosuch".into());
    }),
    ("no such shim", |c, _| runtime(c, "io.containerd.nosuch.v2")),
    ("a name that is no runtime", |c, _| runtime(c, "nosuch")),
    ("a name with dots only", |c, _| runtime(c, "...")),
    ("a runtime of the first version", |c, _| runtime(c, "io.containerd.runtime.v1.linux")),
    ("an unknown version", |c, _| runtime(c, "io.containerd.runc.v9")),
    ("no path of a shim", |c, _| runtime(c, "/nosuch/containerd-shim-runc-v2")),
    ("a relative path of a shim", |c, _| runtime(c, "../../bin/true")),
    ("a directory as shim", |c, _| runtime(c, "/tmp")),
    ("a shim that is none", |c, _| runtime(c, "/bin/true")),
    ("a shim that fails", |c, _| runtime(c, "/bin/false")),
    ("no runtime path", |_, t| t.runtime_path = "/nosuch/shim".into()),
    ("no runtime binary", |_, t| {
        t.options = options(Options { binary_name: "/nosuch/runc".into(), ..Options::default() });
    }),
    ("no runtime binary of that name", |_, t| {
        t.options = options(Options { binary_name: "nosuch-runc".into(), ..Options::default() });
    }),
    ("a runtime binary that is none", |_, t| {
        t.options = options(Options { binary_name: "/bin/false".into(), ..Options::default() });
    }),
    ("a runtime root that cannot be", |_, t| {
        t.options = options(Options { root: "/proc/nosuch".into(), ..Options::default() });
    }),
    ("a cgroup for the shim that cannot be", |c, _| {
        let options = options(Options { shim_cgroup: "/../../x".into(), ..Options::default() });
        c.runtime.get_or_insert_default().options = options;
    }),
    ("options of an unknown type", |_, t| {
        t.options = Some(Any { type_url: "nosuch".into(), value: b"junk".to_vec() });
    }),
    ("options that are junk", |_, t| {
        t.options = Some(Any { type_url: OPTIONS.into(), value: b"junk".to_vec() });
    }),
    ("options of the container that are junk", |c, _| {
        let options = Some(Any { type_url: OPTIONS.into(), value: b"junk".to_vec() });
        c.runtime.get_or_insert_default().options = options;
    }),
    ("a rootfs of an unknown type", |_, t| rootfs(t, "nosuch", "/nosuch", "ro")),
    ("a rootfs from nowhere", |_, t| rootfs(t, "bind", "/nosuch", "rbind")),
    ("a rootfs of junk", |_, t| rootfs(t, "overlay", "overlay", "lowerdir=/nosuch")),
    ("a rootfs without type", |_, t| rootfs(t, "", "", "")),
    ("a rootfs where the second is missing", |_, t| {
        rootfs(t, "tmpfs", "tmpfs", "size=1m");
        rootfs(t, "bind", "/nosuch", "rbind");
    }),
    ("no stdout", |_, t| t.stdout = "/nosuch/stdout".into()),
    ("a relative stdout", |_, t| t.stdout = "nosuch/stdout".into()),
    ("an unknown scheme", |_, t| t.stdout = "nosuch:///x".into()),
    ("no URI", |_, t| t.stdout = "file://%zz".into()),
    ("no logger", |_, t| t.stdout = "binary:///nosuch".into()),
    ("a logger that fails", |_, t| t.stdout = "binary:///bin/false".into()),
    ("a terminal without one", |_, t| t.terminal = true),
    ("a checkpoint of the wrong type", |_, t| {
        t.checkpoint = Some(Descriptor {
            media_type: "text/plain".into(),
            digest: NONE.into(),
            ..Default::default()
        });
    }),
    ("no checkpoint", |_, t| {
        t.checkpoint = Some(Descriptor {
            media_type: "application/vnd.containerd.container.criu.checkpoint.criu.tar".into(),
            digest: NONE.into(),
            ..Default::default()
        });
    }),
    ("a checkpoint's path that is none", |_, t| {
        t.options =
            options(Options { criu_image_path: "/proc/nosuch/image".into(), ..Options::default() });
    }),
];

/// Tasks that cannot be created or started, each to its end.
pub fn broken(namespace: &str, directory: &Path) -> Vec<Call> {
    let mut t = Table { namespace, directory, calls: Vec::new() };
    for (at, (what, change)) in BROKEN.iter().enumerate() {
        let id = format!("broken-{at}");
        let (mut container, mut task) = (t.container(&id), t.task(&id));
        change(&mut container, &mut task);
        t.record(what, container);
        t.add("Create", what, &task);
        t.start(what, &id, "");
        t.end(what, &id, "");
        t.delete(what, &id, "");
        let get = tasks::GetRequest { container_id: id.clone(), exec_id: String::new() };
        t.add("Get", &format!("{what}, gone"), &get);
        t.forget(what, &id);
    }
    t.calls
}

/// What is wrong with an exec.
type BrokenExec = (&'static str, fn(&mut tasks::ExecProcessRequest));

const EXECS: &[BrokenExec] = &[
    ("an empty spec", |e| e.spec = Some(Any { type_url: PROCESS.into(), value: vec![] })),
    ("no JSON", |e| e.spec = Some(Any { type_url: PROCESS.into(), value: b"no JSON".to_vec() })),
    ("a list", |e| e.spec = Some(any(PROCESS, &json!([])))),
    ("nothing in it", |e| e.spec = Some(any(PROCESS, &json!({})))),
    ("an unknown type", |e| e.spec = Some(any("nosuch", &json!({})))),
    ("no words", |e| e.spec = Some(any(PROCESS, &process(&[])))),
    ("no program", |e| e.spec = Some(any(PROCESS, &process(&["nosuch"])))),
    ("no stdout", |e| e.stdout = "/nosuch/stdout".into()),
    ("an unknown scheme", |e| e.stdout = "nosuch:///x".into()),
    ("no logger", |e| e.stdout = "binary:///nosuch".into()),
    ("a terminal without one", |e| e.terminal = true),
];

fn exec(id: &str, exec: &str) -> tasks::ExecProcessRequest {
    tasks::ExecProcessRequest {
        container_id: id.into(),
        exec_id: exec.into(),
        spec: Some(any(PROCESS, &process(&["sleep", "1000"]))),
        ..Default::default()
    }
}

/// One task that works, and in each of its states what cannot be done then.
pub fn life(namespace: &str, directory: &Path) -> Vec<Call> {
    let mut t = Table { namespace, directory, calls: Vec::new() };
    let id = "good";
    t.record("good", t.container(id));
    t.every("before", id, "");
    t.every("exec before", id, "e");
    t.start("before", id, "");
    t.delete("before", id, "");
    t.add("Create", "good", &t.task(id));
    t.add("Create", "again", &t.task(id));
    t.every("created", id, "");
    t.add("Pause", "created", &tasks::PauseTaskRequest { container_id: id.into() });
    t.start("no exec, created", id, "nosuch");
    t.start("good", id, "");
    t.start("again", id, "");
    t.every("running", id, "");
    t.delete("running", id, "");
    t.every("no exec", id, "nosuch");
    for signal in [65, 1000, u32::MAX] {
        let kill = tasks::KillRequest { container_id: id.into(), signal, ..Default::default() };
        t.add("Kill", &format!("by {signal}"), &kill);
    }
    paused(&mut t, id);
    execs(&mut t, id);
    t.end("good", id, "");
    t.end("good, again", id, "");
    t.every("stopped", id, "");
    t.start("stopped", id, "");
    t.add("Pause", "stopped", &tasks::PauseTaskRequest { container_id: id.into() });
    t.add("Exec", "stopped", &exec(id, "late"));
    t.start("exec, stopped", id, "late");
    t.delete("exec, stopped", id, "late");
    let checkpoint = tasks::CheckpointTaskRequest { container_id: id.into(), ..Default::default() };
    t.add("Checkpoint", "stopped", &checkpoint);
    t.delete("good", id, "");
    t.delete("good, again", id, "");
    t.every("deleted", id, "");
    t.forget("good", id);
    t.calls
}

fn paused(t: &mut Table<'_>, id: &str) {
    let pause = tasks::PauseTaskRequest { container_id: id.into() };
    t.add("Pause", "running", &pause);
    t.add("Pause", "paused", &pause);
    t.start("paused", id, "");
    t.add("Exec", "paused", &exec(id, "p"));
    t.delete("paused", id, "");
    t.add("Resume", "paused", &tasks::ResumeTaskRequest { container_id: id.into() });
}

fn execs(t: &mut Table<'_>, id: &str) {
    for (what, name) in ids() {
        let what = format!("exec {what}");
        t.add("Exec", &what, &exec(id, &name));
        if !name.is_empty() {
            t.delete(&what, id, &name);
        }
    }
    for (at, (what, change)) in EXECS.iter().enumerate() {
        let (what, name) = (format!("exec with {what}"), format!("exec-{at}"));
        let mut odd = exec(id, &name);
        change(&mut odd);
        t.add("Exec", &what, &odd);
        t.start(&what, id, &name);
        t.delete(&what, id, &name);
    }
    t.add("Exec", "good", &exec(id, "e"));
    t.add("Exec", "again", &exec(id, "e"));
    t.every("exec made", id, "e");
    t.start("exec", id, "e");
    t.start("exec again", id, "e");
    t.every("exec running", id, "e");
    t.delete("exec running", id, "e");
    t.end("exec", id, "e");
    t.end("exec again", id, "e");
    t.every("exec stopped", id, "e");
    t.start("exec stopped", id, "e");
    t.delete("exec", id, "e");
    t.delete("exec again", id, "e");
}
