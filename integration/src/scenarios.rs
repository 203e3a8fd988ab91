//! What a client does with a daemon, as scenarios: functions that drive one
//! daemon by `ctr` and hand back all that the client saw, with what differs
//! from run to run taken out. A test runs the same scenario in two places and
//! compares the two texts to the letter.

mod archives;
mod checkpoints;
mod events;
mod registries;
mod runtimes;

use std::process::Command;

use crate::text::{normalise, without};
use crate::{Client, Daemon, Runtime, image, must, terminal, wait_for};
pub use archives::{image_export_and_import, image_import_names, image_import_of_docker};
pub use checkpoints::task_checkpoint;
pub use events::events;
pub use registries::*;
pub use runtimes::{one_shim_for_a_pod, plugins_inspect_runtime, run_in_a_user_namespace};

/// One client on one daemon.
pub struct Seat {
    /// Where it sits.
    pub daemon: Daemon,
    /// What it types.
    pub client: Client,
    /// The runtime binary, where it is not the default.
    pub runtime: Option<Runtime>,
}

impl Seat {
    fn command(&self, words: &[impl AsRef<str>]) -> Command {
        let mut command = self.daemon.ctr(self.client);
        command.args(words.iter().map(AsRef::as_ref));
        command
    }

    /// Stdout of a command that must succeed.
    fn ok(&self, words: &[impl AsRef<str>]) -> String {
        must(&mut self.command(words))
    }

    /// Exit code, stdout and stderr, made comparable.
    fn any(&self, words: &[impl AsRef<str>]) -> String {
        let output = self.command(words).output().expect("ctr can be started");
        format!(
            "$ {}\n{}\n{}\n[{}]\n",
            words.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" "),
            self.normalise(&output.stdout),
            self.normalise(&output.stderr),
            output.status.code().unwrap_or(-1),
        )
    }

    fn normalise(&self, text: &[u8]) -> String {
        normalise(&String::from_utf8_lossy(text).replace(&self.daemon.namespace(), "OWN-NAMESPACE"))
    }

    /// `ctr run` with the words that every container here needs.
    fn run(&self, flags: &[&str], id: &str, words: &[&str]) -> Vec<String> {
        let mut line = vec!["run".to_owned()];
        if let Some(runtime) = self.runtime {
            line.extend(["--runc-binary".into(), runtime.path().to_string_lossy().into_owned()]);
        }
        line.extend(flags.iter().chain(&[image::NAME, id]).chain(words).map(|w| w.to_string()));
        line
    }

    /// A container that sleeps, started detached.
    fn sleeper(&self, id: &str) {
        self.ok(&self.run(&["-d"], id, &["sleep", "1000"]));
    }

    /// All tasks by name: of several, containerd's list has no order.
    fn tasks(&self) -> String {
        let list = self.any(&["task", "ls"]);
        let mut lines: Vec<&str> = list.lines().collect();
        lines.sort_unstable();
        lines.join("\n") + "\n"
    }

    /// Has garbage collected, and waits until it has been: what nothing holds
    /// goes at a moment of the daemon's choice otherwise.
    fn collect(&self) {
        self.ok(&["leases", "create", "--id", "collect"]);
        self.ok(&["leases", "rm", "--sync", "collect"]);
    }

    fn wait_status(&self, id: &str, status: &str) {
        wait_for(&format!("{id} is {status}"), 20, || {
            let list = self.ok(&["task", "ls"]);
            let line = list.lines().find(|line| line.split_whitespace().next() == Some(id))?;
            line.ends_with(status).then_some(())
        });
    }
}

/// Runs `scenario` on both seats and compares.
///
/// containerd loses output, events and garbage by races of its own. Where it is
/// the reference and saw something else, a fresh one is asked, as often as
/// [`crate::Server::attempts`] says; `other` keeps its one answer.
///
/// # Panics
/// When the two saw different things; the message holds both.
pub fn compare(scenario: fn(&Seat) -> String, reference: impl Fn() -> Seat, other: &Seat) {
    let got = scenario(other);
    assert!(!got.trim().is_empty(), "the scenario says nothing");
    let mut attempt = 1;
    let (reference, expected) = loop {
        let seat = reference();
        let expected = scenario(&seat);
        if expected == got || attempt == seat.daemon.server().attempts() {
            break (seat, expected);
        }
        attempt += 1;
    };
    let place = |seat: &Seat| format!("{:?} with {:?}", seat.daemon.server(), seat.daemon.shim());
    assert!(
        expected == got,
        "not the same\n=== {}\n{expected}\n=== {}\n{got}",
        place(&reference),
        place(other)
    );
}

