//! What daemon and shim say about themselves: every event with its payload.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Seat;
use crate::text::without;
use crate::{image, wait_for};

/// Containers that are tried until one is told of to its end: the shim of
/// containerd 2.1 ends before its last event is out, now and then.
const ATTEMPTS: usize = 10;

/// `ctr events`, writing to a file.
struct Listener<'a> {
    seat: &'a Seat,
    process: Child,
    log: PathBuf,
}

impl<'a> Listener<'a> {
    /// Returns when it hears.
    fn new(seat: &'a Seat) -> Self {
        let own = seat.daemon.namespace();
        seat.ok(&["namespace", "create", &own]);
        let log = seat.daemon.path("events");
        let file = fs::File::create(&log).expect("the directory is writable");
        let process = seat.command(&["events"]).stdout(file).spawn().expect("ctr can be started");
        let listener = Self { seat, process, log };
        // A label that is set again and again tells when the listener has
        // arrived.
        wait_for("the listener hears something", 20, || {
            seat.ok(&["namespace", "label", &own, "probe=1"]);
            (!listener.heard().is_empty()).then_some(())
        });
        listener
    }

    /// The events so far, those of the beginning left out: topic and payload.
    fn heard(&self) -> Vec<(String, Value)> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        // A line that is not whole is one that is being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().filter_map(event).collect()
    }

    fn hears(&self, topic: &str, word: &str, seconds: u64) -> bool {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            let heard = self.heard();
            if heard.iter().any(|(t, payload)| t == topic && payload.to_string().contains(word)) {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// One line for each event of these topics, in order, made comparable.
    fn lines(&self, topics: &[&str], word: &str) -> String {
        let heard = self.heard();
        let wanted = heard.iter().filter(|(topic, payload)| {
            topics.iter().any(|kind| topic.starts_with(kind)) && payload.to_string().contains(word)
        });
        wanted.map(|(topic, payload)| self.line(topic, payload)).collect()
    }

    fn line(&self, topic: &str, payload: &Value) -> String {
        let daemon = &self.seat.daemon;
        let mut payload = payload.clone();
        settle(&mut payload);
        let text = payload.to_string().replace(&*daemon.path("").to_string_lossy(), "DIR/");
        let text = text.replace(&daemon.namespace(), "OWN-NAMESPACE");
        format!("{topic} {text}\n")
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A line of `ctr events`: time, namespace, topic, payload.
fn event(line: &str) -> Option<(String, Value)> {
    let (_, rest) = line.split_once(" /")?;
    let (topic, payload) = rest.split_once(' ')?;
    Some((format!("/{topic}"), serde_json::from_str(payload).ok()?))
}

/// Takes out of a payload what differs from run to run.
fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, inner)| match name.as_str() {
            "pid" => *inner = "PID".into(),
            "exited_at" => *inner = "TIME".into(),
            // 1.6 and 2.1 put those of an overlay in different orders.
            "options" => {
                settle(inner);
                let options = inner.as_array_mut().into_iter().flatten();
                let mut sorted: Vec<Value> = options.map(|option| option.take()).collect();
                sorted.sort_by_key(Value::to_string);
                *inner = sorted.into();
            }
            _ => settle(inner),
        }),
        Value::Array(items) => items.iter_mut().for_each(settle),
        // The numbers of snapshots and of ctr's directories for FIFOs.
        Value::String(text) => {
            let parts: Vec<_> = text.split('/').map(numberless).collect();
            *text = parts.join("/");
        }
        _ => {}
    }
}

/// A part of a path, or a key of a snapshot on its way.
fn numberless(part: &str) -> String {
    match part.split_once(' ') {
        Some((key, layer)) if key.starts_with("extract-") => format!("extract-NUMBER {layer}"),
        _ if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) => "NUMBER".into(),
        _ => part.to_owned(),
    }
}

