//! The content store in another process: another daemon of ours, and Debian's
//! two containerds. All bytes are there, and everything works as it does with
//! a store of the daemon's own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use davit_integration::layout::{self, CHECK, Layout};
use davit_integration::registry::Registry;
use davit_integration::{Client, Daemon, Server, describe, image, must, wait_for};
use davit_protocols::grpc::containerd::services::content::v1 as wire;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use wire::WriteAction;
use wire::content_client::ContentClient;

const CTR: Client = Client::Ctr21;

/// The namespace of the store behind.
const BEHIND: &str = "davit";

/// A daemon, and the one whose content store it uses.
struct Pair {
    front: Daemon,
    behind: Daemon,
}

impl Pair {
    fn new(server: Server) -> Self {
        let behind = Daemon::start(server);
        let mut front = Daemon::start(Server::Davit);
        front.reconfigure(|config| configured(&config, &behind.socket()));
        Self { front, behind }
    }

    fn ok(&self, words: &[&str]) -> String {
        must(&mut self.front.davit(words))
    }

    /// Fails, and says `text`.
    fn fails(&self, words: &[&str], text: &str) {
        let mut command = self.front.davit(words);
        let output = command.output().expect("davit can be started");
        let told = describe(&command, &output);
        assert!(!output.status.success(), "{told}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(text), "{text:?}\n{told}");
    }

    fn runs_whole(&self, name: &str) {
        let words = [&["run", "--rm", name], CHECK].concat();
        assert_eq!(self.ok(&words), "whole\n");
    }

    /// The digests that the store behind has.
    fn stored(&self) -> Vec<String> {
        let list = self.behind.ctr_ok(CTR, &["-n", BEHIND, "content", "ls", "-q"]);
        list.lines().map(str::to_owned).collect()
    }

    /// Those that the daemon in front says it has.
    fn known(&self) -> Vec<String> {
        self.front.ctr_ok(CTR, &["content", "ls", "-q"]).lines().map(str::to_owned).collect()
    }

    fn is_empty(&self) {
        wait_for("the store is empty", 60, || self.stored().is_empty().then_some(()));
        assert_eq!(self.known(), [""; 0]);
    }
}

/// The configuration with the store at `address` in place of our own.
fn configured(config: &str, address: &Path) -> String {
    let disabled = "disabled_plugins = [\"io.containerd.content.v1.content\"]";
    config.replace("disabled_plugins = []", disabled)
        + &format!("[proxy_plugins.behind]\ntype = \"content\"\naddress = {address:?}\n")
}

fn on_all(test: impl Fn(Server)) {
    for server in [Server::Davit, Server::Containerd16, Server::Containerd21] {
        test(server);
    }
}

#[test]
fn images_are_pulled_run_pushed_exported_and_imported() {
    let registry = Registry::start();
    let (small, index) = (Layout::of(&layout::SMALL), Layout::of(&layout::INDEX));
    let (one, two) = (small.push(&registry, "some/image:1"), index.push(&registry, "index:1"));
    on_all(|server| {
        let pair = Pair::new(server);
        pair.ok(&["pull", &one]);
        pair.runs_whole(&one);
        pair.ok(&["pull", "--all-platforms", &two]);
        pair.runs_whole(&two);
        let stored = pair.stored();
        for digest in small.all().iter().chain(&index.all()) {
            assert!(stored.contains(digest), "{server:?}: {digest} is not there");
        }
        let own = pair.front.path("root/io.containerd.content.v1.content/blobs");
        let kept = fs::read_dir(own).map_or(0, Iterator::count);
        assert_eq!(kept, 0, "{server:?}: there is something in front");
        for digest in small.all() {
            let words = ["content", "get", &digest];
            let output = pair.front.ctr(CTR).args(words).output().expect("ctr can be started");
            let file = fs::read(small.file(&digest)).expect("it was made");
            assert!(output.stdout == file, "{server:?}: {digest}");
        }
        let copy = format!("copy{server:?}:1").to_lowercase();
        pair.ok(&["push", &two, &registry.reference(&copy)]);
        assert_eq!(registry.digest(&copy), index.digest());

        let archive = pair.front.path("exported.tar").to_string_lossy().into_owned();
        pair.ok(&["export", "--all-platforms", "-o", &archive, &two]);
        pair.ok(&["rmi", &one, &two]);
        pair.is_empty();
        for client in [Client::Ctr16, Client::Ctr21] {
            pair.front.ctr_ok(client, &["image", "import", &archive]);
            pair.runs_whole(&two);
            assert!(!pair.stored().is_empty());
            pair.ok(&["rmi", &two]);
            pair.is_empty();
        }
        pair.front.import_image(CTR);
        let run = ["run", "--rm", image::NAME, "c1", "echo", "hello"];
        assert_eq!(pair.front.ctr_ok(CTR, &run), "hello\n");
        // What is nobody's in front goes; what is somebody's stays, whatever
        // the store behind thinks.
        let digest = pair.known()[0].clone();
        pair.behind.ctr_ok(CTR, &["-n", BEHIND, "leases", "create", "--id", "l"]);
        pair.behind.ctr_ok(CTR, &["-n", BEHIND, "leases", "delete", "--sync", "l"]);
        assert!(pair.stored().contains(&digest), "{server:?} has collected it");
        pair.front.ctr_ok(CTR, &["content", "rm", &digest]);
        assert!(!pair.stored().contains(&digest) && !pair.known().contains(&digest));
        let scratch = pair.front.path("root/io.containerd.content.v1.proxy");
        assert_eq!(fs::read_dir(scratch).expect("it was made").count(), 0);
    });
}

/// A daemon's content, by its API.
struct Api {
    runtime: Runtime,
    channel: Channel,
    namespace: String,
}

/// One stream of writes.
struct Stream {
    requests: mpsc::Sender<wire::WriteContentRequest>,
    answers: Streaming<wire::WriteContentResponse>,
}

impl Api {
    fn of(daemon: &Daemon) -> Self {
        let runtime = Runtime::new().expect("threads can be started");
        let endpoint = Endpoint::from_shared(format!("unix://{}", daemon.socket().display()));
        let endpoint = endpoint.expect("it is an address");
        let channel = runtime.block_on(endpoint.connect()).expect("it listens");
        Self { runtime, channel, namespace: daemon.namespace() }
    }

    fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let name = self.namespace.parse().expect("a name");
        request.metadata_mut().insert("containerd-namespace", name);
        request
    }

    fn client(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
    }

    /// Opens an ingest; its stream and first answer.
    fn open(
        &self,
        reference: &str,
        total: i64,
    ) -> Result<(Stream, wire::WriteContentResponse), Status> {
        let (requests, receiver) = mpsc::channel(4);
        let request = self.ask(ReceiverStream::new(receiver));
        self.runtime.block_on(async {
            let first = wire::WriteContentRequest {
                action: WriteAction::Stat.into(),
                r#ref: reference.to_owned(),
                total,
                ..Default::default()
            };
            requests.send(first).await.expect("there is room");
            let mut answers = self.client().write(request).await?.into_inner();
            let answer = answers.message().await?.expect("an answer");
            Ok((Stream { requests, answers }, answer))
        })
    }

    fn write(
        &self,
        stream: &mut Stream,
        action: WriteAction,
        offset: i64,
        data: &[u8],
    ) -> Result<wire::WriteContentResponse, Status> {
        // Blobs that nothing holds are collected, sooner or later.
        let held = (action == WriteAction::Commit).then_some(("containerd.io/gc.root", "held"));
        let request = wire::WriteContentRequest {
            action: action.into(),
            offset,
            data: data.to_vec().into(),
            labels: held.map(|(key, value)| (key.into(), value.into())).into_iter().collect(),
            ..Default::default()
        };
        self.runtime.block_on(async {
            let _ = stream.requests.send(request).await;
            let ended = || Status::unknown("the stream has ended");
            stream.answers.message().await?.ok_or_else(ended)
        })
    }