/// Hands the names of the scenarios that are about tasks to a macro.
#[macro_export]
macro_rules! task_scenarios {
    ($with:ident) => {
        $with!(
            run_rm,
            run_exit_codes,
            run_tty,
            run_detached_life,
            run_stdin,
            task_exec,
            task_kill_signals,
            task_pause_resume,
            task_ps,
            task_metrics,
            task_checkpoint,
            task_rm_running,
            container_create_start,
            one_shim_for_a_pod,
            events,
        );
    };
}

/// The same for what `ctr` 2.1 can and 1.6 cannot.
#[macro_export]
macro_rules! new_task_scenarios {
    ($with:ident) => {
        $with!(run_in_a_user_namespace, plugins_inspect_runtime);
    };
}

/// Hands the names of the scenarios that are about all else to a macro.
#[macro_export]
macro_rules! record_scenarios {
    ($with:ident) => {
        $with!(
            image_import_and_ls,
            image_label_and_rm,
            image_export_and_import,
            image_import_names,
            image_import_of_docker,
            container_ls_info_rm,
            snapshot_commands,
            content_commands,
            lease_commands,
            namespace_commands,
            plugins_ls,
            version,
            unknown_things,
            bad_names,
        );
    };
}

/// Hands the names of the scenarios that are about registries to a macro.
#[macro_export]
macro_rules! registry_scenarios {
    ($with:ident) => {
        $with!(
            pull_one_platform,
            pull_an_index,
            pull_all_platforms,
            pull_of_docker,
            pull_again,
            pull_what_is_not_there,
            push_and_pull_back,
            push_what_another_repository_has,
            push_an_index,
            push_by_name_and_password,
            pull_by_token,
            pull_by_tls,
            pull_from_mirrors,
        );
    };
}

/// Import of an archive, and the lists.
pub fn image_import_and_ls(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    seat.any(&["image", "ls"]) + &seat.any(&["image", "ls", "-q"]) + &seat.any(&["image", "check"])
}

/// Tags, labels, filters, removal.
pub fn image_label_and_rm(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    let other = "registry.test/davit/other:2";
    seat.any(&["image", "tag", image::NAME, other])
        + &seat.any(&["image", "tag", image::NAME, other])
        + &seat.any(&["image", "label", other, "colour=green"])
        + &seat.any(&["image", "ls", &format!("name=={other}")])
        + &seat.any(&["image", "ls", "labels.colour==green"])
        + &seat.any(&["image", "rm", other])
        + &seat.any(&["image", "rm", other])
        + &seat.any(&["image", "ls"])
}

/// A container from beginning to end, with all its output.
pub fn run_rm(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    let words = ["sh", "-c", "echo out; echo err >&2; id -u; pwd; hostname; cat /proc/1/comm"];
    seat.any(&seat.run(&["--rm"], "one", &words))
        + &seat.any(&["container", "ls"])
        + &seat.any(&["task", "ls"])
        + &seat.any(&["snapshot", "ls"])
}

/// Exit codes, those of signals among them.
pub fn run_exit_codes(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    let mut out = String::new();
    for (id, script) in [("a", "exit 0"), ("b", "exit 7"), ("c", "kill -9 $$"), ("d", "exit 255")] {
        out += &seat.any(&seat.run(&["--rm"], id, &["sh", "-c", script]));
    }
    // What the runtime says of a missing program is the runtime's own wording.
    let missing = seat.command(&seat.run(&["--rm"], "e", &["/no/such/program"])).output();
    let missing = missing.expect("ctr can be started");
    assert!(!missing.status.success(), "a missing program ran");
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/no/such/program"));
    out + &seat.any(&["container", "ls", "-q"]) + &seat.any(&["snapshot", "ls"])
}

/// Runs `ctr` on a terminal of its own.
fn on_terminal(seat: &Seat, words: &[impl AsRef<str>]) -> String {
    let (text, code) = terminal::run(&seat.command(words), "");
    // A process can end before ctr has told the terminal's size; it then complains.
    format!("{}\n[{code:?}]", without(&text, &["resize pty"]))
}

/// A terminal.
pub fn run_tty(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    let script = "tty; test -t 0 && echo terminal; exit 5";
    on_terminal(seat, &seat.run(&["--rm", "--tty"], "tty", &["sh", "-c", script]))
}