/// One container from beginning to end; its name when all of it was heard.
fn life(seat: &Seat, listener: &Listener<'_>, id: &str) -> bool {
    seat.ok(&seat.run(&["-d", "--label", "colour=green"], id, &["sleep", "1000"]));
    seat.ok(&["container", "label", id, "size=large"]);
    let _ = seat.any(&["task", "exec", "--exec-id", "x", id, "sh", "-c", "exit 3"]);
    seat.ok(&["task", "pause", id]);
    seat.ok(&["task", "resume", id]);
    seat.ok(&["task", "kill", "-s", "KILL", id]);
    seat.wait_status(id, "STOPPED");
    let _ = seat.any(&["task", "rm", id]);
    seat.ok(&["container", "rm", id]);
    let told = listener.hears("/containers/delete", id, 20);
    assert!(told, "the record's end is told");
    listener.hears("/tasks/delete", id, 5)
}

/// The image's content. The index of its archive, which not everybody keeps, is
/// not among it.
fn digests(seat: &Seat) -> Vec<String> {
    seat.ok(&["content", "prune", "references"]);
    let mut digests: Vec<_> =
        seat.ok(&["content", "ls", "-q"]).lines().map(str::to_owned).collect();
    digests.sort();
    digests
}

/// All that is published about images, snapshots, content and namespaces.
fn records(seat: &Seat) {
    let own = seat.daemon.namespace();
    let list = seat.ok(&["snapshot", "ls"]);
    let committed = list.lines().find(|line| line.contains("Committed")).expect("a layer");
    let layer = committed.split_whitespace().next().expect("a key");
    seat.ok(&["snapshot", "prepare", "mine", layer]);
    seat.ok(&["snapshot", "label", "mine", "colour=green"]);
    seat.ok(&["snapshot", "commit", "done", "mine"]);
    // Nothing keeps a view, and a collection follows each removal: it is to
    // have been already.
    seat.collect();
    seat.ok(&["snapshot", "view", "look", "done"]);
    seat.ok(&["snapshot", "rm", "look"]);
    seat.ok(&["snapshot", "rm", "done"]);
    let other = "registry.test/davit/other:2";
    seat.ok(&["image", "tag", image::NAME, other]);
    seat.ok(&["image", "label", other, "colour=green"]);
    seat.ok(&["image", "rm", other]);
    seat.ok(&["leases", "create", "--id", "mine"]);
    seat.ok(&["leases", "rm", "mine"]);
    let digests = digests(seat);
    let first = digests.first().expect("the image has content");
    seat.ok(&["content", "label", first, "colour=green"]);
    seat.ok(&["content", "rm", first]);
    seat.ok(&["namespace", "create", "blue", "colour=blue"]);
    seat.ok(&["namespace", "label", "blue", "size=large"]);
    seat.ok(&["namespace", "label", "blue", "size="]);
    seat.ok(&["namespace", "rm", "blue"]);
    seat.ok(&["namespace", "label", &own, "probe=last"]);
}

/// Every event with its payload, in the order of its publisher: the daemon
/// speaks of records, the shim of tasks.
pub fn events(seat: &Seat) -> String {
    let listener = Listener::new(seat);
    seat.daemon.import_image(seat.client);
    let id = (0..ATTEMPTS)
        .map(|attempt| format!("seen-{attempt}"))
        .find(|id| life(seat, &listener, id))
        .expect("a task is told of to its end");
    let digests = digests(seat);
    records(seat);
    assert!(listener.hears("/namespaces/update", "last", 20), "the last event is told");
    let of = |kinds: &[&str], word| listener.lines(kinds, word).replace(&id, "seen");
    let (images, namespaces) = (of(&["/images"], ""), of(&["/namespaces"], ""));
    let namespaces = without(&namespaces, &["probe"]);
    let content = digests.iter().map(|digest| of(&["/content"], digest)).collect::<String>();
    // Of snapshots, those that the container and the words above are about;
    // how layers become snapshots is the unpacker's own affair.
    let snapshots = [id.as_str(), "mine", "done", "look"].map(|word| of(&["/snapshot"], word));
    format!(
        "{}\n{}\n{images}\n{content}\n{namespaces}\n{}",
        of(&["/containers"], &id),
        of(&["/tasks"], &id),
        snapshots.join("\n")
    )
}
