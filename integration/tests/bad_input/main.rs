//! Bad input for every method: the same calls, most of them wrong in one way,
//! are sent to both containerds and to davitd. The code of each answer must be
//! containerd 2.1's, its words those of 1.6 or 2.1, but for the rows of
//! [`differences`]. What was wrong leaves nothing behind.

#![allow(clippy::unwrap_used)]

mod differences;
mod disk;
mod records;
mod remains;
mod strangers;
mod tasks;

use std::collections::BTreeMap;

use davit_integration::api::{Api, Call};
use davit_integration::{Daemon, Server, image, wait_for};
use tonic::Code;

use differences::Difference;

/// A digest that nobody has.
const NONE: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Filters, most of them broken.
const FILTERS: &[&str] = &[
    "",
    " ",
    "id==",
    "==x",
    "a b",
    "id~=[",
    "id~=(",
    "id===x",
    "id=x",
    "id!x",
    "labels.\"a",
    "labels.\"a\"==\"b",
    "nosuch.field==x",
    "labels",
    "id==x,",
    ",id==x",
    "id==a/b",
    "\u{0}",
    "id==\"\\x\"",
    "labels.a.b==x",
    "id~=|[|",
    "id~=/a/",
];

/// True for filters that every parser refuses.
fn is_broken(filter: &str) -> bool {
    matches!(filter, "id==" | "==x" | "a b" | "id~=[" | "id===x" | "labels.\"a" | "id==x,")
}

/// Identifiers, most of them wrong in one way.
fn ids() -> Vec<(&'static str, String)> {
    let ids = [
        ("empty", ""),
        ("a slash", "a/b"),
        ("a slash first", "/a"),
        ("dot", "."),
        ("dots", ".."),
        ("a path upwards", "../../etc"),
        ("a path inside", "a/../b"),
        ("nul", "a\0b"),
        ("a space", "a b"),
        ("a line end", "a\nb"),
        ("an escape", "a\u{1b}[1mb"),
        ("no ASCII", "ä"),
        ("a dash first", "-a"),
        ("a dash last", "a-"),
        ("two dashes", "a--b"),
        ("an underscore", "a_b"),
        ("a backslash", "a\\b"),
        ("a star", "*"),
        ("an encoded slash", "a%2fb"),
        ("a colon", "a:b"),
        ("unknown", "nosuch"),
    ];
    let mut ids: Vec<_> = ids.into_iter().map(|(what, id)| (what, id.to_owned())).collect();
    ids.push(("of 76 letters", "a".repeat(76)));
    ids.push(("of 77 letters", "a".repeat(77)));
    ids.push(("of 5000 letters", "a".repeat(5000)));
    ids
}

/// What a server answered: `OK`, or the code and the words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    code: Code,
    words: String,
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.code, self.words)
    }
}

/// Sends the call; the answer without what differs from server to server.
fn answer(daemon: &Daemon, api: &Api, call: &Call) -> Answer {
    match api.call(call) {
        Ok(_) => Answer { code: Code::Ok, words: String::new() },
        Err(status) => {
            let words = status.message().replace(daemon.path("").to_str().unwrap(), "DIR/");
            let words = words.replace(&daemon.namespace(), "NS");
            // Control characters within quotes are written in two ways.
            let words = words.replace("\\u{1b}", "\\x1b").replace("\\0", "\\x00");
            // Our shim says who it is.
            let words = words.replace("io.containerd.davit.v2: ", "io.containerd.runc.v2: ");
            // The code again, as 1.6 has it behind errors of shims.
            let words = words.trim_end_matches(": unknown").trim_end();
            Answer { code: status.code(), words: without_numbers(words) }
        }
    }
}

/// containerd's snapshotters know a key as `namespace/number/key`.
fn without_numbers(words: &str) -> String {
    let mut parts = words.split("NS/");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        match part[digits..].strip_prefix('/') {
            Some(rest) if digits > 0 => kept.push_str(rest),
            _ => kept.extend(["NS/", part]),
        }
    }
    kept
}

/// The words of an answer that did not come, because the server ended.
const DIED: &str = "(the server died)";

/// All answers of one server, by label.
type Answers = BTreeMap<String, Answer>;

