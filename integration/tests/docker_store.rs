//! dockerd 28 with its images in the daemon below: in containerd 2.1, which
//! it is released with, and in davitd. The same assertions hold on both.

use std::fs;
use std::path::Path;

use davit_integration::daemon::{Daemon, Server};
use davit_integration::docker::{Docker, Store, Version};
use davit_integration::layout::{self, CHECK, Layout};
use davit_integration::registry::{Auth, Registry, Transport, USER};
use davit_integration::{Client, describe, image, leftovers, wait_for};
use serde_json::Value;

const CTR: Client = Client::Ctr21;

fn docker(server: Server) -> Docker {
    Docker::with_store(Version::V28, Daemon::start(server), "runc", Store::Daemon)
}

macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_davitd {
            $(#[test] fn $name() { super::$name(&super::docker(super::Server::Davit)); })+
        }
        mod on_containerd {
            $(#[test] fn $name() { super::$name(&super::docker(super::Server::Containerd21)); })+
        }
    };
}

on_both!(
    images_are_pulled_and_pushed,
    whole_indexes_are_pushed,
    archives_and_commits,
    images_are_built,
);

/// `docker run` without a network.
fn run<'a>(flags: &[&'a str], image: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--rm", "--network=none"], flags, &[image], words].concat()
}

fn inspect(docker: &Docker, reference: &str) -> Value {
    let text = docker.ok(&["image", "inspect", reference]);
    let value: Value = serde_json::from_str(&text).expect("docker prints JSON");
    value[0].clone()
}

/// Removes every image and what builds keep; nothing is left then.
fn nothing_left(docker: &Docker) {
    docker.ok(&["image", "prune", "-af"]);
    let list = docker.ok(&["image", "ls", "-aq"]);
    for id in list.lines() {
        docker.ok(&["rmi", "-f", id]);
    }
    docker.ok(&["builder", "prune", "-af"]);
    docker.ok(&["buildx", "history", "rm", "--all"]);
    let daemon = &docker.daemon;
    let blobs = daemon.path("root/io.containerd.content.v1.content/blobs/sha256");
    wait_for("content and snapshots are collected", 20, || {
        let content = daemon.ctr_ok(CTR, &["content", "ls", "-q"]);
        let snapshots = daemon.ctr_ok(CTR, &["snapshot", "ls"]);
        let clean = content.is_empty() && snapshots.lines().count() <= 1;
        (clean && leftovers::names_in(&blobs).is_empty()).then_some(())
    });
}

fn fails(docker: &Docker, words: &[&str], text: &str) {
    let mut command = docker.command(words);
    let output = command.output().expect("docker can be started");
    let told = describe(&command, &output);
    assert!(!output.status.success() && told.contains(text), "{text:?}\n{told}");
}

fn images_are_pulled_and_pushed(docker: &Docker) {
    let registry = Registry::start();
    let (index, small) = (Layout::of(&layout::INDEX), Layout::of(&layout::SMALL));
    let one = index.push(&registry, "some/image:1");
    let two = small.push(&registry, "small:1");

    let told = docker.ok(&["pull", &one]);
    assert!(told.contains(&format!("Digest: {}", index.digest())), "{told}");
    assert!(docker.ok(&["pull", &one]).contains("Image is up to date"));
    assert!(docker.ok(&["pull", &two]).contains("Downloaded newer image"));
    assert_eq!(docker.ok(&run(&[], &one, CHECK)), "whole\n");
    assert_eq!(docker.ok(&run(&[], &two, CHECK)), "whole\n");
    assert_eq!(inspect(docker, &one)["Id"], index.digest());
    assert_eq!(inspect(docker, &two)["RootFS"]["Layers"].as_array().map(Vec::len), Some(4));
    let list = docker.ok(&["image", "ls", "--digests", "--no-trunc"]);
    assert!(list.contains(index.digest()) && list.contains(small.digest()), "{list}");
    assert_eq!(docker.ok(&["history", "-q", &two]).lines().count(), 4);

    docker.ok(&["tag", &two, &registry.reference("other:2")]);
    docker.ok(&["push", &registry.reference("other:2")]);
    assert_eq!(registry.digest("other:2"), small.digest());
    docker.ok(&["rmi", &registry.reference("other:2")]);
    docker.ok(&["tag", &one, &registry.reference("part:1")]);
    docker.ok(&["push", "--platform", "linux/amd64", &registry.reference("part:1")]);
    assert_eq!(registry.digest("part:1"), index.manifest("amd64").0);

    let arm = format!("{}@{}", registry.reference("some/image"), index.manifest("arm64").0);
    docker.ok(&["pull", "--platform", "linux/arm64", &arm]);
    fails(docker, &["pull", &registry.reference("none:1")], "not found");
    fails(docker, &["pull", "--platform", "linux/riscv64", &one], "no match for platform");
    passwords(docker, &two);
    nothing_left(docker);
}

