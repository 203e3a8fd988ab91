//! Docker's credential helpers: `docker-credential-NAME get` (docker's
//! `docker-credential-helpers`).

use std::ffi::OsStr;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use super::{Error, Login};
use crate::process::{self, Finished, Limits};

/// What a helper may take. Some ask a cloud, or wait for a keychain to be
/// unlocked.
const LIMITS: Limits = Limits { time: Duration::from_secs(30), output: 64 << 10 };
/// How much of a helper's complaint is passed on, in bytes.
const MAX_COMPLAINT: usize = 256;

/// What helpers say when they know nobody.
const NOT_FOUND: [&str; 2] = ["credentials not found in native keychain", "credentials not found"];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Whether a helper can have that name: it becomes a part of a program's.
pub fn is_name(name: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= 64 && name.bytes().all(fine)
}

/// Asks the helper `name` for the login that it keeps under `key`.
pub async fn ask(
    name: &str,
    path: Option<&OsStr>,
    key: &str,
    host: &str,
) -> Result<Option<Login>, Error> {
    let program = format!("docker-credential-{name}");
    let failed = |reason: &str| Error::Failed {
        host: host.to_owned(),
        reason: format!("{program}: {reason}"),
    };
    let mut command = Command::new(&program);
    command.arg("get");
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let finished = process::run(command, key.as_bytes(), LIMITS).await;
    let finished = finished.map_err(|error| failed(&error.to_string()))?;
    answer(&finished, &failed)
}

fn answer(finished: &Finished, failed: &dyn Fn(&str) -> Error) -> Result<Option<Login>, Error> {
    let stdout = &finished.stdout;
    if stdout.is_cut {
        return Err(failed(&format!("an answer of over {} bytes", LIMITS.output)));
    }
    let text = String::from_utf8_lossy(&stdout.bytes);
    let text = text.trim();
    if finished.status.success() {
        // The parser's own words could quote the secret.
        let answer: Answer =
            serde_json::from_str(text).map_err(|_| failed("an answer that is none"))?;
        return Ok(Login::of(&answer.username, &answer.secret));
    }
    if NOT_FOUND.iter().any(|words| text.starts_with(words)) {
        return Ok(None);
    }
    // What looks like an answer may hold one.
    let says = if text.starts_with('{') { "" } else { text };
    let line = says.lines().next().unwrap_or_default();
    let line = &line[..line.floor_char_boundary(MAX_COMPLAINT)];
    Err(failed(&format!("{}: {line}", finished.status)))
}
