//! davitd, a registry, and a proxy between the two.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use davit_integration::fault_proxy::{Asked, Fault, FaultProxy};
use davit_integration::layout::{CHECK, Layout, Recipe};
use davit_integration::leftovers::{Kept, kept};
use davit_integration::registry::Registry;
use davit_integration::{Client, Daemon, Server, describe, must};

/// It has the daemon pull.
pub const CTR: Client = Client::Ctr21;

pub struct Seat {
    pub daemon: Daemon,
    pub layout: Layout,
    pub registry: Registry,
    pub proxy: FaultProxy,
    /// The image, by way of the proxy.
    pub reference: String,
    /// The disk before any pull.
    pub empty: Kept,
}

impl Seat {
    pub fn new(recipe: &Recipe, rule: impl FnMut(&Asked) -> Fault + Send + 'static) -> Self {
        Self::with(Daemon::start(Server::Davit), Registry::start(), recipe, rule)
    }

    pub fn with(
        daemon: Daemon,
        registry: Registry,
        recipe: &Recipe,
        rule: impl FnMut(&Asked) -> Fault + Send + 'static,
    ) -> Self {
        let layout = Layout::of(recipe);
        layout.push(&registry, "some/image:1");
        let proxy = FaultProxy::start(registry.address(), rule);
        let reference = format!("{}/some/image:1", proxy.host());
        let empty = kept(&daemon);
        Self { daemon, layout, registry, proxy, reference, empty }
    }

    /// `ctr image pull`, with what comes before the reference.
    pub fn pull(&self, words: &[&str]) -> Command {
        let mut command = self.daemon.ctr(CTR);
        command.args(["image", "pull", "--plain-http"]).args(words);
        command
    }

    /// Pulls; it must work.
    pub fn pulls(&self) {
        must(&mut self.pull(&[&self.reference]));
    }

    /// Begins to pull.
    pub fn starts(&self) -> Child {
        let mut command = self.pull(&[&self.reference]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("ctr can be started")
    }

    /// Pulls; it must fail and say `text`.
    pub fn fails(&self, text: &str) {
        let mut command = self.pull(&[&self.reference]);
        let output = command.output().expect("ctr can be started");
        let told = describe(&command, &output);
        assert!(!output.status.success(), "{told}");
        let stderr = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert!(stderr.contains(text), "{text:?}\n{told}");
    }

    /// The image is whole: it runs and finds all its files as they should be,
    /// and the disk holds it and nothing else.
    pub fn is_whole(&self, reference: &str) {
        let words = [&["run", "--rm", reference, "check"], CHECK].concat();
        assert_eq!(self.daemon.ctr_ok(CTR, &words), "whole\n");
        let layers = self.layout.layers("amd64").len();
        let content: BTreeSet<String> = self.layout.content("amd64").into_iter().collect();
        self.holds("the image", |now| {
            now.blobs == content && now.snapshots.len() == layers && now.ingests.is_empty()
        });
        let snapshots = self.daemon.ctr_ok(CTR, &["snapshot", "ls"]);
        assert_eq!(snapshots.lines().count(), 1 + layers, "{snapshots}");
    }

    /// Ends the leases that pulls have left which were cut off, as time would:
    /// all of them would end by themselves.
    pub fn leases_expire(&self) {
        let table = self.daemon.ctr_ok(CTR, &["leases", "ls"]);
        for line in table.lines().skip(1) {
            assert!(line.contains("containerd.io/gc.expire="), "it never ends: {line}");
            let id = line.split_whitespace().next().expect("a lease has an id");
            self.daemon.ctr_ok(CTR, &["leases", "rm", id]);
        }
    }

    /// Nothing is left when leases have expired and garbage is collected.
    pub fn nothing_left(&self) {
        self.leases_expire();
        self.collects();
        self.holds("nothing", |now| *now == self.empty);
    }

    /// Has garbage collected, and waits until it has been.
    pub fn collects(&self) {
        self.daemon.ctr_ok(CTR, &["leases", "create", "--id", "collect"]);
        self.daemon.ctr_ok(CTR, &["leases", "rm", "--sync", "collect"]);
    }

    /// Removes the image; nothing is left.
    pub fn removes(&self, reference: &str) {
        self.daemon.ctr_ok(CTR, &["image", "rm", "--sync", reference]);
        self.holds("nothing", |now| *now == self.empty);
    }

    /// Directories of snapshots are removed a moment later than their records.
    fn holds(&self, what: &str, condition: impl Fn(&Kept) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let now = kept(&self.daemon);
            if condition(&now) {
                return;
            }
            let others = now.others.symmetric_difference(&self.empty.others).collect::<Vec<_>>();
            assert!(
                Instant::now() < deadline,
                "the disk should hold {what}, and has {:#?}, {:#?}, {:#?}; different: {others:#?}; {}",
                now.blobs,
                now.ingests,
                now.snapshots,
                self.daemon.ctr_ok(CTR, &["content", "active"]),
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