/// Detached, killed, deleted, refused where it must be.
pub fn run_detached_life(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    seat.sleeper("life");
    seat.wait_status("life", "RUNNING");
    let running = seat.any(&["task", "ls"]) + &seat.any(&["snapshot", "ls"]);
    let kill = seat.any(&["task", "kill", "-s", "SIGKILL", "life"]);
    seat.wait_status("life", "STOPPED");
    running
        + &kill
        + &seat.any(&["task", "ls"])
        + &seat.any(&["task", "kill", "life"])
        + &seat.any(&["task", "rm", "life"])
        + &seat.any(&["task", "ls"])
        + &seat.any(&["task", "start", "-d", "life"])
        + &seat.any(&["task", "rm", "-f", "life"])
        + &seat.any(&["container", "rm", "life"])
        + &seat.any(&["container", "ls"])
        + &seat.any(&["snapshot", "ls"])
}

/// Input of some size.
pub fn run_stdin(seat: &Seat) -> String {
    const LINES: usize = 20_000;
    seat.daemon.import_image(seat.client);
    // ctr 1.6 never closes the input of what it runs: the reader counts.
    let count = LINES.to_string();
    let mut command = seat.command(&seat.run(&["--rm"], "input", &["head", "-n", &count]));
    let mut child = command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("ctr can be started");
    let text = "line\n".repeat(LINES);
    let mut stdin = child.stdin.take().expect("piped");
    let writer = std::thread::spawn({
        let text = text.clone();
        move || std::io::Write::write_all(&mut stdin, text.as_bytes())
    });
    let output = child.wait_with_output().expect("the child was started");
    writer.join().expect("no panic").expect("everything is read");
    assert!(output.status.success(), "{command:?}: {}", output.status);
    let got = String::from_utf8_lossy(&output.stdout).into_owned();
    format!("{} bytes, as sent: {}", got.len(), got == text)
}

/// Further processes.
pub fn task_exec(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    seat.sleeper("host");
    let exec = |id: &str, words: &[&str]| {
        seat.any(&[&["task", "exec", "--exec-id", id, "host"], words].concat())
    };
    exec("a", &["sh", "-c", "echo hello; echo oops >&2; exit 3"])
        + &exec("b", &["id"])
        + &seat.any(&["task", "exec", "--exec-id", "c", "--cwd", "/tmp", "host", "pwd"])
        + &seat.any(&["task", "exec", "--exec-id", "d", "none", "true"])
        + &on_terminal(seat, &["task", "exec", "--exec-id", "e", "-t", "host", "tty"])
}

/// A signal that is caught.
pub fn task_kill_signals(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    let script = "trap 'echo got >/caught; exit 9' TERM; : >/set; while :; do sleep 0.05; done";
    seat.ok(&seat.run(&["-d"], "trap", &["sh", "-c", script]));
    wait_for("the trap is set", 20, || {
        let look = ["task", "exec", "--exec-id", "look", "trap", "test", "-e", "/set"];
        seat.command(&look).status().is_ok_and(|status| status.success()).then_some(())
    });
    let kill = seat.any(&["task", "kill", "--signal", "TERM", "trap"]);
    seat.wait_status("trap", "STOPPED");
    kill + &seat.any(&["task", "rm", "trap"])
        + &seat.any(&["task", "kill", "-s", "NONSENSE", "trap"])
}

/// Pause and resume.
pub fn task_pause_resume(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    seat.sleeper("still");
    let mut out = seat.any(&["task", "pause", "still"]);
    seat.wait_status("still", "PAUSED");
    out += &seat.any(&["task", "ls"]);
    out += &seat.any(&["task", "resume", "still"]);
    seat.wait_status("still", "RUNNING");
    out + &seat.any(&["task", "ls"])
}

/// Process lists.
pub fn task_ps(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    seat.sleeper("pids");
    seat.any(&["task", "ps", "pids"]) + &seat.any(&["task", "ps", "none"])
}

/// The names of the metrics.
pub fn task_metrics(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    seat.sleeper("busy");
    let table = seat.ok(&["task", "metrics", "busy"]);
    let names = table.lines().filter_map(|line| line.split_whitespace().next());
    let json = seat.ok(&["task", "metrics", "--format", "json", "busy"]);
    let value: serde_json::Value = serde_json::from_str(&json).expect("ctr prints JSON");
    // Fields that the kernel counts are left out where they are still 0.
    let fields = shape(&value, "");
    let counted = |field: &str| field.starts_with(".cpu") || field.starts_with(".memory");
    let stable = fields.lines().filter(|field| !counted(field) || field.ends_with("usage.total"));
    format!("{}\n{}", names.collect::<Vec<_>>().join("\n"), stable.collect::<Vec<_>>().join("\n"))
}

