//! `davit pull` and `davit push`, with docker's logins, certificates, proxies
//! and verifiers, and what is configured of all that in the daemon.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use davit_integration::fault_proxy::{Fault, FaultProxy};
use davit_integration::layout::{self, CHECK, Layout};
use davit_integration::registry::{Auth, Registry, Transport, USER, docker_config};
use davit_integration::scenarios::write_hosts;
use davit_integration::{
    Client, Daemon, Server, describe, install, leftovers, must, terminal, wait_for,
};
use serde_json::{Value, json};

const CTR: Client = Client::Ctr21;

struct Seat {
    daemon: Daemon,
    /// Docker's configuration directory.
    docker: std::path::PathBuf,
}

impl Seat {
    fn new() -> Self {
        Self::on(Daemon::start(Server::Davit))
    }

    fn on(daemon: Daemon) -> Self {
        let docker = daemon.path("docker");
        fs::create_dir(&docker).expect("the directory is writable");
        Self { daemon, docker }
    }

    fn davit(&self, words: &[&str]) -> Command {
        let mut command = self.daemon.davit(words);
        let bin = format!("{}:/usr/bin:/bin", self.docker.display());
        command.env("DOCKER_CONFIG", &self.docker).env("PATH", bin);
        command
    }

    fn ok(&self, words: &[&str]) -> String {
        must(&mut self.davit(words))
    }