/// All platforms of an image, and what was said of them, go to a registry
/// when all of them are here.
fn whole_indexes_are_pushed(docker: &Docker) {
    let (registry, layout) = (Registry::start(), Layout::of(&layout::INDEX));
    let archive = docker.daemon.path("index.tar");
    layout.archive(&archive);
    let words = ["image", "import", "--all-platforms", "--no-unpack", &archive.to_string_lossy()];
    docker.daemon.ctr_ok(CTR, &words);
    let name = registry.reference("some/index:1");
    docker.ok(&["tag", &layout::INDEX.reference(), &name]);
    docker.ok(&["push", &name]);
    assert_eq!(registry.digest("some/index:1"), layout.digest());
    for digest in layout.all() {
        let kept = fs::read(registry.blob(digest.trim_start_matches("sha256:")));
        let bytes = fs::read(layout.file(&digest)).expect("a layout has its blobs");
        assert!(kept.is_ok_and(|kept| kept == bytes), "{digest} was not pushed");
    }
    // Somebody who comes for the other platform finds it whole.
    docker.ok(&["rmi", &name, &layout::INDEX.reference()]);
    docker.ok(&["pull", "--platform", "linux/arm64", &name]);
    assert_eq!(docker.ok(&run(&["--platform", "linux/arm64"], &name, CHECK)), "whole\n");
    nothing_left(docker);
}

/// A registry that wants a password, and `docker login`.
fn passwords(docker: &Docker, image: &str) {
    for (auth, refusal) in
        [(Auth::Basic, "no basic auth credentials"), (Auth::Token, "may require 'docker login'")]
    {
        let registry = Registry::with(Transport::Plain, auth);
        let name = registry.reference("private:1");
        docker.ok(&["tag", image, &name]);
        let mut push = docker.command(&["push", &name]);
        assert!(!push.output().expect("docker can be started").status.success());
        docker.ok(&["login", "-u", USER.0, "-p", USER.1, &registry.host()]);
        docker.ok(&["push", &name]);
        docker.ok(&["rmi", &name]);
        docker.ok(&["pull", &name]);
        docker.ok(&["rmi", &name]);
        docker.ok(&["logout", &registry.host()]);
        fails(docker, &["pull", &name], refusal);
    }
}

fn archives_and_commits(docker: &Docker) {
    docker.load_image();
    let id = inspect(docker, image::NAME)["Id"].clone();
    let archive = docker.daemon.path("saved.tar");
    let path = archive.to_string_lossy();
    docker.ok(&["save", "-o", &path, image::NAME]);
    docker.ok(&["rmi", image::NAME]);
    fails(docker, &["image", "inspect", image::NAME], "No such image");
    docker.ok(&["load", "-i", &path]);
    assert_eq!(inspect(docker, image::NAME)["Id"], id);

    let script = "echo kept >/file; rm /bin/yes; mkdir /dir; chmod 700 /dir; ln -s /file /dir/l";
    docker.ok(&["run", "--network=none", "--name", "work", image::NAME, "sh", "-c", script]);
    let changes = docker.ok(&["diff", "work"]);
    for change in ["A /file", "D /bin/yes", "A /dir/l"] {
        assert!(changes.contains(change), "{change:?} is not in\n{changes}");
    }
    docker.ok(&["commit", "-c", "CMD cat /dir/l", "work", "committed:1"]);
    docker.ok(&["rm", "work"]);
    assert_eq!(docker.ok(&run(&[], "committed:1", &[])), "kept\n");
    let gone = run(&[], "committed:1", &["sh", "-c", "test ! -e /bin/yes && stat -c %a /dir"]);
    assert_eq!(docker.ok(&gone), "700\n");

    // What was committed survives a registry and an archive.
    let registry = Registry::start();
    let name = registry.reference("committed:1");
    docker.ok(&["tag", "committed:1", &name]);
    docker.ok(&["push", &name]);
    docker.ok(&["save", "-o", &path, "committed:1"]);
    docker.ok(&["rmi", &name, "committed:1"]);
    docker.ok(&["pull", &name]);
    docker.ok(&["load", "-i", &path]);
    assert_eq!(docker.ok(&run(&[], &name, &[])), "kept\n");
    assert_eq!(inspect(docker, &name)["Id"], inspect(docker, "committed:1")["Id"]);
    nothing_left(docker);
}