/// The names in a JSON value, without what they hold.
fn shape(value: &serde_json::Value, at: &str) -> String {
    match value {
        serde_json::Value::Object(fields) => {
            fields.iter().map(|(name, inner)| shape(inner, &format!("{at}.{name}"))).collect()
        }
        serde_json::Value::Array(items) => {
            items.first().map_or(String::new(), |inner| shape(inner, &format!("{at}[]")))
        }
        _ => format!("{at}\n"),
    }
}

/// Removal of what still runs.
pub fn task_rm_running(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    seat.sleeper("alive");
    seat.any(&["task", "rm", "alive"])
        + &seat.any(&["container", "rm", "alive"])
        + &seat.any(&["task", "rm", "-f", "alive"])
        + &seat.any(&["container", "rm", "alive"])
}

/// Container records.
pub fn container_ls_info_rm(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    seat.ok(&["container", "create", "--label", "colour=green", image::NAME, "one", "true"]);
    seat.ok(&["container", "create", image::NAME, "two", "true"]);
    let info = without(&seat.any(&["container", "info", "one"]), &["cgroupsPath"]);
    seat.any(&["container", "ls"])
        + &seat.any(&["container", "ls", "-q"])
        + &seat.any(&["container", "ls", "labels.colour==green"])
        + &info
        + &seat.any(&["container", "label", "two", "size=large"])
        + &seat.any(&["container", "ls", "-q", "labels.size"])
        + &seat.any(&["container", "create", image::NAME, "one", "true"])
        + &seat.any(&["container", "rm", "one"])
        + &seat.any(&["container", "rm", "one"])
        + &seat.any(&["container", "rm", "two"])
        + &seat.any(&["container", "ls"])
}

/// A record first, its task later.
pub fn container_create_start(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    seat.ok(&["container", "create", image::NAME, "late", "ls", "/no/such/file"]);
    seat.any(&["task", "start", "late"])
        + &seat.any(&["task", "ls"])
        + &seat.any(&["task", "rm", "late"])
        + &seat.any(&["container", "rm", "late"])
}

/// Snapshots, their kinds and their parents.
pub fn snapshot_commands(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    seat.sleeper("layers");
    seat.ok(&[
        "task",
        "exec",
        "--exec-id",
        "w",
        "layers",
        "dd",
        "if=/dev/zero",
        "of=/big",
        "bs=1024",
        "count=64",
    ]);
    let mounts = seat.ok(&["snapshot", "mounts", "/target", "layers"]);
    let kinds = mounts.split_whitespace().filter(|word| !word.contains('=')).collect::<Vec<_>>();
    let list = seat.ok(&["snapshot", "ls"]);
    let committed = list.lines().find(|line| line.contains("Committed")).expect("a layer");
    let layer = committed.split_whitespace().next().expect("a key");
    let made = seat.any(&["snapshot", "ls"])
        + &seat.any(&["snapshot", "tree"])
        + &seat.any(&["snapshot", "usage", "layers"])
        + &seat.any(&["snapshot", "info", "layers"])
        + &kinds.join(" ")
        + &seat.any(&["snapshot", "prepare", "mine", layer])
        + &seat.any(&["snapshot", "prepare", "mine", layer])
        + &seat.any(&["snapshot", "commit", "done", "mine"]);
    // Nothing keeps a view: a collection that is due is to have been.
    seat.collect();
    made + &seat.any(&["snapshot", "view", "look", "done"])
        + &seat.any(&["snapshot", "rm", "done"])
        + &seat.any(&["snapshot", "rm", "look"])
        + &seat.any(&["snapshot", "rm", "done"])
        + &seat.any(&["snapshot", "rm", "done"])
        + &seat.any(&["snapshot", "label", "layers", "colour=green"])
        + &seat.any(&["snapshot", "--snapshotter", "native", "ls"])
        + &seat.any(&["snapshot", "--snapshotter", "nonsense", "ls"])
        + &seat.any(&["snapshot", "ls"])
}

/// Blobs.
pub fn content_commands(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    // Nothing refers to the archive's index once its image is there.
    seat.ok(&["content", "prune", "references"]);
    let digests = seat.ok(&["content", "ls", "-q"]);
    let mut out = seat.any(&["content", "ls"]);
    for digest in digests.lines() {
        let bytes = seat.command(&["content", "get", digest]).output().expect("ctr can be started");
        out += &format!("{digest}: {} bytes\n", bytes.stdout.len());
    }
    let first = digests.lines().next().expect("the image has content");
    let nowhere = format!("sha256:{}", "0".repeat(64));
    out + &seat.any(&["content", "label", first, "colour=green"])
        + &seat.any(&["content", "ls", "labels.colour==green"])
        + &seat.any(&["content", "get", &nowhere])
        + &seat.any(&["content", "rm", first])
        + &seat.any(&["content", "rm", first])
        + &seat.any(&["content", "get", first])
        + &seat.any(&["content", "active"])
}