    fn fails(&self, words: &[&str], text: &str) {
        let mut command = self.davit(words);
        let output = command.output().expect("davit can be started");
        let told = describe(&command, &output);
        assert_eq!(output.status.code(), Some(125), "{told}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(text), "{text:?}\n{told}");
    }

    fn configure_docker(&self, config: &str) {
        fs::write(self.docker.join("config.json"), config).expect("the directory is writable");
    }

    fn runs_whole(&self, name: &str) {
        let words = [&["run", "--rm", name], CHECK].concat();
        assert_eq!(self.ok(&words), "whole\n");
    }
}

#[test]
fn images_come_from_registries_and_go_there() {
    let (seat, registry) = (Seat::new(), Registry::start());
    let (small, index) = (Layout::of(&layout::SMALL), Layout::of(&layout::INDEX));
    let one = small.push(&registry, "some/image:1");
    let two = index.push(&registry, "index:1");
    seat.ok(&["pull", &one]);
    seat.runs_whole(&one);
    let list: Value =
        serde_json::from_str(&seat.ok(&["--format", "json", "images"])).expect("JSON");
    assert_eq!(list[0]["name"], json!(one));
    seat.ok(&["pull", "--all-platforms", &two]);
    seat.runs_whole(&two);

    let other = registry.reference("other/image:2");
    seat.ok(&["tag", &one, &other]);
    seat.ok(&["push", &other]);
    assert_eq!(registry.digest("other/image:2"), small.digest());
    let third = registry.reference("third:3");
    seat.ok(&["push", &two, &third]);
    assert_eq!(registry.digest("third:3"), index.digest());
    for digest in index.all() {
        assert!(registry.blob(digest.trim_start_matches("sha256:")).exists(), "{digest}");
    }

    let exact = format!("{}@{}", registry.reference("some/image"), small.digest());
    seat.ok(&["rmi", &one, &other, &two]);
    seat.ok(&["pull", "--no-unpack", &exact]);
    seat.runs_whole(&exact);
    seat.ok(&["rmi", &exact]);
    seat.ok(&["pull", "--platform", "linux/arm64", &two]);
    let content = seat.daemon.ctr_ok(CTR, &["content", "ls", "-q"]);
    assert!(index.layers("arm64").iter().all(|digest| content.contains(digest.as_str())));
    assert!(!content.contains(&index.layers("amd64")[0]));
    seat.ok(&["pull", "--snapshotter", "native", &one]);
    let snapshots = ["snapshot", "--snapshotter", "native", "ls"];
    assert_eq!(seat.daemon.ctr_ok(CTR, &snapshots).lines().count(), 5);
    let run = [&["run", "--rm", "--snapshotter", "native", &one], CHECK].concat();
    assert_eq!(seat.ok(&run), "whole\n");
    seat.fails(&["pull", &registry.reference("none:1")], "not found");
    seat.fails(&["pull", "--platform", "linux/riscv64", &two], "platform");
    seat.fails(&["push", "none:1"], "none:1");
    seat.fails(&["pull", "some/UPPER"], "some/UPPER");
}

/// A pull fetches one platform's layers, a push wants those of all.
#[test]
fn pushes_say_which_platforms_are_not_here() {
    let (seat, registry) = (Seat::new(), Registry::start());
    let index = Layout::of(&layout::INDEX);
    let name = index.push(&registry, "index:1");
    seat.ok(&["pull", &name]);
    let other = Registry::start();
    let copy = other.reference("copy:1");
    seat.ok(&["tag", &name, &copy]);
    for text in
        ["lacks linux/arm64", "davit pull --all-platforms", "davit push --platform linux/amd64"]
    {
        seat.fails(&["push", &copy], text);
    }
    seat.fails(&["push", "--platform", "linux/riscv64", &copy], "only for linux/amd64");
    let third = Registry::start();
    // As with ctr, the index goes as it is: this registry wants all of it.
    let words = ["push", "--platform", "linux/amd64", &copy, &third.reference("copy:1")];
    seat.fails(&words, "manifest blob unknown");
    let there = |digest: &String| third.blob(digest.trim_start_matches("sha256:")).exists();
    assert!(index.layers("amd64").iter().all(there));
    // The first one is another on every platform.
    assert!(!there(&index.layers("arm64")[0]));
    seat.ok(&["pull", "--all-platforms", "--no-unpack", &name]);
    seat.ok(&["push", &copy]);
    assert_eq!(other.digest("copy:1"), index.digest());
}

/// No byte of a blob goes to a registry that has it in another repository.
#[test]
fn a_registry_takes_blobs_from_its_other_repositories() {
    let (seat, registry) = (Seat::new(), Registry::start());
    let layout = Layout::of(&layout::SMALL);
    layout.push(&registry, "team/one:1");
    let proxy = FaultProxy::start(registry.address(), |_| Fault::None);
    let [one, two, far] = ["team/one:1", "team/two:1", "another/three:1"]
        .map(|name| format!("{}/{name}", proxy.host()));
    seat.ok(&["pull", "--plain-http", &one]);
    let (_, manifest) = layout.manifest("amd64");
    let config = manifest["config"]["digest"].as_str().expect("a digest").to_owned();
    let mut blobs = [layout.layers("amd64"), vec![config]].concat();
    blobs.sort();
    for (name, short) in [(&two, "team/two:1"), (&far, "another/three:1")] {
        proxy.forget();
        seat.ok(&["tag", &one, name]);
        seat.ok(&["push", "--plain-http", name]);
        let mounted: Vec<_> = blobs.iter().map(|blob| (blob.clone(), "team/one".into())).collect();
        assert_eq!(proxy.mounted(), mounted, "{:#?}", proxy.seen());
        assert!(proxy.uploads().is_empty(), "{:#?}", proxy.uploads());
        assert_eq!(registry.digest(short), layout.digest());
    }
    seat.ok(&["rmi", &one, &two, &far]);
    seat.ok(&["pull", "--plain-http", &two]);
    seat.runs_whole(&two);
    // Another registry has nothing to take them from.
    let other = Registry::start();
    let proxy = FaultProxy::start(other.address(), |_| Fault::None);
    seat.ok(&["push", "--plain-http", &two, &format!("{}/team/two:1", proxy.host())]);
    assert_eq!((proxy.mounted(), proxy.uploads().len()), (Vec::new(), blobs.len()));
    assert_eq!(other.digest("team/two:1"), layout.digest());
}

/// The lines that a terminal showed in the end, by what the text did to it:
/// up, and clear a line, are all that bars need.
fn screen(text: &str) -> Vec<String> {
    let (mut lines, mut row) = (vec![String::new()], 0);
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        while let Some(at) = rest.find("\x1b[") {
            lines[row].push_str(&rest[..at]);
            let end = at + rest[at..].find(|c: char| c.is_ascii_alphabetic()).expect("a command");
            let (count, command) = (&rest[at + 2..end], &rest[end..=end]);
            match command {
                "A" => row -= count.parse::<usize>().expect("a number"),
                "K" => lines[row].clear(),
                other => panic!("{other:?} in {text:?}"),
            }
            rest = &rest[end + 1..];
        }
        lines[row].push_str(rest.trim_end_matches('\n'));
        if rest.ends_with('\n') {
            row += 1;
            if row == lines.len() {
                lines.push(String::new());
            }
        }
    }
    lines
}