    fn status(&self, reference: &str) -> Result<wire::Status, Status> {
        let request = self.ask(wire::StatusRequest { r#ref: reference.to_owned() });
        let answer = self.runtime.block_on(self.client().status(request))?;
        Ok(answer.into_inner().status.expect("a status"))
    }

    fn abort(&self, reference: &str) -> Result<(), Status> {
        let request = self.ask(wire::AbortRequest { r#ref: reference.to_owned() });
        self.runtime.block_on(self.client().abort(request)).map(drop)
    }

    fn label(&self, digest: &str, labels: BTreeMap<String, String>) -> Result<wire::Info, Status> {
        let info = wire::Info { digest: digest.to_owned(), labels, ..Default::default() };
        let request = self.ask(wire::UpdateRequest { info: Some(info), update_mask: None });
        let answer = self.runtime.block_on(self.client().update(request))?;
        Ok(answer.into_inner().info.expect("what is known"))
    }

    fn read(&self, digest: &str, offset: i64, size: i64) -> Result<Vec<u8>, Status> {
        let request =
            self.ask(wire::ReadContentRequest { digest: digest.to_owned(), offset, size });
        self.runtime.block_on(async {
            let mut answers = self.client().read(request).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(answer) = answers.message().await? {
                bytes.extend_from_slice(&answer.data);
            }
            Ok(bytes)
        })
    }
}

#[test]
fn ingests_are_there_too_and_are_gone_on_with() {
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    on_all(|server| {
        let mut pair = Pair::new(server);
        let api = Api::of(&pair.front);
        let (mut stream, first) = api.open("layer", 3_000_000).expect("it is opened");
        assert_eq!(first.offset, 0);
        let second = api.open("layer", 3_000_000).map(drop).expect_err("somebody writes");
        assert_eq!(second.code(), Code::Unavailable, "{second}");
        let half = api.write(&mut stream, WriteAction::Write, 0, &bytes[..1_500_000]);
        let half = half.expect("it is written");
        assert_eq!(half.offset, 1_500_000);
        drop(stream);
        // The daemon forgets nothing, and the store has the bytes.
        drop(api);
        pair.front.kill();
        pair.front.launch();
        let api = Api::of(&pair.front);
        let status = api.status("layer").expect("it is there");
        assert_eq!((status.offset, status.total), (1_500_000, 3_000_000), "{server:?}");
        let active = pair.behind.ctr_ok(CTR, &["-n", BEHIND, "content", "active"]);
        assert!(active.contains("/layer"), "{active}");

        let (mut stream, first) = api.open("layer", 3_000_000).expect("it is gone on with");
        assert_eq!((first.offset, &first.digest), (1_500_000, &half.digest));
        let wrong = api.write(&mut stream, WriteAction::Write, 7, b"x").expect_err("not there");
        assert_eq!(wrong.code(), Code::OutOfRange, "{wrong}");
        drop(stream);
        let (mut stream, _) = api.open("layer", 3_000_000).expect("it is gone on with");
        let rest = &bytes[1_500_000..];
        let done = api.write(&mut stream, WriteAction::Commit, 1_500_000, rest);
        let digest = done.expect("it is committed").digest;
        assert!(api.read(&digest, 0, 0).expect("it is read") == bytes, "{server:?}");
        let part = api.read(&digest, 1_234_567, 1_000_001).expect("it is read");
        assert!(part == bytes[1_234_567..2_234_568], "{server:?}");
        let past = api.read(&digest, 3_000_001, 0).expect_err("there is no more");
        assert_eq!(past.code(), Code::OutOfRange);
        let labels = [("a", "b"), ("containerd.io/gc.root", "held")];
        let labels = BTreeMap::from(labels.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(api.label(&digest, labels.clone()).expect("it is there").labels, labels);
        assert_eq!(pair.front.ctr_ok(CTR, &["content", "ls", "-q", "labels.a==b"]).trim(), digest);

        // From the start again, and given up.
        let (mut stream, _) = api.open("other", 0).expect("it is opened");
        api.write(&mut stream, WriteAction::Write, 0, b"wrong").expect("it is written");
        let again = api.write(&mut stream, WriteAction::Write, 0, b"right").expect("again");
        assert_eq!(again.offset, 5);
        drop(stream);
        api.abort("other").expect("it is given up");
        assert_eq!(api.status("other").expect_err("it is gone").code(), Code::NotFound);
        wait_for("nothing is being written", 30, || {
            let active = pair.behind.ctr_ok(CTR, &["-n", BEHIND, "content", "active"]);
            (active.lines().count() <= 1).then_some(())
        });
        let (mut stream, _) = api.open("empty", 0).expect("it is opened");
        let empty = api.write(&mut stream, WriteAction::Commit, 0, b"").expect("nothing is a blob");
        assert!(api.read(&empty.digest, 0, 0).expect("it is there").is_empty());
    });
}

#[test]
fn a_store_that_dies_is_named_and_found_again() {
    let registry = Registry::start();
    let name = Layout::of(&layout::SMALL).push(&registry, "some/image:1");
    on_all(|server| {
        let mut pair = Pair::new(server);
        let who = format!("content store \"behind\" at {}", pair.behind.socket().display());
        pair.ok(&["pull", &name]);
        let api = Api::of(&pair.front);
        let (mut stream, _) = api.open("layer", 0).expect("it is opened");
        api.write(&mut stream, WriteAction::Write, 0, b"half").expect("it is written");
        pair.behind.kill();
        let broken =
            api.write(&mut stream, WriteAction::Write, 4, b"more").expect_err("it is dead");
        assert_eq!(broken.code(), Code::Unavailable, "{server:?}: {broken}");
        assert!(broken.message().contains(&who), "{server:?}: {broken}");
        drop(stream);
        let away = api.open("layer", 0).map(drop).expect_err("it is dead");
        assert_eq!(away.code(), Code::Unavailable, "{server:?}: {away}");
        let digest = pair.known()[0].clone();
        let unread = api.read(&digest, 0, 0).expect_err("it is dead");
        assert_eq!(unread.code(), Code::Unavailable, "{server:?}: {unread}");
        assert!(unread.message().contains(&who), "{server:?}: {unread}");
        let other = Layout::of(&layout::GZIP).push(&registry, "other:1");
        pair.fails(&["pull", &other], &who);
        // What needs no content goes on, also after a start.
        pair.front.ctr_ok(CTR, &["snapshot", "prepare", "one"]);
        drop(api);
        pair.front.kill();
        pair.front.launch();
        pair.front.ctr_ok(CTR, &["snapshot", "rm", "one"]);
        assert!(pair.known().contains(&digest));

        pair.behind.launch();
        let api = Api::of(&pair.front);
        let (mut stream, first) = api.open("layer", 0).expect("it is gone on with");
        assert!(first.offset <= 4, "{server:?}: {first:?}");
        let rest = &b"half and more"[usize::try_from(first.offset).expect("positive")..];
        let done = api.write(&mut stream, WriteAction::Commit, first.offset, rest);
        let digest = done.expect("it is committed").digest;
        assert!(api.read(&digest, 0, 0).expect("it is read") == b"half and more");
        pair.ok(&["pull", &other]);
        pair.runs_whole(&other);

        // What is removed while it is away goes when it is back.
        pair.behind.kill();
        pair.ok(&["rmi", &name, &other]);
        pair.front.ctr_ok(CTR, &["content", "rm", &digest]);
        wait_for("nothing is known", 60, || pair.known().is_empty().then_some(()));
        pair.behind.launch();
        assert!(!pair.stored().is_empty());
        pair.ok(&["pull", "--no-unpack", &name]);
        pair.ok(&["rmi", &name]);
        pair.is_empty();
    });
}

#[test]
fn one_that_is_stuck_keeps_nobody_else_waiting() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let address = directory.path().join("stuck.sock");
    // Takes connections and never says a word.
    let _listener = std::os::unix::net::UnixListener::bind(&address).expect("the path is free");
    let mut front = Daemon::start(Server::Davit);
    front.reconfigure(|config| configured(&config, &address));
    let api = Api::of(&front);
    let calls: Vec<_> = (0..150)
        .map(|number| {
            let (mut client, hex) = (api.client(), format!("{number:064x}"));
            let (requests, receiver) = mpsc::channel(1);
            let first = wire::WriteContentRequest {
                action: WriteAction::Stat.into(),
                r#ref: hex.clone(),
                ..Default::default()
            };
            requests.try_send(first).expect("there is room");
            let request = api.ask(ReceiverStream::new(receiver));
            api.runtime.spawn(async move {
                let mut answers = client.write(request).await?.into_inner();
                let answer = answers.message().await;
                drop(requests);
                answer
            })
        })
        .collect();
    for number in 0..20 {
        let key = format!("own-{number}");
        front.ctr_ok(CTR, &["snapshot", "prepare", &key]);
        front.ctr_ok(CTR, &["snapshot", "rm", &key]);
    }
    assert!(calls.iter().all(|call| !call.is_finished()), "a stuck store answered");
    let listed = front.ctr_ok(CTR, &["plugins", "ls", "-d", "type==io.containerd.content.v1"]);
    assert!(listed.contains("behind") && !listed.contains("content.v1.content"), "{listed}");
}