/// Leases.
pub fn lease_commands(seat: &Seat) -> String {
    seat.any(&["leases", "create", "--id", "mine", "colour=green"])
        + &seat.any(&["leases", "create", "--id", "mine"])
        + &without(&seat.any(&["leases", "ls", "-q"]), &[])
        + &seat.any(&["leases", "ls", "-q", "labels.colour==green"])
        + &seat.any(&["leases", "rm", "mine"])
        + &seat.any(&["leases", "rm", "mine"])
        + &seat.any(&["leases", "ls", "-q"])
}

/// Namespaces, and that they stay apart.
pub fn namespace_commands(seat: &Seat) -> String {
    let archive = seat.daemon.path("image.tar");
    image::write_archive(&archive).expect("an archive can be written");
    seat.any(&["namespace", "create", "blue", "colour=blue"])
        + &seat.any(&["namespace", "create", "blue"])
        + &seat.any(&["namespace", "label", "blue", "size=large"])
        + &seat.any(&["namespace", "ls"])
        + &seat
            .any(&["-n", "blue", "image", "import", &archive.to_string_lossy()])
            .lines()
            .take(0)
            .collect::<String>()
        + &seat.any(&["-n", "blue", "image", "ls", "-q"])
        + &seat.any(&["image", "ls", "-q"])
        + &seat.any(&["namespace", "rm", "blue"])
        + &seat.any(&["-n", "blue", "image", "rm", "--sync", image::NAME])
        + &seat.any(&["namespace", "rm", "none"])
        + &seat.any(&["namespace", "ls", "-q"])
}

/// The plugins that clients look for.
pub fn plugins_ls(seat: &Seat) -> String {
    let table = seat.ok(&["plugins", "ls"]);
    // Which plugins exist is ours to say; those that clients look for must be there and be well.
    let wanted = [
        ("io.containerd.snapshotter.v1", "overlayfs"),
        ("io.containerd.snapshotter.v1", "native"),
        ("io.containerd.content.v1", "content"),
        ("io.containerd.grpc.v1", "containers"),
        ("io.containerd.grpc.v1", "tasks"),
        ("io.containerd.grpc.v1", "images"),
        ("io.containerd.grpc.v1", "leases"),
        ("io.containerd.grpc.v1", "namespaces"),
        ("io.containerd.grpc.v1", "events"),
        ("io.containerd.grpc.v1", "introspection"),
        ("io.containerd.grpc.v1", "version"),
        ("io.containerd.grpc.v1", "healthcheck"),
    ];
    let mut out = String::new();
    for (kind, id) in wanted {
        let line = table.lines().map(normalise).find(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            words.first() == Some(&kind) && words.get(1) == Some(&id)
        });
        out += &format!("{}\n", line.unwrap_or_else(|| format!("{kind} {id} is missing")));
    }
    out
}

/// The version command.
pub fn version(seat: &Seat) -> String {
    let text = seat.ok(&["version"]);
    without(&normalise(&text), &["Version:", "Revision:", "UUID:", "Deprecations"])
}

/// What does not exist.
pub fn unknown_things(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    seat.any(&["container", "info", "none"])
        + &seat.any(&["container", "rm", "none"])
        + &seat.any(&["task", "start", "none"])
        + &seat.any(&["task", "kill", "none"])
        + &seat.any(&["task", "rm", "none"])
        + &seat.any(&["task", "pause", "none"])
        + &seat.any(&["task", "metrics", "none"])
        + &seat.any(&["snapshot", "usage", "none"])
        + &seat.any(&["snapshot", "mounts", "/x", "none"])
        + &seat.any(&["snapshot", "prepare", "new", "no-parent"])
        + &seat.any(&["run", "--rm", "no.such/image:1", "x", "true"])
        + &seat.any(&["container", "ls", "this is no filter"])
}

/// Names that could be paths.
pub fn bad_names(seat: &Seat) -> String {
    seat.daemon.import_image(seat.client);
    let long = "x".repeat(77);
    let mut out = String::new();
    for id in ["../up", "a/b", "-", "a..b", long.as_str()] {
        out += &seat.any(&["container", "create", "--", image::NAME, id, "true"]);
        out += &seat.any(&["namespace", "create", "--", id]);
    }
    out + &seat.any(&["-n", "no/such", "container", "ls"]) + &seat.any(&["container", "ls"])
}