/// A bar for each layer, full in the end, and nothing that is no bar.
fn has_full_bars(text: &str, layers: &[String], done: &[&str]) {
    let lines = screen(text);
    for digest in layers {
        let title = format!("layer {}", &digest["sha256:".len()..][..12]);
        let of: Vec<_> = lines.iter().filter(|line| line.starts_with(&title)).collect();
        assert_eq!(of.len(), 1, "{title}: {lines:#?}");
        let full = of[0].contains(&format!("[{}]", "#".repeat(24)));
        assert!(full && done.iter().any(|word| of[0].contains(word)), "{:?}", of[0]);
    }
}

#[test]
fn progress_is_told_to_terminals_and_others() {
    let (seat, registry) = (Seat::new(), Registry::start());
    let layout = Layout::of(&layout::SMALL);
    let name = layout.push(&registry, "some/image:1");
    let layers = layout.layers("amd64");
    let plain = |words: &[&str], what: &str| {
        let output = seat.davit(words).output().expect("davit can be started");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !stderr.contains('\x1b'), "{stderr}");
        for digest in &layers {
            let line = format!("layer {}: {what} (", &digest["sha256:".len()..][..12]);
            assert!(stderr.lines().any(|told| told.starts_with(&line)), "{line:?}\n{stderr}");
        }
    };
    plain(&["pull", &name], "extracted");
    let empty = Registry::start();
    plain(&["push", &name, &empty.reference("plain:1")], "complete");
    plain(&["push", &name, &empty.reference("plain:2")], "already exists");
    seat.ok(&["rmi", &name]);
    let shown = |words: &[&str]| {
        let (text, code) = terminal::run(&seat.davit(words), "");
        assert_eq!(code, Some(0), "{text}");
        text
    };
    has_full_bars(&shown(&["pull", &name]), &layers, &["extracted", "complete"]);
    let empty = Registry::start();
    let done = ["complete", "already exists"];
    has_full_bars(&shown(&["push", &name, &empty.reference("bars:1")]), &layers, &done);

    // Archives have one bar.
    let archive = seat.daemon.path("image.tar").to_string_lossy().into_owned();
    let whole = |text: &str| {
        let lines = screen(text);
        let bar = lines.iter().find(|line| line.starts_with("archive "));
        let bar = bar.unwrap_or_else(|| panic!("{lines:#?}"));
        assert!(bar.contains(&format!("[{}]", "#".repeat(24))) && bar.contains("MiB"), "{bar}");
    };
    whole(&shown(&["export", "-o", &archive, &name]));
    seat.ok(&["rmi", &name]);
    whole(&shown(&["import", &archive]));
    let output = seat.davit(&["import", &archive]).output().expect("davit can be started");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.starts_with("archive: complete (") && stderr.lines().count() == 1, "{stderr}");

    seat.ok(&["rmi", &name]);
    let output = seat.davit(&["--format", "json", "pull", &name]).output().expect("davit");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Value>(&output.stdout).expect("JSON");
}