const DOCKERFILE: &str = "FROM BASE AS first
RUN echo built >/made && rm /bin/yes && mkdir -p /deep/er && echo x >/deep/er/file
COPY --chmod=640 context /copied
FROM BASE
COPY --from=first /made /copied /deep /result/
RUN cat /result/made /result/copied >/both
LABEL colour=green
USER 65534
CMD [\"cat\", \"/both\"]
";

fn write_context(directory: &Path, base: &str, content: &str) {
    fs::create_dir_all(directory).expect("the directory is writable");
    let file = DOCKERFILE.replace("BASE", base);
    fs::write(directory.join("Dockerfile"), file).expect("the directory is writable");
    fs::write(directory.join("context"), content).expect("the directory is writable");
}

/// `docker build`, which BuildKit inside dockerd does; what it says.
fn build(docker: &Docker, flags: &[&str], context: &Path) -> String {
    let words = [&["build", "--network=none", "--progress=plain"], flags].concat();
    let mut command = docker.command(&words);
    let output = command.arg(context).output().expect("docker can be started");
    let told = describe(&command, &output);
    assert!(output.status.success(), "{told}");
    told
}

fn images_are_built(docker: &Docker) {
    let registry = Registry::start();
    let base = Layout::of(&layout::SMALL).push(&registry, "base:1");
    let context = docker.daemon.path("context");
    write_context(&context, &base, "first\n");
    build(docker, &["-t", "mine:1"], &context);
    assert_eq!(docker.ok(&run(&[], "mine:1", &[])), "built\nfirst\n");
    assert_eq!(inspect(docker, "mine:1")["Config"]["Labels"]["colour"], "green");

    let told = build(docker, &["-t", "mine:2"], &context);
    assert!(told.matches("CACHED").count() >= 4, "{told}");
    write_context(&context, &base, "second\n");
    let told = build(docker, &["-t", "mine:2"], &context);
    assert!(told.contains("CACHED"), "{told}");
    assert_eq!(docker.ok(&run(&[], "mine:2", &[])), "built\nsecond\n");

    // A build that fails says so and leaves its last good state.
    fs::write(context.join("Dockerfile"), format!("FROM {base}\nRUN echo no >/x && false\n"))
        .expect("the directory is writable");
    let mut command = docker.command(&["build", "--network=none", "-t", "mine:3"]);
    let output = command.arg(&context).output().expect("docker can be started");
    assert!(!output.status.success(), "{}", describe(&command, &output));
    fails(docker, &["image", "inspect", "mine:3"], "No such image");

    let name = registry.reference("built:1");
    docker.ok(&["tag", "mine:2", &name]);
    docker.ok(&["push", &name]);
    nothing_left(docker);
    // Somebody else finds it good, layers and all.
    let other = Daemon::start(Server::Containerd16);
    other.ctr_ok(Client::Ctr16, &["image", "pull", "--plain-http", &name]);
    let words = ["run", "--rm", &name, "built", "cat", "/both"];
    assert_eq!(other.ctr_ok(Client::Ctr16, &words), "built\nsecond\n");
}
