//! `--http-dump` and `--http-trace` of `ctr` 2.1: what was said to a registry,
//! without what lets anybody in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use davit_integration::layout::{self, Layout};
use davit_integration::registry::{Auth, Registry, Transport, USER};
use davit_integration::{Client, Daemon, Server, describe};

const CTR: Client = Client::Ctr21;

/// What `ctr` prints, on either stream; what went wrong if it failed.
fn attempt(daemon: &Daemon, words: &[&str]) -> Result<String, String> {
    let mut command = daemon.ctr(CTR);
    let output = command.args(words).output().expect("ctr can be started");
    if !output.status.success() {
        return Err(describe(&command, &output));
    }
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn printed(daemon: &Daemon, words: &[&str]) -> String {
    attempt(daemon, words).unwrap_or_else(|failure| panic!("{failure}"))
}

/// A daemon of this kind, and what `ctr` prints on it. containerd 2.1 dies now
/// and then of blobs that are dumped at once ("slice bounds out of range").
fn first_printed(server: Server, words: &[&str]) -> (Daemon, String) {
    let mut failure = String::new();
    for _ in 0..server.attempts() {
        let daemon = Daemon::start(server);
        match attempt(&daemon, words) {
            Ok(text) => return (daemon, text),
            Err(text) => failure = text,
        }
    }
    panic!("{failure}");
}

/// Nothing in `text` is a login or a token.
fn tells_no_secret(text: &str) {
    let (name, password) = USER;
    let login = STANDARD.encode(format!("{name}:{password}"));
    for secret in [login.as_str(), password, "open+sesame", "open%20sesame", "Bearer ey", "eyJ"] {
        assert!(!text.contains(secret), "{secret:?} is in\n{text}");
    }
}

#[test]
fn requests_and_answers_are_shown_as_containerd_shows_them() {
    let registry = Registry::start();
    let name = Layout::of(&layout::SMALL).push(&registry, "some/image:1");
    let lines = ["HEAD /v2/some/image/manifests/1 HTTP/1.1", "GET /v2/some/image/blobs/sha256:"];
    for server in [Server::Containerd21, Server::Davit] {
        let words = ["image", "pull", "--plain-http", "--http-dump", &name];
        let (daemon, text) = first_printed(server, &words);
        for line in lines.iter().chain(&["HTTP/1.1 200 OK", "Host: "]) {
            assert!(text.contains(line), "{server:?}: {line:?}\n{text}");
        }
        assert!(text.contains("schemaVersion"), "{server:?}: no manifest\n{text}");
        let without = printed(&daemon, &["image", "pull", "--plain-http", &name]);
        assert!(!without.contains("HTTP/1.1"), "{server:?}\n{without}");
    }
}

#[test]
fn nobody_learns_a_secret() {
    let layout = Layout::of(&layout::SMALL);
    for auth in [Auth::Basic, Auth::Token] {
        let (daemon, registry) =
            (Daemon::start(Server::Davit), Registry::with(Transport::Plain, auth));
        let name = layout.push(&registry, "private/image:1");
        let user = format!("{}:{}", USER.0, USER.1);
        let words = ["--plain-http", "--http-dump", "--http-trace", "--user", &user];
        let pulled = printed(&daemon, &[&["image", "pull"], &words[..], &[&name]].concat());
        assert!(pulled.contains("401 Unauthorized"), "{pulled}");
        assert!(pulled.contains("authorization: [left out]"), "{pulled}");
        tells_no_secret(&pulled);
        let log = daemon.log();
        assert!(log.contains("Connection successful"), "{log}");
        tells_no_secret(&log);
    }
}