#[test]
fn logins_are_dockers() {
    let layout = Layout::of(&layout::SMALL);
    for (auth, nobody, wrong) in [
        (Auth::Basic, "no basic auth credentials", "401 Unauthorized"),
        (Auth::Token, "insufficient_scope", "failed to fetch oauth token"),
    ] {
        let (seat, registry) = (Seat::new(), Registry::with(Transport::Plain, auth));
        let name = layout.push(&registry, "private/image:1");
        seat.fails(&["pull", &name], nobody);
        let user = format!("{}:{}", USER.0, USER.1);
        seat.ok(&["pull", "--user", &user, &name]);
        seat.ok(&["rmi", &name]);
        seat.fails(&["pull", "--user", "davit:wrong", &name], wrong);

        let words = ["pull", "--user", USER.0, "--password-stdin", &name];
        let mut child = seat.davit(&words).stdin(Stdio::piped()).spawn().expect("davit");
        let mut input = child.stdin.take().expect("piped");
        writeln!(input, "{}", USER.1).expect("davit reads");
        drop(input);
        assert!(child.wait().expect("it was started").success());
        seat.ok(&["rmi", &name]);

        seat.configure_docker(&docker_config(&registry.host()));
        seat.ok(&["pull", &name]);
        seat.runs_whole(&name);
        let other = registry.reference("private/other:1");
        seat.ok(&["push", &name, &other]);
        assert_eq!(registry.digest("private/other:1"), layout.digest());
    }
}

#[test]
fn logins_are_those_of_dockers_helpers() {
    let (seat, registry) = (Seat::new(), Registry::with(Transport::Plain, Auth::Basic));
    let name = Layout::of(&layout::SMALL).push(&registry, "private/image:1");
    let answer = json!({"ServerURL": registry.host(), "Username": USER.0, "Secret": USER.1});
    let helper = seat.docker.join("docker-credential-test");
    install(
        &helper,
        &format!(
            "#!/bin/sh\nread host\necho \"$1 $host\" >>{}/asked\necho '{answer}'\n",
            seat.docker.display()
        ),
    );
    seat.configure_docker(&json!({"credHelpers": {registry.host(): "test"}}).to_string());
    seat.ok(&["pull", &name]);
    let asked = fs::read_to_string(seat.docker.join("asked")).expect("the helper was run");
    assert_eq!(asked.lines().next(), Some(format!("get {}", registry.host()).as_str()));
    seat.ok(&["rmi", &name]);
    install(&helper, "#!/bin/sh\necho the store is locked\nexit 1\n");
    seat.fails(&["pull", &name], "the store is locked");
}

/// An identity token is what docker keeps of a login by OAuth 2.
#[test]
fn tokens_are_fetched_for_what_is_asked() {
    let (seat, registry) = (Seat::new(), Registry::with(Transport::Plain, Auth::Token));
    let layout = Layout::of(&layout::SMALL);
    let public = layout.push(&registry, "public/image:1");
    let private = layout.push(&registry, "private/image:1");
    let tokens = registry.tokens.as_ref().expect("it has a token server");
    let before = tokens.seen().len();
    seat.ok(&["pull", &public]);
    let seen = tokens.seen().split_off(before);
    assert!(!seen.is_empty() && seen.len() <= 2, "{seen:#?}");
    for wanted in &seen {
        assert_eq!(wanted.account, None);
        assert_eq!(wanted.scopes, ["repository:public/image:pull"]);
    }
    seat.fails(&["pull", &private], "insufficient_scope: authorization failed");
    let identity = json!({"auths": {registry.host(): {
        "auth": "PHRva2VuPjo=", "identitytoken": davit_integration::tokens::REFRESH,
    }}});
    seat.configure_docker(&identity.to_string());
    seat.ok(&["pull", &private]);
    seat.runs_whole(&private);
    assert!(tokens.seen().iter().any(|wanted| wanted.method == "POST"));
    let other = registry.reference("private/other:1");
    seat.ok(&["push", &private, &other]);
    assert_eq!(registry.digest("private/other:1"), layout.digest());
}