/// Compares davitd's answers with those of the containerds.
///
/// # Panics
/// When a row differs that is not in the list, or one of the list does not.
fn compare(old: &Answers, new: &Answers, ours: &Answers, expected: &[Difference]) {
    assert_eq!(ours.len(), new.len());
    let mut wrong = Vec::new();
    let mut used = vec![false; expected.len()];
    for (label, ours) in ours {
        assert_ne!(ours.words, DIED, "{label}");
        let (old, new) = (&old[label], &new[label]);
        // Some of the calls crash containerd, or its shim.
        let lost =
            |answer: &Answer| answer.words == DIED || answer.words.ends_with("ttrpc: closed");
        let new = if lost(new) { old } else { new };
        let same = ours.code == new.code && (ours.words == new.words || ours.words == old.words);
        if lost(new) || same || ours == old && new.code == Code::Unimplemented {
            continue;
        }
        let listed = expected.iter().position(|difference| difference.covers(label, ours, new));
        match listed {
            Some(at) => used[at] = true,
            None => {
                wrong.push(format!("{label}\n    1.6 : {old}\n    2.1 : {new}\n    ours: {ours}"))
            }
        }
    }
    let stale = expected.iter().zip(&used).filter(|(_, used)| !**used);
    wrong.extend(stale.map(|(difference, _)| format!("no longer differs: {difference:?}")));
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Runs the calls on one server.
fn run(server: Server, calls: fn(&Daemon) -> Vec<Call>) -> (Daemon, Answers) {
    let mut daemon = Daemon::start(server);
    let mut api = Api::connect(&daemon.socket());
    let mut answers = Answers::new();
    for call in calls(&daemon) {
        let mut answer = answer(&daemon, &api, &call);
        if answer.words == "transport error" {
            wait_for("the server that broke the connection ends", 20, || {
                daemon.has_ended().then_some(())
            });
            answer.words = DIED.into();
            daemon.kill();
            daemon.launch();
            api = Api::connect(&daemon.socket());
        }
        let known = answers.insert(call.label.clone(), answer);
        assert_eq!(known, None, "{} is there twice", call.label);
    }
    (daemon, answers)
}

#[test]
fn records_answer_bad_input_as_containerd_does() {
    let [(_, old), (_, new), (daemon, ours)] =
        [Server::Containerd16, Server::Containerd21, Server::Davit]
            .map(|server| run(server, |daemon| records::calls(&daemon.namespace())));
    remains::assert_none(&daemon);
    compare(&old, &new, &ours, differences::RECORDS);
}

#[test]
fn namespaces_that_are_none_are_answered_as_containerd_does() {
    let [(_, mut old), (_, mut new), (_daemon, mut ours)] =
        [Server::Containerd16, Server::Containerd21, Server::Davit]
            .map(|server| run(server, strangers::calls));
    strangers::check_ours([&mut old, &mut new, &mut ours]);
    compare(&old, &new, &ours, differences::NAMESPACES);
}

#[test]
fn unknown_tasks_are_answered_as_containerd_does() {
    let [(_, old), (_, new), (daemon, ours)] =
        [Server::Containerd16, Server::Containerd21, Server::Davit]
            .map(|server| run(server, |daemon| tasks::unknown(&daemon.namespace())));
    remains::assert_none(&daemon);
    compare(&old, &new, &ours, differences::UNKNOWN);
}

fn broken(daemon: &Daemon) -> Vec<Call> {
    image::write_rootfs(&daemon.path("rootfs")).unwrap();
    tasks::broken(&daemon.namespace(), &daemon.path(""))
}

#[test]
fn broken_tasks_are_answered_as_containerd_does() {
    let [(_, old), (_, new), (daemon, ours)] =
        [Server::Containerd16, Server::Containerd21, Server::Davit]
            .map(|server| run(server, broken));
    remains::assert_none(&daemon);
    compare(&old, &new, &ours, differences::BROKEN);
}

fn lives(daemon: &Daemon) -> Vec<Call> {
    image::write_rootfs(&daemon.path("rootfs")).unwrap();
    tasks::life(&daemon.namespace(), &daemon.path(""))
}

#[test]
fn tasks_in_the_wrong_state_answer_as_containerd_does() {
    let [(_, old), (_, new), (daemon, ours)] =
        [Server::Containerd16, Server::Containerd21, Server::Davit]
            .map(|server| run(server, lives));
    remains::assert_none(&daemon);
    compare(&old, &new, &ours, differences::LIFE);
}