#[test]
fn certificates_are_checked() {
    let (seat, plain) = (Seat::new(), Registry::start());
    Layout::of(&layout::SMALL).push(&plain, "some/image:1");
    let registry = Registry::beside(&plain, Transport::Tls, Auth::None);
    let authority = registry.authority.as_ref().expect("it has one");
    let hosts = seat.daemon.path("hosts");
    let hosts_dir = hosts.to_string_lossy().into_owned();
    let words = ["pull", "--hosts-dir", &hosts_dir, "registry.test/some/image:1"];
    let toml = format!("server = {:?}\n", registry.url());
    write_hosts(&hosts, "registry.test", &toml);
    seat.fails(&words, "ertificate");
    write_hosts(&hosts, "registry.test", &format!("{toml}skip_verify = true\n"));
    seat.ok(&words);
    seat.ok(&["rmi", "registry.test/some/image:1"]);
    write_hosts(&hosts, "registry.test", &format!("{toml}ca = {:?}\n", authority.file("ca.pem")));
    seat.ok(&words);
    // Docker's way: a directory of certificates.
    let docker = hosts.join(format!("localhost:{}", registry.address().port()));
    fs::create_dir_all(&docker).expect("the directory is writable");
    fs::copy(authority.file("ca.pem"), docker.join("ca.crt")).expect("the directory is writable");
    let name = format!("localhost:{}/some/image:1", registry.address().port());
    seat.ok(&["pull", "--hosts-dir", &hosts_dir, &name]);
    seat.ok(&["rmi", &name]);
    seat.ok(&["pull", "--skip-verify", &name]);
    seat.runs_whole(&name);
}

#[test]
fn the_daemon_knows_hosts_of_its_own() {
    let registry = Registry::start();
    Layout::of(&layout::SMALL).push(&registry, "some/image:1");
    let hosts = tempfile::tempdir().expect("a directory can be made");
    write_hosts(hosts.path(), "registry.test", &format!("server = {:?}\n", registry.url()));
    let seat = Seat::on(Daemon::with_config(
        Server::Davit,
        &format!(
            "[plugins.\"io.containerd.transfer.v1.local\"]\nconfig_path = {:?}\n",
            hosts.path()
        ),
    ));
    let name = "registry.test/some/image:1";
    seat.ok(&["pull", name]);
    seat.runs_whole(name);
    seat.ok(&["rmi", name]);
    seat.daemon.ctr_ok(CTR, &["image", "pull", name]);
    seat.runs_whole(name);
}

/// A program that says yes or no to an image; with containerd's words.
#[test]
fn verifiers_say_yes_or_no() {
    let registry = Registry::start();
    let layout = Layout::of(&layout::SMALL);
    let good = layout.push(&registry, "good:1");
    let bad = layout.push(&registry, "bad:1");
    let programs = tempfile::tempdir().expect("a directory can be made");
    let script = "#!/bin/sh\nDIR=$(dirname \"$0\")/..\ncase \"$*\" in *bad*) echo not this one; exit 3;; esac\necho fine\n";
    install(&programs.path().join("check"), script);
    let config = format!(
        "[plugins.\"io.containerd.image-verifier.v1.bindir\"]\nbin_dir = {:?}\n",
        programs.path()
    );
    let told = [Server::Containerd21, Server::Davit].map(|server| {
        let daemon = Daemon::with_config(server, &config);
        daemon.ctr_ok(CTR, &["image", "pull", "--plain-http", &good]);
        let mut command = daemon.ctr(CTR);
        command.args(["image", "pull", "--plain-http", &bad]);
        let output = command.output().expect("ctr can be started");
        assert!(!output.status.success(), "{}", describe(&command, &output));
        assert_eq!(daemon.ctr_ok(CTR, &["image", "ls", "-q"]).trim(), good);
        String::from_utf8_lossy(&output.stderr).into_owned()
    });
    assert!(told[0].contains("not this one"), "{told:?}");
    assert_eq!(told[0], told[1]);
}

/// Nothing that a pull or push needed stays open.
#[test]
fn connections_are_closed_in_the_end() {
    let (seat, registry) = (Seat::new(), Registry::start());
    let layout = Layout::of(&layout::SMALL);
    let name = layout.push(&registry, "some/image:1");
    let open = || leftovers::open_files(seat.daemon.pid()).len();
    seat.ok(&["pull", &name]);
    seat.ok(&["rmi", &name]);
    let before = open();
    for _ in 0..5 {
        seat.ok(&["pull", &name]);
        seat.fails(&["pull", &registry.reference("none:1")], "not found");
        seat.ok(&["push", &name, &registry.reference("other:1")]);
        seat.ok(&["rmi", &name]);
    }
    // Snapshots are removed in the background.
    wait_for("all is closed", 20, || (open() <= before + 5).then_some(()));
}
